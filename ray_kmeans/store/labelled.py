"""Labelled output: one Parquet part per block of the data, and a manifest last."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ray_kmeans.errors import StoreError
from ray_kmeans.store import publish

MANIFEST = "_manifest.json"
UNFINISHED = "_unfinished.json"
PART = re.compile(r"part-\d{8}\.parquet")
UNPUBLISHED = re.compile(r"(part-\d{8}\.parquet|_\w+\.json)\.\w+\.partial")
"""What a killed writer leaves on a disk: a file under the name that it has until it is whole."""
OWN_COLUMNS = ("row", "cluster_idx", "distance")
FORMAT = 1


@dataclass(frozen=True)
class Part:
    """One file of the output."""

    name: str
    rows: int
    size: int
    """Bytes."""
    sha256: str


@dataclass(frozen=True, repr=False)
class LabelledOutput(publish.Place):
    """Parts under one URL. Complete once the manifest is there."""

    @classmethod
    def at(cls, url: str, storage_options: Mapping[str, Any]) -> LabelledOutput:
        """Return the place under a URL that means the same in every process."""
        return cls(publish.absolute(url), storage_options)

    def start(self) -> None:
        """Mark the place as being written, and remove parts of an output that was cut off.

        Raises StoreError where a finished output or files of another origin are already, or where
        nothing can be written.
        """
        with self.said(f"{self.shown!r} cannot be written"):
            names = self._names()
            if MANIFEST in names:
                raise StoreError(
                    f"{self.shown!r} already holds a finished output ({MANIFEST}). "
                    "Give another place, or delete that one first."
                )
            foreign = [name for name in names if name.endswith(".parquet")]
            if foreign and UNFINISHED not in names:
                raise StoreError(
                    f"{self.shown!r} holds files of another origin ({foreign[0]}). "
                    "Give another place."
                )
            for name in filter(PART.fullmatch, names):
                self.fs.rm_file(f"{self._root}/{name}")
            self._remove_unpublished(names)
            publish.put(self.fs, f"{self._root}/{UNFINISHED}", b"{}")

    def write(
        self,
        index: int,
        first_row: int,
        labels: NDArray[np.int32],
        distances: NDArray[np.float32],
        kept: pa.Table | None,
    ) -> Part:
        """Publish the part of block `index`: the columns kept, then row, cluster_idx, distance."""
        columns = dict(zip(kept.column_names, kept.columns, strict=True)) if kept else {}
        rows = pa.array(np.arange(first_row, first_row + len(labels)))
        own = (rows, pa.array(labels), pa.array(distances))
        columns |= dict(zip(OWN_COLUMNS, own, strict=True))
        content = io.BytesIO()
        pq.write_table(pa.table(columns), content)
        name = f"part-{index:08d}.parquet"
        data = content.getvalue()
        publish.put(self.fs, f"{self._root}/{name}", data)
        return Part(name, len(labels), len(data), publish.sha256(data))

    def finish(self, parts: Sequence[Part], model: Mapping[str, Any]) -> None:
        """Publish the manifest: from now on the output is complete."""
        manifest = {
            "format": FORMAT,
            "rows": sum(part.rows for part in parts),
            "model": dict(model),
            "parts": [asdict(part) for part in parts],
        }
        sealed = publish.seal(manifest)
        with self.said(f"{self.shown!r} cannot be written"):
            self._remove_unpublished(self._names())  # readers of a directory would stumble over it
            publish.put(self.fs, f"{self._root}/{MANIFEST}", sealed)
            self.fs.rm_file(f"{self._root}/{UNFINISHED}")

    def _remove_unpublished(self, names: Sequence[str]) -> None:
        for name in filter(UNPUBLISHED.fullmatch, names):
            with suppress(FileNotFoundError):  # its writer lives, and has published it
                self.fs.rm_file(f"{self._root}/{name}")

    def _names(self) -> list[str]:
        try:
            found = self.fs.ls(self._root, detail=False)
        except FileNotFoundError:
            return []
        return sorted(path.rsplit("/", 1)[-1] for path in found)
