"""Rows from Parquet files: a column of vectors (FixedSizeList or List), or columns of numbers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ray_kmeans.data import columns as arrow
from ray_kmeans.data.files import FileSystem, is_in_memory
from ray_kmeans.data.plan import Block, Layout, cut
from ray_kmeans.errors import DataError

BATCH_ROWS = 2048
"""Rows decoded at once: Arrow then holds some MB, whatever the size of a row group."""
FOOTERS_AT_ONCE = 16


@dataclass(frozen=True)
class _Footer:
    schema: pa.Schema
    group_rows: tuple[int, ...]


@dataclass(frozen=True)
class ParquetSource:
    """Parquet files, one after the other, in sorted order."""

    fs: FileSystem
    files: tuple[str, ...]
    columns: tuple[str, ...]
    """The column of vectors, or the columns of numbers, by name and in this order."""

    @classmethod
    def of(
        cls, fs: FileSystem, files: Sequence[str], columns: Sequence[str] | None
    ) -> ParquetSource:
        """Choose the columns by the first file where none are given."""
        with _open(fs, files[0]) as parquet:
            names = arrow.choose_columns(parquet.schema_arrow, columns, files[0])
        return cls(fs, tuple(files), names)

    @property
    def only_here(self) -> bool:
        return is_in_memory(self.fs)

    def describe(self) -> Layout:
        with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
            footers = list(pool.map(self._footer, self.files))
        pairs = list(zip(self.files, footers, strict=True))
        features = next(filter(None, (self._features(*pair) for pair in pairs)), 0)
        if features == 0 and any(sum(footer.group_rows) for footer in footers):
            raise DataError(f"column {self.columns[0]!r} of {self.files[0]} holds no vector.")
        blocks: list[Block] = []
        first = 0
        for file, footer in pairs:
            self._check(file, footer.schema, footers[0].schema, features)
            blocks += cut(file, footer.group_rows, features, first, len(blocks))
            first += sum(footer.group_rows)
        return Layout(tuple(blocks), features)

    def read(self, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[np.float32]]]:
        for file, of_file in groupby(blocks, key=lambda block: block.file):
            with _open(self.fs, file) as parquet:
                for _, of_group in groupby(of_file, key=lambda block: block.group):
                    yield from _read_group(parquet, self.columns, list(of_group))

    def columns_of(self, block: Block, names: Sequence[str]) -> pa.Table:
        with _open(self.fs, block.file) as parquet:
            arrow_names = parquet.schema_arrow.names
            missing = [name for name in names if name not in arrow_names]
            if missing:
                raise DataError(f"keep_columns={missing} are not in {block.file}: {arrow_names}.")
            group = parquet.read_row_group(block.group, columns=list(names), use_threads=False)
            return group.slice(block.skip, block.rows)

    def _check(self, file: str, schema: pa.Schema, of_first: pa.Schema, features: int) -> None:
        arrow.choose_columns(schema, self.columns, file)
        name = self.columns[0]
        kind, first_kind = schema.field(name).type, of_first.field(name).type
        fixed = pa.types.is_fixed_size_list(kind)
        if arrow.is_vector(kind) != arrow.is_vector(first_kind):
            problem = f"is {kind} and that of {self.files[0]} is {first_kind}"
        elif fixed and kind.list_size != features:
            problem = f"has {kind.list_size} features and {self.files[0]} has {features}"
        else:
            return
        raise DataError(f"column {name!r} of {file} {problem}; all files must have the same.")

    def _footer(self, file: str) -> _Footer:
        with _open(self.fs, file) as parquet:
            meta = parquet.metadata
            rows = tuple(meta.row_group(group).num_rows for group in range(meta.num_row_groups))
            return _Footer(parquet.schema_arrow, rows)

    def _features(self, file: str, footer: _Footer) -> int:
        """Return the length of a row; 0 where this file has no vector to tell it."""
        arrow.choose_columns(footer.schema, self.columns, file)
        kind = footer.schema.field(self.columns[0]).type
        if not arrow.is_vector(kind):
            return len(self.columns)
        if pa.types.is_fixed_size_list(kind):
            return int(kind.list_size)
        with _open(self.fs, file) as parquet:
            batches = parquet.iter_batches(batch_size=64, columns=list(self.columns))
            lengths = (arrow.vector_length(batch.column(0)) for batch in batches)
            return next((length for length in lengths if length), 0)


@contextmanager
def _open(fs: FileSystem, file: str) -> Iterator[pq.ParquetFile]:
    try:
        with fs.open(file, "rb") as handle:
            yield pq.ParquetFile(handle, pre_buffer=False, buffer_size=2**20)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"cannot read {file}: {error}".replace("\n", " ")) from None


def _read_group(
    parquet: Any, names: tuple[str, ...], blocks: Sequence[Block]
) -> Iterator[tuple[Block, NDArray[np.float32]]]:
    """Decode a row group once, in small batches, and cut it into the blocks wanted."""
    if any(after.skip < before.skip for before, after in pairwise(blocks)):
        for block in blocks:  # not in the order of the file: once for each
            yield from _read_group(parquet, names, [block])
        return
    wanted = deque(blocks)
    begin = 0  # of the batch, within the row group
    for batch in parquet.iter_batches(
        batch_size=BATCH_ROWS, row_groups=[blocks[0].group], columns=list(names), use_threads=False
    ):
        end = begin + batch.num_rows
        while wanted and wanted[0].skip < end:
            block = wanted[0]
            low, high = max(block.skip, begin), min(block.skip + block.rows, end)
            if low == block.skip:
                rows = np.empty((block.rows, block.features), np.float32)
            part = batch.slice(low - begin, high - low)
            rows[low - block.skip : high - block.skip] = arrow.matrix(
                part, names, block.features, block.place, low
            )
            if high < block.skip + block.rows:
                break  # the next batch goes on with this block
            yield wanted.popleft(), rows
            if not wanted:
                return
        begin = end
