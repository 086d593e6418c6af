"""The pool on Ray: actors hold the shards; the work of one that dies or lags is done elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import reduce
from operator import add
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import ObjectLostError, RayTaskError

from ray_kmeans.algorithm.blocks import rows_of
from ray_kmeans.algorithm.grid import Extent
from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.partials import Sums
from ray_kmeans.engine.options import Workload
from ray_kmeans.engine.pool import Pool
from ray_kmeans.engine.progress import Moved
from ray_kmeans.engine.shard import Block
from ray_kmeans.engine.worker import ShardWorker
from ray_kmeans.errors import WorkersLostError
from ray_kmeans.observe import events as ev
from ray_kmeans.on_ray.calls import (
    Call,
    Group,
    Submit,
    by_host,
    call,
    method_of,
    submitted,
    until_lag,
)
from ray_kmeans.on_ray.losses import MOST_LOST, ShardLosses
from ray_kmeans.on_ray.object_store import room, sent
from ray_kmeans.on_ray.progress_polls import Looks
from ray_kmeans.on_ray.worker_actor import KMeansWorker
from ray_kmeans.on_ray.worker_group import (
    LOST,
    Crew,
    dealt,
    dies_by_itself,
    first_line,
    moves,
)

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound=Sums)

SLICE_FROM = 2**27
MOST_SLICES = 16
"""The sums of all hosts are added up in slices from so many bytes on, in so many at most."""


class _Asked(NamedTuple):
    """A call of a method of `ShardWorker`, as it travels to a worker process."""

    name: str
    """Name of the method: the one place where a function becomes its name."""
    args: tuple[Any, ...]
    """Arguments; the large ones as references to Ray's object store."""
    kwargs: dict[str, Any]
    """Arguments by name, in the same way."""

    @classmethod
    def of(
        cls,
        method: Callable[Concatenate[ShardWorker, P], Any],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> _Asked:
        """Put the large arguments into the object store."""
        by_name = {name: sent(arg) for name, arg in kwargs.items()}
        return cls(method.__name__, tuple(map(sent, args)), by_name)

    def ask_of(self, host: Any, group: Group) -> Any:
        """Submit it for some shards of a host, to be answered for each of them."""
        return call(host, KMeansWorker.ask, group, self.name, *self.args, **self.kwargs)

    def total_of(self, host: Any, group: Group) -> Any:
        """Submit it for some shards of a host, to be answered by the sum."""
        return call(host, KMeansWorker.total, group, self.name, *self.args, **self.kwargs)


class RayPool(Pool):
    """Shards on actors, owned by the process that makes the pool: they end with it.

    Answers are keyed by shard, so one that is computed twice, after a loss or because its host
    lags, counts once; by law both answers are equal.
    """

    def __init__(
        self,
        workload: Workload,
        metric: Metric,
        emit: ev.Emit,
    ) -> None:
        self.metric = metric
        self._emit = emit
        self._remembered: list[_Asked] = []
        self._loading: dict[int, Any] = {}
        self._moving: dict[int, Any] = {}
        self._crew = Crew(metric, workload.options, emit)
        try:
            self._crew.start(workload.options.num_workers or len(workload.shards))
        except BaseException:
            self.close()
            raise
        self._home: dict[int, Any] = {}
        self.take(workload.source, workload.shards)

    def take(self, source: Any, shards: Sequence[Sequence[Block]]) -> None:
        for host, group in by_host(self._home):
            call(host, KMeansWorker.drop, group)
        self._source = source
        self._shards = shards
        self._rows = [rows_of(shard) for shard in shards]
        self._remembered = []
        self._is_loaded = False
        self._losses = ShardLosses()
        self._home, self._moving, self._loading = {}, {}, {}
        self._settle()

    def load(self, moved: Moved | None = None) -> Extent:
        answers = self._gather(self._load, moved, may_lag=True)
        self._is_loaded = True
        extent: Extent = reduce(add, self._in_order(answers))
        return extent

    def ask_watched(
        self,
        moved: Moved | None,
        method: Callable[Concatenate[ShardWorker, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> list[T]:
        return self._ask(_Asked.of(method, *args, **kwargs), moved)

    def _ask(self, what: _Asked, moved: Moved | None = None, may_lag: bool = False) -> list[Any]:
        return self._in_order(self._gather(what.ask_of, moved, may_lag))

    def _in_order(self, answers: dict[Group, Any]) -> list[Any]:
        """Return one answer for each shard, in the order of the data."""
        by_shard = {
            shard: answer
            for group, of_group in answers.items()
            for shard, answer in zip(group, of_group, strict=True)
        }
        return [by_shard[shard] for shard in range(len(self._shards))]

    def total(
        self,
        method: Callable[Concatenate[ShardWorker, NDArray[np.float32], P], S],
        centers: NDArray[np.float32],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> S:
        self._turn_to_newcomers()
        slices = self._slices_for(centers)
        what = _Asked.of(method, centers, *args, **kwargs)
        if slices > 1:
            total: S = self._total_in_slices(slices, what)
            return total
        answers: dict[Group, S] = self._gather(what.total_of)
        return reduce(add, answers.values())

    def _slices_for(self, centers: NDArray[np.float32]) -> int:
        """Return in how many slices the sums of all hosts are added up; 1: all in this process."""
        hosts = len(set(self._home.values()))
        partials = hosts * centers.size * 8
        return min(hosts, MOST_SLICES, len(centers)) if partials >= SLICE_FROM else 1

    def _total_in_slices(self, slices: int, what: _Asked) -> Any:
        """Let each of some hosts add up one slice of the clusters, so that none gets all sums."""

        def submit(host: Any, group: Group) -> Any:
            sliced = method_of(host, KMeansWorker.sliced).options(num_returns=slices + 1)
            return sliced.remote(group, slices, what.name, *what.args, **what.kwargs)

        for _ in range(MOST_LOST):
            parts = self._gather(submit).values()
            hosts = [self._crew.hosts[i % len(self._crew.hosts)] for i in range(slices)]
            columns = zip(*parts, strict=True)
            added = [
                call(host, KMeansWorker.add_up, *each)
                for host, each in zip(hosts, columns, strict=True)
            ]
            try:
                found = ray.get(added)
                return type(found[0]).joined(found)
            except (*LOST, ObjectLostError):
                continue  # a host is lost, and its slices with it: the others label in no time
        raise WorkersLostError("workers died again and again while their sums were added up.")

    def remember(
        self, method: Callable[Concatenate[ShardWorker, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> list[T]:
        what = _Asked.of(method, *args, **kwargs)
        # The first time on a node it compiles: no reason to give its rows to another one.
        answers = self._ask(what, may_lag=True)
        self._remembered.append(what)
        return answers

    def forget(self, method: Callable[..., Any]) -> None:
        self._remembered = [each for each in self._remembered if each.name != method.__name__]

    def close(self) -> None:
        self._crew.close()

    def _gather(
        self, submit: Submit, moved: Moved | None = None, may_lag: bool = False
    ) -> dict[Group, Any]:
        """Submit for every shard and collect answers until there is one for each."""
        pending = submitted(submit, self._home)
        answers: dict[Group, Any] = {}
        began, first, taken = time.monotonic(), 0.0, list[float]()
        helped: set[Group] = set()
        looks = Looks(moved, self._rows)
        while len(missing := self._missing(answers)) > 0:
            patience = None if may_lag else until_lag(began, taken)
            within = looks.within(patience)
            done, _ = ray.wait(list(pending), num_returns=1, timeout=within)
            if not done and within != patience:
                looks.look(pending)
                looks.tell(missing, pending)
                continue
            if not done:
                pending |= self._help(submit, missing - set().union(*helped), helped)
                taken = []  # none but the helpers is waited for in this way
                continue
            host, group, parts = pending.pop(done[0])
            try:
                with room():
                    answer = ray.get(done[0])
            except RayTaskError as error:
                raise self._first_cause(group, error) from None
            except LOST as error:
                lost = missing & set(group) - {s for call in pending.values() for s in call.group}
                pending |= self._redo(submit, host, lost, error)
                continue
            if missing >= set(group):
                answers[group] = parts or answer
                taken.append(time.monotonic() - began)
                self._note(host, group)
                looks.tell(missing - set(group), pending)
                first, self.answered = first or time.perf_counter(), time.perf_counter()
        self.waited += self.answered - first
        return answers

    def _missing(self, answers: dict[Group, Any]) -> set[int]:
        return set(range(len(self._shards))).difference(*answers)

    def _note(self, host: Any, group: Group) -> None:
        """Take note of an answer: the shards are where it came from."""
        self._losses.answer(group)
        for shard in group:
            before, self._home[shard] = self._home[shard], host
            if before is not host and before not in self._home.values():
                self._crew.set_aside(before)  # until it has done what it was asked

    def _redo(self, submit: Submit, host: Any, lost: set[int], error: Exception) -> dict[Any, Call]:
        """Give all shards of a dead host to others, and submit those whose answer is missing."""
        cause = first_line(error)
        self._losses.add(lost)
        for shard in sorted(lost):
            if self._losses.is_hopeless(shard, dies_by_itself(error)):
                times = self._losses.count(shard)
                options = self._crew.options
                raise WorkersLostError(
                    f"worker {shard} died {times} times in a row, the last time with:"
                    f" {cause} See the Ray logs of its node. The plan was for at most "
                    f"{options.planned_bytes:,} bytes in a worker, for "
                    f"{options.planned_rows:,} rows; if it ran out of memory, use more workers "
                    "on more nodes, or cache='disk'."
                ) from error
        gone = [shard for shard, home in self._home.items() if home is host]
        self._crew.lose(host)
        for shard in gone:
            del self._home[shard]
        self._crew.welcome(1, self._crew.options.worker_replace_timeout_s)
        if gone:
            self._emit(ev.WorkerReplaced(gone[0], cause))
        self._settle()
        return submitted(submit, {s: home for s, home in self._home.items() if s in lost})

    def _settle(self) -> None:
        """Find a host for every shard that has none, and let it read the shard."""
        most = self._crew.options.most_rows
        while len(self._home) < len(self._shards):
            found = dealt(self._rows, self._home, self._crew.hosts, most)
            fewest = self._crew.options.min_workers or 1
            if not found or len(self._crew.hosts) < fewest:
                self._wait_for_room()
                continue
            self._home |= found
            for host, group in by_host(found):
                self._send(host, group)

    def _wait_for_room(self) -> None:
        timeout = self._crew.options.worker_start_timeout_s
        if self._crew.welcome(1, timeout):
            return
        left = sum(self._rows[shard] for shard in set(range(len(self._rows))) - set(self._home))
        raise WorkersLostError(
            f"{len(self._crew.hosts)} workers are left and have no room for {left:,} rows of lost "
            f"ones (each may hold {self._crew.options.most_rows or 0:,}), and none came within "
            f"{timeout:g} s. Add nodes and run the same again: it goes on from the last checkpoint."
        )

    def _send(self, host: Any, group: Group) -> Any:
        """Let a host read some shards and catch up with what the others were told."""
        for shard in group:
            self._moving.pop(shard, None)  # it has another way now
        if not self._is_loaded:
            return None
        # Calls of one caller run in the order of their submission, so none has to be awaited.
        reading = self._load(host, group)
        self._loading |= dict.fromkeys(group, reading)
        last = reading
        for what in self._remembered:
            last = what.ask_of(host, group)
        return last

    def _load(self, host: Any, group: Group) -> Any:
        shards = [self._shards[shard] for shard in group]
        return call(host, KMeansWorker.take, group, self._source, shards)

    def _help(self, submit: Submit, lagging: set[int], helped: set[Group]) -> dict[Any, Call]:
        """Let hosts that are done do the work of those that lag."""
        slow = {self._home[shard] for shard in lagging}
        idle = [host for host in self._crew.hosts if host not in slow]
        homes = {shard: home for shard, home in self._home.items() if shard not in lagging}
        found = dealt(self._rows, homes, idle, self._crew.options.most_rows)
        if found:
            self._emit(ev.WorkersLag(len(slow), sum(self._rows[shard] for shard in found)))
        for host, group in by_host(found):
            self._send(host, group)
            helped.add(group)
        return submitted(submit, found)

    def _turn_to_newcomers(self) -> None:
        """Let hosts that have come take shards from those that have most, once they read them."""
        for shard, (host, reading) in list(self._moving.items()):
            if ray.wait([reading], timeout=0)[0]:
                del self._moving[shard]
                if host in self._crew.hosts and host is not self._home[shard]:
                    call(self._home[shard], KMeansWorker.drop, [shard])
                    self._home[shard] = host
        if self._crew.welcome(1, 0.0):
            self._emit(ev.WorkersJoined(len(self._crew.hosts)))
        for shard, host in list(moves(self._home, self._moving, self._crew.hosts)):
            self._moving[shard] = host, self._send(host, (shard,))

    def _first_cause(self, group: Group, error: RayTaskError) -> BaseException:
        """Return what went wrong; where a host could not read a shard, that."""
        try:
            for shard in group:
                ray.get(self._loading.pop(shard, []))
        except RayTaskError as first:
            error = first
        return error.cause  # type: ignore[no-any-return]
