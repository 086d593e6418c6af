"""A signal that asks this process to end: noted here, and looked at between two steps."""

from __future__ import annotations

import signal
from threading import Event
from types import FrameType

from ray_kmeans.errors import RunStoppedError

_asked = Event()


def listen() -> None:
    """Note SIGTERM from now on, instead of ending at once.

    Ray sets a handler of its own when it is joined, so this comes after.
    """
    signal.signal(signal.SIGTERM, _note)


def check() -> None:
    """Raise RunStoppedError where the process was asked to end."""
    if _asked.is_set():
        raise RunStoppedError


def _note(number: int, frame: FrameType | None) -> None:
    _asked.set()
