"""Which blocks exist, and who reads them. Pure: reads nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby
from typing import TypeAlias

from ray_kmeans.algorithm.blocks import rows_of

BLOCK_ROWS = 8_192
"""Rows of a block at most; a constant, so that blocks follow from the data alone."""


@dataclass(frozen=True)
class Block:
    """Some consecutive rows of one file (or of the one array)."""

    index: int
    """Position in the data set."""
    first: int
    """Number of its first row in the data set."""
    rows: int
    features: int
    file: str
    start: int
    """Number of its first row in the file."""
    group: int = 0
    """Row group of the file, where the format has such."""
    skip: int = 0
    """Rows of that group before this block."""

    @property
    def place(self) -> str:
        """Say where the block is, for messages."""
        return f"row group {self.group} of {self.file}"


Shard: TypeAlias = tuple[Block, ...]
"""The blocks of one worker."""


@dataclass(frozen=True)
class Layout:
    """All blocks of a data set, in its order."""

    blocks: tuple[Block, ...]
    features: int
    narrow: str | None = None
    """The type of all values where that is narrower than float32, see `clustering.narrow`."""
    is_read_whole: bool = False
    """Whether all rows of a row group are in memory while some of them are read."""

    @property
    def rows(self) -> int:
        return sum(block.rows for block in self.blocks)

    def head(self, rows: int) -> Layout:
        """Return the layout of the first rows alone."""
        kept = [
            replace(block, rows=min(block.rows, rows - block.first))
            for block in self.blocks
            if block.first < rows
        ]
        return replace(self, blocks=tuple(kept))


def cut(
    file: str, group_rows: Sequence[int], features: int, first: int = 0, index: int = 0
) -> list[Block]:
    """Cut a file of row groups into blocks; `first` row and `index` are those of its first block.

    >>> [(b.first, b.rows, b.group, b.skip) for b in cut("f", [10_000, 5], 8, first=100)]
    [(100, 8192, 0, 0), (8292, 1808, 0, 8192), (10100, 5, 1, 0)]
    """
    blocks: list[Block] = []
    start = 0
    for group, rows in enumerate(group_rows):
        for skip in range(0, rows, BLOCK_ROWS):
            size = min(BLOCK_ROWS, rows - skip)
            place = index + len(blocks)
            row = start + skip
            blocks.append(Block(place, first + row, size, features, file, row, group, skip))
        start += rows
    return blocks


def pieces_of(blocks: Sequence[Block], together: int) -> list[Shard]:
    """Put blocks together whose numbers are among the same so many, counted from 0 on."""
    return [tuple(run) for _, run in groupby(blocks, key=lambda block: block.index // together)]


def split(blocks: Sequence[Block], n_shards: int, together: int = 1) -> tuple[Shard, ...]:
    """Deal the blocks out in consecutive runs of about equal rows; no shard is empty.

    Of the numbers of all blocks, so many `together`, from 0 on, stay in one shard.

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
    """Return the blocks of each row group."""
    return [tuple(run) for _, run in groupby(shard, key=lambda block: (block.file, block.group))]


def passes_over(blocks: Sequence[Block]) -> Iterator[list[Block]]:
    """Yield the blocks of a file in runs that are in its order: each takes one pass over it."""
    run: list[Block] = []
    for block in blocks:
        if run and block.start <= run[-1].start:
            yield run
            run = []
        run.append(block)
    if run:
        yield run
