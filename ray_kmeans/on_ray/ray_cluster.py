"""The Ray cluster of a run: join it or start one, and tell the resources of its nodes."""

from __future__ import annotations

import math
import os

import ray
from ray._private import services
from ray.exceptions import RayError

from ray_kmeans.errors import ClusterError
from ray_kmeans.on_ray import head_check
from ray_kmeans.on_ray.ray_errors import first_line


def connect(address: str | None, num_workers: int | None, cpus_per_worker: float | None) -> None:
    """Join the Ray cluster at `address` (or RAY_ADDRESS); without an address start a Ray here.

    A Ray that is started here has CPUs for `num_workers`, also more than this machine has.
    """
    if ray.is_initialized():
        return
    wanted = address if address and address != "auto" else os.environ.get("RAY_ADDRESS") or address
    if wanted and wanted != "local":
        _join(wanted, f"ray_address={address!r}" if wanted == address else f"RAY_ADDRESS={wanted}")
    else:
        cpus = max(os.cpu_count() or 1, math.ceil((num_workers or 1) * (cpus_per_worker or 1)))
        # "local": else Ray would join one that somebody runs on this machine, and take no num_cpus.
        ray.init("local", num_cpus=cpus, include_dashboard=False, log_to_driver=False)


def _join(address: str, said: str) -> None:
    """Join the Ray cluster at an address; raise ClusterError within seconds where none answers.

    `said` is the setting that the user gave, for the error.
    """
    head_check.refuse_other_ways(address, said)
    try:
        found = services.canonicalize_bootstrap_address(address)
    except ConnectionError:
        raise ClusterError(
            f"{said}: no Ray runs on this machine. Start one (ray start --head), give HOST:PORT of "
            "the head of a cluster, or no address to start a Ray for this run alone."
        ) from None
    except (ValueError, OSError):
        found = address
    head_check.check(found or address, said)
    try:
        ray.init(address=found or address, log_to_driver=False)
    except (RuntimeError, ValueError, OSError, RayError) as error:
        raise ClusterError(f"{said}: Ray cannot join there: {first_line(error)}") from error


def node_cpus() -> list[int]:
    """Return the number of whole CPUs of each node that has any, as Ray counts them."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    counts = [int(node["Resources"].get("CPU", 0)) for node in nodes if node["Alive"]]
    return [count for count in counts if count > 0] or [1]


def nodes_with_gpus() -> list[tuple[float, float]]:
    """Return (CPUs, GPUs) of each node that has both, as Ray counts them."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    return [(r["CPU"], r["GPU"]) for r in resources if r.get("CPU") and r.get("GPU")]


def memory_per_cpu() -> int:
    """Return the bytes of memory per CPU on the node that has least, as Ray counts them."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    shares = [r["memory"] / r["CPU"] for r in resources if r.get("CPU") and r.get("memory")]
    if not shares:
        raise ClusterError(
            "no node with CPUs has joined the Ray cluster, so the memory of a worker is unknown. "
            "Start one node at least, or give worker_memory_bytes, num_workers and cpus_per_worker."
        )
    return int(min(shares))
