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

PERMUTED_AT_ONCE = 512
"""Places that `permute` takes through all rounds at once: they stay in the first-level cache."""

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


@compiled
def add_mantissas(bits: Any, low_bits: Any, high: Any, low: Any) -> None:
    """Add the mantissas of non-negative floats to two sums for each exponent.

    `bits` (n,) uint64 IN, of the floats; `high`, `low` (2048,) int64 IN and OUT, sums of the upper
    part of the mantissas and of the lower one, which has `low_bits` bits; by the exponent's bits.
    """
    mask = (np.int64(1) << low_bits) - 1
    for i in range(len(bits)):
        exponent = np.int64(bits[i] >> np.uint64(52)) & np.int64(0x7FF)
        mantissa = np.int64(bits[i] & np.uint64(0xFFFFFFFFFFFFF))
        if exponent == 0:
            exponent = np.int64(1)  # below the normal floats, whose mantissas have a leading 1
        else:
            mantissa += np.int64(1) << 52
        high[exponent] += mantissa >> low_bits
        low[exponent] += mantissa & mask


@compiled
def add_by_cluster(bits: Any, labels: Any, weights: Any, lowest: Any, digits: Any) -> None:
    """Add each float times its weight to the sum of its cluster, exactly.

    `bits` (n,) uint64 IN, of floats from 0 on; `labels` (n,) int32 IN; `weights` (n,) int64 IN, or
    (0,) where all are 1; `lowest` IN: binary exponent of the lowest digit; `digits` (k, m) int64 IN
    and OUT: sums as digits of 32 bits, the lowest first. The digits need `carry` before they have
    taken 2**28 rows.
    """
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    for i in range(len(bits)):
        if bits[i] == 0:
            continue
        exponent = np.int64(bits[i] >> np.uint64(52))
        mantissa = bits[i] & np.uint64(0xFFFFFFFFFFFFF)
        if exponent == 0:
            exponent = np.int64(1)  # below the normal floats, whose mantissas have a leading 1
        else:
            mantissa |= np.uint64(1) << np.uint64(52)
        place = exponent - 1075 - lowest
        shift = np.uint64(place & 31)
        low = (mantissa & mask) << shift
        high = ((mantissa >> half) << shift) + (low >> half)
        times = np.uint64(1) if len(weights) == 0 else np.uint64(weights[i])
        sums = digits[labels[i], place >> 5 :]
        _add_product(low & mask, times, sums)
        _add_product(high & mask, times, sums[1:])
        _add_product(high >> half, times, sums[2:])


@compiled
def _add_product(digit: Any, times: Any, sums: Any) -> None:
    """Add a digit times a whole number below 2**62 to the digits from its place on."""
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    low, high = digit * (times & mask), digit * (times >> half)
    sums[0] += np.int64(low & mask)
    sums[1] += np.int64(low >> half) + np.int64(high & mask)
    sums[2] += np.int64(high >> half)


@compiled
def carry(digits: Any) -> None:
    """Bring all digits (k, m) int64 IN and OUT, each from 0 on, below 2**32; the sums stay."""
    k, m = digits.shape
    for j in range(k):
        over = np.int64(0)
        for place in range(m):
            here = digits[j, place] + over
            digits[j, place] = here & np.int64(0xFFFFFFFF)
            over = here >> np.int64(32)


@compiled
def match(cost: Any, partner: Any) -> None:
    """Write the column that each row is matched with, at the least total cost (Kuhn and Munkres).

    `cost` (n, m) int64 IN with n <= m; `partner` (n,) int64 OUT. Shortest augmenting paths with
    potentials, one row after the other: time O(n^2 m), exact.
    """
    n, m = cost.shape
    row_price, column_price = np.zeros(n + 1, np.int64), np.zeros(m + 1, np.int64)
    owner, before = np.zeros(m + 1, np.int64), np.zeros(m + 1, np.int64)  # 0: none; else from 1 on
    for row in range(1, n + 1):
        owner[0] = row
        column = np.int64(0)
        least = np.full(m + 1, np.int64(2**62))
        used = np.zeros(m + 1, np.bool_)
        while owner[column] != 0:
            used[column] = True
            here, step, following = owner[column], np.int64(2**62), np.int64(0)
            for j in range(1, m + 1):
                if not used[j]:
                    reduced = cost[here - 1, j - 1] - row_price[here] - column_price[j]
                    if reduced < least[j]:
                        least[j] = reduced
                        before[j] = column
                    if least[j] < step:
                        step = least[j]
                        following = np.int64(j)
            for j in range(m + 1):
                if used[j]:
                    row_price[owner[j]] += step
                    column_price[j] -= step
                else:
                    least[j] -= step
            column = following
        while column != 0:
            owner[column] = owner[before[column]]
            column = before[column]
    for j in range(1, m + 1):
        if owner[j] != 0:
            partner[owner[j] - 1] = j - 1


@compiled
def _upper_half(x: Any, y: Any) -> Any:
    """Return the upper 64 bits of the product of two uint64."""
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    x_low, x_high, y_low, y_high = x & mask, x >> half, y & mask, y >> half
    first = x_high * y_low + (x_low * y_low >> half)
    second = x_low * y_high + (first & mask)
    return x_high * y_high + (first >> half) + (second >> half)


@compiled
def _remainder(x: Any, divisor: Any, inverse: Any) -> Any:
    """Return x % divisor, both uint64; `inverse` is (2**64 - 1) // divisor."""
    # The quotient is too low by 2 at most. Processors divide slowly, and no vector unit does.
    rest = x - _upper_half(x, inverse) * divisor
    rest = rest - divisor if rest >= divisor else rest
    return rest - divisor if rest >= divisor else rest


@compiled
def _mixed(value: Any, key: Any) -> Any:
    """Return `draws.mix` of one value."""
    x = (value + np.uint64(1)) * (key | np.uint64(1)) + (key >> np.uint64(32))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@compiled
def _turn(given: Any, moved: Any, divisor: Any, key: Any) -> None:
    """Move `moved`, below the divisor, by what the key makes of `given`; both (n,) uint64."""
    inverse = np.uint64(0xFFFFFFFFFFFFFFFF) // divisor
    for i in range(len(given)):
        there = moved[i] + _remainder(_mixed(given[i], key), divisor, inverse)
        moved[i] = there - divisor if there >= divisor else there


@compiled
def permute(places: Any, a: Any, b: Any, keys: Any) -> None:
    """Replace places (n,) uint64 in an a x b rectangle by where a Feistel network takes them.

    The columns and the rows of the rectangle take turns: one of both moves by a hash of the other.
    `a`, `b` uint64; `keys` (rounds,) uint64, an even number of them.
    """
    high, low = np.empty(PERMUTED_AT_ONCE, np.uint64), np.empty(PERMUTED_AT_ONCE, np.uint64)
    for start in range(0, len(places), PERMUTED_AT_ONCE):
        some = places[start : start + PERMUTED_AT_ONCE]
        n = len(some)
        for i in range(n):
            high[i] = some[i] // a
            low[i] = some[i] - high[i] * a
        for number in range(0, len(keys), 2):
            _turn(high[:n], low[:n], a, keys[number])
            _turn(low[:n], high[:n], b, keys[number + 1])
        for i in range(n):
            some[i] = high[i] * a + low[i]
