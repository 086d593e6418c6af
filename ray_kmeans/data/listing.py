"""What is at a place on a store: a name as it stands, or else what a pattern matches."""

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
"""Stores that list all below a place at once, whatever the folders."""
PATTERN = re.compile(r"[*?[]")

Info = Mapping[str, Any]
"""What a store says of a file or folder."""


class Listing:
    """What a store says of a place. Every folder is listed once, and local links are followed."""

    def __init__(self, remote: Remote) -> None:
        self._fs = remote.fs
        self._local = remote.is_protocol("file")
        self._flat = any(map(remote.is_protocol, FLAT))
        self._listed: dict[str, list[Info]] = {}
        self._fs.invalidate_cache()

    @property
    def names(self) -> list[str]:
        """Everything that was seen on the way, hidden files too."""
        return [str(info["name"]).rstrip("/") for found in self._listed.values() for info in found]

    def info(self, path: str) -> Info | None:
        """Return what the store says of a path; None where nothing has this very name."""
        if self._local and os.path.islink(path):
            return _followed(path)
        try:
            found: Info = self._fs.info(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found

    def below(self, folder: str) -> Iterator[Info]:
        """Yield all files below a folder but hidden ones, whose names start with '_' or '.'.

        A link to a folder on the way to it is passed over: its files come from there.
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
                    info = self._at_its_end(info)
                    if info["type"] != "directory":
                        yield info

    def matching(self, pattern: str) -> Iterator[Info]:
        """Yield the files that a pattern matches; of each folder on the way, a name as it stands.

        So `a[1]/*` is what is in the folder `a[1]` where there is one, and in `a1` elsewhere.
        """
        first, *rest = pattern.split("/")
        parts = [part for part in rest if part]
        if parts[-1:] == ["**"]:
            parts.append("*")
        folders = [first or "/"]
        for part in parts[:-1]:
            folders = list(
                dict.fromkeys(each for here in folders for each in self._into(here, part))
            )
        for folder in folders:
            for info in self._fitting(folder, parts[-1]):
                info = self._at_its_end(info)
                if info["type"] != "directory":
                    yield info

    def _into(self, folder: str, part: str) -> Iterator[str]:
        """Yield the folders that a part of a pattern leads to."""
        if not PATTERN.search(part):
            yield _joined(folder, part)
        elif part == "**" and not self._fitting(folder, part):
            yield from self._folders(folder) if self.info(folder) else ()
        else:
            for info in self._fitting(folder, part):
                if self._at_its_end(info)["type"] == "directory":
                    yield str(info["name"]).rstrip("/")

    def _folders(self, folder: str, hidden: bool = True) -> Iterator[str]:
        """Yield a folder and all below, each once on the way to it."""
        left = [(folder, frozenset([self._place(folder)]))]
        while left:
            here, way = left.pop()
            yield here
            for info in self._children(here):
                name = str(info["name"]).rstrip("/")
                if not hidden and is_hidden(name.rpartition("/")[2]):
                    continue
                is_folder = self._at_its_end(info)["type"] == "directory"
                if is_folder and (place := self._place(name)) not in way:
                    left.append((name, way | {place}))

    def _fitting(self, folder: str, part: str) -> list[Info]:
        try:
            found = self._children(folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
        same = [info for info in found if str(info["name"]).rstrip("/") == _joined(folder, part)]
        if same or not PATTERN.search(part) or part == "**":
            return same
        if "**" in part:
            raise ConfigError(f"{part!r} is no pattern: '**' stands for whole folders alone.")
        fits = re.compile(glob_translate(part)).match
        return [info for info in found if fits(str(info["name"]).rstrip("/").rpartition("/")[2])]

    def _children(self, folder: str) -> list[Info]:
        """Return what is in a folder; raises for one that cannot be listed.

        fsspec's own walk leaves such a folder out, in silence.
        """
        if folder not in self._listed:
            found = self._fs.ls(folder, detail=True)
            self._listed[folder] = [
                info for info in found if str(info["name"]).rstrip("/") not in (folder, "")
            ]
        return self._listed[folder]

    def _at_its_end(self, info: Info) -> Info:
        return _followed(str(info["name"])) if info.get("islink") else info

    def _place(self, folder: str) -> str:
        return os.path.realpath(folder) if self._local else folder


def is_hidden(path: str) -> bool:
    """Tell whether a file or a folder on the way to it is hidden."""
    return any(part.startswith(("_", ".")) for part in path.split("/") if part)


def _joined(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}"


def _followed(link: str) -> Info:
    """Return what is at the end of a local link, under the name of the link."""
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
