"""Name a path on any fsspec store, and open that store where it is needed.

Every request goes through `retry`, and every text that people see is without secrets.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import fsspec

from ray_kmeans.errors import (
    ConfigError,
    RayKMeansError,
    RequestError,
    StoreError,
    install_hint,
)
from ray_kmeans.io.retry import (
    PERMANENT,
    FileSystem,
    RetryingFileSystem,
    protocols_of,
)
from ray_kmeans.text import secrets
from ray_kmeans.text.secrets import redacted

EXTRAS = {
    **dict.fromkeys(("s3", "s3a"), "s3"),
    **dict.fromkeys(("gs", "gcs"), "gcs"),
    **dict.fromkeys(("abfs", "abfss", "az"), "azure"),
    **dict.fromkeys(("http", "https"), "http"),
}
"""Name of the pip extra that installs the client of each URL scheme."""
CHAIN = "::"
"""Separator of the URLs of a chain in fsspec, as in zip://a.npy::s3://bucket/a.zip."""
CHAINED = {
    *("simplecache", "filecache", "blockcache", "cached", "asyncwrapper"),
    *("zip", "tar", "libarchive", "dir", "reference", "generic"),
}
"""Schemes by which a chain may begin; behind any other scheme '::' is part of a name."""


@dataclass(frozen=True, repr=False)
class Remote:
    """A path on any fsspec store. It travels to other processes by pickle, and opens there anew."""

    url: str
    """Path or URL, as the user gave it; it may hold secrets."""
    storage_options: Mapping[str, Any] = field(default_factory=dict)
    """Options for fsspec, which may be secrets."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.shown!r})"

    @property
    def shown(self) -> str:
        """The URL as people may see it."""
        return secrets.shown(self.url)

    def redact(self, text: str) -> str:
        """Return a text without the secrets of this URL and these options."""
        return redacted(text, self.storage_options, self.url)

    @property
    def fs(self) -> FileSystem:
        """The open file system, whose requests are retried."""
        return self._store_and_path[0]

    @property
    def path(self) -> str:
        """The path on the store, without a slash at its end."""
        return self._store_and_path[1]

    @property
    def only_here(self) -> bool:
        """Whether no other process can see it (memory:// URLs)."""
        return self.is_protocol("memory")

    def is_protocol(self, name: str) -> bool:
        """Tell whether the store is of this kind, as 'file' or 'memory'."""
        return name in protocols_of(self.fs)

    @property
    def _store_and_path(self) -> tuple[FileSystem, str]:
        """The open file system and the path on it; a forked child opens the store anew.

        Clients hold threads and connections, neither of which survives a fork. So the process id
        is kept beside what was opened, and a child that finds its parent's opens its own.
        """
        found = self.__dict__.get("_found")
        if found is None or found[0] != os.getpid():
            found = self.__dict__["_found"] = os.getpid(), self._open()
        store_and_path: tuple[FileSystem, str] = found[1]
        return store_and_path

    def _open(self) -> tuple[FileSystem, str]:
        """Open the store, with retries: some clients connect at once."""
        opening = RetryingFileSystem(None, self.storage_options, self.url)
        try:
            fs, path = opening.request("open", self._open_once, self.url)
        except PERMANENT as error:
            cause = self.redact(f"{type(error).__name__}: {error}")
            raise StoreError(f"{self.shown!r} cannot be opened: {cause}") from None
        store = RetryingFileSystem(fs, self.storage_options, self.url)
        return store, str(path).rstrip("/") or "/"

    def _open_once(self, url: str) -> tuple[FileSystem, str]:
        """Open the store by one attempt; ConfigError if the URL or the options are wrong."""
        # A cached listing would hide what another process has written.
        options = {"use_listings_cache": False, **self.storage_options}
        self._check()
        try:
            return _open_url(url, options)
        except ImportError as error:
            extra = EXTRAS.get(url.partition("://")[0])
            hint = f" {install_hint(extra)}" if extra else ""
            cause = self.redact(str(error))
            what = f"{self.shown!r} needs a package that is not installed"
            raise ConfigError(f"{what}: {cause.rstrip('.')}.{hint}") from None
        except (TypeError, ValueError) as error:
            cause = self.redact(str(error))
            raise ConfigError(f"{self.shown!r} cannot be opened: {cause.rstrip('.')}.") from None

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


def _open_url(url: str, options: Mapping[str, Any]) -> tuple[FileSystem, str]:
    """Return the file system of a URL and the path on it; '::' in a name stands for itself."""
    if CHAIN not in url:
        fs, path = fsspec.core.url_to_fs(url, **options)
    else:
        protocol = url.partition("://")[0] if "://" in url.partition(CHAIN)[0] else "file"
        kind = fsspec.get_filesystem_class(protocol)
        fs = fsspec.filesystem(protocol, **{**kind._get_kwargs_from_urls(url), **options})
        path = kind._strip_protocol(url.replace(CHAIN, "\0")).replace("\0", CHAIN)
    if "file" in protocols_of(fs):  # a file may be called '~name' where there is no such user
        path = os.path.join(os.getcwd(), path)
    return fs, path


@contextmanager
def raise_store_errors(
    what: str, storage_options: Mapping[str, Any] | None = None, url: str = ""
) -> Iterator[None]:
    """Raise StoreError for whatever a store raises inside: each has exceptions of its own.

    Parameters
    ----------
    what : str
        Beginning of the error's text: what could not be done, with the name of the place.
    storage_options, url
        What the store was opened with; their secrets are taken out of the text.
    """
    try:
        yield
    except RequestError as error:
        raise StoreError(f"{redacted(what)}: {error}") from None
    except RayKMeansError:
        raise
    except Exception as error:
        cause = redacted(f"{type(error).__name__}: {error}", storage_options, url)
        raise StoreError(f"{redacted(what)}: {cause}".strip()) from None
