"""A shard: the rows of some blocks as the metric sees them, and how often each row counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial, reduce
from itertools import accumulate, groupby, repeat
from operator import add
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.grid import Extent
from ray_kmeans.algorithm.metric import Metric, project
from ray_kmeans.algorithm.precision import Rounding
from ray_kmeans.algorithm.weights import Span, in_units
from ray_kmeans.engine.progress import Moved, ignore
from ray_kmeans.engine.row_cache import CacheOptions, RowCache, row_cache_for
from ray_kmeans.kernels import ALIKE
from ray_kmeans.kernels.threads import Threads

Rows = NDArray[np.float32]
"""(n, d) Rows."""


class Block(Protocol):
    """Some consecutive rows of a file: what a worker needs to know of them."""

    @property
    def index(self) -> int:
        """Position of the block in the data set."""

    @property
    def first(self) -> int:
        """Number of its first row in the data set."""

    @property
    def start(self) -> int:
        """Number of its first row in the file."""

    @property
    def rows(self) -> int:
        """Number of rows."""

    @property
    def features(self) -> int:
        """Number of columns, d."""

    @property
    def file(self) -> str:
        """Name of the file."""

    @property
    def group(self) -> int:
        """Number of the row group in the file."""

    @property
    def place(self) -> str:
        """Text of where the block is, for messages."""


class Reader(Protocol):
    """A source of rows: what a worker needs of it in order to read."""

    def read(self, blocks: Any) -> Iterable[tuple[Any, Rows]]:
        """Yield each of these blocks with its rows, (rows, d)."""

    def columns_of(self, block: Any, names: Sequence[str]) -> Any:
        """Return a table of these columns of a block."""


@runtime_checkable
class RoundingReader(Protocol):
    """A source that also tells the rounding error of its rows as float32."""

    def read_noted(self, blocks: Any) -> Iterable[tuple[Any, Rows, Rounding | None]]:
        """Yield each of these blocks with its rows, (rows, d), and their rounding error."""


@runtime_checkable
class WeightedReader(Protocol):
    """A source whose rows may have weights or be left out."""

    @property
    def drop_nonfinite(self) -> bool:
        """Whether rows that hold NaN, null or infinity are left out."""

    def weights_of(self, blocks: Any) -> Iterable[NDArray[np.float64] | None]:
        """Yield the weights of the rows of each of these blocks, (rows,); None: all count once."""


class Shard:
    """The rows of some blocks, in a row cache, with their weights."""

    def __init__(
        self,
        source: Reader,
        blocks: Sequence[Block],
        metric: Metric,
        row_cache: CacheOptions,
        hash_of: Callable[[Rows], int],
    ) -> None:
        """Make room for the rows in the row cache; `load` reads them."""
        self.source = source
        """Source that the rows are read from."""
        self.blocks = blocks
        """Blocks of the shard, in the order of the data."""
        self.features = blocks[0].features
        """Number of columns, d."""
        self._names: Sequence[str] = getattr(source, "columns", ())
        self._seen = partial(project, metric=metric)
        self._row_cache = row_cache
        self.rows: RowCache = row_cache_for(
            row_cache, blocks, self._read_again, hash_of, self._seen
        )
        self.weights = ALIKE
        """(n,) Weight of each row in units of the grid; ALIKE if all count once."""
        self._given: dict[int, NDArray[np.float64]] = {}
        """(rows,) Weights as they were given, by place of the block; only where some are not 1."""
        self._out: dict[int, NDArray[np.bool_]] = {}
        """(rows,) Whether a row does not count, by place of the block; only where some do not."""
        self._begins = list(accumulate((block.rows for block in blocks), initial=0))
        self._firsts = np.array([block.first for block in blocks])
        self._places: Any = None
        """Where the rows are in memory, as compiled loops find them; None until they are wanted."""

    def load(self, on_rows: Moved = ignore) -> Extent:
        """Read all rows, and return their extent. `on_rows` hears the number of rows of each
        block."""
        runs = [(*run, on_rows) for run in runs_of(self.blocks, self._row_cache.readers)]
        extents = Threads(len(runs)).run(self._load_run, runs)
        extent: Extent = reduce(add, extents)
        return extent

    def take_units(self, exponent: int) -> None:
        """Fix the unit of weight: ``2**-exponent``."""
        if not self._given and exponent == 0:
            self.weights = ALIKE
            return
        weights = [
            self._given.get(here, np.ones(block.rows)) for here, block in enumerate(self.blocks)
        ]
        self.weights = in_units(np.concatenate(weights), exponent)

    def weights_in(self, here: int) -> NDArray[np.int64]:
        """Return the weights of the rows of a block, (rows,), or ALIKE. `here` is its place."""
        return self.weights[self.rows_in(here)]

    def rows_in(self, here: int) -> slice:
        """Return which rows of the shard are in a block. `here` is its place."""
        return slice(self._begins[here], self._begins[here + 1])

    def left_out_in(self, here: int) -> NDArray[np.bool_]:
        """Return whether each row of a block does not count, (rows,)."""
        return self._out.get(here, np.zeros(self.blocks[here].rows, np.bool_))

    def within(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return those of these ascending row numbers that are in the shard."""
        first, end = self._firsts[0], self._firsts[-1] + self.blocks[-1].rows
        begin, last = np.searchsorted(numbers, (first, end))
        return numbers[begin:last]

    def inside(self, numbers: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield (place, rows in it) for each block that holds some of these ascending row
        numbers."""
        wanted = np.asarray(numbers)
        begins = np.searchsorted(wanted, self._firsts)
        ends = np.searchsorted(wanted, self._firsts + np.diff(self._begins))
        for here in np.flatnonzero(ends > begins).tolist():
            yield here, wanted[begins[here] : ends[here]] - self._firsts[here]

    def rows_at(self, numbers: NDArray[np.int64]) -> Rows:
        """Return the rows with these ascending numbers that are in the shard, (rows, d), in
        order."""
        if self.rows.stays:
            return self.rows_at_places(self.within(numbers) - self._firsts[0])
        found = [self.rows.take(here, at) for here, at in self.inside(numbers)]
        return np.concatenate(found) if found else np.empty((0, self.features), np.float32)

    def weights_at(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the weights of the rows with these ascending numbers, (rows,), or ALIKE."""
        if not len(self.weights):
            return ALIKE
        found: NDArray[np.int64] = self.weights[self.within(numbers) - self._firsts[0]]
        return found

    def numbers_at(self, places: NDArray[np.int32]) -> NDArray[np.int64]:
        """Return the numbers in the data of the rows at these places in the shard, (n,)."""
        return np.asarray(places + self._firsts[0], np.int64)

    def rows_at_places(self, places: NDArray[np.integer]) -> Rows:
        """Return the rows at these places in the shard, (n, d), where all stay in memory."""
        from ray_kmeans.kernels import compiled  # numba: 0.2 s
        from ray_kmeans.kernels.int8 import types

        if self._places is None:
            self._places = types.Rows.of(list(self.rows))
        rows = np.empty((len(places), self.features), np.float32)
        compiled.gather(self._places, places.astype(np.int64), rows)
        return rows

    def _load_run(self, first: int, blocks: Sequence[Block], on_rows: Moved) -> Extent:
        """Read a run of blocks, the first of which has this place; return their extent."""
        extent = Extent(0, np.zeros(self.features, np.float32))
        source = self.source
        weights = source.weights_of(blocks) if isinstance(source, WeightedReader) else repeat(None)
        pairs = zip(_read_with_losses(source, blocks), weights, strict=False)
        for here, ((block, rows, rounding), given) in enumerate(pairs, start=first):
            extent += replace(self._admit(here, block, rows, given), rounding=rounding)
            on_rows(block.rows)
        return extent

    def _admit(
        self, here: int, block: Block, read: Rows, given: NDArray[np.float64] | None
    ) -> Extent:
        """Put the rows of a block into the cache, as zeros where they do not count.

        `read` are the rows as the source gives them, and `given` their weights, (rows,). Returns
        the extent of the block.
        """
        rows = self._seen(read)
        extent = Extent.of_rows(rows, block.place, block.start, self._names, read)
        bad: NDArray[np.bool_] = np.zeros(block.rows, np.bool_)
        if (
            extent.nonfinite
            and isinstance(self.source, WeightedReader)
            and self.source.drop_nonfinite
        ):
            bad = np.logical_not(np.isfinite(rows).all(axis=1))
            given = np.where(bad, 0.0, 1.0 if given is None else given)
        if given is not None and (given != 1).any():
            self._given[here] = given
            out = given == 0
            if out.any():
                self._out[here] = out
                read, rows = _zero_out(read, out), _zero_out(rows, out)
                extent = Extent.of_rows(rows, block.place, block.start, self._names, read)
                extent = replace(extent, zeros=extent.zeros - int(out.sum()))
            extent = replace(extent, weights=Span.of(given), dropped=int(bad.sum()))
        self.rows.put(here, read if self._row_cache.narrow else rows)
        return extent

    def _read_again(self, here: int) -> Rows:
        """Return the rows of the block at this place, read from the source once more."""
        ((_, rows),) = self.source.read([self.blocks[here]])
        rows = self._seen(rows)
        return _zero_out(rows, self._out[here]) if here in self._out else rows


def _read_with_losses(
    source: Reader, blocks: Sequence[Block]
) -> Iterable[tuple[Block, Rows, Rounding | None]]:
    """Yield each block, its rows and their rounding error, if the source knows it."""
    if isinstance(source, RoundingReader):
        return source.read_noted(blocks)
    return ((block, rows, None) for block, rows in source.read(blocks))


def _zero_out(rows: Rows, out: NDArray[np.bool_]) -> Rows:
    """Return the rows with zeros in place of those that do not count."""
    return np.where(out[:, None], np.float32(0), rows)


def runs_of(blocks: Sequence[Block], count: int) -> list[tuple[int, Sequence[Block]]]:
    """Cut blocks into about `count` runs, one for each reader: (place of the first block, blocks).

    The blocks of a row group stay together, because they are decoded together.
    """
    fair = sum(block.rows for block in blocks) / count
    runs: list[list[Block]] = [[]]
    rows = 0  # of the last run
    for _, of_group in groupby(blocks, key=lambda block: (block.file, block.group)):
        if rows >= fair:
            runs.append([])
            rows = 0
        group = list(of_group)
        runs[-1] += group
        rows += sum(block.rows for block in group)
    return list(zip(accumulate(map(len, runs), initial=0), runs, strict=False))
