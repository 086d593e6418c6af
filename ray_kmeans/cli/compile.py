"""The command `compile`."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ray_kmeans.cli import exit_codes
from ray_kmeans.cli.flags import Configured
from ray_kmeans.errors import StoreError
from ray_kmeans.workflows.compile_kernels import compile_kernels

CACHE_DIR = "NUMBA_CACHE_DIR"
"""Environment variable that names the folder of numba's cache; numba reads it when it is
imported."""


@dataclass(frozen=True)
class Compile(Configured):
    """Compile and check the loops for this processor now, so that no run on it has to wait."""

    cache_dir: str | None = None
    """Directory for the machine code, to be shipped: runs find it by NUMBA_CACHE_DIR. None: where
    NUMBA_CACHE_DIR says, or beside the package."""


def run(flags: Compile) -> None:
    """Compile, and print what labels rows here and where the machine code is."""
    if flags.cache_dir is not None:
        os.environ[CACHE_DIR] = _made(flags.cache_dir)
    exit_codes.print_to_stderr("compile: for the processor of this machine, in this process")
    made = compile_kernels()
    if made.folder is None:
        raise StoreError("no folder for the machine code can be written. Give --cache-dir.")
    for name in dict.fromkeys(made.kernels):
        exit_codes.print_result("checked", name)
    exit_codes.print_result("seconds", f"{made.seconds:.1f}")
    exit_codes.print_result("machine code", str(made.folder))


def _made(given: str) -> str:
    """Make a directory and return its path; StoreError if it cannot be written."""
    place = Path(given).absolute()
    try:
        place.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise StoreError(f"cache_dir={given!r} cannot be written: {error}.") from None
    return str(place)
