"""Labelled output: Parquet parts under one URL, and a manifest last.

_unfinished.json           while it is written: what it is of
part-00000012.parquet      the rows of some blocks of the data
_manifest.json             all parts, with rows, bytes and hashes

Who finds an output that was cut off, and writes the same, writes the missing parts alone. What more
data add stands under the numbers after the last one, and is there once the next manifest is.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ray_kmeans.errors import StoreError
from ray_kmeans.remote import redacted
from ray_kmeans.store import publish
from ray_kmeans.store.parts import Part, Parts

MANIFEST = "_manifest.json"
UNFINISHED = "_unfinished.json"
BY_CLUSTER = "_by_cluster"
"""Holds the parts of the blocks where rows are put in order of their clusters afterwards."""
FORMAT = 2

Content = Mapping[str, Any]
"""What an output is of, as JSON: two runs that agree in it write the same rows."""

WORDS = {
    "model": "the centers of the model",
    "data": "the files of the data",
    "blocks": "the rows of each file",
    "rows": "filters, weights or nonfinite",
    "columns": "keep_columns",
    "features": "the columns of a row",
    "second": "second",
    "by_cluster": "by_cluster",
}
"""What people hear of where two contents differ."""


@dataclass(frozen=True)
class Run:
    """What one call adds to an output."""

    parts: Parts
    """Where the workers write it."""
    content: Content
    marker: bytes
    before: Mapping[str, Any] = field(default_factory=dict)
    """The manifest of what is there already; empty where nothing is."""


@dataclass(frozen=True)
class Written:
    """What a run has written."""

    parts: Sequence[Part]
    counts: NDArray[np.int64]
    """(k,) rows of each label."""
    width: int | None = None
    """Clusters that share a folder, see `by_cluster`; None where there are no folders."""


@dataclass(frozen=True, repr=False)
class LabelledOutput(publish.Place):
    """Parts under one URL. Complete once the manifest is there."""

    @classmethod
    def at(cls, url: str, storage_options: Mapping[str, Any]) -> LabelledOutput:
        """Return the place under a URL that means the same in every process."""
        return cls(publish.absolute(url), storage_options)

    def begin(self, content: Content, append: bool = False) -> Run | None:
        """Mark the place as being written; None where all of it is there.

        Raises StoreError where something else is there, or nothing can be written.
        """
        content = json.loads(json.dumps(content))
        with self.said(f"{self.shown!r} cannot be written"):
            manifest, marker = self._read(MANIFEST), self._read(UNFINISHED)
            found = _opened(manifest)
            if marker and found and _unsealed(marker).get("after", "") != found["sha256"]:
                self._tidy()  # of a run that was cut off right after its manifest
                just_done, marker = _unsealed(marker).get("of"), None
            else:
                just_done = None
            if just_done == content or (not append and _is_of(found, content)):
                return None
            self._remove_unpublished()
            before = self._before(manifest, content, append)
            mine = publish.seal({"of": content, "after": before.get("sha256", "")})
            self._mark(marker, mine, content, before)
        folder = f"/{BY_CLUSTER}" if content.get("by_cluster") else ""
        stamp = publish.sha256(mine)
        first = before.get("next_part", 0), before.get("rows", 0)
        parts = Parts(f"{self.url}{folder}", self.storage_options, stamp, *first)
        return Run(parts, content, mine, before)

    def finish(
        self,
        run: Run,
        written: Written,
        model: Mapping[str, Any],
        numbers: int,
    ) -> None:
        """Publish the manifest: from now on the output is complete.

        `numbers`: of parts that the run has named, whatever became of these.
        """
        before = run.before
        rows = sum(part.rows for part in written.parts)
        counts = written.counts + np.asarray(before.get("clusters", 0))
        total = before.get("rows", 0) + rows
        manifest = {
            "format": FORMAT,
            "rows": total,
            "left_out": total - int(counts.sum()),
            "model": dict(model),
            "of": {**run.content, "data": None},
            "data": [*before.get("data", ()), *run.content.get("data", ())],
            "width": written.width,
            "next_part": before.get("next_part", 0) + numbers,
            "parts": [*before.get("parts", ()), *map(asdict, written.parts)],
            "clusters": counts.tolist(),
        }
        with self.said(f"{self.shown!r} cannot be written"):
            if self._read(UNFINISHED) != run.marker:
                raise StoreError(
                    f"{self.shown!r} was taken over by another run while this one wrote there. "
                    "Let one of them run alone, and give the other one another place."
                )
            publish.put(self.fs, f"{self._root}/{MANIFEST}", publish.seal(manifest))
            self._tidy()

    def kept_schema(self, names: Sequence[str]) -> pa.Schema | None:
        """Return the types that a finished output has for these columns; None where it has others.

        None too where no output is there yet.
        """
        with self.said(f"{self.shown!r} cannot be read"):
            parts = _opened(self._read(MANIFEST)).get("parts")
            if not parts:
                return None
            with self.fs.open(f"{self._root}/{parts[0]['name']}") as file:
                schema = pq.read_schema(file)
        if not set(names) <= set(schema.names):
            return None
        return pa.schema([(name, schema.field(name).type) for name in names])

    def _mark(
        self, marker: bytes | None, mine: bytes, content: Content, before: Mapping[str, Any]
    ) -> None:
        """Say what is being written, where nothing else is."""
        if marker == mine:
            return
        ours = {part["name"] for part in before.get("parts", ())}
        others = [n for n in self._names() if n.endswith(".parquet") and n not in ours]
        if others and marker is None:
            raise StoreError(
                f"{self.shown!r} holds files of another origin ({others[0]}). Give another place."
            )
        if others and marker is not None:
            of_marker = _unsealed(marker).get("of")
            differing = _differing(of_marker, content) if of_marker else "its version"
            raise StoreError(
                f"{self.shown!r} holds an unfinished output that differs from this one in "
                f"{differing or 'what it adds to'}. Run that one again to finish it; or delete "
                f"{UNFINISHED} and {len(others)} parts ({others[0]}, ...) there, or give another "
                "place."
            )
        publish.put(self.fs, f"{self._root}/{UNFINISHED}", mine)

    def _tidy(self) -> None:
        """Remove what only an unfinished output needs; the marker last."""
        self._remove_unpublished()
        for path, whole in ((BY_CLUSTER, True), (UNFINISHED, False)):
            with contextlib.suppress(FileNotFoundError):
                self.fs.rm(f"{self._root}/{path}", recursive=whole)

    def _before(self, manifest: bytes | None, content: Content, append: bool) -> dict[str, Any]:
        """Return the manifest that this run adds to; raises StoreError where it must not."""
        found = _opened(manifest)
        if not append:
            if manifest is not None:
                raise StoreError(
                    f"{self.shown!r} already holds a finished output ({MANIFEST}) of something "
                    "else. Give another place, or delete that one first; or add to it (append)."
                )
            return {}
        if not found:
            raise StoreError(
                f"append: {self.shown!r} holds no finished output ({MANIFEST}, format {FORMAT}) to "
                "add to. Leave append out, or give the place of one."
            )
        ours = {"data": None, "blocks": None}
        differing = _differing(_said(found, content, **ours), {**content, **ours})
        if differing:
            raise StoreError(
                f"append: the output in {self.shown!r} differs in {differing}. Give what it was "
                "made with, or another place."
            )
        known = {json.dumps(each, sort_keys=True) for each in found["data"]}
        twice = [e["file"] for e in content["data"] if json.dumps(e, sort_keys=True) in known]
        if twice:
            raise StoreError(
                f"append: the output in {self.shown!r} has the rows of {redacted(twice[0])} "
                f"already ({len(twice)} of {len(content['data'])} files). Give new files alone."
            )
        return found

    def _read(self, name: str) -> bytes | None:
        try:
            return bytes(self.fs.cat_file(f"{self._root}/{name}"))
        except FileNotFoundError:
            return None

    def _remove_unpublished(self) -> None:
        """Remove what a killed writer has left: readers of a directory would stumble over it."""
        for name in filter(publish.is_unpublished, self._names()):
            with contextlib.suppress(FileNotFoundError):  # its writer lives, and has published it
                self.fs.rm_file(f"{self._root}/{name}")

    def _names(self) -> list[str]:
        """Return the names of all files, from the root on."""
        self.fs.invalidate_cache()
        try:
            found = self.fs.find(self._root)
        except FileNotFoundError:
            return []
        return sorted(str(path)[len(self._root) + 1 :] for path in found)


def _opened(manifest: bytes | None) -> dict[str, Any]:
    """Return a manifest with its own hash; empty where it is none that this version reads."""
    found = _unsealed(manifest)
    if manifest is None or found.get("format") != FORMAT:
        return {}
    return {**found, "sha256": json.loads(manifest)["sha256"]}


def _unsealed(data: bytes | None) -> dict[str, Any]:
    return (publish.unseal(data) if data is not None else None) or {}


def _is_of(manifest: Mapping[str, Any], content: Content) -> bool:
    """Tell whether an output is of this and nothing else."""
    if not manifest:
        return False
    return bool(_said(manifest, content, data=manifest["data"]) == content)


def _said(manifest: Mapping[str, Any], content: Content, **instead: Any) -> Content:
    """Return what an output says it is of; versions before did not say which columns rows have."""
    return {"features": content.get("features"), **manifest["of"], **instead}


def _differing(one: Content, other: Content) -> str:
    """Say in what two contents differ; empty where they do not."""
    names = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    return ", ".join(WORDS.get(name, name) for name in names)
