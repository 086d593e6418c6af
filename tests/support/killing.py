"""Find the processes that work for a place, and wait for a condition."""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path


def wait_until(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.002)


def processes_in(place):
    """Return the processes whose command line, or a file they have open, names the place.

    Ray's workers rename themselves; their logs tell where they are from. Its own agents stay
    for minutes after a killed driver, and touch nothing of ours.
    """
    traces = map(traces_of, Path("/proc").glob("[0-9]*"))
    return [t for t in traces if place in t and not re.match(r"ray::\w*Agent", t)]


def traces_of(process):
    traces = []
    with contextlib.suppress(OSError):
        traces.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        for file in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                traces.append(os.readlink(file))
    return " ".join(traces)
