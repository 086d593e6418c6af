"""A shard: blocks of rows as the metric sees them, and how often each row counts."""

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


class Block(Protocol):
    """What a worker knows of a block of its shard."""

    @property
    def index(self) -> int: ...
    @property
    def first(self) -> int: ...
    @property
    def start(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def features(self) -> int: ...
    @property
    def file(self) -> str: ...
    @property
    def group(self) -> int: ...
    @property
    def place(self) -> str: ...


class Reader(Protocol):
    """What a worker asks of a source of rows."""

    def read(self, blocks: Any) -> Iterable[tuple[Any, Rows]]: ...
    def columns_of(self, block: Any, names: Sequence[str]) -> Any: ...


@runtime_checkable
class Noting(Protocol):
    """What it asks besides of a source that rounds its rows to float32."""

    def read_noted(self, blocks: Any) -> Iterable[tuple[Any, Rows, Rounding | None]]: ...


@runtime_checkable
class Weighing(Protocol):
    """What it asks besides of a source whose rows do not all count alike."""

    @property
    def drop_nonfinite(self) -> bool: ...
    def weights_of(self, blocks: Any) -> Iterable[NDArray[np.float64] | None]: ...


class Shard:
    """The rows of some blocks, on a shelf."""

    def __init__(
        self,
        source: Reader,
        blocks: Sequence[Block],
        metric: Metric,
        row_cache: CacheOptions,
        hash_of: Callable[[Rows], int],
    ) -> None:
        self.source = source
        self.blocks = blocks
        self.features = blocks[0].features
        self._names: Sequence[str] = getattr(source, "columns", ())
        self._seen = partial(project, metric=metric)
        self._row_cache = row_cache
        self.rows: RowCache = row_cache_for(
            row_cache, blocks, self._read_again, hash_of, self._seen
        )
        self.weights = ALIKE
        """(n,) of all rows in units of the grid, or ALIKE."""
        self._given: dict[int, NDArray[np.float64]] = {}
        self._out: dict[int, NDArray[np.bool_]] = {}
        self._begins = list(accumulate((block.rows for block in blocks), initial=0))
        self._firsts = np.array([block.first for block in blocks])

    def load(self, noted: Moved = ignore) -> Extent:
        """Read all rows, and return their extent. `noted` hears of the rows of each block."""
        runs = [(*run, noted) for run in runs_of(self.blocks, self._row_cache.readers)]
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
        """Return the weights of the rows of a block, or ALIKE."""
        return self.weights[self._begins[here] : self._begins[here + 1]]

    def out_in(self, here: int) -> NDArray[np.bool_]:
        """Tell which rows of a block do not count."""
        return self._out.get(here, np.zeros(self.blocks[here].rows, np.bool_))

    def inside(self, numbers: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield for every block that holds some of these (ascending) rows where they are in it."""
        wanted = np.asarray(numbers)
        begins = np.searchsorted(wanted, self._firsts)
        ends = np.searchsorted(wanted, self._firsts + np.diff(self._begins))
        for here in np.flatnonzero(ends > begins).tolist():
            yield here, wanted[begins[here] : ends[here]] - self._firsts[here]

    def rows_at(self, numbers: NDArray[np.int64]) -> Rows:
        """Return the rows that have one of these (ascending) numbers, in order."""
        found = [self.rows.take(here, at) for here, at in self.inside(numbers)]
        return np.concatenate(found) if found else np.empty((0, self.features), np.float32)

    def weights_at(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the weights of these rows, or ALIKE."""
        if not len(self.weights):
            return ALIKE
        return np.concatenate([ALIKE, *(self.weights_in(h)[at] for h, at in self.inside(numbers))])

    def _load_run(self, first: int, blocks: Sequence[Block], noted: Moved) -> Extent:
        extent = Extent(0, np.zeros(self.features, np.float32))
        source = self.source
        weights = source.weights_of(blocks) if isinstance(source, Weighing) else repeat(None)
        pairs = zip(_noted(source, blocks), weights, strict=False)
        for here, ((block, rows, rounding), given) in enumerate(pairs, start=first):
            extent += replace(self._admit(here, block, rows, given), rounding=rounding)
            noted(block.rows)
        return extent

    def _admit(
        self, here: int, block: Block, read: Rows, given: NDArray[np.float64] | None
    ) -> Extent:
        """Put the rows of a block on the shelf, those that do not count as zeros."""
        rows = self._seen(read)
        extent = Extent.of_rows(rows, block.place, block.start, self._names, read)
        bad: NDArray[np.bool_] = np.zeros(block.rows, np.bool_)
        if extent.nonfinite and isinstance(self.source, Weighing) and self.source.drop_nonfinite:
            bad = np.logical_not(np.isfinite(rows).all(axis=1))
            given = np.where(bad, 0.0, 1.0 if given is None else given)
        if given is not None and (given != 1).any():
            self._given[here] = given
            out = given == 0
            if out.any():
                self._out[here] = out
                read, rows = _blank(read, out), _blank(rows, out)
                extent = Extent.of_rows(rows, block.place, block.start, self._names, read)
                extent = replace(extent, zeros=extent.zeros - int(out.sum()))
            extent = replace(extent, weights=Span.of(given), dropped=int(bad.sum()))
        self.rows.put(here, read if self._row_cache.narrow else rows)
        return extent

    def _read_again(self, here: int) -> Rows:
        ((_, rows),) = self.source.read([self.blocks[here]])
        rows = self._seen(rows)
        return _blank(rows, self._out[here]) if here in self._out else rows


def _noted(
    source: Reader, blocks: Sequence[Block]
) -> Iterable[tuple[Block, Rows, Rounding | None]]:
    """Read blocks, and what their rows lost when they were rounded, where the source tells it."""
    if isinstance(source, Noting):
        return source.read_noted(blocks)
    return ((block, rows, None) for block, rows in source.read(blocks))


def _blank(rows: Rows, out: NDArray[np.bool_]) -> Rows:
    return np.where(out[:, None], np.float32(0), rows)


def runs_of(blocks: Sequence[Block], count: int) -> list[tuple[int, Sequence[Block]]]:
    """Cut blocks into runs for so many readers: where each begins, and its blocks.

    What is decoded together, the blocks of a row group, stays together.
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
