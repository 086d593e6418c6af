"""The integer grid on which rows are summed, so that sums do not depend on their order.

Column l is written as whole multiples of ``2**-exponent[l]``. The step follows from the data alone:
the largest magnitude of the column and the number of rows, so that no sum can overflow 63 bits.
With n rows and b = ceil(log2 n), every value of at least ``2**(b - 37)`` of its column's maximum is
exact (float32 has 24 bits); a smaller one is off by at most ``2**(b - 62)`` of that maximum: for a
million rows 2e-13 of it, five decimal digits finer than float32 itself. A row of weight w counts as
w rows, in units of the weights (see `weights`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.double_double import Twofold
from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.precision import Rounding, added
from ray_kmeans.algorithm.weights import Span
from ray_kmeans.errors import NonFiniteError

SUM_BITS = 62
"""Number of bits that a sum over all rows may take in an int64."""


@dataclass(frozen=True)
class Extent:
    """Summary of rows, from which the grid follows; two of them add up to a summary of both."""

    rows: int
    """Number of rows."""
    column_max: NDArray[np.float32]
    """(d,) Largest magnitude of each column."""
    nonfinite: tuple[tuple[str, int, int, str], ...] = ()
    """(place, number of rows, first row, its first column that is not finite) of each place that
    has rows with NaN, null or infinity."""
    zeros: int = 0
    """Number of rows that are zero in every column: they have no direction."""
    weights: Span | None = None
    """Span of the weights; None: every row counts once."""
    dropped: int = 0
    """Number of rows left out because they are not finite."""
    rounding: Rounding | None = None
    """Losses of the values when they were rounded to float32; None if they fit into it."""

    @property
    def span(self) -> Span:
        """Span of the weights, which are 1 if none are given."""
        return self.weights or Span.of_ones(self.rows)

    def check_finite(self) -> None:
        """Raise NonFiniteError for rows that hold NaN, null or infinity."""
        if self.nonfinite:
            places = tuple((place, rows, first) for place, rows, first, _ in self.nonfinite)
            raise NonFiniteError(places, tuple(column for *_, column in self.nonfinite))

    @classmethod
    def of_rows(
        cls,
        rows: NDArray[np.float32],
        place: str = "",
        start: int = 0,
        names: Sequence[str] = (),
        read: NDArray[np.float32] | None = None,
    ) -> Extent:
        """Measure rows of shape (n, d).

        The others are for messages: the `place` of the rows, the number `start` of the first one
        there, the names of the columns, and the rows as they were `read`, where that differs.
        """
        from ray_kmeans.algorithm import compiled  # numba: 0.2 s, and may be missing

        column_max = np.zeros(rows.shape[1], np.float32)
        bad, first, zeros = compiled.extent(rows.view(np.int32), column_max.view(np.int32))
        places: tuple[tuple[str, int, int, str], ...] = ()
        if bad:
            column = _column((rows if read is None else read)[first], names)
            places = ((place, bad, start + first, column),)
        return cls(len(rows), column_max, places, zeros)

    def __add__(self, other: Extent) -> Extent:
        """Return the extent of both sets of rows; of a place in both, the earlier first bad row
        stays."""
        places = {place: (rows, first, column) for place, rows, first, column in self.nonfinite}
        for place, rows, first, column in other.nonfinite:
            before, begin, name = places.get(place, (0, first, column))
            places[place] = before + rows, *min((begin, name), (first, column))
        weighted = self.weights is not None or other.weights is not None
        return Extent(
            self.rows + other.rows,
            np.maximum(self.column_max, other.column_max),
            tuple((place, *found) for place, found in places.items()),
            self.zeros + other.zeros,
            self.span + other.span if weighted else None,
            self.dropped + other.dropped,
            added(self.rounding, other.rounding),
        )


def _column(row: NDArray[np.float32], names: Sequence[str]) -> str:
    """Return a text of which column of a row is the first that is not finite."""
    number = int(np.argmin(np.isfinite(row)))
    if len(names) == len(row):
        return f"column {names[number]!r}"
    return f"value {number} of column {names[0]!r}" if names else f"column {number}"


@dataclass(frozen=True)
class Grid:
    """Units of all sums: column l is summed in whole multiples of ``2**-exponent[l]``."""

    exponent: NDArray[np.int32]
    """(d,) Negative binary exponent of the unit of each column."""
    bits: int
    """Number of bits of a row's value: it stays within +-2**bits units."""
    weight_exponent: int = 0
    """Negative binary exponent of the unit of weight: a row that counts once weighs
    ``2**weight_exponent`` units."""

    @classmethod
    def of(cls, extent: Extent) -> Grid:
        """Choose the finest grid on which a sum over all rows cannot overflow."""
        bits = SUM_BITS - max(extent.span.units - 1, 0).bit_length()
        _, magnitude = np.frexp(extent.column_max.astype(np.float64))
        return cls((bits - magnitude).astype(np.int32), bits, extent.span.exponent)

    @cached_property
    def scale(self) -> NDArray[np.float64]:
        """(d,) Units per 1.0; a power of two, so that multiplying is exact."""
        return np.ldexp(1.0, self.exponent)

    def weights_of(self, units: NDArray[np.int64]) -> NDArray[np.int64] | NDArray[np.float64]:
        """Return sums of weights, (k,) in units, as weights; int64 if all weights are whole."""
        if self.weight_exponent == 0:
            return units
        return np.asarray(np.ldexp(units.astype(np.float64), -self.weight_exponent))

    @property
    def half_bits(self) -> int:
        """Number of bits of the low limb of a value, see `Squares`."""
        return (self.bits + 1) // 2


