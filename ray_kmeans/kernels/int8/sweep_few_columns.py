"""The sweep for few columns, where looking at scores costs more than products.

Rows are taken as float32: straight from where they are, around one reference, or packed around many
(`float_rows`), where pruning leaves few centers for each part. Next to none are undecided. The
arguments are those of the table in `types`; `packed` is a FloatRows, IN.
docs/internals/exactness.md proves the bounds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ray_kmeans.kernels import F32, I32
from ray_kmeans.kernels.int8.float_rows import load_rows
from ray_kmeans.kernels.int8.nearest import (
    HIGHEST,
    NEVER,
    UNDECIDED,
)
from ray_kmeans.kernels.int8.quantize import ONE, ROOM, SMALL_E, compute_terms
from ray_kmeans.kernels.int8.refine import defer
from ray_kmeans.kernels.int8.refine_by_floats import bound_by_floats
from ray_kmeans.kernels.int8.sweep import update_margin
from ray_kmeans.kernels.int8.types import (
    N_ACTIVE,
    N_CHANGED,
    N_SCORED,
    N_UNDECIDED,
    FloatRows,
    Margin,
    Parts,
    Scratch,
    Sweep,
    Target,
    bare,
    bare_sum,
    zero,
)
from ray_kmeans.kernels.llvm import float_vectors
from ray_kmeans.kernels.llvm.float_vectors import CENTERS_AT_ONCE
from ray_kmeans.kernels.llvm.int8_products import BLOCK_ROWS
from ray_kmeans.kernels.llvm.vectors import LANES

MOST_VALUES = 2**16
"""Values of all centers (k * d) up to which this is faster for rows around one reference, where a
vector holds all their columns, or where no unit is fast."""
WIDE_VALUES = 2**12
"""The same where rows have more columns and products of bytes are cheap."""
SPARSE = 4
"""How many rows that are read where they stand, side by side, cost as much as one active row that
is fetched by itself."""


class FloatCenters(NamedTuple):
    """The centers that pruning keeps for a part, as `scratch.floats` holds them."""

    n_kept: int
    """How many pruning kept."""
    padded: int
    """The same, up to a multiple of CENTERS_AT_ONCE."""
    others: np.float32
    """Where the scores of the centers begin that were not kept."""
    slack: np.float32
    """A, the largest a: one interval length serves all centers of a row."""
    norm: np.float32
    """E, the largest |e|."""
    gamma: np.float32
    """(d + 16) 2^-24, rounded up."""


@bare
def count_active_rows(p: int, parts: Parts, margin: Margin, sweep: Sweep) -> int:
    """Return how many rows of part p have a label that may change; margin: Margin  IN."""
    slots, moves = sweep.slots, sweep.target.moves
    count = zero()
    for block in range(parts.spans[p, 1], parts.spans[p, 2]):
        begin = BLOCK_ROWS * block
        here = 0  # so that LLVM makes vectors of the loop
        for slot in range(begin, begin + BLOCK_ROWS):
            here += not slots.bounds[slot] > moves[slots.labels[slot]] + margin.moves
        count += here
    return count


@bare
def list_active_rows(
    p: int, parts: Parts, margin: Margin, whole: bool, sweep: Sweep, scratch: Scratch
) -> int:
    """List the rows of part p whose label may change in `scratch.active`; return how many.

    margin: Margin  IN
    whole: bool  IN, whether to list all rows of a block with one, which are read side by side
        then; slots must be in the order of the rows
    """
    slots, moves, active = sweep.slots, sweep.target.moves, scratch.active
    count = zero()
    for block in range(parts.spans[p, 1], parts.spans[p, 2]):
        begin = BLOCK_ROWS * block
        here = 0  # of most blocks none, which vectors find out
        for slot in range(begin, begin + BLOCK_ROWS):
            here += not slots.bounds[slot] > moves[slots.labels[slot]] + margin.moves
        sweep.tally[N_ACTIVE] += here
        if here and whole:
            for i in range(BLOCK_ROWS):
                active[count + i] = begin + i
            count += min(BLOCK_ROWS, sweep.rows.firsts[-1] - begin)
        elif here:
            for slot in range(begin, begin + BLOCK_ROWS):
                is_sure = slots.bounds[slot] > moves[slots.labels[slot]] + margin.moves
                active[count] = slot  # the next line lets it count
                count += (not is_sure) & (slots.order[slot] >= 0)
    sweep.tally[N_SCORED] += count
    return count


@bare
def maximum(values: F32) -> np.float32:
    """Return the largest of some float32 (m,), but no less than 0."""
    most = np.float32(0.0)
    for value in values:
        most = max(most, value)
    return most


@bare
def transpose_centers(target: Target, scratch: Scratch) -> None:
    """Write the scaled centers column by column, as `compute_few_terms` takes them."""
    for j in range(target.centers.shape[0]):
        for column in range(target.centers.shape[1]):
            scratch.floats.transposed[column, j] = target.scaled[j, column]


@bare
def compute_few_terms(target: Target, g: F32, scratch: Scratch) -> None:
    """Write the terms of all centers around g, as `compute_terms` does, in vectors of centers."""
    if target.cosine:
        compute_terms(target, g, scratch)
        return
    terms, (k, d) = scratch.terms, target.centers.shape
    kappa = ROOM * np.float32(2 * (d + 16) * 2.0**-24)
    terms.constants[:] = np.float32(0.0)
    for column in range(d):
        add_squared_differences(scratch.floats.transposed[column], g[column], terms.constants)
    for j in range(k):
        terms.norms[j] = np.sqrt(terms.constants[j]) * ROOM + SMALL_E
        terms.slacks[j] = kappa * terms.constants[j] + np.float32(d * 2.0**-100)


@bare_sum
def add_squared_differences(values: F32, less: np.float32, totals: F32) -> None:
    """Add (value - less)^2 to the total of each of k values.

    values: (k or more,) float32  IN; less: float32  IN; totals: (k,) float32  INOUT
    """
    for j in range(len(totals)):
        e = values[j] - less
        totals[j] += e * e


@bare
def prune_in_vectors(radius: np.float32, scratch: Scratch) -> tuple[int, np.float32]:
    """Keep the centers that can be nearest to a row, as `sweep.prune_centers` does, in vectors.

    LLVM makes no vectors of a minimum in one variable, so each lane has one of its own.
    """
    terms, lanes = scratch.terms, scratch.floats.lanes
    k = len(terms.norms)
    reach = np.float32(2.002) * radius
    lanes[:] = HIGHEST
    for first in range(0, k, LANES):
        for lane in range(min(LANES, k - first)):
            j = first + lane
            high = terms.constants[j] + terms.slacks[j] + reach * terms.norms[j]
            lanes[lane] = high if high < lanes[lane] else lanes[lane]
    upper = minimum(lanes)
    upper += abs(upper) * np.float32(2.0**-20)
    lanes[:] = HIGHEST
    count = zero()
    for first in range(0, k, LANES):
        kept = 0
        for lane in range(min(LANES, k - first)):
            low = lower_end(first + lane, reach, scratch)
            is_out = low > upper  # not where it is not a number
            kept += not is_out
            lanes[lane] = low if is_out and low < lanes[lane] else lanes[lane]
        if kept:
            for j in range(first, min(first + LANES, k)):
                # The line after this one lets it count.
                scratch.centers.numbers[min(count, k - 1)] = j
                count += not lower_end(j, reach, scratch) > upper
    return count, minimum(lanes)


@bare
def lower_end(j: int, reach: np.float32, scratch: Scratch) -> np.float32:
    """Return where the scores of center j begin, for rows within reach / 2 of the reference."""
    terms = scratch.terms
    low = terms.constants[j] - terms.slacks[j] - reach * terms.norms[j]
    return low - abs(low) * np.float32(2.0**-20)


@bare
def minimum(values: F32) -> np.float32:
    """Return the least of some float32 (m,) that are numbers."""
    least = values[0]
    for value in values:
        least = min(least, value)
    return least


@bare
def load_centers(
    target: Target, g: F32, n_kept: int, others: np.float32, scratch: Scratch
) -> FloatCenters:
    """Write -2 e and q of the centers that `scratch.centers.numbers` lists.

    others: IN, as in `FloatCenters`
    """
    floats, terms = scratch.floats, scratch.terms
    d = target.centers.shape[1]
    largest_slack = np.float32(0.0)
    largest_norm = np.float32(0.0)
    for i in range(n_kept):
        j = scratch.centers.numbers[i]
        for column in range(d):
            e = target.scaled[j, column] * ONE - g[column]
            floats.centers[i, column] = np.float32(-2.0) * e
        floats.constants[i] = terms.constants[j]
        slack, norm = terms.slacks[j], terms.norms[j]
        largest_slack = max(largest_slack, slack if slack < HIGHEST else HIGHEST)
        largest_norm = max(largest_norm, norm if norm < HIGHEST else HIGHEST)
    # Up to a whole group, with centers whose scores are above any real one.
    padded = (n_kept + CENTERS_AT_ONCE - 1) // CENTERS_AT_ONCE * CENTERS_AT_ONCE
    floats.centers[n_kept:padded] = np.float32(0.0)
    floats.constants[n_kept:padded] = NEVER
    return FloatCenters(
        n_kept=n_kept,
        padded=padded,
        others=others,
        slack=largest_slack,
        norm=largest_norm,
        gamma=ROOM * np.float32((d + 16) * 2.0**-24),
    )


@bare
def certify_block(centers: FloatCenters, most: np.float32, scratch: Scratch) -> None:
    """Write the bounds of 32 rows, by the two lowest scores of each.

    Nothing is looked up by an index that was loaded, so that the loop is one of vectors.

    centers: FloatCenters  IN; most: float32  IN, the largest bound
    """
    floats, bounds = scratch.floats, scratch.rows.bounds
    lowest, second = floats.found[0], floats.found[1]
    for i in range(BLOCK_ROWS):
        bounds[i] = bound_by_floats(
            floats.squares[i],
            lowest[i],
            second[i],
            centers.others,
            centers.slack,
            centers.gamma,
            centers.norm,
            most,
        )


@bare
def store_rows(
    some: I32, centers: FloatCenters, sweep: Sweep, part_moves: np.float32, scratch: Scratch
) -> None:
    """Store the labels and bounds of some rows; defer those that are undecided to the caller.

    To quantize all centers for a few rows would cost more than to compare these with all centers.

    some: (up to 32,) int32  IN, their slots; centers: FloatCenters  IN
    part_moves: float32  IN, how far centers near the part have come
    """
    slots, target, bounds = sweep.slots, sweep.target, scratch.rows.bounds
    n_changed = sweep.tally[N_CHANGED]
    for i in range(len(some)):
        slot = some[i]
        # Where no score was a number, the place may be that of a padding center.
        place = min(scratch.floats.nearest[i], np.int32(centers.n_kept - 1))
        before, label = slots.labels[slot], scratch.centers.numbers[place]
        is_undecided = bounds[i] == UNDECIDED
        label = before if is_undecided else label
        bound = bounds[i] - target.safe_gap + (target.moves[label] + part_moves)
        bound -= abs(bound) * np.float32(2.0**-20)
        slots.labels[slot] = label
        # Moves may be infinite, and would make a bound of a row that has none.
        slots.bounds[slot] = UNDECIDED if is_undecided else bound
        # A branch less: there is room, as this row is not yet listed.
        sweep.changed[n_changed] = slot
        n_changed += label != before
        if is_undecided:
            defer(slot, sweep.changed, sweep.tally)
            sweep.tally[N_UNDECIDED] += 1
    sweep.tally[N_CHANGED] = n_changed


@bare
def score_rows(
    n_active: int,
    g: F32,
    centers: FloatCenters,
    margin: Margin,
    packed: FloatRows,
    sweep: Sweep,
    scratch: Scratch,
) -> None:
    """Label the rows that `scratch.active` lists, 32 at a time.

    n_active: int  IN, how many these are; centers: FloatCenters  IN; margin: Margin  IN
    """
    d = packed.columns.shape[1]
    for first in range(0, n_active, BLOCK_ROWS):
        some = scratch.active[first : min(first + BLOCK_ROWS, n_active)]
        float_vectors.nearest_two(
            load_rows(some, sweep, packed, g, scratch),
            d,
            scratch.floats.centers.ctypes.data,
            scratch.floats.constants.ctypes.data,
            centers.padded,
            scratch.floats.found.ctypes.data,
        )
        certify_block(centers, margin.most, scratch)
        store_rows(some, centers, sweep, margin.moves, scratch)


@bare
def sweep_part_as_it_is(
    p: int,
    parts: Parts,
    g: F32,
    centers: FloatCenters,
    packed: FloatRows,
    sweep: Sweep,
    scratch: Scratch,
) -> None:
    """Label the rows of part p, which are not packed, by all centers; centers: FloatCenters  IN."""
    moves = (parts.moves[p] + maximum(sweep.target.step)) * np.float32(1 + 2.0**-20)
    parts.moves[p] = moves
    margin = Margin(most=HIGHEST, moves=moves)
    rows = BLOCK_ROWS * (parts.spans[p, 2] - parts.spans[p, 1])
    whole = SPARSE * count_active_rows(p, parts, margin, sweep) >= rows
    n_active = list_active_rows(p, parts, margin, whole, sweep, scratch)
    score_rows(n_active, g, centers, margin, packed, sweep, scratch)


@bare
def sweep_packed_part(
    p: int, parts: Parts, packed: FloatRows, sweep: Sweep, scratch: Scratch
) -> None:
    """Label the rows of part p, which are packed, by the centers that can be nearest to one."""
    g = packed.references[parts.spans[p, 0]]
    compute_few_terms(sweep.target, g, scratch)
    # Before anything may return: moves that are not noted now would be missing from all bounds.
    margin = update_margin(parts, p, sweep.slots, sweep.target, scratch)
    n_active = list_active_rows(p, parts, margin, False, sweep, scratch)
    if n_active:
        n_kept, others = prune_in_vectors(parts.radii[p], scratch)
        centers = load_centers(sweep.target, g, n_kept, others, scratch)
        score_rows(n_active, g, centers, margin, packed, sweep, scratch)


@bare
def keep_all(k: int, scratch: Scratch) -> None:
    """List all k centers as kept."""
    for j in range(k):
        scratch.centers.numbers[j] = j


@bare
def sweep_parts_by_floats(
    first_part: int,
    last_part: int,
    parts: Parts,
    packed: FloatRows,
    sweep: Sweep,
    scratch: Scratch,
) -> None:
    """Label the rows of the parts from `first_part` to `last_part`.

    Rows that are not packed share one reference, for which centers are prepared once.
    """
    target, k = sweep.target, len(sweep.target.centers)
    if len(packed.columns):
        transpose_centers(target, scratch)
        for p in range(first_part, last_part):
            sweep_packed_part(p, parts, packed, sweep, scratch)
        return
    g = packed.references[0]
    compute_terms(target, g, scratch)
    keep_all(k, scratch)
    centers = load_centers(target, g, k, HIGHEST, scratch)
    for p in range(first_part, last_part):
        sweep_part_as_it_is(p, parts, g, centers, packed, sweep, scratch)
