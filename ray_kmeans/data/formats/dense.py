"""Read matrices that lie in a file as they do in memory, by byte range."""

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
from ray_kmeans.data.formats.base import Head, OpenFile, block_sized_groups, refuse_columns
from ray_kmeans.data.sharding import Block
from ray_kmeans.errors import DataError
from ray_kmeans.io.ranges import AHEAD, in_background


@dataclass(frozen=True)
class Dense:
    """The place of a matrix in its file."""

    rows: int
    """Number of rows."""
    features: int
    """Number of features of a row."""
    dtype: np.dtype[Any]
    """Type of the values."""
    offset: int
    """Bytes of the file before the first row."""
    lead: int = 0
    """Bytes before the values of each row, which hold the number of features; 0 for none."""
    by_column: bool = False
    """Whether the values of a column are adjacent, instead of those of a row."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.lead + self.features * self.dtype.itemsize

    @property
    def head(self) -> Head:
        """Sizes and types of the rows."""
        return Head(block_sized_groups(self.rows), self.features, narrow=narrow_name(self.dtype))

    def check_size(self, what: str, size: int, reason: str = "it is damaged or cut off") -> None:
        """Raise DataError, with `reason`, unless the rows take exactly `size` bytes."""
        needed = self.rows * self.row_bytes
        if size != needed:
            raise DataError(
                f"{what} has {size:,} bytes for {self.rows:,} rows of {self.features:,} "
                f"{self.dtype}, which take {needed:,}; {reason}."
            )

    def spans(self, block: Block) -> list[tuple[int, int]]:
        """Return the byte ranges (begin, end) of a block: one, or one for each column."""
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
        """Return the rows (n, d) of a block, given the bytes of each of its `spans`."""
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
        """Raise DataError if a row does not begin with the number of features."""
        lengths = lead.view(f"<i{self.lead}").ravel()
        others = np.flatnonzero(lengths != self.features)
        if len(others):
            raise DataError(
                f"row {block.start + others[0]} of {block.file} has {lengths[others[0]]} features "
                f"where its first row has {self.features}; all must have the same."
            )


class DenseFormat(ABC):
    """A format of files with one matrix; each such format tells in its own way where the matrix
    is."""

    @abstractmethod
    def dense(self, file: OpenFile) -> Dense:
        """Return the place of the matrix; DataError if the file cannot hold it."""

    def head(self, file: OpenFile) -> Head:
        return self.dense(file).head

    def read(self, file: OpenFile, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[Any]]]:
        yield from read_dense(file, self.dense(file), blocks)

    def columns_of(self, file: OpenFile, block: Block, names: Sequence[str]) -> pa.Table:
        raise no_columns(names, file.path)


@dataclass(frozen=True)
class DenseFormatByName(DenseFormat):
    """A dense format of one number type, which the ending of the file's name tells."""

    dtype: str
    """NumPy type of the values."""

    @classmethod
    def of(cls, dtype: str, first: OpenFile, columns: Sequence[str] | None) -> DenseFormatByName:
        """Return the format; ConfigError if columns are named."""
        refuse_columns(first, columns)
        return cls(dtype)


def read_dense(
    file: OpenFile, dense: Dense, blocks: Sequence[Block]
) -> Iterator[tuple[Block, NDArray[Any]]]:
    """Yield the rows of some blocks, read by byte range; of a remote file, some blocks ahead."""
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
