"""Seeding weights of a shard: for every row its distance to the nearest seed so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm import draws
from ray_kmeans.algorithm.metric import Metric, without_direction
from ray_kmeans.algorithm.partial_sums import Partials
from ray_kmeans.kernels import ALIKE, Kernel
from ray_kmeans.kernels.moving_sums import counts_of

FEW = 8
"""Largest number of new seeds to which all distances are computed; of more the nearest is found
first."""


SEEDING_METRIC = Metric.SQUARED_EUCLIDEAN
"""Between unit rows it is twice the cosine distance, which makes the same seeds; and unlike that it
is exactly 0 for equal rows and for no others."""


class Potential:
    """Keeps the seeding weight of each row of a shard, in float64.

    The weight of a row is its distance to the nearest seed times how often it counts; before there
    is a seed, it is how often it counts. Sums run along a block in the order of its rows, so that
    they are the same wherever the block is.
    """

    def __init__(
        self,
        blocks: Sequence[NDArray[np.float32]],
        metric: Metric,
        weights_in: Callable[[int], NDArray[np.int64]] = lambda _: ALIKE,
    ) -> None:
        """Begin without a seed: each row weighs as often as it counts; one without direction
        nothing."""
        self._blocks = blocks
        self._weights_in = weights_in
        self._n_seeds = 0
        self.weights = [
            weights_without_seeds(rows, metric) * self._times(here)
            for here, rows in enumerate(blocks)
        ]
        self._nearest = [np.zeros(len(weights), np.int32) for weights in self.weights]

    def chances(self) -> NDArray[np.float64]:
        """Return the sum of the weights of each block, (blocks,)."""
        return np.array([in_order(weights) for weights in self.weights])

    def add(self, seeds: NDArray[np.float32], kernel: Kernel) -> NDArray[np.float64]:
        """Add seeds, (s, d); return the sum of the weights of each block, (blocks,)."""
        prepared = kernel.prepare(seeds, SEEDING_METRIC) if len(seeds) > FEW else None
        for here, rows in enumerate(self._blocks):
            weights, nearest = self.weights[here], self._nearest[here]
            labels = np.empty(len(rows), np.int32)
            if prepared is None:
                distances = self._distances(rows, seeds, kernel)
                labels[:] = distances.argmin(axis=1)
                closest = distances[np.arange(len(rows)), labels]
            else:
                kernel.assign(rows, prepared, labels)
                closest = kernel.distances_to(rows, seeds, labels, SEEDING_METRIC)
            closest *= self._times(here)
            nearer = closest < weights if self._n_seeds else weights > 0
            weights[nearer] = closest[nearer]
            nearest[nearer] = self._n_seeds + labels[nearer]
        self._n_seeds += len(seeds)
        return self.chances()

    def with_each(self, candidates: NDArray[np.float32], kernel: Kernel) -> NDArray[np.float64]:
        """Return the sum of weights of each block that each candidate would leave, (blocks, c)."""
        left = np.empty((len(self.weights), len(candidates)))
        for here, (rows, weights) in enumerate(zip(self._blocks, self.weights, strict=True)):
            distances = self._distances(rows, candidates, kernel)
            distances *= np.reshape(self._times(here), (-1, 1))
            upper = weights if self._n_seeds else np.where(weights > 0, np.inf, 0.0)
            np.minimum(distances, upper[:, None], out=distances)
            left[here] = in_order(distances)
        return left

    def find(self, block: int, offsets: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the first row of a block at which the sum of weights exceeds each offset, (m,)."""
        rows = np.searchsorted(np.cumsum(self.weights[block]), offsets, side="right")
        return np.asarray(np.minimum(rows, np.flatnonzero(self.weights[block])[-1]))

    def joins(self, block: int, first_row: int, key: np.uint64, share: float) -> NDArray[np.bool_]:
        """Draw whether each row of a block joins, with chance weight * share, (rows,)."""
        weights = self.weights[block]
        numbers = np.arange(first_row, first_row + len(weights), dtype=np.uint64)
        joins: NDArray[np.bool_] = draws.fractions(draws.mix(numbers, key)) < weights * share
        return joins

    def sums_near(
        self, first: int, count: int, scale: NDArray[np.float64], kernel: Kernel
    ) -> Partials:
        """Return the sums over the rows nearest to each of `count` seeds, from number `first` on.

        Of two equally near seeds the first one has the row. `scale` are units of the grid per 1.0,
        (d,).
        """
        total = Partials.zero(count, len(scale))
        for here, rows in enumerate(self._blocks):
            labels, weights = self._nearest[here] - np.int32(first), self._weights_in(here)
            some = (labels >= 0) & (labels < count)
            if not some.all():
                rows, labels = rows[some], labels[some]
                weights = weights[some] if len(weights) else weights
            kernel.accumulate(rows, labels, scale, total.sums, weights)
            np.add(total.counts, counts_of(labels, count, weights), out=total.counts)
        return total

    def _times(self, here: int) -> NDArray[np.int64] | int:
        """Return how often each row of a block counts, (rows,), or 1 for all."""
        weights = self._weights_in(here)
        return weights if len(weights) else 1

    def _distances(
        self, rows: NDArray[np.float32], centers: NDArray[np.float32], kernel: Kernel
    ) -> NDArray[np.float64]:
        """Return the distance of each row to each center, (rows, centers)."""
        result = np.empty((len(rows), len(centers)))
        kernel.distances(rows, centers, SEEDING_METRIC, result)
        return result


def weights_without_seeds(rows: NDArray[np.float32], metric: Metric) -> NDArray[np.float64]:
    """Return the weight of each row before there is a seed, (n,): 1, or 0 for one without
    direction."""
    return np.where(without_direction(rows, metric), 0.0, 1.0)


def in_order(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sums over the first axis, added one after the other: np.sum has another order."""
    return np.asarray(np.cumsum(values, axis=0)[-1])
