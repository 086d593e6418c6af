"""How a command ends: by its exit code, and in one line where it did not do what it should.

0    it is done
1    an error, in one line
2    flags, or values of them, that cannot be used: in one line too
130  stopped by Ctrl-C (SIGINT); by a second one, at once
141  whoever read what it prints has gone, as `| head` does
143  stopped by SIGTERM
"""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from ray_kmeans.errors import (
    BudgetError,
    ClusterError,
    ConfigError,
    ModelMismatchError,
    RayKMeansError,
    RunStoppedError,
)
from ray_kmeans.process import interrupt
from ray_kmeans.text import secrets
from ray_kmeans.text.one_line import in_one_line

STOPPED = 128 + signal.SIGTERM
INTERRUPTED = 128 + signal.SIGINT
"""Like STOPPED, the exit code that shells give for a process that the signal ended."""
UNREAD = 128 + 13
"""As shells tell that a reader has gone (SIGPIPE)."""
UNUSABLE = 2


def run(call: Callable[[], None]) -> None:
    """Call it with our log on standard error, and end this process where that fails."""
    quiet = sys.stderr.isatty()  # a terminal has the progress bar
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("ray_kmeans").setLevel(logging.WARNING if quiet else logging.INFO)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    end_at_sigterm()
    if before[signal.SIGINT] is not signal.SIG_IGN:  # as of what runs in the background
        signal.signal(signal.SIGINT, _interrupt)
    try:
        try:
            with _warnings_in_one_line():
                call()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _is_unread():
            raise
        sys.exit(UNREAD)
    except RunStoppedError as stopped:
        say(str(stopped))
        sys.exit(INTERRUPTED if stopped.by == interrupt.CTRL_C else STOPPED)
    except KeyboardInterrupt:
        say(f"stopped by {interrupt.CTRL_C}. Run the same again.")
        sys.exit(INTERRUPTED)
    except (
        BudgetError,
        ClusterError,
        ModelMismatchError,
    ) as error:  # of what there is, not of the flags alone
        sys.exit(f"error: {error}")
    except ConfigError as error:
        say(f"error: {error}")
        sys.exit(UNUSABLE)
    except RayKMeansError as error:
        sys.exit(f"error: {error}")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Show warnings without the place in our code that gave them, and that line of it."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"{in_one_line(f'warning: {message}')}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def end_at_sigterm() -> None:
    """End in good order at SIGTERM.

    Ray sets a handler of its own when it is joined, so this is to be called again after.
    """
    signal.signal(signal.SIGTERM, _end)


def _is_unread() -> bool:
    """Tell whether nobody reads what we print; then nothing more is tried to be printed."""
    asked = select.poll()
    asked.register(sys.stdout.fileno(), 0)
    unread = any(state & select.POLLERR for _, state in asked.poll(0))
    if unread:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return unread


def say(text: str) -> None:
    """Tell it in one line on standard error, where it does not mix with results."""
    print(in_one_line(text), file=sys.stderr, flush=True)


def tell(what: str, place: str) -> None:
    """Print in one line what is where."""
    print(in_one_line(f"{what}: {secrets.shown(place)}"))


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Stop the command in good order at the first signal, and at once at the second."""
    signal.signal(signal.SIGINT, _end_at_once)
    raise KeyboardInterrupt


def _end_at_once(number: int, frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


def _end(number: int, frame: FrameType | None) -> None:
    say("stopped by SIGTERM. Run the same again.")
    sys.exit(STOPPED)
