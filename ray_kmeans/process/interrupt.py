"""Note a request to end this process (SIGTERM), and act on it between two steps of a run.

Ctrl-C (SIGINT) stays Python's own KeyboardInterrupt, raised at once wherever the process is: code
that holds unsaved steps saves them while the exception passes through it.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from types import FrameType

from ray_kmeans.errors import RunStoppedError

CTRL_C = "Ctrl-C"
"""Reason in the RunStoppedError of a run that the keyboard stopped."""
_asked = Event()
"""Set once SIGTERM has come while `listening`."""


@contextmanager
def listening() -> Iterator[None]:
    """Note SIGTERM inside, instead of ending at once; Ctrl-C becomes RunStoppedError.

    Enter it after Ray is joined, which sets a handler of its own. At the end a request is
    forgotten, with the run that it was for: a later run of this process goes on.
    """
    before = signal.signal(signal.SIGTERM, _note)
    try:
        yield
    except KeyboardInterrupt:
        raise RunStoppedError(CTRL_C) from None
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
        _asked.clear()


def check() -> None:
    """Raise RunStoppedError if this process was asked to end."""
    if _asked.is_set():
        raise RunStoppedError


def _note(number: int, frame: FrameType | None) -> None:
    """Handle SIGTERM: remember it."""
    _asked.set()
