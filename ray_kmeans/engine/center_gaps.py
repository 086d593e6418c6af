"""How far centers are from each other: the nearest other one, and the ratio of Davies and Bouldin.

Which pairs of centers are compared exactly is decided by a matrix product with a bound of its
error. So every result is a pure function of the centers, whatever BLAS, tile or machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.quality import CenterGaps
from ray_kmeans.engine.center_neighbours import nearest_others
from ray_kmeans.engine.shard import Block
from ray_kmeans.kernels import Kernel

PAIRS_AT_ONCE = 2**19
"""Number of pairs of centers that are looked at together."""
VALUES_AT_ONCE = 2**21
"""Number of values of centers that are copied side by side."""


@dataclass(frozen=True)
class Separation:
    """All centers and the spread of their rows, from which their gaps follow."""

    centers: NDArray[np.float32]
    """(k, d) The centers, two or more."""
    spreads: NDArray[np.float64]
    """(k,) Mean Euclidean distance of the rows of a cluster to its center; NaN for an empty one."""
    metric: Metric
    """Distance metric: 'squared_euclidean' or 'cosine'."""

    @property
    def nbytes(self) -> int:
        """Number of bytes of the arrays."""
        return self.centers.nbytes + self.spreads.nbytes

    def gaps(self, numbers: NDArray[np.int64], kernel: Kernel) -> CenterGaps:
        """Return the gaps of the centers with these numbers, (m,)."""
        nearest, distances = nearest_others(numbers, self.centers, self.metric, kernel)
        ratios = self._ratios(numbers, kernel)
        return CenterGaps(numbers, nearest.astype(np.int64), distances, ratios)

    def _ratios(self, numbers: NDArray[np.int64], kernel: Kernel) -> NDArray[np.float64]:
        """Return the largest (S_i + S_j) / |c_i - c_j| over j of each center i, (m,).

        S are the spreads; only clusters with rows have a ratio, the others have NaN, and a single
        one with rows has 0.
        """
        ratios = np.where(np.isnan(self.spreads[numbers]), np.nan, 0.0)
        for places, others in self._candidates(numbers):
            here = numbers[places]
            own = np.ascontiguousarray(self.centers[here])
            squares = kernel.distances_to(
                own, self.centers, others.astype(np.int32), Metric.SQUARED_EUCLIDEAN
            )
            found = (self.spreads[here] + self.spreads[others]) / np.sqrt(squares)
            np.maximum.at(ratios, places, found)
        return ratios

    def _candidates(
        self, numbers: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield (places in `numbers`, other centers) of pairs of which one has the largest ratio.

        No pair of which a sum of spreads is 0: its ratio is 0.
        """
        occupied = np.flatnonzero(~np.isnan(self.spreads))
        if len(occupied) < 2:
            return
        points = self.centers[occupied].astype(np.float64)
        points -= points.mean(axis=0)
        norms = np.sqrt((points * points).sum(axis=1))
        inside = np.flatnonzero(~np.isnan(self.spreads[numbers]))
        step = max(PAIRS_AT_ONCE // len(occupied), 1)
        chunk = max(VALUES_AT_ONCE // points.shape[1], 1)
        for start in range(0, len(inside), step):
            places = inside[start : start + step]
            at = np.searchsorted(occupied, numbers[places])
            found, others = self._likely(occupied, points, norms, at)
            for begin in range(0, len(found), chunk):
                part = slice(begin, begin + chunk)
                yield places[found[part]], occupied[others[part]]

    def _likely(
        self,
        occupied: NDArray[np.int64],
        points: NDArray[np.float64],
        norms: NDArray[np.float64],
        at: NDArray[np.int64],
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the pairs (place in `at`, place in `occupied`) whose ratio may be the largest.

        A squared distance by a product in float64 is off by at most (2 d + 10) * 2**-53 of
        (|a| + |b|)**2, however it is added up; the bound here is more than the double of that.
        """
        spreads = self.spreads[occupied]
        together = spreads[at, None] + spreads
        sizes = norms[at, None] + norms
        squares = (norms * norms)[at, None] + norms * norms - 2 * (points[at] @ points.T)
        room = (points.shape[1] + 16) * 2.0**-50
        error = room * sizes * sizes
        with np.errstate(divide="ignore", invalid="ignore"):
            most = together / np.sqrt(np.maximum(squares - error, 0.0)) * (1 + room)
            least = together / np.sqrt(np.maximum(squares, 0.0) + error) * (1 - room)
        # The center itself; and pairs of rows that are all on their centers, whose ratio is 0.
        apart = (together > 0) & (np.arange(len(occupied)) != at[:, None])
        least = np.where(apart & (error > 0), least, 0.0)
        places, others = np.nonzero(apart & ~(most < least.max(axis=1, keepdims=True)))
        return places.astype(np.int64), others.astype(np.int64)


def share_of(blocks: Sequence[Block], all_blocks: int, n_centers: int) -> NDArray[np.int64]:
    """Return the numbers of the centers that the holder of some blocks compares, ascending.

    Center i belongs to block i modulo the number of all blocks; so each is compared by one worker,
    however the blocks are dealt out.
    """
    mine = np.zeros(all_blocks, np.bool_)
    mine[[block.index for block in blocks]] = True
    return np.flatnonzero(mine[np.arange(n_centers) % all_blocks])
