"""Rows that stand one behind the other in a file, all of the same bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ray_kmeans.algorithm.dtypes import narrow_name
from ray_kmeans.data.columns import no_columns
from ray_kmeans.data.formats.base import (
    Head,
    Opened,
    one_part,
)
from ray_kmeans.data.layout import Block
from ray_kmeans.errors import DataError
from ray_kmeans.io.ranges import AHEAD, in_background


@dataclass(frozen=True)
class Dense:
    """Where the values of a matrix are in its file."""

    rows: int
    features: int
    dtype: np.dtype[Any]
    offset: int
    """Bytes before the first row."""
    lead: int = 0
    """Bytes before the values in each row, that tell how many these are; 0 where none do."""
    by_column: bool = False
    """Whether the columns stand one behind the other instead of the rows."""

    @property
    def row_bytes(self) -> int:
        return self.lead + self.features * self.dtype.itemsize

    @property
    def head(self) -> Head:
        return Head(one_part(self.rows), self.features, narrow=narrow_name(self.dtype))

    def check_size(self, what: str, size: int, reason: str = "it is damaged or cut off") -> None:
        """Raise DataError where there are more or fewer bytes for the rows than they take."""
        needed = self.rows * self.row_bytes
        if size != needed:
            raise DataError(
                f"{what} has {size:,} bytes for {self.rows:,} rows of {self.features:,} "
                f"{self.dtype}, which take {needed:,}; {reason}."
            )

    def spans(self, block: Block) -> list[tuple[int, int]]:
        """Return the offsets in the file where each piece of a block begins and ends."""
        width, pieces = (
            (self.dtype.itemsize, self.features)
            if self.by_column
            else (
                self.row_bytes,
                1,
            )
        )
        begins = (
            self.offset + (piece * self.rows + block.start) * width for piece in range(pieces)
        )
        return [(begin, begin + block.rows * width) for begin in begins]

    def values(self, block: Block, pieces: Sequence[NDArray[np.uint8]]) -> NDArray[Any]:
        """Return the rows that the bytes of a block hold."""
        data = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        if len(data) != block.rows * self.row_bytes:
            raise DataError(
                f"{block.file} ends before row {block.start + block.rows}; it is cut off."
            )
        if self.by_column:
            return data.view(self.dtype).reshape(self.features, block.rows).T
        rows = data.reshape(block.rows, self.row_bytes)
        if self.lead:
            self._check_lengths(block, rows[:, : self.lead])
        return rows[:, self.lead :].view(self.dtype)

    def _check_lengths(self, block: Block, lead: NDArray[np.uint8]) -> None:
        lengths = lead.view(f"<i{self.lead}").ravel()
        others = np.flatnonzero(lengths != self.features)
        if len(others):
            raise DataError(
                f"row {block.start + others[0]} of {block.file} has {lengths[others[0]]} features "
                f"where its first row has {self.features}; all must have the same."
            )


class DenseFormat(ABC):
    """A format of such files, which only differ in how they tell where the rows are."""

    @abstractmethod
    def dense(self, file: Opened) -> Dense:
        """Return where the rows are; raises DataError where the file cannot hold them."""

    def head(self, file: Opened) -> Head:
        return self.dense(file).head

    def read(self, file: Opened, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[Any]]]:
        yield from read_dense(file, self.dense(file), blocks)

    def columns_of(self, file: Opened, block: Block, names: Sequence[str]) -> pa.Table:
        raise no_columns(names, file.path)


def read_dense(
    file: Opened, dense: Dense, blocks: Sequence[Block]
) -> Iterator[tuple[Block, NDArray[Any]]]:
    """Read blocks by byte range, those of a remote file some ahead of the one that is wanted."""
    if file.local:
        for block in blocks:
            # Not a memory map: a worker would keep the file open as long as it keeps the rows, see
            # them change with the file, and die where it gets shorter.
            pieces = [
                np.fromfile(file.local, np.uint8, end - begin, offset=begin)
                for begin, end in dense.spans(block)
            ]
            yield block, dense.values(block, pieces)
        return
    waiting: deque[tuple[Block, list[Future[bytes]]]] = deque()
    left = deque(blocks)
    while left or waiting:
        while left and len(waiting) < AHEAD:
            block = left.popleft()
            waiting.append((block, [in_background(file.cat, *each) for each in dense.spans(block)]))
        block, fetched = waiting.popleft()
        pieces = [np.frombuffer(each.result(), np.uint8) for each in fetched]
        yield block, dense.values(block, pieces)
