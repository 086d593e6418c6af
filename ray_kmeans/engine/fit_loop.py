"""The loop of a fit: it resumes or seeds, then steps until there is a reason to stop.

It wires and computes nothing itself: a pool, a store and a listener are handed to it.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

from ray_kmeans.algorithm.partial_sums import Partials
from ray_kmeans.algorithm.state import OWN_ENDS, FitState, Stop
from ray_kmeans.engine.checkpoint_saver import Saver
from ray_kmeans.engine.fit_plan import FitPlan, LeasedStore
from ray_kmeans.engine.fit_start import choose_first_centers, read_rows
from ray_kmeans.engine.newest_state import NewestState
from ray_kmeans.engine.pool import Pool
from ray_kmeans.engine.time_budget import TimeBudget
from ray_kmeans.engine.trainers import (
    FullBatch,
    Loadable,
    Stream,
    Trainer,
)
from ray_kmeans.engine.worker import ShardWorker
from ray_kmeans.errors import StoreError
from ray_kmeans.observe import events as ev
from ray_kmeans.observe.monitors import Monitors
from ray_kmeans.process import interrupt

Steps: TypeAlias = Generator[FitState, None, FitState]
"""A fit that yields its state before each step, and returns the last one."""
LEAST_SAVE_S = 1.0
"""Least number of seconds between two saves of a fit in danger."""
MOST_STEPS = 2**20
"""Largest number of steps at once where the user sets none: more than any worker makes."""
_OTHER_COUNTS = (
    "the model was trained with mini_batch_steps_per_iteration={}: its counts mean something else, "
    "so they begin anew at its centers."
)
"""Warning where mini-batch continues a model of another m; takes that m."""


def run_fit(
    plan: FitPlan,
    pool: Pool,
    store: LeasedStore,
    emit: ev.Emit,
    monitors: Monitors | None = None,
    newest: NewestState | None = None,
) -> FitState:
    """Fit, and return the final state, which is also the last checkpoint.

    `newest` is told of each state, so that another thread may save it.
    """
    return _last_of(fit_steps(plan, pool, store, emit, monitors, newest))


def fit_steps(
    plan: FitPlan,
    pool: Pool,
    store: LeasedStore,
    emit: ev.Emit,
    monitors: Monitors | None = None,
    newest: NewestState | None = None,
) -> Steps:
    """Fit as `run_fit` does, and pause before each step, so that several fits may take turns.

    A fit that is closed while it pauses saves its newest state, as one that an exception ends.
    """
    budget = TimeBudget(plan.max_seconds)
    summary = read_rows(pool, emit, plan.columns)
    found, trainer = plan.reopened(store.latest()), plan.trainer(pool, summary)
    plan.check_shift(found)
    if found is not None and _has_ended(found, plan, trainer, plan.data_name(summary)):
        emit(ev.EndedBefore(found.stop, found.iteration))
        return _save_renumbered(plan, found, store, emit)
    begin = time.perf_counter()
    Partials.get_ready(summary)
    own = time.perf_counter() - begin
    emit(ev.KernelsReady(tuple(pool.get_ready(plan.num_clusters, plan.drawn_rows)), own))
    with Saver(store, emit) as saver:
        state = choose_first_centers(plan, pool, summary, saver, emit) if found is None else found
        state = replace(state.begin(plan.data_name(summary), plan.request), rows=plan.rows)
        heard = monitors or Monitors(()), newest or NewestState()
        watch = _Watch(store, saver, emit, budget, *heard)
        return (yield from _train(plan, trainer, state, watch))


def _save_renumbered(plan: FitPlan, found: FitState, store: LeasedStore, emit: ev.Emit) -> FitState:
    """Return a model that has ended with the numbers that the plan wants; save it if it had
    others."""
    state = plan.renumbered(found)
    if state is not found:
        with Saver(store, emit) as saver:
            saver.save(state)
    return state


def _has_ended(found: FitState, plan: FitPlan, trainer: Trainer, data: str) -> bool:
    """Tell whether a model is at the end of this fit already, so that no step is left to make.

    It is where its last fit saw the same data and ended by a rule of its own, and this plan would
    end there, too. With `steps` there is always more to do, unless the model is at a fixed point,
    where no step changes anything.
    """
    more = plan.rule.steps is not None and found.stop is not Stop.CONVERGED
    if found.stop not in OWN_ENDS or more or not found.saw(data):
        return False
    again = replace(found, stop=None)
    return trainer.start(again) is again and trainer.why_stop(again) is not None


def run_stream(
    plan: FitPlan,
    pool: Pool,
    store: LeasedStore,
    emit: ev.Emit,
    batches: Iterator[Loadable],
    monitors: Monitors | None = None,
) -> FitState:
    """Fit on batches that come one after the other, each seen once.

    `pool` holds the first batches, joined until they have k rows: the initial centers are chosen
    among these. `batches` yields all of them, the first ones again.
    """
    budget = TimeBudget(plan.max_seconds)
    found = store.latest()
    plan.check_shift(found)
    with Saver(store, emit) as saver:
        if found is None:
            found = choose_first_centers(
                plan, pool, read_rows(pool, emit, plan.columns), saver, emit
            )
        trainer = Stream(pool, batches, plan.rule, plan.steps_per_iteration, plan.starving)
        watch = _Watch(store, saver, emit, budget, monitors or Monitors(()), NewestState())
        steps = _train(plan, trainer, replace(found.begin(""), rows=plan.rows), watch)
        return _last_of(steps)


def _last_of(steps: Steps) -> FitState:
    """Make all steps of a fit without a pause; return its last state."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            state: FitState = end.value
            return state
        except RuntimeError as error:  # it hides a StopIteration of the user's inside a generator
            if isinstance(error.__cause__, StopIteration):
                raise error.__cause__ from None
            raise


