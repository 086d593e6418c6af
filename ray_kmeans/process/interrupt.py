"""Signals that ask this process to end: SIGTERM is noted, and looked at between two steps.

Ctrl-C (SIGINT) is Python's own KeyboardInterrupt at once, wherever the process is: what holds steps
that are not saved saves them as it passes.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from types import FrameType

from ray_kmeans.errors import RunStoppedError

CTRL_C = "Ctrl-C"
_asked = Event()


@contextmanager
def listening() -> Iterator[None]:
    """Note SIGTERM meanwhile, instead of ending at once; Ctrl-C is a RunStoppedError, too.

    Ray sets a handler of its own when it is joined, so this comes after.
    """
    before = signal.signal(signal.SIGTERM, _note)
    try:
        yield
    except KeyboardInterrupt:
        raise RunStoppedError(CTRL_C) from None
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def check() -> None:
    """Raise RunStoppedError where the process was asked to end."""
    if _asked.is_set():
        raise RunStoppedError


def _note(number: int, frame: FrameType | None) -> None:
    _asked.set()
