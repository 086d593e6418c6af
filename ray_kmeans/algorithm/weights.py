"""Weights of rows as whole numbers of one power of two: a row then counts as so many equal rows.

What is summed with weights stays whole numbers, so that no order of adding changes it; and a row of
weight 3 gives the bits of three such rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.exact_total import UNIT_BITS, exact_total

TOTAL_BITS = 40
"""The weights of all rows add up to less than 2**40 units: 22 bits are left for a row's values."""
USUAL_BITS = 36
"""Where weights are rounded, 26 bits are left for a row's values,"""
FINE_BITS, COARSE_BITS = 24, 12
"""and the mean weight has at most so many bits; it has fewer than 12 beyond 2**28 rows."""


@dataclass(frozen=True)
class Span:
    """What is to be known of some weights; spans of parts add up to that of the whole."""

    rows: int
    """Rows of a weight above 0."""
    total: int
    """Exact sum, see `exact_total`."""
    finest: int = 0
    """All weights are whole multiples of ``2**finest``; 0 for whole numbers."""

    @classmethod
    def of(cls, weights: NDArray[np.float64]) -> Span:
        """Measure weights, none of which is below 0."""
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
        return Span(
            self.rows + other.rows, self.total + other.total, min(self.finest, other.finest)
        )

    @property
    def is_too_large(self) -> bool:
        """Whether the weights add up to more than whole numbers of units can hold."""
        return self._total_bits > TOTAL_BITS

    @property
    def exponent(self) -> int:
        """A unit is ``2**-exponent``.

        With the least for which all weights are whole, if their sum has room; else with the
        largest that has, to which weights are rounded.
        """
        of_rows = self.rows.bit_length()
        most = max(min(of_rows + FINE_BITS, USUAL_BITS), of_rows + COARSE_BITS)
        room = min(most, TOTAL_BITS) - self._total_bits
        return min(-self.finest, max(room, 0))

    @property
    def units(self) -> int:
        """Bound the sum of all weights in units; where none is rounded, it is that sum."""
        whole = self.total >> (UNIT_BITS - self.exponent)
        return whole if self.exponent == -self.finest else whole + self.rows

    @property
    def _total_bits(self) -> int:
        return self.total.bit_length() - UNIT_BITS


def in_units(weights: NDArray[np.float64], exponent: int) -> NDArray[np.int64]:
    """Return weights as whole numbers of units."""
    return np.rint(np.ldexp(weights, exponent)).astype(np.int64)
