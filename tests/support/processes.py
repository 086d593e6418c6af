"""Helpers of several tests: processes."""

from __future__ import annotations

from pathlib import Path

from tests.support.ray_runs import (  # noqa: F401  a fixture
    WAYS,
    K,
    Killer,
    Memory,
    Way,
    bits,
    comes_true,
    descendants,
    fit_processes,
    ignore,
    loadable,
    nothing_stays,
    open_workers,
    replaced,
    state_of,
    stream_of,
    turn,
    write_real_data,
)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
