"""Runs on a Ray cluster: join or start Ray, put the coordinator in an actor, follow its events."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_kmeans.cluster.coordinator import FitPlan, Store, run_fit
from ray_kmeans.cluster.crew import first_line
from ray_kmeans.cluster.options import WorkerOptions
from ray_kmeans.cluster.ray_pool import RayPool
from ray_kmeans.cluster.shard import Block
from ray_kmeans.clustering.state import FitState
from ray_kmeans.errors import WorkersLostError
from ray_kmeans.observe import events as ev

POLL_S = 0.1
MAX_COORDINATOR_LOSSES = 3


def connect(address: str | None, num_workers: int | None, cpus_per_worker: float | None) -> None:
    """Join the Ray cluster at `address` (or RAY_ADDRESS); where there is none, start one here.

    One that is started here has room for `num_workers`, also beyond the CPUs of this machine.
    """
    if ray.is_initialized():
        return
    if address or os.environ.get("RAY_ADDRESS"):
        ray.init(address=address, log_to_driver=False)
    else:
        cpus = max(os.cpu_count() or 1, math.ceil((num_workers or 1) * (cpus_per_worker or 1)))
        ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=False)


def node_cpus() -> list[int]:
    """Return the whole CPUs of each node that has any, as Ray counts them."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    counts = [int(node["Resources"].get("CPU", 0)) for node in nodes if node["Alive"]]
    return [count for count in counts if count > 0] or [1]


def memory_per_cpu() -> int:
    """Return the memory for each CPU of the node where that is least, in bytes by Ray."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    shares = [r["memory"] / r["CPU"] for r in resources if r.get("CPU") and r.get("memory")]
    return int(min(shares))


class _Coordinator:
    """Runs the fit in one thread and answers for its events in another."""

    def __init__(self) -> None:
        self._events: list[ev.Event] = []

    def run(
        self,
        plan: FitPlan,
        store: Store,
        source: list[Any],  # in a list, so that Ray passes the reference on and not the rows
        shards: Sequence[Sequence[Block]],
        options: WorkerOptions,
    ) -> FitState:
        emit = self._events.append
        pool = RayPool(source[0], shards, plan.metric, options, emit)
        try:
            return run_fit(plan, pool, store, emit)
        finally:
            pool.close()

    def events_from(self, number: int) -> list[ev.Event]:
        return self._events[number:]


def fit_on_ray(
    plan: FitPlan,
    store: Store,
    source: Any,
    shards: Sequence[Sequence[Block]],
    options: WorkerOptions,
    emit: ev.Emit,
) -> FitState:
    """Fit with a coordinator actor on this node; a coordinator that dies is replaced."""
    shared = [ray.put(source)]
    before = store.checkpoints()[-1:]
    for losses in range(MAX_COORDINATOR_LOSSES + 1):
        coordinator = _new_coordinator()
        try:
            run = coordinator.run.remote(plan, store, shared, shards, options)
            return _follow(coordinator, run, emit)
        except RayTaskError as error:
            raise error.cause from None
        except RayActorError as error:
            cause = first_line(error)
            if losses == MAX_COORDINATOR_LOSSES:
                raise WorkersLostError(
                    f"the coordinator died {losses + 1} times: {cause}"
                ) from error
            emit(ev.CoordinatorReplaced(cause))
            state = store.latest()
            if state and state.stop and store.checkpoints()[-1:] != before:
                emit(ev.FitEnded(state.stop, state.iteration))
                return state  # it died when all was done
        finally:
            ray.kill(coordinator)
    raise AssertionError("unreachable")


def open_pool(
    source: Any,
    shards: Sequence[Sequence[Block]],
    metric: str,
    options: WorkerOptions,
    emit: ev.Emit,
) -> RayPool:
    """Return a pool that this process owns."""
    return RayPool(share(source), shards, metric, options, emit)


def share(source: Any) -> Any:
    """Return what stands for a source in calls to workers: its rows travel once for each node."""
    return ray.put(source)


def _new_coordinator() -> Any:
    # On the driver's node, so that a local model_dir means the same place for both.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(num_cpus=0, max_restarts=0)(_Coordinator)
    return actor.options(max_concurrency=2, scheduling_strategy=here).remote()


def _follow(coordinator: Any, run: Any, emit: ev.Emit) -> FitState:
    """Pass the coordinator's events on until the run ends; return its result or raise its error."""
    seen = 0
    ended = False
    while not ended:
        done, _ = ray.wait([run], timeout=POLL_S)
        ended = bool(done)
        events = ray.get(coordinator.events_from.remote(seen))
        for event in events:
            emit(event)
        seen += len(events)
    state: FitState = ray.get(run)
    return state
