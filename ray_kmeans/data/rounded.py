"""Sources of rows of any number type. They become float32 here, less a shift if there is one."""

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
from ray_kmeans.data.layout import Block, Layout
from ray_kmeans.data.source import Source
from ray_kmeans.data.weighted import WeightedSource
from ray_kmeans.errors import ConfigError

Noted = tuple[Block, NDArray[np.float32], Rounding | None]
"""A block, its rows, and what these lost."""
MOST_RUNS = 64
"""Places all over the data whose rows tell the middle of a column."""
MOST_VALUES = 2**23
"""Values that are looked at for it."""


class RoundedSource(ABC):
    """A source whose rows come in any number type."""

    shift: tuple[float, ...]
    """(d,) subtracted from the columns, in float64, before they are rounded; empty: nothing is."""

    @abstractmethod
    def describe(self) -> Layout:
        """Return all blocks, from metadata alone."""

    @abstractmethod
    def read_wide(self, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[Any]]]:
        """Read blocks, in the order given: (rows, features) of any number type."""

    def read(self, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[np.float32]]]:
        for block, wide in self.read_wide(blocks):
            yield block, self._rounded(block, less(wide, self.shift))

    def read_noted(self, blocks: Sequence[Block]) -> Iterator[Noted]:
        """Read as `read` does, and tell of each block what its rows lost when they were rounded."""
        for block, wide in self.read_wide(blocks):
            values = less(wide, self.shift)
            rows = self._rounded(block, values)
            yield block, rows, Rounding.of(values, rows)

    def _rounded(self, block: Block, values: NDArray[Any]) -> NDArray[np.float32]:
        return np.ascontiguousarray(to_float32(values, block.place, self.names))

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that make up a row; empty where they have no names."""
        return ()


@dataclass(frozen=True)
class ShiftedSource(RoundedSource):
    """A source of another kind, from whose rows something is subtracted."""

    source: Source
    shift: tuple[float, ...]

    @property
    def only_here(self) -> bool:
        return bool(getattr(self.source, "only_here", False))

    def describe(self) -> Layout:
        return replace(self.source.describe(), narrow=None)

    def read_wide(self, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[Any]]]:
        return self.source.read(blocks)

    def columns_of(self, block: Block, names: Sequence[str]) -> pa.Table:
        return self.source.columns_of(block, names)


def wide_rows(source: Source, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[Any]]]:
    """Read blocks of a source without weights, before anything is subtracted or rounded."""
    return source.read_wide(blocks) if isinstance(source, RoundedSource) else source.read(blocks)


def shift_of(source: Any) -> tuple[float, ...]:
    """Return what a source subtracts from its columns; empty where it subtracts nothing."""
    inner = source.source if isinstance(source, WeightedSource) else source
    return getattr(inner, "shift", ()) if isinstance(inner, RoundedSource) else ()


def shifted(source: Source, shift: Sequence[float]) -> Source:
    """Return the source with a shift in the place of the one that it has."""
    if shift_of(source) == tuple(shift):
        return source
    if isinstance(source, WeightedSource):
        return replace(source, source=shifted(source.source, shift))
    if isinstance(source, RoundedSource):
        return replace(source, shift=tuple(shift))  # type: ignore[type-var]
    return ShiftedSource(source, tuple(shift))


def under(source: Source, shift: Sequence[float], whose: str) -> Source:
    """Return the source with the shift of a model; ConfigError where it has one and that none."""
    if shift_of(source) and not shift:
        raise ConfigError(
            f"center=True is given, and {whose} was made without it: its centers belong to rows "
            "that are not shifted. Leave center out, or fit another model."
        )
    return shifted(source, shift)


def centered(source: Source) -> Source:
    """Return the source less the middle of each column, which follows from its rows alone."""
    return shifted(source, _middles(shifted(source, ())))


def _middles(source: Source) -> tuple[float, ...]:
    """Return the median of each column over some rows all over the data, by their numbers.

    Not the mean: that of time stamps of which some are 0 is far from all of them. Which blocks
    there are, as they differ between formats, does not matter.
    """
    inner = source.source if isinstance(source, WeightedSource) else source
    layout = inner.describe()
    runs = list(_spread(layout))
    parts = [np.asarray(values, np.float64) for _, values in wide_rows(inner, runs)]
    values = np.concatenate([np.empty((0, layout.features)), *parts])
    values = np.sort(np.where(np.isfinite(values), values, np.nan), axis=0)  # NaN comes last
    middle = np.maximum(np.count_nonzero(~np.isnan(values), axis=0) - 1, 0) // 2
    found = values[middle, np.arange(layout.features)] if len(values) else []
    return tuple(np.nan_to_num(found, nan=0.0).tolist())


def _spread(layout: Layout) -> Iterator[Block]:
    """Yield runs of rows, evenly spread over the data, as (parts of) blocks in their order."""
    total, firsts = layout.rows, [block.first for block in layout.blocks]
    length = max(MOST_VALUES // MOST_RUNS // max(layout.features, 1), 1)
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
