"""The class of the coordinator process, which runs one fit and can be asked about it meanwhile."""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from threading import Event, Lock, Thread
from typing import Any, NamedTuple

import ray

from ray_kmeans.algorithm.state import FitState
from ray_kmeans.engine.fit_plan import AfterFit, FitPlan, LeasedStore, Store
from ray_kmeans.engine.newest_state import NewestState
from ray_kmeans.engine.options import Workload
from ray_kmeans.engine.shared_pool import SharedPool
from ray_kmeans.engine.tree_fit import run_plan
from ray_kmeans.errors import RayKMeansError
from ray_kmeans.observe import events as ev
from ray_kmeans.on_ray.object_store import put
from ray_kmeans.on_ray.pool import RayPool

POLL_S = 0.1
"""Seconds that the answer to a question for new events takes while the fit runs."""
LINGER_S = 60.0
"""Seconds that a finished detached fit stays alive so that its outcome can be fetched."""


class _EventHandler(logging.Handler):
    """Turns warnings that are logged in this process into events, which the driver logs.

    Otherwise nobody would hear of them: as when a store is waited for.
    """

    def __init__(self, emit: ev.Emit) -> None:
        super().__init__(logging.WARNING)
        self._emit = emit

    def emit(self, record: logging.LogRecord) -> None:
        self._emit(ev.Logged(record.getMessage()))


class Outcome(NamedTuple):
    """End of a fit."""

    state: FitState | None
    """Final state of the fit; None if it failed."""
    error: BaseException | None
    """Error that ended the fit; None if it did not fail."""


def _import_numba() -> None:
    """Import what merges the sums, while the workers start: it takes half a second."""
    from ray_kmeans.algorithm import compiled  # noqa: F401 (imported for later)


class Coordinator:
    """Runs one fit in a thread of its own, so that it can answer while the fit goes on."""

    def __init__(self) -> None:
        """Begin without a fit; from now on warnings that this process logs become events."""
        self._events: list[ev.Event] = []
        """Events of the fit from its start on; only appended to, so that any thread may read."""
        self._outcome: Outcome | None = None
        """Outcome of the fit; None while it runs. Set after its last event."""
        self._ended = Event()
        """Set once there is an outcome."""
        self._plan: FitPlan | None = None
        """Plan of the fit that runs; None before the first call of `start`."""
        self._newest = NewestState()
        self._starting = Lock()
        logging.getLogger("ray_kmeans").addHandler(_EventHandler(self._events.append))

    def start(
        self,
        plan: FitPlan,
        store: Store,
        workload: Workload,
        is_detached: bool,
        workers: Sequence[Any] = (),
        after: AfterFit | None = None,
    ) -> FitPlan:
        """Start the fit, unless one runs already; return the plan of the fit that runs.

        A detached coordinator has a name, and several drivers may come with it at once: the first
        call starts the fit, and all get the same plan to compare theirs with.

        `workers` are those that the driver has asked for already, see `worker_group.ask_early`.
        `after` is done when the fit has ended.

        The source of the workload may be an ObjectRef. Inside of a record Ray passes the reference
        on; as an argument of its own it would be replaced by the rows.
        """
        with self._starting:
            if self._plan is None:
                self._plan = plan
                run = partial(self._run, plan, store, workload, workers, after)
                Thread(target=run, name="fit", daemon=True).start()
                Thread(target=_import_numba, name="import", daemon=True).start()
                if is_detached:
                    Thread(target=self._linger, name="linger", daemon=True).start()
        return self._plan

    def since(self, number: int) -> tuple[list[ev.Event], Outcome | None]:
        """Return the events from this number on, and how the fit ended; None while it runs.

        The answer takes POLL_S seconds while the fit runs, so that whoever asks again and again
        need not pause, and hears of the end at once.
        """
        self._ended.wait(POLL_S)
        outcome = self._outcome  # before the events: else one might come between, and be left out
        return self._events[number:], outcome

    def stop(self) -> None:
        """Save the newest state of the fit; then this process may be ended."""
        self._newest.save()

    def _run(
        self,
        plan: FitPlan,
        store: Store,
        workload: Workload,
        workers: Sequence[Any],
        after: AfterFit | None,
    ) -> None:
        """Run the fit and set its outcome, whatever happens."""
        try:
            with store.take_lease(f"fit of {plan.num_clusters:,} clusters") as held:
                self._outcome = Outcome(self._fit(plan, held, workload, workers, after), None)
        except BaseException as error:
            if not isinstance(error, RayKMeansError):  # it loses its traceback on its way there
                self._events.append(ev.Logged(traceback.format_exc()))
            self._outcome = Outcome(None, error)
        self._ended.set()

    def _fit(
        self,
        plan: FitPlan,
        held: LeasedStore,
        workload: Workload,
        workers: Sequence[Any],
        after: AfterFit | None,
    ) -> FitState:
        """Fit with workers that belong to this process, and end these."""
        if not isinstance(workload.source, ray.ObjectRef):
            workload = replace(workload, source=put(workload.source))
        emit = self._events.append
        shared = SharedPool(RayPool(workload, plan.metric, emit, workers), plan.n_init)
        try:
            state = run_plan(plan, shared, held, emit, newest=self._newest)
            if after is not None:
                after(state, shared, ray.get(workload.source), emit)
            return state
        finally:
            shared.close()

    def _linger(self) -> None:
        """End this process some time after the fit, for a detached one that nobody follows.

        Whoever follows the fit ends the process as soon as it has the outcome.
        """
        self._ended.wait()
        time.sleep(LINGER_S)
        os._exit(0)
