"""Sweeps over mini-batches: the threads share the rows, and draw the next batch ahead."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from itertools import starmap
from operator import add
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm import minibatch
from ray_kmeans.algorithm.batch_rows import Batches
from ray_kmeans.algorithm.exact_float_sum import exact_total
from ray_kmeans.algorithm.grid import Grid
from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.minibatch import BatchPartials
from ray_kmeans.algorithm.partial_sums import Partials
from ray_kmeans.algorithm.reassignment import Reassignment
from ray_kmeans.algorithm.state import FitState
from ray_kmeans.algorithm.stopping import LossWatch
from ray_kmeans.engine.shard import Rows, Shard
from ray_kmeans.kernels import Kernel
from ray_kmeans.kernels.moving_sums import counts_of
from ray_kmeans.kernels.threads import Threads

PIECE_ROWS = 8192
"""Largest number of rows of a mini-batch that are copied side by side at once."""
LEAST_PIECE_ROWS = 1024
"""Number of rows of a mini-batch that one thread visits alone: to wake another costs as much."""

STEPPING_S = 0.05
"""Seconds of steps of mini-batch in one call: for so long nobody hears of them, nor saves any."""

Piece: TypeAlias = tuple[int, Callable[[], tuple[Rows, NDArray[np.int64]]]]
"""Position of a step, and a function that returns some rows of it, with their weights."""


@dataclass(frozen=True)
class _Sums:
    """The sums of a call, which its threads share: each borrows some and puts them back."""

    centers: NDArray[np.float32]
    """(k, d)"""
    prepared: Any
    """The centers as the kernel has prepared them."""
    free: list[Partials] = field(default_factory=list)
    """Sums that no thread uses now: `pop` and `append` of a list are atomic, and need no lock."""

    def take(self) -> Partials:
        """Return sums to add to, which the caller appends to `free` when it is done."""
        try:
            return self.free.pop()
        except IndexError:
            return Partials.zero(*self.centers.shape)


class BatchSweeps:
    """Sums up the rows of a shard that some mini-batches visit."""

    def __init__(
        self, shard: Shard, grid: Grid, metric: Metric, kernel: Kernel, threads: Threads
    ) -> None:
        """`kernel` labels a piece of a batch; `threads` of them do so at the same time."""
        self._shard = shard
        self._grid = grid
        self._metric = metric
        self._kernel = kernel
        self._threads = threads
        self._ahead: tuple[Batches, int, Future[NDArray[np.int64]]] | None = None
        """Numbers that are being drawn, of the step of these batches that comes next."""

    def sweep(
        self, centers: NDArray[np.float32], batches: Batches, first_step: int, steps: int
    ) -> BatchPartials:
        """Return the sums of the shard's rows in some mini-batches; see
        `ShardWorker.sweep_batches`."""
        from ray_kmeans.kernels.portable import use_one_blas_thread  # numba: 0.2 s

        sums = _Sums(centers, self._kernel.prepare(centers, self._metric))
        losses = [0] * steps
        together = max(PIECE_ROWS * self._threads.count // batches.size, 1)
        for begin in range(0, steps, together):
            some = range(begin, min(begin + together, steps))
            pieces = (piece for step in some for piece in self._pieces(batches, first_step, step))
            run = self._threads.run if self._shard.rows.stays else starmap
            with use_one_blas_thread():  # once for all pieces: to set and to end it takes a while
                found = list(run(partial(self._visit, sums), pieces))
            for step, loss in found:
                losses[step] += loss
        if LEAST_PIECE_ROWS < batches.size < batches.rows:  # few are drawn sooner than handed over
            self._draw_ahead(batches, first_step + steps)
        total = reduce(add, sums.free) if sums.free else sums.take()
        return BatchPartials(total, tuple(losses))

    def make_steps(
        self,
        state: FitState,
        batches: Batches,
        watch: LossWatch,
        reassignment: Reassignment,
        most_steps: int,
    ) -> tuple[FitState, LossWatch]:
        """Make steps over the rows of the shard, which are all; see `ShardWorker.step_batches`."""
        from ray_kmeans.kernels.portable import use_one_blas_thread  # numba: 0.2 s

        end = time.monotonic() + STEPPING_S
        # Ray's arrays are read-only, and for those numba would compile the loops once more.
        state = replace(state, centers=state.centers.copy())
        with use_one_blas_thread():
            for _ in range(most_steps):
                first = state.iteration - state.data_since
                seen = self.sweep(state.centers, batches, first, 1)
                rows = [batches.rows_in(first)]
                state = minibatch.advance(state, seen, rows, self._grid, watch.see)
                is_over = watch.why_stop(state) is not None or time.monotonic() > end
                if is_over or len(reassignment.starved(state, batches.size)):
                    break
        return state, watch

    def _visit(
        self, sums: _Sums, step: int, fetch: Callable[[], tuple[Rows, NDArray[np.int64]]]
    ) -> tuple[int, int]:
        """Add up the rows of a piece; return its step, and the sum of their distances."""
        rows, weights = fetch()
        labels = np.empty(len(rows), np.int32)
        self._kernel.assign(rows, sums.prepared, labels)
        partials = sums.take()
        self._kernel.accumulate(rows, labels, self._grid.scale, partials.sums, weights)
        partials.counts[:] += counts_of(labels, len(sums.centers), weights)
        sums.free.append(partials)
        distances = self._kernel.distances_to(rows, sums.centers, labels, self._metric)
        if len(weights):
            distances *= self._grid.weights_of(weights)
        return step, exact_total(distances)

    def _pieces(self, batches: Batches, first_step: int, step: int) -> Iterator[Piece]:
        """Yield the pieces of a step; `step` counts from the first one of the call."""
        if batches.is_whole:
            for here, rows in enumerate(self._shard.rows):
                yield step, partial(_both, rows, self._shard.weights_in(here))
            return
        numbers = self._shard.within(self._numbers(batches, first_step + step))
        share = -(-len(numbers) // self._threads.count)
        at_once = min(max(share, LEAST_PIECE_ROWS), PIECE_ROWS)
        for start in range(0, len(numbers), at_once):
            yield step, partial(self._gather, numbers[start : start + at_once])

    def _gather(self, numbers: NDArray[np.int64]) -> tuple[Rows, NDArray[np.int64]]:
        """Return the rows with these numbers, and their weights."""
        return self._shard.rows_at(numbers), self._shard.weights_at(numbers)

    def _numbers(self, batches: Batches, step: int) -> NDArray[np.int64]:
        """Return the ascending numbers of the rows of a step, which may be drawn already."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[:2] == (batches, step):
            return ahead[2].result()
        return batches.numbers(step)

    def _draw_ahead(self, batches: Batches, step: int) -> None:
        """Begin to draw the numbers of a step, while the coordinator updates the centers."""
        self._ahead = batches, step, self._threads.begin(batches.numbers, step)


def _both(rows: Rows, weights: NDArray[np.int64]) -> tuple[Rows, NDArray[np.int64]]:
    """Return rows with their weights."""
    return rows, weights
