"""How many bytes a worker takes for its rows and what it does with them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ray_kmeans.algorithm.blocks import rows_of
from ray_kmeans.data.layout import Shard, groups_of
from ray_kmeans.errors import BudgetError

WORKER_BASE_BYTES = 550 * 2**20
"""A worker before it holds any row: Python, Ray, Arrow, numba, and compiling the kernels, which
takes most of it, the first time alone."""

READERS = 4
"""Threads of a worker that read at once, at most."""


@dataclass(frozen=True)
class Footprint:
    """What a worker computes with, as far as its memory depends on it."""

    num_clusters: int
    batch_rows: int = 0
    """Of mini-batches that are drawn from the data, whose numbers every worker makes."""
    threads: int = 1
    kept: bool = True
    """Whether all rows stay in memory as float32."""
    item_bytes: int = 0
    """Of each value that stays in memory in a narrower type; 0 where none does."""
    by_group: bool = False
    """Whether all rows of a row group are in memory while some of them are read."""
    staged_bytes: int = 0
    """Of rows on their way to a GPU, at most; there are two such stages."""

    def of(self, shard: Shard) -> int:
        """Bound what a worker holds: rows, some blocks while reading, the centers, the partials.

        Beside its rows it keeps them in bytes, a quarter as large, with some numbers for each row.
        Rows that are not kept take some numbers each, and those of one block what all take else.
        What CUDA takes for itself is not counted.
        """
        features, k = shard[0].features, self.num_clusters
        columns = 64 * -(-features // 64)
        in_bytes = min(columns, 4 * -(-features // 4)) if features <= 64 else columns
        per_row = 4 * features + in_bytes + 92  # weight, bounds, labels, moves; potential, seeding
        n_rows = rows_of(shard)
        largest = max(block.rows for block in shard)
        elsewhere = (32 + self.item_bytes * features) * n_rows + largest * per_row
        rows = n_rows * per_row if self.kept else elsewhere
        at_once = max(map(rows_of, groups_of(shard))) if self.by_group else largest
        reading = 3 * readers_of(self.threads) * at_once * features * 4
        prepared = k * (columns * 6 + (features + 1) * (4 + 3 * 8))
        partials = 3 * k * (features + 1) * 8
        tile_rows = min(max(2**17 // k, 512), 2048)
        tile = tile_rows * (min(k, 1024) + features + 4) * 4
        of_thread = max(tile, k * (2 * columns + 48) + 2**20)
        staged = 2 * min(self.staged_bytes + largest * features * 4, n_rows * features * 4)
        fixed = reading + prepared + partials + self.threads * of_thread + 64 * self.batch_rows
        return WORKER_BASE_BYTES + rows + fixed + (staged if self.staged_bytes else 0)

    def most(self, shards: Sequence[Shard]) -> int:
        """Return the bytes of the worker with most to hold."""
        return max(map(self.of, shards))

    def rows_within(self, shards: Sequence[Shard], allowed_bytes: int) -> int:
        """Return how many rows a worker may hold, beyond those of the largest shard too."""
        shard = max(shards, key=rows_of)
        rows, once, twice = rows_of(shard), self.of(shard), self.of(shard + shard)
        return rows + int((allowed_bytes - once) / (twice - once) * rows)

    def check(self, shards: Sequence[Shard], allowed_bytes: int) -> None:
        """Raise BudgetError if a worker would not fit into `allowed_bytes`."""
        needed = self.most(shards)
        if needed <= allowed_bytes:
            return
        where = "float32" if self.kept else "float32 that are not kept in memory"
        where = f"values of {self.item_bytes} bytes" if self.item_bytes else where
        rows, features = max(map(rows_of, shards)), shards[0][0].features
        detail = f"{rows:,} rows x {features:,} {where} and {self.num_clusters:,} centers"
        raise BudgetError(needed, allowed_bytes, detail)


def readers_of(threads: int) -> int:
    """Return how many of a worker's threads read at once; each holds some blocks."""
    return min(threads, READERS)
