"""The distance metrics: squared Euclidean, and cosine between rows on the unit sphere."""

from __future__ import annotations

from enum import Enum

import numpy as np
from numpy.typing import NDArray


class Metric(str, Enum):
    """The distance that rows and centers are compared by.

    A member equals its plain text and is printed as it, also by `repr`: users write this text, a
    store keeps it, messages quote it, and the name of a fit's request is the `repr` of its plan.
    """

    SQUARED_EUCLIDEAN = "squared_euclidean"
    """The sum of the squared differences of the columns."""
    COSINE = "cosine"
    """1 minus the cosine of the angle between row and center; both are kept at norm 1."""

    def __str__(self) -> str:
        return self.value

    def __repr__(self) -> str:
        return repr(self.value)


CHUNK_VALUES = 2**17
"""Number of values that are scaled at once: they stay in a processor's cache."""


def project(rows: NDArray[np.floating], metric: Metric) -> NDArray[np.float32]:
    """Return rows (n, d) as the metric sees them: for cosine, each scaled to norm 1.

    A zero row stays zero: its cosine distance to everything is 1.
    """
    return unit_rows(rows) if metric == Metric.COSINE else rows.astype(np.float32, copy=False)


def unit_rows(rows: NDArray[np.floating], chunk_values: int = CHUNK_VALUES) -> NDArray[np.float32]:
    """Return the rows divided by their norms, (n, d), computed in float64 and rounded once.

    `chunk_values` values are scaled at once.
    """
    result = np.empty(rows.shape, np.float32)
    step = max(chunk_values // rows.shape[1], 1)
    with np.errstate(invalid="ignore"):  # a row with infinity becomes NaN, and is found later
        for start in range(0, len(rows), step):
            part = _near_one(rows[start : start + step])
            norms = np.sqrt(_row_sums(part * part))
            norms[norms == 0] = 1
            result[start : start + step] = part / norms[:, None]
    return result


def new_centers(
    means: NDArray[np.float64], previous: NDArray[np.float32], metric: Metric
) -> NDArray[np.float32]:
    """Return the centers for these means, (k, d); a mean without direction keeps its center."""
    if metric != Metric.COSINE:
        return means.astype(np.float32)
    centers = unit_rows(means)
    lost = ~centers.any(axis=1)
    centers[lost] = previous[lost]
    return centers


def _near_one(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return rows each scaled by a power of two, so that no square over- or underflows, (n, d)."""
    if rows.dtype == np.float32:
        return rows.astype(np.float64)
    _, exponents = np.frexp(np.abs(rows).max(axis=1, keepdims=True))
    return np.asarray(np.ldexp(rows, -exponents))


def without_direction(rows: NDArray[np.float32], metric: Metric) -> NDArray[np.bool_]:
    """Return whether each row has no direction, (n,): for cosine, whether it is zero."""
    return (
        np.asarray(~rows.any(axis=1)) if metric == Metric.COSINE else np.zeros(len(rows), np.bool_)
    )


def _row_sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum of each row, (n,), added by halving in place: the same bits on every
    machine."""
    width = values.shape[1]
    while width > 1:
        half = (width + 1) // 2
        values[:, : width - half] += values[:, half:width]
        width = half
    return values[:, 0]
