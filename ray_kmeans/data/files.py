"""From a URI to the files behind it, on any fsspec store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import fsspec

from ray_kmeans.errors import ConfigError, NoDataError, StoreError

FileSystem: TypeAlias = Any
"""An fsspec file system; fsspec ships no types."""


def file_system(uri: str, storage_options: Mapping[str, Any]) -> tuple[FileSystem, str]:
    """Return the store of a URI and the path on it; raises ConfigError where there is none."""
    try:
        fs, path = fsspec.core.url_to_fs(uri, **storage_options)
    except ImportError as error:
        raise ConfigError(
            f"{uri!r} needs a package that is not installed: {error}. "
            "For s3:// run: pip install 'ray-kmeans[s3]'."
        ) from None
    except ValueError as error:
        raise ConfigError(f"{uri!r} cannot be opened: {error}.") from None
    return fs, str(path)


def list_files(
    uri: str, suffixes: Sequence[str], storage_options: Mapping[str, Any]
) -> tuple[FileSystem, list[str]]:
    """Return the store and the sorted files of a file, directory or glob.

    In a directory, files and folders whose names start with '_' or '.' are passed over, as
    everywhere in the Parquet world.
    """
    fs, path = file_system(uri, storage_options)
    try:
        found = _find(fs, path)
    except Exception as error:  # every store has its own exceptions for "no answer"
        raise StoreError(f"{uri!r} cannot be listed: {type(error).__name__}: {error}") from error
    if found is None:
        raise NoDataError(f"{uri!r} does not exist. Give a file, a directory or a glob.")
    files = sorted(file for file in found if file.endswith(tuple(suffixes)))
    if not files:
        names = ", ".join(sorted(file.rsplit("/", 1)[-1] for file in found)[:5]) or "nothing"
        raise NoDataError(f"{uri!r} holds no {' or '.join(suffixes)} file; found: {names}.")
    return fs, files


def _find(fs: FileSystem, path: str) -> list[str] | None:
    fs.invalidate_cache()
    if any(mark in path for mark in "*?["):
        return list(fs.glob(path))
    if fs.isfile(path):
        return [path]
    if fs.isdir(path):
        return [file for file in fs.find(path) if _is_data(file[len(path) :])]
    return None


def _is_data(path: str) -> bool:
    return not any(part.startswith(("_", ".")) for part in path.split("/") if part)


def is_in_memory(fs: FileSystem) -> bool:
    """Tell whether the store lives in this process alone."""
    protocol = fs.protocol
    return "memory" in ((protocol,) if isinstance(protocol, str) else protocol)
