"""The worker processes of a pool: who is there, who is expected, and who holds which shard."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import ray

from ray_kmeans.cluster.host import KMeansWorker
from ray_kmeans.cluster.options import WorkerOptions
from ray_kmeans.errors import WorkersLostError
from ray_kmeans.observe import events as ev

PATIENCE_S = 10.0
"""Wait for the start of workers before the user hears of it."""


class Crew:
    """Actors, each started by this process and ended with it."""

    def __init__(self, metric: str, options: WorkerOptions, emit: ev.Emit) -> None:
        self.options = options
        self._metric = metric
        self._emit = emit
        self.hosts: list[Any] = []
        """Those that are there, in the order in which they came."""
        self._expected: dict[Any, Any] = {}
        """Those that are not: by the call that they will answer first."""

    def start(self, count: int) -> None:
        """Start so many, and ask for as many more as there may be.

        Raises WorkersLostError where too few start in time.
        """
        timeout = self.options.start_timeout_s
        patience = min(PATIENCE_S, timeout)
        self.expect(count)
        missing = count - self.welcome(count, patience)
        if missing and timeout > patience:
            self._emit(ev.Waiting(missing, count, _free("CPU")))
            missing -= self.welcome(missing, timeout - patience)
        if count - missing < (self.options.fewest or count):
            raise WorkersLostError(
                f"{missing} of {count} workers did not start within "
                f"worker_start_timeout_s={timeout:g}; each needs {self._needs()}. "
                "Lower num_workers or cpus_per_worker, or wait longer."
            )
        self.expect((self.options.most or count) - count)

    def _needs(self) -> str:
        """Say what a worker needs, and what is free."""
        needs = f"{self.options.cpus:g} CPU and {_free('CPU'):g} are free"
        if self.options.gpus:
            needs += f", and {self.options.gpus:g} GPU and {_free('GPU'):g} are free"
        return needs

    def expect(self, count: int) -> None:
        """Ask Ray for so many more; they are there when they are welcomed."""
        for _ in range(count):
            # A dead worker is replaced here: restarted by Ray it would have no rows.
            takes: Any = {"num_cpus": self.options.cpus, "num_gpus": self.options.gpus or None}
            actor: Any = ray.remote(**takes, max_restarts=0, max_task_retries=0)
            host = actor(KMeansWorker).remote(self._metric, self.options)
            self._expected[host.where.remote()] = host

    def welcome(self, count: int, timeout: float) -> int:
        """Wait for so many of the expected ones; return how many of them have come."""
        come = 0
        end = time.monotonic() + timeout
        while self._expected and come < count:
            left = max(end - time.monotonic(), 0)
            done, _ = ray.wait(list(self._expected), num_returns=1, timeout=left)
            if not done:
                break
            host = self._expected.pop(done[0])
            try:
                ray.get(done[0])
            except ray.exceptions.RayActorError:
                self.expect(1)
                continue
            self.hosts.append(host)
            come += 1
        return come

    def lose(self, host: Any) -> None:
        """Strike a host off, and ask for another one in its place."""
        if host in self.hosts:
            self.hosts.remove(host)
            self.expect(1)

    def set_aside(self, host: Any) -> None:
        """Give a host that does not answer no work until it does."""
        if host in self.hosts:
            self.hosts.remove(host)
            self._expected[host.where.remote()] = host

    def close(self) -> None:
        """End all of them."""
        for host in (*self.hosts, *self._expected.values()):
            ray.kill(host)
        self.hosts, self._expected = [], {}


def dealt(
    rows: Sequence[int], homes: dict[int, Any], hosts: Sequence[Any], most: int | None
) -> dict[int, Any]:
    """Return a host for each shard that has none: that with the fewest rows, the large ones first.

    `homes` are those of the others. A shard stays without one where no host has room for it.
    """
    load = Counter({host: 0 for host in hosts})
    for number, host in homes.items():
        load[host] += rows[number]
    found: dict[int, Any] = {}
    left = [number for number in range(len(rows)) if number not in homes]
    for number in sorted(left, key=lambda number: -rows[number]):
        host = min(hosts, key=lambda host: load[host], default=None)
        if host is None or (load[host] and most is not None and load[host] + rows[number] > most):
            continue
        found[number] = host
        load[host] += rows[number]
    return found


def first_line(error: Exception) -> str:
    """Return what happened, without Ray's advice below it."""
    return str(error).strip().split("\n")[0]


def _free(kind: str) -> float:
    return float(ray.available_resources().get(kind, 0))  # type: ignore[no-untyped-call]
