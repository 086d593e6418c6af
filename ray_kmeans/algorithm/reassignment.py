"""Decides which clusters of mini-batch are starved, and moves their centers to rows.

The rule is that of scikit-learn's MiniBatchKMeans, with draws that have an address.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.state import FitState, digest, largest_move

ROWS_PER_CLUSTER = 10
"""Number of rows for each cluster that mini-batches visit between two looks for starved ones."""


@dataclass(frozen=True)
class Reassignment:
    """The rule of when a cluster of mini-batch is starved; all follows from the state."""

    ratio: float = 0.0
    """A cluster is starved whose count is below this share of the largest count; 0: none is."""

    def starved(self, state: FitState, batch_rows: int) -> NDArray[np.int64]:
        """Return the ascending indices of the clusters whose centers are to move now, (s,).

        `state` is the one after a step over `batch_rows` rows. Where ROWS_PER_CLUSTER k rows are
        several batches, the steps between find no cluster starved. Of more clusters than half the
        rows of a batch, those with the lowest counts move.
        """
        every = -(-ROWS_PER_CLUSTER * len(state.counts) // max(batch_rows, 1))
        if not self.ratio or state.iteration % every:
            return np.empty(0, np.int64)
        counts: NDArray[Any] = state.counts
        starved = np.flatnonzero(counts < self.ratio * counts.max())
        lowest = np.argsort(counts[starved], kind="stable")[: batch_rows // 2]
        return np.sort(starved[lowest])


def moved(state: FitState, starved: NDArray[np.int64], rows: NDArray[np.float32]) -> FitState:
    """Return the state whose starved clusters, (s,), have these rows, (up to s, d), as centers.

    Their counts become the lowest count of the other clusters, so that they are not starved again
    at once, and their sums follow. The newest line of the history tells of the moves.
    """
    assert state.accumulators is not None
    here = starved[: len(rows)]
    count = np.delete(state.counts, starved).min()
    centers, counts = state.centers.copy(), state.counts.copy()
    sums = state.accumulators.sums.copy()
    centers[here], counts[here] = rows, count
    sums[0, here], sums[1, here] = rows * np.float64(count), 0.0
    *before, line = state.history
    line = replace(
        line,
        shift=max(line.shift, largest_move(state.centers, centers)),
        digest=digest(centers),
        relocated=len(rows),
    )
    return replace(
        state,
        centers=centers,
        counts=counts,
        accumulators=replace(state.accumulators, sums=sums),
        history=(*before, line),
    )
