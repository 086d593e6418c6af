"""Sums and counts that follow the labels of held rows: only rows whose label changed move.

The sums are integers, so moving rows between them gives the bits of adding up everything anew. This
module must stay free of numba: what the estimator imports reaches it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.kernels import (
    ALIKE,
    Held,
    Kernel,
    Moves,
)

JOINED_ROWS = 8_192
"""Up to this many rows, small blocks are put side by side, as each call for one costs its time."""


class Sums(Protocol):
    """The sums and counts of clusters, which rows enter and leave."""

    def values(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return copies of the sums (k, d), in whole units of the grid, and of the counts (k,)."""


class IncrementalSums(ABC):
    """Labels of held rows, and sums that are made once and then follow the labels.

    Sums begin when they are first asked for, or when the number of centers changes. Then all labels
    are forgotten, so that every row has a new label in the next sweep and enters the sums.
    """

    def __init__(self) -> None:
        self._k = 0
        self._sums: Any = None
        """The `Sums` that this class's `_new_sums` made; None until they are asked for."""

    @abstractmethod
    def _forget(self) -> None:
        """Give every row the label -1, which is none."""

    @abstractmethod
    def _new_sums(self, k: int, scale: NDArray[np.float64]) -> Sums:
        """Return the sums of k clusters without rows; `scale`: (d,) units of the grid per 1.0."""

    @abstractmethod
    def _sweep(self, centers: NDArray[np.float32]) -> None:
        """Label all rows; where there are sums, move the rows whose label is new."""

    @abstractmethod
    def _all_labels(self) -> NDArray[np.int32]:
        """Return the labels of all rows (n,)."""

    def label(self, centers: NDArray[np.float32]) -> None:
        """Bring the labels and sums up to date, and return neither."""
        if len(centers) != self._k:
            self._begin(len(centers))
        self._sweep(centers)

    def assign(self, centers: NDArray[np.float32]) -> NDArray[np.int32]:
        """Return the labels of all rows (n,); they change with the next call."""
        self.label(centers)
        return self._all_labels()

    def sums(
        self, centers: NDArray[np.float32], scale: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Label all rows; return sums (k, d) in whole units of the grid, and counts (k,)."""
        self.begin_sums(len(centers), scale)
        self._sweep(centers)
        return self.values()

    def begin_sums(self, k: int, scale: NDArray[np.float64]) -> None:
        """Begin sums of k clusters, unless there are some of as many already."""
        if self._sums is None or k != self._k:
            self._begin(k)
            self._sums = self._new_sums(k, scale)

    def values(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return sums (k, d) in whole units of the grid, and counts (k,), of the last sweep."""
        found: tuple[NDArray[np.int64], NDArray[np.int64]] = self._sums.values()
        return found

    def _begin(self, k: int) -> None:
        """Drop the sums and forget all labels, for k centers."""
        self._k, self._sums = k, None
        self._forget()


class SumsInMemory:
    """Sums and counts of clusters in memory; `move_rows` adds up, as `Kernel.move` does."""

    def __init__(self, k: int, scale: NDArray[np.float64], move_rows: Callable[..., None]) -> None:
        self._scale = scale
        self._move_rows = move_rows
        self._sums = np.zeros((k, len(scale)), np.int64)
        self._counts = np.zeros(k, np.int64)

    def move(
        self, rows: Any, moves: Moves, labels: NDArray[np.int32], weights: NDArray[np.int64]
    ) -> None:
        """Move rows between clusters.

        `rows`: as `move_rows` takes them. `labels`: (n,) of all these rows now. `weights`: (n,), or
        ALIKE.
        """
        count_moves(moves, labels[moves.rows], weights, self._counts)
        self._move_rows(rows, moves, labels, self._scale, self._sums, weights)

    def values(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return copies of the sums (k, d) and counts (k,)."""
        return self._sums.copy(), self._counts.copy()


def count_moves(
    moves: Moves,
    labels: NDArray[np.int32],
    weights: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> None:
    """Move rows between the counts of clusters.

    `labels`: (m,) IN, of the moved rows now. `weights`: (n,) IN, of all rows, or ALIKE. `counts`:
    (k,) INOUT.
    """
    left = moves.before >= 0
    times = weights[moves.rows] if len(weights) else ALIKE
    counts += counts_of(labels, len(counts), times)
    counts -= counts_of(moves.before[left], len(counts), times[left] if len(times) else ALIKE)


def counts_of(
    labels: NDArray[np.int32], k: int, weights: NDArray[np.int64] = ALIKE
) -> NDArray[np.int64]:
    """Return how many rows there are of each label (k,), each as often as it weighs."""
    # With weights these are sums of floats, and exact: all together are below 2**53.
    times = weights if len(weights) else None
    return np.bincount(labels, times, minlength=k).astype(np.int64)


class HoldsPlainly:
    """The `hold` of a kernel that labels held rows from the start each time."""

    def hold(
        self: Kernel,
        blocks: Sequence[NDArray[np.float32]],
        metric: Metric,
        k: int,
        weights: NDArray[np.int64] = ALIKE,
    ) -> Held:
        """Hold blocks that stay where they are, see `Kernel.hold`."""
        return self.hold_each(blocks, [len(b) for b in blocks], blocks[0].shape[1], metric, weights)

    def hold_each(
        self: Kernel,
        blocks: Sequence[NDArray[np.float32]],
        sizes: Sequence[int],
        d: int,
        metric: Metric,
        weights: NDArray[np.int64] = ALIKE,
    ) -> Held:
        """Hold blocks that are made anew for each sweep, see `Kernel.hold_each`."""
        return PlainHeld(self, blocks, sum(sizes), metric, weights)


def join_blocks(
    blocks: Iterable[NDArray[np.float32]], rows_at_once: int = JOINED_ROWS
) -> Iterator[NDArray[np.float32]]:
    """Yield all rows in order; small blocks side by side, as each call for one costs its time.

    >>> [len(rows) for rows in join_blocks([np.ones((n, 1)) for n in (3, 2, 9, 1)], rows_at_once=6)]
    [5, 9, 1]
    """
    small: list[NDArray[np.float32]] = []
    count = 0
    for rows in blocks:
        if small and count + len(rows) > rows_at_once:
            yield _side_by_side(small)
            small, count = [], 0
        small.append(rows)
        count += len(rows)
    if small:
        yield _side_by_side(small)


def _side_by_side(blocks: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return blocks as one array, without a copy where there is one."""
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


class PlainHeld(IncrementalSums):
    """Rows that a kernel labels from the start each time; a block is needed for its turn alone."""

    def __init__(
        self,
        kernel: Kernel,
        blocks: Iterable[NDArray[np.float32]],
        rows: int,
        metric: Metric,
        weights: NDArray[np.int64] = ALIKE,
    ) -> None:
        super().__init__()
        self._kernel = kernel
        self._blocks = blocks
        self._metric = metric
        self._weights = weights
        self._labels = np.full(rows, -1, np.int32)

    def _forget(self) -> None:
        """Give every row the label -1."""
        self._labels[:] = -1

    def _new_sums(self, k: int, scale: NDArray[np.float64]) -> SumsInMemory:
        """Return sums that the kernel moves rows in."""
        return SumsInMemory(k, scale, self._kernel.move)

    def _all_labels(self) -> NDArray[np.int32]:
        """Return the labels, which the next sweep overwrites."""
        return self._labels

    def _sweep(self, centers: NDArray[np.float32]) -> None:
        """Label the rows block by block, and move those with a new label in the sums."""
        _label_together([self], self._blocks, [centers])

    def _label_block(self, rows: NDArray[np.float32], first: int, prepared: Any) -> None:
        """Label the rows of a block, the first of which has this number, and move them."""
        here = slice(first, first + len(rows))
        # `labels` is a view that the kernel writes, so what was there is copied first.
        labels, before = self._labels[here], self._labels[here].copy()
        self._kernel.assign(rows, prepared, labels)
        if self._sums is not None:
            changed = np.flatnonzero(before != labels)
            moves = Moves(rows=changed, before=before[changed])
            self._sums.move([rows], moves, labels, self._weights[here])


def _label_together(
    held: Sequence[PlainHeld],
    blocks: Iterable[NDArray[np.float32]],
    sets: Sequence[NDArray[np.float32]],
) -> None:
    """Label the same blocks by several sets of centers (k, d), and fetch each block once."""
    prepared = [
        each._kernel.prepare(centers, each._metric)
        for each, centers in zip(held, sets, strict=True)
    ]
    first = 0
    for rows in join_blocks(blocks):
        for each, of_set in zip(held, prepared, strict=True):
            each._label_block(rows, first, of_set)
        first += len(rows)


def sums_side_by_side(
    held: Sequence[Held],
    blocks: Iterable[NDArray[np.float32]],
    sets: Sequence[NDArray[np.float32]],
    scale: NDArray[np.float64],
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Do what `Held.sums` does for each of several sets of centers (k, d) of the same blocks.

    Rows that are held plainly are fetched once for all sets; others, as those on a GPU, once for
    each.
    """
    plain = [each for each in held if isinstance(each, PlainHeld)]
    if len(plain) < len(held):
        return [each.sums(centers, scale) for each, centers in zip(held, sets, strict=True)]
    for each, centers in zip(plain, sets, strict=True):
        each.begin_sums(len(centers), scale)
    _label_together(plain, blocks, sets)
    return [each.values() for each in plain]
