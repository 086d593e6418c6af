"""The pass for few columns and centers, where looking at scores costs more than products.

Rows are taken as float32, straight from where they are, in their own order: there is no copy, and next
to none are open. Scores are as in `rounding`, q - 2 r.e around a reference g, each within
    A + 2 gamma R E
of the truth, for all centers alike: A is the largest a (its 2^-15 |q| covers q being added to), E the
largest |e|, R is |r|, rounded up, and gamma = (d + 16) 2^-24 what d products and sums and the rounding of
r and e do.
"""

from __future__ import annotations

import numpy as np

from ray_kmeans.kernels.int8.nearest import (
    HIGHEST,
    NEVER,
    OPEN,
    bound_of,
)
from ray_kmeans.kernels.int8.quantize import (
    ONE,
    ROOM,
    SMALL_R,
    address_of,
    norms_around,
)
from ray_kmeans.kernels.int8.refine import (
    LIVE,
    MOVED,
    OPENED,
    VISITED,
    settle_all,
)
from ray_kmeans.kernels.int8.types import bare
from ray_kmeans.kernels.llvm import avx512_float, int8_products
from ray_kmeans.kernels.llvm.avx512 import (
    CENTERS_AT_ONCE,
    LANES,
    floats_at,
    prefetch,
)
from ray_kmeans.kernels.llvm.int8_products import BLOCK_ROWS

MOST_VALUES = 2**12
"""Values of all centers up to which this is the faster way."""


@bare
def may_change(slots, block, moves, part_moves):
    """Return how many rows of a block have a label that may change."""
    count = 0
    for slot in range(BLOCK_ROWS * block, BLOCK_ROWS * block + BLOCK_ROWS):
        count += not slots.bounds[slot] > moves[slots.labels[slot]] + part_moves
    return count


@bare
def largest(values):
    most = np.float32(0.0)
    for value in values:
        most = max(most, value)
    return most


@bare
def load_centers(target, g, scratch):
    """Write -2 e and q of all centers, up to whole groups of 8; return their number, A and E."""
    k, d = target.centers.shape
    largest_slack = np.float32(0.0)
    largest_norm = np.float32(0.0)
    for j in range(k):
        for column in range(d):
            e = target.scaled[j, column] * ONE - g[column]
            scratch.floats.centers[j, column] = np.float32(-2.0) * e
        scratch.floats.constants[j] = scratch.terms.constants[j]
        slack, norm = scratch.terms.slacks[j], scratch.terms.norms[j]
        largest_slack = max(largest_slack, slack if slack < HIGHEST else HIGHEST)
        largest_norm = max(largest_norm, norm if norm < HIGHEST else HIGHEST)
    padded = (k + CENTERS_AT_ONCE - 1) // CENTERS_AT_ONCE * CENTERS_AT_ONCE
    scratch.floats.centers[k:padded] = np.float32(0.0)
    scratch.floats.constants[k:padded] = NEVER
    return padded, largest_slack, largest_norm


@bare
def address_of_block(rows, first, count, d, scratch):
    """Return where these rows follow each other: where they are, or else copied."""
    address = address_of(rows, first, d)
    end = address_of(rows, first + count - 1, d)
    if count == BLOCK_ROWS and end == address + (count - 1) * d * 4:
        return address
    for i in range(count):
        x = floats_at(address_of(rows, first + i, d), d)
        for column in range(d):
            scratch.floats.copied[d * i + column] = x[column]
    return scratch.floats.copied.ctypes.data


@bare
def fetch_next(address, d):
    """Ask for the 32 rows behind these: most of the time waiting for memory else."""
    size = 4 * d * BLOCK_ROWS
    for line in range(address + size, address + 2 * size, 64):
        prefetch(line)


@bare
def load_rows(address, d, scale, g, scratch):
    """Put 32 rows side by side, column by column, relative to g."""
    scratch.floats.squares[:] = np.float32(0.0)
    for lane in range(0, BLOCK_ROWS, LANES):
        columns = scratch.floats.columns.ctypes.data + 4 * lane
        squares = scratch.floats.squares.ctypes.data + 4 * lane
        for first in range(0, d, LANES):
            avx512_float.turn(
                address + 4 * d * lane, d, first, scale, g.ctypes.data, columns, squares
            )


