"""Labelled output: one Parquet part per block of the data, and a manifest last."""

from __future__ import annotations

import io
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ray_kmeans.errors import StoreError
from ray_kmeans.store import publish

MANIFEST = "_manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class Part:
    """One file of the output."""

    name: str
    rows: int
    size: int
    """Bytes."""
    sha256: str


@dataclass(frozen=True)
class LabelledOutput:
    """Parts under one URL. Complete once the manifest is there. Travels to workers by pickle."""

    url: str
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def at(cls, url: str, storage_options: Mapping[str, Any]) -> LabelledOutput:
        """Return the place under a URL that means the same in every process."""
        return cls(publish.absolute(url), storage_options)

    def check(self) -> None:
        """Raise StoreError where a finished output is already, or where nothing can be written."""
        if self._fs.exists(f"{self._root}/{MANIFEST}"):
            raise StoreError(
                f"{self.url!r} already holds a finished output ({MANIFEST}). "
                "Give another place, or delete that one first."
            )
        probe = f"{self._root}/_probe-{uuid.uuid4().hex[:8]}"
        try:
            publish.put(self._fs, probe, b"may I write here?")
            self._fs.rm_file(probe)
        except Exception as error:  # every store has its own exceptions for "no"
            raise StoreError(
                f"{self.url!r} cannot be written: {type(error).__name__}: {error}."
            ) from error

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
        columns |= {"row": rows, "cluster_idx": pa.array(labels), "distance": pa.array(distances)}
        content = io.BytesIO()
        pq.write_table(pa.table(columns), content)
        name = f"part-{index:08d}.parquet"
        data = content.getvalue()
        publish.put(self._fs, f"{self._root}/{name}", data)
        return Part(name, len(labels), len(data), publish.sha256(data))

    def finish(self, parts: Sequence[Part], model: Mapping[str, Any]) -> None:
        """Publish the manifest: from now on the output is complete."""
        manifest = {
            "format": FORMAT,
            "rows": sum(part.rows for part in parts),
            "model": dict(model),
            "parts": [asdict(part) for part in parts],
        }
        publish.put(self._fs, f"{self._root}/{MANIFEST}", publish.seal(manifest))

    @cached_property
    def _place(self) -> tuple[Any, str]:
        fs, path = fsspec.core.url_to_fs(self.url, **self.storage_options)
        return fs, str(path).rstrip("/")

    @property
    def _fs(self) -> Any:
        return self._place[0]

    @property
    def _root(self) -> str:
        return self._place[1]

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open file system behind; the other process makes its own."""
        return {"url": self.url, "storage_options": self.storage_options}
