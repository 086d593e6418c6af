"""Restarts: several fits of one plan by other random seeds over one reading; the best one stays."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from ray_kmeans.algorithm.grid import Summary
from ray_kmeans.algorithm.state import FitState, Restart
from ray_kmeans.engine.checkpoint_saver import Saver
from ray_kmeans.engine.fit_loop import Steps, fit_steps, run_fit
from ray_kmeans.engine.fit_plan import FitPlan, LeasedStore
from ray_kmeans.engine.fit_start import read_rows
from ray_kmeans.engine.newest_state import NewestState
from ray_kmeans.engine.shared_pool import SharedPool
from ray_kmeans.observe import events as ev
from ray_kmeans.observe.monitors import Monitors


def run_restarts(
    plan: FitPlan,
    shared: SharedPool,
    store: LeasedStore,
    emit: ev.Emit,
    monitors: Monitors | None = None,
    newest: NewestState | None = None,
) -> FitState:
    """Fit `plan.n_init` times from other seeds, and keep the state with the lowest inertia.

    A plan of one restart, and a model that is there already, make one fit.

    What holds when a run is killed:

    - Each restart saves to a place of its own below the model, so one that has ended is not made
      again, and the one that was cut off goes on from its last checkpoint.
    - The name of that place tells plan and data. A run with another plan, or on other data, finds
      nothing there, and deletes what an older run has left once its own model is saved.
    - The best state is saved to the model only when all restarts have ended: until then the model
      has no checkpoint, and the next run comes here again.
    """
    if plan.n_init == 1 or store.latest() is not None:
        return run_fit(plan, shared.lend(), store, emit, monitors, newest)
    summary = read_rows(shared.lend(), emit, plan.columns)
    folder, best = folder_of(plan, summary), None
    ended: list[Restart] = []
    at_once = shared.restarts_at_once() if plan.batch_size is None and not monitors else 1
    for group in _groups(list(_restarts_of(plan)), at_once):
        places = [store.restart(f"{folder}/{one.random_seed}") for one in group]
        states = _run_group(group, shared, places, once_read(emit), monitors, newest)
        for one, state, loss in zip(
            group, states, _losses_of(states, shared, summary), strict=True
        ):
            if best is None or loss < min(each.inertia for each in ended):
                best = state
            ended.append(Restart(one.random_seed, loss, state.iteration, state.stop))
            emit(ev.RestartEnded(len(ended), plan.n_init, ended[-1]))
    assert best is not None
    best = replace(
        best,
        restarts=tuple(ended),
        data_name=plan.data_name(summary),
        request=plan.request,
        origin=plan.origin,
    )
    with Saver(store, emit) as saver:
        saver.save(best)
    store.delete_restarts()
    return best


def _groups(plans: list[FitPlan], size: int) -> Iterator[list[FitPlan]]:
    """Yield the plans in groups of this size, in order."""
    for first in range(0, len(plans), size):
        yield plans[first : first + size]


def _run_group(
    plans: list[FitPlan],
    shared: SharedPool,
    places: list[LeasedStore],
    emit: ev.Emit,
    monitors: Monitors | None,
    newest: NewestState | None,
) -> list[FitState]:
    """Run the restarts that have not ended, side by side; return the states of all, in order.

    They take turns: each pauses before its next step, then one sweep serves all of them, and each
    finds its partial sums made. They begin one after the other, so one seeding is over before the
    next. When one of them fails, or the sweep, the others are closed, which saves their states.
    The steps of the first one that has not ended are told; the others make theirs in the same time.
    """
    states = {n: place.latest() for n, place in enumerate(places)}
    missing = [n for n, state in states.items() if state is None or state.stop is None]
    pool = shared.lend()
    runs: dict[int, Steps] = {}

    def tell(n: int, event: ev.Event) -> None:
        """Pass an event of restart n on, unless another one speaks for it."""
        is_step = isinstance(event, ev.FitStarted | ev.IterationDone)
        is_silent = n != min(runs) if is_step else len(runs) > 1
        if not (is_silent and isinstance(event, ev.FitStarted | ev.IterationDone | ev.FitEnded)):
            emit(event)

    with ExitStack() as closing_all:  # also those after one that cannot be closed
        for n in missing:
            runs[n] = fit_steps(plans[n], pool, places[n], partial(tell, n), monitors, newest)
            closing_all.callback(runs[n].close)
        while runs:
            centers = {}
            for n, run in list(runs.items()):
                try:
                    centers[n] = next(run).centers
                except StopIteration as end:
                    states[n] = end.value
                    del runs[n]
            if len(centers) > 1:
                pool.sweep_ahead(centers)
    return [state for state in states.values() if state is not None]


def _restarts_of(plan: FitPlan) -> Iterator[FitPlan]:
    """Yield the plan of each restart: by itself it gives the same bits."""
    for number in range(plan.n_init):
        yield replace(plan, n_init=1, random_seed=plan.random_seed + number)


def folder_of(plan: FitPlan, summary: Summary) -> str:
    """Return the name of the folder of all parts of a fit, by all that decides their results."""
    text = f"{plan.data_name(summary)} {replace(plan, n_init=1).name}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _losses_of(states: list[FitState], shared: SharedPool, summary: Summary) -> list[float]:
    """Return the inertia of all rows by the last centers of each state, after one sweep."""
    pool, sets = shared.lend(), [state.centers for state in states]
    if len(sets) > 1:
        pool.sweep_ahead(dict(enumerate(sets)))
    return [pool.sweep(centers).inertia(summary, centers) for centers in sets]


def once_read(emit: ev.Emit) -> Callable[[ev.Event], None]:
    """Return a listener that leaves out what was said of the rows when they were read."""

    def tell(event: ev.Event) -> None:
        reading = isinstance(event, ev.PhaseBegan) and event.phase is ev.Phase.READING
        if not reading and not isinstance(event, ev.DataLoaded):
            emit(event)

    return tell
