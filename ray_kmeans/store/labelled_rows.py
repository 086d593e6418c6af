"""Read the labels of rows back from a labelled output, by the numbers of the rows."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ray_kmeans.errors import ConfigError, StoreError
from ray_kmeans.io import publish
from ray_kmeans.store.labelled_manifests import Manifests
from ray_kmeans.store.labelled_parts import LABEL, ROW


@dataclass(frozen=True, repr=False)
class LabelledRows(publish.Place):
    """The labels in a complete labelled output, whose files are in the order of the rows."""

    names: tuple[str, ...] = ()
    """Names of the parts, in order."""
    begins: tuple[int, ...] = ()
    """Number of the first row of each part."""
    rows: int = 0
    """Number of rows."""

    @classmethod
    def at(cls, url: str, storage_options: Mapping[str, Any], rows: int) -> LabelledRows:
        """Return the labels of an output; ConfigError unless it has this number of rows.

        Only the manifest is read.
        """
        place = Manifests(publish.absolute(url), storage_options)
        shown = f"against_output={place.shown!r}"
        with place.raise_store_errors(f"{place.shown!r} cannot be read"):
            found = place.newest()
        if not found:
            raise ConfigError(f"{shown} holds no complete labelled output. Give one of `predict`.")
        if found["of"].get("by_cluster"):
            raise ConfigError(
                f"{shown} has its rows in the order of clusters. Give an output in the order of "
                "the data (without by_cluster)."
            )
        if found["rows"] != rows:
            raise ConfigError(
                f"{shown} has {found['rows']:,} rows and the data have {rows:,}. Give an output of "
                "these data: rows are compared by their numbers."
            )
        parts = found["parts"]
        begins = accumulate((part["rows"] for part in parts[:-1]), initial=0)
        names = tuple(part["name"] for part in parts)
        return cls(place.url, storage_options, names, tuple(begins), rows)

    def read(self, blocks: Sequence[Any]) -> Iterator[tuple[NDArray[np.int64], Sequence[int]]]:
        """Yield (codes (rows,), values) of each block: the code of a row is the place of its label;
        -1 for a row without one.

        Blocks are in the order of the data, so each part is read once or twice.
        """
        at, labels = -1, np.empty(0, np.int64)
        for block in blocks:
            pieces = []
            first, end = block.first, block.first + block.rows
            while first < end:
                number = bisect_right(self.begins, first) - 1
                if number != at:
                    at, labels = number, self._labels(number)
                begin = self.begins[at]
                pieces.append(labels[first - begin : end - begin])
                first += len(pieces[-1])
            values, codes = np.unique(np.concatenate(pieces), return_inverse=True)
            left_out = int((values < 0).sum())  # the label -1, which comes first
            codes = np.maximum(codes.ravel().astype(np.int64) - left_out, -1)
            yield codes, values[left_out:].tolist()

    def _labels(self, number: int) -> NDArray[np.int64]:
        """Return the labels of a part, in the order of its rows."""
        name, begin = self.names[number], self.begins[number]
        with self.raise_store_errors(f"{self.shown!r} cannot be read"):
            data = self.fs.cat_file(f"{self.path}/{name}")
        try:
            table = pq.read_table(pa.BufferReader(data), columns=[ROW, LABEL])
        except pa.ArrowException as error:
            raise StoreError(f"{self.shown}/{name} is no part of an output: {error}") from None
        ends = (*self.begins[1:], self.rows)
        expected = np.arange(begin, ends[number])
        if not np.array_equal(table[ROW].to_numpy(), expected):
            raise StoreError(
                f"{self.shown}/{name} does not hold the rows from {begin:,} on, as the manifest "
                "says. Run the same `predict` again: it writes damaged parts anew."
            )
        return np.asarray(table[LABEL].to_numpy(), np.int64)
