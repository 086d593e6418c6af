"""Write bytes so that a reader sees all of them or none, and of two writers one wins."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import RLock
from typing import Any

from ray_kmeans.errors import DiskFullError
from ray_kmeans.io.remote import (
    FileSystem,
    Remote,
    protocols_of,
    raise_store_errors,
)
from ray_kmeans.process import forks

CONDITIONAL = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"}
"""Stores whose clients send the condition that nothing is there yet along with the data."""
NOT_SERVED = {errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""How a file system says that it has no hard links, or does not sync folders (FAT, and object
stores that are mounted)."""
NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
UNPUBLISHED = re.compile(r"(.+)\.[0-9a-f]{32}\.ray-kmeans-partial", re.DOTALL)
"""The name of a local file until it is whole; no other program gives such a name."""

_one_at_a_time = RLock()
forks.hold_while_forking(_one_at_a_time)


def absolute(url: str) -> str:
    """Return a URL, or for a local path the absolute one."""
    return url if "://" in url else Remote(url).path


class Place(Remote):
    """A directory that is written to."""

    def put(self, name: str, data: bytes) -> None:
        """Make `data` visible under a name in this directory, in one step."""
        with self.raise_store_errors(f"{self.shown!r} cannot be written"):
            put(self.fs, f"{self.path}/{name}", data)

    def raise_store_errors(self, what: str) -> AbstractContextManager[None]:
        """Turn whatever the store raises into StoreError that begins so, and tells no secret."""
        return raise_store_errors(what, self.storage_options, self.url)

    @property
    def is_local(self) -> bool:
        """Whether it is a path of the file system, which may be another one on another machine."""
        return _is_local(self.fs)

    @property
    def _root(self) -> str:
        return self.path


def put(fs: FileSystem, path: str, data: bytes) -> None:
    """Make `data` visible at `path` in one step.

    Object stores do so by themselves with one PUT. A local file is written beside its place, synced
    and renamed. HDFS has no such step here: what is read back must verify itself.
    """
    if _is_local(fs):
        with _written_beside(path, data) as beside:
            os.replace(beside, path)
            _sync_folder_of(path)
    else:
        fs.pipe_file(path, data)


def create(fs: FileSystem, path: str, data: bytes) -> bool:
    """Make `data` visible at `path` in one step unless something is there; tell whether they are.

    `data` must hold something of this writer's own: what is there afterwards tells whose it is,
    also where an answer was lost and the next attempt finds what the first one has written.
    """
    with contextlib.suppress(FileExistsError):
        if _is_local(fs):
            _link(path, data)
        elif _is_conditional(fs):
            fs.pipe_file(path, data, mode="create")
        else:
            with _one_at_a_time:
                _put_if_missing(fs, path, data)
    try:
        return bool(fs.cat_file(path) == data)
    except FileNotFoundError:
        return False  # deleted meanwhile


def is_exclusive(fs: FileSystem, path: str, data: bytes) -> bool:
    """Tell whether of two that create a file at once one is refused; `data` are at `path` already.

    Tried where it depends on more than the kind of store: some servers of S3 ignore the condition,
    and some file systems have no links.
    """
    if _is_local(fs):
        return _has_links(path)
    if _is_conditional(fs):
        try:
            fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            return True
        return False
    return _is_memory(fs)


def _is_local(fs: FileSystem) -> bool:
    return "file" in protocols_of(fs)


def _is_memory(fs: FileSystem) -> bool:
    return "memory" in protocols_of(fs)


def _is_conditional(fs: FileSystem) -> bool:
    return not CONDITIONAL.isdisjoint(protocols_of(fs))


def _put_if_missing(fs: FileSystem, path: str, data: bytes) -> None:
    """Look, then write: all that can be done without a condition, and enough for memory://."""
    try:
        fs.info(path)
    except FileNotFoundError:
        fs.pipe_file(path, data)


def _link(path: str, data: bytes) -> None:
    with _written_beside(path, data) as beside:
        try:
            os.link(beside, path)
        except OSError as error:
            if error.errno not in NOT_SERVED:
                raise
            if os.path.lexists(path):
                raise FileExistsError(path) from None
            os.replace(beside, path)
        _sync_folder_of(path)


def is_unpublished(name: str) -> bool:
    """Tell whether a name is that of a local file which is not whole: its writer was killed."""
    return UNPUBLISHED.fullmatch(name) is not None


def published_name(name: str) -> str:
    """Return the name that an unpublished file was to get.

    >>> published_name("part-00000012.parquet." + 32 * "a" + ".ray-kmeans-partial")
    'part-00000012.parquet'
    """
    return UNPUBLISHED.sub(r"\1", name)


def _beside(path: str) -> str:
    return f"{path}.{uuid.uuid4().hex}.ray-kmeans-partial"


def _has_links(path: str) -> bool:
    beside = _beside(path)
    try:
        os.link(path, beside)
    except OSError as error:
        if error.errno not in NOT_SERVED:
            raise
        return False
    os.remove(beside)
    return True


@contextmanager
def _written_beside(path: str, data: bytes) -> Iterator[str]:
    """Write a local file under another name; what is still there of it at the end is removed."""
    folder = os.path.dirname(path)
    beside = _beside(path)
    try:
        os.makedirs(folder, exist_ok=True)
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield beside
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        _remove(beside)
        raise DiskFullError(path, len(data), _free_bytes(folder)) from None
    finally:
        _remove(beside)


def _free_bytes(folder: str) -> int:
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    return shutil.disk_usage(folder).free


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.remove(path)


def _sync_folder_of(path: str) -> None:
    """Let the name survive a loss of power too, not the content alone."""
    descriptor = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NOT_SERVED:
            raise
    finally:
        os.close(descriptor)


def seal(manifest: dict[str, Any]) -> bytes:
    """Return the manifest as JSON that ends with the hash of the rest of it."""
    return json.dumps({**manifest, "sha256": _digest(manifest)}, indent=1).encode()


def unseal(data: bytes) -> dict[str, Any] | None:
    """Return the manifest, or None where the bytes are not all that was written."""
    try:
        manifest: dict[str, Any] = json.loads(data)
        sealed = manifest.pop("sha256")
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return None
    return manifest if sealed == _digest(manifest) else None


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _digest(manifest: dict[str, Any]) -> str:
    return sha256(json.dumps(manifest, sort_keys=True).encode())
