"""The sums over rows from which figures of quality follow; two of them add up in any order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.cluster_sums import DISTANCES, LENGTHS, SHARES, ClusterSums
from ray_kmeans.algorithm.contingency import Contingency
from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.partial_sums import Partials

BINS = 20
"""Number of bins of the histogram of silhouettes, which are from 0 to 1."""
BORDERS = (1.0, 5.0, 10.0)
"""Percentages for which the share of rows near a border is told where none are given."""


@dataclass(frozen=True)
class QualitySums:
    """Sums over some rows, for one set of centers; all are whole numbers."""

    partials: Partials
    """Sums and counts of the rows of each cluster."""
    distances: ClusterSums
    """Distance of a row to its center, by the metric."""
    lengths: ClusterSums
    """Euclidean distance of a row to its center."""
    silhouettes: ClusterSums
    """Simplified silhouette of a row; 0 for a single center."""
    histogram: NDArray[np.int64]
    """(BINS,) Weight of the rows whose silhouette is in each bin, in units of weight."""
    near_border: NDArray[np.int64]
    """(b,) Weight of the rows that are within each percentage of a border, in units of weight."""
    pairs: Contingency
    """Pairs of labels with another clustering; none where nothing is compared."""

    @classmethod
    def zero(cls, n_clusters: int, n_features: int, n_borders: int) -> QualitySums:
        """Return the sums over no rows."""
        return cls(
            partials=Partials.zero(n_clusters, n_features),
            distances=ClusterSums.zero(n_clusters, DISTANCES),
            lengths=ClusterSums.zero(n_clusters, LENGTHS),
            silhouettes=ClusterSums.zero(n_clusters, SHARES),
            histogram=np.zeros(BINS, np.int64),
            near_border=np.zeros(n_borders, np.int64),
            pairs=Contingency.zero(),
        )

    def __add__(self, other: QualitySums) -> QualitySums:
        """Return the sums over both sets of rows."""
        return QualitySums(
            partials=self.partials + other.partials,
            distances=self.distances + other.distances,
            lengths=self.lengths + other.lengths,
            silhouettes=self.silhouettes + other.silhouettes,
            histogram=self.histogram + other.histogram,
            near_border=self.near_border + other.near_border,
            pairs=self.pairs + other.pairs,
        )

    def in_slices(self, count: int) -> list[QualitySums]:
        """Cut into `count` slices of the clusters; sums over all clusters are in the first one."""
        pairs = self.pairs.in_slices(count, len(self.partials.counts))
        by_cluster = zip(
            self.partials.in_slices(count),
            self.distances.in_slices(count),
            self.lengths.in_slices(count),
            self.silhouettes.in_slices(count),
            strict=True,
        )
        return [
            QualitySums(*each, self.histogram * (not at), self.near_border * (not at), pairs[at])
            for at, each in enumerate(by_cluster)
        ]

    @classmethod
    def joined(cls, slices: Sequence[QualitySums]) -> QualitySums:
        """Put the slices of one total together again."""
        return cls(
            partials=Partials.joined([each.partials for each in slices]),
            distances=ClusterSums.joined([each.distances for each in slices]),
            lengths=ClusterSums.joined([each.lengths for each in slices]),
            silhouettes=ClusterSums.joined([each.silhouettes for each in slices]),
            histogram=np.sum([each.histogram for each in slices], axis=0),
            near_border=np.sum([each.near_border for each in slices], axis=0),
            pairs=reduce(add, (each.pairs for each in slices)),
        )


def silhouettes_of(
    nearest: NDArray[np.float64], second: NDArray[np.float64], metric: Metric
) -> NDArray[np.float64]:
    """Return the simplified silhouette of rows, (n,), from 0 to 1.

    It is (b - a) / b for the distances a to the nearest center and b to the second-nearest one,
    both (n,) by the metric; of squared distances the roots are taken. 0 where b is 0.
    """
    if metric != Metric.COSINE:
        nearest, second = np.sqrt(nearest), np.sqrt(second)
    # Labels are right over the reals, and distances are rounded: b may come out below a by a bit.
    ahead = np.maximum(second - nearest, 0.0)
    return np.divide(ahead, second, out=np.zeros(len(second)), where=second > 0)
