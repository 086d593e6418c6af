"""One pass over some parts of a shard: labels by bytes where they decide, by float64 where not.

A part is a run of blocks of 32 rows that share a reference. For each part the centers that could be
nearest are rounded around its reference, so that every row has an interval for each score. A row is
certified when the interval that begins lowest ends before the next one begins. What is open then goes
on to `settling`.
"""

from __future__ import annotations

import numpy as np

from ray_kmeans.kernels.int8.nearest import (
    HIGHEST,
    OPEN,
    certify,
    fill_up,
    load_slab,
    nearest,
)
from ray_kmeans.kernels.int8.quantize import norms_around, round_centers
from ray_kmeans.kernels.int8.refine import (
    LIVE,
    OPENED,
    PAIRS_FROM,
    VISITED,
    settle_open,
    settle_pairs,
    take,
)
from ray_kmeans.kernels.int8.types import SLAB_BLOCKS, bare
from ray_kmeans.kernels.llvm import int8_products
from ray_kmeans.kernels.llvm.int8_products import BLOCK_ROWS


@bare
def margin_of(parts, p, slots, target, scratch):
    """Note how far centers near a part have come; return what `certify` takes as margin.

    A row is at most R from the reference and its center at most R + A from it, A being the largest
    |e| of a label here. A center farther than 2 R + A + R/2 from the reference is farther from the
    row than its own by R/2 at least, so where bounds leave no more than that, its moves do not count;
    when it comes nearer, they do.
    """
    radius = parts.radii[p]
    most = np.float32(0.5) * radius
    away = np.float32(0.0)
    for slot in range(BLOCK_ROWS * parts.spans[p, 1], BLOCK_ROWS * parts.spans[p, 2]):
        norm = scratch.terms.norms[slots.labels[slot]]
        away = norm if norm > away else away
    near = np.float32(1.03) * (np.float32(2.0) * radius + away + most)  # E is up to 2 % too large
    step = np.float32(0.0)
    for j in range(len(scratch.terms.norms)):
        if not scratch.terms.norms[j] > near:
            step = max(step, target.step[j])
    moves = (parts.moves[p] + step) * np.float32(1 + 2.0**-20)
    parts.moves[p] = moves
    return most, moves


@bare
def find_live(slots, moves, part_moves, coarse, first, last, live):
    """List the blocks that hold a row whose label may change; return (blocks, rows, radius)."""
    count = 0
    rows = 0
    radius = np.float32(0.0)
    for block in range(first, last):
        begin = BLOCK_ROWS * block
        here = 0
        largest = np.float32(0.0)
        for slot in range(begin, begin + BLOCK_ROWS):
            here += not slots.bounds[slot] > moves[slots.labels[slot]] + part_moves
            size = coarse.sizes[slot] + coarse.errors[slot]
            largest = size if size > largest else largest
        if here:
            live[count] = block
            count += 1
            rows += here
            radius = max(radius, largest)
    return count, rows, radius


@bare
def prune(radius, scratch):
    """Keep the centers that can be nearest to a row within this radius of the reference.

    Returns how many, and where the scores of all others begin.
    """
    norms, constants, slacks = scratch.terms.norms, scratch.terms.constants, scratch.terms.slacks
    reach = np.float32(2.002) * radius
    upper = HIGHEST
    for j in range(len(norms)):
        high = constants[j] + slacks[j] + reach * norms[j]
        upper = high if high < upper else upper
    upper += abs(upper) * np.float32(2.0**-20)
    count = 0
    others = HIGHEST
    for j in range(len(norms)):
        low = constants[j] - slacks[j] - reach * norms[j]
        low -= abs(low) * np.float32(2.0**-20)
        if low > upper:
            others = min(others, low)
        else:  # also where it is not a number
            scratch.panel.numbers[count] = j
            count += 1
    return count, others


@bare
def take_labels(blocks, slots, moved, tally, scratch):
    """Store what is certified; list the rows of the slab that are open, and return how many."""
    n_open = 0
    for i in range(len(blocks)):
        shift = BLOCK_ROWS * (blocks[i] - i)
        first, last = BLOCK_ROWS * i, BLOCK_ROWS * i + BLOCK_ROWS
        changed = 0
        for at in range(first, last):
            slot = shift + at
            changed += (scratch.rows.labels[at] != slots.labels[slot]) | (
                scratch.rows.bounds[at] == OPEN
            )
            is_row = slots.order[slot] >= 0
            slots.bounds[slot] = scratch.rows.bounds[at] if is_row else np.float32(np.inf)
        if not changed:
            continue
        for at in range(first, last):
            slot = shift + at
            if slots.order[slot] < 0:
                continue
            if scratch.rows.bounds[at] == OPEN:
                scratch.rows.undecided[n_open] = at
                n_open += 1
            else:
                take(slot, scratch.rows.labels[at], slots.labels, moved, tally)
    tally[OPENED] += n_open
    return n_open


@bare
def visit_part(unit, p, parts, rows, slots, coarse, target, moved, tally, scratch):
    """Label the rows of a part."""
    group, first_block, last_block = parts.spans[p]
    g = coarse.references[group]
    shift = norms_around(target, g, scratch)
    margin = margin_of(parts, p, slots, target, scratch)
    n_live, live_rows, radius = find_live(
        slots, target.moves, margin[1], coarse, first_block, last_block, scratch.active_blocks
    )
    tally[LIVE] += live_rows
    tally[VISITED] += n_live * BLOCK_ROWS
    if n_live == 0:
        return
    n_kept, others = prune(radius, scratch)
    theta = round_centers(target, g, n_kept, scratch)
    padded = fill_up(n_kept, scratch)
    part = g, n_kept, others, shift
    pairs = n_kept * target.centers.shape[1] >= PAIRS_FROM
    n_opened = 0
    for start in range(0, n_live, SLAB_BLOCKS):
        blocks = scratch.active_blocks[start : min(start + SLAB_BLOCKS, n_live)]
        load_slab(blocks, coarse, theta, scratch)
        nearest(unit, coarse.packed, blocks, padded, pairs, scratch)
        certify(len(blocks) * BLOCK_ROWS, n_kept, others, target, margin, scratch)
        n_open = take_labels(blocks, slots, moved, tally, scratch)
        n_opened = settle_pairs(
            rows, slots, target, part, blocks, n_open, n_opened, moved, tally, scratch
        )
    if n_opened:
        settle_open(
            unit, rows, slots, target, part, margin, theta, padded, n_opened, moved, tally, scratch
        )


@bare
def visit(unit, first_part, last_part, parts, rows, slots, coarse, target, moved, tally, scratch):
    """Visit some parts; see the head of this module.

    `moved`: slots whose label is new, from its begin on, and from its end on those that have too
    many candidates to be settled here. `tally` is counted up.
    """
    int8_products.begin(unit)
    for p in range(first_part, last_part):
        visit_part(unit, p, parts, rows, slots, coarse, target, moved, tally, scratch)
    int8_products.end(unit)
