"""Threads of this process for compiled loops, which release the GIL."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any, ParamSpec, TypeVar

from ray_kmeans.process import forks

P = ParamSpec("P")
T = TypeVar("T")

TASKS_PER_THREAD = 4
"""Pieces of work for each thread, so that none waits long for the last."""


class Threads:
    """A number of threads that share work; one thread or piece of work is the caller's own."""

    def __init__(self, count: int) -> None:
        self.count = count

    def run(self, work: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> list[Any]:
        """Call `work` with each tuple of arguments, in parallel; return the results in order."""
        pieces = list(arguments)
        if self.count == 1 or len(pieces) == 1:
            return [work(*each) for each in pieces]
        return list(_executor(self.count).map(lambda each: work(*each), pieces))

    def begin(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Begin to call `work` in a thread that is not the caller's own."""
        return _executor(self.count).submit(work, *args, **kwargs)


@lru_cache
def _executor(count: int) -> ThreadPoolExecutor:
    """Return the executor with this many threads, made once in a process."""
    return ThreadPoolExecutor(count, thread_name_prefix="ray-kmeans")


forks.at_fork(after_in_child=_executor.cache_clear)  # threads are not forked
