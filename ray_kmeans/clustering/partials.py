"""What one sweep learns about some rows, as whole numbers that can be added in any order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.clustering import twofold
from ray_kmeans.clustering.grid import Summary
from ray_kmeans.clustering.metric import COSINE, new_centers

CHUNK_VALUES = 8192


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
        occupied = self.counts > 0
        units = self.counts[occupied, None] * summary.grid.scale
        centers = previous.copy()
        means = self.sums[occupied] / units
        centers[occupied] = new_centers(means, previous[occupied], summary.metric)
        return centers

    def inertia(self, summary: Summary, centers: NDArray[np.float32]) -> float:
        """Return the sum of distances of all rows to the centers they were assigned to.

        Squared Euclidean: sum |x|^2 + sum_j c_j (n_j c_j - 2 s_j); cosine: n - sum_j c_j s_j. In
        106-bit arithmetic, because the terms may cancel: no pass over the rows, and the one place
        where the loss of a sweep is made. `self` must cover all rows of `summary`. Time and memory
        O(k d).
        """
        chunk = max(CHUNK_VALUES // centers.shape[1], 1)  # what follows makes many temporaries
        cosine = summary.metric == COSINE
        total = _whole(summary.rows) if cosine else summary.squares.total(summary.grid)
        terms_of = _products if cosine else _center_terms
        unit = np.ldexp(1.0, -summary.grid.exponent)
        for start in range(0, len(centers), chunk):
            part = slice(start, start + chunk)
            terms = terms_of(centers[part], self.sums[part], self.counts[part], unit)
            total = twofold.add(total, twofold.total(terms))
        return max(float(total[0][0]), 0.0)


def _whole(number: int) -> twofold.Twofold:
    return np.array([float(number)]), np.zeros(1)


def _products(
    centers: NDArray[np.float32],
    sums: NDArray[np.int64],
    counts: NDArray[np.int64],
    unit: NDArray[np.float64],
) -> twofold.Twofold:
    """Return - c_j s_j, column by column."""
    c = -centers.astype(np.float64)
    high, low = twofold.from_int64(sums)
    product = twofold.exact_product(high * unit, c)
    return twofold.exact_sum(product[0], product[1] + low * unit * c)


def _center_terms(
    centers: NDArray[np.float32],
    sums: NDArray[np.int64],
    counts: NDArray[np.int64],
    unit: NDArray[np.float64],
) -> twofold.Twofold:
    """Return c_j (n_j c_j - 2 s_j), column by column."""
    c = centers.astype(np.float64)
    high, low = twofold.from_int64(sums)
    n_c = twofold.exact_product(np.broadcast_to(counts[:, None].astype(np.float64), c.shape), c)
    inner = twofold.add(n_c, (-2.0 * high * unit, -2.0 * low * unit))
    product = twofold.exact_product(inner[0], c)
    return twofold.exact_sum(product[0], product[1] + inner[1] * c)
