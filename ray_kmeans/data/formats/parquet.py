"""Read Parquet: a column of vectors (FixedSizeList or List), or columns of numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ray_kmeans.data import columns as arrow
from ray_kmeans.data.column_choice import Span
from ray_kmeans.data.formats.base import Head, Look, OpenFile
from ray_kmeans.data.record_batches import rows_of_blocks
from ray_kmeans.data.sharding import Block, groups_of, passes_over

BATCH_ROWS = 2048
"""Number of rows decoded at once: Arrow then holds a few MB, however large a row group is."""
BUFFER_BYTES = 2**20
"""Bytes of a column chunk that are read at once."""
MOST_SPANS = 64
"""Number of columns, the first of a file, whose statistics tell whether they may be keys."""


@dataclass(frozen=True)
class Parquet:
    """Rows in row groups, made of some columns."""

    columns: tuple[str, ...]
    """Names of the column of vectors, or of the columns of numbers; () before the choice."""
    batch_rows: int = BATCH_ROWS
    """Number of rows decoded at once."""

    @classmethod
    def of(cls, first: OpenFile, columns: Sequence[str] | None) -> Parquet:
        """Return the format with the columns that the user names."""
        return cls(tuple(columns or ()))

    def with_columns(self, columns: tuple[str, ...], looks: Sequence[Look]) -> Parquet:
        return replace(self, columns=columns)

    def look(self, file: OpenFile) -> Look:
        """Read schema and sizes from the footer; only vectors of unknown length need a row."""
        parquet = _file(file)
        meta, schema = parquet.metadata, parquet.schema_arrow
        rows = tuple(meta.row_group(group).num_rows for group in range(meta.num_row_groups))
        vectors = arrow.of_unknown_length(schema, self.columns or schema.names)
        lengths = {name: _first_length(parquet, name, file.path) for name in vectors}
        return Look(schema, rows, lengths, {} if self.columns else _spans(meta, schema))

    def head_of(self, file: OpenFile, look: Look) -> Head:
        return look.head(self.columns, file.path)

    def read(self, file: OpenFile, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[Any]]]:
        """Yield blocks and their rows; a row group is read once if its blocks come in order."""
        parquet = _file(file)
        for group in groups_of(tuple(blocks)):
            for run in passes_over(group):
                yield from _read_group(parquet, self.columns, run, self.batch_rows)

    def columns_of(self, file: OpenFile, block: Block, names: Sequence[str]) -> pa.Table:
        """Return columns of one block, for output beside its labels."""
        parquet = _file(file)
        arrow.check_names(names, parquet.schema_arrow, block.file)
        group = parquet.read_row_group(block.group, columns=list(names), use_threads=False)
        return arrow.select(group.slice(block.skip, block.rows), names, block.file)


def _first_length(parquet: Any, name: str, path: str) -> int:
    """Return the length of the first vector of a column; 0 if there is none."""
    row = 0
    for batch in parquet.iter_batches(batch_size=64, columns=[name]):
        length = arrow.vector_length(batch, name, path, row)
        if length:
            return length
        row += batch.num_rows
    return 0


def _spans(meta: Any, schema: pa.Schema) -> dict[str, Span]:
    """Return the spans of columns of numbers, from the footer; {} if there are vectors."""
    if any(map(arrow.is_vector, schema.types)):
        return {}
    leaves = {meta.schema.column(i).path: i for i in range(min(meta.num_columns, MOST_SPANS))}
    some = zip(schema.names[:MOST_SPANS], schema.types, strict=False)
    names = [name for name, kind in some if arrow.is_number(kind) and name in leaves]
    spans = {name: _span(meta, leaves[name]) for name in names}
    return {name: span for name, span in spans.items() if span}


def _span(meta: Any, leaf: int) -> Span | None:
    """Return the span of a column; None if a row group has no statistics, or no whole numbers."""
    lows, highs, count = [], [], 0
    for group in range(meta.num_row_groups):
        found = meta.row_group(group).column(leaf).statistics
        if found is None or not found.has_min_max or found.min % 1 or found.max % 1:
            return None
        lows.append(found.min)
        highs.append(found.max)
        count += found.num_values
    return (min(lows), max(highs), count) if lows else None


def _file(file: OpenFile) -> Any:
    """Open a Parquet file without reading ahead, which would hold a whole row group."""
    return pq.ParquetFile(file.handle, pre_buffer=False, buffer_size=BUFFER_BYTES)


def _read_group(
    parquet: Any, names: tuple[str, ...], blocks: Sequence[Block], batch_rows: int
) -> Iterator[tuple[Block, NDArray[np.float32]]]:
    """Decode a row group once, in small batches, and cut it into blocks that follow its order."""
    batches = parquet.iter_batches(
        batch_size=batch_rows, row_groups=[blocks[0].group], columns=list(names), use_threads=False
    )
    yield from rows_of_blocks(batches, names, blocks)
