"""A source of a user: numbers and their squares."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ray_kmeans.data import sharding as plan


class Squares:
    """A user's own source, of three methods."""

    def __init__(self, rows, block_rows=plan.BLOCK_ROWS):
        self.rows, self.block_rows = rows, block_rows

    def describe(self):
        blocks = plan.cut("squares", [self.rows], features=2, block_rows=self.block_rows)
        return plan.Layout(tuple(blocks), features=2)

    def read(self, blocks):
        for block in blocks:
            numbers = np.arange(block.start, block.start + block.rows, dtype=np.float32)
            yield block, np.stack([numbers, numbers**2], axis=1)

    def columns_of(self, block, names):
        return pa.table({"number": range(block.start, block.start + block.rows)}).select(names)
