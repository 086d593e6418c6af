"""A worker: holds one shard and answers for its rows. A plain class; Ray enters elsewhere."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ray_kmeans import kernels
from ray_kmeans.clustering.grid import Extent, Grid, Squares
from ray_kmeans.clustering.partials import Partials


class Block(Protocol):
    """What a worker knows of a block of its shard."""

    @property
    def index(self) -> int: ...
    @property
    def first(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def features(self) -> int: ...
    @property
    def place(self) -> str: ...


class Reader(Protocol):
    """What a worker asks of a source of rows."""

    def read(self, blocks: Any) -> Iterable[tuple[Any, NDArray[np.float32]]]: ...
    def columns_of(self, block: Any, names: Sequence[str]) -> Any: ...


class Writer(Protocol):
    """What a worker asks of the place for labelled output."""

    def write(
        self,
        index: int,
        first_row: int,
        labels: NDArray[np.int32],
        distances: NDArray[np.float32],
        kept: Any,
    ) -> Any: ...


def this_process() -> tuple[str, int]:
    """Return (host, pid)."""
    return socket.gethostname(), os.getpid()


class ShardWorker:
    """The rows of one shard, in memory, and what is computed on them.

    Every method may be called again with the same result; a replacement needs `load` and, before a
    sweep, `measure`.
    """

    def __init__(self, kernel: str = "cpu") -> None:
        self._kernel = kernels.load(kernel)
        self._loaded: list[tuple[Block, NDArray[np.float32]]] | None = None
        self._grid: Grid | None = None
        self._sums: NDArray[np.int64] | None = None
        self._labels: dict[int, NDArray[np.int32]] = {}

    def where(self) -> tuple[str, int]:
        """Return (host, pid) of this process."""
        return this_process()

    def load(self, source: Reader, shard: Sequence[Block]) -> Extent:
        """Read the shard, and return its extent, with the rows that are not finite counted."""
        self._source = source
        self._loaded = None
        self._sums = None
        loaded = []
        extent = Extent(0, np.zeros(shard[0].features, np.float32))
        for block, rows in source.read(shard):
            loaded.append((block, rows))
            extent += Extent.of_rows(rows, block.place)
        self._loaded = loaded
        return extent

    def measure(self, grid: Grid) -> Squares:
        """Take the grid for all sums to come, and return the sums of squares on it."""
        self._grid, self._sums = grid, None
        squares = Squares.zero(len(grid.exponent))
        for _, rows in self._blocks:
            self._kernel.accumulate_squares(
                rows, grid.scale, grid.half_bits, squares.limbs, squares.coarse
            )
            squares += Squares.zero(rows.shape[1], self._kernel.fingerprint(rows))
        return squares

    def sweep(self, centers: NDArray[np.float32]) -> Partials:
        """Assign every row to its nearest center and return the sums and counts.

        The sums of the last sweep are kept, and only rows whose label has changed move between
        them: they are integers, so this gives the bits of adding up everything again.
        """
        if self._grid is None:
            raise RuntimeError("this worker has no grid: measure comes before sweep")
        scale = self._grid.scale
        if self._sums is None or self._sums.shape != centers.shape:
            self._sums, self._labels = np.zeros(centers.shape, np.int64), {}
        counts = np.zeros(len(centers), np.int64)
        for block, rows, labels in self._labelled(centers):
            counts += np.bincount(labels, minlength=len(centers))
            before = self._labels.get(block.index)
            self._labels[block.index] = labels
            if before is None:
                self._kernel.accumulate(rows, labels, scale, self._sums)
            else:
                self._kernel.move(rows, before, labels, scale, self._sums)
        return Partials(self._sums.copy(), counts)

    def rows_at(self, numbers: Sequence[int]) -> NDArray[np.float32]:
        """Return the rows of the shard that have one of these (ascending) numbers, in order."""
        wanted = np.asarray(numbers)
        found = []
        for block, rows in self._blocks:
            inside = wanted[(wanted >= block.first) & (wanted < block.first + block.rows)]
            found.append(rows[inside - block.first])
        return np.concatenate(found)

    def write_labels(
        self, centers: NDArray[np.float32], output: Writer, keep_columns: Sequence[str]
    ) -> list[Any]:
        """Write label and distance of every row, one part per block; return what was written."""
        parts = []
        for block, rows, labels in self._labelled(centers):
            distances = self._kernel.distances_to(rows, centers, labels)
            kept = self._source.columns_of(block, keep_columns) if keep_columns else None
            parts.append(output.write(block.index, block.first, labels, distances, kept))
        return parts

    @property
    def _blocks(self) -> list[tuple[Block, NDArray[np.float32]]]:
        if self._loaded is None:  # never answer for rows that are not there
            raise RuntimeError("this worker holds no shard: load comes first")
        return self._loaded

    def _labelled(
        self, centers: NDArray[np.float32]
    ) -> Iterator[tuple[Block, NDArray[np.float32], NDArray[np.int32]]]:
        prepared = self._kernel.prepare(centers)
        for block, rows in self._blocks:
            labels = np.empty(len(rows), np.int32)
            self._kernel.assign(rows, prepared, labels)
            yield block, rows, labels
