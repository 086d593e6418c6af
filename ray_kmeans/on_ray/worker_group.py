"""The worker processes of a pool: who is there, who is expected, and who holds which shard."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError

from ray_kmeans._version import __version__
from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.engine.options import WorkerOptions
from ray_kmeans.errors import ConfigError, WorkersLostError
from ray_kmeans.observe import events as ev
from ray_kmeans.on_ray.calls import call
from ray_kmeans.on_ray.losses import MOST_LOST
from ray_kmeans.on_ray.worker_actor import KMeansWorker

LOST = RayActorError, OutOfMemoryError
"""What Ray raises for an actor that is gone; the second one where Ray itself killed it."""
PATIENCE_S = 5.0
"""Wait for the start of workers before the user hears of it."""
LOOKS = "looks"
"""The group of calls that a host answers while it works."""
MOST_FALSE_STARTS = 3
"""Workers in a row that cannot be made where they start: then the next one cannot, too."""


class Crew:
    """Actors, each started by this process and ended with it."""

    def __init__(self, metric: Metric, options: WorkerOptions, emit: ev.Emit) -> None:
        self.options = options
        self._setup = options.setup(metric)
        self._emit = emit
        self.hosts: list[Any] = []
        """Those that are there, in the order in which they came."""
        self._expected: dict[Any, Any] = {}
        """Those that are not: by the call that they will answer first."""
        self._false_starts = 0

    def start(self, count: int) -> None:
        """Start so many, and ask for as many more as there may be.

        Raises WorkersLostError where too few start in time.
        """
        timeout = self.options.worker_start_timeout_s
        patience = min(PATIENCE_S, timeout)
        self.expect(count)
        missing = count - self.welcome(count, patience)
        if missing and timeout > patience:
            self._emit(ev.Waiting(missing, count, _free("CPU")))
            missing -= self.welcome(missing, timeout - patience)
        if count - missing < (self.options.min_workers or count):
            raise WorkersLostError(
                f"{missing} of {count} workers did not start within "
                f"worker_start_timeout_s={timeout:g}; each needs {self._needs()}. "
                "Lower num_workers or cpus_per_worker, or wait longer."
            )
        self.expect((self.options.max_workers or count) - count)

    def _needs(self) -> str:
        """Say what a worker needs, and what is free."""
        needs = f"{self.options.cpus_per_worker:g} CPU and {_free('CPU'):g} are free"
        if self.options.gpus_per_worker:
            needs += f", and {self.options.gpus_per_worker:g} GPU and {_free('GPU'):g} are free"
        return needs

    def expect(self, count: int) -> None:
        """Ask Ray for so many more; they are there when they are welcomed."""
        for _ in range(count):
            # A dead worker is replaced here: restarted by Ray it would have no rows.
            takes: Any = {
                "num_cpus": self.options.cpus_per_worker,
                "num_gpus": self.options.gpus_per_worker or None,
            }
            takes |= {"max_restarts": 0, "max_task_retries": 0, "concurrency_groups": {LOOKS: 1}}
            actor: Any = ray.remote(**takes)
            host = actor(KMeansWorker).remote(self._setup)
            self._expected[call(host, KMeansWorker.hello)] = host

    def welcome(self, count: int, timeout: float) -> int:
        """Wait for so many of the expected ones; return how many of them have come.

        Raises WorkersLostError where they die as they start, ConfigError where they are of another
        version.
        """
        come = 0
        end = time.monotonic() + timeout
        while self._expected and come < count:
            left = max(end - time.monotonic(), 0)
            done, _ = ray.wait(list(self._expected), num_returns=1, timeout=left)
            if not done:
                break
            host = self._expected.pop(done[0])
            try:
                _check_same(*ray.get(done[0]))
            except LOST as error:
                self._start_again(error)
                continue
            self._false_starts = 0
            self.hosts.append(host)
            come += 1
        return come

    def _start_again(self, error: Exception) -> None:
        self._false_starts += 1
        most = MOST_FALSE_STARTS if dies_by_itself(error) else MOST_LOST
        if self._false_starts >= most:
            raise WorkersLostError(
                f"{self._false_starts} workers in a row died as they started, the last one with: "
                f"{_last_line(error)} Install ray_kmeans {__version__} and what it needs on every "
                "node; the Ray logs of the node tell more."
            ) from error
        self.expect(1)

    def lose(self, host: Any) -> None:
        """Strike a host off, and ask for another one in its place."""
        if host in self.hosts:
            self.hosts.remove(host)
            self.expect(1)

    def set_aside(self, host: Any) -> None:
        """Give a host that does not answer no work until it does."""
        if host in self.hosts:
            self.hosts.remove(host)
            self._expected[call(host, KMeansWorker.hello)] = host

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


def moves(
    homes: dict[int, Any], moving: dict[int, tuple[Any, Any]], hosts: Sequence[Any]
) -> Iterator[tuple[int, Any]]:
    """Yield shards that should go to hosts that have at least two fewer, and these hosts.

    `moving` are those under way, by shard: where to, and the call that reads them there.
    """
    there = homes | {shard: host for shard, (host, _) in moving.items()}
    held = Counter({host: 0 for host in hosts}) + Counter(there.values())
    for shard, home in homes.items():
        least = min(hosts, key=lambda host: held[host])
        if shard not in moving and held[home] >= held[least] + 2:
            held[home] -= 1
            held[least] += 1
            yield shard, least


def dies_by_itself(error: Exception) -> bool:
    """Tell whether it is sure that nothing from outside killed an actor.

    It raised where it was made; or Ray ended it, because it took too much memory.
    """
    is_made = not getattr(error, "actor_init_failed", False)
    return isinstance(error, OutOfMemoryError) or not is_made or "low on memory" in str(error)


def first_line(error: Exception) -> str:
    """Return what happened, without Ray's advice below it."""
    return str(error).strip().split("\n")[0]


def _last_line(error: Exception) -> str:
    """Return what a worker raised: it stands below Ray's words and the way there."""
    return str(error).strip().split("\n")[-1]


def _check_same(host: str, version: str) -> None:
    if version != __version__:
        raise ConfigError(
            f"the workers on {host} have ray_kmeans {version} and this process has {__version__}. "
            "Install the same on all nodes."
        )


def _free(kind: str) -> float:
    return float(ray.available_resources().get(kind, 0))  # type: ignore[no-untyped-call]
