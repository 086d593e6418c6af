"""Tell whether a Ray cluster has room for workers: on nodes that are there, or that may come."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import ray

from ray_kmeans.errors import ClusterError

GRACE_S = 5.0
"""Seconds that the nodes of a Ray cluster that is just starting have to come."""
UNKNOWN_S = 12.0
"""Longest wait in seconds to hear whether there is an autoscaler; its first report takes 5 to
10."""


def check(
    workers: int,
    cpus: float,
    gpus: float = 0.0,
    timeout: float = math.inf,
    unknown_s: float = UNKNOWN_S,
) -> None:
    """Raise ClusterError if the Ray cluster can never hold this number of workers at once.

    `cpus` and `gpus` are those of each worker. What counts is what the nodes have, not what is free
    now: the rest may become free. Nothing is raised where an autoscaler may add nodes, or nobody
    knows after `unknown_s` seconds whether there is one, nor where the workers must start within a
    `timeout`, in seconds, that is shorter than this check: then their start tells.
    """
    begin = time.monotonic()
    while (found := sum(_rooms(cpus, gpus))) < workers:
        waited, grows = time.monotonic() - begin, can_grow()
        if grows or waited > unknown_s or timeout <= GRACE_S:
            return
        if grows is False and waited > GRACE_S:
            raise ClusterError(_refusal(workers, cpus, gpus, found))
        time.sleep(0.5)


def can_grow() -> bool | None:
    """Return whether an autoscaler may add nodes, or None if nothing tells.

    Ray's monitor reports every few seconds which types of nodes there are. Where it has no
    configuration of an autoscaler, each node is a type of its own, named after its id.
    """
    try:
        types = _types_of_nodes()
    except Exception:  # what this reads is not part of Ray's public interface
        return None
    ids = {f"node_{node['NodeID']}" for node in ray.nodes()}  # type: ignore[no-untyped-call]
    return any(name not in ids for name in types) if types else None


def _types_of_nodes() -> set[str]:
    """Return the types of nodes that an autoscaler of either version reports; empty if none."""
    from ray.autoscaler.v2.sdk import get_cluster_status
    from ray.experimental.internal_kv import _internal_kv_get

    status = get_cluster_status(ray.get_runtime_context().gcs_address)
    if int(status.stats.autoscaler_version or 0):  # the second kind of autoscaler
        nodes = [*status.active_nodes, *status.idle_nodes, *status.pending_nodes]
        return {node.ray_node_type_name for node in nodes}
    report = json.loads(_internal_kv_get(b"__autoscaling_status") or b"{}")
    found: dict[str, Any] = report.get("autoscaler_report", {})
    return set(found.get("active_nodes") or {}) | set(
        (found.get("node_type_mapping") or {}).values()
    )


def _nodes() -> list[dict[str, float]]:
    """Return the resources of each node, by kind, in use or not."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]


def _rooms(cpus: float, gpus: float) -> list[int]:
    """Return how many workers each node has room for."""
    rooms = []
    for node in _nodes():
        room = int(node.get("CPU", 0) / cpus + 1e-9)
        rooms.append(min(room, int(node.get("GPU", 0) / gpus + 1e-9)) if gpus else room)
    return rooms


def _refusal(workers: int, cpus: float, gpus: float, found: int) -> str:
    """Return the sentence of the error: the needs, the free resources, the remedy."""
    each = f"{cpus:g} CPU" + (f" and {gpus:g} GPU" if gpus else "")
    nodes = _nodes()
    have = ", ".join(
        f"{sum(node.get(kind, 0) for node in nodes):g} {kind} in all and at most "
        f"{max((node.get(kind, 0) for node in nodes), default=0):g} on one"
        for kind in ("CPU", *(["GPU"] if gpus else []))
    )
    fewer = f"ask for at most {found} (num_workers, or min_workers={found} to begin with), " * (
        found > 0
    )
    return (
        f"{workers} worker{'s'[: workers > 1]} of {each} can never be placed: the Ray cluster has "
        f"room for {found} ({len(nodes)} node{'s'[: len(nodes) != 1]}, {have}), and no autoscaler "
        f"that adds nodes. To run, {fewer}lower cpus_per_worker, or start more nodes first."
    )