@dataclass(frozen=True)
class Squares:
    """Exact sums of squares of each column on the grid, in three limbs.

    A value q is h * 2**t + l with t half the bits of the grid and |l| <= 2**(t-1), so that each of
    the sums of h*h, h*l and l*l over all rows fits an int64 for the same reason as the sum of q.
    """

    limbs: NDArray[np.int64]
    """(3, d) Sums of h*h, h*l and l*l."""
    coarse: NDArray[np.int64]
    """(d,) Number of values that are not zero but so few units that their digits are lost."""
    fingerprint: int = 0
    """Sum of a hash of each row, modulo 2**64."""

    @classmethod
    def zero(cls, n_features: int, fingerprint: int = 0) -> Squares:
        """Return the sums over no rows."""
        limbs = np.zeros((3, n_features), np.int64)
        return cls(limbs, np.zeros(n_features, np.int64), fingerprint)

    def __add__(self, other: Squares) -> Squares:
        """Return the sums of squares and the fingerprint of both sets of rows."""
        return Squares(
            self.limbs + other.limbs,
            self.coarse + other.coarse,
            (self.fingerprint + other.fingerprint) % 2**64,
        )

    def total(self, grid: Grid) -> Twofold:
        """Return the sum of squares over all columns, as a double-double of shape (1,)."""
        t = grid.half_bits
        finest = int(grid.exponent.max())
        total = 0
        for exponent, (hh, hl, ll) in zip(
            grid.exponent.tolist(), self.limbs.T.tolist(), strict=True
        ):
            total += ((hh << 2 * t) + (hl << (t + 1)) + ll) << 2 * (finest - exponent)
        high = float(total)  # below 2**800 for any float32 data, far within the range of a float
        low = float(total - int(high))
        return np.ldexp([high], -2 * finest), np.ldexp([low], -2 * finest)


@dataclass(frozen=True)
class Summary:
    """Summary of all rows of a fit."""

    rows: int
    """Number of rows, also those that do not count."""
    grid: Grid
    """Units of all sums."""
    squares: Squares
    """Sums of squares on the grid."""
    metric: Metric = Metric.SQUARED_EUCLIDEAN
    """Distance metric: 'squared_euclidean' or 'cosine'."""
    zeros: int = 0
    """Number of rows that are zero in every column."""
    weights: Span | None = None
    """Span of the weights; None: every row counts once."""
    dropped: int = 0
    """Number of rows left out because they are not finite."""
    rounding: Rounding | None = None
    """Losses of the values when they were rounded to float32; None if they fit into it."""

    @property
    def counting(self) -> int:
        """Number of rows that count: those of a weight above 0."""
        return self.rows if self.weights is None else self.weights.rows

    @property
    def lost(self) -> NDArray[np.intp]:
        """(c,) Columns whose differences were lost when they were rounded to float32."""
        return np.empty(0, np.intp) if self.rounding is None else self.rounding.lost

    @cached_property
    def total_squares(self) -> Twofold:
        """Sum of squares of all rows over all columns, as a double-double of shape (1,)."""
        return self.squares.total(self.grid)

    @cached_property
    def digest(self) -> str:
        """Name of the data: equal for equal rows in any order, else different in practice."""
        units = self.rows if self.weights is None else self.weights.units
        text = f"{units} {len(self.grid.exponent)} {self.squares.fingerprint}"
        text += f" {self.grid.weight_exponent}" if self.grid.weight_exponent else ""
        return hashlib.sha256(text.encode()).hexdigest()[:16]
