"""Rows on the unit sphere, and an oracle for their labels and sums."""

from __future__ import annotations

import numpy as np

from tests.support import oracle
from tests.support.unit_rows import (
    assert_has_norm_1,
    assert_is_direction,
    whole,
)


def exact_inertia(units, centers, labels):
    """Return the sum of 1 - cos, rounded once; rounding to float32 may put it just below 0."""
    rows, centers, one = oracle.whole(units, centers)
    return max((len(rows) * one**2 - int((rows * centers[labels]).sum())) / one**2, 0)


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
