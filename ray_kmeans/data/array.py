"""Read rows that are in memory already: a NumPy array or an Arrow table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ray_kmeans.algorithm.dtypes import narrow_name
from ray_kmeans.algorithm.precision import Rounding
from ray_kmeans.data import columns as arrow
from ray_kmeans.data.column_choice import choose_columns, counts_rows
from ray_kmeans.data.float32_rounding import Noted, RoundedSource
from ray_kmeans.data.sharding import (
    BLOCK_ROWS,
    Block,
    Layout,
    cut,
)
from ray_kmeans.errors import ConfigError, DataError

NAME = "x"
"""Name of the data in blocks and messages, where files have theirs."""


@dataclass(frozen=True)
class ArraySource(RoundedSource):
    """Rows of an array; blocks are views of it if it needs no rounding.

    An array of float64 is rounded before it goes to the workers, and takes its rounding error
    along: half of the bytes travel.
    """

    array: NDArray[Any]
    """Rows (n, d) of any number type; in C order if it is float32 or narrower."""
    table: pa.Table | None = None
    """Table of n rows that the array was made of, for other columns; None if of no table."""
    columns: tuple[str, ...] = ()
    """Names of the columns that make up a row; () if they have none."""
    by_name: bool = False
    """Whether the user named the columns."""
    shift: tuple[float, ...] = ()
    """Shift (d,) subtracted from each column before rounding; () for none."""
    lost: Mapping[int, Rounding | None] = field(default_factory=dict, compare=False)
    """Rounding errors from before the array came to this process, by each block's first row."""
    block_rows: int = BLOCK_ROWS
    """Largest number of rows of a block."""

    @classmethod
    def of(cls, array: NDArray[Any], columns: tuple[str, ...] = ()) -> ArraySource:
        """Return the source of an array (n, d); DataError if it is no table of float32 numbers.

        An array wider than float32 is not copied.
        """
        if array.ndim != 2 or array.shape[1] == 0:
            hint = " For one feature, use x.reshape(-1, 1)." if array.ndim == 1 else ""
            raise DataError(f"x has shape {array.shape}; it must be (rows, features).{hint}")
        for start in range(0, len(array), BLOCK_ROWS):  # fail before a run starts
            arrow.to_float32(array[start : start + BLOCK_ROWS], NAME, columns)
        source = cls(array, columns=columns)
        return source if source.rounds else replace(source, array=np.ascontiguousarray(array))

    @classmethod
    def of_table(
        cls, table: pa.Table | pa.RecordBatch, columns: Sequence[str] | None
    ) -> ArraySource:
        """Return the source of a table, whose rows are made of `columns` or of a clear choice."""
        spans = {} if columns else arrow.spans_of(table)
        keys = [name for name, span in spans.items() if counts_rows([span])]
        names = choose_columns(table.schema, columns, "the table", keys=keys)
        features = arrow.features_of(table.schema, names)
        features = features or arrow.vector_length(table, names[0], "the table")
        if features == 0 and table.num_rows:
            raise DataError(f"column {names[0]!r} of the table holds no vector.")
        rows = arrow.matrix(table, names, features, "the table")
        whole = pa.Table.from_batches([table]) if isinstance(table, pa.RecordBatch) else table
        arrow.to_float32(rows, "the table", names)
        return cls(np.ascontiguousarray(rows), whole, names, bool(columns))

    def with_columns(self, columns: Sequence[str]) -> ArraySource:
        """Return a source of the same data with these columns; ConfigError if one is not there."""
        if self.table is not None:
            chosen = ArraySource.of_table(self.table, columns)
            return replace(chosen, by_name=self.by_name, shift=self.shift)
        if len(self.columns) != self.array.shape[1] or set(columns) != set(self.columns):
            raise ConfigError(f"columns={list(columns)} are not in x, which has {self.columns}.")
        order = [self.columns.index(name) for name in columns]
        return replace(
            self, array=np.ascontiguousarray(self.array[:, order]), columns=tuple(columns)
        )

    def kept_schema(self, names: Sequence[str]) -> pa.Schema:
        """Return the type of each column that labelled output is to keep."""
        return self.columns_of(replace(self.describe().blocks[0], rows=0), names).schema

    @property
    def only_here(self) -> bool:
        """Whether no other process can read it: never, as Ray's object store carries it along."""
        return False

    @property
    def rounds(self) -> bool:
        """Whether the rows differ from those of the array, by rounding or by a shift."""
        dtype = self.array.dtype
        return bool(self.shift) or not (dtype == np.float32 or narrow_name(dtype))

    @property
    def names(self) -> tuple[str, ...]:
        return self.columns

    def describe(self) -> Layout:
        """Return the layout: the array is one file of one row group for each BLOCK_ROWS rows."""
        rows, features = self.array.shape
        most = self.block_rows
        sizes = [min(most, rows - start) for start in range(0, rows, most)]
        narrow = None if self.shift else narrow_name(self.array.dtype)
        return Layout(tuple(cut(NAME, sizes, features, block_rows=most)), features, narrow)

    def read_wide(self, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[Any]]]:
        """Yield blocks with views of the array, before shift and rounding."""
        for block in blocks:
            yield block, self.array[block.first : block.first + block.rows]

    def read_noted(self, blocks: Sequence[Block]) -> Iterator[Noted]:
        """Yield blocks as `RoundedSource` does, but with the rounding of the user's own wider
        array."""
        for block, rows, rounding in super().read_noted(blocks):
            yield block, rows, self.lost.get(block.first, rounding)

    def columns_of(self, block: Block, names: Sequence[str]) -> pa.Table:
        """Return columns of the user's table for a block; raise ConfigError if there was no
        table."""
        if self.table is None:
            raise arrow.no_columns(names, "the array")
        return arrow.select(self.table.slice(block.first, block.rows), names, "the table")

    def __getstate__(self) -> dict[str, Any]:
        """Send rounded rows in place of wide values, with the rounding error of each block."""
        state = {each.name: getattr(self, each.name) for each in fields(self)}
        if not self.rounds:
            return state
        rounded, lost = np.empty(self.array.shape, np.float32), {}
        for block, rows, rounding in self.read_noted(self.describe().blocks):
            rounded[block.first : block.first + block.rows] = rows
            lost[block.first] = rounding
        return {**state, "array": rounded, "shift": (), "lost": lost}
