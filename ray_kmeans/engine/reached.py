"""What a fit has reached, for others to save while it goes on."""

from __future__ import annotations

from threading import Lock

from ray_kmeans.algorithm.state import FitState
from ray_kmeans.engine.checkpoint_saver import Saver, Target


class Reached:
    """The newest state of a fit, and whether it is saved. For several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._unsaved: tuple[Target, FitState] | None = None
        self._saver: Saver | None = None

    def note(self, store: Target, state: FitState) -> None:
        """Take note of a state that is nowhere else yet."""
        with self._lock:
            self._unsaved = store, state

    def leave_to(self, saver: Saver) -> None:
        """Take note that all is saved, or is being saved by this one."""
        with self._lock:
            self._unsaved, self._saver = None, saver

    def save(self) -> None:
        """Save the newest state, if it is not yet; what is being saved is waited for."""
        with self._lock:
            unsaved, self._unsaved = self._unsaved, None
            saver = self._saver
        if saver is not None:
            saver.wait()
        if unsaved is not None:
            store, state = unsaved
            store.save(state)
