"""The loop of a fit: resume or seed, then step until there is a reason to stop.

It wires and computes nothing itself: a pool, a store and a listener are handed to it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ray_kmeans import interrupt
from ray_kmeans.cluster.pool import Moved, Pool, nobody
from ray_kmeans.cluster.reached import Reached
from ray_kmeans.cluster.saver import Saver
from ray_kmeans.cluster.seeding import Initial, choose_centers, work_of
from ray_kmeans.cluster.trainers import FullBatch, Loadable, MiniBatch, Stream, Trainer
from ray_kmeans.cluster.worker import this_process
from ray_kmeans.clustering.batches import Batches
from ray_kmeans.clustering.grid import Summary
from ray_kmeans.clustering.metric import COSINE
from ray_kmeans.clustering.partials import Partials
from ray_kmeans.clustering.state import FitState, Stop, digest
from ray_kmeans.clustering.stopping import StopRule
from ray_kmeans.errors import StoreError
from ray_kmeans.observe import events as ev
from ray_kmeans.observe.monitors import Monitors

_OTHER_COUNTS = (
    "the model was trained with mini_batch_steps_per_iteration={}: its counts mean something else, "
    "so they begin anew at its centers."
)


class HeldStore(Protocol):
    """Where states are kept, by one run alone."""

    def latest(self) -> FitState | None: ...
    def save(self, state: FitState) -> str: ...
    def checkpoints(self) -> list[str]: ...


class Store(Protocol):
    """The same before a run has it."""

    def latest(self) -> FitState | None: ...
    def checkpoints(self) -> list[str]: ...
    def held(self, what: str) -> AbstractContextManager[HeldStore]: ...


@dataclass(frozen=True)
class FitPlan:
    """What a fit is to do; the same plan on the same data gives the same bits anywhere."""

    num_clusters: int
    initial: Initial
    metric: str
    random_seed: int
    retries: int
    """Further candidates for each center of k-means++."""
    rule: StopRule
    batch_size: int | None
    """Rows of a mini-batch; None for full batch."""
    steps_per_iteration: int
    """Mini-batch: steps between two updates of the centers."""
    empty_clusters: str
    """Full batch: 'keep' or 'farthest'."""
    checkpoint_steps: int | None
    checkpoint_secs: float

    def trainer(self, pool: Pool, summary: Summary) -> Trainer:
        """Return what makes the steps."""
        if self.batch_size is None:
            return FullBatch(pool, summary, self.rule, self.empty_clusters)
        batches = self._batches(self.batch_size, summary)
        return MiniBatch(pool, summary, self.rule, batches, self.steps_per_iteration)

    def data_name(self, summary: Summary) -> str:
        """Return a name for what a fit sees: the data, and how they are cut into batches."""
        if self.batch_size is None:
            return summary.digest
        batches = self._batches(self.batch_size, summary)
        return f"{summary.digest} in batches of {batches.size}, seed {batches.seed}"

    @property
    def name(self) -> str:
        """A name for all that decides the result: equal plans have equal names."""
        initial = self.initial
        if isinstance(initial, np.ndarray):
            initial = digest(initial)
        elif callable(initial):
            named = initial if hasattr(initial, "__qualname__") else type(initial)
            initial = f"{named.__module__}.{named.__qualname__}"
        return repr(replace(self, initial=initial, checkpoint_steps=None, checkpoint_secs=0.0))

    @property
    def asked(self) -> str:
        """A name for what a fit is to do with the data: the same call has the same."""
        return f"steps={self.rule.steps}, {self.steps_per_iteration} per iteration"

    def _batches(self, size: int, summary: Summary) -> Batches:
        return Batches(summary.rows, min(size, summary.rows), self.random_seed)


def run_fit(
    plan: FitPlan,
    pool: Pool,
    store: HeldStore,
    emit: ev.Emit,
    monitors: Monitors | None = None,
    reached: Reached | None = None,
) -> FitState:
    """Fit and return the final state, which is also the last checkpoint."""
    summary = _load(pool, emit)
    Partials.get_ready(summary)
    emit(ev.KernelsReady(tuple(pool.get_ready(plan.num_clusters))))
    found = store.latest()
    with Saver(store, emit) as saver:
        state = _seeded(plan, pool, summary, saver, emit) if found is None else found
        state = state.begin(plan.data_name(summary), plan.asked)
        watch = _Watch(store, saver, emit, monitors or Monitors(()), reached or Reached())
        return _train(plan, plan.trainer(pool, summary), state, watch)


def run_stream(
    plan: FitPlan,
    pool: Pool,
    store: HeldStore,
    emit: ev.Emit,
    batches: Iterator[Loadable],
    monitors: Monitors | None = None,
) -> FitState:
    """Fit on batches that come one after the other, each seen once.

    `pool` holds the first of them, joined until they have k rows: the seeds come from there.
    """
    found = store.latest()
    with Saver(store, emit) as saver:
        state = _seeded(plan, pool, _load(pool, emit), saver, emit) if found is None else found
        trainer = Stream(pool, batches, plan.rule, plan.steps_per_iteration)
        watch = _Watch(store, saver, emit, monitors or Monitors(()), Reached())
        return _train(plan, trainer, state.begin(""), watch)


@dataclass(frozen=True)
class _Watch:
    """Who is told of the states of a fit."""

    store: HeldStore
    saver: Saver
    emit: ev.Emit
    monitors: Monitors
    reached: Reached

    def save(self, state: FitState) -> None:
        self.reached.forget()
        self.saver.save(state)


def _train(plan: FitPlan, trainer: Trainer, state: FitState, watch: _Watch) -> FitState:
    """Step until there is a reason to stop, and save the last state."""
    last = plan.rule.last_step(state.began)
    watch.emit(ev.FitStarted(plan.num_clusters, state.iteration, last))
    if state.stop is None:
        started = trainer.start(state)
        if state.running and started.running and state.running is not started.running:
            watch.emit(ev.Warned(_OTHER_COUNTS.format(state.running.steps_per_iteration)))
        state = _iterate(plan, trainer, started, watch)
        watch.emit(ev.Peaks(tuple(trainer.pool.ask("peak_bytes"))))
        watch.save(state)
        watch.saver.flush()
        watch.monitors.end(state)
    assert state.stop is not None
    watch.emit(ev.FitEnded(state.stop, state.iteration))
    return state


def _iterate(plan: FitPlan, trainer: Trainer, state: FitState, watch: _Watch) -> FitState:
    """Step until there is a reason to stop; the last state is not saved here."""
    saved_at, saved_iteration = time.monotonic(), state.iteration
    watch.monitors.begin(state)
    stop = None
    try:
        while stop is None and (stop := trainer.why_stop(state)) is None:
            interrupt.check()
            if _is_due(plan, time.monotonic() - saved_at, state.iteration - saved_iteration):
                watch.save(state)
                saved_at, saved_iteration = time.monotonic(), state.iteration
            before = state
            state, parts = _step(plan, trainer, state, watch.monitors)
            if state is before:
                continue  # there was no input
            watch.reached.note(watch.store, state)
            for line in state.history[before.iteration - state.iteration :]:
                watch.emit(ev.IterationDone(line, *parts))
            watch.saver.tell()
            if watch.monitors.after_step(state):
                stop = trainer.why_stop(state) or Stop.MONITOR
    except BaseException:  # what went wrong first is what to hear of
        with contextlib.suppress(StoreError):
            watch.saver.flush()
        if state.iteration > saved_iteration:  # the steps that were made are not lost
            with contextlib.suppress(StoreError):
                watch.save(state)
                watch.saver.flush()
        with contextlib.suppress(Exception):
            watch.monitors.end(state)
        raise
    return replace(state, stop=stop)


def _step(
    plan: FitPlan, trainer: Trainer, state: FitState, monitors: Monitors
) -> tuple[FitState, list[float]]:
    """Make one step or some; return what each took: its seconds, those of waiting and reducing."""
    pool, before = trainer.pool, state.iteration
    begin, waited = time.perf_counter(), pool.waited
    state = trainer.advance(state, _most_steps(plan, state, monitors))
    end, steps = time.perf_counter(), max(state.iteration - before, 1)
    parts = end - begin, pool.waited - waited, end - pool.answered
    return state, [part / steps for part in parts]


def _most_steps(plan: FitPlan, state: FitState, monitors: Monitors) -> int:
    """Return how many steps may be made before somebody wants to see the state."""
    if len(monitors):
        return 1
    last = plan.rule.last_step(state.began)
    left = plan.steps_per_iteration if last is None else last - state.iteration
    return min(left, plan.checkpoint_steps or left)


def _is_due(plan: FitPlan, seconds: float, iterations: int) -> bool:
    if plan.checkpoint_steps is None:
        return iterations > 0 and seconds >= plan.checkpoint_secs
    return iterations >= plan.checkpoint_steps


def _load(pool: Pool, emit: ev.Emit) -> Summary:
    begin = time.perf_counter()
    summary = pool.summarize(_heeding(ev.begin(emit, ev.Phase.READING, pool.num_rows, "rows")))
    emit(
        ev.DataLoaded(
            rows=summary.counting,
            features=len(summary.grid.exponent),
            seconds=time.perf_counter() - begin,
            coordinator=this_process(),
            workers=tuple(pool.ask("where")),
        )
    )
    for message in _oddities(summary):
        emit(ev.Warned(message))
    return summary


def _heeding(moved: Moved) -> Moved:
    """Return the same for what may take long: it ends where this process is asked to end."""

    def heeded(done: int) -> None:
        interrupt.check()
        moved(done)

    return heeded


def _oddities(summary: Summary) -> Iterator[str]:
    """Yield what a user should know of the data."""
    if summary.dropped:
        yield (
            f"{summary.dropped:,} of {summary.rows:,} rows hold NaN, null or infinity: they are "
            "left out, and get no label."
        )
    coarse = np.flatnonzero(summary.squares.coarse > summary.rows // 100)
    if len(coarse):
        yield (
            f"column {coarse[0]} ({len(coarse)} such) reaches values so large that over 1 % of "
            "its other values vanish beside them, also in the centers. "
            "Remove the outliers (or fill values), or scale the column."
        )
    if summary.metric == COSINE and summary.zeros:
        yield (
            f"{summary.zeros:,} of {summary.counting:,} rows are zero: they have no direction. "
            "Their cosine distance to every center is 1, and they count for the first cluster. "
            "Remove them if that is not what you want."
        )


def _seeded(plan: FitPlan, pool: Pool, summary: Summary, saver: Saver, emit: ev.Emit) -> FitState:
    """Choose the centers to start from, and save them: a seeding is not lost either."""
    begin = time.perf_counter()
    work = work_of(plan.initial, plan.num_clusters)
    about = plan.initial, plan.num_clusters, plan.retries, plan.random_seed, pool, summary
    moved = ev.begin(emit, ev.Phase.SEEDING, *work) if work else nobody
    centers = choose_centers(*about, _heeding(moved))
    emit(ev.Seeded(_name_of(plan.initial), len(centers), time.perf_counter() - begin))
    if isinstance(plan.initial, str):
        _warn_of_copies(centers, emit)
    state = FitState.initial(centers, plan.metric)
    saver.save(state)
    saver.flush()  # a seeding is not lost either
    return state


def _warn_of_copies(centers: NDArray[np.float32], emit: ev.Emit) -> None:
    copies = len(centers) - len(np.unique(centers, axis=0))
    if copies:
        emit(
            ev.Warned(
                f"{copies} of {len(centers)} initial centers are copies of another one, because "
                "the data hold equal rows; their clusters stay empty. Lower num_clusters, or "
                "remove duplicate rows."
            )
        )


def _name_of(initial: Initial) -> str:
    if isinstance(initial, str):
        return initial
    return "given centers" if isinstance(initial, np.ndarray) else "a function"
