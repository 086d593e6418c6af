"""What one sweep learns about some rows, as whole numbers that can be added in any order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.clustering import twofold
from ray_kmeans.clustering.grid import Summary
from ray_kmeans.clustering.metric import COSINE, new_centers


@dataclass(frozen=True)
class Partials:
    """Sums and counts of the rows of each cluster, for one set of centers.

    All entries are integers, so addition is associative and commutative: no order of workers, tree
    shape or retry can change one bit.
    """

    sums: NDArray[np.int64]
    """(k, d) in units of the grid."""
    counts: NDArray[np.int64]
    """(k,) rows of each cluster; 0 marks an empty one."""

    @classmethod
    def zero(cls, n_clusters: int, n_features: int) -> Partials:
        return cls(np.zeros((n_clusters, n_features), np.int64), np.zeros(n_clusters, np.int64))

    def __add__(self, other: Partials) -> Partials:
        return Partials(self.sums + other.sums, self.counts + other.counts)

    def means(self, summary: Summary, previous: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the new centers, (k, d); for cosine the means scaled to norm 1.

        An empty cluster, and one whose mean has no direction, keeps its previous center.
        """
        from ray_kmeans.clustering import loops  # numba takes a while to import

        occupied = self.counts > 0
        means = np.zeros(self.sums.shape)
        loops.means_of(self.sums, self.counts, summary.grid.scale, means)
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
        from ray_kmeans.clustering import loops

        cosine = summary.metric == COSINE
        total = _whole(summary.rows) if cosine else summary.squares.total(summary.grid)
        unit = np.ldexp(1.0, -summary.grid.exponent)
        columns = np.zeros(centers.shape[1]), np.zeros(centers.shape[1])
        if cosine:
            loops.add_products(centers, self.sums, unit, *columns)
        else:
            loops.add_squared(centers, self.sums, self.counts, unit, *columns)
        total = twofold.add(total, twofold.total(columns))
        return max(float(total[0][0]), 0.0)


def _whole(number: int) -> twofold.Twofold:
    return np.array([float(number)]), np.zeros(1)
