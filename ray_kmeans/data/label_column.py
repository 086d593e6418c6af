"""Read the labels of another clustering from a column of the data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ray_kmeans.data.sharding import Block, Layout, groups_of, neighbours_in
from ray_kmeans.data.source import Source
from ray_kmeans.errors import ConfigError, DataError


@dataclass(frozen=True)
class LabelColumn:
    """A column of whole numbers, texts or booleans: rows of equal values are in one cluster."""

    source: Source
    """The data."""
    name: str
    """Name of the column."""

    def check(self, layout: Layout) -> None:
        """Raise ConfigError unless the data have the column, and it can hold labels."""
        if layout.blocks:
            self._table([layout.blocks[0]], rows=1)

    def read(self, blocks: Sequence[Block]) -> Iterator[tuple[NDArray[np.int64], Sequence[Any]]]:
        """Yield (codes (rows,), values) of each block: the code of a row is the place of its value;
        -1 for null.

        Columns are read once for neighbouring blocks of a row group.
        """
        for group in groups_of(tuple(blocks)):
            for run in neighbours_in(group):
                column = self._table(run, rows=sum(block.rows for block in run))
                for block in run:
                    yield _encoded(column.slice(block.skip - run[0].skip, block.rows))

    def _table(self, run: Sequence[Block], rows: int) -> Any:
        """Return the column of neighbouring blocks as an Arrow array."""
        try:
            column = self.source.columns_of(replace(run[0], rows=rows), [self.name])[self.name]
        except (ConfigError, DataError) as error:
            raise type(error)(f"against_column={self.name!r}: {error}") from None
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if not any(test(kind) for test in _IS_LABEL):
            raise ConfigError(
                f"against_column={self.name!r} holds {kind}; labels are whole numbers, texts or "
                "booleans. Give a column of these."
            )
        return column.cast(kind)


_IS_LABEL = (
    pa.types.is_integer,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_boolean,
    pa.types.is_null,
)
"""Tests of Arrow's types, of which a column of labels passes one."""


def _encoded(column: Any) -> tuple[NDArray[np.int64], Sequence[Any]]:
    """Return the codes (rows,) and the values of a column."""
    encoded = pa.array(column.to_pylist(), column.type).dictionary_encode()
    codes = pc.fill_null(encoded.indices.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    return codes, encoded.dictionary.to_pylist()
