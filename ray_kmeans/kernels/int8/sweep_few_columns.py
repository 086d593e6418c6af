"""The sweep for few columns and centers, where looking at scores costs more than products.

Rows are taken as float32, straight from where they are and in their own order: there is no copy,
and next to none are undecided. The arguments are those of the table in `types`, but for
`reference`, (columns,) float32 IN, which stands in the place of `quantized`.
docs/internals/exactness.md proves the bounds.
"""

from __future__ import annotations

import numpy as np

from ray_kmeans.kernels import F32
from ray_kmeans.kernels.int8.nearest import (
    HIGHEST,
    NEVER,
    UNDECIDED,
)
from ray_kmeans.kernels.int8.quantize import (
    ONE,
    ROOM,
    address_of,
    compute_terms,
)
from ray_kmeans.kernels.int8.refine import defer
from ray_kmeans.kernels.int8.refine_by_floats import bound_by_floats, lengthen
from ray_kmeans.kernels.int8.types import (
    N_ACTIVE,
    N_CHANGED,
    N_SCORED,
    N_UNDECIDED,
    Parts,
    Rows,
    Scratch,
    Slots,
    Sweep,
    Target,
    bare,
    zero,
)
from ray_kmeans.kernels.llvm import float_vectors
from ray_kmeans.kernels.llvm.float_vectors import CENTERS_AT_ONCE
from ray_kmeans.kernels.llvm.int8_products import BLOCK_ROWS
from ray_kmeans.kernels.llvm.vectors import (
    LANES,
    floats_at,
    prefetch,
)

MOST_VALUES = 2**12
"""Values of all centers (k * d) up to which this is the faster way."""


@bare
def count_active_rows(slots: Slots, block: int, moves: F32, part_moves: np.float32) -> int:
    """Return how many rows of a block have a label that may change.

    moves: (k,) float32  IN; part_moves: float32  IN, as for `sweep.find_active_blocks`
    """
    count = 0
    for slot in range(BLOCK_ROWS * block, BLOCK_ROWS * block + BLOCK_ROWS):
        count += not slots.bounds[slot] > moves[slots.labels[slot]] + part_moves
    return count


@bare
def maximum(values: F32) -> np.float32:
    """Return the largest of some float32 (m,), but no less than 0."""
    most = np.float32(0.0)
    for value in values:
        most = max(most, value)
    return most


@bare
def load_centers(target: Target, g: F32, scratch: Scratch) -> tuple[int, np.float32, np.float32]:
    """Write -2 e and q of all centers, up to whole groups of 8; return how many they are, A and E.

    A is the largest a and E the largest |e|: one interval length serves all centers of a row.
    """
    floats, terms = scratch.floats, scratch.terms
    k, d = target.centers.shape
    largest_slack = np.float32(0.0)
    largest_norm = np.float32(0.0)
    for j in range(k):
        for column in range(d):
            e = target.scaled[j, column] * ONE - g[column]
            floats.centers[j, column] = np.float32(-2.0) * e
        floats.constants[j] = terms.constants[j]
        largest_slack, largest_norm = lengthen(largest_slack, largest_norm, j, scratch)
    # Up to a whole group of 8, with centers whose scores are above any real one.
    padded = (k + CENTERS_AT_ONCE - 1) // CENTERS_AT_ONCE * CENTERS_AT_ONCE
    floats.centers[k:padded] = np.float32(0.0)
    floats.constants[k:padded] = NEVER
    return padded, largest_slack, largest_norm


@bare
def address_of_block(rows: Rows, first: int, count: int, d: int, scratch: Scratch) -> int:
    """Return an address where some rows follow each other: their own, or a copy's.

    A block that crosses the end of what was handed in, or that is not full, is copied.

    first, count: int  IN, the number of the first row, and of how many
    """
    copied = scratch.floats.copied
    address = address_of(rows, first, d)
    end = address_of(rows, first + count - 1, d)
    if count == BLOCK_ROWS and end == address + (count - 1) * d * 4:
        return address
    for i in range(count):
        x = floats_at(address_of(rows, first + i, d), d)
        for column in range(d):
            copied[d * i + column] = x[column]
    return copied.ctypes.data


@bare
def fetch_next(address: int, d: int) -> None:
    """Ask for the 32 rows behind those at an address: most of the time were waiting, else."""
    size = 4 * d * BLOCK_ROWS
    for line in range(address + size, address + 2 * size, 64):
        prefetch(line)


@bare
def load_rows(address: int, d: int, scale: np.float32, g: F32, scratch: Scratch) -> None:
    """Put 32 rows relative to g into `scratch.floats.columns`, and add up their squares.

    address: int  IN, of 32 rows (32, d) float32, C order; scale: float32  IN
    """
    floats = scratch.floats
    floats.squares[:] = np.float32(0.0)
    for lane in range(0, BLOCK_ROWS, LANES):
        columns = floats.columns.ctypes.data + 4 * lane
        squares = floats.squares.ctypes.data + 4 * lane
        for first in range(0, d, LANES):
            float_vectors.transpose(
                address + 4 * d * lane, d, first, scale, g.ctypes.data, columns, squares
            )


