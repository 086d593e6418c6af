"""A worker process: it holds one shard or several, and answers for all of them in one call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from operator import add
from typing import Any

from ray_kmeans._version import __version__
from ray_kmeans.algorithm.grid import Extent
from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.engine.options import WorkerOptions
from ray_kmeans.engine.progress import Tally
from ray_kmeans.engine.shard import Block, Reader
from ray_kmeans.engine.worker import ShardWorker, this_process


class KMeansWorker:
    """Shards by their number. Each is a worker of its own, and they take turns."""

    def __init__(self, metric: Metric, options: WorkerOptions) -> None:
        self._how = metric, options.kernel, options.threads, options.keep, options.gpus
        self._workers: dict[int, ShardWorker] = {}
        self._done = 0

    def rows_done(self) -> int:
        """Return how many rows are done of what this host is asked now."""
        return self._done

    def hello(self) -> tuple[str, str]:
        """Return the name of this machine and the version of ray_kmeans here."""
        return this_process()[0], __version__

    def take(
        self, numbers: Sequence[int], source: Reader, shards: Sequence[Sequence[Block]]
    ) -> list[Extent]:
        """Read some shards; one that is here already is read anew."""
        extents = []
        with self._tally() as tally:
            for number, blocks in zip(numbers, shards, strict=True):
                self._workers.pop(number, None)
                worker = ShardWorker(*self._how)
                worker.noted = tally
                extents.append(worker.load(source, blocks))
                self._workers[number] = worker
        return extents

    def drop(self, numbers: Sequence[int]) -> None:
        """Forget some shards, and free what they took."""
        for number in numbers:
            self._workers.pop(number, None)

    def ask(self, numbers: Sequence[int], method: str, *args: Any) -> list[Any]:
        """Call a method of the worker of each of these shards."""
        answers = []
        with self._tally() as tally:
            for number in numbers:
                worker = self._workers[number]
                worker.noted = tally
                answers.append(getattr(worker, method)(*args))
        return answers

    def total(self, numbers: Sequence[int], method: str, *args: Any) -> Any:
        """Return the sum of what `ask` would."""
        return reduce(add, self.ask(numbers, method, *args))

    def sliced(self, numbers: Sequence[int], slices: int, method: str, *args: Any) -> list[Any]:
        """Return None, which is quickly told, and the total in so many slices of the clusters."""
        return [None, *self.total(numbers, method, *args).in_slices(slices)]

    def add_up(self, *slices: Any) -> Any:
        """Return the sum of one slice of several hosts."""
        return reduce(add, slices)

    @contextmanager
    def _tally(self) -> Iterator[Tally]:
        """Give what counts the rows of one call."""
        try:
            yield Tally(self._note)
        finally:
            self._note(0)

    def _note(self, rows: int) -> None:
        self._done = rows
