"""How often in a row something dies, and when that is hopeless."""

from __future__ import annotations

import time

MOST = 3
"""In a row, where it has never done what it is for, or Ray itself kills it for want of memory."""
MOST_PROVEN = 12
"""In a row, where it has: what kills it now may be something that goes round and kills."""
STILL_S = 120.0
"""A coordinator has at least so long to get on, however often it dies."""


class CoordinatorLosses:
    """Deaths of coordinators since the last progress, which is a checkpoint."""

    def __init__(self, reached: list[str]) -> None:
        self._reached = reached
        self._since = time.monotonic()
        self.count = 0

    def add(self, reached: list[str]) -> None:
        """Count one more, with the newest checkpoint that was there when it died."""
        if reached != self._reached:
            self._reached, self._since, self.count = reached, time.monotonic(), 0
        self.count += 1

    def is_hopeless(self, by_itself: bool) -> bool:
        """Tell whether another one would die, too; one that dies `by_itself` has no more time."""
        waited = time.monotonic() - self._since
        return self.count > MOST and (by_itself or waited >= STILL_S)
