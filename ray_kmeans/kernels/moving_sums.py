"""Labels of rows that stay, with sums and counts that follow them: only what moves changes them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.kernels import ALIKE, Held

JOINED_ROWS = 8_192
"""Rows of small blocks that are put side by side."""


class Moves(NamedTuple):
    """Rows whose label is new."""

    rows: NDArray[np.integer]
    """(m,) their numbers, in any order."""
    before: NDArray[np.int32]
    """(m,) the label that each had; -1 where it had none."""


class MovingSums(ABC):
    """The sums are integers: moving rows between them gives the bits of adding up everything."""

    def __init__(
        self, blocks: Sequence[NDArray[np.float32]], weights: NDArray[np.int64] = ALIKE
    ) -> None:
        self._blocks = blocks
        self._weights = weights
        self._labels = np.full(sum(len(block) for block in blocks), -1, np.int32)
        self._k = 0
        self._sums: NDArray[np.int64] | None = None

    @abstractmethod
    def relabel(self, centers: NDArray[np.float32]) -> Moves:
        """Bring `_labels` up to date and return what has moved; a label of -1 is none yet."""

    @abstractmethod
    def move(self, moves: Moves, scale: NDArray[np.float64], sums: NDArray[np.int64]) -> None:
        """Take moved rows from the sums of one cluster to those of another."""

    def assign(self, centers: NDArray[np.float32]) -> NDArray[np.int32]:
        """Return the labels of all rows; they change with the next call."""
        if len(centers) != self._k:
            self._k, self._sums = len(centers), None
            self._labels[:] = -1
        moves = self.relabel(centers)
        if self._sums is not None:
            self._apply(moves)
        return self._labels

    def sums(
        self, centers: NDArray[np.float32], scale: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Label all rows; return sums (k, d) in whole units of the grid, and counts (k,)."""
        self.assign(centers)
        if self._sums is None:
            self._units = scale
            self._sums, self._counts = (
                np.zeros(centers.shape, np.int64),
                np.zeros(self._k, np.int64),
            )
            everything = np.arange(len(self._labels))
            self._apply(Moves(everything, np.full(len(everything), -1, np.int32)))
        return self._sums.copy(), self._counts.copy()

    def _apply(self, moves: Moves) -> None:
        assert self._sums is not None
        count_moves(moves, self._labels[moves.rows], self._weights, self._counts)
        self.move(moves, self._units, self._sums)


def count_moves(
    moves: Moves,
    labels: NDArray[np.int32],
    weights: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> None:
    """Take moved rows, whose labels now are given, from the counts of one cluster to another's."""
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
    """A kernel that labels rows that are held from the start each time."""

    def hold(
        self,
        blocks: Sequence[NDArray[np.float32]],
        metric: Metric,
        k: int,
        weights: NDArray[np.int64] = ALIKE,
    ) -> Held:
        return self.hold_each(blocks, [len(b) for b in blocks], blocks[0].shape[1], metric, weights)

    def hold_each(
        self,
        blocks: Sequence[NDArray[np.float32]],
        sizes: Sequence[int],
        d: int,
        metric: Metric,
        weights: NDArray[np.int64] = ALIKE,
    ) -> Held:
        return PlainHeld(self, blocks, sum(sizes), metric, weights)


def joined(
    blocks: Iterable[NDArray[np.float32]], rows_at_once: int = JOINED_ROWS
) -> Iterator[NDArray[np.float32]]:
    """Yield all rows in order; small blocks side by side, as each call for one costs its time.

    >>> [len(rows) for rows in joined([np.ones((n, 1)) for n in (3, 2, 9, 1)], rows_at_once=6)]
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
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


class PlainHeld:
    """Rows that a kernel labels from the start each time; a block is needed for its turn alone."""

    def __init__(
        self,
        kernel: Any,
        blocks: Iterable[NDArray[np.float32]],
        rows: int,
        metric: Metric,
        weights: NDArray[np.int64] = ALIKE,
    ) -> None:
        self._kernel = kernel
        self._blocks = blocks
        self._metric = metric
        self._weights = weights
        self._labels = np.full(rows, -1, np.int32)
        self._sums: NDArray[np.int64] | None = None

    def assign(self, centers: NDArray[np.float32]) -> NDArray[np.int32]:
        """Return the labels of all rows; they change with the next call."""
        if self._sums is not None and len(self._sums) != len(centers):
            self._sums = None
        prepared = self._kernel.prepare(centers, self._metric)
        first = 0
        for rows in joined(self._blocks):
            labels = self._labels[first : first + len(rows)]
            before = labels.copy()
            self._kernel.assign(rows, prepared, labels)
            if self._sums is not None:
                self._move(rows, before, labels, self._weights[first : first + len(rows)])
            first += len(rows)
        return self._labels

    def sums(
        self, centers: NDArray[np.float32], scale: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Label all rows; return sums (k, d) in whole units of the grid, and counts (k,)."""
        if self._sums is None or self._sums.shape != centers.shape:
            self._units = scale
            self._sums = np.zeros(centers.shape, np.int64)
            self._counts = np.zeros(len(centers), np.int64)
            self._labels[:] = -1
        self.assign(centers)
        return self._sums.copy(), self._counts.copy()

    def _move(
        self,
        rows: NDArray[np.float32],
        before: NDArray[np.int32],
        labels: NDArray[np.int32],
        weights: NDArray[np.int64],
    ) -> None:
        assert self._sums is not None
        moved = np.flatnonzero(before != labels)
        moves = Moves(moved, before[moved])
        count_moves(moves, labels[moved], weights, self._counts)
        self._kernel.move([rows], moves, labels, self._units, self._sums, weights)
