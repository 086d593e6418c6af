"""Read the rows of a sparse matrix in memory: each block is made dense when it is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from ray_kmeans.data import columns as arrow
from ray_kmeans.data.array import NAME
from ray_kmeans.data.float32_rounding import RoundedSource
from ray_kmeans.data.sharding import Block, Layout, cut


@dataclass(frozen=True)
class SparseSource(RoundedSource):
    """Rows of a sparse matrix; only the blocks that are being read are dense."""

    matrix: Any
    """Matrix or array of scipy (n, d), in the format CSR, of float32 or float64."""
    shift: tuple[float, ...] = ()
    """Shift (d,) subtracted from each column before rounding; () for none."""

    @property
    def only_here(self) -> bool:
        """Whether no other process can read it: never, as Ray's object store carries it along."""
        return False

    def describe(self) -> Layout:
        """Return the layout: the blocks that an array of this shape has."""
        rows, features = self.matrix.shape
        return Layout(tuple(cut(NAME, [rows], features)), features)

    def read_wide(self, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[Any]]]:
        """Yield blocks with their rows made dense, before shift and rounding."""
        for block in blocks:
            yield block, self.matrix[block.first : block.first + block.rows].toarray()

    def columns_of(self, block: Block, names: Sequence[str]) -> pa.Table:
        """Raise ConfigError: a matrix has no columns with names."""
        raise arrow.no_columns(names, "the matrix")
