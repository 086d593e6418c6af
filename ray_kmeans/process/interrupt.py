"""Note that this process is asked to end, by SIGTERM, and act on it between two steps of a run.

Ctrl-C (SIGINT) is Python's own KeyboardInterrupt, raised at once wherever the process is, unless
`listening` takes it like SIGTERM. Code that holds unsaved steps saves them while the exception
passes through it.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from types import FrameType

from ray_kmeans.errors import RunStoppedError

CTRL_C = "Ctrl-C"
"""Name of the key, as RunStoppedError and its messages have it."""
_stop_requested = Event()
"""Set from a request to the end of the run that it ends. One for the process: signals have no other
addressee, and the run may be looked at from any of its threads."""


@contextmanager
def listening() -> Iterator[None]:
    """Turn SIGTERM and Ctrl-C into a RunStoppedError of the run inside.

    A request belongs to that run: it is forgotten when the run is over, however it ends, so that
    the next run of this process is not ended by it. Enter this after Ray is joined, which sets a
    handler of its own.
    """
    before = signal.signal(signal.SIGTERM, _handle_sigterm)
    try:
        yield
    except KeyboardInterrupt:
        raise RunStoppedError(CTRL_C) from None
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
        _stop_requested.clear()


def request_stop() -> None:
    """Ask the run of this process to end, as SIGTERM does."""
    _stop_requested.set()


def check() -> None:
    """Raise RunStoppedError if the process was asked to end."""
    if _stop_requested.is_set():
        raise RunStoppedError


def _handle_sigterm(number: int, frame: FrameType | None) -> None:
    """Ask the run to stop at its next safe point; it saves what it has."""
    request_stop()
