"""Export a fitted model: as a graph that other programs run, or as a file of centers.

Every graph maps `inputs` to `cluster_idx`, `all_scores` and `scores` with the same float64
arithmetic. The packages that make a graph are imported when a graph of that kind is asked for.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.metric import Metric as Metric
from ray_kmeans.errors import ConfigError, install_hint


def middle(centers: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the lower median of the centers (k, d) in every feature, float32 (d,).

    A graph computes distances between rows and centers less this point: without it, an offset that
    all data share would cancel most digits. Unlike the mean of the centers, it needs no rounding:
    rows and centers on a grid stay on the grid, and a row exactly between two centers stays there.
    """
    rank = (len(centers) - 1) // 2
    lower: NDArray[np.float32] = np.partition(centers, rank, axis=0)[rank]
    return lower


def first_equals(centers: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return for each of the centers (k, d) the lowest index of an equal one, int64 (k,).

    A matrix product may round its last columns otherwise than its first ones. So among equal
    centers the least score may be at any of them, and this finds the lowest one.
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


def package_error(what: str, package: str) -> ConfigError:
    """Return the error for an export `what` whose package is not installed."""
    return ConfigError(
        f"the export as {what} needs the package {package}, which is not installed. "
        f"{install_hint(package)}"
    )
