"""The manifests of labelled output, one generation after the other.

_manifest.json             the newest one, for every reader: all parts, with rows, bytes and hashes
_manifests/00000002.json   from the second generation on also here, a record under its number

Of two runs that publish a manifest at once, one must be refused, on every store:

- *The first manifest* is created at its place, which a store lets only one of many do.
- *A later one replaces another*, and stores have no common condition for that. So it is created
  under its number first: of two runs that add to the same generation one is refused. From then on
  it counts, and `_manifest.json` is only a copy of it.
- *A run sleeps before it writes the copy*, and another one publishes the next generation. The
  sleeper then puts its old copy over the newer one. It looks again after each copy, sees the newer
  record and copies that; where it is killed before, the next run does (`promote`).
- *A reader comes in between.* It finds the manifest of an older generation: whole, and without the
  newest parts.
- *An output is deleted, but not its records.* A record counts only where it continues the copy:
  its runs begin with the runs of the copy.
- *A file of others has the name of a record.* It is passed over, and the next number is taken.
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
"""Format of the manifests that this version writes."""
READABLE = (2, FORMAT)
"""Formats of manifests that this version reads."""
OUTPUT = {"of": dict, "data": list, "parts": list, "rows": int, "clusters": list}
"""Fields of a manifest, with their types."""
RUN = {"stamp": str, "prefix": str, "parts": int, "first_part": int, "first_row": int, "rows": int}
"""Fields of a run in a manifest, with their types."""
PART = {"name": str, "rows": int, "size": int, "sha256": str}
"""Fields of a part in a manifest, with their types."""
MOST_GENERATIONS = 10**8 - 2
"""Largest generation: a record's name has eight digits."""

Manifest = Mapping[str, Any]
"""A manifest as JSON."""


@dataclass(frozen=True, repr=False)
class Manifests(publish.Place):
    """The manifests under the root of an output."""

    def newest(self) -> dict[str, Any]:
        """Return the manifest that counts; empty if there is none that this version reads."""
        return parse_manifest(self._newest())

    def is_behind(self) -> bool:
        """Return whether readers see another manifest than the one that counts."""
        return self.read(MANIFEST) != self._newest()

    def commit(self, manifest: Manifest, before: Manifest) -> bool:
        """Publish a manifest as the one after `before`; return False if another one came first.

        The manifest has the generation after that of `before`. Where a file of others has its name,
        it gets the next one.
        """
        if not before:
            return publish.create(self.fs, f"{self.path}/{MANIFEST}", publish.seal(dict(manifest)))
        generation = manifest["generation"]
        while not self._create_record(generation, {**manifest, "generation": generation}):
            if self._record_of(generation):
                return False
            generation += 1
        self.promote()
        return True

    def promote(self) -> None:
        """Copy the manifest that counts to where readers look, and delete older records.

        Without any manifest all records are deleted: their output was deleted before.
        """
        newest = self._newest()
        while newest is not None and self.read(MANIFEST) != newest:
            publish.put(self.fs, f"{self.path}/{MANIFEST}", newest)
            newest = self._newest()
        counts = parse_manifest(newest)
        for number in self._numbers():
            is_over = not counts or number < counts["generation"]
            if is_over and self._record_of(number):
                with contextlib.suppress(FileNotFoundError):
                    self.fs.rm_file(f"{self.path}/{_record_name(number)}")

    def read(self, name: str) -> bytes | None:
        """Return the content of a file of the output; None if it is not there."""
        try:
            return bytes(self.fs.cat_file(f"{self.path}/{name}"))
        except FileNotFoundError:
            return None

    def _newest(self) -> bytes | None:
        """Return the newest record that continues the copy, else the copy itself."""
        copy = self.read(MANIFEST)
        found = parse_manifest(copy)
        for number in sorted(self._numbers() if found else (), reverse=True):
            if number <= found["generation"]:
                break
            record = self._record_of(number)
            # A record may be left from an output that was deleted.
            if record and _stamps(record)[: len(found["runs"])] == _stamps(found):
                return self.read(_record_name(number))
        return copy

    def _create_record(self, generation: int, manifest: Manifest) -> bool:
        """Create the record of a generation; return whether this call has created it."""
        path = f"{self.path}/{_record_name(generation)}"
        with contextlib.suppress(IsADirectoryError):
            return publish.create(self.fs, path, publish.seal(dict(manifest)))
        return False

    def _record_of(self, number: int) -> dict[str, Any]:
        """Return the manifest in a record; empty for a file of others by that name."""
        with contextlib.suppress(IsADirectoryError):
            return parse_manifest(self.read(_record_name(number)))
        return {}

    def _numbers(self) -> list[int]:
        """Return the numbers of all records."""
        self.fs.invalidate_cache()
        try:
            found = self.fs.ls(f"{self.path}/{RECORDS}", detail=False)
        except FileNotFoundError:
            return []
        names = (RECORD.fullmatch(str(path)[len(self.path) + 1 :]) for path in found)
        return [int(name[1]) for name in names if name]


def parse_manifest(data: bytes | None) -> dict[str, Any]:
    """Return the manifest in a file; empty if this version reads none there.

    A manifest of format 2 has no runs: all its parts are taken for one run, whose stamp is the
    hash of the manifest.
    """
    found = content_of_seal(data)
    if data is None or found.get("format") not in READABLE or not _has(found, OUTPUT):
        return {}
    if "runs" not in found:
        run = {"stamp": json.loads(data)["sha256"], "prefix": OLD_PREFIX, "first_row": 0}
        run |= {"first_part": 0, "parts": len(found["parts"])}
        run |= {"rows": found["rows"], "left_out": found.get("left_out", 0)}
        found |= {"runs": [run], "generation": 0}
    return found if _is_whole(found) else {}


def _is_whole(found: Manifest) -> bool:
    """Return whether a sealed manifest is of an output: checkpoints have seals as well."""
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
    """Return whether a value is a dict with these fields, of these types."""
    return isinstance(found, dict) and all(type(found.get(key)) is kinds[key] for key in kinds)


def content_of_seal(data: bytes | None) -> dict[str, Any]:
    """Return the content of a sealed file; empty if the file is missing or not whole."""
    return (publish.unseal(data) if data is not None else None) or {}


def _stamps(manifest: Manifest) -> list[str]:
    """Return the stamps of the runs of a manifest, in order."""
    return [run["stamp"] for run in manifest["runs"]]


def _record_name(number: int) -> str:
    """Return the name of a record."""
    return f"{RECORDS}/{number:08d}.json"
