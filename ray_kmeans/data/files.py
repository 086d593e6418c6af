"""From URIs to the files behind them, on any fsspec store."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fsspec.utils import glob_translate

from ray_kmeans import hiding
from ray_kmeans.errors import ConfigError, DataError, NoDataError
from ray_kmeans.remote import Remote, said

VERSIONS = ("ETag", "etag", "generation", "mtime", "LastModified", "last_modified", "created")
"""What stores call the mark of a file's content, the surest first."""

FLAT = ("s3", "gcs", "abfs")
"""Stores that list all below a place at once, whatever the folders."""


@dataclass(frozen=True, repr=False)
class File:
    """A file as it was when the run was planned."""

    path: str
    size: int
    version: str
    """A mark that changes with the content; '' where the store has none."""

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> File:
        """Take what an fsspec store says of a file."""
        mark = next((info[name] for name in VERSIONS if info.get(name) is not None), "")
        if isinstance(mark, datetime):
            mark = mark.timestamp()
        file = cls(str(info["name"]), int(info["size"] or 0), str(mark).strip('"'))
        if info["size"] is None:
            raise DataError(f"{file.shown}: the server does not tell its size; it must.")
        return file

    @property
    def shown(self) -> str:
        """The path as people may see it: of a URL neither password nor query, which may sign it."""
        return hiding.shown(self.path.partition("?")[0]) if "://" in self.path else self.path

    def __repr__(self) -> str:
        return f"File({self.shown!r}, {self.size}, {self.version!r})"

    @property
    def partitions(self) -> dict[str, str]:
        """The key=value folders on the way to it, as Hive names them."""
        folders = (part.partition("=") for part in self.shown.split("/")[:-1])
        return {key: value for key, equals, value in folders if key and equals}

    def check(self, now: File) -> None:
        """Raise DataError if it is another one now."""
        known = self.version and now.version
        if now.size != self.size or (known and now.version != self.version):
            raise DataError(
                f"{self.shown} has changed since the run was planned: it had {self.size:,} bytes "
                f"({self.version}) and has {now.size:,} ({now.version}). Start the run again."
            )


def list_files(
    uris: Sequence[str], storage_options: Mapping[str, Any], suffixes: Sequence[str]
) -> tuple[Remote, tuple[File, ...]]:
    """Return the store and the files of some URIs, each a file, a directory or a glob.

    Those of a directory or glob in sorted order, and only those with one of the suffixes; in a
    directory, files and folders whose names start with '_' or '.' are passed over, as everywhere in
    the Parquet world.
    """
    remotes = [Remote(uri, storage_options) for uri in uris]
    kinds = {str(remote.fs.protocol) for remote in remotes}
    if len(kinds) > 1:
        raise ConfigError(f"the URIs are on several stores ({', '.join(sorted(kinds))}); give one.")
    files = tuple(file for each in remotes for file in _files_of(each, suffixes))
    paths = {file.shown: file.path for file in files}
    twice = next((file.shown for file in files if paths[file.shown] != file.path), None)
    if twice:
        raise ConfigError(f"two URLs of {twice} differ after '?' alone; give one of them.")
    return remotes[0], files


def _files_of(remote: Remote, suffixes: Sequence[str]) -> list[File]:
    with said(f"{remote.shown!r} cannot be listed", remote.storage_options):
        found = _find(remote)
    if found is None:
        raise NoDataError(f"{remote.shown!r} does not exist. Give a file, a directory or a glob.")
    files = [File.of(info) for info in found.values()]
    fitting = [file for file in files if file.shown.lower().endswith(tuple(suffixes))]
    if not fitting:
        names = ", ".join(sorted(file.shown.rsplit("/", 1)[-1] for file in files)[:5]) or "nothing"
        ends = f"{', '.join(suffixes[:-1])} or {suffixes[-1]}"
        raise NoDataError(f"{remote.shown!r} holds no {ends} file; found: {names}.")
    return sorted(fitting, key=lambda file: file.path)


def _find(remote: Remote) -> dict[str, Any] | None:
    """Return what the store says of each file, by path."""
    fs, path = remote.fs, remote.path
    fs.invalidate_cache()
    pattern = not remote.is_protocol("http") and re.search(r"[*?[]", path)
    place = path[: pattern.start()].rpartition("/")[0] or "/" if pattern else path
    try:
        info = fs.info(place)
    except FileNotFoundError:
        return {} if pattern else None
    if pattern:
        levels = None if "**" in path else path[len(place) + 1 :].count("/")
        fits = re.compile(glob_translate(path)).match
        return {name: each for name, each in _below(fs, place, levels) if fits(name)}
    if info["type"] != "directory":
        return {path: info}
    flat = any(map(remote.is_protocol, FLAT))
    found = fs.find(path, detail=True).items() if flat else _below(fs, path)
    return {name: each for name, each in found if _is_data(name[len(path) :])}


def _below(fs: Any, path: str, levels: int | None = None) -> Iterator[tuple[str, Any]]:
    """Yield the files below a folder, to so many levels; raises for a folder that has no list.

    fsspec's own walk leaves such a folder out, in silence.
    """
    for info in fs.ls(path, detail=True):
        name = str(info["name"]).rstrip("/")
        if info["type"] != "directory":
            yield name, info
        elif name != path and levels != 0:
            yield from _below(fs, name, levels and levels - 1)


def _is_data(path: str) -> bool:
    return not any(part.startswith(("_", ".")) for part in path.split("/") if part)
