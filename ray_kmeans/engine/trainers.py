"""Trainers make the steps of a fit: by full batch, by mini-batch, or by the batches of a stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm import minibatch, nested_sample, reassignment, splitting
from ray_kmeans.algorithm.batch_rows import Batches
from ray_kmeans.algorithm.grid import Summary
from ray_kmeans.algorithm.lloyd import update
from ray_kmeans.algorithm.metric import without_direction
from ray_kmeans.algorithm.reassignment import Reassignment
from ray_kmeans.algorithm.state import FitState, Stop
from ray_kmeans.algorithm.stopping import LossWatch, StopRule, why_settled, why_stop
from ray_kmeans.engine.pool import Pool
from ray_kmeans.engine.sampled_rows import SampleAddress
from ray_kmeans.engine.shard import Block

NONE_STARVES = Reassignment()
"""The rule of TensorFlow's class: no center moves to a row."""


class Loadable(NamedTuple):
    """A batch of a stream, ready to be read by workers."""

    source: Any
    """Source of the rows; on Ray an ObjectRef of it."""
    shards: Sequence[Sequence[Block]]
    """Blocks of each shard, in the order of the data."""


class Trainer(Protocol):
    """One way to make the steps of a fit."""

    pool: Pool
    """Workers that hold the rows."""

    def start(self, state: FitState) -> FitState:
        """Return the state from which this fit goes on."""

    def why_stop(self, state: FitState) -> Stop | None:
        """Return the reason to stop before the next step, or None."""

    def advance(self, state: FitState, most_steps: int) -> FitState:
        """Return the state after up to `most_steps` steps; the same one if there is no input."""


class FullBatch:
    """Makes steps of full batch: each is a sweep over all rows."""

    def __init__(
        self, pool: Pool, summary: Summary, rule: StopRule, empty_clusters: str = "keep"
    ) -> None:
        self.pool = pool
        self._summary = summary
        self._rule = rule
        self._empty_clusters = empty_clusters

    def start(self, state: FitState) -> FitState:
        return state

    def why_stop(self, state: FitState) -> Stop | None:
        return why_stop(state, self._rule)

    def advance(self, state: FitState, most_steps: int = 1) -> FitState:
        """Return the state after one sweep, with empty clusters moved if that is wanted."""
        seen = self.pool.sweep(state.centers)
        centers = seen.means(self._summary, state.centers)
        empty, relocated = (seen.counts == 0).nonzero()[0], 0
        if len(empty) and self._empty_clusters != "keep":
            rows = self._rows_for(state, len(empty))
            relocated = len(rows)
            centers[empty[:relocated]] = rows
        return update(state, seen, self._summary, centers, relocated)

    def _rows_for(self, state: FitState, count: int) -> NDArray[np.float32]:
        """Return up to `count` rows that become the centers of empty clusters, (rows, d)."""
        if self._empty_clusters == "farthest":
            return self.pool.farthest(state.centers, count)
        return self.pool.rows_of_largest(state.centers, count, splitting.key_of(state))


class NestedBatches:
    """Makes steps of nested mini-batches: each is a sweep over a sample that grows to all rows.

    A step is an iteration of Lloyd over the sample, see `nested_sample`. Once the sample is all
    rows, the fit goes on, and ends, as full batch does.
    """

    def __init__(
        self, pool: Pool, summary: Summary, rule: StopRule, batch_size: int, seed: int
    ) -> None:
        """`batch_size` is about the number of rows of the first sample, which `seed` draws."""
        self.pool = pool
        self._summary = summary
        self._rule = rule
        self._batch_size = batch_size
        self._key = nested_sample.key_of(seed)
        self._measured: tuple[int, Summary] = 0, summary
        """Halvings of the newest sample, and the summary of its rows."""

    def start(self, state: FitState) -> FitState:
        """Return the state with a sample: the one it has, or a first one."""
        if state.sample is not None:
            return state
        rows = self._summary.rows
        sample = nested_sample.first_sample(rows, self._batch_size, state.iteration)
        return replace(state, sample=sample)

    def why_stop(self, state: FitState) -> Stop | None:
        if state.stop is not None or state.sample is None:
            return state.stop
        settled = None
        if state.sample.halvings == 0:
            settled = why_settled(nested_sample.lines_of(state), self._rule)
        return settled or (Stop.STEPS if self._rule.is_done(state) else None)

    def advance(self, state: FitState, most_steps: int = 1) -> FitState:
        """Return the state after one sweep over the sample, with the sample of the next step."""
        assert state.sample is not None
        if state.sample.halvings == 0:
            return update(state, self.pool.sweep(state.centers), self._summary)
        address = SampleAddress(state.sample.halvings, self._key)
        seen = self.pool.sweep_sample(state.centers, address)
        moved = update(state, seen, self._summary_of(address))
        return nested_sample.grown(moved, state.centers, self._rule)

    def _summary_of(self, address: SampleAddress) -> Summary:
        """Return the summary of the rows of a sample."""
        if self._measured[0] != address.halvings:
            size = self.pool.measure_sample(address)
            own = replace(self._summary, rows=size.rows, squares=size.squares, weights=None)
            self._measured = address.halvings, own
        return self._measured[1]


