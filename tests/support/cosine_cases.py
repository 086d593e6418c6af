"""Rows on the unit sphere, and an oracle for their labels and sums."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from tests.support import oracle
from tests.support.unit_rows import (
    assert_has_norm_1,
    assert_is_direction,
    whole,
)


def product(row, center):
    return sum((x * c for x, c in zip(row, center, strict=True)), Fraction(0))


def exact_labels(units, centers):
    """Return the index of the largest product of each row; `index` finds the lowest of a tie."""
    exact_centers = oracle.exact(centers)
    result = []
    for row in oracle.exact(units):
        products = [product(row, center) for center in exact_centers]
        result.append(products.index(max(products)))
    return np.array(result, np.int32)


def exact_inertia(units, centers, labels):
    """Return the sum of 1 - cos, rounded once; rounding to float32 may put it just below 0."""
    exact_centers = oracle.exact(centers)
    pairs = zip(oracle.exact(units), labels, strict=True)
    return max(float(sum((1 - product(row, exact_centers[j]) for row, j in pairs), Fraction(0))), 0)


def assert_are_directions_of_sums(centers, units, labels, previous):
    """A center is the sum of its rows at norm 1; without rows, or a sum of zero, the previous."""
    for j, center in enumerate(centers):
        members = [whole(row) for row in units[labels == j]]
        sums = [sum(column) for column in zip(*members, strict=True)]
        if any(sums):
            assert_is_direction(center, sums)
            assert_has_norm_1(center)
        else:
            np.testing.assert_array_equal(center, previous[j])
