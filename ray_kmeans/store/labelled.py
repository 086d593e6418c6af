"""Labelled output: Parquet parts under one URL, and a manifest last.

The files and their names are in `output_names`, how one manifest follows another in `manifests`.

**One run at a time** writes there: it holds the lease in `_lease/` (see `lease`) from before its
marker is there until its manifest is. Who comes meanwhile is refused in one sentence. A run that
was cut off leaves its marker; who writes the same then writes the missing parts alone, under the
same names. Who writes anything else there is refused, unless no part is there yet.

**A holder that slept** (SIGSTOP, a machine that hung, a store out of reach) may be taken for dead
and be followed by another run, which may write something else and finish. The sleeper then goes on
wherever it was. No file has the name of another run's, so it overwrites nothing; what it adds is
stopped or taken back:

- Before its marker, it looks at its lease before and after it puts that, and ends. The marker may
  stay; it has no parts, and the next run removes it.
- In a part, on whatever machine: who follows deletes the markers of others before it writes its
  own. A worker looks for the marker of its run before it puts a part, and again afterwards; where
  it is gone the part goes too, unless a manifest has it. (The same content gives the same marker
  and the same bytes: then it does not matter who writes.) Only a worker that sleeps between these
  two looks, and is killed before the second, leaves a part; the run that is under way removes it at
  its end, or else the next one, by its name and footer.
- Before its manifest, it looks at its lease and its marker. Asleep after that, it cannot replace
  what has come meanwhile: the first manifest is created, and a later one under the number that
  follows the one that it adds to; of two that do so one is refused.
- After its manifest, the output is complete, and others may have added to it. It removes its own
  marker and its own work alone, after one more look at its lease.

**Nothing is removed that is not provably ours**: in a place where a sealed manifest or marker is, a
file under a name that only this product gives, and parts by their footers too. A place that is
refused is only looked at.

**Complete already** is said after every part was read and has the hash of the manifest. Parts that
have not are written again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ray_kmeans.errors import LeaseLostError, StoreError
from ray_kmeans.io import publish
from ray_kmeans.store import labelled_names as names
from ray_kmeans.store.labelled_manifests import FORMAT, Manifests, unsealed
from ray_kmeans.store.labelled_names import LEASE, MANIFEST
from ray_kmeans.store.labelled_parts import (
    READ_AT_ONCE,
    Part,
    Parts,
    damaged,
    is_of_run,
)
from ray_kmeans.store.lease import Lease, Times
from ray_kmeans.text.secrets import redacted

log = logging.getLogger("ray_kmeans")

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
class Counted:
    """The rows that a run has written."""

    rows: int
    left_out: int | None
    """Those that got -1; None where parts of several runs are meant."""


@dataclass(frozen=True)
class Run:
    """What one call adds to an output, or finds there."""

    parts: Parts
    """Where the workers write it."""
    content: Content
    marker: bytes
    before: Mapping[str, Any]
    """The manifest of what is there already; empty where nothing is."""
    there: Counted | None = None
    """What is in that manifest already of all that this call wants; None: nothing is."""
    number: int = -1
    """Which run of the manifest has written it; -1: several."""
    damaged: Sequence[Part] = ()
    """Parts of it that are not there as they were written."""

    @property
    def is_complete(self) -> bool:
        return self.there is not None and not self.damaged


@dataclass(frozen=True)
class Written:
    """What a run has written."""

    parts: Sequence[Part]
    counts: NDArray[np.int64]
    """(k,) rows of each label."""
    width: int | None = None
    """Clusters that share a folder, see `by_cluster`; None where there are no folders."""


@dataclass(frozen=True)
class Look:
    """What is at a place, at one time."""

    sizes: Mapping[str, int]
    """Of all files, by their names from the root on."""
    manifest: Mapping[str, Any]
    """The one that counts; empty where there is none that can be read."""
    has_manifest: bool
    """Whether there is any, of whatever version."""
    is_behind: bool
    """Whether readers see an older one."""
    markers: Mapping[str, Mapping[str, Any]]
    """What the sealed markers say, by their names."""

    @cached_property
    def is_ours(self) -> bool:
        return bool(self.manifest or self.markers)

    @cached_property
    def named(self) -> frozenset[str]:
        """The parts of the manifest."""
        return frozenset(part["name"] for part in self.manifest.get("parts", ()))

    @cached_property
    def done(self) -> frozenset[str]:
        """The markers of runs that are in the manifest: they were cut off right after it."""
        runs = self.manifest.get("runs", ())
        done = {names.marker_of(run["stamp"]) for run in runs}
        old = self.markers.get(names.OLD_MARKER)
        if old is not None and runs and old.get("after", "") not in {r["stamp"] for r in runs}:
            done.add(names.OLD_MARKER)
        return frozenset(done & self.markers.keys())

    def parts_of(self, marker: str) -> list[str]:
        """Return the parts that a run has written which is not in the manifest."""
        if found := names.MARKER.fullmatch(marker):
            return [name for name in self.sizes if names.run_of(name) == found[1]]
        old = [n for n in self.sizes if n.endswith(".parquet") and not names.run_of(n)]
        return [name for name in old if name not in self.named]

    @cached_property
    def open(self) -> frozenset[str]:
        """The markers of runs that are not in the manifest: cut off, or at work."""
        return frozenset(self.markers.keys() - self.done)

    @cached_property
    def cut_off(self) -> dict[str, list[str]]:
        """Those of them that have parts, and these."""
        return {name: parts for name in sorted(self.open) if (parts := self.parts_of(name))}


@dataclass(frozen=True, repr=False)
class LabelledOutput(publish.Place):
    """Parts under one URL. Complete once the manifest is there."""

    @classmethod
    def at(cls, url: str, storage_options: Mapping[str, Any]) -> LabelledOutput:
        """Return the place under a URL that means the same in every process."""
        return cls(publish.absolute(url), storage_options)

    def complete(self, content: Content, append: bool = False) -> Counted | None:
        """Return what is there where that is all of it, whole by its hashes; None where it is not.

        Nothing is touched. Raises StoreError where something else is there; but what a run has
        begun, which may be at work, is for the one to judge that holds the place.
        """
        content = _as_json(content)
        with self.raise_store_errors(f"{self.shown!r} cannot be written"):
            look = self.look()
            if look.open and _there(look.manifest, content, append) is None:
                return None
            run = self.plan(look, content, append)
            to_tidy = not look.open and self.leftovers(look, run, at_end=True)
        return None if look.is_behind or to_tidy or not run.is_complete else run.there

    @contextmanager
    def held(self, times: Times | None = None) -> Iterator[Held]:
        """Give the right to write here, to one run at a time; BusyError where another has it."""
        place = publish.Place(self.url, self.storage_options)
        with Lease(place, uuid.uuid4().hex, "predict", times, LEASE) as lease:
            yield Held(self, lease)

    def look(self) -> Look:
        """Return what is there."""
        sizes = self._sizes()
        manifests = self.manifests
        found = [name for name in sizes if names.MARKER.fullmatch(name) or name == names.OLD_MARKER]
        markers = {name: unsealed(manifests.read(name)) for name in found}
        sealed = {name: marker for name, marker in markers.items() if marker}
        is_there, is_behind = MANIFEST in sizes, manifests.is_behind()
        return Look(sizes, manifests.newest(), is_there, is_behind, sealed)

    def plan(self, look: Look, content: Content, append: bool) -> Run:
        """Return what is to be done; StoreError where something else is there."""
        content = _as_json(content)
        found = _there(look.manifest, content, append)
        if found is not None:
            return self._again(look, content, *found)
        before = self._before(look, content, append)
        runs = before.get("runs", ())
        marker = _marker(content, runs[-1]["stamp"] if runs else "")
        stamp = publish.sha256(marker)
        self._check_place(look, content, stamp)
        first = before.get("next_part", 0), before.get("rows", 0)
        return Run(self._parts(content, stamp, first), content, marker, before)

    def leftovers(self, look: Look, run: Run, *, at_end: bool) -> list[str]:
        """Return the files that runs have left which are over.

        `at_end`: this one is over as well, so that only its manifest and its parts are to stay.
        """
        if not look.is_ours:
            return []
        stamp = run.parts.stamp[:12]
        mine = names.marker_of(stamp)
        cut_off = set(look.cut_off) - {mine}
        over = look.markers.keys() - cut_off - ({mine} - look.done if not at_end else set())
        keep = {found[1] for name in cut_off if (found := names.MARKER.fullmatch(name))}
        keep |= set() if at_end else {stamp}
        others = [n for n in look.sizes if names.run_of(n) not in ("", *keep)]
        others = [n for n in others if n not in look.named and self._is_of_run(n, stamp)]
        unpublished = [name for name in look.sizes if names.is_unpublished(name)]
        old = filter(names.OLD_WORK.fullmatch, look.sizes)
        return [*unpublished, *others, *(old if names.OLD_MARKER in over else ()), *sorted(over)]

    def kept_schema(self, names: Sequence[str]) -> pa.Schema | None:
        """Return the types that a finished output has for these columns; None where it has others.

        None too where no output is there yet.
        """
        with self.raise_store_errors(f"{self.shown!r} cannot be read"):
            parts = self.manifests.newest().get("parts")
            if not parts:
                return None
            with self.fs.open(f"{self._root}/{parts[0]['name']}") as file:
                schema = pq.read_schema(file)
        if not set(names) <= set(schema.names):
            return None
        return pa.schema([(name, schema.field(name).type) for name in names])

    def remove(self, found: Sequence[str]) -> None:
        """Delete files, and on a disk the folders of work that are empty then; markers last."""

        def remove(name: str) -> None:
            with contextlib.suppress(FileNotFoundError):  # its writer lives, and has published it
                self.fs.rm_file(f"{self._root}/{name}")

        markers = [name for name in found if name.startswith("_unfinished")]
        with ThreadPoolExecutor(READ_AT_ONCE) as pool:
            list(pool.map(remove, [name for name in found if name not in set(markers)]))
        for folder in {name.partition("/")[0] for name in found if name.startswith("_by_cluster")}:
            if self.is_protocol("file"):
                with contextlib.suppress(OSError):  # something of others is in it
                    os.rmdir(f"{self._root}/{folder}")
        for name in markers:
            remove(name)

    @property
    def manifests(self) -> Manifests:
        return Manifests(self.url, self.storage_options)

    def _parts(
        self, content: Content, stamp: str, first: tuple[int, int], prefix: str = ""
    ) -> Parts:
        folder = f"/{names.working_of(stamp)}" if content.get("by_cluster") else ""
        prefix = prefix or names.prefix_of(stamp)
        url, options = f"{self.url}{folder}", self.storage_options
        return Parts(url, options, stamp, *first, prefix=prefix, home=self.url)

    def _again(self, look: Look, content: Content, number: int, parts: slice) -> Run:
        """Return a run that was written before, with what is damaged of it."""
        manifest = look.manifest
        all_parts = [Part(**part) for part in manifest["parts"][parts]]
        log.info(
            "%r has it already: its %d parts are read and compared", self.shown, len(all_parts)
        )
        bad = damaged(self, all_parts, look.sizes)
        if number < 0:
            if bad:
                raise StoreError(
                    f"{self.shown!r} has these rows, but {len(bad)} of {len(all_parts)} parts are "
                    f"missing or damaged ({bad[0].name}). Run again, without append, into another "
                    "place."
                )
            rows = Counted(sum(each["rows"] for each in content["data"]), None)
            nowhere = Parts(self.url, self.storage_options)
            return Run(nowhere, content, b"", manifest, rows, number)
        run, before = manifest["runs"][number], manifest["runs"][:number]
        marker = _marker(content, before[-1]["stamp"] if before else "")
        first = run["first_part"], run["first_row"]
        place = self._parts(content, publish.sha256(marker), first, run["prefix"])
        rows = Counted(run["rows"], run["left_out"])
        return Run(place, content, marker, manifest, rows, number, bad)

    def _check_place(self, look: Look, content: Content, stamp: str) -> None:
        """Raise StoreError where parts are there that are neither of the output nor of this run."""
        for marker, parts in look.cut_off.items():
            if marker == names.marker_of(stamp):
                continue
            differing = _differing(look.markers[marker].get("of", {}), content)
            raise StoreError(
                f"{self.shown!r} holds an unfinished output that differs from this one in "
                f"{differing or 'its version, or what it adds to'}. Run that one again to finish "
                f"it; or delete {marker} and {len(parts)} parts ({min(parts)}, ...) there, or give "
                "another place."
            )
        others = [n for n in look.sizes if n.endswith(".parquet") and n not in look.named]
        for name in others:
            run = names.run_of(name)
            mine = run == stamp[:12] or (look.is_ours and self._is_of_run(name, stamp[:12]))
            if not (run and mine):
                raise StoreError(
                    f"{self.shown!r} holds files of another origin ({name}). Give another place."
                )

    def _is_of_run(self, name: str, mine: str) -> bool:
        """Tell whether a file is that of a run, by what is in it; what this run wrote is known."""
        run = names.run_of(name)
        if not run or run == mine:
            return bool(run)
        data = self.manifests.read(name)
        if data is None:
            return False
        return is_of_run(data, run) if name.endswith(".parquet") else bool(unsealed(data))

    def _before(self, look: Look, content: Content, append: bool) -> Mapping[str, Any]:
        """Return the manifest that this run adds to; raises StoreError where it must not."""
        found = look.manifest
        if not append:
            if look.has_manifest:
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
        differing = _differing(_but_data(_said(found, content)), _but_data(content))
        if differing:
            raise StoreError(
                f"append: the output in {self.shown!r} differs in {differing}. Give what it was "
                "made with, or another place."
            )
        known = _keys(found["data"])
        twice = [each["file"] for each in content["data"] if _keys([each]) <= known]
        if twice:
            raise StoreError(
                f"append: the output in {self.shown!r} has the rows of {redacted(twice[0])} "
                f"already ({len(twice)} of {len(content['data'])} files). Give new files alone."
            )
        return found

    def _sizes(self) -> dict[str, int]:
        """Return the sizes of all files, by their names from the root on."""
        self.fs.invalidate_cache()
        try:
            found = self.fs.find(self._root, detail=True)
        except FileNotFoundError:
            return {}
        begin = len(self._root) + 1
        return {path[begin:]: found[path]["size"] for path in sorted(found)}


class Held:
    """An output that one run alone may write to."""

    def __init__(self, output: LabelledOutput, lease: Lease) -> None:
        self._output = output
        self._lease = lease

    def begin(self, content: Content, append: bool = False) -> Run:
        """Mark the place as being written, unless all of it is there.

        Raises StoreError where something else is there, or nothing can be written.
        """
        output = self._output
        with output.raise_store_errors(f"{output.shown!r} cannot be written"):
            look = output.look()
            run = output.plan(look, content, append)
            self._lease.check()
            output.manifests.promote()
            output.remove(output.leftovers(look, run, at_end=run.is_complete))
            if not run.is_complete and _name(run) not in look.open:
                publish.put(output.fs, f"{output.path}/{_name(run)}", run.marker)
            try:
                self._lease.check()
            except LeaseLostError:
                # Who follows may write the same, under this marker; but not beside a new manifest.
                if output.manifests.newest() != run.before:
                    output.remove([_name(run)])
                raise
        return run

    def finish(self, run: Run, written: Written, model: Mapping[str, Any], numbers: int) -> Counted:
        """Publish the manifest: from now on the output is complete.

        `numbers`: of parts that the run has named, whatever became of these.
        """
        before = run.before
        rows = sum(part.rows for part in written.parts)
        done = Counted(rows, rows - int(written.counts.sum()))
        total = before.get("rows", 0) + rows
        counts = written.counts + np.asarray(before.get("clusters", 0))
        parts = run.parts
        entry = {"stamp": parts.stamp, "prefix": parts.prefix, "parts": len(written.parts)}
        entry |= {"first_part": parts.first_part, "first_row": parts.first_row, **asdict(done)}
        manifest = {
            "format": FORMAT,
            "generation": before.get("generation", 0) + 1,
            "rows": total,
            "left_out": total - int(counts.sum()),
            "model": dict(model),
            "of": {**run.content, "data": None},
            "data": [*before.get("data", ()), *run.content.get("data", ())],
            "width": written.width,
            "next_part": before.get("next_part", 0) + numbers,
            "runs": [*before.get("runs", ()), entry],
            "parts": [*before.get("parts", ()), *map(asdict, written.parts)],
            "clusters": counts.tolist(),
        }
        self._publish(run, manifest)
        return done

    def mend(self, run: Run, parts: Sequence[Part]) -> Counted:
        """Note parts that were written again, where they are not as they were before."""
        again = {part.name: asdict(part) for part in parts}
        before = run.before["parts"]
        manifest = {**run.before, "parts": [again.get(part["name"], part) for part in before]}
        manifest["generation"] += 1
        self._publish(run, manifest if manifest["parts"] != before else None)
        assert run.there is not None
        return run.there

    def _publish(self, run: Run, manifest: Mapping[str, Any] | None) -> None:
        output = self._output
        with output.raise_store_errors(f"{output.shown!r} cannot be written"):
            self._lease.check()
            is_marked = output.manifests.read(_name(run)) == run.marker
            if not is_marked or not (
                manifest is None or output.manifests.commit(manifest, run.before)
            ):
                raise StoreError(
                    f"{output.shown!r} was taken over by another run while this one wrote there. "
                    "Let one of them run alone, and give the other one another place."
                )
            self._lease.check()
            output.remove(output.leftovers(output.look(), run, at_end=True))


def _name(run: Run) -> str:
    return names.marker_of(run.parts.stamp)


def _as_json(content: Content) -> dict[str, Any]:
    """Return a content as it is when it was written and read."""
    found: dict[str, Any] = json.loads(json.dumps(content))
    return found


def _marker(content: Content, after: str) -> bytes:
    """Return what marks a place while this is written there, after the run with that stamp."""
    return publish.seal({"of": content, "after": after})


def _there(manifest: Mapping[str, Any], content: Content, append: bool) -> tuple[int, slice] | None:
    """Return which run of an output has written this, and which parts; None where none has.

    With append, all runs together (-1) may have, by the files of the data.
    """
    if not manifest:
        return None
    after, first = "", 0
    for number, run in enumerate(manifest["runs"]):
        last = first + run["parts"]
        if publish.sha256(_marker(content, after)) == run["stamp"]:
            return (number, slice(first, last)) if append or len(manifest["runs"]) == 1 else None
        after, first = run["stamp"], last
    if len(manifest["runs"]) == 1 and _said(manifest, content, data=manifest["data"]) == content:
        return 0, slice(None)  # format 2 had no stamps
    same = not _differing(_but_data(_said(manifest, content)), _but_data(content))
    if append and same and content["data"] and _keys(content["data"]) <= _keys(manifest["data"]):
        return -1, slice(None)
    return None


def _keys(data: Sequence[Any]) -> set[str]:
    return {json.dumps(each, sort_keys=True) for each in data}


def _but_data(content: Content) -> dict[str, Any]:
    return {**content, "data": None, "blocks": None}


def _said(manifest: Mapping[str, Any], content: Content, **instead: Any) -> Content:
    """Return what an output says it is of; versions before did not say which columns rows have."""
    return {"features": content.get("features"), **manifest["of"], **instead}


def _differing(one: Content, other: Content) -> str:
    """Say in what two contents differ; empty where they do not."""
    keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    return ", ".join(WORDS.get(key, key) for key in keys)
