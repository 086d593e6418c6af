"""Compile with numba: without a disk cache where none can be written, and safely beside forks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache, partial
from typing import Any, TypeVar

import numba
from numba.core.compiler_lock import global_compiler_lock

from ray_kmeans.process import forks

log = logging.getLogger("ray_kmeans")

F = TypeVar("F", bound=Callable[..., Any])
"""The type of a function that is compiled."""


def njit(**options: Any) -> Callable[[F], F]:
    """Return a decorator that compiles a function at its first call, with a cache on disk.

    Options are those of `numba.njit`. Other processes load the machine code from the cache. Where
    no folder can be written (a read-only image, a user without a home), it is kept in memory only,
    and a warning says so once. For mypy a function keeps its type, so that its calls are checked.
    """
    return partial(_compile, options)


def _compile(options: dict[str, Any], function: Any) -> Any:
    """Compile a function with a cache on disk, if there can be one."""
    try:
        compiled = numba.njit(function, cache=True, **options)
    except RuntimeError as error:  # numba has no class of its own for it
        if "cannot cache" not in str(error):
            raise
        _warn_once()
        return numba.njit(function, **options)
    compiled._cache.save_overload = partial(_save_if_possible, compiled._cache.save_overload)
    return compiled


@cache
def address_of(signature: Any, function: Callable[..., None]) -> int:
    """Compile a function of this signature now; return the address at which C would call it.

    It must not raise: nobody would hear of it. The machine code is kept while the process lives.
    """
    try:
        compiled = numba.cfunc(signature, cache=True)(function)
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        _warn_once()
        compiled = numba.cfunc(signature)(function)
    except OSError:
        _warn_once()
        compiled = numba.cfunc(signature)(function)
    _compiled.append(compiled)
    return int(compiled.address)


_compiled: list[Any] = []
"""What `address_of` has compiled, so that no machine code is freed that has an address."""


def _save_if_possible(save: Callable[..., None], *overload: Any) -> None:
    """Save compiled code, or warn: the folder could be written before, but may be full now."""
    try:
        save(*overload)
    except OSError:
        _warn_once()


@cache
def _warn_once() -> None:
    """Warn, once in this process, that compiled code is not kept on disk."""
    log.warning(
        "numba finds no folder that it can write its cache to, so each process compiles the loops "
        "anew. Set NUMBA_CACHE_DIR to a folder that can be written."
    )


forks.hold_while_forking(global_compiler_lock)