@bare
def certify_block(away, gamma, most, scratch):
    """Write how far centers may come before the label of a row can change, as `slabs.certify` does.

    Nothing is looked up here, so that the loop is of vectors.
    """
    slack, norm = away
    lowest, second = scratch.floats.found[0], scratch.floats.found[1]
    for i in range(BLOCK_ROWS):
        radius = np.sqrt(scratch.floats.squares[i]) * ROOM + SMALL_R
        off = slack + np.float32(2.002) * gamma * radius * norm
        upper = lowest[i] + off
        gap = (second[i] - off) - upper
        gap -= (abs(second[i]) + abs(upper)) * np.float32(2.0**-22)
        scratch.rows.bounds[i] = bound_of(lowest[i], upper, gap, radius, most)


@bare
def take_block(first, count, n_opened, slots, target, part_moves, moved, tally, scratch):
    """Store what is certified and list what is open, without a branch; return how many are."""
    n_moved = tally[MOVED]
    for i in range(count):
        slot = first + i
        before, label = slots.labels[slot], scratch.floats.nearest[i]
        is_open = scratch.rows.bounds[i] == OPEN
        label = before if is_open else label
        bound = scratch.rows.bounds[i] - target.safe_gap + (target.moves[label] + part_moves)
        slots.labels[slot] = label
        slots.bounds[slot] = bound - abs(bound) * np.float32(2.0**-20)
        moved[n_moved] = slot  # there is room, as this row is not yet listed
        n_moved += label != before
        scratch.undecided[n_opened] = slot
        n_opened += is_open
    tally[MOVED] = n_moved
    return n_opened


@bare
def visit_part_by_floats(unit, p, parts, rows, slots, references, target, moved, tally, scratch):
    """Label the rows of a part."""
    group, first_block, last_block = parts.spans[p]
    g = references[group]
    d = target.centers.shape[1]
    gamma = ROOM * np.float32((d + 16) * 2.0**-24)
    shift = norms_around(target, g, scratch)
    parts.moves[p] = (parts.moves[p] + largest(target.step)) * np.float32(1 + 2.0**-20)
    margin = HIGHEST, parts.moves[p]
    padded, slack, norm = load_centers(target, g, scratch)
    away = slack, norm
    n_rows = rows.firsts[-1]
    n_opened = 0
    for block in range(first_block, last_block):
        live_rows = may_change(slots, block, target.moves, margin[1])
        if live_rows == 0:
            continue
        tally[LIVE] += live_rows
        tally[VISITED] += BLOCK_ROWS
        first = BLOCK_ROWS * block
        count = min(BLOCK_ROWS, n_rows - first)
        address = address_of_block(rows, first, count, d, scratch)
        fetch_next(address, d)
        load_rows(address, d, target.scale, g, scratch)
        avx512_float.nearest_two(
            scratch.floats.columns.ctypes.data,
            d,
            scratch.floats.centers.ctypes.data,
            scratch.floats.constants.ctypes.data,
            padded,
            scratch.floats.found.ctypes.data,
        )
        certify_block(away, gamma, margin[0], scratch)
        n_opened = take_block(
            first, count, n_opened, slots, target, margin[1], moved, tally, scratch
        )
    tally[OPENED] += n_opened
    if n_opened:
        settle_all(unit, rows, slots, target, (g, shift), margin, n_opened, moved, tally, scratch)


@bare
def visit_by_floats(
    unit, first_part, last_part, parts, rows, slots, references, target, moved, tally, scratch
):
    """Visit some parts, as `visit.visit` does."""
    int8_products.begin(unit)
    for p in range(first_part, last_part):
        visit_part_by_floats(unit, p, parts, rows, slots, references, target, moved, tally, scratch)
    int8_products.end(unit)
