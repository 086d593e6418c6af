"""The progress of a worker in a call, as a number of rows."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import TypeAlias

Moved: TypeAlias = Callable[[int], None]
"""Callback that hears how much is done: rows, or the units of the phase that it belongs to."""


def ignore(done: int) -> None:
    """Do nothing with the number of rows that are done."""


class Tally:
    """Adds up the rows that any thread has done, and tells a callback how many these are in all."""

    def __init__(self, moved: Moved | None, rows: int = 0) -> None:
        self._moved = moved or ignore
        self.rows = rows
        """Number of rows done so far."""
        self._lock = Lock()

    def __call__(self, rows: int) -> None:
        """Count more rows as done."""
        with self._lock:
            self.rows += rows
            self._moved(self.rows)

    def catch_up(self, rows: int) -> None:
        """Tell that this number of rows is done, if it was not told block by block."""
        if self.rows < rows:
            self._moved(rows)
