"""Assert that rows have norm 1, over the reals."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

BITS = 1074  # every float is a whole number of 2**-1074


def whole(values):
    """Return floats as whole numbers of one unit, so that nothing is rounded."""
    pairs = (value.as_integer_ratio() for value in np.asarray(values).tolist())
    return [numerator * (2**BITS // denominator) for numerator, denominator in pairs]


def assert_is_direction(unit, direction):
    """Assert that each component is less than one float32 step from that of the exact direction.

    `direction` are whole numbers. Compared are squares with their signs: no root is taken.
    """
    assert unit.dtype == np.float32
    norm = sum(x * x for x in direction)
    if norm == 0:
        assert not unit.any()
        return
    below, above = (whole(np.nextafter(unit, np.float32(end))) for end in (-np.inf, np.inf))
    for low, x, high in zip(below, direction, above, strict=True):
        assert low * abs(low) * norm < (x * abs(x) << 2 * BITS) < high * abs(high) * norm


def assert_has_norm_1(unit):
    """Each component is rounded by at most 2**-24 of itself, or of the smallest normal number."""
    norm = sum(x * x for x in whole(unit))
    error = abs(Fraction(norm, 2 ** (2 * BITS)) - 1)
    assert error <= Fraction(1, 2**23) * Fraction(1_000_001, 1_000_000)


def assert_are_unit_rows(units, rows):
    assert (units.shape, units.dtype) == (rows.shape, np.float32)
    for unit, row in zip(units, rows, strict=True):
        assert_is_direction(unit, whole(row))
        if row.any():
            assert_has_norm_1(unit)
