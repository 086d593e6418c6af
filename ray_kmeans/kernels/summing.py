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
from typing import Any

import numpy as np

from ray_kmeans.kernels import COARSE_UNITS
from ray_kmeans.kernels.int8.quantize import AHEAD, address_of, fetch_row
from ray_kmeans.kernels.llvm import vectors
from ray_kmeans.process.jit import njit

FEW_MOVES = 1024
"""Up to this many rows, one thread moves them: waking others would cost more."""


@njit(nogil=True)
def accumulate(rows, labels, scale, sums, weights):
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
    rows: Any, moves: Any, labels: Any, scale: Any, sums: Any, weights: Any, threads: Any
) -> None:
    """Move rows between the sums of clusters, in threads.

    Each thread takes some of the moves, with sums of its own, where these are small beside the rows.
    Else all threads look at all moves, and a cluster belongs to one of them.

    rows: Rows  IN, where all rows are
    moves: Moves  IN; labels: of all rows now
    """
    everything = (rows, *moves, labels[moves.rows], scale, weights)
    count = len(moves.rows)
    if count <= FEW_MOVES or threads.count == 1:
        _move(*everything, sums, 0, count, 0, 1)
    elif threads.count * len(sums) <= count:
        cuts = [count * part // threads.count for part in range(threads.count + 1)]
        work = [(*everything, np.zeros_like(sums), *cut, 0, 1) for cut in pairwise(cuts)]
        for each in threads.run(_move, work):
            sums += each
    else:
        parts = range(threads.count)
        threads.run(_move, [(*everything, sums, 0, count, part, threads.count) for part in parts])


@njit(nogil=True, error_model="numpy")
def _move(rows, numbers, before, after, scale, weights, sums, begin, end, part, of):
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
def _add(row, scale, total, times):
    """Add a row (d,) to one sum (d,), `times` times."""
    for column in range(len(row)):
        total[column] += times * np.int64(vectors.whole(np.float64(row[column]) * scale[column]))


@njit(nogil=True, _nrt=False)
def _shift(row, scale, old, new, times):
    """Move a row (d,) from one sum (d,) to another, `times` times."""
    for column in range(len(row)):
        units = times * np.int64(vectors.whole(np.float64(row[column]) * scale[column]))
        old[column] -= units
        new[column] += units


@njit(nogil=True)
def accumulate_squares(rows, scale, half_bits, limbs, coarse, weights):
    """Add the squares of the rows column by column, see `Kernel.accumulate_squares`.

    half_bits: int  IN; limbs: (3, d) int64  INOUT; coarse: (d,) int64  INOUT
    """
    n, d = rows.shape
    half = np.int64(1) << (half_bits - 1)
    for i in range(n):
        times = weights[i] if len(weights) else 1
        for column in range(d):
            units = np.int64(vectors.whole(np.float64(rows[i, column]) * scale[column]))
            high = (units + half) >> half_bits
            low = units - (high << half_bits)
            # Both fit 32 bits, as a float32 has 24: their products are cheaper so.
            high, low = np.int64(np.int32(high)), np.int64(np.int32(low))
            limbs[0, column] += times * (high * high)
            limbs[1, column] += times * (high * low)
            limbs[2, column] += times * (low * low)
            coarse[column] += np.int64(abs(units) < COARSE_UNITS and rows[i, column] != 0)
