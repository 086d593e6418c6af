"""Weights of rows as whole numbers of a unit: a row of weight 3 counts as three equal rows.

What is summed with weights stays whole numbers, so that no order of adding changes it; and a row of
weight 3 gives the bits of three such rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.exact_float_sum import UNIT_BITS, exact_total

TOTAL_BITS = 40
"""The weights of all rows add up to less than 2**40 units: 22 bits are left for a row's values."""
USUAL_BITS = 36
"""Number of bits of the total where weights are rounded: 26 are left for a row's values."""
FINE_BITS = 24
"""Largest number of bits of the mean weight where weights are rounded."""
COARSE_BITS = 12
"""Number of bits that the mean weight keeps where there are more than 2**24 rows; beyond 2**28 rows
it has fewer."""


@dataclass(frozen=True)
class Span:
    """Summary of weights, from which their unit follows; two of them add up to a summary of
    both."""

    rows: int
    """Number of rows of a weight above 0."""
    total: int
    """Exact sum of the weights, in units of `exact_total`."""
    finest: int = 0
    """Binary exponent of which all weights are whole multiples; 0 for whole numbers."""

    @classmethod
    def of(cls, weights: NDArray[np.float64]) -> Span:
        """Measure weights, (n,), none of which is below 0."""
        above = weights[weights > 0]
        mantissas, exponents = np.frexp(above)
        whole = (mantissas * 2.0**53).astype(np.int64)
        _, lowest = np.frexp((whole & -whole).astype(np.float64))
        finest = int((exponents - 53 + lowest - 1).min(initial=0))
        return cls(len(above), exact_total(above), finest)

    @classmethod
    def of_ones(cls, rows: int) -> Span:
        """Return the span of rows that count once each."""
        return cls(rows, rows << UNIT_BITS)

    def __add__(self, other: Span) -> Span:
        """Return the span of both sets of weights."""
        return Span(
            self.rows + other.rows, self.total + other.total, min(self.finest, other.finest)
        )

    @property
    def is_too_large(self) -> bool:
        """Whether the weights add up to more than whole numbers of units can hold."""
        return self._total_bits > TOTAL_BITS

    @property
    def exponent(self) -> int:
        """Negative binary exponent of the unit of weight, which is ``2**-exponent``.

        The least one with which all weights are whole, if their sum has room for it; else the
        largest one that has room, and weights are rounded to it.
        """
        of_rows = self.rows.bit_length()
        most = max(min(of_rows + FINE_BITS, USUAL_BITS), of_rows + COARSE_BITS)
        room = min(most, TOTAL_BITS) - self._total_bits
        return min(-self.finest, max(room, 0))

    @property
    def units(self) -> int:
        """Upper bound of the sum of all weights in units; the sum itself if none is rounded."""
        whole = self.total >> (UNIT_BITS - self.exponent)
        return whole if self.exponent == -self.finest else whole + self.rows

    @property
    def _total_bits(self) -> int:
        """Number of bits of the whole part of the sum."""
        return self.total.bit_length() - UNIT_BITS


def in_units(weights: NDArray[np.float64], exponent: int) -> NDArray[np.int64]:
    """Return weights as whole numbers of units of ``2**-exponent``, (n,)."""
    return np.rint(np.ldexp(weights, exponent)).astype(np.int64)
