"""A signal that asks this process to end: noted here, and looked at between two steps."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from types import FrameType

from ray_kmeans.errors import RunStoppedError

_asked = Event()


@contextmanager
def listening() -> Iterator[None]:
    """Note SIGTERM meanwhile, instead of ending at once.

    Ray sets a handler of its own when it is joined, so this comes after.
    """
    before = signal.signal(signal.SIGTERM, _note)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def check() -> None:
    """Raise RunStoppedError where the process was asked to end."""
    if _asked.is_set():
        raise RunStoppedError


def _note(number: int, frame: FrameType | None) -> None:
    _asked.set()
