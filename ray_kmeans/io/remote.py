"""Any fsspec store, asked patiently and named without its secrets.

A request that fails in passing (a timeout, a broken connection, 429, 5xx) is made again, with
pauses that grow and are drawn at random; what fails for good (no such file, no permission) is not.
Clients of stores do so too, but too briefly for a job of hours.
"""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from ftplib import error_temp
from functools import partial
from typing import Any, TypeAlias

import fsspec
import tenacity

from ray_kmeans.errors import (
    ConfigError,
    RayKMeansError,
    RequestError,
    StoreError,
    install_hint,
)
from ray_kmeans.text import secrets
from ray_kmeans.text.secrets import redacted

FileSystem: TypeAlias = Any
"""An fsspec file system; fsspec ships no types."""

log = logging.getLogger("ray_kmeans")

PATIENCE_S = 90.0
"""A request that fails in passing is made again for so long."""
ATTEMPTS = 3
"""And so often at least: a client may have been patient for longer by itself."""
LONGEST_PAUSE_S = 20.0
"""Before an attempt."""
QUIET_S = 3.0
"""Time that a request may wait without a word in the log."""
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "abfs": "azure", "az": "azure"}
EXTRAS |= {"abfss": "azure", "http": "http", "https": "http"}
CLIENTS = {"aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "requests", "urllib3"}
"""Packages whose own exceptions tell of a connection."""
FORBIDDEN = "Forbidden: "
"""How gcsfs says 403, by a bare OSError."""
MISTAKES = ("Credential", "ParamValidation")
"""Parts of the names of exceptions that clients raise before they ask."""
PRECONDITION_FAILED = 412
PASSING = (OSError, TimeoutError, EOFError, error_temp)
"""EOFError: how ftplib says that a server went away."""
FOR_GOOD = (
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
)
CHAIN = "::"
"""What stands between the URLs of a chain in fsspec."""
CHAINED = {"simplecache", "filecache", "blockcache", "cached", "zip", "tar", "libarchive", "dir"}
CHAINED |= {"reference", "asyncwrapper", "generic"}
"""Stores that a chain may begin with; elsewhere '::' is part of a name."""


REQUESTS = frozenset(
    "cat_file find info ls makedirs pipe_file rm rm_file".split()  # noqa: SIM905
)


class Patient:
    """A file system whose requests are made again where they fail in passing.

    Exceptions that tell of a file (as FileNotFoundError) are raised as they are, others as
    RequestError, which names the request, the attempts and the cause. Without a file system it
    makes the request that opens one.
    """

    def __init__(self, fs: FileSystem, storage_options: Mapping[str, Any], url: str = "") -> None:
        self._fs = fs
        self._redact = partial(redacted, options=storage_options, url=url)
        here = fs is not None and not {"file", "memory"}.isdisjoint(protocols_of(fs))
        self._attempts, self._patience_s = (1, 0.0) if here else (ATTEMPTS, PATIENCE_S)

    def rm(self, path: str | list[str], recursive: bool = False) -> Any:
        """Delete what has this very name: most clients take `[`, `?` and `*` for a pattern."""
        names = [path] if isinstance(path, str) else list(path)
        literal = names if "file" in protocols_of(self._fs) else list(map(glob.escape, names))
        return self.ask("rm", self._fs.rm, literal, recursive=recursive)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._fs, name)
        return partial(self.ask, name, found) if name in REQUESTS else found

    def ask(self, name: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        what = self._redact(f"{name} {self._shown(str(args[0])) if args else ''}".strip())
        retrying = tenacity.Retrying(
            stop=tenacity.stop_all(
                tenacity.stop_after_attempt(self._attempts),
                tenacity.stop_after_delay(self._patience_s),
            ),
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=LONGEST_PAUSE_S),
            retry=tenacity.retry_if_exception(is_passing),
            before_sleep=partial(self._tell, what),
            reraise=True,
        )
        try:
            return retrying(call, *args, **kwargs)
        except Exception as raised:
            error = _behind(raised)
            made = retrying.statistics.get("attempt_number", 1)
            if isinstance(error, (*FOR_GOOD, RayKMeansError)):
                if made > 1 and name in ("rm", "rm_file") and isinstance(error, FileNotFoundError):
                    return None  # an attempt whose answer was lost did it
                raise
            if name == "pipe_file" and _status(error) == PRECONDITION_FAILED:
                raise FileExistsError(what) from None  # not every store of S3 says so by its code
            often = f" after {made} attempts" if made > 1 else ""
            raise RequestError(f"{what} failed{often}: {self._cause(error)}") from None

    def _shown(self, path: str) -> str:
        """Return a path as people may see it: on a store a query may be its end."""
        if self._attempts == 1 or "://" in path or "?" not in path:
            return secrets.shown(path)
        return f"{path.partition('?')[0]}?{secrets.HIDDEN}"

    def _tell(self, what: str, state: tenacity.RetryCallState) -> None:
        """Say in the log that a request waits, once that has taken some time."""
        waited = state.seconds_since_start or 0.0
        error = state.outcome.exception() if state.outcome else None
        if error is not None and waited >= QUIET_S:
            log.warning(
                "%s has failed for %.0f s; it is made again for up to %.0f s: %s",
                what,
                waited,
                self._patience_s,
                self._cause(error),
            )

    def _cause(self, error: BaseException) -> str:
        return self._redact(f"{type(error).__name__}: {error}")


