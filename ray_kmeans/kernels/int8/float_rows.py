"""Rows of few columns as float32: 32 of them relative to a reference, column by column.

They are read from where they are, or were packed before: rows of one reference side by side, as
`quantize` does it with bytes. The arguments are those of the table in `types`.
"""

from __future__ import annotations

import numpy as np

from ray_kmeans.kernels import F32, I32
from ray_kmeans.kernels.int8.quantize import AHEAD, ROOM, SMALL_R, address_of, fetch_row
from ray_kmeans.kernels.int8.types import (
    FloatRows,
    Parts,
    Rows,
    Scratch,
    Sweep,
    bare,
    start_of,
)
from ray_kmeans.kernels.llvm import float_vectors
from ray_kmeans.kernels.llvm.int8_products import BLOCK_ROWS
from ray_kmeans.kernels.llvm.vectors import LANES, floats_at, prefetch


@bare
def pack_parts(
    first_part: int,
    last_part: int,
    parts: Parts,
    rows: Rows,
    order: I32,
    scale: np.float32,
    packed: FloatRows,
) -> None:
    """Write the rows of the parts from `first_part` to `last_part` relative to their references.

    order: (slots,) int32  IN, numbers of rows; a slot of row -1 is empty
    packed: OUT, but for its references
    """
    columns, d = packed.columns, packed.columns.shape[1]
    for p in range(first_part, last_part):
        group, first_block, last_block = parts.spans[p]
        g, last = packed.references[group], BLOCK_ROWS * last_block
        largest = np.float32(0.0)
        for slot in range(BLOCK_ROWS * first_block, last):
            if slot + AHEAD < last:
                fetch_row(rows, order[slot + AHEAD], d)
            block, lane = slot // BLOCK_ROWS, slot % BLOCK_ROWS
            squares = np.float32(0.0)
            if order[slot] < 0:
                columns[block, :, lane] = squares
                continue
            x = floats_at(address_of(rows, order[slot], d), d)
            for column in range(d):
                r = x[column] * scale - g[column]
                columns[block, column, lane] = r
                squares += r * r
            # Written so that squares that are not a number make the radius infinite.
            if not squares <= largest:
                largest = squares if squares == squares else np.float32(np.inf)
        parts.radii[p] = np.sqrt(largest) * ROOM + SMALL_R


@bare
def load_rows(some: I32, sweep: Sweep, packed: FloatRows, g: F32, scratch: Scratch) -> int:
    """Return the address of some rows relative to g, (d, 32); write their squares.

    some: (up to 32,) int32  IN, their slots
    The squares are in `scratch.floats.squares`.
    """
    d = packed.columns.shape[1]
    columns = start_of(scratch.floats.columns)
    if len(packed.columns):
        columns = find_packed(some, packed, scratch)
        add_squares(columns, d, scratch.floats.squares)
    else:
        address = address_of_rows(some, sweep, d, scratch)
        transpose(address, d, sweep.target.scale, g, scratch)
    return columns


@bare
def find_packed(some: I32, packed: FloatRows, scratch: Scratch) -> int:
    """Return the address of some packed rows (d, 32); if they are not one block, of copies.

    some: (up to 32,) int32  IN, their slots
    """
    block, lane = some[0] // BLOCK_ROWS, some[0] % BLOCK_ROWS
    if lane == 0 and is_run(some):
        return start_of(packed.columns) + 4 * BLOCK_ROWS * packed.columns.shape[1] * block
    for column in range(packed.columns.shape[1]):
        for i in range(len(some)):
            block, lane = some[i] // BLOCK_ROWS, some[i] % BLOCK_ROWS
            scratch.floats.columns[column, i] = packed.columns[block, column, lane]
    return start_of(scratch.floats.columns)


@bare
def is_run(some: I32) -> bool:
    """Tell whether some slots, which ascend, are 32 that follow each other."""
    return len(some) == BLOCK_ROWS and some[-1] == some[0] + BLOCK_ROWS - 1


@bare
def add_squares(columns: int, d: int, squares: F32) -> None:
    """Write |r|^2 of 32 rows; columns: int  IN, address of (d, 32); squares: (32,) float32  OUT."""
    squares[:] = np.float32(0.0)
    for column in range(d):
        line = floats_at(columns + 4 * BLOCK_ROWS * column, BLOCK_ROWS)
        for i in range(BLOCK_ROWS):
            squares[i] += line[i] * line[i]


@bare
def address_of_rows(some: I32, sweep: Sweep, d: int, scratch: Scratch) -> int:
    """Return an address where some rows follow each other: their own, or a copy's.

    A block that crosses the end of what was handed in, or that is not full, is copied. The slots
    are in the order of the rows here.

    some: (up to 32,) int32  IN, their slots
    """
    rows, order, copied = sweep.rows, sweep.slots.order, scratch.floats.copied
    if is_run(some):
        address = address_of(rows, order[some[0]], d)
        end = address_of(rows, order[some[-1]], d)
        if end == address + (BLOCK_ROWS - 1) * d * 4:
            fetch_next(address, d)
            return address
    for i in range(len(some)):
        x = floats_at(address_of(rows, order[some[i]], d), d)
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
def transpose(address: int, d: int, scale: np.float32, g: F32, scratch: Scratch) -> None:
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