@dataclass(frozen=True)
class _Watch:
    """The monitors, the saver, the listener and the clock, which follow the states of a fit."""

    store: LeasedStore
    """Place of the checkpoints."""
    saver: Saver
    """Saves states there in a thread of its own."""
    emit: ev.Emit
    """Hears of events."""
    budget: TimeBudget
    """Time that the fit may take."""
    monitors: Monitors
    """Monitors of the user."""
    newest: NewestState
    """Holds the newest state for other threads."""

    def save(self, state: FitState) -> None:
        """Begin to save a state."""
        self.saver.save(state)
        self.newest.leave_to(self.saver)


def _train(plan: FitPlan, trainer: Trainer, state: FitState, watch: _Watch) -> Steps:
    """Step until there is a reason to stop, and save the last state."""
    last = plan.rule.last_step(state.began_at)
    mini_batch = not isinstance(trainer, FullBatch)
    watch.emit(ev.FitStarted(plan.num_clusters, state.iteration, last, mini_batch))
    started = trainer.start(state)
    if (
        state.accumulators
        and started.accumulators
        and state.accumulators is not started.accumulators
    ):
        watch.emit(ev.Warned(_OTHER_COUNTS.format(state.accumulators.steps_per_iteration)))
    last_state = yield from _iterate(plan, trainer, started, watch)
    state = plan.renumbered(last_state)
    watch.emit(ev.Peaks(tuple(trainer.pool.ask(ShardWorker.peak_bytes))))
    watch.save(state)
    watch.saver.flush()
    watch.monitors.end(state)
    assert state.stop is not None
    watch.emit(ev.FitEnded(state.stop, state.iteration))
    return state


def _iterate(plan: FitPlan, trainer: Trainer, state: FitState, watch: _Watch) -> Steps:
    """Step until there is a reason to stop; return the last state, which is not saved here.

    It yields the state from which each step is made.

    An exception that comes out of a step loses no steps that were made: the newest state is saved
    before it passes on. What goes wrong while that is saved is not raised: what went wrong first is
    what the user must hear of.
    """
    began, saved_iteration = time.monotonic(), state.iteration
    saved_at = began if not plan.in_danger else -math.inf
    watch.monitors.begin(state)
    stop = None
    try:
        while stop is None and (stop := _why_stop(trainer, state, watch)) is None:
            interrupt.check()
            now, iterations = time.monotonic(), state.iteration - saved_iteration
            if iterations and _is_due(plan, now - saved_at, iterations, now - began):
                watch.save(state)
                saved_at, saved_iteration = now, state.iteration
            before = state
            yield state
            most = _most_steps(plan, state, watch.monitors, state.iteration - saved_iteration)
            state, parts = _step(trainer, state, most)
            if state is before:
                continue  # there was no input
            watch.newest.note(watch.store, state)
            for line in state.history[before.iteration - state.iteration :]:
                watch.emit(ev.IterationDone(line, *parts))
            watch.saver.tell()
            if watch.monitors.after_step(state):
                stop = trainer.why_stop(state) or Stop.MONITOR
    except BaseException:
        with contextlib.suppress(StoreError):
            watch.saver.flush()
        if state.iteration > saved_iteration:
            with contextlib.suppress(StoreError):
                watch.save(state)
                watch.saver.flush()
        with contextlib.suppress(Exception):
            watch.monitors.end(state)
        raise
    return replace(state, stop=stop)


def _why_stop(trainer: Trainer, state: FitState, watch: _Watch) -> Stop | None:
    """Return the reason to stop before the next step, or None; a rule comes before the clock."""
    return trainer.why_stop(state) or watch.budget.why_stop(state)


def _step(trainer: Trainer, state: FitState, most_steps: int) -> tuple[FitState, list[float]]:
    """Make one step or several; return the state and the seconds of a step: all, waiting,
    reducing."""
    pool, before = trainer.pool, state.iteration
    begin, waited = time.perf_counter(), pool.waited
    state = trainer.advance(state, most_steps)
    end, steps = time.perf_counter(), max(state.iteration - before, 1)
    parts = end - begin, pool.waited - waited, end - pool.answered
    return state, [part / steps for part in parts]


def _most_steps(plan: FitPlan, state: FitState, monitors: Monitors, unsaved: int) -> int:
    """Return how many steps may be made before a monitor or a checkpoint needs the state.

    `unsaved` is the number of steps since the last save. Only iterations of one step each are
    counted from there: where they are longer, a save is due after whole calls.
    """
    if len(monitors):
        return 1
    last = plan.rule.last_step(state.began_at)
    left = MOST_STEPS if last is None else last - state.iteration
    if plan.checkpoint_steps is None:
        return left
    is_single = plan.steps_per_iteration == 1
    return min(left, plan.checkpoint_steps - unsaved * is_single)


def _is_due(plan: FitPlan, seconds: float, iterations: int, age: float) -> bool:
    """Tell whether a save is due, by the seconds and iterations since the last one.

    A fit in danger loses at most a tenth of the `age` of its coordinator, in seconds. So each
    coordinator that lives for an iteration gets further than the one before, and one that lives
    long is not slowed down by saves.
    """
    if plan.in_danger and seconds >= max(LEAST_SAVE_S, age / 10):
        return True
    if plan.checkpoint_steps is None:
        return seconds >= plan.checkpoint_secs
    return iterations >= plan.checkpoint_steps
