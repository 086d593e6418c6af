"""A sweep over parts of a shard: labels by one byte a column where it decides, else by `refine`.

A part is a run of blocks of 32 rows that share a reference. For each part the centers that could be
nearest are quantized around its reference, so that every row has an interval for each score. A row
is certified when the interval that begins lowest ends before the next one begins. The arguments are
those of the table in `types`; docs/internals/exactness.md proves the bounds.
"""

from __future__ import annotations

import numpy as np

from ray_kmeans.kernels import F32, I32
from ray_kmeans.kernels.int8.nearest import (
    HIGHEST,
    UNDECIDED,
    certify,
    find_lowest,
    load_row_panel,
)
from ray_kmeans.kernels.int8.quantize import compute_terms, quantize_part
from ray_kmeans.kernels.int8.refine import (
    PAIRS_FROM,
    refine_pairs,
    refine_undecided,
    set_label,
)
from ray_kmeans.kernels.int8.types import (
    N_ACTIVE,
    N_SCORED,
    N_UNDECIDED,
    PANEL_BLOCKS,
    Margin,
    PartCenters,
    Parts,
    QuantizedRows,
    Scratch,
    Slots,
    Sweep,
    Target,
    bare,
    zero,
)
from ray_kmeans.kernels.llvm import int8_products
from ray_kmeans.kernels.llvm.int8_products import BLOCK_ROWS, Unit


