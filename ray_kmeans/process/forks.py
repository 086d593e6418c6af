"""What a forked child does not have of its parent: threads, and with them Ray and the GPU."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from ray_kmeans.errors import ConfigError


class _Left(NamedTuple):
    """What a process had that no child of its can use."""

    pid: int
    names: frozenset[str]


_left = _Left(0, frozenset())


def hold_while_forking(lock: Any) -> None:
    """Fork only while no other thread holds this lock: in a child nobody would ever let go of it.

    It must be one that a thread may take twice.
    """
    at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)


def at_fork(**calls: Callable[[], Any]) -> None:
    """Have these called by `os.register_at_fork`, where a system has forks."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(**calls)


def check(name: str) -> None:
    """Raise ConfigError where this process was forked from one that used 'ray' or 'cuda'."""
    if _left.pid in (0, os.getpid()) or name not in _left.names:
        return
    raise ConfigError(
        f"this process was forked from process {_left.pid}, {_SAID[name]}. Start it by "
        "multiprocessing.get_context('spawn') or 'forkserver', or compute there."
    )


_SAID = {
    "ray": "whose connection to Ray it cannot use; num_workers=0 runs without Ray",
    "cuda": "which used the GPU, and CUDA does not survive that; backend='cpu' runs without it",
}


def _note() -> None:
    global _left
    ray, torch = sys.modules.get("ray"), sys.modules.get("torch")
    names = set() if _left.pid == os.getpid() else set(_left.names)
    if ray is not None and ray.is_initialized():
        names.add("ray")
    if torch is not None and torch.cuda.is_initialized():
        names.add("cuda")
    _left = _Left(os.getpid(), frozenset(names))


at_fork(before=_note)
