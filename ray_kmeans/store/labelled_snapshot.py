"""A snapshot of the files of labelled output, and which of them belong to which run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ray_kmeans.store import labelled_names as names


@dataclass(frozen=True)
class OutputSnapshot:
    """The files of an output at one time; others may have changed them since."""

    sizes: Mapping[str, int]
    """Size in bytes of each file, by its name from the root of the output on."""
    manifest: Mapping[str, Any]
    """The manifest that counts; empty if there is none that this version reads."""
    has_manifest: bool
    """Whether there is a manifest of any version."""
    is_behind: bool
    """Whether readers see an older manifest than the one that counts."""
    markers: Mapping[str, Mapping[str, Any]]
    """Content of each marker whose seal is whole, by its name."""

    @cached_property
    def is_ours(self) -> bool:
        """Whether a manifest or a marker of this product is there."""
        return bool(self.manifest or self.markers)

    @cached_property
    def parts_in_manifest(self) -> frozenset[str]:
        """The names of the parts in the manifest."""
        return frozenset(part["name"] for part in self.manifest.get("parts", ()))

    @cached_property
    def finished_markers(self) -> frozenset[str]:
        """The markers of runs that are in the manifest: they were cut off right after it."""
        runs = self.manifest.get("runs", ())
        finished = {names.marker_of(run["stamp"]) for run in runs}
        old = self.markers.get(names.OLD_MARKER)
        if old is not None and runs and old.get("after", "") not in {r["stamp"] for r in runs}:
            finished.add(names.OLD_MARKER)
        return frozenset(finished & self.markers.keys())

    @cached_property
    def open_markers(self) -> frozenset[str]:
        """The markers of runs that are not in the manifest: they are at work, or were cut off."""
        return frozenset(self.markers.keys() - self.finished_markers)

    @cached_property
    def unfinished_parts(self) -> dict[str, list[str]]:
        """The parts of each open marker that has any, by the name of the marker."""
        found = {marker: self.parts_of(marker) for marker in sorted(self.open_markers)}
        return {marker: parts for marker, parts in found.items() if parts}

    def parts_of(self, marker: str) -> list[str]:
        """Return the parts that the run of an open marker has written."""
        if found := names.MARKER.fullmatch(marker):
            return [name for name in self.sizes if names.run_of(name) == found[1]]
        old = [n for n in self.sizes if n.endswith(".parquet") and not names.run_of(n)]
        return [name for name in old if name not in self.parts_in_manifest]
