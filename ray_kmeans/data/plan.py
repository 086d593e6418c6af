"""Which blocks exist, who reads them, and how many bytes that takes. Pure: reads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby
from typing import TypeAlias

from ray_kmeans.errors import BudgetError

BLOCK_ROWS = 8_192
"""Rows of a block at most; a constant, so that blocks follow from the data alone."""

READERS = 4
"""Threads of a worker that read at once, at most."""

WORKER_BASE_BYTES = 550 * 2**20
"""A worker before it holds any row: Python, Ray, Arrow, numba, and compiling the kernels, which
takes most of it, the first time alone."""


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
        return Layout(tuple(kept), self.features, self.narrow)


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
    sizes = [sum(block.rows for block in piece) for piece in pieces]
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


def worker_bytes(
    shard: Shard,
    num_clusters: int,
    batch_rows: int = 0,
    threads: int = 1,
    kept: bool = True,
    item_bytes: int = 0,
) -> int:
    """Bound what a worker holds: its rows, some blocks while reading, the centers, the partials.

    Beside its rows it keeps them in bytes, a quarter as large, with some numbers for each row. Rows
    that are not `kept` in memory take some numbers each, and those of one block what all take else;
    besides `item_bytes` for each value, where these are kept in a type narrower than float32.
    `batch_rows`: of mini-batches that are drawn from the data, whose numbers every worker makes.
    """
    features = shard[0].features
    columns = 64 * -(-features // 64)
    in_bytes = min(columns, 4 * -(-features // 4)) if features <= 64 else columns
    per_row = 4 * features + in_bytes + 92  # weight, bounds, labels, moves; potential when seeding
    n_rows = sum(block.rows for block in shard)
    largest = max(block.rows for block in shard)
    elsewhere = (32 + item_bytes * features) * n_rows + largest * per_row
    rows = n_rows * per_row if kept else elsewhere
    reading = 3 * readers_of(threads) * largest * features * 4
    prepared = num_clusters * (columns * 6 + (features + 1) * (4 + 3 * 8))
    partials = 3 * num_clusters * (features + 1) * 8
    tile_rows = min(max(2**17 // num_clusters, 512), 2048)
    tile = tile_rows * (min(num_clusters, 1024) + features + 4) * 4
    of_thread = max(tile, num_clusters * (2 * columns + 48) + 2**20)
    drawing = 64 * batch_rows
    fixed = reading + prepared + partials + threads * of_thread + drawing
    return WORKER_BASE_BYTES + rows + fixed


def readers_of(threads: int) -> int:
    """Return how many of a worker's threads read at once; each holds some blocks."""
    return min(threads, READERS)


def most_bytes(
    shards: Sequence[Shard],
    num_clusters: int,
    batch_rows: int = 0,
    threads: int = 1,
    kept: bool = True,
    item_bytes: int = 0,
) -> int:
    """Return what the worker with most to hold holds."""
    about = num_clusters, batch_rows, threads, kept, item_bytes
    return max(worker_bytes(shard, *about) for shard in shards)


def most_rows(
    shards: Sequence[Shard],
    num_clusters: int,
    allowed_bytes: int,
    batch_rows: int = 0,
    threads: int = 1,
    kept: bool = True,
    item_bytes: int = 0,
) -> int:
    """Return how many rows a worker may hold, beyond those of the largest of these shards too."""
    shard = max(shards, key=lambda shard: sum(block.rows for block in shard))
    rows = sum(block.rows for block in shard)
    once, twice = (
        worker_bytes(blocks, num_clusters, batch_rows, threads, kept, item_bytes)
        for blocks in (shard, shard + shard)
    )
    return rows + int((allowed_bytes - once) / (twice - once) * rows)


def check_budget(
    shards: Sequence[Shard],
    num_clusters: int,
    allowed_bytes: int,
    batch_rows: int = 0,
    threads: int = 1,
    kept: bool = True,
    item_bytes: int = 0,
) -> None:
    """Raise BudgetError if a worker would not fit into `allowed_bytes`."""
    needed = most_bytes(shards, num_clusters, batch_rows, threads, kept, item_bytes)
    if needed > allowed_bytes:
        rows = max(sum(block.rows for block in shard) for shard in shards)
        features = shards[0][0].features
        where = "float32" if kept else "float32 that are not kept in memory"
        where = f"values of {item_bytes} bytes" if item_bytes else where
        detail = f"{rows:,} rows x {features:,} {where} and {num_clusters:,} centers"
        raise BudgetError(needed, allowed_bytes, detail)
