"""Keep forked children from what only their parent has: threads, and with them Ray and the GPU."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from ray_kmeans.errors import ConfigError


class _Parent(NamedTuple):
    """A process that forked, with what it used and no child can use."""

    pid: int
    """Id of the process; 0 if none has forked."""
    uses: frozenset[str]
    """Some of 'ray' and 'cuda'."""


_parent = _Parent(0, frozenset())
"""The process that forked last among this one and its ancestors."""
PROBLEMS = {
    "ray": "whose connection to Ray it cannot use; num_workers=0 runs without Ray",
    "cuda": "which used the GPU, and CUDA does not survive that; backend='cpu' runs without it",
}
"""What is wrong in a child, and what helps, by what its parent used."""


def hold_while_forking(lock: Any) -> None:
    """Let this process fork only while the forking thread holds a lock.

    A child has the forking thread alone. A lock that another thread held at the fork would stay
    locked in it for ever. The lock must be reentrant, as the forking thread may hold it already.
    """
    at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)


def at_fork(**calls: Callable[[], Any]) -> None:
    """Register calls as `os.register_at_fork` does, on systems that have forks."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(**calls)


def check(name: str) -> None:
    """Raise ConfigError if this process was forked from one that used `name`: 'ray' or 'cuda'."""
    if _parent.pid in (0, os.getpid()) or name not in _parent.uses:
        return
    raise ConfigError(
        f"this process was forked from process {_parent.pid}, {PROBLEMS[name]}. Start it by "
        "multiprocessing.get_context('spawn') or 'forkserver', or compute there."
    )


def _note() -> None:
    """Remember, just before a fork, what this process uses; a child keeps its ancestors' too."""
    global _parent
    ray, torch = sys.modules.get("ray"), sys.modules.get("torch")
    uses = set() if _parent.pid == os.getpid() else set(_parent.uses)
    if ray is not None and ray.is_initialized():
        uses.add("ray")
    if torch is not None and torch.cuda.is_initialized():
        uses.add("cuda")
    _parent = _Parent(os.getpid(), frozenset(uses))


at_fork(before=_note)
