"""The pool on Ray: one actor per shard; a worker that dies is replaced and asked again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from ray_kmeans.cluster.pool import Pool
from ray_kmeans.cluster.shelf import Keep
from ray_kmeans.cluster.worker import Block, ShardWorker
from ray_kmeans.clustering.grid import Extent
from ray_kmeans.errors import WorkersLostError
from ray_kmeans.observe import events as ev

MAX_LOSSES = 3
"""Times in a row that one shard's worker may die before the fit gives up: then it is the shard."""

PATIENCE_S = 10.0
"""Wait for the start of workers before the user hears of it."""
INLINE_BYTES = 64 * 1024


class RayPool(Pool):
    """Workers as Ray actors, owned by the process that makes the pool: they end with it.

    Answers are keyed by shard, so a shard that is redone after a loss counts once.
    """

    def __init__(
        self,
        source: Any,  # an ObjectRef of the source: rows of an array reach the workers uncopied
        shards: Sequence[Sequence[Block]],
        metric: str,
        *,
        cpus_per_worker: float,
        keep: Keep = Keep(),  # noqa: B008 (frozen)
        start_timeout_s: float,
        emit: ev.Emit,
        n_workers: int | None = None,
    ) -> None:
        self.metric = metric
        self._cpus_per_worker = cpus_per_worker
        self._start_timeout_s = start_timeout_s
        self._keep = keep
        self._emit = emit
        self._remembered: list[tuple[str, tuple[Any, ...]]] = []
        self._losses: Counter[int] = Counter()
        self._reloads: dict[int, Any] = {}
        self.take(source, shards)
        self._workers = [self._new_worker() for _ in range(n_workers or len(shards))]
        try:
            self._wait_for_start(self._workers)
        except BaseException:
            self.close()
            raise

    def take(self, source: Any, shards: Sequence[Sequence[Block]]) -> None:
        self._source = source
        self._shards = shards
        self._remembered = []

    def load(self) -> Extent:
        extents: list[Extent] = self._gather(self._load_shard)
        return reduce(add, extents)

    def ask(self, method: str, *args: Any) -> list[Any]:
        shared = [_shared(arg) for arg in args]
        return self._gather(lambda shard: getattr(self._workers[shard], method).remote(*shared))

    def remember(self, method: str, *args: Any) -> list[Any]:
        shared = tuple(_shared(arg) for arg in args)
        answers = self.ask(method, *shared)
        self._remembered.append((method, shared))
        return answers

    def forget(self, method: str) -> None:
        self._remembered = [each for each in self._remembered if each[0] != method]

    def close(self) -> None:
        for worker in self._workers:
            ray.kill(worker)
        self._workers = []

    def _load_shard(self, shard: int) -> Any:
        return self._workers[shard].load.remote(self._source, self._shards[shard])

    def _gather(self, submit: Any) -> list[Any]:
        """Submit for every shard and collect all answers; what a dead worker owed is redone."""
        pending = {submit(shard): shard for shard in range(len(self._shards))}
        answers: dict[int, Any] = {}
        while pending:
            done, _ = ray.wait(list(pending), num_returns=1)
            shard = pending.pop(done[0])
            try:
                answers[shard] = ray.get(done[0])
                self._losses.pop(shard, None)
            except RayTaskError as error:
                raise self._first_cause(shard, error) from None
            except RayActorError as error:
                self._replace(shard, error)
                pending[submit(shard)] = shard
        return [answers[shard] for shard in range(len(self._shards))]

    def _replace(self, shard: int, error: RayActorError) -> None:
        cause = first_line(error)
        self._losses[shard] += 1
        if self._losses[shard] > MAX_LOSSES:
            raise WorkersLostError(
                f"worker {shard} died {self._losses[shard]} times in a row, the last time with: "
                f"{cause} See the Ray logs of its node; if it ran out of memory, use more workers "
                "on more nodes."
            ) from error
        self._emit(ev.WorkerReplaced(shard, cause))
        self._workers[shard] = self._new_worker()
        self._wait_for_start([self._workers[shard]])
        # Calls of one caller run in the order of their submission, so none has to be awaited.
        self._reloads[shard] = self._load_shard(shard)
        for method, args in self._remembered:
            getattr(self._workers[shard], method).remote(*args)

    def _first_cause(self, shard: int, error: RayTaskError) -> BaseException:
        """Return what went wrong; where a replacement could not read its shard, that."""
        try:
            ray.get(self._reloads.pop(shard, []))
        except RayTaskError as first:
            error = first
        cause: BaseException = error.cause
        return cause

    def _wait_for_start(self, workers: Sequence[Any]) -> None:
        here = [worker.where.remote() for worker in workers]
        timeout = self._start_timeout_s
        patience = min(PATIENCE_S, timeout)
        _, missing = ray.wait(here, num_returns=len(here), timeout=patience)
        if missing and timeout > patience:
            self._emit(ev.Waiting(len(missing), len(here), _free_cpus()))
            _, missing = ray.wait(here, num_returns=len(here), timeout=timeout - patience)
        if missing:
            free = _free_cpus()
            raise WorkersLostError(
                f"{len(missing)} of {len(here)} workers did not start within "
                f"worker_start_timeout_s={timeout:g}; each needs {self._cpus_per_worker:g} CPU "
                f"and {free:g} are free. Lower num_workers or cpus_per_worker, or wait longer."
            )

    def _new_worker(self) -> Any:
        # The pool replaces a dead worker itself: restarted by Ray it would have no rows.
        actor = ray.remote(num_cpus=self._cpus_per_worker, max_restarts=0, max_task_retries=0)
        threads = max(int(self._cpus_per_worker), 1)
        return actor(ShardWorker).remote(self.metric, threads=threads, keep=self._keep)


def first_line(error: Exception) -> str:
    """Return what happened, without Ray's advice below it."""
    return str(error).strip().split("\n")[0]


def _shared(arg: Any) -> Any:
    """Put what is large into the object store once; what is small travels faster with the call."""
    return ray.put(arg) if getattr(arg, "nbytes", 0) > INLINE_BYTES else arg


def _free_cpus() -> float:
    return float(ray.available_resources().get("CPU", 0))  # type: ignore[no-untyped-call]
