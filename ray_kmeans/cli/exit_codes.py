"""Run a command and end the process with its exit code; errors are one line.

0    the command is done
1    an error, in one line
2    flags, or values of them, that cannot be used: in one line too
130  stopped by Ctrl-C (SIGINT); a second one stops at once
141  the reader of standard output has gone, as `| head` does
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
"""Exit code of a command that SIGTERM ended, as shells give it."""
INTERRUPTED = 128 + signal.SIGINT
"""Exit code of a command that Ctrl-C ended, as shells give it."""
UNREAD = 128 + 13
"""Exit code of a command whose reader has gone (SIGPIPE), as shells give it."""
UNUSABLE = 2
"""Exit code for flags that cannot be used, as argparse gives it."""


def run(call: Callable[[], None]) -> None:
    """Run a command with our log on standard error; end this process if it fails."""
    quiet = sys.stderr.isatty()  # a terminal has the progress bar
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("ray_kmeans").setLevel(logging.WARNING if quiet else logging.INFO)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    end_at_sigterm()
    # Shells ignore SIGINT for what runs in the background; that stays.
    if before[signal.SIGINT] is not signal.SIG_IGN:
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
        print_to_stderr(str(stopped))
        sys.exit(INTERRUPTED if stopped.by == interrupt.CTRL_C else STOPPED)
    except KeyboardInterrupt:
        print_to_stderr(f"stopped by {interrupt.CTRL_C}. Run the same again.")
        sys.exit(INTERRUPTED)
    except (BudgetError, ClusterError, ModelMismatchError) as error:
        # These are ConfigErrors, but the machines or the model are at fault, not the flags alone.
        sys.exit(f"error: {error}")
    except ConfigError as error:
        print_to_stderr(f"error: {error}")
        sys.exit(UNUSABLE)
    except RayKMeansError as error:
        sys.exit(f"error: {error}")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Show warnings in one line, without the place in our code that gave them."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"{in_one_line(f'warning: {message}')}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def end_at_sigterm() -> None:
    """Let SIGTERM end the command in good order.

    Ray sets a handler of its own when it is joined; call this again after that.
    """
    signal.signal(signal.SIGTERM, _end)


def _is_unread() -> bool:
    """Return whether nobody reads standard output any more; it goes nowhere from then on."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    unread = any(state & select.POLLERR for _, state in poll.poll(0))
    if unread:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return unread


def print_to_stderr(text: str) -> None:
    """Print one line on standard error, where it does not mix with results."""
    print(in_one_line(text), file=sys.stderr, flush=True)


def print_model(model_dir: str, is_labelled: bool = False) -> None:
    """Print where a fitted model is, and what to do next."""
    place = in_one_line(secrets.shown(model_dir))
    label = "" if is_labelled else "label rows with `predict`, or "
    print(f"\nmodel: {place}\nnext: {label}read the centers with")
    print(f"  ray_kmeans.load_model({place!r}).clusters()")


def print_result(what: str, place: str) -> None:
    """Print in one line what was made, and where it is."""
    print(in_one_line(f"{what}: {secrets.shown(place)}"))


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Stop the command in good order at the first signal; at once at the second."""
    signal.signal(signal.SIGINT, _end_at_once)
    raise KeyboardInterrupt


def _end_at_once(number: int, frame: FrameType | None) -> None:
    """End the process on a second interrupt, without the clean-up that the first one began."""
    os._exit(INTERRUPTED)


def _end(number: int, frame: FrameType | None) -> None:
    """End the process on SIGTERM with the exit code for a stopped run."""
    print_to_stderr("stopped by SIGTERM. Run the same again.")
    sys.exit(STOPPED)
