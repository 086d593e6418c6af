"""A worker: holds one shard and answers for its rows. A plain class; Ray enters elsewhere."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from itertools import accumulate, groupby
from operator import add
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ray_kmeans import kernels
from ray_kmeans.cluster.potential import Potential
from ray_kmeans.cluster.shelf import Keep, Shelf, shelf_for
from ray_kmeans.clustering.batches import Batches
from ray_kmeans.clustering.exact_total import exact_total
from ray_kmeans.clustering.grid import Extent, Grid, Squares
from ray_kmeans.clustering.metric import SQUARED_EUCLIDEAN, project, without_direction
from ray_kmeans.clustering.minibatch import BatchPartials
from ray_kmeans.clustering.partials import Partials
from ray_kmeans.kernels.moving import PlainHeld
from ray_kmeans.kernels.threads import Threads

MEASURED_VALUES = 2**17
"""Values that stay in a processor's cache while they are looked at twice."""
GATHERED_ROWS = 8192
"""Rows of a mini-batch that are put side by side at once."""


class Block(Protocol):
    """What a worker knows of a block of its shard."""

    @property
    def index(self) -> int: ...
    @property
    def first(self) -> int: ...
    @property
    def start(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def features(self) -> int: ...
    @property
    def file(self) -> str: ...
    @property
    def group(self) -> int: ...
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


def runs_of(shard: Sequence[Block], count: int) -> list[tuple[int, Sequence[Block]]]:
    """Cut a shard into runs for so many readers: where each begins, and its blocks.

    What is decoded together, the blocks of a row group, stays together.
    """
    groups = [list(group) for _, group in groupby(shard, key=lambda b: (b.file, b.group))]
    fair = sum(block.rows for block in shard) / count
    runs: list[list[Block]] = [[]]
    for group in groups:
        if sum(block.rows for block in runs[-1]) >= fair:
            runs.append([])
        runs[-1] += group
    return list(zip(accumulate(map(len, runs), initial=0), runs, strict=False))


class ShardWorker:
    """The rows of one shard, in memory, and what is computed on them.

    Every method but `weigh` may be called again with the same result; a replacement needs `load`,
    and what its pool remembers.
    """

    def __init__(
        self,
        metric: str = SQUARED_EUCLIDEAN,
        kernel: str = "cpu",
        threads: int = 1,
        keep: Keep = Keep(),  # noqa: B008 (frozen)
    ) -> None:
        self._metric = metric
        self._keep = keep
        self._kernel = kernels.load(kernel, threads)
        self._threads = Threads(threads)
        self._shard: Sequence[Block] = ()
        self._shelf: Shelf | None = None
        self._grid: Grid | None = None
        self._held: kernels.Held | None = None
        self._potential: Potential | None = None

    def where(self) -> tuple[str, int]:
        """Return (host, pid) of this process."""
        return this_process()

    def load(self, source: Reader, shard: Sequence[Block]) -> Extent:
        """Read the shard, and return its extent, with the rows that are not finite counted."""
        self._source = source
        self._shelf = self._held = self._potential = None
        self._shard = shard
        shelf = shelf_for(self._keep, shard, self._read_again, self._kernel.fingerprint)
        runs = runs_of(shard, self._keep.readers)
        extents = Threads(len(runs)).run(self._load_run, [(*run, shelf) for run in runs])
        self._shelf = shelf
        extent: Extent = reduce(add, extents)
        return extent

    def _load_run(self, first: int, blocks: Sequence[Block], shelf: Shelf) -> Extent:
        extent = Extent(0, np.zeros(blocks[0].features, np.float32))
        for here, (block, rows) in enumerate(self._source.read(blocks), start=first):
            projected = project(rows, self._metric)
            extent += Extent.of_rows(projected, block.place, block.start)
            shelf.put(here, projected)
        return extent

    def _read_again(self, here: int) -> NDArray[np.float32]:
        ((_, rows),) = self._source.read([self._shard[here]])
        return project(rows, self._metric)

    def get_ready(self, n_clusters: int) -> tuple[str, int, float]:
        """Compile and check what labelling for so many clusters needs.

        Returns what computes the labels, in how many threads, and the seconds that this took.
        """
        begin = time.perf_counter()
        rows = sum(self._rows.sizes)
        name = self._kernel.ready(rows, n_clusters, self._features)
        return name, self._threads.count, time.perf_counter() - begin

    def measure(self, grid: Grid) -> Squares:
        """Take the grid for all sums to come, and return the sums of squares on it."""
        self._grid, self._held = grid, None
        if self._rows.stays:
            parts = self._threads.run(self._squares, [(rows, grid) for rows in self._rows])
        else:
            parts = [self._squares(rows, grid) for rows in self._rows]
        squares: Squares = reduce(add, parts)
        return squares

    def _squares(self, rows: NDArray[np.float32], grid: Grid) -> Squares:
        total = Squares.zero(rows.shape[1])
        step = max(MEASURED_VALUES // rows.shape[1], 1)
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            squares = Squares.zero(rows.shape[1], self._kernel.fingerprint(some))
            self._kernel.accumulate_squares(
                some, grid.scale, grid.half_bits, squares.limbs, squares.coarse
            )
            total += squares
        return total

    def sweep(self, centers: NDArray[np.float32]) -> Partials:
        """Assign every row to its nearest center and return the sums and counts."""
        return Partials(*self._rows_held(centers).sums(centers, self._scale))

    def sweep_batches(
        self, centers: NDArray[np.float32], batches: Batches, first_step: int, steps: int
    ) -> BatchPartials:
        """Do the shard's part of some steps of mini-batch, all with these centers."""
        prepared = self._kernel.prepare(centers, self._metric)
        partials = Partials.zero(*centers.shape)
        losses = [0] * steps
        for number in range(steps):
            for rows in self._rows_of(batches, first_step + number):
                labels = self._assigned(rows, prepared)
                self._kernel.accumulate(rows, labels, self._scale, partials.sums)
                partials.counts[:] += np.bincount(labels, minlength=len(centers))
                distances = self._kernel.distances_to(rows, centers, labels, self._metric)
                losses[number] += exact_total(distances)
        return BatchPartials(partials, tuple(losses))

    def rows_at(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the rows of the shard that have one of these (ascending) numbers, in order."""
        found = [self._rows.take(here, inside) for here, inside in self._inside(numbers)]
        return np.concatenate(found) if found else np.empty((0, self._features), np.float32)

    def farthest(
        self, centers: NDArray[np.float32], count: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Return up to `count` rows farthest from their centers, and their distances.

        Ordered by distance, the largest first, then by number.
        """
        distances, rows = np.empty(0), np.empty((0, centers.shape[1]), np.float32)
        for _, block_rows, labels in self._labelled(centers):
            # Of unit rows it orders as cosine does, and is exactly 0 for a row on its center.
            here = self._kernel.distances_to(block_rows, centers, labels, SQUARED_EUCLIDEAN)
            here[without_direction(block_rows, self._metric)] = 0
            order = np.argsort(-here, kind="stable")[:count]
            distances = np.concatenate([distances, here[order]])
            rows = np.concatenate([rows, block_rows[order]])
            order = np.argsort(-distances, kind="stable")[:count]
            distances, rows = distances[order], rows[order]
        return distances, rows

    def weigh(self, centers: NDArray[np.float32]) -> NDArray[np.float64]:
        """Take note of more seeds; return the seeding weight of each block."""
        return self._seeded.add(centers, self._kernel)

    def potentials(self, candidates: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return for each block and candidate the weight that would be left, (blocks, c)."""
        return self._seeded.with_each(candidates, self._kernel)

    def find(self, blocks: NDArray[np.int64], offsets: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the number of the row at each offset into the weights of a block; -1 elsewhere."""
        numbers = np.full(len(blocks), -1)
        places = {block.index: (here, block.first) for here, block in enumerate(self._shard)}
        for index in np.unique(blocks).tolist():
            if index in places:
                here, first = places[index]
                targets = blocks == index
                numbers[targets] = first + self._seeded.find(here, offsets[targets])
        return numbers

    def weights_at(self, numbers: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the seeding weights of the rows with these (ascending) numbers."""
        found = [self._seeded.weights[here][at] for here, at in self._inside(numbers)]
        return np.concatenate(found) if found else np.empty(0)

    def join(self, key: np.uint64, share: float) -> NDArray[np.float32]:
        """Return the rows that join the candidates by chance, each on its own, in order."""
        chosen = [
            self._rows.take(here, np.flatnonzero(self._seeded.joins(here, block.first, key, share)))
            for here, block in enumerate(self._shard)
        ]
        return np.concatenate(chosen)

    def nearest_counts(self, n_centers: int) -> NDArray[np.int64]:
        """Return how many rows are nearest to each of the seeds so far."""
        return self._seeded.counts(n_centers)

    def end_seeding(self) -> None:
        """Forget all seeds, and free what they took."""
        self._potential = None

    def write_labels(
        self, centers: NDArray[np.float32], output: Writer, keep_columns: Sequence[str]
    ) -> list[Any]:
        """Write label and distance of every row, one part per block; return what was written."""
        parts = []
        for block, rows, labels in self._labelled(centers):
            distances = self._kernel.distances_to(rows, centers, labels, self._metric)
            with np.errstate(over="ignore"):  # a distance beyond float32 is infinite
                rounded = distances.astype(np.float32)
            kept = self._source.columns_of(block, keep_columns) if keep_columns else None
            parts.append(output.write(block.index, block.first, labels, rounded, kept))
        return parts

    @property
    def _rows(self) -> Shelf:
        if self._shelf is None:  # never answer for rows that are not there
            raise RuntimeError("this worker holds no shard: load comes first")
        return self._shelf

    @property
    def _scale(self) -> NDArray[np.float64]:
        if self._grid is None:
            raise RuntimeError("this worker has no grid: measure comes before sweep")
        return self._grid.scale

    @property
    def _seeded(self) -> Potential:
        if self._potential is None:
            self._potential = Potential(self._rows, self._metric)
        return self._potential

    def _rows_held(self, centers: NDArray[np.float32]) -> kernels.Held:
        if self._held is None:
            if self._rows.stays:
                self._held = self._kernel.hold(list(self._rows), self._metric, len(centers))
            else:
                total = sum(self._rows.sizes)
                self._held = PlainHeld(self._kernel, self._rows, total, self._metric)
        return self._held

    @property
    def _features(self) -> int:
        return self._shard[0].features

    def _assigned(self, rows: NDArray[np.float32], prepared: Any) -> NDArray[np.int32]:
        labels = np.empty(len(rows), np.int32)
        self._kernel.assign(rows, prepared, labels)
        return labels

    def _labelled(
        self, centers: NDArray[np.float32]
    ) -> Iterator[tuple[Block, NDArray[np.float32], NDArray[np.int32]]]:
        labels = self._rows_held(centers).assign(centers)
        first = 0
        for block, rows in zip(self._shard, self._rows, strict=True):
            yield block, rows, labels[first : first + len(rows)]
            first += len(rows)

    def _inside(self, numbers: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield for every block that holds some of these rows where they are in it."""
        wanted = np.asarray(numbers)
        begins = np.searchsorted(wanted, [block.first for block in self._shard])
        for here, (block, begin) in enumerate(zip(self._shard, begins, strict=True)):
            end = np.searchsorted(wanted, block.first + block.rows)
            if end > begin:
                yield here, wanted[begin:end] - block.first

    def _rows_of(self, batches: Batches, step: int) -> Iterator[NDArray[np.float32]]:
        """Yield the shard's rows of a mini-batch, some at a time."""
        if batches.is_whole:
            yield from self._rows
            return
        first, last = self._shard[0], self._shard[-1]
        numbers = batches.numbers(step)
        numbers = numbers[(numbers >= first.first) & (numbers < last.first + last.rows)]
        for start in range(0, len(numbers), GATHERED_ROWS):
            yield self.rows_at(numbers[start : start + GATHERED_ROWS])
