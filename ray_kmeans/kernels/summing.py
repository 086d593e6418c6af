"""Sums of rows in whole units of the grid, compiled by numba."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from ray_kmeans.kernels import COARSE_UNITS
from ray_kmeans.kernels.int8.quantize import AHEAD, address_of, fetch_row
from ray_kmeans.kernels.llvm import avx512
from ray_kmeans.process.jit import njit

FEW_MOVES = 1024
"""Rows up to which one thread moves them."""


@njit(nogil=True)
def accumulate(rows, labels, scale, sums, weights):
    n, d = rows.shape
    for i in range(n):
        label = labels[i]
        times = weights[i] if len(weights) else 1
        for column in range(d):
            sums[label, column] += times * np.int64(
                avx512.whole(np.float64(rows[i, column]) * scale[column])
            )


def move_rows(
    rows: Any, moves: Any, labels: Any, scale: Any, sums: Any, weights: Any, threads: Any
) -> None:
    """Move rows between the sums of clusters, in threads.

    Each takes some of the moves, with sums of its own, where these are small beside the rows; else a
    cluster belongs to one thread.
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
    """Take moves from `begin` to `end` that concern the clusters of a part into its sums."""
    d = sums.shape[1]
    for i in range(begin, end):
        if i + AHEAD < end:
            fetch_row(rows, numbers[i + AHEAD], d)
        old, new = before[i], after[i]
        leaves, enters = old >= 0 and old % of == part, new % of == part
        if leaves or enters:
            row = avx512.floats_at(address_of(rows, numbers[i], d), d)
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
    for column in range(len(row)):
        total[column] += times * np.int64(avx512.whole(np.float64(row[column]) * scale[column]))


@njit(nogil=True, _nrt=False)
def _shift(row, scale, old, new, times):
    for column in range(len(row)):
        units = times * np.int64(avx512.whole(np.float64(row[column]) * scale[column]))
        old[column] -= units
        new[column] += units


@njit(nogil=True)
def accumulate_squares(rows, scale, half_bits, limbs, coarse, weights):
    n, d = rows.shape
    half = np.int64(1) << (half_bits - 1)
    for i in range(n):
        times = weights[i] if len(weights) else 1
        for column in range(d):
            units = np.int64(avx512.whole(np.float64(rows[i, column]) * scale[column]))
            high = (units + half) >> half_bits
            low = units - (high << half_bits)
            # Both fit 32 bits, as a float32 has 24: their products are cheaper so.
            high, low = np.int64(np.int32(high)), np.int64(np.int32(low))
            limbs[0, column] += times * (high * high)
            limbs[1, column] += times * (high * low)
            limbs[2, column] += times * (low * low)
            coarse[column] += np.int64(abs(units) < COARSE_UNITS and rows[i, column] != 0)
