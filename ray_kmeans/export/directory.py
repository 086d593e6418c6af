"""The directory of exported models: numbered exports, each complete once its manifest is there.

1780000000/<files>                    the second in which it was made, or the next free number
1780000000/_manifest.json             names, sizes and hashes of the files; written last

Two exports at once get two numbers:

- *On a disk* an export is made in a hidden folder and renamed. A rename to a folder with files
  fails, and then the next number is tried.
- *On an object store* there is no rename that fails for the second one. An export first puts a
  claim below its number and then lists the number: of two at once, whoever lists later sees the
  claim of the other one and goes on to the next number. At worst both go on.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray_kmeans.errors import ConfigError, NoDataError
from ray_kmeans.io import publish
from ray_kmeans.io.remote import Remote, raise_store_errors

log = logging.getLogger("ray_kmeans")

MANIFEST = "_manifest.json"
"""Name of the manifest of an export."""
KIND = "ray_kmeans export"
"""Kind in the manifest: other directories with manifests are not touched."""
FORMAT = 1
"""Version of the format."""
NUMBER = re.compile(r"[1-9][0-9]*")
"""Name of the directory of an export."""


@dataclass(frozen=True, repr=False)
class ExportDir(publish.Place):
    """The exports of models under one URL."""

    clock: Callable[[], float] = time.time
    """Returns the present time in seconds, after which exports are named."""

    @classmethod
    def at(
        cls,
        url: str,
        storage_options: Mapping[str, Any],
        clock: Callable[[], float] = time.time,
    ) -> ExportDir:
        """Return the directory under a URL that means the same in every process."""
        return cls(publish.absolute(url), storage_options, clock)

    def publish(self, files: Mapping[str, bytes], *, keep: int | None = None) -> str:
        """Write an export, which appears whole or not at all; return the URL of its directory.

        Parameters
        ----------
        files : mapping
            Content of each file, by its relative name.
        keep : int, optional
            Number of exports that stay, this one and the newest others; None keeps all.
        """
        for name in files:
            _check_name(name)
        if keep is not None and keep < 1:
            raise ConfigError(f"keep={keep!r} must be at least 1, or None to keep all exports.")
        content = {**files, MANIFEST: _manifest(files)}
        with self.raise_store_errors(f"cannot export to {self.shown!r}"):
            number = self._rename_in(content) if self._is_on_disk else self._put_in(content)
        url = f"{self.url.rstrip('/')}/{number}"
        if keep is not None:
            with self.raise_store_errors(
                f"{url!r} is exported, but older exports cannot be deleted"
            ):
                self._delete_old(number, keep)
        return url

    @property
    def _is_on_disk(self) -> bool:
        """Whether exports can be renamed."""
        return self.is_protocol("file")

    def _rename_in(self, content: Mapping[str, bytes]) -> str:
        """Write files to a hidden folder and rename it to a free number; return the number."""
        hidden = f"{self.path}/.{uuid.uuid4().hex}.partial"
        try:
            for name, data in content.items():
                publish.put(self.fs, f"{hidden}/{name}", data)
            for number in self._numbers():
                path = f"{self.path}/{number}"
                if os.path.lexists(path):  # a rename would replace an empty directory
                    continue
                try:
                    os.rename(hidden, path)
                except OSError:
                    if not os.path.lexists(path):
                        raise
                else:
                    break
        except BaseException:
            shutil.rmtree(hidden, ignore_errors=True)
            raise
        return number

    def _numbers(self) -> Iterator[str]:
        """Yield the present second, and then the numbers after it."""
        return map(str, itertools.count(int(self.clock())))

    def _put_in(self, content: Mapping[str, bytes]) -> str:
        """Put files below a claimed number, the manifest last; return the number."""
        number, claim = self._claim()
        path = f"{self.path}/{number}"
        try:
            for name, data in content.items():
                if name == MANIFEST:
                    self.fs.rm_file(claim)
                publish.put(self.fs, f"{path}/{name}", data)
        except BaseException:
            with contextlib.suppress(Exception):  # raised, it would hide the first error
                self._remove_files(path, [MANIFEST, claim.rsplit("/", 1)[-1], *content])
            raise
        return number

    def _claim(self) -> tuple[str, str]:
        """Return a number that nobody else writes to, and the path of the claim on it."""
        for number in self._numbers():
            path = f"{self.path}/{number}"
            if self._names(path):
                continue
            claim = f"{path}/_claim-{uuid.uuid4().hex}"
            publish.put(self.fs, claim, b"{}")
            if self._names(path) == [claim.rsplit("/", 1)[-1]]:
                return number, claim
            self.fs.rm_file(claim)
        raise AssertionError("numbers do not end")

    def _delete_old(self, new: str, keep: int) -> None:
        """Delete the oldest exports by number, so that `keep` are left; the new one stays."""
        others = [name for name in self._names(self.path) if NUMBER.fullmatch(name)]
        own = {name: files for name in others if name != new and (files := self._files_of(name))}
        for name in sorted(own, key=int, reverse=True)[keep - 1 :]:
            self._remove(f"{self.path}/{name}", own[name])

    def _files_of(self, name: str) -> list[str]:
        """Return the files of an export, the manifest first; empty for a directory of others."""
        try:
            data = self.fs.cat_file(f"{self.path}/{name}/{MANIFEST}")
        except (FileNotFoundError, NotADirectoryError):
            return []
        found = publish.unseal(data) or {}
        return [MANIFEST, *found["files"]] if found.get("kind") == KIND else []

    def _remove(self, path: str, files: Sequence[str]) -> None:
        """Delete an export, so that no reader finds a part of it; files of others in it stay."""
        if not self._is_on_disk:
            self._remove_files(path, files)
            return
        there = {each[len(path) + 1 :] for each in self.fs.find(path)}
        if there <= set(files):
            hidden = f"{self.path}/.{uuid.uuid4().hex}.deleted"
            with contextlib.suppress(FileNotFoundError):  # another process deletes it too
                os.rename(path, hidden)
                shutil.rmtree(hidden)
            return
        log.warning("files in %r are not of its export and stay: %s", path, there - set(files))
        self._remove_files(path, files)

    def _remove_files(self, path: str, files: Sequence[str]) -> None:
        """Delete these files of a folder, in this order."""
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                self.fs.rm_file(f"{path}/{name}")

    def _names(self, path: str) -> list[str]:
        """Return the names of all that is in a folder."""
        self.fs.invalidate_cache()
        try:
            found = self.fs.ls(path, detail=False)
        except FileNotFoundError:
            return []
        return [each.rstrip("/").rsplit("/", 1)[-1] for each in found]


def assets(
    assets_extra: Mapping[str, str] | None, storage_options: Mapping[str, Any]
) -> dict[str, bytes]:
    """Return the files of `assets_extra`: names below assets.extra, to paths or URLs to read."""
    found = {}
    for name, source in (assets_extra or {}).items():
        _check_name(name)
        remote = Remote(source, storage_options)
        what = f"assets_extra[{name!r}]={remote.shown!r}"
        with raise_store_errors(f"{what} cannot be read", storage_options):
            try:
                found[f"assets.extra/{name}"] = bytes(remote.fs.cat_file(remote.path))
            except FileNotFoundError:
                raise NoDataError(f"{what} does not exist. Give a file to read.") from None
    return found


def _check_name(name: str) -> None:
    """Raise ConfigError for a name that leads out of an export or replaces its manifest."""
    if {"", ".", ".."} & set(name.split("/")) or name == MANIFEST:
        raise ConfigError(
            f"{name!r} cannot be the name of a file in an export. Give a relative path without "
            f"'..', other than {MANIFEST!r}."
        )


def _manifest(files: Mapping[str, bytes]) -> bytes:
    """Return the manifest of an export of these files."""
    listed = {name: {"size": len(b), "sha256": publish.sha256(b)} for name, b in files.items()}
    return publish.seal({"kind": KIND, "format": FORMAT, "files": listed})
