"""Exact sums of floats by cluster, as whole numbers in digits: no order of adding changes them.

A sum is a whole number of ``2**lowest`` in digits of 32 bits, wide enough for every float that a
range can hold and for all weights (Kulisch's long accumulator, one for each cluster).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

WEIGHT_BITS = 62
"""Number of bits that the weights of all rows add up to at most."""
DIGIT_BITS = 32
"""Number of bits of a digit; each stands in an int64, so that it can wait for its carry."""


class Range(NamedTuple):
    """The range of floats that are added up: all are 0, or from 2**least to below 2**end."""

    least: int
    """Binary exponent of the least float above 0."""
    end: int
    """Binary exponent of a bound that all floats are below."""

    @property
    def lowest(self) -> int:
        """Binary exponent of the unit: a mantissa has 53 bits."""
        return self.least - 52

    @property
    def digits(self) -> int:
        """Number of digits of a sum; the product of a weight may reach two beyond the last one."""
        return -(-(self.end + WEIGHT_BITS - self.lowest) // DIGIT_BITS) + 2


DISTANCES = Range(-298, 280)
"""Range of distances: at least the square of the least float32, at most 2**20 squares of a double
of the largest one; cosine distances are multiples of 2**-54 up to 2."""
LENGTHS = Range(-149, 140)
"""Range of the square roots of squared distances."""
SHARES = Range(-54, 1)
"""Range of (b - a) / b for floats a <= b: their difference is at least one bit of b."""


@dataclass(frozen=True)
class ClusterSums:
    """The sum of a float of each row, by cluster; sums of parts can be added in any order."""

    digits: NDArray[np.int64]
    """(k, m) Digits of 32 bits of each sum, the lowest first."""
    lowest: int
    """Binary exponent of the unit of the lowest digit."""

    @classmethod
    def zero(cls, n_clusters: int, of: Range) -> ClusterSums:
        """Return the sums over no rows."""
        return cls(np.zeros((n_clusters, of.digits), np.int64), of.lowest)

    def add(
        self, values: NDArray[np.float64], labels: NDArray[np.int32], weights: NDArray[np.int64]
    ) -> None:
        """Add the values (n,) of some rows, each times its weight, to the sums of their clusters.

        `weights` are (n,), or (0,) where all rows count once.
        """
        from ray_kmeans.algorithm import compiled  # numba: 0.2 s, and may be missing

        compiled.add_by_cluster(values.view(np.uint64), labels, weights, self.lowest, self.digits)
        compiled.carry(self.digits)

    def __add__(self, other: ClusterSums) -> ClusterSums:
        """Return the sums of both sets of rows."""
        return ClusterSums(self.digits + other.digits, self.lowest)

    def in_slices(self, count: int) -> list[ClusterSums]:
        """Cut into `count` slices of the clusters, about equal."""
        cuts = np.arange(count + 1) * len(self.digits) // count
        return [ClusterSums(self.digits[begin:end], self.lowest) for begin, end in pairwise(cuts)]

    @classmethod
    def joined(cls, slices: Sequence[ClusterSums]) -> ClusterSums:
        """Put the slices of one total together again."""
        return cls(np.concatenate([each.digits for each in slices]), slices[0].lowest)

    def totals(self) -> list[int]:
        """Return the sum of each cluster in whole units of ``2**lowest``, (k,)."""
        from ray_kmeans.algorithm import compiled  # numba: 0.2 s, and may be missing

        digits = self.digits.copy()
        compiled.carry(digits)
        return [int.from_bytes(row.tobytes(), "little") for row in digits.astype("<u4")]

    def divided_by(self, whole: Sequence[int]) -> NDArray[np.float64]:
        """Return each sum over a whole number, (k,), rounded once; NaN where that is 0."""
        unit = 1 << -self.lowest
        pairs = zip(self.totals(), whole, strict=True)
        return np.array([total / (each * unit) if each else np.nan for total, each in pairs])

    def mean(self, whole: int) -> float:
        """Return the sum over all clusters over a whole number above 0, rounded once."""
        return sum(self.totals()) / (whole << -self.lowest)
