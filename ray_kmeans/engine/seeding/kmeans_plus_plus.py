"""Greedy k-means++ over weighted rows, in one process or in a pool.

Arthur, Vassilvitskii, k-means++: the advantages of careful seeding, SODA 2007; greedy, with the
best of some candidates, as in its section 5. All sums run in one order and all draws have an
address, so the picks do not depend on who holds the rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm import draws
from ray_kmeans.algorithm.grid import Summary
from ray_kmeans.algorithm.metric import Metric, without_direction
from ray_kmeans.engine.pool import Pool
from ray_kmeans.engine.progress import Moved, ignore
from ray_kmeans.engine.seeding.potential import SEEDING_METRIC, in_order
from ray_kmeans.engine.worker import ShardWorker
from ray_kmeans.kernels import Kernel


class Field(Protocol):
    """Rows with seeding weights: the distance to the nearest seed, times how often a row counts."""

    @property
    def total(self) -> float:
        """Sum of the weights."""

    def first(self, u: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return a row for each u from [0, 1) before there is a seed, (len(u), d)."""

    def draw(self, u: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return a row for each u from [0, 1), drawn by the weights, (len(u), d)."""

    def with_each(self, candidates: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the total that each candidate would leave as one more seed, (candidates,)."""

    def add(self, seeds: NDArray[np.float32]) -> None:
        """Make these rows seeds."""


class PoolField:
    """The rows of a pool as a field."""

    def __init__(self, pool: Pool, summary: Summary) -> None:
        self._pool = pool
        self._summary = summary
        self._blocks = np.zeros(0)
        """(blocks,) Seeding weight of each block."""

    @property
    def total(self) -> float:
        return float(in_order(self._blocks))

    def first(self, u: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return first rows drawn by their weights; evenly if every weight is 0."""
        self._blocks = np.concatenate(self._pool.ask(ShardWorker.chances))
        if self.total == 0:  # no row has a direction
            return rows_in_any_order(self._pool, (u * self._summary.rows).astype(np.int64))
        return self.draw(u)

    def draw(self, u: NDArray[np.float64]) -> NDArray[np.float32]:
        return rows_in_any_order(self._pool, self.numbers(u))

    def numbers(self, u: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the number of a row for each u, drawn by the weights, (len(u),)."""
        sums = np.cumsum(self._blocks)
        targets = u * sums[-1]
        last = np.flatnonzero(self._blocks)[-1]
        blocks = np.minimum(np.searchsorted(sums, targets, side="right"), last)
        offsets = np.maximum(targets - (sums[blocks] - self._blocks[blocks]), 0.0)
        return np.asarray(np.max(self._pool.ask(ShardWorker.find, blocks, offsets), axis=0))

    def with_each(self, candidates: NDArray[np.float32]) -> NDArray[np.float64]:
        return in_order(np.concatenate(self._pool.ask(ShardWorker.potentials, candidates)))

    def add(self, seeds: NDArray[np.float32]) -> None:
        """Make rows seeds on all workers, and on those that replace one later."""
        self._blocks = np.concatenate(self._pool.remember(ShardWorker.weigh, seeds))


class ArrayField:
    """Rows of this process, each with the number of times that it counts, as a field."""

    def __init__(
        self,
        rows: NDArray[np.float32],
        times: NDArray[np.int64],
        metric: Metric,
        kernel: Kernel,
    ) -> None:
        """Take rows (n, d) that count `times` (n,) each; a row without direction is never drawn."""
        self._rows = rows
        self._times = times.astype(np.float64)
        self._kernel = kernel
        self._nearest = np.where(without_direction(rows, metric), 0.0, np.inf)
        self._weights = self._times

    @property
    def total(self) -> float:
        return float(in_order(self._weights))

    def first(self, u: NDArray[np.float64]) -> NDArray[np.float32]:
        return self.draw(u)

    def draw(self, u: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return the row at which the running sum of the weights passes u times the total."""
        sums = np.cumsum(self._weights)
        last = np.flatnonzero(self._weights)[-1]
        rows = np.minimum(np.searchsorted(sums, u * sums[-1], side="right"), last)
        return np.asarray(self._rows[rows])

    def with_each(self, candidates: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the total that each candidate would leave as one more seed, (candidates,)."""
        left = np.minimum(self._distances(candidates), self._nearest[:, None])
        return in_order(left * self._times[:, None])

    def add(self, seeds: NDArray[np.float32]) -> None:
        """Make rows seeds: every row's weight shrinks to its distance to the nearest one."""
        self.lower(self._distances(seeds).min(axis=1))

    def lower(self, distances: NDArray[np.float64]) -> None:
        """Take the distance of each row to the nearest of some new seeds, (n,)."""
        self._nearest = np.minimum(self._nearest, distances)
        self._weights = self._nearest * self._times

    def _distances(self, centers: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the distance of each row to each center, (n, centers)."""
        result = np.empty((len(self._rows), len(centers)))
        self._kernel.distances(self._rows, centers, SEEDING_METRIC, result)
        return result


def candidates_of(retries: int, k: int) -> int:
    """Return how many candidates are drawn for each center.

    Negative `retries` stand for TensorFlow's heuristic, 2 + ln k.
    """
    return 1 + (retries if retries >= 0 else 2 + int(math.log(k)))


def plus_plus(
    field: Field,
    k: int,
    tries: int,
    seed: int,
    purpose: str,
    given: Sequence[NDArray[np.float32]] = (),
    moved: Moved = ignore,
) -> NDArray[np.float32]:
    """Return up to k seeds, (k, d), the `given` ones first; fewer if no other rows are left.

    `tries` candidates are drawn for each seed, by draws that belong to `seed` and `purpose`.
    `moved` hears how many seeds there are so far.
    """
    seeds = list(given)
    while len(seeds) < k and (not seeds or field.total > 0):
        u = draws.uniforms(seed, purpose, len(seeds), size=tries)
        candidates = field.draw(u) if seeds else field.first(u)
        best = int(np.argmin(field.with_each(candidates))) if tries > 1 else 0
        seeds.append(candidates[best])
        field.add(candidates[best : best + 1])
        moved(len(seeds))
    return np.stack(seeds)


def some_rows(
    pool: Pool, summary: Summary, size: int, seed: int, purpose: str, *address: int
) -> NDArray[np.float32]:
    """Draw `size` different rows, (size, d), in the data's order; by their weights, if they have
    any."""
    if summary.weights is None:
        return pool.rows_at(draws.distinct_rows(summary.rows, size, seed, purpose, *address))
    key = draws.words(seed, purpose, *address, size=1)[0]
    return pool.rows_at(pool.draw(key, size))


def rows_in_any_order(pool: Pool, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the rows with these numbers, in this order, (rows, d); numbers may repeat."""
    ascending, places = np.unique(numbers, return_inverse=True)
    return pool.rows_at(ascending)[places]
