"""k-means as a distributed Ray job: the same centers, bit for bit, for any number of workers."""

from typing import TYPE_CHECKING, Any

from ray_kmeans.version import __version__ as __version__

if TYPE_CHECKING:
    from ray_kmeans import errors as errors
    from ray_kmeans.names import EarlyStopping as EarlyStopping
    from ray_kmeans.names import KMeansClustering as KMeansClustering
    from ray_kmeans.names import Monitor as Monitor
    from ray_kmeans.names import Predictor as Predictor
    from ray_kmeans.names import RunConfig as RunConfig
    from ray_kmeans.names import import_centers as import_centers
    from ray_kmeans.names import load_model as load_model
    from ray_kmeans.names import open_source as open_source


PUBLIC = (
    *("EarlyStopping", "KMeansClustering", "Monitor", "Predictor", "RunConfig"),
    *("errors", "import_centers", "load_model", "open_source"),
)


def __getattr__(name: str) -> Any:
    """Import what a user may ask for only then: a worker needs none of it, and starts sooner."""
    if name not in PUBLIC:
        raise AttributeError(f"module 'ray_kmeans' has no attribute {name!r}")
    from ray_kmeans import names

    return getattr(names, name)


def __dir__() -> list[str]:
    return [*globals(), *PUBLIC]
