"""The driver's side of a run on Ray: it starts the coordinator of a fit, and follows it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import ray
from ray.exceptions import (
    ActorUnavailableError,
    ActorUnschedulableError,
    GetTimeoutError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.state import FitState
from ray_kmeans.engine.fit_plan import AfterFit, FitPlan, Store
from ray_kmeans.engine.options import Workload
from ray_kmeans.engine.shared_pool import SharedPool
from ray_kmeans.engine.tree_fit import run_plan
from ray_kmeans.errors import (
    ConfigError,
    RunStoppedError,
    WorkersLostError,
)
from ray_kmeans.observe import events as ev
from ray_kmeans.on_ray import capacity
from ray_kmeans.on_ray.calls import call
from ray_kmeans.on_ray.coordinator_actor import Coordinator
from ray_kmeans.on_ray.death_counts import MOST, CoordinatorLosses
from ray_kmeans.on_ray.object_store import put
from ray_kmeans.on_ray.pool import RayPool
from ray_kmeans.on_ray.ray_errors import LOST, dies_by_itself, first_line
from ray_kmeans.on_ray.worker_group import ask_early
from ray_kmeans.process import interrupt

RETRY_S = 0.1
"""Seconds until a coordinator that is out of reach is asked again."""
NAMESPACE = "ray_kmeans"
"""Namespace of Ray in which detached coordinators have their names."""
HEAD = "node:__internal_head__"
"""Name of the resource that only the head node of a Ray cluster has."""
SAVE_S = 60.0
"""Seconds that a coordinator which is to be ended has to save its newest state."""
PLACING_S = 1.0
"""Seconds until a coordinator that could not be placed is placed anew."""
DOUBT_S = 90.0
"""Seconds that an unreachable coordinator is asked again before it counts as dead. Ray tells within
that time whether its node is."""


def fit_on_ray(
    plan: FitPlan,
    store: Store,
    workload: Workload,
    emit: ev.Emit,
    name: str | None = None,
    after: AfterFit | None = None,
) -> FitState:
    """Fit with a coordinator actor; one that dies is replaced.

    Without a `name` the coordinator lives on this node and ends with this process. With a name it
    outlives this process, and whoever calls this with the same name follows the fit that runs.

    What holds whenever a coordinator dies:

    - Nothing of a fit is lost but the steps since its last checkpoint: the next coordinator begins
      with `store.latest`, and the same steps from there give the same bits.
    - The dead one is killed once more. It may only be out of reach: then it would keep its name,
      and a coordinator started under this name would be the old one again.
    - A fit that had saved its end before its coordinator died is over. That end must be in a
      checkpoint that came after this call began: an older one ended an earlier fit.
    - From the first death on the plan is `in_danger`: each coordinator saves so often that it gets
      further than the one before, however short it lives.
    - When coordinators die again and again, this process coordinates the fit itself: a driver lives
      where Ray kills actors for want of memory. A detached fit cannot: it outlives this process.
    - A coordinator that dies while it does `after` has ended the fit, and the rest is not done
      here: the caller, who does the same once more, finds what is there and does what is missing.
    """
    if name is None:  # a detached fit outlives this process, and with it what this process puts
        workload = replace(workload, source=put(workload.source))
    if name is None or not _is_running(name):
        _check_room(workload)
    early = workload.workers_at_start if name is None else 0
    with ask_early(plan.metric, workload.options, early) as workers:
        return _coordinate(plan, store, workload, emit, name, workers, after)


def _coordinate(
    plan: FitPlan,
    store: Store,
    workload: Workload,
    emit: ev.Emit,
    name: str | None,
    workers: list[Any],
    after: AfterFit | None,
) -> FitState:
    """Let one coordinator after the other run the fit, until it ends; return its last state.

    The first one gets the `workers` that were asked for early. When it dies they are ended, since
    nobody knows what they were doing, and the next one asks for its own.
    """
    before = store.newest_checkpoint()
    losses = CoordinatorLosses(before)
    plan_at_start, began = plan, time.monotonic()
    while True:
        coordinator = _coordinator(name, store)
        try:
            _start(coordinator, plan, store, workload, name is not None, workers, after)
            return _follow(coordinator, emit)
        except (*LOST, ActorUnschedulableError) as error:
            for lost in (coordinator, *workers):
                ray.kill(lost)
            workers.clear()
            if isinstance(error, ActorUnschedulableError):
                time.sleep(PLACING_S)
            state, reached = store.latest(), store.newest_checkpoint()
            losses.add(reached)
            has_ended = state is not None and state.stop is not None and reached != before
            if not has_ended:
                _check_hope(losses, error)
            emit(ev.CoordinatorReplaced(first_line(error)))
            if state is not None and state.stop is not None and has_ended:
                emit(ev.FitEnded(state.stop, state.iteration))
                return state
            plan = plan_at_start.taken_over(time.monotonic() - began)
            if losses.count > MOST and name is None:
                return _fit_from_here(plan, store, workload, emit)
        except (KeyboardInterrupt, RunStoppedError):
            _stop(coordinator)
            raise
        except BaseException:
            if name is None:
                ray.kill(coordinator)
            raise


def _start(
    coordinator: Any,
    plan: FitPlan,
    store: Store,
    workload: Workload,
    is_detached: bool,
    workers: Sequence[Any],
    after: AfterFit | None,
) -> None:
    """Let a coordinator start the fit; raise ConfigError if it runs another one already."""
    start = partial(
        call, coordinator, Coordinator.start, plan, store, workload, is_detached, workers, after
    )
    _check_same(plan, _answer(start))


def _check_hope(losses: CoordinatorLosses, error: Exception) -> None:
    """Raise WorkersLostError if another coordinator would die, too."""
    if losses.is_hopeless(dies_by_itself(error)):
        raise WorkersLostError(
            f"the coordinator died {losses.count} times without an iteration between. The last "
            f"time: {first_line(error)}"
        ) from error


def _fit_from_here(plan: FitPlan, store: Store, workload: Workload, emit: ev.Emit) -> FitState:
    """Fit with this process as the coordinator."""
    emit(ev.Warned("coordinators die again and again, so this process coordinates the fit itself."))
    with store.take_lease(f"fit of {plan.num_clusters:,} clusters") as held:
        shared = SharedPool(RayPool(workload, plan.metric, emit), plan.n_init)
        try:
            return run_plan(plan, shared, held, emit)
        finally:
            shared.close()


def _stop(coordinator: Any) -> None:
    """Let a coordinator save its newest state, and end it."""
    with suppress(*LOST, GetTimeoutError):
        ray.get(call(coordinator, Coordinator.stop), timeout=SAVE_S)
    ray.kill(coordinator)


def _check_room(workload: Workload) -> None:
    """Raise ClusterError if the Ray cluster can never hold the fewest workers of a run."""
    capacity.check(
        workers=workload.fewest_workers,
        cpus=workload.options.cpus_per_worker,
        gpus=workload.options.gpus_per_worker,
        timeout=workload.options.worker_start_timeout_s,
    )


def _is_running(name: str) -> bool:
    """Tell whether there is a detached fit of this name: then it has workers, or waits for them."""
    try:
        ray.get_actor(name, NAMESPACE)
    except ValueError:
        return False
    return True


def open_pool(workload: Workload, metric: Metric, emit: ev.Emit) -> RayPool:
    """Start the workers of a run, which belong to this process; return a pool of them."""
    _check_room(workload)
    return RayPool(replace(workload, source=put(workload.source)), metric, emit)


def _coordinator(name: str | None, store: Store) -> Any:
    """Return a new coordinator, or the one that already has this name.

    It lives on the node of this driver, so that a local model_dir means the same place for both. A
    detached one with a store that all nodes can reach lives where it outlives the head.

    No place is a soft wish. Where Ray hears late of a node, it would take the head's instead
    without a word, and the fit would die with the head. It raises ActorUnschedulableError instead,
    and `fit_on_ray` asks again.
    """
    here = ray.get_runtime_context().get_node_id()
    actor: Any = ray.remote(num_cpus=0, max_restarts=0)(Coordinator)
    if name is None:
        hard = NodeAffinitySchedulingStrategy(here, soft=False)
        return actor.options(max_concurrency=2, scheduling_strategy=hard).remote()
    there = here if store.is_local else _lasting_node(here)
    return actor.options(
        max_concurrency=2,
        name=name,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        scheduling_strategy=NodeAffinitySchedulingStrategy(there, soft=False),
    ).remote()


def _lasting_node(here: str) -> str:
    """Return the id of the node for a detached coordinator: `here`, unless that is the head node.

    What runs on the head node dies with it, also where the other nodes wait for a head that comes
    back. From the head another node is taken, the first by its id, so that all drivers which come
    with the same name choose the same; where there is no other node, the head must do.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    heads = {node["NodeID"] for node in nodes if HEAD in node["Resources"]}
    others = [node["NodeID"] for node in nodes if node["NodeID"] not in heads]
    return min(others, default=here) if here in heads else here


