"""Sums of rows in whole units of the grid, compiled by numba.

They are integers, so that no order, split or thread changes a bit. Arguments that loops share:

    rows       (n, d)   float32  IN     C order
    labels     (n,)     int32    IN
    scale      (d,)     float64  IN     units of the grid per 1.0
    sums       (k, d)   int64    INOUT
    weights    (n,)     int64    IN     how often each row counts, or ALIKE
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.kernels import COARSE_UNITS, F32, F64, I32, I64, Moves
from ray_kmeans.kernels.int8.quantize import AHEAD, address_of, fetch_row
from ray_kmeans.kernels.int8.types import Rows
from ray_kmeans.kernels.llvm import vectors
from ray_kmeans.kernels.threads import Threads
from ray_kmeans.process.jit import njit

FEW_MOVES = 1024
"""Up to this many rows, one thread moves them: waking others would cost more."""


@njit(nogil=True)
def accumulate(rows: F32, labels: I32, scale: F64, sums: I64, weights: I64) -> None:
    """Add rows to the sums of their clusters."""
    n, d = rows.shape
    for i in range(n):
        label = labels[i]
        times = weights[i] if len(weights) else 1
        for column in range(d):
            sums[label, column] += times * np.int64(
                vectors.whole(np.float64(rows[i, column]) * scale[column])
            )


def move_rows(
    rows: Rows,
    moves: Moves,
    labels: I32,
    scale: F64,
    sums: I64,
    weights: I64,
    threads: Threads,
) -> None:
    """Move rows between the sums of clusters, in threads.

    Each thread takes some of the moves, with sums of its own, where these are small beside the
    rows. Else all threads look at all moves, and a cluster belongs to one of them: no lock is
    needed, and no memory for other sums.

    rows: Rows  IN, where all rows are
    moves: Moves  IN; labels: of all rows now
    """
    after = labels[moves.rows]

    def move(sums: I64, begin: int, end: int, part: int = 0, of: int = 1) -> I64:
        return _move(
            rows, moves.rows, moves.before, after, scale, weights, sums, begin, end, part, of
        )

    count = len(moves.rows)
    if count <= FEW_MOVES or threads.count == 1:
        move(sums, 0, count)
    elif threads.count * len(sums) <= count:
        cuts = [count * part // threads.count for part in range(threads.count + 1)]
        for each in threads.run(move, [(np.zeros_like(sums), *cut) for cut in pairwise(cuts)]):
            sums += each
    else:
        parts = range(threads.count)
        threads.run(move, [(sums, 0, count, part, threads.count) for part in parts])


@njit(nogil=True, error_model="numpy")
def _move(
    rows: Rows,
    numbers: NDArray[np.integer],
    before: I32,
    after: I32,
    scale: F64,
    weights: I64,
    sums: I64,
    begin: int,
    end: int,
    part: int,
    of: int,
) -> I64:
    """Take the moves from `begin` to `end` that concern some clusters into their sums.

    rows: Rows  IN; numbers: (m,)  IN, of the moved rows
    before, after: (m,) int32  IN, their labels; -1 before for none
    part, of: int  IN, only clusters j with j % of == part are changed
    """
    d = sums.shape[1]
    for i in range(begin, end):
        if i + AHEAD < end:
            fetch_row(rows, numbers[i + AHEAD], d)
        old, new = before[i], after[i]
        leaves, enters = old >= 0 and old % of == part, new % of == part
        if leaves or enters:
            row = vectors.floats_at(address_of(rows, numbers[i], d), d)
            times = weights[numbers[i]] if len(weights) else 1
            if leaves and enters:
                _shift(row, scale, sums[old], sums[new], times)
            elif leaves:
                _add(row, scale, sums[old], -times)
            else:
                _add(row, scale, sums[new], times)
    return sums


@njit(nogil=True, _nrt=False)
def _add(row: F32, scale: F64, total: I64, times: int) -> None:
    """Add a row (d,) to one sum (d,), `times` times."""
    # Rounded by the one rule of the grid before it is multiplied, so that a row leaves a sum with
    # the very number that it came with.
    for column in range(len(row)):
        total[column] += times * np.int64(vectors.whole(np.float64(row[column]) * scale[column]))


@njit(nogil=True, _nrt=False)
def _shift(row: F32, scale: F64, old: I64, new: I64, times: int) -> None:
    """Move a row (d,) from one sum (d,) to another, `times` times."""
    for column in range(len(row)):
        units = times * np.int64(vectors.whole(np.float64(row[column]) * scale[column]))
        old[column] -= units
        new[column] += units


@njit(nogil=True)
def accumulate_squares(
    rows: F32, scale: F64, half_bits: int, limbs: I64, coarse: I64, weights: I64
) -> None:
    """Add the squares of the rows column by column, see `Kernel.accumulate_squares`.

    half_bits: int  IN; limbs: (3, d) int64  INOUT; coarse: (d,) int64  INOUT
    """
    n, d = rows.shape
    half = np.int64(1) << (half_bits - 1)
    for i in range(n):
        times = weights[i] if len(weights) else 1
        for column in range(d):
            units = np.int64(vectors.whole(np.float64(rows[i, column]) * scale[column]))
            # With half a step added, |l| is at most 2^(half_bits - 1): squares take 2 bits less.
            high = (units + half) >> half_bits
            low = units - (high << half_bits)
            # Both fit 32 bits, as a float32 has 24: their products are cheaper so.
            high, low = np.int64(np.int32(high)), np.int64(np.int32(low))
            limbs[0, column] += times * (high * high)
            limbs[1, column] += times * (high * low)
            limbs[2, column] += times * (low * low)
            coarse[column] += np.int64(abs(units) < COARSE_UNITS and rows[i, column] != 0)
