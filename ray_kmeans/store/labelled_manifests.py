"""Manifests of labelled output, one generation after the other.

_manifest.json             the newest, for every reader: all parts, with rows, bytes and hashes
_manifests/00000002.json   the same from the second generation on, under its number

The first manifest is created at its place, which a store lets only one of many do. A later one
replaces another, and no store has a condition for that which all share: so it is created under its
number first, and from then on it counts; `_manifest.json` is a copy. A run that slept before it
wrote its copy can put an old one over a newer one; it sees so at once and puts the newer one back,
and where it is killed before that the next run does.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray_kmeans.io import publish
from ray_kmeans.store.labelled_names import (
    MANIFEST,
    OLD_PREFIX,
    PART_NAME,
    RECORD,
    RECORDS,
)

FORMAT = 3
READABLE = (2, FORMAT)

OUTPUT = {"of": dict, "data": list, "parts": list, "rows": int, "clusters": list}
RUN = {"stamp": str, "prefix": str, "parts": int, "first_part": int, "first_row": int, "rows": int}
PART = {"name": str, "rows": int, "size": int, "sha256": str}
"""Fields that a manifest has, a run in it, and a part."""
MOST_GENERATIONS = 10**8 - 2
"""More have no name of eight digits."""

Manifest = Mapping[str, Any]


@dataclass(frozen=True, repr=False)
class Manifests(publish.Place):
    """The manifests under the root of an output."""

    def newest(self) -> dict[str, Any]:
        """Return the manifest that counts; empty where there is none that this version reads."""
        return opened(self._newest())

    def is_behind(self) -> bool:
        """Tell whether readers see another one than the one that counts."""
        return self.read(MANIFEST) != self._newest()

    def commit(self, manifest: Manifest, before: Manifest) -> bool:
        """Let a manifest count from now on, in the place of `before`; False where another one does.

        It must have the generation that follows; the next one, where a file of others has its name.
        """
        if not before:
            return publish.create(self.fs, f"{self.path}/{MANIFEST}", publish.seal(dict(manifest)))
        generation = manifest["generation"]
        while not self._record(generation, {**manifest, "generation": generation}):
            if self._record_of(generation):
                return False
            generation += 1
        self.promote()
        return True

    def promote(self) -> None:
        """Copy the manifest that counts to where readers look, and delete what came before it.

        Without a manifest, records are those of an output that was deleted.
        """
        newest = self._newest()
        while newest is not None and self.read(MANIFEST) != newest:
            publish.put(self.fs, f"{self.path}/{MANIFEST}", newest)
            newest = self._newest()
        counts = opened(newest)
        for number in self._numbers():
            is_over = not counts or number < counts["generation"]
            if is_over and self._record_of(number):
                with contextlib.suppress(FileNotFoundError):
                    self.fs.rm_file(f"{self.path}/{_record(number)}")

    def read(self, name: str) -> bytes | None:
        """Return what a file of the output holds, None where it is not there."""
        try:
            return bytes(self.fs.cat_file(f"{self.path}/{name}"))
        except FileNotFoundError:
            return None

    def _newest(self) -> bytes | None:
        copy = self.read(MANIFEST)
        found = opened(copy)
        for number in sorted(self._numbers() if found else (), reverse=True):
            if number <= found["generation"]:
                break
            record = self._record_of(number)
            # A number may have been left by an output that was deleted.
            if record and _stamps(record)[: len(found["runs"])] == _stamps(found):
                return self.read(_record(number))
        return copy

    def _record(self, generation: int, manifest: Manifest) -> bool:
        path = f"{self.path}/{_record(generation)}"
        with contextlib.suppress(IsADirectoryError):
            return publish.create(self.fs, path, publish.seal(dict(manifest)))
        return False

    def _record_of(self, number: int) -> dict[str, Any]:
        """Return the manifest with this number; empty for a file of others by that name."""
        with contextlib.suppress(IsADirectoryError):
            return opened(self.read(_record(number)))
        return {}

    def _numbers(self) -> list[int]:
        self.fs.invalidate_cache()
        try:
            found = self.fs.ls(f"{self.path}/{RECORDS}", detail=False)
        except FileNotFoundError:
            return []
        names = (RECORD.fullmatch(str(path)[len(self.path) + 1 :]) for path in found)
        return [int(name[1]) for name in names if name]


def opened(data: bytes | None) -> dict[str, Any]:
    """Return a manifest; empty where it is none that this version reads.

    One of format 2 knows no runs: all that it holds is taken for one, whose stamp is its hash.
    """
    found = unsealed(data)
    if data is None or found.get("format") not in READABLE or not _has(found, OUTPUT):
        return {}
    if "runs" not in found:
        run = {"stamp": json.loads(data)["sha256"], "prefix": OLD_PREFIX, "first_row": 0}
        run |= {"first_part": 0, "parts": len(found["parts"])}
        run |= {"rows": found["rows"], "left_out": found.get("left_out", 0)}
        found |= {"runs": [run], "generation": 0}
    return found if _is_whole(found) else {}


def _is_whole(found: Manifest) -> bool:
    """Tell whether a sealed manifest is that of an output: a checkpoint has a seal as well."""
    runs, parts, generation = found["runs"], found["parts"], found.get("generation")
    return (
        type(generation) is int
        and 0 <= generation <= MOST_GENERATIONS
        and isinstance(runs, list)
        and all(_has(run, RUN) for run in runs)
        and all(_has(part, PART) and PART_NAME.fullmatch(part["name"]) for part in parts)
        and sum(run["parts"] for run in runs) == len(parts)
    )


def _has(found: Any, kinds: Mapping[str, type]) -> bool:
    """Tell whether these fields are there, of these kinds."""
    return isinstance(found, dict) and all(type(found.get(key)) is kinds[key] for key in kinds)


def unsealed(data: bytes | None) -> dict[str, Any]:
    """Return what was sealed; empty where nothing was, or where it is not whole."""
    return (publish.unseal(data) if data is not None else None) or {}


def _stamps(manifest: Manifest) -> list[str]:
    return [run["stamp"] for run in manifest["runs"]]


def _record(number: int) -> str:
    return f"{RECORDS}/{number:08d}.json"
