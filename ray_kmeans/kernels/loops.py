"""The loops of the CPU kernel, compiled by numba. They release the GIL and check nothing."""

from __future__ import annotations

import numpy as np
from numba import njit

from ray_kmeans.kernels import COARSE_UNITS
from ray_kmeans.kernels.exact import is_nearer, squared_distance

FAR_AWAY = 1e15
"""A row this many center spreads away could overflow float32; it is settled in float64."""


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def center(rows, scaled_mean, scale, residuals):  # type: ignore[no-untyped-def]
    # Norms are rounded up: 1.01 covers the float32 sum up to d = 200,000, the last term any underflow.
    n, d = rows.shape
    for i in range(n):
        total = np.float32(0.0)
        for column in range(d):
            residual = rows[i, column] * scale - scaled_mean[column]
            residuals[i, column] = residual
            total += residual * residual
        residuals[i, d] = np.float32(1.0)
        residuals[i, d + 1] = np.sqrt(total) * np.float32(1.01) + np.float32(2.0**-60)


@njit(nogil=True, cache=True)
def scan(lows, first, lowest, second, labels):  # type: ignore[no-untyped-def]
    # Rows run along the vector lanes, so the state of a tile stays in the first-level cache.
    panel, n = lows.shape
    if first == 0:
        lowest[:n] = np.inf
        second[:n] = np.inf
        labels[:] = 0
    for j in range(panel):
        label = np.int32(first + j)
        for i in range(n):
            low = lows[j, i]
            before = lowest[i]
            is_lowest = low < before
            rival = before if is_lowest else low
            second[i] = rival if rival < second[i] else second[i]
            lowest[i] = low if is_lowest else before
            labels[i] = label if is_lowest else labels[i]


@njit(nogil=True, cache=True)
def certify(lowest, second, bound_a, bound_b, residuals, labels, upper, certain):  # type: ignore[no-untyped-def]
    n, width = residuals.shape
    for i in range(n):
        norm = residuals[i, width - 1]
        label = labels[i]
        upper[i] = lowest[i] + np.float32(2.0) * (bound_a[label] + bound_b[label] * norm)
        if norm < FAR_AWAY:
            certain[i] = second[i] > upper[i]
        else:  # also where it is not a number
            certain[i] = False
            upper[i] = np.inf


@njit(nogil=True, cache=True)
def settle(rows, centers, lows, first, upper, nearest, squared):  # type: ignore[no-untyped-def]
    panel, n = lows.shape
    for i in range(n):
        for j in range(panel):
            if lows[j, i] > upper[i]:
                continue  # written so that a NaN is a candidate
            candidate = first + j
            distance = squared_distance(rows[i], centers[candidate])
            best = nearest[i]
            if best < 0 or is_nearer(
                rows[i], centers[candidate], distance, centers[best], squared[i]
            ):
                nearest[i] = candidate
                squared[i] = distance


@njit(nogil=True, cache=True)
def accumulate(rows, labels, scale, sums):  # type: ignore[no-untyped-def]
    n, d = rows.shape
    for i in range(n):
        label = labels[i]
        for column in range(d):
            sums[label, column] += np.int64(np.rint(np.float64(rows[i, column]) * scale[column]))


@njit(nogil=True, cache=True)
def move(rows, before, labels, scale, sums):  # type: ignore[no-untyped-def]
    n, d = rows.shape
    for i in range(n):
        old = before[i]
        new = labels[i]
        if old != new:
            for column in range(d):
                units = np.int64(np.rint(np.float64(rows[i, column]) * scale[column]))
                sums[old, column] -= units
                sums[new, column] += units


@njit(nogil=True, cache=True)
def accumulate_squares(rows, scale, half_bits, limbs, coarse):  # type: ignore[no-untyped-def]
    n, d = rows.shape
    half = np.int64(1) << (half_bits - 1)
    for i in range(n):
        for column in range(d):
            units = np.int64(np.rint(np.float64(rows[i, column]) * scale[column]))
            high = (units + half) >> half_bits
            low = units - (high << half_bits)
            limbs[0, column] += high * high
            limbs[1, column] += high * low
            limbs[2, column] += low * low
            coarse[column] += np.int64(abs(units) < COARSE_UNITS and rows[i, column] != 0)


@njit(nogil=True, cache=True)
def distances(rows, columns, result):  # type: ignore[no-untyped-def]
    # Column by column, so that the order of additions does not depend on the vector width.
    n, d = rows.shape
    k = columns.shape[1]
    total = np.empty(k)
    for i in range(n):
        total[:] = 0.0
        for column in range(d):
            x = np.float64(rows[i, column])
            for j in range(k):
                difference = x - np.float64(columns[column, j])
                total[j] += difference * difference
        for j in range(k):
            result[i, j] = np.float32(total[j])


@njit(nogil=True, cache=True)
def distances_to(rows, centers, labels, result):  # type: ignore[no-untyped-def]
    n, d = rows.shape
    for i in range(n):
        total = 0.0
        for column in range(d):
            difference = np.float64(rows[i, column]) - np.float64(centers[labels[i], column])
            total += difference * difference
        result[i] = np.float32(total)


@njit(nogil=True, cache=True)
def fingerprint(bits, keys):  # type: ignore[no-untyped-def]
    n, d = bits.shape
    total = np.uint64(0)
    for i in range(n):
        mixed = np.uint64(0)
        for column in range(d):
            mixed += np.uint64(bits[i, column]) * keys[column]
        mixed = (mixed ^ (mixed >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
        total += mixed ^ (mixed >> np.uint64(33))
    return total
