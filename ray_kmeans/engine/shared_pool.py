"""A pool whose rows are read once, and lent to one task after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.grid import Extent, Summary
from ray_kmeans.algorithm.partial_sums import Partials, Sums
from ray_kmeans.engine.pool import Pool
from ray_kmeans.engine.progress import Moved
from ray_kmeans.engine.shard import Block
from ray_kmeans.engine.worker import ShardWorker

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound=Sums)


class SharedPool:
    """Owns a pool, and lends it to tasks: a fit, an evaluation, labelled output.

    The first task reads the rows, and all later ones find them read. What else a task leaves with
    the workers (bounds of rows, seeds) is dropped before the next one, so that each task gets the
    bits that it would get alone. A task that ends by an exception leaves the pool as good as one
    that does not: the calls that are still under way in a worker run before those of the next task,
    and nobody waits for their answers.
    """

    def __init__(self, pool: Pool, most_restarts: int = 1) -> None:
        """Take a pool whose rows nobody has read yet.

        Its memory is planned for this many restarts at once, where rows do not stay in memory.
        """
        self.pool = pool
        """Pool that does the work."""
        self._most_restarts = most_restarts
        self._extent: Extent | None = None
        """Extent of all rows, once they are read."""
        self._summary: Summary | None = None
        """Summary of all rows, once they are measured."""
        self._lent: LentPool | None = None
        """Pool of the newest task."""

    def lend(self) -> LentPool:
        """Return the pool for one task; the pool of the task before must not be used any more."""
        if self._lent is not None:
            self._lent.close()
            if self._extent is not None:
                self.pool.ask(ShardWorker.begin_task)
        self._lent = LentPool(self, self.pool)
        return self._lent

    def read(self, moved: Moved | None = None) -> Extent:
        """Read the rows unless they are read; return their extent."""
        if self._extent is None:
            self._extent = self.pool.read(moved)
        return self._extent

    def summarize(self, moved: Moved | None = None) -> Summary:
        """Read and measure the rows, unless that is done; return their summary."""
        if self._summary is None:
            self._summary = self.pool.measure(self.read(moved))
        return self._summary

    def restarts_at_once(self) -> int:
        """Return how many restarts gain by sharing each pass over the rows.

        Where all rows stay in memory a pass costs nothing, and one after the other is as fast.
        """
        kept = all(self.pool.ask(ShardWorker.keeps_rows)) if self._most_restarts > 1 else True
        return 1 if kept else self._most_restarts

    def close(self) -> None:
        """End the workers. May be called twice."""
        self.pool.close()


class LentPool(Pool):
    """The pool of one task, whose rows may be read already; to close it ends no worker."""

    def __init__(self, owner: SharedPool, pool: Pool) -> None:
        self.metric = pool.metric
        self._shards = pool._shards
        self._owner = owner
        self._pool = pool
        self._told: list[Callable[..., Any]] = []
        """Methods that this task has told the pool to remember."""
        self._ready: dict[int, tuple[NDArray[np.float32], Partials]] = {}
        """Sets of centers whose rows are swept ahead, with the partial sums, by the id of each."""

    def ask_watched(
        self,
        moved: Moved | None,
        method: Callable[Concatenate[ShardWorker, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> list[T]:
        answers = self._pool.ask_watched(moved, method, *args, **kwargs)
        self._note_times()
        return answers

    def total(
        self,
        method: Callable[Concatenate[ShardWorker, NDArray[np.float32], P], S],
        centers: NDArray[np.float32],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> S:
        """Return the sum of all workers' answers, as the pool adds them up."""
        found = self._pool.total(method, centers, *args, **kwargs)
        self._note_times()
        return found

    @property
    def has_one_far_worker(self) -> bool:
        """Whether one worker holds all rows, in another process."""
        return self._pool.has_one_far_worker

    def _note_times(self) -> None:
        """Have the times that the pool has."""
        self.waited, self.answered = self._pool.waited, self._pool.answered

    def sweep_ahead(self, sets: Mapping[int, NDArray[np.float32]]) -> None:
        """Sweep for several fits that take turns, each of which will ask for its centers (k, d).

        `sets` are the centers by the place of the fit; all rows are fetched once.
        """
        centers = list(sets.values())
        found = self._pool.sweep_each(np.stack(centers), tuple(sets))
        self._note_times()
        self._ready = {id(each): (each, seen) for each, seen in zip(centers, found, strict=True)}

    def sweep(self, centers: NDArray[np.float32]) -> Partials:
        """Return the partial sums for these centers, (k, d), which may be swept ahead."""
        ready = self._ready.pop(id(centers), None)
        return super().sweep(centers) if ready is None else ready[1]

    def take(self, source: Any, shards: Sequence[Sequence[Block]]) -> None:
        """Refuse other data: the next task needs these rows."""
        raise RuntimeError("a lent pool keeps its rows")

    def load(self, moved: Moved | None = None) -> Extent:
        """Return the extent of the rows, which are read only once."""
        return self._owner.read(moved)

    def measure(self, extent: Extent) -> Summary:
        """Return the summary of the rows, which are measured only once."""
        return self._owner.summarize()

    def remember(
        self, method: Callable[Concatenate[ShardWorker, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> list[T]:
        self._told.append(method)
        answers = self._pool.remember(method, *args, **kwargs)
        self._note_times()
        return answers

    def forget(self, method: Callable[..., Any]) -> None:
        self._pool.forget(method)

    def close(self) -> None:
        """Let the pool forget what this task told it; the workers stay."""
        for method in self._told:
            self._pool.forget(method)
        self._told = []
