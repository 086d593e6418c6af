"""The order of the rows of a shard: rows of one reference stand together, undecided ones first.

So the rows whose label may change fill few blocks, and most blocks of a sweep are skipped.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.kernels import F32, I32, I64
from ray_kmeans.kernels.int8.types import Parts, Slots, bare
from ray_kmeans.kernels.llvm.int8_products import BLOCK_ROWS
from ray_kmeans.process.jit import njit

BUCKETS = 32
"""Classes of rows by their bound: one without a bound, then one for each power of two."""
GROUP_ROWS = 512
"""Rows for which a reference of their own pays."""
SHARED_ROWS = 4 * GROUP_ROWS
"""Rows for which a reference pays that centers share."""
PART_BLOCKS = 128
"""Blocks of a part at most: 4,096 rows, for which the centers are quantized once."""
REFINEMENTS = 3
"""Iterations of Lloyd on the centers; more of them change the references by little."""


def count_groups(k: int, rows: int, shared: int = SHARED_ROWS) -> int:
    """Return how many references pay for a number of rows: k if each center may be one.

    `shared`: rows for which a reference pays that centers share.
    """
    groups = max(rows // shared, 1)
    return k if rows >= GROUP_ROWS * k else min(groups, k)


def choose_references(
    centers: NDArray[np.float32], groups: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return up to `groups` references (groups, d), and the group of each center (k,).

    The references are the centers (k, d) themselves where they may be as many. Else they are means
    of centers that are near to each other, made by some iterations of Lloyd on the centers. Only
    speed depends on them.
    """
    k = len(centers)
    if groups >= k:
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


def cut_parts(begins: NDArray[np.int64]) -> Parts:
    """Cut groups into parts.

    begins: (groups + 1,)  IN, the block at which each group begins, then the number of all blocks
    """
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

    Bounds must be counted from now on, as `subtract_moves` makes them.

    slots: IN; the rows stand in a new order in the result
    group_of: (k,)  IN, the group of each center
    """
    counts = np.zeros((groups, BUCKETS), np.int64)
    _count(slots, group_of, counts)
    # A group begins at a block of its own, since a block has one reference. Inside, class after
    # class: rows without a bound come first.
    blocks = -(-counts.sum(axis=1) // BLOCK_ROWS)
    begins = np.concatenate([[0], np.cumsum(blocks)])
    places = np.cumsum(counts, axis=1) - counts + begins[:-1, None] * BLOCK_ROWS
    result = Slots.empty(int(begins[-1]) * BLOCK_ROWS)
    _place(slots, group_of, places, result)
    return result, begins


@bare
def subtract_moves(slots: Slots, parts: Parts, moves: F32) -> None:
    """Count bounds from now on: subtract how far centers have come up to now, rounded up.

    A row without anything left gets the bound of an undecided one. Before the rows are regrouped
    this is needed, as parts, whose moves bounds are counted with, are made anew.

    moves: (k,) float32  IN, how far each center has come
    """
    for p in range(len(parts.radii)):
        for slot in range(BLOCK_ROWS * parts.spans[p, 1], BLOCK_ROWS * parts.spans[p, 2]):
            gone = moves[slots.labels[slot]] + parts.moves[p]
            left = slots.bounds[slot] - gone - abs(gone) * np.float32(2.0**-20)
            slots.bounds[slot] = left if left > np.float32(0.0) else np.float32(-np.inf)


@bare
def add_moves(slots: Slots, parts: Parts, moves: F32, safe_gap: np.float32) -> None:
    """Count bounds from the beginning again: add the moves, but allow no more than the part does.

    moves: (k,) float32  IN, how far each center has come
    safe_gap: float32  IN, as in `Target`
    """
    for p in range(len(parts.radii)):
        most = np.float32(0.5) * parts.radii[p] - safe_gap
        for slot in range(BLOCK_ROWS * parts.spans[p, 1], BLOCK_ROWS * parts.spans[p, 2]):
            if slots.order[slot] >= 0:
                bound = min(slots.bounds[slot], most) + moves[slots.labels[slot]]
                slots.bounds[slot] = bound - abs(bound) * np.float32(2.0**-20)


@njit(nogil=True)
def _bucket(left: np.float32) -> int:
    """Return the class of a bound: 0 where there is none, then by its power of two."""
    if not left > 0:
        return 0
    # The spread of the scaled centers is near 1, so bounds from 2^-20 to 2^11 are told apart.
    _, exponent = math.frexp(left)
    return max(1, min(exponent + 20, BUCKETS - 1))


@njit(nogil=True)
def _count(slots: Slots, group_of: I32, counts: I64) -> None:
    """Count rows by group and class.

    group_of: (k,)  IN; counts: (groups, BUCKETS) int64  INOUT
    """
    for slot in range(len(slots.order)):
        if slots.order[slot] >= 0:
            counts[group_of[slots.labels[slot]], _bucket(slots.bounds[slot])] += 1


@njit(nogil=True)
def _place(slots: Slots, group_of: I32, places: I64, result: Slots) -> None:
    """Copy each row to the next free slot of its group and class.

    group_of: (k,)  IN; places: (groups, BUCKETS) int64  INOUT, the next free slots
    result: Slots  OUT
    """
    for slot in range(len(slots.order)):
        if slots.order[slot] >= 0:
            group, bucket = group_of[slots.labels[slot]], _bucket(slots.bounds[slot])
            place = places[group, bucket]
            places[group, bucket] += 1
            result.order[place] = slots.order[slot]
            result.labels[place] = slots.labels[slot]
            result.bounds[place] = slots.bounds[slot]
