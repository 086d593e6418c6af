"""Bound the memory that a worker takes for its rows and its computation, before the run.

The numbers in `Footprint.of` are the sizes of what the kernels and readers allocate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ray_kmeans.algorithm.row_counts import rows_of
from ray_kmeans.data.sharding import Shard, groups_of
from ray_kmeans.errors import BudgetError

WORKER_BASE_BYTES = 550 * 2**20
"""Bytes of a worker without rows: Python, Ray, Arrow, and mostly numba, compiling the kernels."""

READERS = 4
"""Largest number of threads of a worker that read at once."""

PIECE_ROWS = 8192
"""Largest number of rows of a mini-batch that a thread copies side by side, as the engine does."""


@dataclass(frozen=True)
class Footprint:
    """The sizes on which the memory of a worker depends, besides its rows."""

    num_clusters: int
    """Number of centers."""
    batch_rows: int = 0
    """Number of rows of a mini-batch drawn over all data: every worker makes all their numbers."""
    threads: int = 1
    """Number of threads of a worker."""
    kept: bool = True
    """Whether all rows stay in memory as float32."""
    item_bytes: int = 0
    """Bytes of each value that stays in memory in a narrower type; 0 if none does."""
    by_group: bool = False
    """Whether all rows of a row group are in memory while some of them are read."""
    staged_bytes: int = 0
    """Largest bytes of rows on their way to a GPU, in each of two buffers; 0 without a GPU."""

    def of(self, shard: Shard) -> int:
        """Return an upper bound in bytes of the memory of the worker of a shard.

        It counts:

        - its rows as float32, and once more as int8, with some numbers for each row. If rows are
          not kept, all have a few numbers each, and the rows of one block at a time the rest;
        - the blocks that its threads read at once;
        - the centers in all their forms, and the partial sums;
        - buffers of each thread, and the buffers of rows on their way to a GPU;
        - for mini-batch, the row numbers of a batch while they are drawn, and for each thread the
          rows that it copies side by side, and partial sums of its own.

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
        piece_rows = min(self.batch_rows, PIECE_ROWS)
        of_thread += piece_rows * 4 * (features + 16) + (partials // 3 if piece_rows else 0)
        staged = 2 * min(self.staged_bytes + largest * features * 4, n_rows * features * 4)
        if (
            self.kept and features >= 64
        ):  # a prefix of 256 columns, and the sample that it is found by
            prepared += 4 * features * (features + 8192) + k * (4 * columns + 4096)
            of_thread += 512 * 4 * (features + 256) + 32 * 4 * columns
        fixed = reading + prepared + partials + self.threads * of_thread + 64 * self.batch_rows
        return WORKER_BASE_BYTES + rows + fixed + (staged if self.staged_bytes else 0)

    def most(self, shards: Sequence[Shard]) -> int:
        """Return the bytes of the worker that needs most."""
        return max(map(self.of, shards))

    def rows_within(self, shards: Sequence[Shard], allowed_bytes: int) -> int:
        """Return how many rows a worker can hold, also beyond those of the largest shard.

        A worker's bytes are linear in its rows, so the line is drawn through one and two shards.
        """
        shard = max(shards, key=rows_of)
        rows, once, twice = rows_of(shard), self.of(shard), self.of(shard + shard)
        return rows + int((allowed_bytes - once) / (twice - once) * rows)

    def check(self, shards: Sequence[Shard], allowed_bytes: int) -> None:
        """Raise BudgetError if a worker of one of the shards needs more than `allowed_bytes`."""
        needed = self.most(shards)
        if needed <= allowed_bytes:
            return
        where = "float32" if self.kept else "float32 that are not kept in memory"
        where = f"values of {self.item_bytes} bytes" if self.item_bytes else where
        rows, features = max(map(rows_of, shards)), shards[0][0].features
        detail = f"{rows:,} rows x {features:,} {where} and {self.num_clusters:,} centers"
        raise BudgetError(needed, allowed_bytes, detail)


def readers_of(threads: int) -> int:
    """Return how many of a worker's threads read at once; each of them holds some blocks."""
    return min(threads, READERS)
