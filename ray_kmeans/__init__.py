"""k-means as a distributed Ray job: the same centers, bit for bit, for any number of workers."""

from typing import TYPE_CHECKING, Any

from ray_kmeans._version import __version__ as __version__

if TYPE_CHECKING:
    from ray_kmeans import errors as errors
    from ray_kmeans._public import Agreement as Agreement
    from ray_kmeans._public import Block as Block
    from ray_kmeans._public import Candidate as Candidate
    from ray_kmeans._public import ClusterDrift as ClusterDrift
    from ray_kmeans._public import Drift as Drift
    from ray_kmeans._public import EarlyStopping as EarlyStopping
    from ray_kmeans._public import Evaluation as Evaluation
    from ray_kmeans._public import FitState as FitState
    from ray_kmeans._public import Iteration as Iteration
    from ray_kmeans._public import KChoice as KChoice
    from ray_kmeans._public import KMeansClustering as KMeansClustering
    from ray_kmeans._public import LabelCounts as LabelCounts
    from ray_kmeans._public import Layout as Layout
    from ray_kmeans._public import ModelFnOps as ModelFnOps
    from ray_kmeans._public import Monitor as Monitor
    from ray_kmeans._public import Predictor as Predictor
    from ray_kmeans._public import Quality as Quality
    from ray_kmeans._public import Restart as Restart
    from ray_kmeans._public import RunConfig as RunConfig
    from ray_kmeans._public import Session as Session
    from ray_kmeans._public import Source as Source
    from ray_kmeans._public import Stop as Stop
    from ray_kmeans._public import choose_k as choose_k
    from ray_kmeans._public import cut as cut
    from ray_kmeans._public import export_centers as export_centers
    from ray_kmeans._public import import_centers as import_centers
    from ray_kmeans._public import load_model as load_model
    from ray_kmeans._public import make_dataset as make_dataset
    from ray_kmeans._public import open_session as open_session
    from ray_kmeans._public import open_source as open_source
    from ray_kmeans._public import report as report


PUBLIC = (
    *("Agreement", "Block", "Candidate", "ClusterDrift", "Drift", "EarlyStopping", "Evaluation"),
    *("FitState", "Iteration", "KChoice", "KMeansClustering", "LabelCounts", "Layout"),
    *("ModelFnOps", "Monitor", "Predictor", "Quality", "Restart", "RunConfig", "Session"),
    *("Source", "Stop", "choose_k", "cut", "errors", "export_centers"),
    *("import_centers", "load_model", "make_dataset", "open_session", "open_source", "report"),
)
"""The public names. `_public` imports them, when the first of them is asked for."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for: a worker needs none of them, and starts sooner."""
    if name not in PUBLIC:
        raise AttributeError(f"module 'ray_kmeans' has no attribute {name!r}")
    from ray_kmeans import _public  # pyarrow and more: 0.5 s

    return getattr(_public, name)


def __dir__() -> list[str]:
    """List the public names as well, which are imported only when they are asked for."""
    return [*globals(), *PUBLIC]
