"""Parquet: a column of vectors (FixedSizeList or List), or columns of numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ray_kmeans.data import columns as arrow
from ray_kmeans.data.format import Head, Opened
from ray_kmeans.data.plan import Block

BATCH_ROWS = 2048
"""Rows decoded at once: Arrow then holds some MB, whatever the size of a row group."""
BUFFER_BYTES = 2**20


@dataclass(frozen=True)
class Parquet:
    """Row groups are the parts."""

    columns: tuple[str, ...]
    """The column of vectors, or the columns of numbers, by name and in this order."""

    @classmethod
    def of(cls, first: Opened, columns: Sequence[str] | None) -> Parquet:
        """Choose the columns by the first file where none are given."""
        return cls(arrow.choose_columns(_file(first).schema_arrow, columns, first.path))

    def head(self, file: Opened) -> Head:
        parquet = _file(file)
        meta, schema = parquet.metadata, parquet.schema_arrow
        arrow.choose_columns(schema, self.columns, file.path)
        rows = tuple(meta.row_group(group).num_rows for group in range(meta.num_row_groups))
        features = arrow.features_of(schema, self.columns)
        if features == 0:
            features = self._first_length(parquet, file.path)
        kind, narrow = arrow.kind_of(schema, self.columns), arrow.narrow_of(schema, self.columns)
        return Head(rows, features, kind, narrow=narrow)

    def read(self, file: Opened, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[Any]]]:
        parquet = _file(file)
        for _, of_group in groupby(blocks, key=lambda block: block.group):
            yield from _read_group(parquet, self.columns, list(of_group))

    def columns_of(self, file: Opened, block: Block, names: Sequence[str]) -> pa.Table:
        parquet = _file(file)
        arrow.check_kept(names, parquet.schema_arrow, block.file)
        group = parquet.read_row_group(block.group, columns=list(names), use_threads=False)
        return arrow.kept(group.slice(block.skip, block.rows), names, block.file)

    def _first_length(self, parquet: Any, path: str) -> int:
        """Return the length of the first vector; 0 where there is none."""
        batches = parquet.iter_batches(batch_size=64, columns=list(self.columns))
        row = 0
        for batch in batches:
            length = arrow.vector_length(batch, self.columns[0], path, row)
            if length:
                return length
            row += batch.num_rows
        return 0


def _file(file: Opened) -> Any:
    return pq.ParquetFile(file.handle, pre_buffer=False, buffer_size=BUFFER_BYTES)


def _read_group(
    parquet: Any, names: tuple[str, ...], blocks: Sequence[Block]
) -> Iterator[tuple[Block, NDArray[np.float32]]]:
    """Decode a row group once, in small batches, and cut it into the blocks wanted."""
    if any(after.skip < before.skip for before, after in pairwise(blocks)):
        for block in blocks:  # not in the order of the file: once for each
            yield from _read_group(parquet, names, [block])
        return
    batches = parquet.iter_batches(
        batch_size=BATCH_ROWS, row_groups=[blocks[0].group], columns=list(names), use_threads=False
    )
    yield from arrow.cut_batches(batches, names, blocks)
