"""Compile with numba: without a disk cache where none can be written, and safely beside forks."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import logging
import threading
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core import sigutils
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.ccallback import CFunc
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.core.runtime import rtsys

from ray_kmeans.process import forks

log = logging.getLogger("ray_kmeans")

VERSION = str(numba.__version__)
"""Version of numba."""
PACKAGE = Path(__file__).parents[1]
"""Folder of this package, whose own folders each hold loops that call only one another."""
NO_PLACE = (
    "numba finds no folder that it can write its cache to, so each process compiles the loops "
    "anew. Set NUMBA_CACHE_DIR to a folder that can be written."
)
"""Warning where machine code cannot be kept on disk."""
UNREADABLE = (
    "this user may not read the machine code in {}, so each process compiles the loops anew. Let "
    "everybody read it (chmod -R a+rX), or set NUMBA_CACHE_DIR to another folder."
)
"""Warning for files that belong to somebody else; takes their folder."""
PASSED_BY = (
    "NUMBA_CACHE_DIR={} has no machine code that this user may read, and cannot be written, so the "
    "machine code is kept in {}. Let everybody read that folder, or name another one."
)
"""Warning where numba takes another folder than the user wants; takes both."""

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
    """Compile a function at its first call, with a cache on disk, if there can be one."""
    compiled = numba.njit(function, **options)
    _keep_on_disk(compiled, function)
    return compiled


@cache
def address_of(signature: Any, function: Callable[..., None]) -> int:
    """Compile a function of this signature now; return the address at which C would call it.

    It must not raise: nobody would hear of it. The machine code is kept while the process lives.
    """
    compiled: Any = CFunc(function, sigutils.normalize_signature(signature), locals={}, options={})
    _keep_on_disk(compiled, function)
    compiled.compile()
    _compiled.append(compiled)
    return int(compiled.address)


_compiled: list[Any] = []
"""What `address_of` has compiled, so that no machine code is freed that has an address."""


def folder_of(compiled: Any) -> Path | None:
    """Return the folder that the machine code of a compiled function is kept in; None if in none.

    Each folder of modules has one of its own, in NUMBA_CACHE_DIR or beside the modules.
    """
    place = compiled._cache.cache_path
    return None if place is None else Path(place)


def made_for() -> tuple[str, ...]:
    """Return the processor that machine code is made for: its platform, type and features."""
    return tuple(map(str, cpu_target.target_context.codegen().magic_tuple()))


def features_of_other_processor() -> tuple[str, ...] | None:
    """Return the features of another processor that numba is told to make code for, by LLVM's
    names; None where it makes code for this one."""
    if not numba.config.CPU_NAME:
        return None
    told = (numba.config.CPU_FEATURES or "").split(",")
    return tuple(each[1:] for each in told if each.startswith("+"))


@cache
def hash_of_modules(folder: Path) -> str:
    """Return a hash of all modules in a folder and the folders below it."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class Ahead:
    """Compiles in a thread of its own what will be needed later, while the caller does other work.

    The caller joins it, and then calls the same itself: what went wrong here goes wrong there once
    more, where it is heard of. An ahead that nobody needs any more is stopped. It then ends at the
    next function that it comes to, and the process does not end before: LLVM must not be at work
    while its own memory is freed.
    """

    def __init__(self, call: Callable[[], Any]) -> None:
        """Begin to make a call that compiles."""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(call,), name="compile ahead")
        self._thread.start()

    def join(self) -> None:
        """Wait until the call is done, or has failed."""
        self._thread.join()

    def stop(self) -> None:
        """Let the call end soon, and do not wait for that."""
        self._stopped.set()

    def _run(self, call: Callable[[], Any]) -> None:
        """Make the call; whatever it raises is for the next one who makes it."""
        _ahead.stopped = self._stopped
        with contextlib.suppress(BaseException):
            call()


class _Stopped(BaseException):
    """Ends what an `Ahead` compiles; numba takes no exception of this class for its own."""


