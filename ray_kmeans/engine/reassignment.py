"""Move the centers of clusters that mini-batch hardly fills to rows of the data.

Mini-batch alone leaves a center where it is if no row comes near it, so that two centers may share
one group of rows for ever. The rule is that of scikit-learn's MiniBatchKMeans: after 10 k rows, or
while a cluster has no row, the centers of clusters with less than a part of the rows of the largest
one begin anew at rows that are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm import draws
from ray_kmeans.algorithm.grid import Summary
from ray_kmeans.algorithm.state import FitState, Stop, digest, largest_move
from ray_kmeans.engine.fit_plan import FitPlan
from ray_kmeans.engine.pool import Pool
from ray_kmeans.engine.trainers import MiniBatch, Trainer

ROWS_PER_CLUSTER = 10
"""Number of rows for each cluster between two looks for clusters that are too small."""
MOST_OF_A_BATCH = 0.5
"""Largest number of centers that move at once, as a part of the rows of a batch."""


@dataclass(frozen=True)
class ReassigningPlan(FitPlan):
    """The plan of a fit of mini-batch that moves the centers of small clusters."""

    reassignment_ratio: float = 0.0
    """Part of the rows of the largest cluster below which a cluster is small; 0: none is."""

    def trainer(self, pool: Pool, summary: Summary) -> Trainer:
        """Return the trainer of mini-batch, with moves of the centers of small clusters."""
        inner = super().trainer(pool, summary)
        if not self.reassignment_ratio or not isinstance(inner, MiniBatch):
            return inner
        assert self.batch_size is not None
        rows = min(self.batch_size, summary.rows)
        return Reassigning(inner, rows, self.reassignment_ratio, self.random_seed)


class Reassigning:
    """Makes the steps of another trainer, of `rows` rows each, and moves centers after them."""

    def __init__(self, inner: MiniBatch, rows: int, ratio: float, seed: int) -> None:
        self.pool = inner.pool
        self._inner = inner
        self._rows = rows
        self._ratio = ratio
        self._seed = seed

    def start(self, state: FitState) -> FitState:
        return self._inner.start(state)

    def why_stop(self, state: FitState) -> Stop | None:
        return self._inner.why_stop(state)

    def advance(self, state: FitState, most_steps: int) -> FitState:
        """Return the state after one step, with the centers of small clusters moved if it is
        time."""
        after = self._inner.advance(state, 1)
        received = after.counts - 1  # the initial center counts as one row
        wait = ROWS_PER_CLUSTER * len(received)
        is_time = state.iteration * self._rows // wait < after.iteration * self._rows // wait
        if not is_time and received.all():
            return after
        small = small_clusters(received, self._ratio, int(MOST_OF_A_BATCH * self._rows))
        return self._moved(state, after, small) if len(small) else after

    def _moved(self, before: FitState, after: FitState, small: NDArray[np.intp]) -> FitState:
        """Return the state with the centers of some clusters at rows that are drawn by weight.

        Each counts as many rows as the smallest of the other clusters, so that it does not move
        again at once.
        """
        assert after.accumulators is not None
        key = draws.words(self._seed, "reassign", after.iteration, size=1)[0]
        rows = self.pool.rows_at(self.pool.draw(key, len(small)))
        small = small[: len(rows)]
        centers, counts = after.centers.copy(), after.counts.copy()
        sums = after.accumulators.sums.copy()
        centers[small] = rows
        counts[small] = np.delete(counts, small).min()
        sums[:, small] = 0.0
        sums[0, small] = rows * counts[small, None].astype(np.float64)
        shift = largest_move(before.centers, centers)
        line = replace(after.history[-1], shift=shift, digest=digest(centers))
        return replace(
            after,
            centers=centers,
            counts=counts,
            accumulators=replace(after.accumulators, sums=sums),
            history=(*after.history[:-1], line),
        )


def small_clusters(received: NDArray[Any], ratio: float, most: int) -> NDArray[np.intp]:
    """Return the clusters (c,) with less than a part of the rows of the largest, ascending.

    `received` (k,) is the weight of the rows of each. At most `most` are returned, the smallest
    first of all, and never the largest cluster.

    >>> small_clusters(np.array([0, 50, 9, 1000]), 0.01, 2).tolist()
    [0, 2]
    """
    order = np.argsort(received, kind="stable")[:-1]
    small = order[received[order] < ratio * received.max()]
    return np.sort(small[:most])
