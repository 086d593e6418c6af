"""Where a benchmark ran, in the line that stands above its table; and what it can do there."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.kernels.cpu_units import units
from ray_kmeans.kernels.llvm.int8_products import BLOCK_ROWS, CHUNK_CENTERS
from ray_kmeans.kernels.self_check import multiply_often
from ray_kmeans.kernels.threads import Threads

COLUMNS = 512
"""Of the products whose peak is measured: 32 rows and 32 centers then fit the first cache."""
REPEATS, RUNS = 20_000, 10


def say_where(*packages: str) -> int:
    """Print machine and versions; return the number of threads."""
    print(f"{where(*packages)}\n")
    return threads()


def where(*packages: str) -> str:
    """Return machine and versions in a line."""
    versions = "".join(f", {name} {version(name)}" for name in packages)
    return f"{cpu_name()}, {threads()} threads, {platform.python_version()}{versions}"


def threads() -> int:
    """Return how many threads this process may run at once."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """Return the processor's name as its maker gives it, and the one that code is made for."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor()
    code_for = os.environ.get("NUMBA_CPU_NAME")
    return f"{name} that runs code for {code_for}" if code_for else name


def forget_peak() -> int | None:
    """Make this process's peak what it has now and return it, in bytes; None: not here."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return peak()


def peak() -> int:
    """Return the most memory this process has had, in bytes (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def fastest_products(unit_name: str, clock: Callable[[], float]) -> float | None:
    """Return the operations per second of all threads that only multiply bytes by this unit.

    The best of ten runs over 32 rows and 32 centers that stay in the first cache; a product and
    its sum are two operations. None: no such unit, as where BLAS multiplies.
    """
    unit = next((each for each in units().values() if each.name == unit_name), None)
    if unit is None:
        return None
    quads = COLUMNS // 4
    operands = [_operands(quads) for _ in range(threads())]  # kept: only their addresses go on
    places = [[each.ctypes.data for each in some] for some in operands]
    pool = Threads(threads())
    pool.run(multiply_often, [(unit.of(quads), quads, *some, 1) for some in places])
    seconds = []
    for _ in range(RUNS):
        begin = clock()
        pool.run(multiply_often, [(unit.of(quads), quads, *some, REPEATS) for some in places])
        seconds.append(clock() - begin)
    return 2.0 * BLOCK_ROWS * CHUNK_CENTERS * COLUMNS * REPEATS * threads() / min(seconds)


def _operands(quads: int) -> tuple[NDArray[Any], ...]:
    rows = np.ones((quads, BLOCK_ROWS, 4), np.int8)
    centers = np.ones((2, quads // 16, 16, 64), np.int8)
    return rows, centers, np.zeros(CHUNK_CENTERS, np.int32), np.zeros((32, 32), np.int32)