_ahead = threading.local()
"""The event, as `stopped`, that stops what this thread compiles; nothing in other threads."""


class _MayBeFilled:
    """A place of numba's cache that is used also where it cannot be written, if it has code.

    numba itself goes by a folder that can be written to the next one, and compiles there anew what
    an image or a store brings along.
    """

    def ensure_cache_path(self) -> None:
        """Make the folder; OSError if it cannot be written and has nothing to read."""
        if not any(Path(self.get_cache_path()).glob("*.nbi")):  # type: ignore[attr-defined]
            super().ensure_cache_path()  # type: ignore[misc]


class _Places(CompileResultCacheImpl):  # type: ignore[misc]  # numba has no types
    """The places in which numba looks for its cache, in its order."""

    _locator_classes = [  # noqa: RUF012 (numba's)
        type(kind.__name__, (_MayBeFilled, kind), {})
        for kind in CompileResultCacheImpl._locator_classes
    ]


class _Cache(FunctionCache):  # type: ignore[misc]  # numba has no types
    """The machine code of one function on disk, which is right whoever writes it, and when.

    numba's own goes by the file of the function. So it does not see when a function changes that
    this one calls; before numba 0.68 it goes by the time of the file, too, which an image or a copy
    does not keep. This one goes by the text of all modules that the function may call.

    numba also numbers its files of machine code. So two processes that begin at the same time, on
    machines of two types that share a disk, write to the same file, and then the index of one names
    the code of the other. Here the name of a file tells what its code is for.

    Before it reads a file, numba imports all that it can compile, and with that SciPy and cffi:
    that takes ten times as long as the reading. Machine code that is there needs none of it, only
    the functions that allocate memory; where there is none, the compiler imports the rest itself.

    A file that cannot be read, or be written, is no error: the function is compiled.
    """

    _impl_class = _Places

    def __init__(self, function: Callable[..., Any]) -> None:
        """Find the folder for a function; RuntimeError if there is none."""
        super().__init__(function)
        path = Path(inspect.getfile(function))
        if PACKAGE in path.parents:
            room = PACKAGE / path.relative_to(PACKAGE).parts[0]
            self._cache_file._source_stamp = hash_of_modules(room)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the machine code for these types of arguments; None if there is none."""
        if hasattr(_ahead, "stopped") and _ahead.stopped.is_set():
            raise _Stopped
        try:
            rtsys.initialize(target_context)
            return self._load_overload(sig, target_context)
        except Exception as error:  # a damaged pickle raises anything
            if isinstance(error, PermissionError):
                _warn_once(UNREADABLE.format(self.cache_path))
            log.info("numba's cache in %s cannot be read: %r", self.cache_path, error)
            with contextlib.suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep machine code, or warn: the folder could be written before, but may be full now."""
        key = repr(self._index_key(sig, data.codegen))
        digest = hashlib.sha256(key.encode()).hexdigest()[:12]
        base = self._impl.filename_base
        self._cache_file._data_name_pattern = f"{base}.{digest}.{{number:d}}.nbc"
        try:
            super().save_overload(sig, data)
        except OSError:
            _warn_once(NO_PLACE)


def _keep_on_disk(compiled: Any, function: Callable[..., Any]) -> None:
    """Let a function that is not compiled yet have its machine code in numba's cache."""
    try:
        compiled._cache = _Cache(function)
    except RuntimeError as error:  # numba has no class of its own for it
        if "cannot cache" not in str(error):
            raise
        _warn_once(NO_PLACE)
        return
    wanted, place = numba.config.CACHE_DIR, compiled._cache.cache_path
    if not place.startswith(wanted):
        _warn_once(PASSED_BY.format(wanted, PACKAGE if str(PACKAGE) in place else place))


@cache
def _warn_once(problem: str) -> None:
    """Warn of a problem, once in this process."""
    log.warning("%s", problem)


forks.hold_while_forking(global_compiler_lock)
