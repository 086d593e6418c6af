"""List the files at a place on a store: what has exactly this name, or else matches a pattern.

fsspec's own calls do not serve here: `find` leaves out a folder that cannot be listed, in silence,
and `glob` takes `a[1]` for a pattern even where a folder has this name.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from typing import Any

from fsspec.utils import glob_translate

from ray_kmeans.errors import ConfigError, DataError
from ray_kmeans.io.remote import Remote

FLAT = ("s3", "gcs", "abfs")
"""Protocols of stores that list all files below a place by one request, whatever the folders."""
PATTERN = re.compile(r"[*?[]")
"""Characters that make a name a pattern."""

Info = Mapping[str, Any]
"""What fsspec tells of a file or folder: at least its name, type and size."""


class Listing:
    """The folders of a store, each listed once; links of the local file system are followed."""

    def __init__(self, remote: Remote) -> None:
        """Begin without any listing, also in the file system's own cache, which may be old."""
        self._fs = remote.fs
        self._local = remote.is_protocol("file")
        self._flat = any(map(remote.is_protocol, FLAT))
        self._listed: dict[str, list[Info]] = {}
        self._fs.invalidate_cache()

    @property
    def names(self) -> list[str]:
        """Paths of all that was listed so far, hidden files too."""
        return [str(info["name"]).rstrip("/") for found in self._listed.values() for info in found]

    def info(self, path: str) -> Info | None:
        """Return what the store tells of a path; None if nothing has exactly this name."""
        if self._local and os.path.islink(path):
            return _follow(path)
        try:
            found: Info = self._fs.info(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found

    def below(self, folder: str) -> Iterator[Info]:
        """Yield all files below a folder, except hidden ones (names that start with '_' or '.').

        A link to a folder that the way to it leads through is passed over: it would make a circle,
        and its files are listed already.
        """
        if self._flat:
            self._listed[folder] = list(self._fs.find(folder, detail=True).values())
            for info in self._listed[folder]:
                if not is_hidden(str(info["name"])[len(folder) :]):
                    yield info
            return
        for here in self._folders(folder, hidden=False):
            for info in self._children(here):
                if not is_hidden(str(info["name"]).rpartition("/")[2]):
                    info = self._resolve(info)
                    if info["type"] != "directory":
                        yield info

    def matching(self, pattern: str) -> Iterator[Info]:
        """Yield the files that a pattern matches.

        A part of the pattern that is the exact name of something in its folder stands for that
        alone: `a[1]/*` is all in the folder `a[1]` if there is one, and else all in `a1`.
        """
        first, *rest = pattern.split("/")
        parts = [part for part in rest if part]
        if parts[-1:] == ["**"]:
            parts.append("*")
        folders = [first or "/"]
        for part in parts[:-1]:
            folders = list(
                dict.fromkeys(each for here in folders for each in self._enter(here, part))
            )
        for folder in folders:
            for info in self._match(folder, parts[-1]):
                info = self._resolve(info)
                if info["type"] != "directory":
                    yield info

    def _enter(self, folder: str, part: str) -> Iterator[str]:
        """Yield the folders in `folder` that one part of a pattern matches."""
        if not PATTERN.search(part):
            yield _join(folder, part)
        elif part == "**" and not self._match(folder, part):
            yield from self._folders(folder) if self.info(folder) else ()
        else:
            for info in self._match(folder, part):
                if self._resolve(info)["type"] == "directory":
                    yield str(info["name"]).rstrip("/")

    def _folders(self, folder: str, hidden: bool = True) -> Iterator[str]:
        """Yield a folder and all folders below it; no way leads through one folder twice."""
        left = [(folder, frozenset([self._place(folder)]))]
        while left:
            here, way = left.pop()
            yield here
            for info in self._children(here):
                name = str(info["name"]).rstrip("/")
                if not hidden and is_hidden(name.rpartition("/")[2]):
                    continue
                is_folder = self._resolve(info)["type"] == "directory"
                if is_folder and (place := self._place(name)) not in way:
                    left.append((name, way | {place}))

    def _match(self, folder: str, part: str) -> list[Info]:
        """Return what in a folder has the name `part`, or else matches it as a pattern."""
        try:
            found = self._children(folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
        same = [info for info in found if str(info["name"]).rstrip("/") == _join(folder, part)]
        if same or not PATTERN.search(part) or part == "**":
            return same
        if "**" in part:
            raise ConfigError(f"{part!r} is no pattern: '**' stands for whole folders alone.")
        fits = re.compile(glob_translate(part)).match
        return [info for info in found if fits(str(info["name"]).rstrip("/").rpartition("/")[2])]

    def _children(self, folder: str) -> list[Info]:
        """Return the entries of a folder; one that cannot be listed is an error, not left out."""
        if folder not in self._listed:
            found = self._fs.ls(folder, detail=True)
            self._listed[folder] = [
                info for info in found if str(info["name"]).rstrip("/") not in (folder, "")
            ]
        return self._listed[folder]

    def _resolve(self, info: Info) -> Info:
        """Return what a link leads to; anything else unchanged."""
        return _follow(str(info["name"])) if info.get("islink") else info

    def _place(self, folder: str) -> str:
        """Return the path of a folder without links, by which it is known."""
        return os.path.realpath(folder) if self._local else folder


def is_hidden(path: str) -> bool:
    """Tell whether any part of a path starts with '_' or '.'."""
    return any(part.startswith(("_", ".")) for part in path.split("/") if part)


def _join(folder: str, name: str) -> str:
    """Return the path of a name in a folder."""
    return f"{folder.rstrip('/')}/{name}"


def _follow(link: str) -> Info:
    """Return what a local link leads to, under the name of the link; DataError if nothing."""
    try:
        found = os.stat(link)
    except OSError as error:
        target = os.readlink(link)
        raise DataError(
            f"{link} is a link to {target!r}, which cannot be reached ({error.strerror}). Mend the "
            "link, or remove it."
        ) from None
    kinds = {stat.S_IFDIR: "directory", stat.S_IFREG: "file"}
    kind = kinds.get(stat.S_IFMT(found.st_mode), "other")
    return {"name": link, "type": kind, "size": found.st_size, "mtime": found.st_mtime}