@dataclass(frozen=True, repr=False)
class Remote:
    """A path on any fsspec store. Travels to other processes by pickle, and opens there anew."""

    url: str
    storage_options: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.shown!r})"

    @property
    def shown(self) -> str:
        """The URL as people may see it."""
        return secrets.shown(self.url)

    def redact(self, text: str) -> str:
        """Return a text about it without what is secret in its URL and options."""
        return redacted(text, self.storage_options, self.url)

    @property
    def fs(self) -> FileSystem:
        return self._opened[0]

    @property
    def path(self) -> str:
        """The path on the store, without a slash at its end."""
        return self._opened[1]

    @property
    def only_here(self) -> bool:
        """Whether no other process can see it (memory:// URLs)."""
        return self.is_protocol("memory")

    def is_protocol(self, name: str) -> bool:
        """Tell whether the store is of this kind, as 'file' or 'memory'."""
        return name in protocols_of(self.fs)

    @property
    def _opened(self) -> tuple[FileSystem, str]:
        """The open store and the path there; a child that was forked opens it anew."""
        found = self.__dict__.get("_found")
        if found is None or found[0] != os.getpid():
            found = self.__dict__["_found"] = os.getpid(), self._open()
        opened: tuple[FileSystem, str] = found[1]
        return opened

    def _open(self) -> tuple[FileSystem, str]:
        try:  # some clients connect at once
            fs, path = Patient(None, self.storage_options, self.url).ask(
                "open", self._open_once, self.url
            )
        except FOR_GOOD as error:
            cause = self.redact(f"{type(error).__name__}: {error}")
            raise StoreError(f"{self.shown!r} cannot be opened: {cause}") from None
        return Patient(fs, self.storage_options, self.url), str(path).rstrip("/") or "/"

    def _open_once(self, url: str) -> tuple[FileSystem, str]:
        # A cached listing would hide what another process has written.
        options = {"use_listings_cache": False, **self.storage_options}
        self._check()
        try:
            opened = _opened(url, options)
        except ImportError as error:
            extra = EXTRAS.get(url.partition("://")[0])
            hint = f" {install_hint(extra)}" if extra else ""
            cause = self.redact(str(error))
            what = f"{self.shown!r} needs a package that is not installed"
            raise ConfigError(f"{what}: {cause.rstrip('.')}.{hint}") from None
        except (TypeError, ValueError) as error:
            cause = self.redact(str(error))
            raise ConfigError(f"{self.shown!r} cannot be opened: {cause.rstrip('.')}.") from None
        return opened

    def _check(self) -> None:
        """Raise ConfigError for a URL that no store is opened for."""
        if not is_text(self.url):
            raise ConfigError(f"{self.url!r} is not UTF-8. Rename it, or what it is in.")
        first, *rest = self.url.split(CHAIN)
        if rest and first.partition("://")[0] in CHAINED:
            raise ConfigError(
                f"{self.shown!r} is a chain of stores ({CHAIN}), which is not served: "
                "what a cache or an archive holds is not seen to change. Name the files "
                "themselves, unpacked."
            )

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open store behind; the other process makes its own."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


def is_text(name: str) -> bool:
    """Tell whether a name is UTF-8: Python holds the bytes of others as lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _opened(url: str, options: Mapping[str, Any]) -> tuple[FileSystem, str]:
    """Return the store and the path on it; '::' in a name stands for itself."""
    if CHAIN not in url:
        fs, path = fsspec.core.url_to_fs(url, **options)
    else:
        protocol = url.partition("://")[0] if "://" in url.partition(CHAIN)[0] else "file"
        kind = fsspec.get_filesystem_class(protocol)
        fs = fsspec.filesystem(protocol, **{**kind._get_kwargs_from_urls(url), **options})
        path = kind._strip_protocol(url.replace(CHAIN, "\0")).replace("\0", CHAIN)
    if "file" in protocols_of(fs):  # '~name' of nobody is a name like any other
        path = os.path.join(os.getcwd(), path)
    return fs, path


def protocols_of(fs: FileSystem) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def is_passing(error: BaseException) -> bool:
    """Tell whether the same request may succeed a moment later."""
    error = _behind(error)
    if isinstance(error, (*FOR_GOOD, RayKMeansError, ValueError)):
        return False
    status = _status(error)
    if status is not None:
        return status in (408, 409, 425, 429) or status >= 500
    if str(error).startswith(FORBIDDEN) or any(part in type(error).__name__ for part in MISTAKES):
        return False
    return isinstance(error, PASSING) or _package(error) in CLIENTS


def _package(error: BaseException) -> str:
    return type(error).__module__.partition(".")[0]


def _behind(error: BaseException) -> BaseException:
    """Return what went wrong where a client says that there is no file whatever the cause is."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and cause is not None:  # fsspec's client of HTTP
        other = _status(cause) not in (None, 404, 410)
        return cause if other or is_passing(cause) else error
    return error


def _status(error: BaseException) -> int | None:
    """Return the HTTP status behind an error, where it tells."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):  # botocore
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        own = "code" if _package(error) == "gcsfs" else "status_code"  # of azure
        status = getattr(error, "status", None) or getattr(error, own, None)
    if status is None and error.__cause__ is not None:  # s3fs translates errors of botocore
        return _status(error.__cause__)
    return status if isinstance(status, int) else None


@contextmanager
def raise_store_errors(
    what: str, storage_options: Mapping[str, Any] | None = None, url: str = ""
) -> Iterator[None]:
    """Turn whatever a store raises into StoreError: every store has its own exceptions for "no"."""
    try:
        yield
    except RequestError as error:
        raise StoreError(f"{redacted(what)}: {error}") from None
    except RayKMeansError:
        raise
    except Exception as error:
        cause = redacted(f"{type(error).__name__}: {error}", storage_options, url)
        raise StoreError(f"{redacted(what)}: {cause}".strip()) from None
