"""k-means as a distributed Ray job: the same centers, bit for bit, for any number of workers."""

from typing import TYPE_CHECKING, Any

from ray_kmeans._version import __version__ as __version__

if TYPE_CHECKING:
    from ray_kmeans import errors as errors
    from ray_kmeans._public import EarlyStopping as EarlyStopping
    from ray_kmeans._public import KMeansClustering as KMeansClustering
    from ray_kmeans._public import Monitor as Monitor
    from ray_kmeans._public import Predictor as Predictor
    from ray_kmeans._public import RunConfig as RunConfig
    from ray_kmeans._public import import_centers as import_centers
    from ray_kmeans._public import load_model as load_model
    from ray_kmeans._public import open_source as open_source


PUBLIC = (
    *("EarlyStopping", "KMeansClustering", "Monitor", "Predictor", "RunConfig"),
    *("errors", "import_centers", "load_model", "open_source"),
)


def __getattr__(name: str) -> Any:
    """Import what a user may ask for only then: a worker needs none of it, and starts sooner."""
    if name not in PUBLIC:
        raise AttributeError(f"module 'ray_kmeans' has no attribute {name!r}")
    from ray_kmeans import _public

    return getattr(_public, name)


def __dir__() -> list[str]:
    return [*globals(), *PUBLIC]
