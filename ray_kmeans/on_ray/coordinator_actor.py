"""The coordinator as a process of its own: it runs a fit and answers for it meanwhile."""

from __future__ import annotations

import logging
import os
import time
import traceback
from dataclasses import replace
from functools import partial
from threading import Lock, Thread
from typing import NamedTuple

import ray

from ray_kmeans.algorithm.state import FitState
from ray_kmeans.engine.fit_loop import run_fit
from ray_kmeans.engine.fit_plan import FitPlan, LeasedStore, Store
from ray_kmeans.engine.options import Workload
from ray_kmeans.engine.reached import Reached
from ray_kmeans.errors import RayKMeansError
from ray_kmeans.observe import events as ev
from ray_kmeans.on_ray.object_store import put
from ray_kmeans.on_ray.pool import RayPool

LINGER_S = 60.0
"""That a fit which nobody follows waits, when it is over, for somebody to ask for its end."""


class _Telling(logging.Handler):
    """Tells what is logged here, as that a store is waited for, where the driver hears it."""

    def __init__(self, tell: ev.Emit) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(ev.Logged(record.getMessage()))


class Outcome(NamedTuple):
    """How a fit ended."""

    state: FitState | None
    error: BaseException | None


class Coordinator:
    """Runs one fit in a thread."""

    def __init__(self) -> None:
        self._events: list[ev.Event] = []
        self._outcome: Outcome | None = None
        self._plan: FitPlan | None = None
        self._reached = Reached()
        self._starting = Lock()
        logging.getLogger("ray_kmeans").addHandler(_Telling(self._events.append))

    def start(
        self,
        plan: FitPlan,
        store: Store,
        workload: Workload,
        is_detached: bool,
    ) -> FitPlan:
        """Start the fit, unless it runs already; return what that one is to do.

        The source of the workload may be an ObjectRef. Inside of a record Ray passes the reference
        on; as an argument of its own it would be replaced by the rows.
        """
        with self._starting:
            if self._plan is None:
                self._plan = plan
                run = partial(self._run, plan, store, workload)
                Thread(target=run, name="fit", daemon=True).start()
                if is_detached:
                    Thread(target=self._linger, name="linger", daemon=True).start()
        return self._plan

    def since(self, number: int) -> tuple[list[ev.Event], Outcome | None]:
        """Return the events from this number on, and how the fit ended, if it did."""
        outcome = self._outcome  # before the events, so that none is left out
        return self._events[number:], outcome

    def stop(self) -> None:
        """Save what the fit has reached; then this process may end."""
        self._reached.save()

    def _run(self, plan: FitPlan, store: Store, workload: Workload) -> None:
        try:
            with store.take_lease(f"fit of {plan.num_clusters:,} clusters") as held:
                self._outcome = Outcome(self._fit(plan, held, workload), None)
        except BaseException as error:
            if not isinstance(error, RayKMeansError):  # it loses its traceback on the way
                self._events.append(ev.Logged(traceback.format_exc()))
            self._outcome = Outcome(None, error)

    def _fit(self, plan: FitPlan, held: LeasedStore, workload: Workload) -> FitState:
        if not isinstance(workload.source, ray.ObjectRef):
            workload = replace(workload, source=put(workload.source))
        emit = self._events.append
        pool = RayPool(workload, plan.metric, emit)
        try:
            return run_fit(plan, pool, held, emit, reached=self._reached)
        finally:
            pool.close()

    def _linger(self) -> None:
        while self._outcome is None:
            time.sleep(1)
        time.sleep(LINGER_S)
        os._exit(0)  # who follows it ends it when it has the outcome
