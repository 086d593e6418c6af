"""Writes checkpoints in a thread of its own, while the next iteration is computed."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Protocol

from ray_kmeans.algorithm.state import FitState
from ray_kmeans.observe import events as ev


class Target(Protocol):
    """Place where states are saved; `save` returns the path once readers can see the checkpoint."""

    def save(self, state: FitState) -> str:
        """Save a state; return the path of the checkpoint."""


class Saver:
    """Saves states in the order in which they come, one at a time.

    A save waits for the one before it. So every checkpoint that was asked for is there, however
    slow the store is; two states are held at most; and a kill costs the time since the last save
    but one at most. To leave out a state that has not begun would spare that wait, but then the
    speed of a store would decide which checkpoints there are.

    Events are emitted by the thread that calls `save`, `tell` and `flush`, so listeners need not be
    ready for two threads. A write that failed is raised there too, once.
    """

    def __init__(self, store: Target, emit: ev.Emit) -> None:
        self._store = store
        self._emit = emit
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="saver")
        self._under_way: Future[ev.CheckpointSaved] | None = None
        """Save that is being made, or whose event is not emitted yet."""

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait until all is saved; raise what went wrong, unless an exception is on its way
        already."""
        with self._thread:
            if error is None:
                self.flush()

    def save(self, state: FitState) -> None:
        """Wait for the save before, and begin to save a state, which must not change any more."""
        self.flush()
        self._under_way = self._thread.submit(self._write, state)

    def tell(self) -> None:
        """Emit the event of a save that is done by now, or raise why it failed; never wait."""
        if self._under_way is not None and self._under_way.done():
            self.flush()

    def flush(self) -> None:
        """Wait until all is saved, emit its event, and raise what went wrong."""
        if self._under_way is not None:
            try:
                saved = self._under_way.result()
            finally:
                self._under_way = None
            self._emit(saved)

    def wait(self) -> None:
        """Wait for the save that is under way, if there is one. Any thread may call this."""
        under_way = self._under_way
        if under_way is not None:
            wait([under_way])

    def _write(self, state: FitState) -> ev.CheckpointSaved:
        """Save a state; return the event of it. Runs in the thread of the saver."""
        begin = time.perf_counter()
        path = self._store.save(state)
        return ev.CheckpointSaved(path, state.iteration, time.perf_counter() - begin)
