"""A sweep over parts of a shard, whose rows are looked at with few centers only.

For a block of rows, the product of the prefixes bounds every score from below. The score to the
center of before is computed in float32 first; a center whose bound is above where that one ends is
pruned. The others are computed in float32, and what that leaves undecided is compared exactly. The
arguments are those of the table in `types`; docs/internals/exactness.md, section 9, proves the
bounds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ray_kmeans.kernels import F32, I32
from ray_kmeans.kernels.exact_order import is_nearer, score
from ray_kmeans.kernels.int8.nearest import (
    HIGHEST,
    KNOWN,
    UNDECIDED,
    bound_of,
    find_lowest,
    panel_at,
    reach_of,
)
from ray_kmeans.kernels.int8.prefix import PrefixCenters, PrefixRows, zeros_in_lines
from ray_kmeans.kernels.int8.quantize import (
    AHEAD,
    ROOM,
    address_of,
    compute_terms,
    fetch_row,
    subtract,
)
from ray_kmeans.kernels.int8.refine import defer, set_label
from ray_kmeans.kernels.int8.refine_by_floats import dot
from ray_kmeans.kernels.int8.sweep import update_margin
from ray_kmeans.kernels.int8.types import (
    N_ACTIVE,
    N_OPEN,
    N_SCORED,
    N_UNDECIDED,
    PANEL_BLOCKS,
    Margin,
    Parts,
    Scratch,
    Sweep,
    bare,
    start_of,
    zero,
)
from ray_kmeans.kernels.llvm import int8_products, vectors
from ray_kmeans.kernels.llvm.int8_products import BLOCK_ROWS, CHUNK_CENTERS, Unit

MANY = 16
"""Candidates of a row that are kept for exact comparison; a row with more is deferred."""


class PrefixBlock(NamedTuple):
    """The rows of a block, and the bounds of their scores."""

    residuals: F32
    """(32, columns) r, all columns of the rows around the reference."""
    weights: F32
    """(32,) -2 w, w being what one unit of a byte of the row stands for."""
    reaches: F32
    """(32,) -R, what the interval grows by downwards for each unit of E of a prefix."""
    tails: F32
    """(32,) -2 times the length of the tail."""
    radii: F32
    """(32,) an upper bound of |r|."""
    limits: F32
    """(32,) the least true score is not above it."""
    others: F32
    """(32,) the scores of all pruned centers begin above it."""
    lowest: F32
    """(32,) where the lowest interval begins that was computed in float32."""
    second: F32
    """(32,) where the next one begins."""
    best: I32
    """(32,) the center of `lowest`."""
    masks: I32
    """(32,) for each center of a chunk a bit for each row that it is open to."""
    candidates: I32
    """(32, MANY) the centers whose interval began at or below the limit."""
    begins: F32
    """(32, MANY) where the intervals of these centers begin."""
    counts: I32
    """(32,) how many these are; MANY + 1: too many."""

    @classmethod
    def of(cls, columns: int) -> PrefixBlock:
        """Return memory for 32 rows of some columns."""
        weights, reaches, tails, radii, limits, others, lowest, second = np.zeros(
            (8, BLOCK_ROWS), np.float32
        )
        best, masks, counts = np.zeros((3, BLOCK_ROWS), np.int32)
        return cls(
            residuals=zeros_in_lines(BLOCK_ROWS, columns),
            weights=weights,
            reaches=reaches,
            tails=tails,
            radii=radii,
            limits=limits,
            others=others,
            lowest=lowest,
            second=second,
            best=best,
            masks=masks,
            candidates=np.zeros((BLOCK_ROWS, MANY), np.int32),
            begins=np.zeros((BLOCK_ROWS, MANY), np.float32),
            counts=counts,
        )


@bare
def add_candidate(i: int, j: int, low: np.float32, block: PrefixBlock) -> None:
    """Note a candidate of row i; where there is no room, drop those above the limit of now."""
    if block.counts[i] > MANY:
        return
    if block.counts[i] == MANY:
        left = np.int32(0)
        for place in range(MANY):
            if not block.begins[i, place] > block.limits[i]:
                block.candidates[i, left] = block.candidates[i, place]
                block.begins[i, left] = block.begins[i, place]
                left += np.int32(1)
        block.counts[i] = left if left < MANY else MANY + 1
        if left == MANY:
            return
    block.candidates[i, block.counts[i]] = j
    block.begins[i, block.counts[i]] = low
    block.counts[i] += np.int32(1)


@bare
def take_score(
    i: int, j: int, gamma: np.float32, centers: PrefixCenters, block: PrefixBlock
) -> None:
    """Compute the score of row i to center j in float32, and take its interval into the lowest.

    gamma: float32  IN, the error of a score is at most a + gamma |r| E
    """
    terms = centers.terms
    value = terms.constants[j] - np.float32(2.0) * dot(block.residuals[i], centers.residuals[j])
    # 2^-21 of the score are more than its interval is rounded by.
    off = terms.slacks[j] + gamma * block.radii[i] * terms.norms[j]
    off += np.float32(2.0**-21) * (abs(value) + off)
    low, high = value - off, value + off
    if low < block.lowest[i]:
        block.second[i] = block.lowest[i]
        block.lowest[i] = low
        block.best[i] = j
    elif low < block.second[i]:
        block.second[i] = low
    if high < block.limits[i]:
        block.limits[i] = high
    if not low > block.limits[i]:
        add_candidate(i, j, low, block)
    if not abs(value) < KNOWN:  # also where it is not a number
        block.counts[i] = MANY + 1


@bare
def load_block(
    number: int,
    wanted: int,
    gamma: np.float32,
    rows: PrefixRows,
    sweep: Sweep,
    centers: PrefixCenters,
    block: PrefixBlock,
) -> int:
    """Load the wanted rows of a block, with their scores to the centers of before.

    number: int  IN, of the block
    wanted: int  IN, a bit for each row whose label may change
    Returns the wanted rows that are not too far away, which the others are deferred for.
    """
    slots, d = sweep.slots, sweep.target.centers.shape[1]
    near = wanted
    for i in range(BLOCK_ROWS):
        block.limits[i], block.others[i] = UNDECIDED, HIGHEST
        slot = BLOCK_ROWS * number + i
        if slot + AHEAD < len(slots.order):
            fetch_row(sweep.rows, slots.order[slot + AHEAD], d)
        if not wanted >> i & 1:
            continue
        if not rows.errors[slot] < HIGHEST:
            slots.bounds[slot] = UNDECIDED
            defer(slot, sweep.changed, sweep.tally)
            near &= ~(1 << i)
            continue
        size, error = rows.sizes[slot], rows.errors[slot]
        block.weights[i], block.tails[i] = rows.weights[slot], rows.tails[slot]
        block.reaches[i] = reach_of(error, size, centers.theta)
        block.radii[i] = rows.radii[slot]
        x = vectors.floats_at(address_of(sweep.rows, slots.order[slot], d), d)
        subtract(x, sweep.target.scale, centers.reference, block.residuals[i])
        block.limits[i] = block.lowest[i] = block.second[i] = HIGHEST
        block.counts[i] = 0
        take_score(i, slots.labels[slot], gamma, centers, block)
    return near


@bare
def score_block(
    unit: Unit,
    number: int,
    near: int,
    gamma: np.float32,
    rows: PrefixRows,
    sweep: Sweep,
    centers: PrefixCenters,
    scratch: Scratch,
    block: PrefixBlock,
) -> None:
    """Prune centers for the rows of a block, and compute the scores of those left in float32.

    number: int  IN, of the block; near: int  IN, a bit for each row to score
    """
    quads, k = rows.packed.shape[1], len(sweep.target.centers)
    bytes_ = start_of(rows.packed) + number * quads * 4 * BLOCK_ROWS
    products, panel, tally = start_of(scratch.products), centers.panel, sweep.tally
    n_open = zero()
    for chunk in range(0, centers.padded, CHUNK_CENTERS):
        tiles, offsets = panel_at(panel.first_bytes, panel.first_offsets, chunk)
        int8_products.multiply(unit, bytes_, quads, tiles, offsets, products)
        int8_products.store(unit, products)
        vectors.prune_by_prefix(
            products,
            start_of(panel.steps) + 4 * chunk,
            start_of(panel.lows) + 4 * chunk,
            start_of(panel.norms) + 4 * chunk,
            start_of(centers.tails) + 4 * chunk,
            start_of(block.weights),
            start_of(block.reaches),
            start_of(block.tails),
            start_of(block.limits),
            start_of(block.others),
            start_of(block.masks),
        )
        for j in range(chunk, min(chunk + CHUNK_CENTERS, k)):
            bits = np.int64(block.masks[j - chunk]) & near
            while bits:
                i = vectors.lowest_bit(bits)
                bits &= bits - 1
                if sweep.slots.labels[BLOCK_ROWS * number + i] != j:
                    take_score(i, j, gamma, centers, block)
                    n_open += 1
    tally[N_OPEN] += n_open


@bare
def nearest_candidate(i: int, x: F32, sweep: Sweep, block: PrefixBlock) -> int:
    """Return the nearest to row x (d,) of its candidates, by exact comparison."""
    target = sweep.target
    best = block.best[i]
    held = score(x, target.centers[best], target.cosine)
    for place in range(block.counts[i]):
        rival = block.candidates[i, place]
        if rival == best or block.begins[i, place] > block.limits[i]:
            continue
        found = score(x, target.centers[rival], target.cosine)
        # In a tie the center that is given second wins: that must be the one of lower number.
        if rival > best:
            wins = is_nearer(
                x, target.centers[rival], found, target.centers[best], held, target.cosine
            )
        else:
            wins = not is_nearer(
                x, target.centers[best], held, target.centers[rival], found, target.cosine
            )
        if wins:
            best, held = rival, found
    return best


@bare
def store_block(number: int, near: int, sweep: Sweep, margin: Margin, block: PrefixBlock) -> None:
    """Store the labels and bounds of the rows of a block.

    number: int  IN, of the block; near: int  IN, a bit for each row that was scored
    """
    slots, target = sweep.slots, sweep.target
    d = target.centers.shape[1]
    for i in range(BLOCK_ROWS):
        if not near >> i & 1:
            continue
        slot = BLOCK_ROWS * number + i
        slots.bounds[slot] = UNDECIDED
        if block.counts[i] > MANY:
            defer(slot, sweep.changed, sweep.tally)
            continue
        upper, label = block.limits[i], block.best[i]
        gap = min(block.second[i], block.others[i]) - upper
        bound = bound_of(block.lowest[i], upper, gap, block.radii[i], margin.most)
        if bound > UNDECIDED:
            bound += (target.moves[label] + margin.moves) - target.safe_gap
            slots.bounds[slot] = bound - abs(bound) * np.float32(2.0**-20)
        else:
            x = vectors.floats_at(address_of(sweep.rows, slots.order[slot], d), d)
            label = nearest_candidate(i, x, sweep, block)
            sweep.tally[N_UNDECIDED] += 1
        set_label(slot, label, slots.labels, sweep.changed, sweep.tally)


@bare
def active_rows(number: int, sweep: Sweep, part_moves: np.float32) -> int:
    """Return a bit for each row of a block whose label may change.

    number: int  IN, of the block; part_moves: float32  IN, as in `Margin`
    """
    bits = zero()
    slots, moves = sweep.slots, sweep.target.moves
    for i in range(BLOCK_ROWS):
        slot = BLOCK_ROWS * number + i
        # Written so that a bound that is not a number makes the row active.
        is_active = not slots.bounds[slot] > moves[slots.labels[slot]] + part_moves
        if is_active and slots.order[slot] >= 0:
            bits |= 1 << i
    return bits


@bare
def sweep_parts_by_prefix(
    unit: Unit,
    first_part: int,
    last_part: int,
    parts: Parts,
    references: F32,
    rows: PrefixRows,
    centers: PrefixCenters,
    sweep: Sweep,
    block: PrefixBlock,
    scratch: Scratch,
) -> None:
    """Label the rows of the parts from `first_part` to `last_part`; see the head of this module.

    references: (groups, columns) float32  IN, the references of the parts
    """
    gamma = ROOM * np.float32(2.002 * (sweep.target.centers.shape[1] + 16) * 2.0**-24)
    int8_products.begin(unit)
    for p in range(first_part, last_part):
        compute_terms(sweep.target, references[parts.spans[p, 0]], scratch)
        margin = update_margin(parts, p, sweep.slots, sweep.target, scratch)
        for number in range(parts.spans[p, 1], parts.spans[p, 2]):
            wanted = active_rows(number, sweep, margin.moves)
            if not wanted:
                continue
            for i in range(BLOCK_ROWS):
                sweep.tally[N_ACTIVE] += wanted >> i & 1
            sweep.tally[N_SCORED] += BLOCK_ROWS
            near = load_block(number, wanted, gamma, rows, sweep, centers, block)
            score_block(unit, number, near, gamma, rows, sweep, centers, scratch, block)
            store_block(number, near, sweep, margin, block)
    int8_products.end(unit)


@bare
def guess_labels(
    unit: Unit,
    first_part: int,
    last_part: int,
    parts: Parts,
    rows: PrefixRows,
    padded: int,
    labels: I32,
    scratch: Scratch,
) -> None:
    """Label the rows of some parts by the products of prefixes alone, which may be wrong.

    labels: (slots,) int32  OUT
    The prefixes of all centers must stand in `scratch.centers`.
    """
    most = len(scratch.centers.numbers) - 1
    panel = scratch.rows
    panel.reaches[:] = np.float32(0.0)
    int8_products.begin(unit)
    for first in range(parts.spans[first_part, 1], parts.spans[last_part - 1, 2], PANEL_BLOCKS):
        last = min(first + PANEL_BLOCKS, parts.spans[last_part - 1, 2])
        blocks = scratch.active_blocks[: last - first]
        for i in range(len(blocks)):
            blocks[i] = first + i
        for at in range(BLOCK_ROWS * len(blocks)):
            panel.weights[at] = rows.weights[BLOCK_ROWS * first + at]
        find_lowest(unit, rows.packed, blocks, padded, False, scratch)
        for at in range(BLOCK_ROWS * len(blocks)):
            # Where no score was a number, the place may be that of a padding center.
            labels[BLOCK_ROWS * first + at] = min(panel.best[0, at], most)
    int8_products.end(unit)
