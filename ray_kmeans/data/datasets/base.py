"""Make a source of data that a library hands out as Arrow tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import pyarrow as pa
from numpy.typing import NDArray

from ray_kmeans.data import columns as arrow
from ray_kmeans.data.column_choice import check_columns, choose_columns
from ray_kmeans.data.float32_rounding import RoundedSource
from ray_kmeans.data.schema_promotion import common_schema
from ray_kmeans.data.sharding import BLOCK_ROWS, Block, Layout, cut
from ray_kmeans.errors import DataError, RayKMeansError
from ray_kmeans.text.secrets import redacted

FAILURES = (pa.ArrowException, OSError, EOFError, ValueError, RuntimeError, LookupError)
"""Exceptions of libraries for files that are damaged, gone, or of another kind."""


class Tables(Protocol):
    """A library's data set, which travels to the workers by pickle."""

    @property
    def name(self) -> str:
        """Name of the data set, for messages."""

    @property
    def schema(self) -> pa.Schema:
        """All columns, also those that no file holds (keys of partitions)."""

    def parts(self) -> Sequence[tuple[str, Sequence[int]]]:
        """Return the name of each file, or one name for all, with the rows of its row groups."""

    def read(self, blocks: Sequence[Block], names: Sequence[str]) -> Iterator[tuple[Block, Any]]:
        """Yield each block with its Table or RecordBatch of some columns, in the order given."""


@dataclass(frozen=True)
class TableSource(RoundedSource):
    """Rows of a library's tables, read block by block."""

    tables: Tables
    """The data set that hands out tables."""
    columns: tuple[str, ...]
    """Names of the column of vectors, or of the columns of numbers, in this order."""
    only_here: bool = False
    """Whether no other process can read the data set."""
    by_name: bool = False
    """Whether the user named the columns."""
    shift: tuple[float, ...] = ()
    """Shift (d,) subtracted from each column before rounding; () for none."""
    block_rows: int = BLOCK_ROWS
    """Largest number of rows of a block."""

    @classmethod
    def of(
        cls,
        tables: Tables,
        columns: Sequence[str] | None,
        stored: pa.Schema | None = None,
        *,
        only_here: bool = False,
    ) -> TableSource:
        """Return the source with the columns that are named, or a clear choice among `stored`."""
        schema = tables.schema if columns else (stored or tables.schema)
        chosen = choose_columns(schema, columns or None, tables.name)
        return cls(tables, chosen, only_here, bool(columns))

    def with_columns(self, columns: Sequence[str]) -> TableSource:
        """Return a source of the same tables with these columns; ConfigError if one is missing."""
        check_columns(self.tables.schema, columns, self.tables.name)
        return replace(self, columns=tuple(columns))

    def kept_schema(self, names: Sequence[str]) -> pa.Schema:
        """Return the type of each column that labelled output is to keep."""
        arrow.check_names(names, self.tables.schema, self.tables.name)
        types = {name: arrow.type_at(self.tables.schema, name) for name in names}
        return common_schema([(self.tables.name, types)], names)

    def describe(self) -> Layout:
        """Return the layout; if no schema tells the length of vectors, the first row is read."""
        with raise_data_errors(self.tables.name):
            parts = self.tables.parts()
        features = arrow.features_of(self.tables.schema, self.columns)
        blocks = self._cut(parts, features)
        if features == 0 and blocks:
            features = self._first_length(blocks)
            blocks = self._cut(parts, features)
        return Layout(tuple(blocks), features, arrow.narrow_of(self.tables.schema, self.columns))

    def read_wide(self, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[Any]]]:
        """Yield blocks and their rows before shift and rounding."""
        with raise_data_errors(self.tables.name):
            for block, table in self.tables.read(blocks, self.columns):
                _check_rows(block, table)
                place, first = block.place, block.skip
                yield block, arrow.matrix(table, self.columns, block.features, place, first)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns that make up a row, for messages."""
        return self.columns

    def columns_of(self, block: Block, names: Sequence[str]) -> pa.Table:
        """Return columns of one block as a table, checked to have as many rows as the block."""
        arrow.check_names(names, self.tables.schema, self.tables.name)
        with raise_data_errors(self.tables.name):
            [(_, table)] = self.tables.read([block], names)
        _check_rows(block, table)
        whole = pa.Table.from_batches([table]) if isinstance(table, pa.RecordBatch) else table
        return whole.select(list(names))

    def _cut(self, parts: Sequence[tuple[str, Sequence[int]]], features: int) -> list[Block]:
        """Return the blocks of all files, given the rows of their row groups."""
        blocks: list[Block] = []
        for file, rows in parts:
            first = blocks[-1].first + blocks[-1].rows if blocks else 0
            blocks += cut(file, rows, features, first, len(blocks), self.block_rows)
        return blocks

    def _first_length(self, blocks: Sequence[Block]) -> int:
        """Return the length of the first vector that is not null; DataError if all are null."""
        with raise_data_errors(self.tables.name):
            for block in blocks:
                [(_, table)] = self.tables.read([block], self.columns)
                length = arrow.vector_length(table, self.columns[0], block.place, block.skip)
                if length:
                    return length
        raise DataError(f"no row of {self.tables.name} tells how many features there are.")


@contextmanager
def raise_data_errors(name: str, *own: type[Exception]) -> Iterator[None]:
    """Raise DataError, which names the data set, for what a library raises, or its `own` errors."""
    try:
        yield
    except RayKMeansError:
        raise
    except (*FAILURES, *own) as error:
        text = redacted((str(error).strip() or "no more is known").splitlines()[0])
        raise DataError(f"cannot read {name}: {type(error).__name__}: {text}") from None


def _check_rows(block: Block, table: Any) -> None:
    """Raise DataError if a table has another number of rows than its block."""
    if table.num_rows != block.rows:
        raise DataError(
            f"{block.place} gave {table.num_rows:,} rows where {block.rows:,} were planned; "
            "it is damaged, or has changed since. Start the run again."
        )
