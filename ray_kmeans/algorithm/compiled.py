"""Loops over all values of rows or centers, compiled by numba, because NumPy makes temporaries.

Every operation is the IEEE one that stands here, in this order: no fused multiplication, no other
order of additions (numba allows neither by itself). A number in two floats is made as in
`double_double`: its value is high + low.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ray_kmeans.process.jit import njit

SPLITTER = 134217729.0  # 2**27 + 1
"""Factor that splits a float64 into halves of 26 bits (Dekker 1971)."""

compiled = njit(nogil=True, error_model="numpy")
"""Decorator that compiles a loop of this module, with NumPy's results for divisions by zero."""


@compiled
def extent(bits: Any, column_max: Any) -> Any:
    """Raise `column_max` to the largest magnitudes; return counts of odd rows.

    `bits` (n, d) int32 IN, `column_max` (d,) int32 IN and OUT. Returns the number of rows that are
    not finite, the first of these (n if there is none), and the number of zero rows.

    All floats are given by their bits: as int32, magnitudes order as they do as floats, with those
    of infinity and NaN the highest.
    """
    n, d = bits.shape
    bad: Any = 0
    zeros: Any = 0
    first: Any = n
    for i in range(n):
        largest = np.int32(0)
        for column in range(d):
            magnitude = bits[i, column] & np.int32(0x7FFFFFFF)
            column_max[column] = max(column_max[column], magnitude)
            largest = max(largest, magnitude)
        if largest >= np.int32(0x7F800000):
            first = min(first, i)
            bad += 1
        zeros += largest == 0
    return bad, first, zeros


@compiled
def means_of(sums: Any, counts: Any, scale: Any, means: Any) -> None:
    """Write sums / (counts * scale) for the clusters that have rows.

    `sums` (k, d) int64 IN, `counts` (k,) int64 IN, `scale` (d,) float64 IN, `means` (k, d) float64
    OUT.
    """
    k, d = sums.shape
    for j in range(k):
        if counts[j] > 0:
            count = np.float64(counts[j])
            for column in range(d):
                means[j, column] = np.float64(sums[j, column]) / (count * scale[column])


@compiled
def add_squared(centers: Any, sums: Any, counts: Any, unit: Any, high: Any, low: Any) -> None:
    """Add c_j (n_j c_j - 2 s_j) of all clusters j to double-double sums, column by column.

    `centers` (k, d) float32 IN, `sums` (k, d) int64 IN, `counts` (k,) int64 IN, `unit` (d,) float64
    IN: value of a whole number of the grid; `high` and `low` (d,) float64 IN and OUT.
    """
    k, d = sums.shape
    for j in range(k):
        count = np.float64(counts[j])
        for column in range(d):
            c = np.float64(centers[j, column])
            s = np.float64(sums[j, column])
            rest = np.float64(sums[j, column] - np.int64(s))
            n_c, n_c_rest = exact_product(count, c)
            factor = -2.0 * unit[column]
            inner, inner_rest = plus(n_c, n_c_rest, s * factor, rest * factor)
            term, term_rest = exact_product(inner, c)
            term, term_rest = exact_sum(term, term_rest + inner_rest * c)
            high[column], low[column] = plus(high[column], low[column], term, term_rest)


@compiled
def add_products(centers: Any, sums: Any, unit: Any, high: Any, low: Any) -> None:
    """Add - c_j s_j of all clusters j to double-double sums, column by column.

    The arguments are those of `add_squared`, without `counts`.
    """
    k, d = sums.shape
    for j in range(k):
        for column in range(d):
            c = -np.float64(centers[j, column])
            s = np.float64(sums[j, column])
            rest = np.float64(sums[j, column] - np.int64(s))
            term, term_rest = exact_product(s * unit[column], c)
            term, term_rest = exact_sum(term, term_rest + rest * unit[column] * c)
            high[column], low[column] = plus(high[column], low[column], term, term_rest)


@compiled
def exact_sum(a: float, b: float) -> Any:
    """Return (s, e) with s + e equal to a + b (Knuth)."""
    s = a + b
    part = s - a
    return s, (a - (s - part)) + (b - part)


@compiled
def _halves(a: float) -> Any:
    """Return (high, low) of 26 bits each, with high + low equal to a."""
    c = SPLITTER * a
    high = c - (c - a)
    return high, a - high


@compiled
def exact_product(a: float, b: float) -> Any:
    """Return (p, e) with p + e equal to a * b, while nothing over- or underflows."""
    p = a * b
    a1, a2 = _halves(a)
    b1, b2 = _halves(b)
    return p, ((a1 * b1 - p) + a1 * b2 + a2 * b1) + a2 * b2


@compiled
def plus(a: float, a_rest: float, b: float, b_rest: float) -> Any:
    """Return the sum of two double-doubles, as (high, low)."""
    s, e = exact_sum(a, b)
    return exact_sum(s, e + (a_rest + b_rest))
