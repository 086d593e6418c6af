"""Writes the labelled rows of a shard to a store, several blocks at once, in threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import chain, groupby, repeat
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.engine.shard import Block, Reader
from ray_kmeans.kernels import Kernel

WRITERS = 8
"""Least number of threads of a worker that write: a store takes its time for each part."""
AT_ONCE = 64
"""Largest number of blocks that are being written at the same time."""
FETCHED_AT_ONCE = 4
"""The same where the rows of a block are in memory only while it is written."""


Columns: TypeAlias = dict[str, NDArray[Any]]
"""Columns of labelled output by name, each of shape (rows,)."""


class Writer(Protocol):
    """A place for labelled output: what a worker needs of it in order to write parts."""

    def write(self, index: int, first_row: int, columns: Columns, kept: Any) -> Any:
        """Write the part with this index, from this row of the data set on."""


class Gatherer(Protocol):
    """A place for labelled output: what a worker needs of it in order to sort rows by cluster."""

    def gather(self, bundle: Sequence[int], width: int) -> list[Any]:
        """Put the rows of some parts in the order of clusters, `width` of them in a folder."""


class LabelledBlock(NamedTuple):
    """Rows of a block with their labels."""

    block: Block
    """Block that the rows are of."""
    rows: NDArray[np.float32]
    """(n, d) Rows as the metric sees them."""
    nearest: NDArray[np.int32]
    """(n,) Index of the nearest center of each row."""
    second: NDArray[np.int32] | None
    """(n,) Index of the second-nearest center; None if it is not wanted."""
    out: NDArray[np.bool_]
    """(n,) Whether a row does not count: it is written without a label."""


class BlockLabeller:
    """Makes the columns of labelled output from rows and their labels, under one model."""

    def __init__(
        self, kernel: Kernel, centers: NDArray[np.float32], metric: Metric, with_second: bool
    ) -> None:
        """Prepare the centers for the kernel if second-nearest centers are wanted."""
        self._kernel = kernel
        self._centers = centers
        self._metric = metric
        self._prepared = kernel.prepare(centers, metric) if with_second else None

    def label(
        self,
        block: Block,
        rows: NDArray[np.float32],
        nearest: NDArray[np.int32],
        out: NDArray[np.bool_],
    ) -> LabelledBlock:
        """Return a block with its labels, and the second-nearest centers if they are wanted."""
        second = None
        if self._prepared is not None:
            second = np.empty(len(rows), np.int32)
            self._kernel.assign_second(rows, self._prepared, nearest, second)
        return LabelledBlock(block, rows, nearest, second, out)

    def columns(self, of: LabelledBlock) -> Columns:
        """Return the columns to write: labels and distances, none for rows that do not count."""
        columns: Columns = {}
        for prefix, found in (("", of.nearest), ("second_", of.second)):
            if found is None:
                continue
            distances = self._kernel.distances_to(of.rows, self._centers, found, self._metric)
            with np.errstate(over="ignore"):  # a distance beyond float32 is infinite
                rounded = distances.astype(np.float32)
            columns[f"{prefix}cluster_idx"] = np.where(of.out, np.int32(-1), found)
            columns[f"{prefix}distance"] = np.where(of.out, np.float32(np.nan), rounded)
        return columns


def write_parts(
    labeller: BlockLabeller,
    labelled: Iterator[LabelledBlock],
    kept: Iterator[Any],
    output: Writer,
    together: int,
    threads: int,
    stays: bool,
) -> list[Any]:
    """Write blocks as they are labelled, several at once; return the output's answer for each part.

    Each part has `together` blocks. `kept` yields the columns to pass through of each block.
    `stays` tells whether the rows are in memory anyhow; if not, few blocks are written at once.
    """

    def write(number: int, first_row: int, made: list[Future[Columns]], tables: list[Any]) -> Any:
        """Write one part, once the columns of all its blocks are made."""
        columns = [each.result() for each in made]  # they began before, so no thread waits for long
        whole = {name: np.concatenate([each[name] for each in columns]) for name in columns[0]}
        return output.write(number, first_row, whole, tables)

    at_once = AT_ONCE if stays else FETCHED_AT_ONCE
    parts: list[Future[Any]] = []
    pending: deque[Future[Any]] = deque()
    pairs = zip(labelled, kept, strict=True)
    with ThreadPoolExecutor(max(threads, WRITERS)) as pool:
        for number, of_part in groupby(pairs, key=lambda pair: pair[0].block.index // together):
            made, tables, first_row = [], [], -1
            for of, table in of_part:
                first_row = of.block.first if first_row < 0 else first_row
                made.append(pool.submit(labeller.columns, of))
                tables += [] if table is None else [table]
                pending.append(made[-1])
                if len(pending) >= at_once:
                    pending.popleft().result()
            parts.append(pool.submit(write, number, first_row, made, tables))
            pending.append(parts[-1])
        return [each.result() for each in parts]


def read_kept_columns(
    source: Reader, blocks: Sequence[Block], names: Sequence[str]
) -> Iterator[Any]:
    """Yield a table of the columns to pass through of each block; None if none are wanted.

    A row group, which a file keeps together, is read once.
    """
    if not names:
        yield from repeat(None, len(blocks))
        return
    for _, of_group in groupby(blocks, key=lambda block: (block.file, block.group)):
        for run in _runs_without_gaps(list(of_group)):
            whole: Any = run[0]
            table = source.columns_of(replace(whole, rows=sum(b.rows for b in run)), names)
            first = run[0].first
            yield from (table.slice(block.first - first, block.rows) for block in run)


def _runs_without_gaps(blocks: Sequence[Block]) -> Iterator[list[Block]]:
    """Yield the blocks in runs without a gap between them."""
    ends = [block.first + block.rows for block in blocks]
    gaps = [n for n in range(1, len(blocks)) if blocks[n].first != ends[n - 1]]
    for begin, end in zip(chain([0], gaps), chain(gaps, [len(blocks)]), strict=True):
        yield list(blocks[begin:end])
