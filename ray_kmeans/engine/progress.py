"""How far a worker is with what it was asked, in rows."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import TypeAlias

Moved: TypeAlias = Callable[[int], None]
"""Hears how many rows are done."""


def nobody(rows: int) -> None:
    """Hear nothing."""


class Tally:
    """Adds up the rows that any thread has done, and tells how many they are in all."""

    def __init__(self, moved: Moved, rows: int = 0) -> None:
        self._moved = moved
        self.rows = rows
        self._lock = Lock()

    def __call__(self, rows: int) -> None:
        """Take note of so many more."""
        with self._lock:
            self.rows += rows
            self._moved(self.rows)
