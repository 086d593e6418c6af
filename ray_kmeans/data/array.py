"""Rows that are in memory already: a NumPy array or an Arrow table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ray_kmeans.clustering.narrow import narrow_name
from ray_kmeans.data import columns as arrow
from ray_kmeans.data.choice import choose_columns, counts_rows
from ray_kmeans.data.plan import BLOCK_ROWS, Block, Layout, cut
from ray_kmeans.errors import ConfigError, DataError

NAME = "x"


@dataclass(frozen=True)
class ArraySource:
    """Rows of an array; blocks are views of it."""

    array: NDArray[Any]
    """(n, d), C order, float32 or a narrower type."""
    table: pa.Table | None = None
    """The table that the rows come from, for columns to be passed through."""
    columns: tuple[str, ...] = ()
    """The names of the columns that make up a row; () where they have none."""
    by_name: bool = False
    """Whether the user named the columns."""

    @classmethod
    def of(cls, array: NDArray[Any]) -> ArraySource:
        """Accept any table of numbers (n, d); copies what is wider than float32, or not C order."""
        if array.ndim != 2 or array.shape[1] == 0:
            hint = " For one feature, use x.reshape(-1, 1)." if array.ndim == 1 else ""
            raise DataError(f"x has shape {array.shape}; it must be (rows, features).{hint}")
        kept = array if narrow_name(array.dtype) else arrow.to_float32(array, NAME)
        return cls(np.ascontiguousarray(kept))

    @classmethod
    def of_table(
        cls, table: pa.Table | pa.RecordBatch, columns: Sequence[str] | None
    ) -> ArraySource:
        spans = {} if columns else arrow.spans_of(table)
        keys = [name for name, span in spans.items() if counts_rows([span])]
        names = choose_columns(table.schema, columns, "the table", keys=keys)
        features = arrow.features_of(table.schema, names) or arrow.vector_length(table, names[0])
        if features == 0 and table.num_rows:
            raise DataError(f"column {names[0]!r} of the table holds no vector.")
        rows = arrow.matrix(table, names, features, "the table")
        whole = pa.Table.from_batches([table]) if isinstance(table, pa.RecordBatch) else table
        return cls(np.ascontiguousarray(rows), whole, names, bool(columns))

    def with_columns(self, columns: Sequence[str]) -> ArraySource:
        """Return the same table with rows of these columns; ConfigError where there are others."""
        assert self.table is not None
        return replace(ArraySource.of_table(self.table, columns), by_name=self.by_name)

    def kept_schema(self, names: Sequence[str]) -> pa.Schema:
        """Return the type of each column that is to be passed through."""
        return self.columns_of(replace(self.describe().blocks[0], rows=0), names).schema

    @property
    def only_here(self) -> bool:
        return False  # Ray's object store carries it to the workers

    def describe(self) -> Layout:
        rows, features = self.array.shape
        sizes = [min(BLOCK_ROWS, rows - start) for start in range(0, rows, BLOCK_ROWS)]
        narrow = narrow_name(self.array.dtype)
        return Layout(tuple(cut(NAME, sizes, features)), features, narrow)

    def read(self, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[np.float32]]]:
        for block in blocks:
            rows = self.array[block.first : block.first + block.rows]
            yield block, rows.astype(np.float32, copy=False)

    def columns_of(self, block: Block, names: Sequence[str]) -> pa.Table:
        if self.table is None:
            raise ConfigError(
                f"keep_columns={list(names)}: an array has no columns to pass through."
            )
        return arrow.kept(self.table.slice(block.first, block.rows), names, "the table")