@bare
def certify_block(
    slack: np.float32, norm: np.float32, gamma: np.float32, most: np.float32, scratch: Scratch
) -> None:
    """Write the bounds of 32 rows, by the two lowest scores of each.

    Nothing is looked up by an index that was loaded, so that the loop is one of vectors.

    slack, norm: float32  IN, A and E of `load_centers`
    gamma: float32  IN, (d + 16) 2^-24, rounded up
    most: float32  IN, the largest bound
    """
    floats, bounds = scratch.floats, scratch.rows.bounds
    lowest, second = floats.found[0], floats.found[1]
    for i in range(BLOCK_ROWS):
        bounds[i] = bound_by_floats(
            floats.squares[i], lowest[i], second[i], np.float32(np.inf), slack, gamma, norm, most
        )


@bare
def store_block(
    first: int, count: int, n_undecided: int, sweep: Sweep, part_moves: np.float32, scratch: Scratch
) -> int:
    """Store the labels and bounds of a block, and list its undecided rows in `scratch.undecided`.

    There is no branch: a slot is written to both lists, and counts in the one that it belongs to.

    first, count: int  IN, the slot of the first row, and of how many
    n_undecided: int  IN, how many slots are listed; returned as it is then
    part_moves: float32  IN, how far centers near the part have come
    """
    slots, target, bounds = sweep.slots, sweep.target, scratch.rows.bounds
    n_changed = sweep.tally[N_CHANGED]
    for i in range(count):
        slot = first + i
        before, label = slots.labels[slot], scratch.floats.nearest[i]
        is_undecided = bounds[i] == UNDECIDED
        label = before if is_undecided else label
        bound = bounds[i] - target.safe_gap + (target.moves[label] + part_moves)
        slots.labels[slot] = label
        slots.bounds[slot] = bound - abs(bound) * np.float32(2.0**-20)
        sweep.changed[n_changed] = slot  # there is room, as this row is not yet listed
        n_changed += label != before
        scratch.undecided[n_undecided] = slot
        n_undecided += is_undecided
    sweep.tally[N_CHANGED] = n_changed
    return n_undecided


@bare
def score_block(address: int, g: F32, padded: int, sweep: Sweep, scratch: Scratch) -> None:
    """Write the two lowest scores of 32 rows among all centers to `scratch.floats.found`.

    address: int  IN, of 32 rows (32, d) float32, C order
    padded: int  IN, how many centers `load_centers` wrote
    """
    floats, d = scratch.floats, sweep.target.centers.shape[1]
    load_rows(address, d, sweep.target.scale, g, scratch)
    float_vectors.nearest_two(
        floats.columns.ctypes.data,
        d,
        floats.centers.ctypes.data,
        floats.constants.ctypes.data,
        padded,
        floats.found.ctypes.data,
    )


@bare
def sweep_part_by_floats(
    p: int,
    parts: Parts,
    g: F32,
    interval: tuple[int, np.float32, np.float32],
    sweep: Sweep,
    scratch: Scratch,
) -> None:
    """Label the rows of part p; those that float32 leaves undecided are deferred to the caller.

    To quantize all centers for a few rows would cost more than to compare these with all centers.

    g: (columns,) float32  IN, the reference; interval: what `load_centers` returned
    """
    target = sweep.target
    d = target.centers.shape[1]
    padded, slack, norm = interval
    gamma = ROOM * np.float32((d + 16) * 2.0**-24)
    parts.moves[p] = (parts.moves[p] + maximum(target.step)) * np.float32(1 + 2.0**-20)
    moves = parts.moves[p]
    n_undecided = zero()
    for block in range(parts.spans[p, 1], parts.spans[p, 2]):
        active_rows = count_active_rows(sweep.slots, block, target.moves, moves)
        if active_rows == 0:
            continue
        sweep.tally[N_ACTIVE] += active_rows
        sweep.tally[N_SCORED] += BLOCK_ROWS
        first = BLOCK_ROWS * block
        # Slots are in the order of the rows here, so the first slot is the number of the first row.
        count = min(BLOCK_ROWS, sweep.rows.firsts[-1] - first)
        address = address_of_block(sweep.rows, first, count, d, scratch)
        fetch_next(address, d)
        score_block(address, g, padded, sweep, scratch)
        certify_block(slack, norm, gamma, HIGHEST, scratch)
        n_undecided = store_block(first, count, n_undecided, sweep, moves, scratch)
    sweep.tally[N_UNDECIDED] += n_undecided
    for i in range(n_undecided):
        defer(scratch.undecided[i], sweep.changed, sweep.tally)


@bare
def sweep_parts_by_floats(
    first_part: int, last_part: int, parts: Parts, reference: F32, sweep: Sweep, scratch: Scratch
) -> None:
    """Label the rows of the parts from `first_part` to `last_part`, which share a reference."""
    compute_terms(sweep.target, reference, scratch)
    interval = load_centers(sweep.target, reference, scratch)
    for p in range(first_part, last_part):
        sweep_part_by_floats(p, parts, reference, interval, sweep, scratch)
