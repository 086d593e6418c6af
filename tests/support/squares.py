"""A source of a user: numbers and their squares."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ray_kmeans.data import layout as plan


class Squares:
    """A user's own source, of three methods."""

    def __init__(self, rows):
        self.rows = rows

    def describe(self):
        return plan.Layout(tuple(plan.cut("squares", [self.rows], features=2)), features=2)

    def read(self, blocks):
        for block in blocks:
            numbers = np.arange(block.start, block.start + block.rows, dtype=np.float32)
            yield block, np.stack([numbers, numbers**2], axis=1)

    def columns_of(self, block, names):
        return pa.table({"number": range(block.start, block.start + block.rows)}).select(names)
