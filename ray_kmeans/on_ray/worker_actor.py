"""The class of a worker process, which holds one shard or several and answers for them.

It does not import Ray, which makes an actor of it elsewhere; so it can be tested as a plain class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import reduce
from operator import add
from threading import Thread
from typing import Any

from ray_kmeans import kernels
from ray_kmeans._version import __version__
from ray_kmeans.algorithm.grid import Extent
from ray_kmeans.engine.options import WorkerSetup
from ray_kmeans.engine.progress import Tally
from ray_kmeans.engine.shard import Block, Reader
from ray_kmeans.engine.worker import ShardWorker, this_process


class KMeansWorker:
    """Holds shards by their number, each in a `ShardWorker` of its own; these answer in turn."""

    def __init__(self, setup: WorkerSetup) -> None:
        self._setup = setup
        self._workers: dict[int, ShardWorker] = {}
        """Worker of each shard that is here, by the shard's number."""
        self._done = 0
        """Number of rows done of the call that runs now; 0 between two calls."""
        Thread(target=self._import_kernel, name="import", daemon=True).start()

    def _import_kernel(self) -> None:
        """Import what labels rows while the first shard is on its way: numba takes half a second.

        What fails here fails again, and is heard of, when the shard comes.
        """
        with suppress(Exception):
            kernels.load(self._setup.kernel, self._setup.threads, self._setup.gpus_per_worker)

    def rows_done(self) -> int:
        """Return how many rows are done of the call that runs now."""
        return self._done

    def hello(self) -> tuple[str, str]:
        """Return the name of this machine and the version of ray_kmeans here."""
        return this_process()[0], __version__

    def take(
        self, numbers: Sequence[int], source: Reader, shards: Sequence[Sequence[Block]]
    ) -> list[Extent]:
        """Read some shards, and return the extent of each; one that is here is read anew."""
        extents = []
        with self._tally() as tally:
            for number, blocks in zip(numbers, shards, strict=True):
                self._workers.pop(number, None)
                worker = ShardWorker(self._setup)
                worker.on_rows = tally
                extents.append(worker.load(source, blocks))
                self._workers[number] = worker
        return extents

    def drop(self, numbers: Sequence[int]) -> None:
        """Forget some shards, and free what they took."""
        for number in numbers:
            self._workers.pop(number, None)

    def ask(self, numbers: Sequence[int], method: str, *args: Any, **kwargs: Any) -> list[Any]:
        """Call a method of `ShardWorker` for each of these shards; return the answers in order.

        Only `RayPool` calls this, and takes the name from the method itself.
        """
        answers = []
        with self._tally() as tally:
            for number in numbers:
                worker = self._workers[number]
                worker.on_rows = tally
                answers.append(getattr(worker, method)(*args, **kwargs))
        return answers

    def total(self, numbers: Sequence[int], method: str, *args: Any, **kwargs: Any) -> Any:
        """Return the sum of what `ask` returns."""
        return reduce(add, self.ask(numbers, method, *args, **kwargs))

    def sliced(
        self, numbers: Sequence[int], slices: int, method: str, *args: Any, **kwargs: Any
    ) -> list[Any]:
        """Return (None, *slices): the total, cut into this number of slices of the clusters.

        Each becomes an object of its own on Ray. The leading None is a cheap sign that the work is
        done: to wait for it and fetch it moves no sums.
        """
        return [None, *self.total(numbers, method, *args, **kwargs).in_slices(slices)]

    def add_up(self, *slices: Any) -> Any:
        """Return the sum of the same slice of several worker processes."""
        return reduce(add, slices)

    @contextmanager
    def _tally(self) -> Iterator[Tally]:
        """Give a tally of the rows of one call; afterwards none are under way."""
        try:
            yield Tally(self._note)
        finally:
            self._note(0)

    def _note(self, rows: int) -> None:
        """Note how many rows of the call that runs now are done."""
        self._done = rows
