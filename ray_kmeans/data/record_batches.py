"""Cut a stream of Arrow record batches, as readers hand them out, into the blocks that are wanted.

Batches and blocks begin and end at different rows, so that a block may need several batches, and a
batch may hold several blocks. One batch is in memory at a time, with the pieces of one block:

    batches   |-----------|-----------|-----------|
    blocks        [  A  ][    B     ]    [ C ]
    pieces        [  A  ][B ][   B  ]    [ C ]
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ray_kmeans.data.columns import matrix
from ray_kmeans.data.sharding import Block
from ray_kmeans.errors import DataError


class Piece(NamedTuple):
    """The rows of one block that one batch holds."""

    block: Block
    """The block that the rows belong to."""
    begin: int
    """Number of rows of the block before this piece."""
    batch: pa.RecordBatch
    """The rows, with all columns of the batch."""

    @property
    def is_last(self) -> bool:
        """Whether the block ends with this piece."""
        return self.begin + int(self.batch.num_rows) == self.block.rows


def rows_of_blocks(
    batches: Iterable[pa.RecordBatch], names: Sequence[str], blocks: Sequence[Block]
) -> Iterator[tuple[Block, NDArray[Any]]]:
    """Yield the rows (n, features) of each block, made of the columns `names`.

    `batches` are those of the blocks' row group, from its begin on. The blocks must be in the order
    of the group; no batch is read after the end of the last one. Raises DataError if the batches
    end before it.
    """
    rows: NDArray[Any] = np.empty((0, 0))
    for piece in _pieces(batches, blocks):
        block = piece.block
        first = block.skip + piece.begin
        values = matrix(piece.batch, names, block.features, block.place, first)
        if piece.begin == 0:
            rows = np.empty((block.rows, block.features), values.dtype)
        rows = rows.astype(np.result_type(rows, values), copy=False)  # nulls make floats
        rows[piece.begin : piece.begin + len(values)] = values
        if piece.is_last:
            yield block, rows


def tables_of_blocks(
    batches: Iterable[pa.RecordBatch], blocks: Sequence[Block]
) -> Iterator[tuple[Block, pa.Table]]:
    """Yield the table of each block, with all columns; see `rows_of_blocks`."""
    parts: list[pa.RecordBatch] = []
    for piece in _pieces(batches, blocks):
        parts.append(piece.batch)
        if piece.is_last:
            yield piece.block, pa.Table.from_batches(parts)
            parts = []


def _pieces(batches: Iterable[pa.RecordBatch], blocks: Sequence[Block]) -> Iterator[Piece]:
    """Yield the pieces of each block, in order."""
    wanted = deque(blocks)
    begin = 0  # row of the group at which the batch begins
    for batch in batches:
        end = begin + batch.num_rows
        while wanted and wanted[0].skip < end:
            block = wanted[0]
            low, high = max(block.skip, begin), min(block.skip + block.rows, end)
            piece = Piece(block, low - block.skip, batch.slice(low - begin, high - low))
            if not piece.is_last:
                yield piece
                break  # the next batch goes on with this block
            wanted.popleft()
            yield piece
            if not wanted:
                return
        begin = end
    if wanted:
        raise DataError(f"{wanted[0].file} has fewer rows than its metadata say; it is damaged.")
