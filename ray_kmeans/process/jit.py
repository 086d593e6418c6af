"""numba's compiler, which goes on without a cache where none can be written, and survives forks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numba
from numba.core.compiler_lock import global_compiler_lock

from ray_kmeans.process import forks

log = logging.getLogger("ray_kmeans")


def njit(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Compile a function at its first call, as `numba.njit` does, and keep what it became.

    What was compiled is kept on disk for other processes. Where no folder for that can be written
    (an image that is read-only, a user without a home), it is kept in memory alone.
    """
    if function is None:
        return lambda given: njit(given, **options)
    try:
        compiled = numba.njit(function, cache=True, **options)
    except RuntimeError as error:  # numba has no class of its own for it
        if "cannot cache" not in str(error):
            raise
        _warn_once()
        return numba.njit(function, **options)
    compiled._cache.save_overload = partial(_attempt, compiled._cache.save_overload)
    return compiled


def _attempt(save: Callable[..., None], *about: Any) -> None:
    """Save what was compiled, if there is room: the folder was there before, but may be full."""
    try:
        save(*about)
    except OSError:
        _warn_once()


@cache
def _warn_once() -> None:
    log.warning(
        "numba finds no folder that it can write its cache to, so each process compiles the loops "
        "anew. Set NUMBA_CACHE_DIR to a folder that can be written."
    )


forks.hold_while_forking(global_compiler_lock)
