"""Exact sums of floats, as whole numbers: no order of adding changes them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

UNIT_BITS = 1200
"""A unit of a total is ``2**-UNIT_BITS``."""
_LOW_BITS = 27
"""Number of bits of the lower part of a mantissa: then 2**36 of them add up within an int64."""


def exact_total(values: NDArray[np.float64]) -> int:
    """Return the sum of non-negative floats in whole units of ``2**-UNIT_BITS``.

    Exact for zero and for all values of at least 2**-1000; up to 2**36 of them at once.
    """
    mantissas, exponents = np.frexp(values)
    whole = (mantissas * 2.0**53).astype(np.int64)
    high, low = whole >> _LOW_BITS, whole & (2**_LOW_BITS - 1)
    total = 0
    for exponent in np.unique(exponents):
        here = exponents == exponent
        part = (int(high[here].sum()) << _LOW_BITS) + int(low[here].sum())
        total += part << (int(exponent) - 53 + UNIT_BITS)
    return total


def as_float(total: int) -> float:
    """Return a total of `exact_total` as a float, rounded once."""
    return total / (1 << UNIT_BITS)
