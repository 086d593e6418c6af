"""The worker processes of a pool: which have started, which are starting, and who gets which shard.

A worker process is an actor of `KMeansWorker`; what is handed about here are Ray's handles of them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray

from ray_kmeans._version import __version__
from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.engine.options import WorkerOptions, WorkerSetup
from ray_kmeans.errors import ConfigError, WorkersLostError
from ray_kmeans.observe import events as ev
from ray_kmeans.on_ray.calls import call
from ray_kmeans.on_ray.death_counts import MOST_LOST
from ray_kmeans.on_ray.ray_errors import LOST, dies_by_itself, last_line
from ray_kmeans.on_ray.worker_actor import KMeansWorker

PATIENCE_S = 5.0
"""Seconds that workers may take to start before the user hears that they are waited for."""
POLLS = "polls"
"""Concurrency group of the calls that a worker process answers while another call runs in it."""
MOST_FALSE_STARTS = 3
"""Number of workers in a row that may fail as they are made: after it, the next one would, too."""


class WorkerGroup:
    """The actors of a pool, each started for this process and ended with it.

    A worker is in one of two states, and moves between them only here:

    - *starting*: Ray was asked for it, or it was set aside because it does not answer. It is
      waiting to answer `hello`, and gets no work.
    - *started*: it has answered `hello`, has the version of this process, and may hold shards.

    A worker that dies as it starts is asked for again, so that there are never fewer than were
    asked for; but not for ever: what kills it may be the same on every node. A worker that dies
    later leaves the group by `replace`, which asks for another one. Nobody waits for that one here:
    whoever needs it calls `welcome`, and otherwise it is found there when it has come.
    """

    def __init__(
        self, metric: Metric, options: WorkerOptions, emit: ev.Emit, workers: Iterable[Any] = ()
    ) -> None:
        """Make the group; `workers` are those that Ray was asked for already, by `ask_early`."""
        self.options = options
        """Needs of each worker on its node, and the times that the group waits."""
        self._setup = options.setup(metric)
        self._emit = emit
        self.workers: list[Any] = []
        """Started workers, in the order in which they came."""
        self._starting: dict[Any, Any] = {}
        """Starting workers, by the reference to their answer to `hello`."""
        for worker in workers:
            self._starting[call(worker, KMeansWorker.hello)] = worker
        self._false_starts = 0
        """Number of workers in a row that died as they started."""

    def start(self, count: int) -> None:
        """Start this number of workers, and ask for more up to `max_workers` without waiting.

        Raises WorkersLostError if fewer than `min_workers` start in time.
        """
        timeout = self.options.worker_start_timeout_s
        patience = min(PATIENCE_S, timeout)
        self.ask_for(count - len(self._starting))
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
        self.ask_for((self.options.max_workers or count) - count)

    def _needs(self) -> str:
        """Return a text of the needs of a worker and the free resources."""
        needs = f"{self.options.cpus_per_worker:g} CPU and {_free('CPU'):g} are free"
        if self.options.gpus_per_worker:
            needs += f", and {self.options.gpus_per_worker:g} GPU and {_free('GPU'):g} are free"
        return needs

    def ask_for(self, count: int) -> None:
        """Ask Ray for this number of workers more; they have started when they are welcomed."""
        for _ in range(count):
            worker = _new_worker(self._setup, self.options)
            self._starting[call(worker, KMeansWorker.hello)] = worker

    def welcome(self, count: int, timeout: float) -> int:
        """Wait until this number of starting workers has started; return how many have.

        Fewer may come before the `timeout`, in seconds. One that answers is started whatever it was
        waited for: where two come at once, the next call finds the other one.

        Raises WorkersLostError if workers die as they start again and again, ConfigError where
        one is of another version.
        """
        come = 0
        end = time.monotonic() + timeout
        while self._starting and come < count:
            left = max(end - time.monotonic(), 0)
            done, _ = ray.wait(list(self._starting), num_returns=1, timeout=left)
            if not done:
                break
            worker = self._starting.pop(done[0])
            try:
                _check_same(*ray.get(done[0]))
            except LOST as error:
                self._ask_again(error)
                continue
            self._false_starts = 0
            self.workers.append(worker)
            come += 1
        return come

    def _ask_again(self, error: Exception) -> None:
        """Ask for another worker in place of one that died as it started, unless that is
        hopeless."""
        self._false_starts += 1
        most = MOST_FALSE_STARTS if dies_by_itself(error) else MOST_LOST
        if self._false_starts >= most:
            raise WorkersLostError(
                f"{self._false_starts} workers in a row died as they started, the last one with: "
                f"{last_line(error)} Install ray_kmeans {__version__} and what it needs on every "
                "node; the Ray logs of the node tell more."
            ) from error
        self.ask_for(1)

    def replace(self, worker: Any) -> None:
        """Remove a dead worker from the group, and ask for another one.

        A second call for the same worker does nothing: two of its calls may fail, one after the
        other, and it is replaced once.
        """
        if worker in self.workers:
            self.workers.remove(worker)
            self.ask_for(1)

    def set_aside(self, worker: Any) -> None:
        """Give a worker that lags no more work until it answers: it counts as starting again.

        Its calls run in the order of their submission, so its answer to `hello` comes after all
        that it was asked before.
        """
        if worker in self.workers:
            self.workers.remove(worker)
            self._starting[call(worker, KMeansWorker.hello)] = worker

    def close(self) -> None:
        """End all workers, started or starting."""
        for worker in (*self.workers, *self._starting.values()):
            ray.kill(worker)
        self.workers, self._starting = [], {}


def _new_worker(setup: WorkerSetup, options: WorkerOptions) -> Any:
    """Ask Ray for a worker process; return its handle."""
    # A dead worker is replaced by its group: restarted by Ray it would have no rows.
    takes: Any = {"max_restarts": 0, "max_task_retries": 0, "concurrency_groups": {POLLS: 1}}
    takes |= {"num_cpus": options.cpus_per_worker, "num_gpus": options.gpus_per_worker or None}
    actor: Any = ray.remote(**takes)
    return actor(KMeansWorker).remote(setup)


@contextmanager
def ask_early(metric: Metric, options: WorkerOptions, count: int) -> Iterator[list[Any]]:
    """Ask for the workers of a group that another process will make; give their handles.

    So they start while that process does. They belong to this process: they end with this context,
    and with this process. Whoever takes a handle out of the list ends that worker himself.
    """
    setup = options.setup(metric)
    workers = [_new_worker(setup, options) for _ in range(count)]
    try:
        yield workers
    finally:
        for worker in workers:
            ray.kill(worker)


def place_shards(
    rows: Sequence[int], homes: dict[int, Any], workers: Sequence[Any], most: int | None
) -> dict[int, Any]:
    """Return a worker for each shard that has none: the one with the fewest rows, large ones first.

    `rows` are the rows of each shard, and `homes` the workers by shard so far. A worker may hold up
    to `most` rows, or one shard of any size. A shard gets none where no worker has room for it.
    """
    load = Counter({worker: 0 for worker in workers})
    for number, worker in homes.items():
        load[worker] += rows[number]
    found: dict[int, Any] = {}
    left = [number for number in range(len(rows)) if number not in homes]
    for number in sorted(left, key=lambda number: -rows[number]):
        worker = min(workers, key=lambda worker: load[worker], default=None)
        if worker is None:
            continue
        if load[worker] and most is not None and load[worker] + rows[number] > most:
            continue
        found[number] = worker
        load[worker] += rows[number]
    return found


def plan_moves(
    homes: dict[int, Any], moving: dict[int, tuple[Any, Any]], workers: Sequence[Any]
) -> Iterator[tuple[int, Any]]:
    """Yield shards that should move, each with the worker to move to.

    A shard moves from a worker to one that has at least two fewer: so no move is ever taken back.
    `moving` are the moves under way, by shard: where to, and the call that reads the shard there.
    """
    there = homes | {shard: worker for shard, (worker, _) in moving.items()}
    held = Counter({worker: 0 for worker in workers}) + Counter(there.values())
    for shard, home in homes.items():
        least = min(workers, key=lambda worker: held[worker])
        if shard not in moving and held[home] >= held[least] + 2:
            held[home] -= 1
            held[least] += 1
            yield shard, least


def _check_same(host: str, version: str) -> None:
    """Raise ConfigError for a worker on this machine that has another version than this process."""
    if version != __version__:
        raise ConfigError(
            f"the workers on {host} have ray_kmeans {version} and this process has {__version__}. "
            "Install the same on all nodes."
        )


def _free(kind: str) -> float:
    """Return how many CPUs or GPUs of the Ray cluster nobody has reserved."""
    return float(ray.available_resources().get(kind, 0))  # type: ignore[no-untyped-call]
