"""Runs a command that pauses at a point of the code, so that a test can send it a signal there."""

from __future__ import annotations

import functools
import importlib
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def pause_at(point, call, seconds, sign):
    """Let the `call`-th call of module:class.name first make the file `sign`, and then wait.

    It waits until the sign is taken away and a little longer, so that a signal that was sent before
    is met in the wait; and for so many seconds at most.
    """
    module, _, names = point.partition(":")
    *owners, name = names.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    function, calls = getattr(owner, name), itertools.count(1)

    @functools.wraps(function)
    def paused(*args, **kwargs):
        if next(calls) == call:
            Path(sign).touch()
            end = time.monotonic() + seconds
            while Path(sign).exists() and time.monotonic() < end:
                time.sleep(0.02)
            time.sleep(0.3)
        return function(*args, **kwargs)

    setattr(owner, name, paused)


def hear_ctrl_c():
    """Let a process that is about to start hear SIGINT, which shells hide from what runs behind."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(words, point=None, sign=None, call=1, seconds=60.0, **environment):
    """Start the `ray-kmeans` command with a pause in it."""
    pause = f"pause_at({point!r}, {call}, {seconds}, {str(sign)!r})\n" if point else ""
    code = "from tests.support.pausing import pause_at\n"
    code += f"{pause}from ray_kmeans.cli import main\nmain()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        preexec_fn=hear_ctrl_c,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
