"""Rows that stand one behind the other in a file, all of the same bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.data.format import Head, Opened, one_part
from ray_kmeans.data.plan import Block
from ray_kmeans.data.ranges import AHEAD, in_background
from ray_kmeans.errors import DataError


@dataclass(frozen=True)
class Dense:
    """Where the values of a matrix are in its file."""

    rows: int
    features: int
    dtype: np.dtype[Any]
    offset: int
    """Bytes before the first row."""
    lead: int = 0
    """Bytes before the values in each row."""

    @property
    def row_bytes(self) -> int:
        return self.lead + self.features * self.dtype.itemsize

    def head(self, file: Opened) -> Head:
        """Return the head of the file; raises DataError where it ends before its rows do."""
        needed = self.offset + self.rows * self.row_bytes
        if file.size < needed:
            raise DataError(
                f"{file.path} has {file.size:,} bytes where {self.rows:,} rows of "
                f"{self.features:,} {self.dtype} take {needed:,}; it is cut off."
            )
        return Head(one_part(self.rows), self.features)


def read_dense(
    file: Opened, dense: Dense, blocks: Sequence[Block]
) -> Iterator[tuple[Block, NDArray[Any]]]:
    """Read blocks by byte range, some ahead of the one that is wanted."""
    if file.local:
        for block in blocks:  # no memory map: one of a file that is cut off kills the process
            begin, end = _span(dense, block)
            file.handle.seek(begin)
            yield block, _rows(dense, block, np.fromfile(file.handle, np.uint8, end - begin))
        return
    waiting: deque[tuple[Block, Future[bytes]]] = deque()
    left = deque(blocks)
    while left or waiting:
        while left and len(waiting) < AHEAD:
            block = left.popleft()
            waiting.append((block, in_background(file.cat, *_span(dense, block))))
        block, data = waiting.popleft()
        yield block, _rows(dense, block, np.frombuffer(data.result(), np.uint8))


def _span(dense: Dense, block: Block) -> tuple[int, int]:
    begin = dense.offset + block.start * dense.row_bytes
    return begin, begin + block.rows * dense.row_bytes


def _rows(dense: Dense, block: Block, data: NDArray[np.uint8]) -> NDArray[Any]:
    if len(data) != block.rows * dense.row_bytes:
        raise DataError(f"{block.file} ends before row {block.start + block.rows}; it is cut off.")
    rows = data.reshape(block.rows, dense.row_bytes)[:, dense.lead :]
    return rows.view(dense.dtype)
