"""Restarts: several fits of one plan by other random seeds over one reading; the best one stays."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace

from ray_kmeans.algorithm.grid import Summary
from ray_kmeans.algorithm.state import FitState, Restart
from ray_kmeans.engine.checkpoint_saver import Saver
from ray_kmeans.engine.fit_loop import run_fit
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
    folder = _folder_of(plan, summary)
    best: FitState | None = None
    ended: list[Restart] = []
    for one in _restarts_of(plan):
        place = store.restart(f"{folder}/{one.random_seed}")
        state = place.latest()
        if state is None or state.stop is None:
            state = run_fit(one, shared.lend(), place, _once_read(emit), monitors, newest)
        loss = _loss_of(state, shared, summary)
        ended.append(Restart(one.random_seed, loss, state.iteration, state.stop))
        emit(ev.RestartEnded(len(ended), plan.n_init, ended[-1]))
        if best is None or loss < min(each.inertia for each in ended[:-1]):
            best = state
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


def _restarts_of(plan: FitPlan) -> Iterator[FitPlan]:
    """Yield the plan of each restart: by itself it gives the same bits."""
    for number in range(plan.n_init):
        yield replace(plan, n_init=1, random_seed=plan.random_seed + number)


def _folder_of(plan: FitPlan, summary: Summary) -> str:
    """Return the name of the folder of all restarts, by all that decides their results."""
    text = f"{plan.data_name(summary)} {replace(plan, n_init=1).name}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _loss_of(state: FitState, shared: SharedPool, summary: Summary) -> float:
    """Return the inertia of all rows by the last centers, after one sweep."""
    return shared.lend().sweep(state.centers).inertia(summary, state.centers)


def _once_read(emit: ev.Emit) -> Callable[[ev.Event], None]:
    """Return a listener that leaves out what was said of the rows when they were read."""

    def tell(event: ev.Event) -> None:
        reading = isinstance(event, ev.PhaseBegan) and event.phase is ev.Phase.READING
        if not reading and not isinstance(event, ev.DataLoaded):
            emit(event)

    return tell
