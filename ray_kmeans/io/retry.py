"""Repeat a store's requests while they fail in passing, and tell which failures do.

A request that fails in passing (a timeout, a broken connection, HTTP 429 or 5xx) is made again,
with random pauses that grow. One that fails for good (no such file, no permission) is not. The
clients of stores retry too, but too briefly for a job of hours.
"""

from __future__ import annotations

import glob
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ftplib import error_temp
from functools import partial
from typing import Any, TypeAlias

import tenacity

from ray_kmeans.errors import RayKMeansError, RequestError
from ray_kmeans.text import secrets
from ray_kmeans.text.secrets import redacted

FileSystem: TypeAlias = Any
"""An fsspec file system; fsspec ships no types."""

log = logging.getLogger("ray_kmeans")

REQUESTS = frozenset(
    "cat_file find info ls makedirs pipe_file rm rm_file".split()  # noqa: SIM905
)
"""Names of the fsspec methods that are retried."""
CLIENTS = {"aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "requests", "urllib3"}
"""Top-level packages whose own exceptions mean a failed connection."""
FORBIDDEN = "Forbidden: "
"""Start of the text of the plain OSError by which gcsfs reports HTTP 403."""
MISTAKES = ("Credential", "ParamValidation")
"""Parts of the class names of exceptions that clients raise before they send anything."""
PRECONDITION_FAILED = 412
"""HTTP status of a write whose condition (nothing is there yet) does not hold."""
TRANSIENT = (OSError, TimeoutError, EOFError, error_temp)
"""Exception classes that may pass. EOFError is how ftplib says that the server went away."""
PERMANENT = (
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
)
"""Exception classes that tell of a file and do not pass."""


@dataclass(frozen=True)
class Policy:
    """How patiently a request is repeated while it fails in passing."""

    patience_s: float = 90.0
    """Seconds since its first attempt after which a request that keeps failing is given up."""
    attempts: int = 3
    """Smallest number of attempts, even after `patience_s`: a client may have waited itself."""
    longest_pause_s: float = 20.0
    """Upper bound in seconds of the random pause before one more attempt."""
    quiet_s: float = 3.0
    """Seconds that a request may be retried before the log mentions it."""


PATIENT = Policy()
"""Policy for stores that are reached by a network."""
ONCE = Policy(patience_s=0.0, attempts=1)
"""Policy for a disk of this machine and for memory, where nothing passes by waiting."""


class RetryingFileSystem:
    """A file system whose requests are repeated while they fail in passing.

    Exceptions that tell of a file, as FileNotFoundError, are raised unchanged. Others become
    RequestError, which names the request, the attempts and the cause.

    Parameters
    ----------
    fs : fsspec file system or None
        Where requests go. None: only `request` is used, to open a store.
    storage_options, url
        What the store was opened with; error texts are redacted by them.
    policy : Policy or None
        How patient to be. None: `ONCE` for this machine's disk and memory, else `PATIENT`.
    """

    def __init__(
        self,
        fs: FileSystem,
        storage_options: Mapping[str, Any],
        url: str = "",
        policy: Policy | None = None,
    ) -> None:
        """Wrap a file system."""
        self._fs = fs
        self._redact = partial(redacted, options=storage_options, url=url)
        here = fs is not None and not {"file", "memory"}.isdisjoint(protocols_of(fs))
        self._policy = policy or (ONCE if here else PATIENT)

    def rm(self, path: str | list[str], recursive: bool = False) -> Any:
        """Delete the file of exactly this name: most clients read `[`, `?`, `*` as a pattern."""
        names = [path] if isinstance(path, str) else list(path)
        literal = names if "file" in protocols_of(self._fs) else list(map(glob.escape, names))
        return self.request("rm", self._fs.rm, literal, recursive=recursive)

    def __getattr__(self, name: str) -> Any:
        """Return a method of the file system; a request among them is repeated when it fails."""
        found = getattr(self._fs, name)
        return partial(self.request, name, found) if name in REQUESTS else found

    def request(self, name: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return `call(*args, **kwargs)`, called again while it fails in passing.

        Two answers of a repeated request mean success although they are errors, since an earlier
        attempt may have been carried out while its answer was lost:

        - a file that `rm` does not find at a later attempt was deleted by an earlier one;
        - HTTP 412 of a conditional `pipe_file` becomes FileExistsError, whose caller compares
          what is there with its own bytes (`publish.create`).
        """
        what = self._redact(f"{name} {self._redact_path(str(args[0])) if args else ''}".strip())
        retrying = tenacity.Retrying(
            stop=tenacity.stop_all(
                tenacity.stop_after_attempt(self._policy.attempts),
                tenacity.stop_after_delay(self._policy.patience_s),
            ),
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=self._policy.longest_pause_s),
            retry=tenacity.retry_if_exception(is_transient),
            before_sleep=partial(self._log_wait, what),
            reraise=True,
        )
        try:
            return retrying(call, *args, **kwargs)
        except Exception as raised:
            error = _true_cause(raised)
            made = retrying.statistics.get("attempt_number", 1)
            if isinstance(error, (*PERMANENT, RayKMeansError)):
                if made > 1 and name in ("rm", "rm_file") and isinstance(error, FileNotFoundError):
                    return None
                raise
            if name == "pipe_file" and _status(error) == PRECONDITION_FAILED:
                raise FileExistsError(what) from None  # not every S3 server has a code of its own
            often = f" after {made} attempts" if made > 1 else ""
            raise RequestError(f"{what} failed{often}: {self._describe(error)}") from None

    def _redact_path(self, path: str) -> str:
        """Return a path as people may see it: what follows '?' in a remote path may be a secret."""
        if self._policy.attempts == 1 or "://" in path or "?" not in path:
            return secrets.shown(path)
        return f"{path.partition('?')[0]}?{secrets.HIDDEN}"

    def _log_wait(self, what: str, state: tenacity.RetryCallState) -> None:
        """Warn that a request is being retried, once it has failed for a while."""
        waited = state.seconds_since_start or 0.0
        error = state.outcome.exception() if state.outcome else None
        if error is not None and waited >= self._policy.quiet_s:
            log.warning(
                "%s has failed for %.0f s; it is made again for up to %.0f s: %s",
                what,
                waited,
                self._policy.patience_s,
                self._describe(error),
            )

    def _describe(self, error: BaseException) -> str:
        """Return the class and text of an error, without secrets."""
        return self._redact(f"{type(error).__name__}: {error}")


def protocols_of(fs: FileSystem) -> tuple[str, ...]:
    """Return all protocol names of a file system, as ('s3', 's3a')."""
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def is_transient(error: BaseException) -> bool:
    """Tell whether the same request may succeed a moment later."""
    error = _true_cause(error)
    if isinstance(error, (*PERMANENT, RayKMeansError, ValueError)):
        return False
    status = _status(error)
    if status is not None:
        return status in (408, 409, 425, 429) or status >= 500
    if str(error).startswith(FORBIDDEN) or any(part in type(error).__name__ for part in MISTAKES):
        return False
    return isinstance(error, TRANSIENT) or _package(error) in CLIENTS


def _package(error: BaseException) -> str:
    """Return the top-level package that defines the class of an error."""
    return type(error).__module__.partition(".")[0]


def _true_cause(error: BaseException) -> BaseException:
    """Return the true cause of a FileNotFoundError, which fsspec's HTTP client raises for all."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and cause is not None:
        other = _status(cause) not in (None, 404, 410)
        return cause if other or is_transient(cause) else error
    return error


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that an error carries; None if it carries none."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):  # botocore
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        own = "code" if _package(error) == "gcsfs" else "status_code"  # of azure
        status = getattr(error, "status", None) or getattr(error, own, None)
    if status is None and error.__cause__ is not None:  # s3fs translates errors of botocore
        return _status(error.__cause__)
    return status if isinstance(status, int) else None
