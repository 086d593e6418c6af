"""Labelled output: Parquet parts under one URL, and a manifest last.

The names of the files are in `labelled_names`; how one manifest follows another, and the races of
that, are in `labelled_manifests`. Who may write, and what happens to a run that sleeps while it
writes, is told in `labelled_writer`. This module reads a place and decides what a run has to do:

- A place that is refused is only read.
- A run that was cut off leaves its marker. A run of the same spec has the same stamp, takes over
  its parts and writes the missing ones alone. A run of any other spec is refused, unless the one
  that was cut off has no part yet.
- *Nothing is removed that is not provably ours.* A file may go where all of this holds: a sealed
  manifest or marker is in the place; only this product gives the file's name; and a part also has
  its run's stamp in its footer.
- *Complete already* is answered only after every part was read and has the hash that the manifest
  names. Parts that have not are written again.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ray_kmeans.errors import StoreError
from ray_kmeans.io import publish
from ray_kmeans.store import labelled_names as names
from ray_kmeans.store import labelled_spec as specs
from ray_kmeans.store.labelled_manifests import FORMAT, Manifests, content_of_seal
from ray_kmeans.store.labelled_names import MANIFEST
from ray_kmeans.store.labelled_parts import (
    READ_AT_ONCE,
    Part,
    Parts,
    find_damaged,
    is_of_run,
)
from ray_kmeans.store.labelled_snapshot import OutputSnapshot
from ray_kmeans.store.labelled_spec import ALL_RUNS, OutputSpec
from ray_kmeans.text.secrets import redacted

log = logging.getLogger("ray_kmeans")


@dataclass(frozen=True)
class RowCounts:
    """Numbers of rows in labelled output."""

    rows: int
    """Rows, those that are left out included."""
    left_out: int | None
    """Rows with the label -1; None where parts of several runs are meant."""


@dataclass(frozen=True)
class LabelRun:
    """The work of one call: what it adds to an output, or finds there."""

    parts: Parts
    """Place where the workers write the parts."""
    spec: OutputSpec
    """Spec of the rows that the call wants in the output."""
    marker: bytes
    """Content of the run's marker; its hash is the run's stamp."""
    before: Mapping[str, Any]
    """The manifest that is there already; empty if there is none."""
    there: RowCounts | None = None
    """The rows of this call that `before` has already; None if it has none of them."""
    number: int = ALL_RUNS
    """Index of the run in `before` that has written these rows; `ALL_RUNS` where several have."""
    damaged: Sequence[Part] = ()
    """Parts of that run that are missing, or not as they were written."""

    @property
    def is_complete(self) -> bool:
        """Whether all that the call wants is there and whole."""
        return self.there is not None and not self.damaged

    @property
    def marker_name(self) -> str:
        """Name of the run's marker."""
        return names.marker_of(self.parts.stamp)


