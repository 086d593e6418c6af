"""A slab: up to 256 rows whose nearest centers are found by products of bytes."""

from __future__ import annotations

import numpy as np

from ray_kmeans.kernels.int8.types import bare
from ray_kmeans.kernels.llvm import avx512, int8_products
from ray_kmeans.kernels.llvm.int8_products import BLOCK_ROWS, CHUNK_CENTERS

PANEL_CENTERS = 2**avx512.ID_BITS
NUMBERS = np.arange(PANEL_CENTERS, dtype=np.int32)
SLAB = avx512.SLAB
SUMS_BYTES = avx512.SUMS_BYTES
FIRST_CACHE = 2**14
"""Bytes of rows that stay in the first-level cache while centers pass by."""
HIGHEST = np.float32(3e38)
NEVER = np.float32(2.0**100)
"""Where the scores of a center that is not there begin."""
KNOWN = np.float32(2.0**99)
"""Where the lowest score of a row begins below, if it is that of a center."""
OPEN = np.float32(-np.inf)
"""The bound of a row whose nearest center is not certain."""


@bare
def load_slab(blocks, coarse, theta, scratch):
    """Copy what belongs to the rows of some blocks."""
    for i in range(len(blocks)):
        shift = BLOCK_ROWS * (blocks[i] - i)
        for at in range(BLOCK_ROWS * i, BLOCK_ROWS * i + BLOCK_ROWS):
            size, error = coarse.sizes[shift + at], coarse.errors[shift + at]
            scratch.rows.weights[at] = coarse.weights[shift + at]
            scratch.rows.radii[at] = error + size
            reach = np.float32(-2.0 * (1 + 2.0**-10)) * (error + theta * size)
            scratch.rows.reaches[at] = reach - np.float32(2.0**-13) * size