@bare
def update_margin(parts: Parts, p: int, slots: Slots, target: Target, scratch: Scratch) -> Margin:
    """Note how far centers near part p have come; return the margin of its rows.

    A row is at most R from the reference and its center at most R + A from it, A being the largest
    |e| of a label here. A center farther than 2 R + A + R/2 from the reference is farther from the
    row than its own by R/2 at least. So where no bound exceeds R/2, which is `most`, the moves of
    such a center do not count; when it comes nearer, they do.
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
        if not scratch.terms.norms[j] > near:  # so a norm that is not a number counts
            step = max(step, target.step[j])
    # Rounded up in each sweep: a sum of ways must never fall below the true one.
    moves = (parts.moves[p] + step) * np.float32(1 + 2.0**-20)
    parts.moves[p] = moves
    return Margin(most=most, moves=moves)


@bare
def find_active_blocks(
    slots: Slots,
    moves: F32,
    part_moves: np.float32,
    quantized: QuantizedRows,
    first: int,
    last: int,
    active_blocks: I32,
) -> tuple[int, int, np.float32]:
    """List the blocks from `first` to `last` with an active row: one whose label may change.

    moves: (k,) float32  IN, how far each center has come
    part_moves: float32  IN, how far centers near the part have come
    active_blocks: (blocks,) int32  OUT
    Returns how many blocks, how many active rows, and the largest |r| of a row of these blocks.
    """
    count = 0
    rows = 0
    radius = np.float32(0.0)
    for block in range(first, last):
        begin = BLOCK_ROWS * block
        here = 0
        largest = np.float32(0.0)
        for slot in range(begin, begin + BLOCK_ROWS):
            # Written so that a bound that is not a number makes the row active.
            here += not slots.bounds[slot] > moves[slots.labels[slot]] + part_moves
            size = quantized.sizes[slot] + quantized.errors[slot]
            largest = size if size > largest else largest
        if here:
            active_blocks[count] = block
            count += 1
            rows += here
            radius = max(radius, largest)
    return count, rows, radius


@bare
def prune_centers(radius: np.float32, scratch: Scratch) -> tuple[int, np.float32]:
    """Keep the centers that can be nearest to a row within a radius of the reference.

    A score is between q - a - 2 R E and q + a + 2 R E for every such row. A center whose lower end
    is above the least upper end of all is nearest to none of them.

    radius: float32  IN
    Returns how many `scratch.centers.numbers` lists, and where the scores of all others begin.
    """
    terms = scratch.terms
    # 2.002 for 2, and 2^-20 of each end, cover the rounding of these two loops.
    reach = np.float32(2.002) * radius
    upper = HIGHEST
    for j in range(len(terms.norms)):
        high = terms.constants[j] + terms.slacks[j] + reach * terms.norms[j]
        upper = high if high < upper else upper
    upper += abs(upper) * np.float32(2.0**-20)
    count = 0
    others = HIGHEST
    for j in range(len(terms.norms)):
        low = terms.constants[j] - terms.slacks[j] - reach * terms.norms[j]
        low -= abs(low) * np.float32(2.0**-20)
        if low > upper:
            others = min(others, low)
        else:  # also where it is not a number
            scratch.centers.numbers[count] = j
            count += 1
    return count, others


@bare
def store_certified(blocks: I32, sweep: Sweep, scratch: Scratch) -> int:
    """Store the labels and bounds of a panel of rows; return how many rows are undecided.

    blocks: (up to 8,) int32  IN, the blocks of the panel
    The undecided rows are listed in `scratch.rows.undecided`.
    """
    slots, panel = sweep.slots, scratch.rows
    n_undecided = 0
    for i in range(len(blocks)):
        shift = BLOCK_ROWS * (blocks[i] - i)
        first, last = BLOCK_ROWS * i, BLOCK_ROWS * i + BLOCK_ROWS
        # Most blocks change no label: this loop has no branch, so LLVM makes vectors of it.
        changed = 0
        for at in range(first, last):
            slot = shift + at
            changed += (panel.labels[at] != slots.labels[slot]) | (panel.bounds[at] == UNDECIDED)
            is_row = slots.order[slot] >= 0
            slots.bounds[slot] = panel.bounds[at] if is_row else np.float32(np.inf)
        if not changed:
            continue
        for at in range(first, last):
            slot = shift + at
            if slots.order[slot] < 0:
                continue
            if panel.bounds[at] == UNDECIDED:
                panel.undecided[n_undecided] = at
                n_undecided += 1
            else:
                set_label(slot, panel.labels[at], slots.labels, sweep.changed, sweep.tally)
    sweep.tally[N_UNDECIDED] += n_undecided
    return n_undecided


@bare
def sweep_part(
    unit: Unit, p: int, parts: Parts, quantized: QuantizedRows, sweep: Sweep, scratch: Scratch
) -> None:
    """Label the rows of part p."""
    group, first_block, last_block = parts.spans[p]
    g, target = quantized.references[group], sweep.target
    shift = compute_terms(target, g, scratch)
    # Before anything may return: moves that are not noted now would be missing from all bounds.
    margin = update_margin(parts, p, sweep.slots, target, scratch)
    n_active, active_rows, radius = find_active_blocks(
        sweep.slots,
        target.moves,
        margin.moves,
        quantized,
        first_block,
        last_block,
        scratch.active_blocks,
    )
    sweep.tally[N_ACTIVE] += active_rows
    sweep.tally[N_SCORED] += n_active * BLOCK_ROWS
    if n_active == 0:
        return
    n_kept, others = prune_centers(radius, scratch)
    part = quantize_part(unit, target, g, n_kept, others, shift, margin, scratch)
    n_refine = score_blocks(unit, n_active, quantized, sweep, part, scratch)
    if n_refine:
        refine_undecided(unit, sweep, part, n_refine, scratch)


@bare
def score_blocks(
    unit: Unit,
    n_active: int,
    quantized: QuantizedRows,
    sweep: Sweep,
    part: PartCenters,
    scratch: Scratch,
) -> int:
    """Label the rows of the active blocks by one byte a column, a panel of rows at a time.

    n_active: int  IN, how many blocks `scratch.active_blocks` lists
    Returns how many slots are still to be refined, which `scratch.undecided` lists.
    """
    # The third-lowest score is of use where two candidates may be compared in float64 at once.
    three = part.n_kept * sweep.target.centers.shape[1] >= PAIRS_FROM
    n_refine = zero()
    for start in range(0, n_active, PANEL_BLOCKS):
        blocks = scratch.active_blocks[start : min(start + PANEL_BLOCKS, n_active)]
        load_row_panel(blocks, quantized, part.theta, scratch)
        find_lowest(unit, quantized.packed, blocks, part.padded, three, scratch)
        certify(len(blocks) * BLOCK_ROWS, part, sweep.target, scratch)
        n_undecided = store_certified(blocks, sweep, scratch)
        n_refine = refine_pairs(sweep, part, blocks, n_undecided, n_refine, scratch)
    return n_refine


@bare
def sweep_parts(
    unit: Unit,
    first_part: int,
    last_part: int,
    parts: Parts,
    quantized: QuantizedRows,
    sweep: Sweep,
    scratch: Scratch,
) -> None:
    """Label the rows of the parts from `first_part` to `last_part`; see the head of this module."""
    # Tiles are set up and released by the thread that uses them: they are registers of its own.
    int8_products.begin(unit)
    for p in range(first_part, last_part):
        sweep_part(unit, p, parts, quantized, sweep, scratch)
    int8_products.end(unit)