class MiniBatch:
    """Makes steps of mini-batch: each visits the rows of one batch.

    Between two updates of the centers, steps are summed up together: sums are exact, so the bits
    are the same. With m = 1, where each step is an update, the worker makes several steps in one
    call if it holds all rows, and updates the centers itself, by the same functions. It ends such a
    call after a step whose state has starved clusters: their centers are moved here.
    """

    def __init__(
        self,
        pool: Pool,
        summary: Summary,
        rule: StopRule,
        batches: Batches,
        m: int,
        starving: Reassignment = NONE_STARVES,
    ) -> None:
        self.pool = pool
        self._summary = summary
        self._rule = rule
        self._batches = batches
        self._m = m
        self._starving = starving

    def start(self, state: FitState) -> FitState:
        """Return the state with room for the sums of an iteration; begin to watch the loss."""
        state = minibatch.prepare(state, self._m)
        self._watch = LossWatch(self._rule, state, self._batches)
        return state

    def why_stop(self, state: FitState) -> Stop | None:
        return self._watch.why_stop(state)

    def advance(self, state: FitState, most_steps: int) -> FitState:
        """Return the state after the steps that workers can do in one call: within an iteration, or
        many iterations of one step."""
        after = self._stepped(state, most_steps)
        step = after.iteration - 1 - after.data_since
        return _reassigned(self.pool, self._starving, after, self._batches, step)

    def _stepped(self, state: FitState, most_steps: int) -> FitState:
        """Return the state after these steps, before centers of starved clusters move."""
        assert state.accumulators is not None
        if self._m == 1 and most_steps > 1 and self.pool.has_one_far_worker:
            return self._advance_there(state, most_steps)
        first = state.iteration - state.data_since
        steps = min(most_steps, self._m - state.accumulators.done, self._at_once(state, first))
        seen = self.pool.sweep_batches(state.centers, self._batches, first, steps)
        rows = [self._batches.rows_in(first + number) for number in range(steps)]
        return minibatch.advance(state, seen, rows, self._summary.grid, self._watch.see)

    def _advance_there(self, state: FitState, most_steps: int) -> FitState:
        """Return the state after steps that the one worker has made; the history stays here."""
        bare = replace(state, history=())
        how = self._batches, self._watch, self._starving, most_steps
        moved, self._watch = self.pool.step_batches(bare, *how)
        return replace(moved, history=(*state.history, *moved.history))

    def _at_once(self, state: FitState, first: int) -> int:
        """Return how many steps may be summed up at once without an overflow of the grid.

        The grid has room for every row once (with weights: for every row of one epoch).
        """
        assert state.accumulators is not None
        if state.iteration - state.accumulators.done < state.data_since:
            return 1  # the iteration began on other data, and so perhaps on another grid
        if self._summary.weights is not None:  # the grid holds every row once
            return self._batches.per_epoch - first % self._batches.per_epoch
        return max(self._batches.rows // self._batches.size, 1)  # the grid holds n rows


class Stream:
    """Makes a step of mini-batch with each batch of an iterator, until that ends."""

    def __init__(
        self,
        pool: Pool,
        batches: Iterator[Loadable],
        rule: StopRule,
        m: int,
        starving: Reassignment = NONE_STARVES,
    ) -> None:
        self.pool = pool
        self._batches = batches
        self._rule = rule
        self._m = m
        self._starving = starving
        self._ended = False

    def start(self, state: FitState) -> FitState:
        """Return the state with room for the sums of an iteration; begin to watch the loss."""
        state = minibatch.prepare(state, self._m)
        self._watch = LossWatch(self._rule, state, None)
        return state

    def why_stop(self, state: FitState) -> Stop | None:
        return Stop.END_OF_INPUT if self._ended else self._watch.why_stop(state)

    def advance(self, state: FitState, most_steps: int = 1) -> FitState:
        """Return the state after a step over the next batch; the same state if no batch is left."""
        loadable = next(self._batches, None)
        if loadable is None:
            self._ended = True
            return state
        self.pool.take(*loadable)
        summary = self.pool.summarize()
        whole = Batches(summary.rows, summary.rows, seed=0)
        seen = self.pool.sweep_batches(state.centers, whole, 0, 1)
        counting = [summary.counting]
        after = minibatch.advance(state, seen, counting, summary.grid, self._watch.see)
        return _reassigned(self.pool, self._starving, after, whole, 0)


def _reassigned(
    pool: Pool, starving: Reassignment, state: FitState, batches: Batches, step: int
) -> FitState:
    """Return the state with the centers of starved clusters moved to rows of the newest step.

    `step` is its number among the batches. Rows without a direction can be no centers.
    """
    starved = starving.starved(state, batches.size)
    if not len(starved):
        return state
    key = splitting.key_of(state, "reassign")
    rows = pool.draw_from_batch(batches, step, key, len(starved))
    return reassignment.moved(state, starved, rows[~without_direction(rows, state.metric)])
