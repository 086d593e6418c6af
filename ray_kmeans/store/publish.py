"""Write bytes so that a reader sees all of them or none."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, TypeAlias

import fsspec

from ray_kmeans.errors import RayKMeansError, StoreError

FileSystem: TypeAlias = Any
"""An fsspec file system; fsspec ships no types."""


def absolute(url: str) -> str:
    """Return a URL, or for a local path the absolute one."""
    return url if "://" in url else str(fsspec.core.url_to_fs(url)[1])


@dataclass(frozen=True)
class Place:
    """A directory on any fsspec store. Travels to other processes by pickle."""

    url: str
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def only_here(self) -> bool:
        """Whether no other process can see it (memory:// URLs)."""
        return is_protocol(self._fs, "memory")

    def put(self, name: str, data: bytes) -> None:
        """Make `data` visible under a name in this directory, in one step."""
        with said(f"{self.url!r} cannot be written"):
            put(self._fs, f"{self._opened[1]}/{name}", data)

    @property
    def _fs(self) -> FileSystem:
        return self._opened[0]

    @property
    def _root(self) -> str:
        return self._opened[1]

    @cached_property
    def _opened(self) -> tuple[FileSystem, str]:
        # A cached listing would hide what another process has written.
        options = {"use_listings_cache": False, **self.storage_options}
        try:
            fs, path = fsspec.core.url_to_fs(self.url, **options)
        except (ImportError, ValueError) as error:
            raise StoreError(f"{self.url!r} cannot be opened: {error}") from error
        return fs, str(path).rstrip("/")

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open file system behind; the other process makes its own."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


@contextlib.contextmanager
def said(what: str) -> Iterator[None]:
    """Turn whatever a store raises into StoreError: every store has its own exceptions for "no"."""
    try:
        yield
    except RayKMeansError:
        raise
    except Exception as error:
        raise StoreError(f"{what}: {type(error).__name__}: {error}".strip()) from error


def put(fs: FileSystem, path: str, data: bytes) -> None:
    """Make `data` visible at `path` in one step.

    Object stores do so by themselves with one PUT. A local file is written beside its place, synced
    and renamed. HDFS has no such step here: what is read back must verify itself.
    """
    if is_protocol(fs, "file"):
        fs.makedirs(os.path.dirname(path), exist_ok=True)
        beside = f"{path}.{uuid.uuid4().hex[:8]}.partial"
        try:
            with open(beside, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.remove(beside)
            raise
    else:
        fs.pipe_file(path, data)


def seal(manifest: dict[str, Any]) -> bytes:
    """Return the manifest as JSON that ends with the hash of the rest of it."""
    return json.dumps({**manifest, "sha256": _digest(manifest)}, indent=1).encode()


def unseal(data: bytes) -> dict[str, Any] | None:
    """Return the manifest, or None where the bytes are not all that was written."""
    try:
        manifest: dict[str, Any] = json.loads(data)
        sealed = manifest.pop("sha256")
    except (ValueError, AttributeError, KeyError, TypeError):
        return None
    return manifest if sealed == _digest(manifest) else None


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _digest(manifest: dict[str, Any]) -> str:
    return sha256(json.dumps(manifest, sort_keys=True).encode())


def is_protocol(fs: FileSystem, name: str) -> bool:
    """Tell whether the store is of this kind, as 'file' or 'memory'."""
    return name in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)
