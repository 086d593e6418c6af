"""Which rows of a shard stand beside each other: those of one reference, the undecided ones first."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ray_kmeans.kernels.products import BLOCK_ROWS

BUCKETS = 32
"""Classes of how far a row's label is from being open: one for open, then half octaves."""
GROUP_ROWS = 1024
"""Rows for which a reference of their own pays: what rounding all centers around it costs."""
PART_BLOCKS = 128
REFINEMENTS = 3


class Slots(NamedTuple):
    """Rows in the order in which they are visited; each group fills whole blocks of 32 slots."""

    order: NDArray[np.int32]
    """(slots,) number of the row in the shard; -1 where there is none."""
    labels: NDArray[np.int32]
    bounds: NDArray[np.float32]
    """How far centers may have come, in all, before the label can change."""

    @classmethod
    def empty(cls, count: int) -> Slots:
        return cls(
            np.full(count, -1, np.int32),
            np.zeros(count, np.int32),
            np.full(count, np.inf, np.float32),
        )

    @classmethod
    def of_rows(cls, rows: int) -> Slots:
        """Return all rows as one group, in their own order, all open."""
        slots = cls.empty(-(-rows // BLOCK_ROWS) * BLOCK_ROWS)
        slots.order[:rows] = np.arange(rows)
        slots.bounds[:rows] = -np.inf
        return slots


def references_for(
    centers: NDArray[np.float32], rows: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return references (groups, d) for so many rows, and the group of each center.

    The centers themselves where that many references pay, else means of some that are near to each
    other: Lloyd on the centers, as far as it is worth it. Only speed depends on them.
    """
    k = len(centers)
    groups = max(rows // (4 * GROUP_ROWS), 1)
    if rows >= GROUP_ROWS * k or groups >= k:
        return centers.copy(), np.arange(k, dtype=np.int32)
    references = centers[:: -(-k // groups)].copy()
    nearest = np.zeros(k, np.int64)
    for _ in range(REFINEMENTS):
        squares = (references * references).sum(axis=1)
        nearest = np.argmin(squares - 2 * (centers @ references.T), axis=1)
        counts = np.bincount(nearest, minlength=len(references))
        sums = np.zeros(references.shape)
        np.add.at(sums, nearest, centers)
        used = counts > 0
        references[used] = (sums[used] / counts[used, None]).astype(np.float32)
    return references, nearest.astype(np.int32)


def parts_of(begins: NDArray[np.int64]) -> NDArray[np.int32]:
    """Cut groups that begin at these blocks into parts (group, first block, last block)."""
    return np.array(
        [
            (group, first, min(first + PART_BLOCKS, end))
            for group, (begin, end) in enumerate(pairwise(begins.tolist()))
            for first in range(begin, end, PART_BLOCKS)
        ],
        np.int32,
    ).reshape(-1, 3)


def regroup(
    slots: Slots, group_of: NDArray[np.int32], groups: int, moves: NDArray[np.float32]
) -> tuple[Slots, NDArray[np.int64]]:
    """Return the rows by the group of their center, and the block at which each group begins."""
    counts = np.zeros((groups, BUCKETS), np.int64)
    _count(*slots, group_of, moves, counts)
    blocks = -(-counts.sum(axis=1) // BLOCK_ROWS)
    begins = np.concatenate([[0], np.cumsum(blocks)])
    places = np.cumsum(counts, axis=1) - counts + begins[:-1, None] * BLOCK_ROWS
    result = Slots.empty(int(begins[-1]) * BLOCK_ROWS)
    _place(*slots, group_of, moves, places, *result)
    return result, begins


@njit(nogil=True, cache=True)
def _bucket(bound, move):  # type: ignore[no-untyped-def]
    if not bound > move:
        return 0
    _, exponent = math.frexp(bound - move)
    return max(1, min(exponent + 20, BUCKETS - 1))


@njit(nogil=True, cache=True)
def _count(order, labels, bounds, group_of, moves, counts):  # type: ignore[no-untyped-def]
    for slot in range(len(order)):
        if order[slot] >= 0:
            label = labels[slot]
            counts[group_of[label], _bucket(bounds[slot], moves[label])] += 1


@njit(nogil=True, cache=True)
def _place(order, labels, bounds, group_of, moves, places, new_order, new_labels, new_bounds):  # type: ignore[no-untyped-def]
    for slot in range(len(order)):
        if order[slot] >= 0:
            label = labels[slot]
            group, bucket = group_of[label], _bucket(bounds[slot], moves[label])
            place = places[group, bucket]
            places[group, bucket] += 1
            new_order[place] = order[slot]
            new_labels[place] = label
            new_bounds[place] = bounds[slot]