def _answer(ask: Callable[[], Any], doubt_s: float = DOUBT_S) -> Any:
    """Return the coordinator's answer; ask again while Ray does not know whether it is dead.

    The wait is cut into seconds, so that a driver which is asked to end meanwhile ends at once,
    also while the coordinator has not started yet. One that is out of reach for `doubt_s` seconds
    counts as dead.
    """
    end = time.monotonic() + doubt_s
    while True:
        try:
            answer = ask()
            while not ray.wait([answer], timeout=1.0)[0]:
                interrupt.check()
            return ray.get(answer)
        except ActorUnavailableError:
            if time.monotonic() > end:
                raise
        interrupt.check()
        time.sleep(RETRY_S)


def _check_same(plan: FitPlan, running: FitPlan) -> None:
    """Raise ConfigError if the fit that runs under this name does not have this plan."""
    if plan.name != running.name:
        raise ConfigError(
            "a detached fit with other parameters runs on this model_dir. Give the same as it has, "
            "to follow it, or stop it first."
        )


def _follow(coordinator: Any, emit: ev.Emit) -> FitState:
    """Pass the coordinator's events on until the fit ends; return its result or raise its error.

    Whoever sees the end of the fit ends the coordinator, also a detached one.
    """
    seen = 0
    while True:
        events, outcome = _answer(partial(call, coordinator, Coordinator.since, seen))
        for event in events:
            emit(event)
        seen += len(events)
        interrupt.check()
        if outcome is not None:
            ray.kill(coordinator)
            if outcome.error is not None:
                raise outcome.error
            state: FitState = outcome.state
            return state
