"""Exact sums of floats, as whole numbers: no order of adding changes them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

UNIT_BITS = 1200
"""A unit of a total is ``2**-UNIT_BITS``."""
_LOW_BITS = 27
"""Number of bits of the lower part of a mantissa: then 2**36 of them add up within an int64."""
_BIAS = 1075
"""Value of the bits of an exponent with which a mantissa counts as the whole number it is."""


def exact_total(values: NDArray[np.float64]) -> int:
    """Return the sum of non-negative floats in whole units of ``2**-UNIT_BITS``.

    Exact for any values; up to 2**36 of them at once.
    """
    from ray_kmeans.algorithm import compiled  # numba: 0.2 s, and may be missing

    high, low = np.zeros((2, 2048), np.int64)
    compiled.add_mantissas(values.view(np.uint64), _LOW_BITS, high, low)
    total = 0
    for exponent in (high | low).nonzero()[0].tolist():
        part = (int(high[exponent]) << _LOW_BITS) + int(low[exponent])
        total += part << (exponent - _BIAS + UNIT_BITS)
    return total


def as_float(total: int) -> float:
    """Return a total of `exact_total` as a float, rounded once."""
    return total / (1 << UNIT_BITS)
