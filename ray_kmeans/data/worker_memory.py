"""Bound the memory that a worker takes for its rows and its computation, before the run.

The numbers in `Footprint.of` are the sizes of what the kernels and readers allocate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ray_kmeans.algorithm.row_counts import rows_of
from ray_kmeans.data.sharding import Layout, Shard, groups_of
from ray_kmeans.errors import BudgetError

WORKER_BASE_BYTES = 720 * 2**20
"""Bytes of a worker without rows: Python, Ray, Arrow, and mostly numba, compiling the kernels."""

READERS = 4
"""Largest number of threads of a worker that read at once."""

PIECE_ROWS = 8192
"""Largest number of rows of a mini-batch that a thread copies side by side, as the engine does."""

SUM_BYTES = 8 * 48
"""Bytes of the exact sums of a cluster for figures of quality: 47 digits of int64."""

GAP_BYTES = 64 * 2**20
"""Bytes for the pairs of centers that are looked at together: twelve arrays of 2**19 float64, and
copies of 2**21 values."""

PAIR_BYTES = 160
"""Bytes of a pair of labels of two clusterings, with those of another worker, while they are added
up."""


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
    restarts: int = 1
    """Number of restarts that run at once, where rows are not kept as float32."""
    or_fewer: bool = False
    """Whether calls with fewer centers come too, as in a session."""
    is_tree: bool = False
    """Whether rows of some nodes of a tree are copied side by side, up to an eighth of them."""
    other_bytes: int = 0
    """Bytes that the work of the run takes in each worker besides; see `quality_bytes`."""

    def of(self, shard: Shard) -> int:
        """Return an upper bound in bytes of the memory of the worker of a shard.

        It counts:

        - its rows as float32, and once more as int8, with some numbers for each row. If rows are
          not kept, all have a few numbers each, and the rows of one block at a time the rest;
        - the blocks that its threads read at once;
        - the centers in all their forms, and the partial sums;
        - buffers of each thread, and the buffers of rows on their way to a GPU;
        - for mini-batch, the row numbers of a batch while they are drawn, and for each thread the
          rows that it copies side by side, and partial sums of its own;
        - labels, centers and partial sums of each of several restarts, where rows are not kept;
        - for a tree, the order of the rows by their nodes, and an eighth of the rows once more;
        - what the work of the run takes besides.

        What CUDA takes for itself is not counted.
        """
        features, k = shard[0].features, self.num_clusters
        columns = 64 * -(-features // 64)
        in_bytes = min(columns, 4 * -(-features // 4)) if features <= 64 else columns
        per_row = 4 * features + in_bytes + 92  # weight, bounds, labels, moves; potential, seeding
        n_rows = rows_of(shard)
        largest = max(block.rows for block in shard)
        sets = 1 if self.kept else self.restarts
        of_row = 24 + 8 * sets + self.item_bytes * features
        elsewhere = of_row * n_rows + largest * per_row
        rows = n_rows * per_row if self.kept else elsewhere
        at_once = max(map(rows_of, groups_of(shard))) if self.by_group else largest
        if self.is_tree:
            rows += n_rows * (24 + per_row // 8)
        reading = 3 * readers_of(self.threads) * at_once * features * 4
        prepared = k * (columns * 6 + (features + 1) * (4 + 3 * 8))
        partials = 3 * k * (features + 1) * 8
        # A tile of fewer centers has more rows: that of 64 may be larger than one of more centers.
        tile = max(_tile_bytes(n, features) for n in (k, min(k, 64) if self.or_fewer else k))
        of_thread = max(tile, k * (2 * columns + 48) + 2**20)
        piece_rows = min(self.batch_rows, PIECE_ROWS)
        of_thread += piece_rows * 4 * (features + 16) + (partials // 3 if piece_rows else 0)
        staged = 2 * min(self.staged_bytes + largest * features * 4, n_rows * features * 4)
        if self.kept and features >= 64:  # a prefix, and the sample that it is found by
            prepared += 4 * features * (features + 8192) + k * (4 * columns + 4096)
            of_thread += 512 * 4 * (features + 256) + 32 * 4 * columns
        tiles = self.threads * of_thread
        fixed = reading + sets * (prepared + partials) + tiles + 64 * self.batch_rows
        fixed += self.other_bytes + (staged if self.staged_bytes else 0)
        return WORKER_BASE_BYTES + rows + fixed

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


def _tile_bytes(num_clusters: int, features: int) -> int:
    """Return the bytes of what a thread computes at once: some rows, and their scores."""
    rows = min(max(2**17 // num_clusters, 512), 2048)
    return rows * (min(num_clusters, 1024) + features + 4) * 4


def readers_of(threads: int) -> int:
    """Return how many of a worker's threads read at once; each of them holds some blocks."""
    return min(threads, READERS)


def quality_bytes(layout: Layout, num_clusters: int, pairs: int) -> int:
    """Return an upper bound of the bytes that a worker takes for figures of quality.

    These are the sums and those of another worker, some numbers for each row of a block, up to
    `pairs` pairs of labels with another clustering, and the centers in float64.
    """
    k, features = num_clusters, layout.features
    sums = 3 * k * (8 * (features + 1) + SUM_BYTES)
    largest = max((block.rows for block in layout.blocks), default=0)
    compared = min(pairs, layout.rows) * PAIR_BYTES
    return sums + k * 8 * (2 * features + 8) + 256 * largest + compared + GAP_BYTES
