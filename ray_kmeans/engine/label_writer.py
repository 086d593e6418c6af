"""Writes the labelled rows of a shard to a store, several blocks at once, in threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, groupby, repeat
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.engine.shard import Block, Reader
from ray_kmeans.kernels import Kernel
from ray_kmeans.kernels.nearest_centers import LIST_BYTES, find_nearest, measure_distances

WRITERS = 8
"""Least number of threads of a worker that write: a store takes its time for each part."""
AT_ONCE = 64
"""Largest number of blocks that are being written at the same time."""
FETCHED_AT_ONCE = 4
"""The same where the rows of a block are in memory only while it is written."""
LIST_ROOM = 8 * 2**20
"""Bytes of the lists of nearest centers of a part, and of the blocks that wait to be written, where
those of one block take less."""
ENTRY_BYTES = 8
"""Bytes of an entry of a list: the center and its distance."""


Columns: TypeAlias = dict[str, NDArray[Any]]
"""Columns of labelled output by name, each of shape (rows,), or (rows, m) for lists."""
LISTS = ("nearest_cluster_idx", "nearest_distance")
"""Columns with the m nearest centers of each row and their distances."""


class Writer(Protocol):
    """A place for labelled output: what a worker needs of it in order to write parts."""

    def write(self, index: int, first_row: int, columns: Columns, kept: Any) -> Any:
        """Write the part with this index, from this row of the data set on."""


class Gatherer(Protocol):
    """A place for labelled output: what a worker needs of it in order to sort rows by cluster."""

    def gather(self, bundle: Sequence[int], width: int) -> list[Any]:
        """Put the rows of some parts in the order of clusters, `width` of them in a folder."""


@dataclass(frozen=True)
class NearestCenters:
    """The centers that are written for each row, besides its label."""

    second: bool = False
    """Whether the second-nearest center has columns of its own."""
    listed: int | None = None
    """Number of nearest centers that are listed, the nearest first; None for no list."""

    @property
    def count(self) -> int:
        """Number of nearest centers that must be found."""
        return max(1, 2 * self.second, self.listed or 0)

    def bytes_of(self, rows: int) -> int:
        """Return the bytes of the lists of this many rows."""
        return ENTRY_BYTES * rows * (self.listed or 0)

    def blocks_within(self, most: int, rows: int) -> int:
        """Return how many blocks of up to `rows` rows have room for their lists, up to `most`.

        It is a divisor of `most`, so that blocks that stay together in other work do so here.

        >>> [NearestCenters(False, m).blocks_within(16, 8192) for m in (None, 10, 100, 1000)]
        [16, 8, 1, 1]
        """
        found = range(1, most + 1)
        room = [n for n in found if most % n == 0 and self.bytes_of(n * rows) <= LIST_ROOM]
        return max(room, default=1)

    def bytes_beside(self, rows: int, threads: int) -> int:
        """Return an upper bound of the bytes that a worker of some threads takes for its lists.

        `rows`: those of the largest block. The blocks that wait and those of two parts take three
        times LIST_ROOM; each may be there as columns of a block, as a table, and twice as a file.
        """
        if self.listed is None:
            return 0
        block = self.bytes_of(rows)
        return 12 * max(LIST_ROOM, block) + 4 * block + 3 * LIST_BYTES * threads


LABEL_ALONE = NearestCenters()
"""The nearest center alone."""


class LabelledBlock(NamedTuple):
    """Rows of a block with their labels."""

    block: Block
    """Block that the rows are of."""
    rows: NDArray[np.float32]
    """(n, d) Rows as the metric sees them."""
    nearest: NDArray[np.int32]
    """(m, n) Indices of the m nearest centers of each row, the nearest first."""
    out: NDArray[np.bool_]
    """(n,) Whether a row does not count: it is written without a label."""


class BlockLabeller:
    """Makes the columns of labelled output from rows and their labels, under one model."""

    def __init__(
        self, kernel: Kernel, centers: NDArray[np.float32], metric: Metric, wanted: NearestCenters
    ) -> None:
        """Prepare the centers for the kernel if others than the nearest are wanted."""
        self._kernel = kernel
        self._centers = centers
        self._metric = metric
        self._wanted = wanted
        self._prepared = kernel.prepare(centers, metric) if wanted.count > 1 else None

    def label(
        self,
        block: Block,
        rows: NDArray[np.float32],
        nearest: NDArray[np.int32],
        out: NDArray[np.bool_],
    ) -> LabelledBlock:
        """Return a block with its labels, and the next centers if they are wanted."""
        found = find_nearest(self._kernel, rows, self._prepared, nearest, self._wanted.count)
        return LabelledBlock(block, rows, found, out)

    def columns(self, of: LabelledBlock) -> Columns:
        """Return the columns to write: labels and distances, none for rows that do not count."""
        measured = measure_distances(self._kernel, of.rows, self._centers, of.nearest, self._metric)
        labels = np.where(of.out, np.int32(-1), of.nearest)
        distances = np.where(of.out, np.float32(np.nan), measured)
        columns: Columns = {"cluster_idx": labels[0], "distance": distances[0]}
        if self._wanted.second:
            columns |= {"second_cluster_idx": labels[1], "second_distance": distances[1]}
        if self._wanted.listed is not None:
            for name, values in zip(LISTS, (labels, distances), strict=True):
                columns[name] = np.ascontiguousarray(values[: self._wanted.listed].T)
        return columns


def write_parts(
    labeller: BlockLabeller,
    labelled: Iterator[LabelledBlock],
    kept: Iterator[Any],
    output: Writer,
    together: int,
    threads: int,
    at_once: int,
) -> list[Any]:
    """Write blocks as they are labelled, several at once; return the output's answer for each part.

    Each part has `together` blocks. `kept` yields the columns to pass through of each block.
    `at_once`: largest number of blocks that are being written at the same time.
    """

    def write(number: int, first_row: int, made: list[Future[Columns]], tables: list[Any]) -> Any:
        """Write one part, once the columns of all its blocks are made."""
        columns = [each.result() for each in made]  # they began before, so no thread waits for long
        whole = {name: np.concatenate([each[name] for each in columns]) for name in columns[0]}
        return output.write(number, first_row, whole, tables)

    most_pending = at_once + max(at_once // together, 1)  # the blocks, and their parts
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
                while len(pending) > most_pending:
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
