"""The newest state of a fit, for other threads to save while the fit goes on."""

from __future__ import annotations

from threading import Lock

from ray_kmeans.algorithm.state import FitState
from ray_kmeans.engine.checkpoint_saver import Saver, Target


class NewestState:
    """Holds the newest state of a fit until it is saved. Any thread may call any method."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._unsaved: tuple[Target, FitState] | None = None
        """Newest state and where to save it; None if it is saved, or left to the saver."""
        self._saver: Saver | None = None
        """Saver that has got all older states."""

    def note(self, store: Target, state: FitState) -> None:
        """Note a state that nobody saves yet, and where to save it."""
        with self._lock:
            self._unsaved = store, state

    def leave_to(self, saver: Saver) -> None:
        """Note that this saver saves the newest state, or has saved it."""
        with self._lock:
            self._unsaved, self._saver = None, saver

    def save(self) -> None:
        """Save the newest state, unless it is saved; wait if it is being saved.

        The lock is not held meanwhile, since a store may take long: the fit goes on, and what it
        reaches after this call began is not saved by it.
        """
        with self._lock:
            unsaved, self._unsaved = self._unsaved, None
            saver = self._saver
        if saver is not None:
            saver.wait()
        if unsaved is not None:
            store, state = unsaved
            store.save(state)
