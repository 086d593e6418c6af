"""The coordinator as a process of its own: it runs a fit and answers for it meanwhile."""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections.abc import Sequence
from threading import Lock, Thread
from typing import Any, NamedTuple

import ray

from ray_kmeans.algorithm.state import FitState
from ray_kmeans.engine.fit_loop import run_fit
from ray_kmeans.engine.fit_plan import FitPlan, LeasedStore, Store
from ray_kmeans.engine.options import WorkerOptions
from ray_kmeans.engine.reached import Reached
from ray_kmeans.engine.shard import Block
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
        source: list[Any],  # in a list, so that Ray passes a reference on and not the rows
        shards: Sequence[Sequence[Block]],
        options: WorkerOptions,
        detached: bool,
    ) -> FitPlan:
        """Start the fit, unless it runs already; return what that one is to do."""
        with self._starting:
            if self._plan is None:
                self._plan = plan
                about = plan, store, source, shards, options
                Thread(target=self._run, args=about, name="fit", daemon=True).start()
                if detached:
                    Thread(target=self._linger, name="linger", daemon=True).start()
        return self._plan

    def since(self, number: int) -> tuple[list[ev.Event], Outcome | None]:
        """Return the events from this number on, and how the fit ended, if it did."""
        outcome = self._outcome  # before the events, so that none is left out
        return self._events[number:], outcome

    def stop(self) -> None:
        """Save what the fit has reached; then this process may end."""
        self._reached.save()

    def _run(
        self,
        plan: FitPlan,
        store: Store,
        source: list[Any],
        shards: Sequence[Sequence[Block]],
        options: WorkerOptions,
    ) -> None:
        try:
            with store.take_lease(f"fit of {plan.num_clusters:,} clusters") as held:
                self._outcome = Outcome(self._fitted(plan, held, source, shards, options), None)
        except BaseException as error:
            if not isinstance(error, RayKMeansError):  # it loses its traceback on the way
                self._events.append(ev.Logged(traceback.format_exc()))
            self._outcome = Outcome(None, error)

    def _fitted(
        self,
        plan: FitPlan,
        held: LeasedStore,
        source: list[Any],
        shards: Sequence[Sequence[Block]],
        options: WorkerOptions,
    ) -> FitState:
        ref = source[0] if isinstance(source[0], ray.ObjectRef) else put(source[0])
        emit = self._events.append
        pool = RayPool(ref, shards, plan.metric, options, emit)
        try:
            return run_fit(plan, pool, held, emit, reached=self._reached)
        finally:
            pool.close()

    def _linger(self) -> None:
        while self._outcome is None:
            time.sleep(1)
        time.sleep(LINGER_S)
        os._exit(0)  # who follows it ends it when it has the outcome
