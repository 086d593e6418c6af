"""Publish bytes on any store: a reader sees all of them or none, and of two writers one wins.

- `put` replaces what is at a place, in one step.
- `create` writes only where nothing is, and tells whether this writer won.
- `seal` and `unseal` let a manifest prove that it is whole, on stores without such a step (HDFS).

Locally a file is written under a name of its own, synced, and then renamed or linked. A writer that
is killed leaves a file that `is_unpublished` recognizes, for others to delete.
"""

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
from ray_kmeans.io.remote import Remote, raise_store_errors
from ray_kmeans.io.retry import FileSystem, protocols_of
from ray_kmeans.process import forks

CONDITIONAL = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"}
"""Protocols whose clients send the condition "nothing is there yet" along with the data."""
NOT_SERVED = {errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""Errors of a file system without hard links, or that syncs no folder (FAT, mounted stores)."""
NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
"""Errors of a file system that is full, or of a quota that is used up."""
UNPUBLISHED = re.compile(r"(.+)\.[0-9a-f]{32}\.ray-kmeans-partial", re.DOTALL)
"""Name of a local file until it is whole; no other program gives such a name."""

_one_at_a_time = RLock()
"""Lock that makes "look, then write" one step among the threads of this process."""
forks.hold_while_forking(_one_at_a_time)


def absolute(url: str) -> str:
    """Return a URL, or for a local path the absolute one."""
    return url if "://" in url else Remote(url).path


class Place(Remote):
    """A directory on any store that files are published in."""

    def put(self, name: str, data: bytes) -> None:
        """Publish `data` under a name in this directory; StoreError if that fails."""
        with self.raise_store_errors(f"{self.shown!r} cannot be written"):
            put(self.fs, f"{self.path}/{name}", data)

    def raise_store_errors(self, what: str) -> AbstractContextManager[None]:
        """Raise StoreError, whose text begins with `what`, for what the store raises inside."""
        return raise_store_errors(what, self.storage_options, self.url)

    @property
    def is_local(self) -> bool:
        """Whether it is a path, which may mean another disk on another machine."""
        return _is_local(self.fs)


def put(fs: FileSystem, path: str, data: bytes) -> None:
    """Make `data` visible at `path` in one step, in place of an older file.

    An object store does so with one PUT. A local file is written beside its place, synced and
    renamed. HDFS has no such step here: whoever reads must verify what is read (`seal`).
    """
    if _is_local(fs):
        with _write_beside(path, data) as beside:
            os.replace(beside, path)
            _sync_folder_of(path)
    else:
        fs.pipe_file(path, data)


def create(fs: FileSystem, path: str, data: bytes) -> bool:
    """Make `data` visible at `path` in one step unless something is there; tell who won.

    Returns True if the bytes at `path` are `data` afterwards. `data` must therefore hold
    something that only this writer writes, as a random id. Its bytes, and not the answer of the
    store, decide the race:

    - The answer to a first attempt may be lost. The retry then finds a file, is refused, and yet
      this writer won: what is there is its own.
    - Of two writers, the store refuses one, which then reads the other's bytes. Each store keeps
      this by its own means: a hard link of a complete file, a conditional PUT, or for memory://,
      which one process alone sees, a lock.
    - A store with neither (HDFS) may let both writers write. Then the last one's bytes stay, and
      the other learns on reading them that it lost; but it may read before the last one writes.
      `is_exclusive` tells callers whether a place can have this gap.
    - The winner's file may be deleted before this writer looks: then nobody has won here, False.
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
        return False


def is_exclusive(fs: FileSystem, path: str, data: bytes) -> bool:
    """Tell whether the store refuses one of two writers that `create` a file at the same time.

    `data` must be at `path` already. The kind of store does not tell enough, so this tries to
    create the file once more: some S3 servers ignore the condition, some file systems lack links.
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
    """Tell whether a store is this machine's file system."""
    return "file" in protocols_of(fs)


def _is_memory(fs: FileSystem) -> bool:
    """Tell whether a store is this process's memory."""
    return "memory" in protocols_of(fs)


def _is_conditional(fs: FileSystem) -> bool:
    """Tell whether a store's client can write on the condition that nothing is there."""
    return not CONDITIONAL.isdisjoint(protocols_of(fs))


def _put_if_missing(fs: FileSystem, path: str, data: bytes) -> None:
    """Write unless something is there, in two steps: enough for memory://, under the lock."""
    try:
        fs.info(path)
    except FileNotFoundError:
        fs.pipe_file(path, data)


def _link(path: str, data: bytes) -> None:
    """Create a local file by a hard link to a complete one; FileExistsError if one is there.

    A file system without links gets a rename, before which another writer may come.
    """
    with _write_beside(path, data) as beside:
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
    """Tell whether a local file is not whole: its writer was killed, or still writes it."""
    return UNPUBLISHED.fullmatch(name) is not None


def published_name(name: str) -> str:
    """Return the name that an unpublished file would have got.

    >>> published_name("part-00000012.parquet." + 32 * "a" + ".ray-kmeans-partial")
    'part-00000012.parquet'
    """
    return UNPUBLISHED.sub(r"\1", name)


def _temporary_name(path: str) -> str:
    """Return a path in the same folder that no other writer uses."""
    return f"{path}.{uuid.uuid4().hex}.ray-kmeans-partial"


def _has_links(path: str) -> bool:
    """Tell whether the file system of a file makes hard links, by making one and removing it."""
    beside = _temporary_name(path)
    try:
        os.link(path, beside)
    except OSError as error:
        if error.errno not in NOT_SERVED:
            raise
        return False
    os.remove(beside)
    return True


@contextmanager
def _write_beside(path: str, data: bytes) -> Iterator[str]:
    """Write and sync a local file under another name, which is removed again at the end.

    Raises DiskFullError, with the bytes that are free, where the disk is full.
    """
    folder = os.path.dirname(path)
    beside = _temporary_name(path)
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
    """Return the free bytes of the disk that a folder is on, or would be."""
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    return shutil.disk_usage(folder).free


def _remove(path: str) -> None:
    """Delete a local file if it is there."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.remove(path)


def _sync_folder_of(path: str) -> None:
    """Sync the folder of a file, so that its name too survives a loss of power."""
    descriptor = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NOT_SERVED:
            raise
    finally:
        os.close(descriptor)


def seal(manifest: dict[str, Any]) -> bytes:
    """Return a manifest as JSON bytes that end with the SHA-256 of all the rest."""
    return json.dumps({**manifest, "sha256": _digest(manifest)}, indent=1).encode()


def unseal(data: bytes) -> dict[str, Any] | None:
    """Return the manifest of sealed bytes; None if they are cut off, damaged or not sealed."""
    try:
        manifest: dict[str, Any] = json.loads(data)
        sealed = manifest.pop("sha256")
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return None
    return manifest if sealed == _digest(manifest) else None


def sha256(data: bytes) -> str:
    """Return the SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _digest(manifest: dict[str, Any]) -> str:
    """Return the SHA-256 of a manifest, whatever the order of its keys."""
    return sha256(json.dumps(manifest, sort_keys=True).encode())
