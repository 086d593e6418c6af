"""The pool on Ray: worker processes hold the shards, and do the work of one that dies or lags."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import ObjectLostError, RayTaskError

from ray_kmeans.algorithm.grid import Extent
from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.partial_sums import Sums
from ray_kmeans.algorithm.row_counts import rows_of
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
    LagRule,
    Submit,
    call,
    group_by_worker,
    method_of,
    submit_all,
)
from ray_kmeans.on_ray.death_counts import MOST_LOST, ShardLosses
from ray_kmeans.on_ray.object_store import room, sent
from ray_kmeans.on_ray.progress_polls import POLL_S, ProgressPolls
from ray_kmeans.on_ray.ray_errors import LOST, dies_by_itself, first_line
from ray_kmeans.on_ray.worker_actor import KMeansWorker
from ray_kmeans.on_ray.worker_group import (
    WorkerGroup,
    place_shards,
    plan_moves,
)

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound=Sums)

MOST_SLICES = 16
"""Largest number of slices: of worker processes that add up at the same time."""


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

    def ask_of(self, worker: Any, group: Group) -> Any:
        """Submit the call for some shards of a worker process, which answers for each of them."""
        return call(worker, KMeansWorker.ask, group, self.name, *self.args, **self.kwargs)

    def total_of(self, worker: Any, group: Group) -> Any:
        """Submit the call for some shards of a worker process, which answers with their sum."""
        return call(worker, KMeansWorker.total, group, self.name, *self.args, **self.kwargs)


class RayPool(Pool):
    """Shards in worker processes, which belong to the process that makes the pool and end with it.

    A shard is at home in one worker process, and a worker may be home to several. The way of a
    shard: it is placed (`_settle`), read (`_send`), asked (`_gather`); it is placed anew when its
    worker dies (`_redo`), done by another one too when its worker lags (`_help`), and moved when
    workers have joined (`_turn_to_newcomers`).

    Answers are kept by shard, so one that is computed twice, after a loss or because its worker
    lags, counts once; and since no result depends on where it is computed, both are equal.
    """

    lag_rule = LagRule()
    """The rule by which a worker lags behind the others."""
    slice_from = 2**27
    """Bytes of the sums of all worker processes from which on they are added up in slices."""
    poll_s = POLL_S
    """Seconds between two polls of workers that are at work."""

    def __init__(
        self,
        workload: Workload,
        metric: Metric,
        emit: ev.Emit,
        workers: Sequence[Any] = (),
    ) -> None:
        """Start the workers, or take those that were asked for early, and give them the shards."""
        self.metric = metric
        self._emit = emit
        self._remembered: list[_Asked] = []
        """Calls that a worker must be asked once it has read a shard, in this order."""
        self._loading: dict[int, Any] = {}
        """Reference to the newest call that reads each shard, for its error."""
        self._moving: dict[int, Any] = {}
        """Shards that move to a worker that has joined: (worker, last call of its way there)."""
        self._group = WorkerGroup(metric, workload.options, emit, workers)
        try:
            self._group.start(workload.workers_at_start)
        except BaseException:
            self.close()
            raise
        self._home: dict[int, Any] = {}
        """Worker of each shard."""
        self.take(workload.source, workload.shards)

    def take(self, source: Any, shards: Sequence[Sequence[Block]]) -> None:
        """Turn to other data: workers drop their shards, and get new ones."""
        for worker, group in group_by_worker(self._home):
            call(worker, KMeansWorker.drop, group)
        self._source = source
        self._shards = shards
        self._rows = [rows_of(shard) for shard in shards]
        self._remembered = []
        self._is_loaded = False
        self._losses = ShardLosses()
        self._home, self._moving, self._loading = {}, {}, {}
        self._settle()

    @property
    def has_one_far_worker(self) -> bool:
        return len(self._shards) == 1

    def load(self, moved: Moved | None = None) -> Extent:
        """Let every worker read its shards, in its own time; return the extent of all rows."""
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
        """Ask all workers; return an answer for each shard, in the order of the data."""
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
        """Return the sum of all workers' answers; large ones are added up in slices, on the
        workers."""
        self._turn_to_newcomers()
        slices = self._slices_for(centers)
        what = _Asked.of(method, centers, *args, **kwargs)
        if slices > 1:
            total: S = self._total_in_slices(slices, what)
            return total
        answers: dict[Group, S] = self._gather(what.total_of)
        return reduce(add, answers.values())

    def _slices_for(self, centers: NDArray[np.float32]) -> int:
        """Return in how many slices the sums of all workers are added up; 1: in this process."""
        workers = len(set(self._home.values()))
        partials = workers * centers.size * 8
        return min(workers, MOST_SLICES, len(centers)) if partials >= self.slice_from else 1

    def _total_in_slices(self, slices: int, what: _Asked) -> Any:
        """Let some workers add up one slice of the clusters each, so that no process gets all sums.

        A worker that dies takes the slices with it that nobody has fetched yet. Then all is done
        once more: the centers are those that the others have labelled by already, which is quick.
        """

        def submit(worker: Any, group: Group) -> Any:
            """Call a worker so that it returns each slice of its sum as a value of its own."""
            sliced = method_of(worker, KMeansWorker.sliced).options(num_returns=slices + 1)
            return sliced.remote(group, slices, what.name, *what.args, **what.kwargs)

        for _ in range(MOST_LOST):
            parts = self._gather(submit).values()
            started = self._group.workers
            adders = [started[number % len(started)] for number in range(slices)]
            columns = zip(*parts, strict=True)
            added = [
                call(worker, KMeansWorker.add_up, *each)
                for worker, each in zip(adders, columns, strict=True)
            ]
            try:
                found = ray.get(added)
                return type(found[0]).joined(found)
            except (*LOST, ObjectLostError):
                continue
        raise WorkersLostError("workers died again and again while their sums were added up.")

    def remember(
        self, method: Callable[Concatenate[ShardWorker, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> list[T]:
        """Ask all workers, and later each that reads a shard anew."""
        what = _Asked.of(method, *args, **kwargs)
        # The first time on a node it compiles: no reason to give its rows to another one.
        answers = self._ask(what, may_lag=True)
        self._remembered.append(what)
        return answers

    def forget(self, method: Callable[..., Any]) -> None:
        self._remembered = [each for each in self._remembered if each.name != method.__name__]

    def close(self) -> None:
        self._group.close()

    def _gather(
        self, submit: Submit, moved: Moved | None = None, may_lag: bool = False
    ) -> dict[Group, Any]:
        """Submit for every shard and collect answers until there is one for each.

        Loss, lag and progress all happen in this loop. What keeps it right:

        - For each shard that is `missing` an answer, a call that names it is under way in
          `pending`. The loop ends only when none is missing, so it must never wait for nothing:
          whoever takes a call out of `pending` without an answer that counts submits anew what no
          other call names (`_alone`).
        - A shard may be asked twice, in groups that overlap: a worker that lags keeps its call when
          helpers do its shards. An answer of `total` is one sum over its group and cannot be taken
          apart. So an answer counts only if *all* shards of its group are missing
          (``missing >= set(group)``); else one of them would be counted twice. The groups in
          `answers` are therefore disjoint, and in the end they make up all shards.
        - Lag is told from the times of those that have answered (`taken`). Once helpers are at
          work these times are forgotten (``taken = []``): helpers began later, so against the old
          times they, too, would lag at once, and the loop would turn without a pause. The next time
          anybody can lag is when a helper has answered.
        - A shard is helped once (`helped`): a second helper would not be faster than the first. But
          where the answer of a helper of two shards does not count, as one of them was answered
          meanwhile, the other one may be helped again: its worker may have stopped for good.
        - An answer may come in parts, which stay where they are until somebody adds them up. Then
          what is fetched here is None, a sign that they are there: ``parts or answer``.
        - An exception of the worker's code ends the loop: wrong data stay wrong, so nobody else is
          asked. A lost worker never ends it, unless `_redo` finds that it is hopeless.
        """
        pending = submit_all(submit, self._home)
        answers: dict[Group, Any] = {}
        began, first, taken = time.monotonic(), 0.0, list[float]()
        helped: set[Group] = set()
        polls = ProgressPolls(moved, self._rows, self.poll_s)
        while len(missing := self._missing(answers)) > 0:
            patience = None if may_lag else self.lag_rule.seconds_left(began, taken)
            wait_s = polls.wait_s(patience)
            done, _ = ray.wait(list(pending), num_returns=1, timeout=wait_s)
            if not done and wait_s != patience:
                polls.poll(pending)
                polls.tell(missing, pending)
                continue
            if not done:
                pending |= self._help(submit, missing - set().union(*helped), helped)
                taken = []
                continue
            worker, group, parts = pending.pop(done[0])
            try:
                with room():
                    answer = ray.get(done[0])
            except RayTaskError as error:
                raise self._first_cause(group, error) from None
            except LOST as error:
                lost = missing & _alone(group, pending)
                pending |= self._redo(submit, worker, lost, error)
                continue
            if missing >= set(group):
                answers[group] = parts or answer
                taken.append(time.monotonic() - began)
                self._note(worker, group)
                polls.tell(missing - set(group), pending)
                first, self.answered = first or time.perf_counter(), time.perf_counter()
            else:
                helped.discard(group)
                left = missing & _alone(group, pending)
                pending |= submit_all(submit, {shard: self._home[shard] for shard in left})
        self.waited += self.answered - first
        return answers

    def _missing(self, answers: dict[Group, Any]) -> set[int]:
        """Return the shards that have no answer yet."""
        return set(range(len(self._shards))).difference(*answers)

    def _note(self, worker: Any, group: Group) -> None:
        """Make the worker that has answered the home of the shards that it answered for.

        The worker that lagged may lose its last shard so. It is set aside until it has done what it
        was asked, so that it gets no other work which then would lag, too.
        """
        self._losses.answer(group)
        for shard in group:
            before, self._home[shard] = self._home[shard], worker
            if before is not worker and before not in self._home.values():
                self._group.set_aside(before)

    def _redo(
        self, submit: Submit, worker: Any, lost: set[int], error: Exception
    ) -> dict[Any, Call]:
        """Give all shards of a dead worker to others, and submit the `lost` ones once more.

        A worker may hold shards that are not lost: they have answered, or a helper is at them. They
        need a home for the next call, but no new answer.

        Raises WorkersLostError if another worker would die of these shards, too.
        """
        cause = first_line(error)
        self._losses.add(lost)
        for shard in sorted(lost):
            if self._losses.is_hopeless(shard, dies_by_itself(error)):
                times = self._losses.count(shard)
                options = self._group.options
                raise WorkersLostError(
                    f"worker {shard} died {times} times in a row, the last time with:"
                    f" {cause} See the Ray logs of its node. The plan was for at most "
                    f"{options.planned_bytes:,} bytes in a worker, for "
                    f"{options.planned_rows:,} rows; if it ran out of memory, use more workers "
                    "on more nodes, or cache='disk'."
                ) from error
        gone = [shard for shard, home in self._home.items() if home is worker]
        self._group.replace(worker)
        for shard in gone:
            del self._home[shard]
        self._group.welcome(1, self._group.options.worker_replace_timeout_s)
        if gone:
            self._emit(ev.WorkerReplaced(gone[0], cause))
        self._settle()
        return submit_all(submit, {s: home for s, home in self._home.items() if s in lost})

    def _settle(self) -> None:
        """Find a worker for every shard that has none, and let it read the shard."""
        most = self._group.options.most_rows
        while len(self._home) < len(self._shards):
            found = place_shards(self._rows, self._home, self._group.workers, most)
            fewest = self._group.options.min_workers or 1
            if not found or len(self._group.workers) < fewest:
                self._wait_for_room()
                continue
            self._home |= found
            for worker, group in group_by_worker(found):
                self._send(worker, group)

    def _wait_for_room(self) -> None:
        """Wait for one worker more; raise WorkersLostError if none comes in time."""
        timeout = self._group.options.worker_start_timeout_s
        if self._group.welcome(1, timeout):
            return
        left = sum(self._rows[shard] for shard in set(range(len(self._rows))) - set(self._home))
        started, most = len(self._group.workers), self._group.options.most_rows or 0
        raise WorkersLostError(
            f"{started} workers are left and have no room for {left:,} rows of lost "
            f"ones (each may hold {most:,}), and none came within "
            f"{timeout:g} s. Add nodes and run the same again: it goes on from the last checkpoint."
        )

    def _send(self, worker: Any, group: Group) -> Any:
        """Let a worker read some shards and catch up with what the others were told.

        Returns a reference to its last answer on the way; None if nothing is loaded yet. Calls
        of one process run in the order of their submission, so none has to be awaited, and whatever
        is asked of the worker next finds the shards ready.
        """
        for shard in group:
            self._moving.pop(shard, None)  # a move of the shard that is under way counts no more
        if not self._is_loaded:
            return None
        reading = self._load(worker, group)
        self._loading |= dict.fromkeys(group, reading)
        last = reading
        for what in self._remembered:
            last = what.ask_of(worker, group)
        return last

    def _load(self, worker: Any, group: Group) -> Any:
        """Submit the call by which a worker reads some shards."""
        shards = [self._shards[shard] for shard in group]
        return call(worker, KMeansWorker.take, group, self._source, shards)

    def _help(self, submit: Submit, lagging: set[int], helped: set[Group]) -> dict[Any, Call]:
        """Let workers that are done do the shards of those that lag, as far as they have room.

        Nothing is taken from a worker that lags: whose answer comes first counts.
        """
        slow = {self._home[shard] for shard in lagging}
        idle = [worker for worker in self._group.workers if worker not in slow]
        homes = {shard: home for shard, home in self._home.items() if shard not in lagging}
        found = place_shards(self._rows, homes, idle, self._group.options.most_rows)
        if found:
            self._emit(ev.WorkersLag(len(slow), sum(self._rows[shard] for shard in found)))
        for worker, group in group_by_worker(found):
            self._send(worker, group)
            helped.add(group)
        return submit_all(submit, found)

    def _turn_to_newcomers(self) -> None:
        """Let workers that have joined take shards from those that have most.

        A shard moves in two steps, and no call waits for either: the new worker reads it while the
        old one still answers for it; and once it has been read, the next call finds it at its new
        home. A worker that dies or is set aside in between leaves the shard where it was.
        """
        for shard, (worker, reading) in list(self._moving.items()):
            if ray.wait([reading], timeout=0)[0]:
                del self._moving[shard]
                if worker in self._group.workers and worker is not self._home[shard]:
                    call(self._home[shard], KMeansWorker.drop, [shard])
                    self._home[shard] = worker
        if self._group.welcome(1, 0.0):
            self._emit(ev.WorkersJoined(len(self._group.workers)))
        for shard, worker in list(plan_moves(self._home, self._moving, self._group.workers)):
            self._moving[shard] = worker, self._send(worker, (shard,))

    def _first_cause(self, group: Group, error: RayTaskError) -> BaseException:
        """Return the error to raise: the reading's own, where a worker could not read a shard.

        Reading is submitted and not awaited, so it is the next call that fails; and its error, that
        there is no shard, tells nothing of why.
        """
        try:
            for shard in group:
                ray.get(self._loading.pop(shard, []))
        except RayTaskError as first:
            error = first
        return error.cause  # type: ignore[no-any-return]


def _alone(group: Group, pending: Mapping[Any, Call]) -> set[int]:
    """Return the shards of a group that no call under way names."""
    return set(group).difference(*(each.group for each in pending.values()))
