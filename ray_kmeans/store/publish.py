"""Write bytes so that a reader sees all of them or none."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from contextlib import AbstractContextManager
from typing import Any

import fsspec

from ray_kmeans.remote import FileSystem, Remote, protocols_of, said


def absolute(url: str) -> str:
    """Return a URL, or for a local path the absolute one."""
    return url if "://" in url else str(fsspec.core.url_to_fs(url)[1])


class Place(Remote):
    """A directory that is written to."""

    def put(self, name: str, data: bytes) -> None:
        """Make `data` visible under a name in this directory, in one step."""
        with self.said(f"{self.url!r} cannot be written"):
            put(self.fs, f"{self.path}/{name}", data)

    def said(self, what: str) -> AbstractContextManager[None]:
        """Turn whatever the store raises into StoreError that begins so, and tells no secret."""
        return said(what, self.storage_options)

    @property
    def _root(self) -> str:
        return self.path


def put(fs: FileSystem, path: str, data: bytes) -> None:
    """Make `data` visible at `path` in one step.

    Object stores do so by themselves with one PUT. A local file is written beside its place, synced
    and renamed. HDFS has no such step here: what is read back must verify itself.
    """
    if "file" in protocols_of(fs):
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
