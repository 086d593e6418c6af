"""Which rows of a shard stand beside each other: those of one reference, the undecided ones first."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.kernels.int8.types import Parts, bare
from ray_kmeans.kernels.llvm.int8_products import BLOCK_ROWS
from ray_kmeans.process.jit import njit

BUCKETS = 32
"""Classes of how far a row's label is from being open: one for open, then half octaves."""
GROUP_ROWS = 512
"""Rows for which a reference of their own pays; where centers share one, four times as many."""
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
            order=np.full(count, -1, np.int32),
            labels=np.zeros(count, np.int32),
            bounds=np.full(count, np.inf, np.float32),
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


def parts_of(begins: NDArray[np.int64]) -> Parts:
    """Cut groups that begin at these blocks into parts."""
    spans = np.array(
        [
            (group, first, min(first + PART_BLOCKS, end))
            for group, (begin, end) in enumerate(pairwise(begins.tolist()))
            for first in range(begin, end, PART_BLOCKS)
        ],
        np.int32,
    ).reshape(-1, 3)
    return Parts(
        spans=spans,
        radii=np.zeros(len(spans), np.float32),
        moves=np.zeros(len(spans), np.float32),
    )


def regroup(
    slots: Slots, group_of: NDArray[np.int32], groups: int
) -> tuple[Slots, NDArray[np.int64]]:
    """Return the rows by the group of their center, and the block at which each group begins.

    Bounds are what they leave centers from now on; see `leave` and `take_back`.
    """
    counts = np.zeros((groups, BUCKETS), np.int64)
    _count(slots, group_of, counts)
    blocks = -(-counts.sum(axis=1) // BLOCK_ROWS)
    begins = np.concatenate([[0], np.cumsum(blocks)])
    places = np.cumsum(counts, axis=1) - counts + begins[:-1, None] * BLOCK_ROWS
    result = Slots.empty(int(begins[-1]) * BLOCK_ROWS)
    _place(slots, group_of, places, result)
    return result, begins


@bare
def leave(slots, parts, moves):
    """Make bounds what they leave centers: less what these have come so far."""
    for p in range(len(parts.radii)):
        for slot in range(BLOCK_ROWS * parts.spans[p, 1], BLOCK_ROWS * parts.spans[p, 2]):
            gone = moves[slots.labels[slot]] + parts.moves[p]
            left = slots.bounds[slot] - gone - abs(gone) * np.float32(2.0**-20)
            slots.bounds[slot] = left if left > np.float32(0.0) else np.float32(-np.inf)


@bare
def take_back(slots, parts, moves, safe_gap):
    """Make bounds again what centers may have come in all, but no more than a part allows."""
    for p in range(len(parts.radii)):
        most = np.float32(0.5) * parts.radii[p] - safe_gap
        for slot in range(BLOCK_ROWS * parts.spans[p, 1], BLOCK_ROWS * parts.spans[p, 2]):
            if slots.order[slot] >= 0:
                bound = min(slots.bounds[slot], most) + moves[slots.labels[slot]]
                slots.bounds[slot] = bound - abs(bound) * np.float32(2.0**-20)


@njit(nogil=True)
def _bucket(left):
    if not left > 0:
        return 0
    _, exponent = math.frexp(left)
    return max(1, min(exponent + 20, BUCKETS - 1))


@njit(nogil=True)
def _count(slots, group_of, counts):
    for slot in range(len(slots.order)):
        if slots.order[slot] >= 0:
            counts[group_of[slots.labels[slot]], _bucket(slots.bounds[slot])] += 1


@njit(nogil=True)
def _place(slots, group_of, places, result):
    for slot in range(len(slots.order)):
        if slots.order[slot] >= 0:
            group, bucket = group_of[slots.labels[slot]], _bucket(slots.bounds[slot])
            place = places[group, bucket]
            places[group, bucket] += 1
            result.order[place] = slots.order[slot]
            result.labels[place] = slots.labels[slot]
            result.bounds[place] = slots.bounds[slot]
