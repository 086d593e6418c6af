"""What values lose when they are rounded to float32, which has 24 bits for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LOOKED_AT = 64
"""Number of rows of a block whose quartiles stand for those of the block."""
FAR = 2.0**14
"""Distance of a column from zero, in spreads, from which on float32 keeps less than 10 bits of its
differences: it has 24, and 14 go into the distance, which all values share."""


@dataclass(frozen=True)
class Rounding:
    """Losses of some rows when they were rounded to float32; those of parts add up to the whole's.

    The spread of a column is the range of the middle half of its values (between the quartiles of
    each block), so that no outlier hides a loss, and none makes one.
    """

    changed: NDArray[np.int64]
    """(d,) Number of values that became another number, counted in blocks far from zero alone."""
    low: NDArray[np.float64]
    """(d,) Lowest first quartile of any block."""
    high: NDArray[np.float64]
    """(d,) Highest third quartile of any block."""
    spread: NDArray[np.float64]
    """(d,) Largest distance between both quartiles of one block."""

    @classmethod
    def of(cls, values: NDArray[Any], rows: NDArray[np.float32]) -> Rounding | None:
        """Measure values, (n, d), that became these rows; None if their type fits into
        float32."""
        if np.result_type(values.dtype, np.float32) == np.float32 or not len(values):
            return None
        low, middle, high = _quartiles(values)
        spread = _differences(high, low)
        for column in np.flatnonzero((spread == 0) & (middle != 0)):  # most values are equal
            whole = values[:, column]
            spread[column] = _differences(np.fmax.reduce(whole), np.fmin.reduce(whole))
        changed = np.zeros(values.shape[1], np.int64)
        low, high = low.astype(np.float64), high.astype(np.float64)
        for column in _far(low, high, spread):
            before, after = values[:, column], rows[:, column]
            with np.errstate(invalid="ignore"):
                back = after.astype(values.dtype)
            changed[column] = np.count_nonzero((back != before) & (before == before))
        return cls(changed, low, high, spread)

    def __add__(self, other: Rounding) -> Rounding:
        """Return the rounding of both sets of blocks: counts are added, quartiles span both."""
        return Rounding(
            self.changed + other.changed,
            np.fmin(self.low, other.low),
            np.fmax(self.high, other.high),
            np.fmax(self.spread, other.spread),
        )

    @property
    def lost(self) -> NDArray[np.intp]:
        """(c,) Columns whose differences float32 cannot hold."""
        spread = np.fmax(self.spread, _differences(self.high, self.low))
        far: NDArray[np.intp] = _far(self.low, self.high, spread)
        lost: NDArray[np.intp] = far[(spread[far] > 0) & (self.changed[far] > 0)]
        return lost


def added(one: Rounding | None, other: Rounding | None) -> Rounding | None:
    """Return the sum of two roundings, either of which may be None."""
    if one is None or other is None:
        return one or other
    return one + other


def less(values: NDArray[Any], shift: Sequence[float]) -> NDArray[Any]:
    """Return values less a shift, (n, d): in float64, or exactly for whole numbers beyond 2**53.

    `shift` has d values, or none where nothing is subtracted.
    """
    if not shift:
        return values
    by = np.asarray(shift, np.float64)
    if values.dtype.kind in "iu" and values.dtype.itemsize == 8 and (by == np.rint(by)).all():
        apart = np.abs(values.astype(np.float64) - by).max(initial=0)
        limits = np.iinfo(values.dtype)
        fits = limits.min <= by.min(initial=0) and by.max(initial=0) < float(limits.max)
        if fits and apart < 2.0**62:  # then the difference of both is right, whatever overflows
            return np.asarray(values - by.astype(values.dtype)).view(np.int64)
    wide: NDArray[np.float64] = values.astype(np.float64)
    return wide - by


def _far(
    low: NDArray[np.float64], high: NDArray[np.float64], spread: NDArray[np.float64]
) -> NDArray[np.intp]:
    """Return the columns that are far from zero beside their spread, (c,)."""
    return np.flatnonzero(np.fmax(np.abs(low), np.abs(high)) > FAR * spread)


def _quartiles(values: NDArray[Any]) -> NDArray[Any]:
    """Return the quartiles of some evenly spaced rows, (3, d), each of which is one of the
    values."""
    step = -(-len(values) // LOOKED_AT)
    some = np.sort(values[::step], axis=0)
    last = len(some) - 1
    return some[[last // 4, last // 2, last - last // 4]]


def _differences(high: Any, low: Any) -> Any:
    """Return high - low as float64, right too where only whole numbers tell them apart."""
    with np.errstate(invalid="ignore", over="ignore"):
        rough = np.asarray(high, np.float64) - np.asarray(low, np.float64)
        exact = np.asarray(high - low)
    if exact.dtype.kind not in "iu":
        return np.nan_to_num(rough, nan=0.0)
    return np.where(rough == 0, exact.astype(np.float64), rough)
