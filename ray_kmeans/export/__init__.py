"""A fitted model as a graph that other programs run: pure functions of centers and metric.

Every graph maps `inputs` to `cluster_idx`, `all_scores` and `scores` with the same float64
arithmetic. The packages that make the graphs are imported when one is asked for.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.metric import Metric as Metric
from ray_kmeans.errors import ConfigError, install_hint


def middle(centers: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the lower median of the centers in every feature, (d,).

    Distances are computed from here: an offset that all data share would otherwise cancel most
    digits. Unlike their mean, it needs no rounding: what lies on a grid stays on it, and so rows
    exactly between two centers stay there.
    """
    rank = (len(centers) - 1) // 2
    lower: NDArray[np.float32] = np.partition(centers, rank, axis=0)[rank]
    return lower


def first_equals(centers: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return for every center the lowest index of a center that equals it, (k,).

    A matrix product may round its last columns otherwise than the first ones, so that the least
    score alone does not find the lowest of equal centers.
    """
    seen: dict[bytes, int] = {}
    rows = (row + np.float32(0) for row in centers)  # -0.0 becomes 0.0, which it equals
    return np.array([seen.setdefault(row.tobytes(), i) for i, row in enumerate(rows)], np.int64)


def check_metric(metric: str) -> None:
    """Raise ConfigError for a metric that no graph computes."""
    if metric not in tuple(Metric):
        raise ConfigError(
            f"metric={metric!r} cannot be exported. Give {' or '.join(map(repr, Metric))}."
        )


def missing(what: str, package: str) -> ConfigError:
    """Return the error for an export whose package is not installed."""
    return ConfigError(
        f"the export as {what} needs the package {package}, which is not installed. "
        f"{install_hint(package)}"
    )
