"""Cut data into blocks of rows, and deal the blocks out to workers. Nothing is read here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby
from typing import TypeAlias

from ray_kmeans.algorithm.row_counts import rows_of

BLOCK_ROWS = 8_192
"""Largest number of rows of a block; a constant, so that blocks follow from the data alone."""


@dataclass(frozen=True)
class Block:
    """Some consecutive rows of one file (or of one array), read and computed on together."""

    index: int
    """Number of the block in the data set, from 0 on."""
    first: int
    """Number of the block's first row in the data set, from 0 on."""
    rows: int
    """Number of rows, at most `BLOCK_ROWS`."""
    features: int
    """Number of features of a row."""
    file: str
    """Name of the file as people may see it, or of the data set."""
    start: int
    """Number of the block's first row in its file, from 0 on."""
    group: int = 0
    """Number of the row group (or record batch) in the file; 0 if the format has none."""
    skip: int = 0
    """Number of rows of the group before this block."""

    @property
    def place(self) -> str:
        """The row group and file, for messages."""
        return f"row group {self.group} of {self.file}"


Shard: TypeAlias = tuple[Block, ...]
"""Blocks of one worker, in the order of the data."""


@dataclass(frozen=True)
class Layout:
    """All blocks of a data set."""

    blocks: tuple[Block, ...]
    """Blocks in the order of the data."""
    features: int
    """Number of features of each row."""
    narrow: str | None = None
    """Name of the number type of all values if it is narrower than float32 (`algorithm.dtypes`)."""
    is_read_whole: bool = False
    """Whether all rows of a row group are in memory while some of them are read."""

    @property
    def rows(self) -> int:
        """Number of rows of all blocks."""
        return sum(block.rows for block in self.blocks)

    def head(self, rows: int) -> Layout:
        """Return the layout of the first `rows` rows."""
        kept = [
            replace(block, rows=min(block.rows, rows - block.first))
            for block in self.blocks
            if block.first < rows
        ]
        return replace(self, blocks=tuple(kept))


def cut(
    file: str,
    group_rows: Sequence[int],
    features: int,
    first: int = 0,
    index: int = 0,
    block_rows: int = BLOCK_ROWS,
) -> list[Block]:
    """Cut one file into blocks, none of which crosses the end of a row group.

    Parameters
    ----------
    file : str
        Name of the file.
    group_rows : sequence of int
        Number of rows of each row group.
    features : int
        Number of features of a row.
    first : int, default 0
        Number of the file's first row in the data set.
    index : int, default 0
        Number of the file's first block in the data set.
    block_rows : int, default 8192
        Largest number of rows of a block.

    Returns
    -------
    list of Block
        Blocks in the order of the file.

    Examples
    --------

    >>> [(b.first, b.rows, b.group, b.skip) for b in cut("f", [10_000, 5], 8, first=100)]
    [(100, 8192, 0, 0), (8292, 1808, 0, 8192), (10100, 5, 1, 0)]
    """
    blocks: list[Block] = []
    start = 0
    for group, rows in enumerate(group_rows):
        for skip in range(0, rows, block_rows):
            size = min(block_rows, rows - skip)
            place = index + len(blocks)
            row = start + skip
            blocks.append(Block(place, first + row, size, features, file, row, group, skip))
        start += rows
    return blocks


def pieces_of(blocks: Sequence[Block], together: int) -> list[Shard]:
    """Group blocks by their numbers: 0 to together - 1, the next `together` ones, and so on."""
    return [tuple(run) for _, run in groupby(blocks, key=lambda block: block.index // together)]


def split(blocks: Sequence[Block], n_shards: int, together: int = 1) -> tuple[Shard, ...]:
    """Deal consecutive blocks out to at most `n_shards` shards of about equal rows, none empty.

    Blocks of one group of `together` numbers (see `pieces_of`) stay in one shard.

    >>> [[b.rows for b in shard] for shard in split(cut("f", [4, 4, 1, 3], features=8), 3)]
    [[4], [4], [1, 3]]
    >>> [[b.rows for b in shard] for shard in split(cut("f", [4, 4, 1, 3], features=8), 3, 2)]
    [[4, 4], [1, 3]]
    """
    pieces = pieces_of(blocks, together)
    sizes = list(map(rows_of, pieces))
    n_shards = min(n_shards, len(pieces))
    shards: list[Shard] = []
    left_rows = sum(sizes)
    begin = 0
    for left_shards in range(n_shards, 0, -1):
        end, rows = begin, 0
        spare = len(pieces) - left_shards + 1  # the shards after this one need a piece each
        fair = left_rows / left_shards
        while end < spare and (end == begin or rows + sizes[end] / 2 < fair):
            rows += sizes[end]
            end += 1
        end = len(pieces) if left_shards == 1 else end
        shards.append(tuple(chain.from_iterable(pieces[begin:end])))
        begin, left_rows = end, left_rows - rows
    return tuple(shards)


def groups_of(shard: Shard) -> list[Shard]:
    """Return the blocks of each row group, in the order given."""
    return [tuple(run) for _, run in groupby(shard, key=lambda block: (block.file, block.group))]


def passes_over(blocks: Sequence[Block]) -> Iterator[list[Block]]:
    """Yield the blocks of one file in runs that follow its order: each takes one pass over it."""
    return _runs(blocks, lambda before, after: after.start > before.start)


def neighbours_in(blocks: Sequence[Block]) -> Iterator[list[Block]]:
    """Yield the blocks of one row group in runs without a gap: each can be read as one block."""
    return _runs(blocks, lambda before, after: after.skip == before.skip + before.rows)


def _runs(
    blocks: Sequence[Block], goes_on: Callable[[Block, Block], bool]
) -> Iterator[list[Block]]:
    """Yield the blocks in runs within which `goes_on(before, after)` holds for each pair."""
    run: list[Block] = []
    for block in blocks:
        if run and not goes_on(run[-1], block):
            yield run
            run = []
        run.append(block)
    if run:
        yield run
