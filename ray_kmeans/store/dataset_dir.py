"""A directory of a synthetic data set: files made one by one, each visible in one step.

_dataset.json            the request: what the data set is to be; written first
part-00000000.parquet    the columns id, vector, label
or part-00000000.npy     the vectors, and _labels/part-00000000.npy, which readers of data pass over

A run that was killed is run again with the same request and makes the missing files alone. The
request is created, so of two runs with different ones the second is refused; two runs with the same
one write the same bytes under the same names.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ray_kmeans.errors import StoreError
from ray_kmeans.io import publish

MANIFEST = "_dataset.json"
"""Name of the file that holds the request."""
ROW_GROUP = 16_384
"""Rows of a row group of Parquet, the smallest unit that a worker reads."""
OWN = re.compile(rf"{MANIFEST}|part-[0-9]{{8}}\.(?:parquet|npy)")
"""Names that this product gives here."""
OLD_UNPUBLISHED = re.compile(r"part-[0-9]{8}\.(?:parquet|npy)\.[0-9a-f]{8}\.partial")
"""Names that unpublished files had until 2026; other programs may give such names too."""


class DatasetDir(publish.Place):
    """The files of one data set under a URL."""

    def start(self, asked: Mapping[str, Any]) -> set[str]:
        """Write the request `asked`; return the names of the files that are there already.

        Raises StoreError if anything else is there.
        """
        with self.raise_store_errors(f"{self.shown!r} cannot be written"):
            found = self._names()
            left = set(filter(_is_unpublished, found))
            names = found - left
            if names and MANIFEST not in names:
                raise StoreError(
                    f"{self.shown!r} holds files already ({min(names)}). Give an empty place."
                )
            path = f"{self.path}/{MANIFEST}"
            if not publish.create(self.fs, path, publish.seal(dict(asked))):
                there = publish.unseal(self.fs.cat_file(path)) or {}
                other = [f"{k}={there.get(k)!r}" for k, v in asked.items() if there.get(k) != v]
                raise StoreError(
                    f"{self.shown!r} holds another data set ({', '.join(other)}). Give another "
                    "place, or ask for the same."
                )
            # The request tells that the place is ours, so these are too; readers would take
            # them for data.
            for name in left | set(filter(OLD_UNPUBLISHED.fullmatch, names)):
                self.fs.rm_file(f"{self.path}/{name}")
            return names

    def write(
        self, name: str, start: int, vectors: NDArray[np.float32], labels: NDArray[np.int32]
    ) -> None:
        """Publish the file of these rows (n, d) and labels (n,), which begin at row `start`."""
        if name.endswith(".npy"):
            self.put(f"_labels/{name}", _npy(labels))
            self.put(name, _npy(vectors))
        else:
            self.put(name, _parquet(start, vectors, labels))

    def _names(self) -> set[str]:
        """Return the names of all files and folders here."""
        try:
            found = self.fs.ls(self.path, detail=False)
        except FileNotFoundError:
            return set()
        return {path.rstrip("/").rsplit("/", 1)[-1] for path in found} - {""}


def _is_unpublished(name: str) -> bool:
    """Return whether a killed writer of a data set has left this file."""
    target = publish.published_name(name)
    return target != name and OWN.fullmatch(target) is not None


def _npy(array: NDArray[Any]) -> bytes:
    """Return an array as a .npy file."""
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    return content.getvalue()


def _parquet(start: int, vectors: NDArray[np.float32], labels: NDArray[np.int32]) -> bytes:
    """Return rows as Parquet with the columns id, vector, label."""
    columns = {
        "id": pa.array(np.arange(start, start + len(labels))),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]),
        "label": pa.array(labels),
    }
    content = io.BytesIO()
    # Random numbers hardly repeat, so a dictionary would only make the file larger.
    pq.write_table(pa.table(columns), content, ROW_GROUP, use_dictionary=["label"])
    return content.getvalue()