@bare
def nearest(unit, packed, blocks, padded, three, scratch):
    """Find for each row of some blocks its two or three lowest scores, and the two centers.

    A product is folded two products later: its sums have left the processor's store buffer by then,
    and matrix and vector units work at the same time.
    """
    line = packed.shape[1] * 4 * BLOCK_ROWS
    at_once = max(1, min(len(blocks), FIRST_CACHE // line))
    sums = scratch.products.ctypes.data
    ahead, ready, other = sums, sums + SUMS_BYTES, sums + 2 * SUMS_BYTES
    for first in range(0, padded, PANEL_CENTERS):
        scratch.rows.panel_lowest[:] = HIGHEST
        last = min(first + PANEL_CENTERS, padded)
        here = there = (0, 0, first)
        left = len(blocks) * (last - first) // CHUNK_CENTERS
        for step in range(left + 2):
            if step < left:
                centers, offsets = panel_at(
                    scratch.panel.first_bytes, scratch.panel.first_offsets, here[2]
                )
                rows = packed.ctypes.data + blocks[here[1]] * line
                int8_products.multiply(unit, rows, packed.shape[1], centers, offsets, other)
                here = next_place(here, at_once, len(blocks), first, last)
            if step >= 2:
                fold_chunk(three, there[2], first, there[1], ready, scratch)
                there = next_place(there, at_once, len(blocks), first, last)
            if step < left:
                int8_products.store(unit, other)
            ready, ahead, other = ahead, other, ready
        merge(first, scratch)


@bare
def next_place(place, at_once, n_blocks, first, last):
    """Go on to the next block and chunk of centers: some blocks meet all centers before the next do.

    `place`: the first of these blocks, the block, the first center of the chunk.
    """
    begin, block, chunk = place
    block += 1
    if block == min(begin + at_once, n_blocks):
        block, chunk = begin, chunk + CHUNK_CENTERS
        if chunk == last:
            begin, chunk = begin + at_once, first
            block = begin
    return begin, block, chunk


@bare
def panel_at(panel, offsets, chunk):
    return panel.ctypes.data + chunk * panel.shape[1] * 64, offsets.ctypes.data + 4 * chunk


@bare
def addresses_of(chunk, first, block, scratch):
    """Return where that is what products of a chunk of centers and a block of rows are folded with."""
    c, at = 4 * chunk, 4 * BLOCK_ROWS * block
    return (
        scratch.panel.steps.ctypes.data + c,
        scratch.panel.lows.ctypes.data + c,
        scratch.panel.norms.ctypes.data + c,
        NUMBERS.ctypes.data + 4 * (chunk - first),
        scratch.rows.weights.ctypes.data + at,
        scratch.rows.reaches.ctypes.data + at,
        scratch.rows.panel_lowest.ctypes.data + at,
    )


@bare
def fold_chunk(three, chunk, first, block, sums, scratch):
    about = addresses_of(chunk, first, block, scratch)
    if three:
        avx512.fold_three(sums, CHUNK_CENTERS, *about)
    else:
        avx512.fold_two(sums, CHUNK_CENTERS, *about)


@bare
def fold_chunk_finely(three, chunk, first, block, sums, scratch):
    about = addresses_of(chunk, first, block, scratch)
    if three:
        avx512.fold_three_finely(sums, CHUNK_CENTERS, *about)
    else:
        avx512.fold_two_finely(sums, CHUNK_CENTERS, *about)


@bare
def nearest_finely(unit, n_blocks, padded, three, scratch):
    """Do the same for the rows that were rounded to two bytes."""
    line = scratch.rows.first_bytes.shape[1] * 4 * BLOCK_ROWS
    for first in range(0, padded, PANEL_CENTERS):
        scratch.rows.panel_lowest[:] = HIGHEST
        for chunk in range(first, min(first + PANEL_CENTERS, padded), CHUNK_CENTERS):
            for i in range(n_blocks):
                rows = scratch.rows.first_bytes.ctypes.data + i * line
                second_rows = scratch.rows.second_bytes.ctypes.data + i * line
                multiply_finely(unit, rows, second_rows, chunk, scratch)
                fold_chunk_finely(three, chunk, first, i, scratch.products.ctypes.data, scratch)
        merge(first, scratch)


@bare
def multiply_finely(unit, rows, second_rows, chunk, scratch):
    """Write the products of the first bytes and, to be added, those of first and second bytes."""
    quads = scratch.rows.first_bytes.shape[1]
    centers, offsets = panel_at(scratch.panel.first_bytes, scratch.panel.first_offsets, chunk)
    seconds, second_offsets = panel_at(
        scratch.panel.second_bytes, scratch.panel.second_offsets, chunk
    )
    out = scratch.products.ctypes.data
    int8_products.multiply(unit, rows, quads, centers, offsets, out)
    int8_products.store(unit, out)
    int8_products.multiply(unit, rows, quads, seconds, second_offsets, out + SUMS_BYTES)
    int8_products.store(unit, out + SUMS_BYTES)
    int8_products.multiply(unit, second_rows, quads, centers, offsets, out + 2 * SUMS_BYTES)
    int8_products.store(unit, out + 2 * SUMS_BYTES)


@bare
def merge(first, scratch):
    """Take the lowest scores of a panel of centers to those of the panels before."""
    for rank in range(3):
        keys = scratch.rows.panel_lowest[rank]
        if first == 0:
            begin(keys, keys.view(np.int32), scratch.rows.lowest[rank], scratch.rows.best[rank])
        else:
            insert(first, keys, keys.view(np.int32), scratch.rows.lowest, scratch.rows.best)


@bare
def begin(keys, bits, lowest, best):
    for i in range(SLAB):
        lowest[i] = keys[i]
        best[i] = bits[i] & np.int32(PANEL_CENTERS - 1)


@bare
def insert(first, keys, bits, lowest, best):
    for i in range(SLAB):
        key, number = keys[i], np.int32(first + (bits[i] & np.int32(PANEL_CENTERS - 1)))
        a, b, c = lowest[0, i], lowest[1, i], lowest[2, i]
        middle = a if key < a else key
        follower = best[0, i] if key < a else number
        last = b if middle < b else middle
        best[0, i] = number if key < a else best[0, i]
        best[1, i] = follower if middle < b else best[1, i]
        lowest[0, i] = key if key < a else a
        lowest[1, i] = middle if middle < b else b
        lowest[2, i] = last if last < c else c


@bare
def fill_up(n_kept, scratch):
    """Add centers that never win, up to a whole chunk; return how many there are then."""
    padded = (n_kept + CHUNK_CENTERS - 1) // CHUNK_CENTERS * CHUNK_CENTERS
    for i in range(n_kept, padded):  # whatever bytes stand there count for nothing
        scratch.panel.lows[i] = NEVER
        scratch.panel.norms[i] = scratch.panel.steps[i] = scratch.panel.slacks[i] = np.float32(0.0)
    return padded


@bare
def leave_out(some, n_kept, left_out, scratch):
    """Take out of the three lowest scores of each row that of one center, where it is lowest or next."""
    for i in range(len(some)):
        center = left_out[some[i]]
        is_lowest = scratch.panel.numbers[min(scratch.rows.best[0, i], n_kept - 1)] == center
        is_next = scratch.panel.numbers[min(scratch.rows.best[1, i], n_kept - 1)] == center
        if is_lowest:
            scratch.rows.best[0, i], scratch.rows.lowest[0, i] = (
                scratch.rows.best[1, i],
                scratch.rows.lowest[1, i],
            )
        if is_lowest or is_next:
            scratch.rows.lowest[1, i] = scratch.rows.lowest[2, i]


@bare
def certify(n, n_kept, others, target, margin, scratch):
    """Write for each row what its lowest score does not exceed, its label, and its bound.

    `others`: where the scores of the centers begin that were not kept. The bound says how far
    centers may come, in all, before the label can change; `margin` is (the most that it may leave
    them, how far those near the part have come). The nearest center is at most D away, and the
    others by gap / (D + sqrt(D^2 + gap)) more: a difference of square roots without cancellation.
    """
    most, part_moves = margin
    look_up(n, n_kept, scratch)
    measure(n, most, others, scratch)
    for i in range(n):
        label = scratch.panel.numbers[scratch.rows.best[0, i]]
        bound = scratch.rows.bounds[i] - target.safe_gap + (target.moves[label] + part_moves)
        bound -= abs(bound) * np.float32(2.0**-20)
        scratch.rows.bounds[i] = (
            bound if scratch.rows.bounds[i] > OPEN else OPEN
        )  # moves may be infinite
        scratch.rows.labels[i] = label


@bare
def look_up(n, n_kept, scratch):
    """Write how far above where it begins the lowest score may be."""
    for i in range(n):
        center = min(
            scratch.rows.best[0, i], np.int32(n_kept - 1)
        )  # where no score was a number, any
        scratch.rows.best[0, i] = center
        reach = np.float32(2.002) * scratch.rows.reaches[i]
        scratch.rows.uppers[i] = scratch.panel.slacks[center] - reach * scratch.panel.norms[center]


@bare
def bound_of(lowest, upper, gap, radius, most):
    """Return how far centers may come before a row's label can change; OPEN if it is not certain.

    `lowest`: where the lowest score begins; `upper`: where it ends. `gap`: from there to where the
    next score begins. `radius`: an upper bound of |r|. `most`: the most that is returned. The
    nearest center is at most D away, D^2 = upper + |r|^2, and the others by gap / (D + sqrt(D^2 +
    gap)) more: a difference of square roots without cancellation. As long as its own center and any
    other one have come no farther than that, together, the label stays. There is no branch, so that
    the loop around it stays one of vectors.
    """
    sure = (lowest < KNOWN) & (gap > np.float32(0.0))
    more = gap if sure else np.float32(1.0)
    squared = upper + radius * radius * np.float32(1.001)
    squared = squared if squared > np.float32(0.0) else np.float32(0.0)
    away = np.sqrt(squared) * np.float32(1.001) + np.float32(2.0**-50)
    slack = np.float32(0.998) * more / (away + np.sqrt(away * away + more))
    slack = slack if slack < most else most
    return slack if sure else OPEN


@bare
def measure(n, most, others, scratch):
    """Write the highest that the lowest score may be, and how far centers may come because of it.

    Nothing is looked up here, so that the loop is of vectors.
    """
    lowest, seconds = scratch.rows.lowest[0], scratch.rows.lowest[1]
    for i in range(n):
        upper = lowest[i] + scratch.rows.uppers[i]
        upper = upper if lowest[i] < KNOWN else np.float32(np.inf)
        gap = (seconds[i] if seconds[i] < others else others) - upper
        scratch.rows.uppers[i] = upper
        scratch.rows.bounds[i] = bound_of(lowest[i], upper, gap, scratch.rows.radii[i], most)
