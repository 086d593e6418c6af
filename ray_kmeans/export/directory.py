"""Exported models: numbered directories, each complete once its manifest is there.

1780000000/<files>                    the second in which it was made, or the next free number
1780000000/_manifest.json             names, sizes and hashes of the files; written last
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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray_kmeans.errors import ConfigError, NoDataError
from ray_kmeans.io import publish
from ray_kmeans.io.remote import Remote, raise_store_errors

log = logging.getLogger("ray_kmeans")

MANIFEST = "_manifest.json"
KIND = "ray_kmeans export"
FORMAT = 1
NUMBER = re.compile(r"[1-9][0-9]*")


@dataclass(frozen=True, repr=False)
class ExportDir(publish.Place):
    """Exports under one URL."""

    @classmethod
    def at(cls, url: str, storage_options: Mapping[str, Any]) -> ExportDir:
        """Return the directory under a URL that means the same in every process."""
        return cls(publish.absolute(url), storage_options)

    def publish(self, files: Mapping[str, bytes], *, keep: int | None = None) -> str:
        """Write an export of these files by relative name, and return the URL of its directory.

        It appears whole or not at all. `keep`: delete exports until so many are left, this one
        included, the newest by their numbers.
        """
        for name in files:
            _check_name(name)
        if keep is not None and keep < 1:
            raise ConfigError(f"keep={keep!r} must be at least 1, or None to keep all exports.")
        content = {**files, MANIFEST: _manifest(files)}
        with self.raise_store_errors(f"cannot export to {self.shown!r}"):
            number = self._rename_in(content) if self._local else self._put_in(content)
        url = f"{self.url.rstrip('/')}/{number}"
        if keep is not None:
            with self.raise_store_errors(
                f"{url!r} is exported, but older exports cannot be deleted"
            ):
                self._delete_old(number, keep)
        return url

    @property
    def _local(self) -> bool:
        return self.is_protocol("file")

    def _rename_in(self, content: Mapping[str, bytes]) -> str:
        hidden = f"{self.path}/.{uuid.uuid4().hex}.partial"
        try:
            for name, data in content.items():
                publish.put(self.fs, f"{hidden}/{name}", data)
            for number in _numbers():
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

    def _put_in(self, content: Mapping[str, bytes]) -> str:
        number, claim = self._claim()
        path = f"{self.path}/{number}"
        try:
            for name, data in content.items():
                if name == MANIFEST:
                    self.fs.rm_file(claim)
                publish.put(self.fs, f"{path}/{name}", data)
        except BaseException:
            with contextlib.suppress(Exception):  # the first error is the one to tell
                self._remove_files(path, [MANIFEST, claim.rsplit("/", 1)[-1], *content])
            raise
        return number

    def _claim(self) -> tuple[str, str]:
        """Return a number that nobody else writes to, and the file that says so.

        There is no rename here that fails for the second one. Who claims first and looks then sees
        the claim of the other, or is seen; at worst both go on to other numbers.
        """
        for number in _numbers():
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
        others = [name for name in self._names(self.path) if NUMBER.fullmatch(name)]
        own = {name: files for name in others if name != new and (files := self._files_of(name))}
        for name in sorted(own, key=int, reverse=True)[keep - 1 :]:
            self._remove(f"{self.path}/{name}", own[name])

    def _files_of(self, name: str) -> list[str]:
        """Return the files of an export, the manifest first; none where it is not one of ours."""
        try:
            data = self.fs.cat_file(f"{self.path}/{name}/{MANIFEST}")
        except (FileNotFoundError, NotADirectoryError):
            return []
        found = publish.unseal(data) or {}
        return [MANIFEST, *found["files"]] if found.get("kind") == KIND else []

    def _remove(self, path: str, files: Sequence[str]) -> None:
        """Delete an export, so that no reader finds a part of it; files of others in it stay."""
        if not self._local:
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
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                self.fs.rm_file(f"{path}/{name}")

    def _names(self, path: str) -> list[str]:
        self.fs.invalidate_cache()
        try:
            found = self.fs.ls(path, detail=False)
        except FileNotFoundError:
            return []
        return [each.rstrip("/").rsplit("/", 1)[-1] for each in found]


def assets(
    assets_extra: Mapping[str, str] | None, storage_options: Mapping[str, Any]
) -> dict[str, bytes]:
    """Read the files that go along: names below assets.extra to paths or URLs to read."""
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


def _numbers() -> Iterator[str]:
    return map(str, itertools.count(int(time.time())))


def _check_name(name: str) -> None:
    if {"", ".", ".."} & set(name.split("/")) or name == MANIFEST:
        raise ConfigError(
            f"{name!r} cannot be the name of a file in an export. Give a relative path without "
            f"'..', other than {MANIFEST!r}."
        )


def _manifest(files: Mapping[str, bytes]) -> bytes:
    listed = {name: {"size": len(b), "sha256": publish.sha256(b)} for name, b in files.items()}
    return publish.seal({"kind": KIND, "format": FORMAT, "files": listed})
