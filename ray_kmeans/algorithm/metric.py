"""What distance means: squared Euclidean, or cosine between rows on the unit sphere."""

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
"""Values that are made float64 at once while rows are scaled."""


def project(rows: NDArray[np.floating], metric: Metric) -> NDArray[np.float32]:
    """Return rows (n, d) as the metric sees them: for cosine, each scaled to norm 1.

    A zero row stays zero: its cosine distance to everything is 1.
    """
    return unit_rows(rows) if metric == Metric.COSINE else rows.astype(np.float32, copy=False)


def unit_rows(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the rows divided by their norms, made in float64 and rounded once."""
    result = np.empty(rows.shape, np.float32)
    step = max(CHUNK_VALUES // rows.shape[1], 1)
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
    """Return the centers for these means (k, d); one without a direction keeps its previous."""
    if metric != Metric.COSINE:
        return means.astype(np.float32)
    centers = unit_rows(means)
    lost = ~centers.any(axis=1)
    centers[lost] = previous[lost]
    return centers


def _near_one(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return rows whose squares neither over- nor underflow, each scaled by a power of two."""
    if rows.dtype == np.float32:
        return rows.astype(np.float64)
    _, exponents = np.frexp(np.abs(rows).max(axis=1, keepdims=True))
    return np.asarray(np.ldexp(rows, -exponents))


def without_direction(rows: NDArray[np.float32], metric: Metric) -> NDArray[np.bool_]:
    """Tell which rows no center can point to: for cosine, the zero rows."""
    return (
        np.asarray(~rows.any(axis=1)) if metric == Metric.COSINE else np.zeros(len(rows), np.bool_)
    )


def _row_sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Add up each row by halving, in place: the same bits on every machine."""
    width = values.shape[1]
    while width > 1:
        half = (width + 1) // 2
        values[:, : width - half] += values[:, half:width]
        width = half
    return values[:, 0]
