"""The pass for few columns and centers, where looking at scores costs more than products.

Rows are taken as float32, straight from where they are: there is no copy, and next to none are open.
"""

from __future__ import annotations

import numpy as np

from ray_kmeans.kernels import products, vectors
from ray_kmeans.kernels.products import BLOCK_ROWS, CHUNK_CENTERS
from ray_kmeans.kernels.rounding import (
    ONE,
    ROOM,
    SMALL_R,
    address_of,
    norms_around,
    round_centers,
)
from ray_kmeans.kernels.settling import LIVE, VISITED, settle_open, slot_of
from ray_kmeans.kernels.slabs import (
    HIGHEST,
    NUMBERS,
    PANEL_CENTERS,
    certify,
    merge,
)
from ray_kmeans.kernels.space import SLAB_BLOCKS, bare
from ray_kmeans.kernels.visit import fill_up, margin_of, prune, take_labels

MOST_VALUES = 2**12
"""Values of all centers up to which this is the faster way."""
ONES = np.ones(CHUNK_CENTERS, np.float32)


@bare
def find_live_blocks(slots, moves, part_moves, first, last, live):
    """List the blocks that hold a row whose label may change; return (blocks, rows)."""
    count = 0
    rows = 0
    for block in range(first, last):
        here = 0
        for slot in range(BLOCK_ROWS * block, BLOCK_ROWS * block + BLOCK_ROWS):
            here += not slots.bounds[slot] > moves[slots.labels[slot]] + part_moves
        if here:
            live[count] = block
            count += 1
            rows += here
    return count, rows


@bare
def load_rows(blocks, rows, order, target, g, space):
    """Put the rows of some blocks side by side, column by column, relative to g."""
    d = target.centers.shape[1]
    gamma = ROOM * np.float32((d + 16) * 2.0**-24)
    for i in range(len(blocks)):
        for lane in range(BLOCK_ROWS):
            at = BLOCK_ROWS * i + lane
            row = max(order[BLOCK_ROWS * blocks[i] + lane], 0)
            x = vectors.floats_at(address_of(rows, row, d), d)
            squares = np.float32(0.0)
            for column in range(d):
                value = x[column] * target.scale - g[column]
                space.columns[i, column, lane] = value
                squares += value * value
            radius = np.sqrt(squares) * ROOM + SMALL_R
            space.weights[at] = np.float32(-2.0)
            space.radii[at] = radius
            space.reaches[at] = -(np.float32(2.002) * gamma + np.float32(2.0**-13)) * radius


@bare
def load_centers(target, g, n_kept, padded, space):
    """Write the kept centers relative to g, and zeros where there is none."""
    space.float_panel[n_kept:padded] = np.float32(0.0)
    for i in range(n_kept):
        scaled = target.scaled[space.kept[i]]
        for column in range(target.centers.shape[1]):
            space.float_panel[i, column] = scaled[column] * ONE - g[column]


@bare
def nearest_by_floats(blocks, padded, d, space):
    """Find for each row of some blocks its two lowest scores, and their centers."""
    sums = space.sums.ctypes.data
    for first in range(0, padded, PANEL_CENTERS):
        space.panel_lowest[:] = HIGHEST
        for chunk in range(first, min(first + PANEL_CENTERS, padded), CHUNK_CENTERS):
            c = 4 * chunk
            for i in range(len(blocks)):
                rows = space.columns.ctypes.data + 4 * i * vectors.FLOAT_COLUMNS * BLOCK_ROWS
                centers = space.float_panel.ctypes.data + c * vectors.FLOAT_COLUMNS
                for part in range(0, CHUNK_CENTERS, vectors.CENTERS_AT_ONCE):
                    place = centers + 4 * part * vectors.FLOAT_COLUMNS
                    vectors.multiply_floats(rows, place, d, sums + 128 * part)
                at = 4 * BLOCK_ROWS * i
                vectors.fold_floats(
                    sums,
                    CHUNK_CENTERS,
                    ONES.ctypes.data,
                    space.lows.ctypes.data + c,
                    space.norms.ctypes.data + c,
                    NUMBERS.ctypes.data + 4 * (chunk - first),
                    space.weights.ctypes.data + at,
                    space.reaches.ctypes.data + at,
                    space.panel_lowest.ctypes.data + at,
                )
        merge(first, space)


@bare
def visit_part_by_floats(unit, p, parts, rows, slots, references, target, moved, tally, space):
    """Label the rows of a part."""
    group, first_block, last_block = parts.spans[p]
    g = references[group]
    d = target.centers.shape[1]
    shift = norms_around(target, g, space)
    margin = margin_of(parts, p, slots, target, space)
    n_live, live_rows = find_live_blocks(
        slots, target.moves, margin[1], first_block, last_block, space.live
    )
    tally[LIVE] += live_rows
    tally[VISITED] += n_live * BLOCK_ROWS
    if n_live == 0:
        return
    n_kept, others = prune(parts.radii[p], space)
    theta = round_centers(target, g, n_kept, space)
    padded = fill_up(n_kept, space)
    load_centers(target, g, n_kept, padded, space)
    n_opened = 0
    for start in range(0, n_live, SLAB_BLOCKS):
        blocks = space.live[start : min(start + SLAB_BLOCKS, n_live)]
        load_rows(blocks, rows, slots.order, target, g, space)
        nearest_by_floats(blocks, padded, d, space)
        certify(len(blocks) * BLOCK_ROWS, n_kept, others, target, margin, space)
        n_open = take_labels(blocks, slots, moved, tally, space)
        for i in range(n_open):
            space.opened[n_opened] = slot_of(blocks, space.chosen[i])
            n_opened += 1
    if n_opened:
        part = g, n_kept, others, shift
        settle_open(
            unit, rows, slots, target, part, margin, theta, padded, n_opened, moved, tally, space
        )


@bare
def visit_by_floats(
    unit, first_part, last_part, parts, rows, slots, references, target, moved, tally, space
):
    """Visit some parts, as `visit.visit` does."""
    products.begin(unit)
    for p in range(first_part, last_part):
        visit_part_by_floats(unit, p, parts, rows, slots, references, target, moved, tally, space)
    products.end(unit)
