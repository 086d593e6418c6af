"""Facts about the centers of a model: sizes of clusters, a plane to draw in, gaps between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans import kernels
from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.state import FitState


@dataclass(frozen=True)
class Sizes:
    """The sizes of the clusters."""

    counts: NDArray[Any]
    """(k,) rows of each cluster as whole numbers, or their weights as sums."""
    of: str
    """The rows that are counted, in words."""


def sizes_of(state: FitState, sampled: NDArray[np.int64] | None) -> Sizes | None:
    """Return the sizes by the last sweep, else by the labels of a sample, `sampled` (n,).

    None if neither is there: the counts of mini-batch are no sizes, for they count a row as
    often as it was drawn, and by centers that have moved since.
    """
    accumulators = state.accumulators
    if accumulators is None and state.counts.any():
        return Sizes(state.counts, "rows of the last step, which visited all")
    if sampled is not None:
        counts = np.bincount(sampled, minlength=len(state.centers))
        return Sizes(counts, f"{len(sampled):,} sampled rows")
    return None


@dataclass(frozen=True)
class Plane:
    """The plane of the two directions in which the centers differ most."""

    mean: NDArray[np.float64]
    """(d,) mean of the centers."""
    axes: NDArray[np.float64]
    """(2, d) orthogonal unit vectors, the largest value of each positive; zeros where the centers
    differ in fewer directions."""
    shares: tuple[float, float]
    """Share of the centers' variance along each axis, from 0 to 1; each center counts once."""

    def project(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return rows (n, d) as points of the plane, (n, 2)."""
        return np.asarray((rows.astype(np.float64) - self.mean) @ self.axes.T)


def plane_of(centers: NDArray[np.float32]) -> Plane:
    """Return the plane of the first two principal components of the centers (k, d)."""
    exact = centers.astype(np.float64)
    mean = exact.mean(axis=0)
    _, values, directions = np.linalg.svd(exact - mean, full_matrices=False)
    axes, variances = np.zeros((2, centers.shape[1])), np.zeros(2)
    found = min(2, len(values))
    axes[:found] = directions[:found]
    variances[:found] = values[:found] ** 2
    # The sign of a direction means nothing and depends on the library; this fixes it.
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
    axes *= np.where(largest < 0, -1, 1)
    total = float((values**2).sum())
    first, second = (variances / total if total else variances).tolist()
    return Plane(mean, axes, (first, second))


@dataclass(frozen=True)
class Gaps:
    """The distance of each center to its nearest other one."""

    nearest: NDArray[np.int64]
    """(k,) index of the nearest other center, by exact distances; ties to the lowest index."""
    distances: NDArray[np.float64]
    """(k,) distance to it, by the metric of the model."""

    def smallest(self, number: int) -> list[tuple[int, int, float]]:
        """Return (center, nearest other center, distance) of the `number` smallest gaps."""
        order = np.argsort(self.distances, kind="stable")[:number].tolist()
        return [(one, int(self.nearest[one]), float(self.distances[one])) for one in order]


def gaps_of(centers: NDArray[np.float32], metric: Metric) -> Gaps | None:
    """Return the gaps between centers (k, d); None for a single center."""
    if len(centers) == 1:
        return None
    kernel = kernels.load("portable")  # it compiles fastest, and a page is made once
    themselves = np.arange(len(centers), dtype=np.int32)
    nearest = np.empty(len(centers), np.int32)
    kernel.assign_second(centers, kernel.prepare(centers, metric), themselves, nearest)
    distances = kernel.distances_to(centers, centers, nearest, metric)
    return Gaps(nearest.astype(np.int64), distances)
