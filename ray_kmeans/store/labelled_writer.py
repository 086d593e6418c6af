"""The writer of labelled output: one run at a time, and what happens to a run that sleeps.

**One run at a time** writes to an output. It holds the lease in `_lease/` (see `lease`) from before
its marker is there until its manifest is. A second run meanwhile is refused in one sentence.

**A holder that sleeps** (SIGSTOP, a machine that hangs, a store out of reach) looks dead to others:
another run may take the lease, write something else and finish. The sleeper then goes on wherever
it was. It overwrites nothing, since no file of it has the name of another run's file. What it adds
is stopped or taken back, by where it was asleep:

- *Before its marker.* It checks its lease before and after it puts the marker, and ends. The marker
  may stay; it has no parts, and the next run removes it.
- *In a part*, on whatever machine. The follower deletes all foreign markers before it writes its
  own. A worker looks for the marker of its run before it puts a part and again afterwards; where
  the marker is gone the worker takes the part back, unless a manifest has it: the same spec gives
  the same marker and the same bytes, and then it does not matter who writes.
- *Between these two looks, and killed before the second.* Then a part stays. The run that is under
  way removes it at its end, or else the next run does, by its name and footer.
- *Before its manifest.* It checks its lease and its marker. Asleep after that, it cannot replace
  what has come meanwhile: the first manifest is created, which a store refuses to the second; a
  later one is created under the number that follows the one it adds to, and of two that do so one
  is refused (see `labelled_manifests`).
- *After its manifest.* The output is complete, and others may have added to it. It removes its own
  marker and its own work alone, after one more check of its lease.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.errors import LeaseLostError, StoreError
from ray_kmeans.io import publish
from ray_kmeans.store.labelled import LabelledOutput, LabelRun, RowCounts
from ray_kmeans.store.labelled_manifests import FORMAT
from ray_kmeans.store.labelled_names import LEASE
from ray_kmeans.store.labelled_parts import Part
from ray_kmeans.store.labelled_spec import OutputSpec
from ray_kmeans.store.lease import Lease, Times


@dataclass(frozen=True)
class WrittenParts:
    """All parts of a run, including those that an earlier attempt has written."""

    parts: Sequence[Part]
    """The parts, in order of the data or of the bundles."""
    counts: NDArray[np.int64]
    """(k,) rows of each label."""
    width: int | None = None
    """Clusters that share a folder, see `labelled_by_cluster`; None if there are no folders."""


@contextmanager
def lease_output(output: LabelledOutput, times: Times | None = None) -> Iterator[LeasedOutput]:
    """Give the right to write to an output, to one run at a time.

    Raises BusyError if another run has it.
    """
    place = publish.Place(output.url, output.storage_options)
    with Lease(place, uuid.uuid4().hex, "predict", times, LEASE) as lease:
        yield LeasedOutput(output, lease)


class LeasedOutput:
    """An output that this run alone may write to, as long as its lease lasts."""

    def __init__(self, output: LabelledOutput, lease: Lease) -> None:
        self._output = output
        self._lease = lease

    def begin(self, spec: OutputSpec, append: bool = False) -> LabelRun:
        """Mark the place as being written, unless all of the spec is there.

        Raises StoreError if something else is there, or nothing can be written.
        """
        output = self._output
        with output.raise_store_errors(f"{output.shown!r} cannot be written"):
            found = output.snapshot()
            run = output.plan(found, spec, append)
            self._lease.check()
            output.manifests.promote()
            # Foreign markers go before ours is put: from here on a sleeper's workers write no part.
            output.remove(output.leftovers(found, run, at_end=run.is_complete))
            if not run.is_complete and run.marker_name not in found.open_markers:
                publish.put(output.fs, f"{output.path}/{run.marker_name}", run.marker)
            try:
                self._lease.check()
            except LeaseLostError:
                # The follower may write the same spec, under this marker: then it must stay. Beside
                # a new manifest nobody writes under it.
                if output.manifests.newest() != run.before:
                    output.remove([run.marker_name])
                raise
        return run

    def finish(
        self, run: LabelRun, written: WrittenParts, model: Mapping[str, Any], numbers: int
    ) -> RowCounts:
        """Publish the manifest: from now on the output is complete.

        `numbers`: how many part numbers the run has used, for the next run begins after them.
        """
        before = run.before
        rows = sum(part.rows for part in written.parts)
        added = RowCounts(rows, rows - int(written.counts.sum()))
        total = before.get("rows", 0) + rows
        counts = written.counts + np.asarray(before.get("clusters", 0))
        parts = run.parts
        entry = {"stamp": parts.stamp, "prefix": parts.prefix, "parts": len(written.parts)}
        entry |= {"first_part": parts.first_part, "first_row": parts.first_row, **asdict(added)}
        manifest = {
            "format": FORMAT,
            "generation": before.get("generation", 0) + 1,
            "rows": total,
            "left_out": total - int(counts.sum()),
            "model": dict(model),
            "of": {**run.spec, "data": None},
            "data": [*before.get("data", ()), *run.spec.get("data", ())],
            "width": written.width,
            "next_part": before.get("next_part", 0) + numbers,
            "runs": [*before.get("runs", ()), entry],
            "parts": [*before.get("parts", ()), *map(asdict, written.parts)],
            "clusters": counts.tolist(),
        }
        self._publish(run, manifest)
        return added

    def mend(self, run: LabelRun, parts: Sequence[Part]) -> RowCounts:
        """Publish a manifest with parts that were written again, where they differ from before."""
        again = {part.name: asdict(part) for part in parts}
        before = run.before["parts"]
        manifest = {**run.before, "parts": [again.get(part["name"], part) for part in before]}
        manifest["generation"] += 1
        self._publish(run, manifest if manifest["parts"] != before else None)
        assert run.there is not None
        return run.there

    def _publish(self, run: LabelRun, manifest: Mapping[str, Any] | None) -> None:
        """Publish a manifest, if there is one, and remove what the run no longer needs.

        Raises StoreError if another run has deleted the marker, or has published a manifest.
        """
        output = self._output
        with output.raise_store_errors(f"{output.shown!r} cannot be written"):
            self._lease.check()
            is_marked = output.manifests.read(run.marker_name) == run.marker
            if not is_marked or not (
                manifest is None or output.manifests.commit(manifest, run.before)
            ):
                raise StoreError(
                    f"{output.shown!r} was taken over by another run while this one wrote there. "
                    "Let one of them run alone, and give the other one another place."
                )
            self._lease.check()
            output.remove(output.leftovers(output.snapshot(), run, at_end=True))
