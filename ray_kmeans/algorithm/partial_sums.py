"""Partial sums: sums over the rows of each cluster, as whole numbers that add up in any order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import add
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm import double_double
from ray_kmeans.algorithm.grid import Summary
from ray_kmeans.algorithm.metric import Metric, new_centers

S = TypeVar("S", bound="Sums")


class Sums(Protocol):
    """Sums over some rows, by cluster: parts can be added, and cut into slices of the clusters."""

    def __add__(self: S, other: S) -> S:
        """Return the sums over the rows of both."""

    def in_slices(self: S, count: int) -> list[S]:
        """Cut into `count` slices of the clusters, each of which can be added up alone."""

    @classmethod
    def joined(cls: type[S], slices: Sequence[S]) -> S:
        """Put the slices of one total together again."""


@dataclass(frozen=True)
class Partials:
    """Sums and counts of the rows of each cluster, for one set of centers.

    All entries are integers, so addition is associative and commutative: no order of workers, tree
    shape or retry can change one bit.
    """

    sums: NDArray[np.int64]
    """(k, d) Sum of the rows of each cluster, in units of the grid."""
    counts: NDArray[np.int64]
    """(k,) Weight of the rows of each cluster, in units of weight; 0 marks an empty one."""

    @classmethod
    def zero(cls, n_clusters: int, n_features: int) -> Partials:
        """Return the sums over no rows."""
        return cls(np.zeros((n_clusters, n_features), np.int64), np.zeros(n_clusters, np.int64))

    def __add__(self, other: Partials) -> Partials:
        """Return the partial sums of both sets of rows."""
        return Partials(self.sums + other.sums, self.counts + other.counts)

    def in_slices(self, count: int) -> list[Partials]:
        """Cut into `count` slices of the clusters, about equal, each of which adds up alone."""
        cuts = np.arange(count + 1) * len(self.counts) // count
        return [
            Partials(self.sums[begin:end], self.counts[begin:end]) for begin, end in pairwise(cuts)
        ]

    @classmethod
    def joined(cls, slices: Sequence[Partials]) -> Partials:
        """Put the slices of one total together again."""
        sums, counts = ([getattr(each, name) for each in slices] for name in ("sums", "counts"))
        return cls(np.concatenate(sums), np.concatenate(counts))

    @staticmethod
    def get_ready(summary: Summary) -> None:
        """Compile what `means` and `inertia` run, so that no iteration has to wait for it."""
        nothing = Partials.zero(1, len(summary.grid.exponent))
        nothing.inertia(summary, nothing.means(summary, nothing.sums.astype(np.float32)))

    def means(self, summary: Summary, previous: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the new centers, (k, d); for cosine the means scaled to norm 1.

        An empty cluster, and one whose mean has no direction, keeps its previous center.
        """
        from ray_kmeans.algorithm import compiled  # numba: 0.2 s, and may be missing

        occupied = self.counts > 0
        means = np.zeros(self.sums.shape)
        compiled.means_of(self.sums, self.counts, summary.grid.scale, means)
        if occupied.all():
            return new_centers(means, previous, summary.metric)
        centers = previous.copy()
        centers[occupied] = new_centers(means[occupied], previous[occupied], summary.metric)
        return centers

    def inertia(self, summary: Summary, centers: NDArray[np.float32]) -> float:
        """Return the sum of distances of all rows to the centers they were assigned to.

        Squared Euclidean: sum |x|^2 + sum_j c_j (n_j c_j - 2 s_j); cosine: n - sum_j c_j s_j. In
        106-bit arithmetic, because the terms may cancel: no pass over the rows, and the one place
        where the loss of a sweep is made. `self` must cover all rows of `summary`. Time O(k d).
        """
        from ray_kmeans.algorithm import compiled  # numba: 0.2 s, and may be missing

        cosine = summary.metric == Metric.COSINE
        rows = _whole(int(self.counts.sum()))
        total = rows if cosine else summary.total_squares
        unit = np.ldexp(1.0, -summary.grid.exponent)
        columns = np.zeros(centers.shape[1]), np.zeros(centers.shape[1])
        if cosine:
            compiled.add_products(centers, self.sums, unit, *columns)
        else:
            compiled.add_squared(centers, self.sums, self.counts, unit, *columns)
        total = double_double.add(total, double_double.total(columns))
        return float(np.ldexp(max(total[0][0], 0.0), -summary.grid.weight_exponent))


@dataclass(frozen=True)
class PartialsOfEach:
    """The partial sums of the same rows for several sets of centers."""

    sets: tuple[Partials, ...]
    """Partial sums of each set, in order."""

    def __add__(self, other: PartialsOfEach) -> PartialsOfEach:
        """Return the partial sums of both sets of rows."""
        return PartialsOfEach(tuple(map(add, self.sets, other.sets)))

    def in_slices(self, count: int) -> list[PartialsOfEach]:
        """Cut each set into `count` slices of the clusters, each of which adds up alone."""
        cut = [each.in_slices(count) for each in self.sets]
        return [PartialsOfEach(slices) for slices in zip(*cut, strict=True)]

    @classmethod
    def joined(cls, slices: Sequence[PartialsOfEach]) -> PartialsOfEach:
        """Put the slices of one total together again."""
        each = zip(*(one.sets for one in slices), strict=True)
        return cls(tuple(Partials.joined(of_set) for of_set in each))


def _whole(number: int) -> double_double.Twofold:
    """Return a whole number that a float64 holds, as a double-double of shape (1,)."""
    return np.array([float(number)]), np.zeros(1)
