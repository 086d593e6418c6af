"""The self-checks that units of this processor have passed, kept on disk for other processes.

Each is a file in the folder of the machine code that passed. It holds all that the result of a
check depends on, and is believed only if that is what it depends on now: whatever else it holds,
the check is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
from pathlib import Path

import numpy as np

from ray_kmeans._version import __version__
from ray_kmeans.kernels import self_check
from ray_kmeans.process import jit


def has_passed(unit: str, work: str) -> bool:
    """Tell whether a unit has passed its check for some work on a machine and versions as here."""
    place = _place(unit, work)
    if place is None:
        return False
    try:
        return place.read_bytes() == _conditions(unit, work)
    except OSError:
        return False


def note(unit: str, work: str) -> None:
    """Keep that a unit has passed its check; where nothing can be written, nothing is kept."""
    place = _place(unit, work)
    if place is None:
        return
    # Readers find the whole text or none of it. The id of a process is unique on one machine only.
    temporary = place.with_name(f"{place.name}.{platform.node()}.{os.getpid()}")
    try:
        temporary.write_bytes(_conditions(unit, work))
        temporary.replace(place)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _place(unit: str, work: str) -> Path | None:
    """Return the file for a unit and a work; None where no machine code is kept on disk.

    Machine types and versions that share a folder have a file each.
    """
    folder = jit.folder_of(self_check.multiply_often)
    if folder is None:
        return None
    return folder / f"passed-{hashlib.sha256(_conditions(unit, work)).hexdigest()[:16]}.txt"


def _conditions(unit: str, work: str) -> bytes:
    """Return all that the result of a check depends on: the unit, the processor, the code."""
    text = [
        f"unit: {unit}, for {work}",
        *(f"machine: {part}" for part in jit.made_for()),
        f"ray_kmeans: {__version__} {jit.hash_of_modules(jit.PACKAGE / 'kernels')}",
        f"numba: {jit.VERSION}",
        f"numpy: {np.__version__}",
        f"python: {platform.python_version()}",
    ]
    return "\n".join([*text, ""]).encode()
