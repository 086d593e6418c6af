"""Find the files that URIs name, on any fsspec store, and notice when one changes."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from ray_kmeans.data.hive_keys import keys_of
from ray_kmeans.data.listing import PATTERN, Info, Listing
from ray_kmeans.data.own_output import folder_above, folders_of_ours
from ray_kmeans.errors import ConfigError, DataError, NoDataError
from ray_kmeans.io.remote import Remote, is_text, raise_store_errors
from ray_kmeans.text import secrets

log = logging.getLogger("ray_kmeans")

VERSIONS = ("ETag", "etag", "generation", "mtime", "LastModified", "last_modified", "created")
"""Names that stores give to the version of a file's content, the most reliable first."""


@dataclass(frozen=True, repr=False)
class File:
    """A file as it was when the run was planned."""

    path: str
    """Path on the store; behind '?' it may hold secrets."""
    size: int
    """Size in bytes."""
    version: str
    """Mark of the store that changes with the content; '' if the store has none."""
    ending: str = ""
    """File ending, as '.csv.gz', that the user gave for its format; '' if its name tells it."""

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> File:
        """Return the file that an fsspec store describes; DataError if its size is unknown."""
        mark = next((info[name] for name in VERSIONS if info.get(name) is not None), "")
        if isinstance(mark, datetime):
            mark = mark.timestamp()
        file = cls(str(info["name"]), int(info["size"] or 0), str(mark).strip('"'))
        if info["size"] is None:
            raise DataError(f"{file.shown}: the server does not tell its size; it must.")
        return file

    @property
    def shown(self) -> str:
        """The path as people may see it: without the password and the query of a URL."""
        return _redact_path(self.path)

    def __repr__(self) -> str:
        return f"File({self.shown!r}, {self.size}, {self.version!r})"

    @property
    def partitions(self) -> Mapping[str, Sequence[Any]]:
        """Values of each key of the folders named key=value on the way to the file."""
        return keys_of(self.shown)

    @property
    def kind(self) -> str:
        """The text whose end tells the format: the given ending, or else the name."""
        return self.ending or self.shown.lower()

    def now(self, remote: Remote) -> File:
        """Return the file as it is now; FileNotFoundError if it is gone."""
        if not remote.is_protocol("file"):
            return File.of(remote.fs.info(self.path))
        found = os.stat(self.path)  # as fsspec does, in a fifth of the time
        return File(self.path, found.st_size, str(found.st_mtime))

    def check(self, now: File) -> None:
        """Raise DataError if size or version `now` differ from those when the run was planned."""
        known = self.version and now.version
        if now.size != self.size or (known and now.version != self.version):
            raise DataError(
                f"{self.shown} has changed since the run was planned: it had {self.size:,} bytes "
                f"({self.version}) and has {now.size:,} ({now.version}). Start the run again."
            )


def list_files(
    uris: Sequence[str],
    storage_options: Mapping[str, Any],
    suffixes: Sequence[str],
    ending: str = "",
) -> tuple[Remote, tuple[File, ...]]:
    """Return the store and the files of some URIs, each a file, a directory or a glob.

    A URI means what has exactly this name; it is a pattern only if nothing has. The files of a
    directory or a pattern come sorted by path. In a directory, names that start with '_' or '.' are
    left out, as everywhere in the Parquet world, and so is what ray_kmeans itself wrote.

    Parameters
    ----------
    uris : sequence of str
        Paths or URLs, all on one store.
    storage_options : mapping
        Options for fsspec.
    suffixes : sequence of str
        Endings of the names that files of a directory or pattern must have.
    ending : str, default ''
        If given, all files are taken whatever their names, and read as files with this ending.

    Raises
    ------
    ConfigError
        If the URIs are on several stores, or two differ in their query alone.
    NoDataError, DataError, StoreError
        If there is no such file, or it has no size or a name that is no text.
    """
    remotes = [Remote(uri, storage_options) for uri in uris]
    kinds = {str(remote.fs.protocol) for remote in remotes}
    if len(kinds) > 1:
        raise ConfigError(f"the URIs are on several stores ({', '.join(sorted(kinds))}); give one.")
    files = tuple(file for each in remotes for file in _files_of(each, suffixes, ending))
    paths = {file.shown: file.path for file in files}
    twice = next((file.shown for file in files if paths[file.shown] != file.path), None)
    if twice:
        raise ConfigError(f"two URLs of {twice} differ after '?' alone; give one of them.")
    return remotes[0], files


def _files_of(remote: Remote, suffixes: Sequence[str], ending: str) -> list[File]:
    """Return the files of one URI; NoDataError if there is none with one of the suffixes."""
    with raise_store_errors(f"{remote.shown!r} cannot be listed", remote.storage_options):
        found = _find(remote)
    if found is None:
        raise NoDataError(f"{remote.shown!r} does not exist. Give a file, a directory or a glob.")
    ends = ("",) if ending else tuple(suffixes)
    fitting = [(info, owner) for info, owner in found if _name(info).lower().endswith(ends)]
    ours = sorted({owner for _, owner in fitting if owner})
    if ours:
        log.warning("passed over as data, as ray_kmeans wrote it: %s", ", ".join(ours))
    theirs = [info for info, owner in fitting if not owner]
    if not theirs:
        names = ", ".join(sorted(_name(info) for info, _ in found)[:5]) or "nothing"
        what = f"{', '.join(suffixes[:-1])} or {suffixes[-1]}"
        raise NoDataError(
            f"{remote.shown!r} holds no {what} file; found: {names}. Say what files with other "
            "names are by format='parquet', in a job by --format parquet."
        )
    _check(theirs)
    files = [replace(File.of(info), ending=ending) for info in theirs]
    return sorted(files, key=lambda file: file.path)


def _find(remote: Remote) -> list[tuple[Info, str]] | None:
    """Return what the store tells of each file, and the folder of ours around it, or ''.

    Returns None if nothing has this name, and it is no pattern.
    """
    path, listing = remote.path, Listing(remote)
    info = listing.info(path)
    if info is not None and info["type"] != "directory":
        return [(info, "")]
    is_pattern = info is None and not remote.is_protocol("http") and PATTERN.search(path)
    if info is None and not is_pattern:
        return None
    place = path[: is_pattern.start()].rpartition("/")[0] if is_pattern else path.rstrip("/")
    found = listing.matching(path) if is_pattern else listing.below(path)
    files = {str(each["name"])[len(place) + 1 :]: each for each in found}
    names = [name[len(place) + 1 :] for name in listing.names]
    ours = folders_of_ours(names, lambda name: bytes(remote.fs.cat_file(f"{place}/{name}")))
    owners = {name: folder_above(name, ours) for name in files}
    return [(each, owners[name] and f"{place}/{owners[name]}") for name, each in files.items()]


def _check(files: Sequence[Info]) -> None:
    """Raise DataError for pipes and devices, and for names that are not UTF-8."""
    for info in files:
        name = str(info["name"])
        if not is_text(name):
            raise DataError(f"{name!r} is not UTF-8. Rename it, or the folder that it is in.")
        if info["type"] == "other":
            raise DataError(f"{name} is a pipe, a socket or a device. Give a file.")


def _name(info: Info) -> str:
    """Return the name of a file without its folders, as people may see it."""
    return _redact_path(str(info["name"])).rpartition("/")[2]


def _redact_path(path: str) -> str:
    """Return a path as people may see it."""
    return secrets.shown(path.partition("?")[0]) if "://" in path else path
