"""Round rows of any number type to float32, less a shift, and note what the rounding cost.

Values far from zero that differ little, as time stamps, lose their differences in float32. A shift,
the middle of each column, is therefore subtracted in float64 before: no distance changes by it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ray_kmeans.algorithm.precision import Rounding, less
from ray_kmeans.data.columns import to_float32
from ray_kmeans.data.sharding import Block, Layout
from ray_kmeans.data.source import Source
from ray_kmeans.data.weighted import WeightedSource
from ray_kmeans.errors import ConfigError

Noted = tuple[Block, NDArray[np.float32], Rounding | None]
"""A block, its rows (n, d), and their rounding error; None if it is unknown."""
MOST_RUNS = 64
"""Number of runs of rows, spread over the data, that tell the middle of each column."""
MOST_VALUES = 2**23
"""Largest number of values (rows times features) that are read for the middles."""


class RoundedSource(ABC):
    """A source that reads rows of any number type, and rounds them to float32."""

    shift: tuple[float, ...]
    """Shift (d,) subtracted from each column in float64, before rounding; () for none."""

    @abstractmethod
    def describe(self) -> Layout:
        """Return all blocks, from metadata alone."""

    @abstractmethod
    def read_wide(self, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[Any]]]:
        """Read blocks, in the order given: (rows, features) of any number type."""

    def read(self, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[np.float32]]]:
        """Yield blocks with their rows as float32, shifted before they are rounded."""
        for block, wide in self.read_wide(blocks):
            yield block, self.rounded(block, less(wide, self.shift))

    def read_noted(self, blocks: Sequence[Block]) -> Iterator[Noted]:
        """Yield each block with its rows, as `read` does, and their rounding error."""
        for block, wide in self.read_wide(blocks):
            values = less(wide, self.shift)
            rows = self.rounded(block, values)
            yield block, rows, Rounding.of(values, rows)

    def rounded(self, block: Block, values: NDArray[Any]) -> NDArray[np.float32]:
        """Return the rows as float32 in C order; DataError if a value is too large."""
        return np.ascontiguousarray(to_float32(values, block.place, self.names))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns that make up a row; () where they have none."""
        return ()


@dataclass(frozen=True)
class ShiftedSource(RoundedSource):
    """A source of another kind (of a user, say) whose rows are shifted."""

    source: Source
    """The source of the rows before the shift."""
    shift: tuple[float, ...]
    """Shift (d,), as in `RoundedSource`."""

    @property
    def only_here(self) -> bool:
        """Whether no other process can read the source."""
        return bool(getattr(self.source, "only_here", False))

    def describe(self) -> Layout:
        return replace(self.source.describe(), narrow=None)

    def read_wide(self, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[Any]]]:
        return self.source.read(blocks)

    def columns_of(self, block: Block, names: Sequence[str]) -> pa.Table:
        return self.source.columns_of(block, names)


def wide_rows(source: Source, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[Any]]]:
    """Yield blocks and their rows before shift and rounding, of a source without weights."""
    return source.read_wide(blocks) if isinstance(source, RoundedSource) else source.read(blocks)


def shift_of(source: Any) -> tuple[float, ...]:
    """Return the shift (d,) that a source subtracts from its columns; () for none."""
    inner = source.source if isinstance(source, WeightedSource) else source
    return getattr(inner, "shift", ()) if isinstance(inner, RoundedSource) else ()


def shifted(source: Source, shift: Sequence[float]) -> Source:
    """Return a source with another shift than it has."""
    if shift_of(source) == tuple(shift):
        return source
    if isinstance(source, WeightedSource):
        return replace(source, source=shifted(source.source, shift))
    if isinstance(source, RoundedSource):
        return replace(source, shift=tuple(shift))  # type: ignore[type-var]
    return ShiftedSource(source, tuple(shift))


def under(source: Source, shift: Sequence[float], whose: str) -> Source:
    """Return a source with a model's shift; ConfigError if only the source has one.

    `whose` names the model in the message.
    """
    if shift_of(source) and not shift:
        raise ConfigError(
            f"center=True is given, and {whose} was made without it: its centers belong to rows "
            "that are not shifted. Leave center out, or fit another model."
        )
    return shifted(source, shift)


def center_columns(source: Source, most_values: int = MOST_VALUES) -> Source:
    """Return a source whose shift is the middle of each column.

    At most `most_values` values (rows times features) are read for it.
    """
    return shifted(source, _middles(shifted(source, ()), most_values))


def _middles(source: Source, most_values: int) -> tuple[float, ...]:
    """Return the median (d,) of each column over rows from all over the data.

    The mean would not do: that of time stamps, some of which are 0, is far from all of them. The
    rows are chosen by their numbers, so that the same rows in another format give the same shift,
    whatever their blocks.
    """
    inner = source.source if isinstance(source, WeightedSource) else source
    layout = inner.describe()
    runs = list(_spread_runs(layout, most_values))
    parts = [np.asarray(values, np.float64) for _, values in wide_rows(inner, runs)]
    values = np.concatenate([np.empty((0, layout.features)), *parts])
    values = np.sort(np.where(np.isfinite(values), values, np.nan), axis=0)  # NaN comes last
    middle = np.maximum(np.count_nonzero(~np.isnan(values), axis=0) - 1, 0) // 2
    found = values[middle, np.arange(layout.features)] if len(values) else []
    return tuple(np.nan_to_num(found, nan=0.0).tolist())


def _spread_runs(layout: Layout, most_values: int) -> Iterator[Block]:
    """Yield runs of rows, spread evenly over the data, as blocks or parts of them in order."""
    total, firsts = layout.rows, [block.first for block in layout.blocks]
    length = max(most_values // MOST_RUNS // max(layout.features, 1), 1)
    runs = MOST_RUNS if total > MOST_RUNS * length else 1
    for run in range(runs):
        begin = total * run // runs
        end = total if runs == 1 else begin + length
        while begin < end:
            block = layout.blocks[bisect_right(firsts, begin) - 1]
            at, stop = begin - block.first, min(end, block.first + block.rows)
            start, skip, rows = block.start + at, block.skip + at, stop - begin
            yield replace(block, first=begin, rows=rows, start=start, skip=skip)
            begin = stop
