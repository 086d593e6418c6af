"""Sums of floats as whole numbers: exact, in any order and any parts, rounded once at the end."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_kmeans.algorithm.exact_float_sum import UNIT_BITS, as_float, exact_total

SMALLEST = 2.0**-1000
VALUES = st.just(0.0) | st.floats(SMALLEST, 1e300) | st.floats(0.5, 4.0) | st.integers(0, 9)


def values_of(elements=VALUES, **sizes):
    return st.lists(elements, **sizes).map(lambda values: np.array(values, np.float64))


def exactly(values):
    """Return the sum over the rationals, in units of the total."""
    return sum((Fraction(value) for value in values.tolist()), Fraction(0)) * 2**UNIT_BITS


@given(values=values_of(max_size=40))
def test_the_total_is_the_sum_over_the_rationals(values):
    assert exact_total(values) == exactly(values)


@given(values=values_of(max_size=40), random=st.randoms(use_true_random=False))
def test_no_order_and_no_parts_change_the_total(values, random):
    order = random.sample(range(len(values)), len(values))
    cuts = sorted(random.sample(range(len(values) + 1), min(3, len(values) + 1)))

    parts = np.split(values[order], cuts)

    assert sum(exact_total(part) for part in parts) == exact_total(values)


@given(values=values_of(max_size=40))
def test_the_total_is_rounded_once(values):
    assert as_float(exact_total(values)) == math.fsum(values.tolist())


@given(parts=st.lists(values_of(max_size=9), max_size=5))
def test_the_sum_of_totals_is_rounded_once_too(parts):
    total = sum(exact_total(part) for part in parts)

    assert as_float(total) == math.fsum(value for part in parts for value in part.tolist())


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], 0.0),
        ([0.0, 0.0], 0.0),
        ([2.0**53, 1.0], 2.0**53),  # a tie, to the even one
        ([2.0**53, 1.0, SMALLEST], 2.0**53 + 2),  # hardly more than a tie
        ([2.0**53, 1.0, 1.0], 2.0**53 + 2),
        ([SMALLEST], SMALLEST),
        ([1e300, SMALLEST, SMALLEST], 1e300),
    ],
)
def test_totals_that_floats_get_wrong(values, expected):
    assert as_float(exact_total(np.array(values))) == expected


@pytest.mark.parametrize("exponent", [-1000, -30, 0, 31, 900])
def test_many_values_of_all_bits_set_are_still_exact(exponent):
    largest = math.ldexp(2**53 - 1, exponent - 53)
    values = np.full(300_001, largest)

    assert exact_total(values) == 300_001 * exactly(values[:1])


def test_the_values_are_not_changed():
    values = np.array([3.0, 0.0, 1e-30])
    values.flags.writeable = False

    assert exact_total(values) == exactly(values)