@dataclass(frozen=True, repr=False)
class LabelledOutput(publish.Place):
    """A place for labelled output, read, judged and tidied; to write there takes `lease_output`."""

    @classmethod
    def at(cls, url: str, storage_options: Mapping[str, Any]) -> LabelledOutput:
        """Return the place under a URL that means the same in every process."""
        return cls(publish.absolute(url), storage_options)

    def find_complete(self, spec: OutputSpec, append: bool = False) -> RowCounts | None:
        """Return the rows of a spec where all of them are there and whole; None otherwise.

        Nothing is written. Raises StoreError if something else is there. The exception is an
        open marker: its run may be at work and finish, so None sends the caller to wait for the
        lease and to judge then.
        """
        spec = specs.through_json(spec)
        with self.raise_store_errors(f"{self.shown!r} cannot be written"):
            found = self.snapshot()
            if found.open_markers and specs.find_in(found.manifest, spec, append) is None:
                return None
            run = self.plan(found, spec, append)
            to_tidy = not found.open_markers and self.leftovers(found, run, at_end=True)
        return None if found.is_behind or to_tidy or not run.is_complete else run.there

    def snapshot(self) -> OutputSnapshot:
        """Return a snapshot of the files that are there now."""
        sizes = self._sizes()
        manifests = self.manifests
        found = [name for name in sizes if names.MARKER.fullmatch(name) or name == names.OLD_MARKER]
        markers = {name: content_of_seal(manifests.read(name)) for name in found}
        return OutputSnapshot(
            sizes=sizes,
            has_manifest=MANIFEST in sizes,
            is_behind=manifests.is_behind(),
            manifest=manifests.newest(),
            markers={name: marker for name, marker in markers.items() if marker},
        )

    def plan(self, found: OutputSnapshot, spec: OutputSpec, append: bool) -> LabelRun:
        """Return the work of a call; raise StoreError if something else is there."""
        spec = specs.through_json(spec)
        written = specs.find_in(found.manifest, spec, append)
        if written is not None:
            return self._run_again(found, spec, *written)
        before = self._manifest_before(found, spec, append)
        runs = before.get("runs", ())
        marker = specs.marker_of(spec, runs[-1]["stamp"] if runs else "")
        stamp = publish.sha256(marker)
        self._check_place(found, spec, stamp)
        parts = self._parts(
            spec, stamp, first_part=before.get("next_part", 0), first_row=before.get("rows", 0)
        )
        return LabelRun(parts, spec, marker, before)

    def leftovers(self, found: OutputSnapshot, run: LabelRun, *, at_end: bool) -> list[str]:
        """Return the files that may be removed: files of runs that are over.

        `at_end`: `run` is over as well, so only its manifest and its parts stay. Parts of an open
        marker stay, for their run may be resumed.
        """
        if not found.is_ours:
            return []
        stamp = run.parts.stamp[:12]
        mine = names.marker_of(stamp)
        resumable = set(found.unfinished_parts) - {mine}
        kept_markers = resumable | (set() if at_end else {mine} - found.finished_markers)
        over = found.markers.keys() - kept_markers
        kept = {match[1] for name in resumable if (match := names.MARKER.fullmatch(name))}
        kept |= set() if at_end else {stamp}
        parts = [name for name in found.sizes if names.run_of(name) not in ("", *kept)]
        parts = [name for name in parts if name not in found.parts_in_manifest]
        parts = [name for name in parts if self._is_of_run(name, stamp)]
        unpublished = [name for name in found.sizes if names.is_unpublished(name)]
        old = filter(names.OLD_WORK.fullmatch, found.sizes)
        return [*unpublished, *parts, *(old if names.OLD_MARKER in over else ()), *sorted(over)]

    def remove(self, found: Sequence[str]) -> None:
        """Delete files, and on a disk the folders of work that are empty then.

        Markers go last: where this process is killed on the way, the next run finds the marker and
        knows that the rest is ours.
        """

        def remove(name: str) -> None:
            with contextlib.suppress(FileNotFoundError):  # its writer lives, and has published it
                self.fs.rm_file(f"{self.path}/{name}")

        markers = [name for name in found if name.startswith("_unfinished")]
        with ThreadPoolExecutor(READ_AT_ONCE) as pool:
            list(pool.map(remove, [name for name in found if name not in set(markers)]))
        for folder in {name.partition("/")[0] for name in found if name.startswith("_by_cluster")}:
            if self.is_protocol("file"):
                with contextlib.suppress(OSError):  # files of others are in it
                    os.rmdir(f"{self.path}/{folder}")
        for name in markers:
            remove(name)

    def kept_schema(self, names: Sequence[str]) -> pa.Schema | None:
        """Return the types that a finished output has for these columns.

        None if it lacks one of them, or if there is no finished output.
        """
        with self.raise_store_errors(f"{self.shown!r} cannot be read"):
            parts = self.manifests.newest().get("parts")
            if not parts:
                return None
            with self.fs.open(f"{self.path}/{parts[0]['name']}") as file:
                schema = pq.read_schema(file)
        if not set(names) <= set(schema.names):
            return None
        return pa.schema([(name, schema.field(name).type) for name in names])

    @property
    def manifests(self) -> Manifests:
        """The manifests of this output."""
        return Manifests(self.url, self.storage_options)

    def _parts(
        self, spec: OutputSpec, stamp: str, *, first_part: int, first_row: int, prefix: str = ""
    ) -> Parts:
        """Return where the run with this stamp writes its parts."""
        folder = f"/{names.working_of(stamp)}" if spec.get("by_cluster") else ""
        return Parts(
            f"{self.url}{folder}",
            self.storage_options,
            stamp,
            first_part,
            first_row,
            prefix=prefix or names.prefix_of(stamp),
            home=self.url,
        )

    def _run_again(
        self, found: OutputSnapshot, spec: OutputSpec, number: int, parts: slice
    ) -> LabelRun:
        """Return a run that was written before, with the parts of it that are damaged."""
        manifest = found.manifest
        all_parts = [Part(**part) for part in manifest["parts"][parts]]
        log.info(
            "%r has it already: its %d parts are read and compared", self.shown, len(all_parts)
        )
        damaged = find_damaged(self, all_parts, found.sizes)
        if number == ALL_RUNS:
            if damaged:
                raise StoreError(
                    f"{self.shown!r} has these rows, but {len(damaged)} of {len(all_parts)} parts "
                    f"are missing or damaged ({damaged[0].name}). Run again, without append, into "
                    "another place."
                )
            rows = RowCounts(sum(each["rows"] for each in spec["data"]), None)
            nowhere = Parts(self.url, self.storage_options)
            return LabelRun(nowhere, spec, b"", manifest, rows, number)
        run, earlier = manifest["runs"][number], manifest["runs"][:number]
        marker = specs.marker_of(spec, earlier[-1]["stamp"] if earlier else "")
        place = self._parts(
            spec,
            publish.sha256(marker),
            first_part=run["first_part"],
            first_row=run["first_row"],
            prefix=run["prefix"],
        )
        rows = RowCounts(run["rows"], run["left_out"])
        return LabelRun(place, spec, marker, manifest, rows, number, damaged)

    def _check_place(self, found: OutputSnapshot, spec: OutputSpec, stamp: str) -> None:
        """Raise StoreError if parts are there that belong neither to the output nor to this run."""
        for marker, parts in found.unfinished_parts.items():
            if marker == names.marker_of(stamp):
                continue
            differing = specs.differences(found.markers[marker].get("of", {}), spec)
            raise StoreError(
                f"{self.shown!r} holds an unfinished output that differs from this one in "
                f"{differing or 'its version, or what it adds to'}. Run that one again to finish "
                f"it; or delete {marker} and {len(parts)} parts ({min(parts)}, ...) there, or give "
                "another place."
            )
        parts = [name for name in found.sizes if name.endswith(".parquet")]
        for name in parts:
            if name in found.parts_in_manifest:
                continue
            run = names.run_of(name)
            mine = run == stamp[:12] or (found.is_ours and self._is_of_run(name, stamp[:12]))
            if not (run and mine):
                raise StoreError(
                    f"{self.shown!r} holds files of another origin ({name}). Give another place."
                )

    def _is_of_run(self, name: str, own: str) -> bool:
        """Return whether a file belongs to the run in its name, as its content must say, too.

        `own`: the run of the caller, whose files need not be read.
        """
        run = names.run_of(name)
        if not run or run == own:
            return bool(run)
        data = self.manifests.read(name)
        if data is None:
            return False
        return is_of_run(data, run) if name.endswith(".parquet") else bool(content_of_seal(data))

    def _manifest_before(
        self, found: OutputSnapshot, spec: OutputSpec, append: bool
    ) -> Mapping[str, Any]:
        """Return the manifest that this run adds to; raise StoreError if it must not add."""
        manifest = found.manifest
        if not append:
            if found.has_manifest:
                raise StoreError(
                    f"{self.shown!r} already holds a finished output ({MANIFEST}) of something "
                    "else. Give another place, or delete that one first; or add to it (append)."
                )
            return {}
        if not manifest:
            raise StoreError(
                f"append: {self.shown!r} holds no finished output ({MANIFEST}, format {FORMAT}) to "
                "add to. Leave append out, or give the place of one."
            )
        differing = specs.differences_but_data(manifest, spec)
        if differing:
            raise StoreError(
                f"append: the output in {self.shown!r} differs in {differing}. Give what it was "
                "made with, or another place."
            )
        known = specs.files_in(manifest["data"])
        twice = [each["file"] for each in spec["data"] if specs.files_in([each]) <= known]
        if twice:
            raise StoreError(
                f"append: the output in {self.shown!r} has the rows of {redacted(twice[0])} "
                f"already ({len(twice)} of {len(spec['data'])} files). Give new files alone."
            )
        return manifest

    def _sizes(self) -> dict[str, int]:
        """Return the size in bytes of each file, by its name from the root on."""
        self.fs.invalidate_cache()
        try:
            found = self.fs.find(self.path, detail=True)
        except FileNotFoundError:
            return {}
        begin = len(self.path) + 1
        return {path[begin:]: found[path]["size"] for path in sorted(found)}
