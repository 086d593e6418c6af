"""What a fit has reached, for others to save while it goes on."""

from __future__ import annotations

from threading import Lock

from ray_kmeans.cluster.saver import Target
from ray_kmeans.clustering.state import FitState


class Reached:
    """The newest state of a fit, and whether it is saved. For several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._unsaved: tuple[Target, FitState] | None = None

    def note(self, store: Target, state: FitState) -> None:
        """Take note of a state that is nowhere else yet."""
        with self._lock:
            self._unsaved = store, state

    def forget(self) -> None:
        """Take note that all is saved, or will be by who noted it."""
        with self._lock:
            self._unsaved = None

    def save(self) -> None:
        """Save the newest state, if it is not yet."""
        with self._lock:
            unsaved, self._unsaved = self._unsaved, None
        if unsaved is not None:
            store, state = unsaved
            store.save(state)
