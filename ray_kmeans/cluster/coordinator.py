"""The loop of a fit: resume or seed, then sweep and update until there is a reason to stop.

It wires and computes nothing itself: a pool, a store and a listener are handed to it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.cluster.pool import Pool
from ray_kmeans.cluster.worker import this_process
from ray_kmeans.clustering import draws
from ray_kmeans.clustering.grid import Summary
from ray_kmeans.clustering.lloyd import FitState, StopRule, update, why_stop
from ray_kmeans.observe import events as ev


class Store(Protocol):
    """Where states are kept."""

    def latest(self) -> FitState | None: ...
    def save(self, state: FitState) -> str: ...


@dataclass(frozen=True)
class FitPlan:
    """What a fit is to do; the same plan on the same data gives the same bits anywhere."""

    num_clusters: int
    initial: NDArray[np.float32] | None
    """(k, d) centers to start from; None: random rows."""
    random_seed: int
    rule: StopRule
    checkpoint_steps: int | None
    checkpoint_secs: float

    def last_iteration(self, state: FitState) -> int | None:
        """Return the iteration at which steps or max_steps end the fit."""
        ends = [self.rule.max_steps]
        if self.rule.steps is not None:
            ends.append(state.began + self.rule.steps)
        return min((end for end in ends if end is not None), default=None)


def run_fit(plan: FitPlan, pool: Pool, store: Store, emit: ev.Emit) -> FitState:
    """Fit and return the final state, which is also the last checkpoint."""
    summary = _load(pool, emit)
    found = store.latest()
    if found is None:
        state = FitState.initial(_seed(plan, pool, summary, emit)).begin(summary.digest)
        _save(store, state, emit)
    else:
        state = found.begin(summary.digest)
    emit(ev.FitStarted(plan.num_clusters, state.iteration, plan.last_iteration(state)))
    if state.stop is None:
        state = _iterate(plan, state, summary, pool, store, emit)
        _save(store, state, emit)
    assert state.stop is not None
    emit(ev.FitEnded(state.stop, state.iteration))
    return state


def _iterate(
    plan: FitPlan, state: FitState, summary: Summary, pool: Pool, store: Store, emit: ev.Emit
) -> FitState:
    """Sweep and update until there is a reason to stop; the last state is not saved here."""
    saved_at, saved_iteration = time.monotonic(), state.iteration
    while (stop := why_stop(state, plan.rule)) is None:
        if _is_due(plan, time.monotonic() - saved_at, state.iteration - saved_iteration):
            _save(store, state, emit)
            saved_at, saved_iteration = time.monotonic(), state.iteration
        begin = time.perf_counter()
        state = update(state, pool.sweep(state.centers), summary)
        emit(ev.IterationDone(state.history[-1], summary.rows, time.perf_counter() - begin))
    return replace(state, stop=stop)


def _is_due(plan: FitPlan, seconds: float, iterations: int) -> bool:
    if plan.checkpoint_steps is None:
        return iterations > 0 and seconds >= plan.checkpoint_secs
    return iterations >= plan.checkpoint_steps


def _load(pool: Pool, emit: ev.Emit) -> Summary:
    begin = time.perf_counter()
    summary = pool.summarize()
    emit(
        ev.DataLoaded(
            rows=summary.rows,
            features=len(summary.grid.exponent),
            seconds=time.perf_counter() - begin,
            coordinator=this_process(),
            workers=tuple(pool.ask("where")),
        )
    )
    coarse = np.flatnonzero(summary.squares.coarse > summary.rows // 100)
    if len(coarse):
        emit(
            ev.Warned(
                f"column {coarse[0]} ({len(coarse)} such) reaches values so large that over 1 % of "
                "its other values vanish beside them, also in the centers. "
                "Remove the outliers (or fill values), or scale the column."
            )
        )
    return summary


def _seed(plan: FitPlan, pool: Pool, summary: Summary, emit: ev.Emit) -> NDArray[np.float32]:
    """Return the given centers, or rows drawn without replacement, in the order of the data."""
    if plan.initial is not None:
        return plan.initial
    numbers = draws.distinct_rows(summary.rows, plan.num_clusters, plan.random_seed, "random")
    centers = pool.rows_at(numbers)
    copies = len(centers) - len(np.unique(centers, axis=0))
    if copies:
        emit(
            ev.Warned(
                f"{copies} of {len(centers)} initial centers are copies of another one, because "
                "the data hold equal rows; their clusters stay empty. Lower num_clusters, or "
                "remove duplicate rows."
            )
        )
    return centers


def _save(store: Store, state: FitState, emit: ev.Emit) -> None:
    emit(ev.CheckpointSaved(store.save(state), state.iteration))
