"""The CPU kernel: one float32 matrix product per tile, a rigorous bound, float64 for the rest.

A score is |e_j|^2 - 2 r.e_j with r = x - m and e_j = c_j - m around the mean m of the centers, both
scaled by a power of two so that |e_j| stays near 1. Computed in float32 in any order of additions,
with products that may flush to zero, it is off by at most
    a_j + b_j |r|,   b_j = 2 g |e_j| + tiny,  a_j = g |e_j|^2 + tiny,  g = (d + 16) 2^-24 1.01:
(d + 1) roundings of the product (Higham, Accuracy and Stability, 3.1), one each of r, e_j, |e_j|^2
and of the bound itself, with room left. A row is certified when the smallest upper end of these
intervals lies below the second smallest lower end. The few other rows are settled in `exact`, among
the centers whose interval reaches below that upper end. So the label is the true arg-min, whatever
the BLAS, tile or machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ray_kmeans.kernels import COARSE_UNITS
from ray_kmeans.kernels.exact import is_nearer, squared_distance

TILE_ROWS = 512
PANEL_CENTERS = 1024
"""A tile of scores is 2 MB: it stays in the second-level cache between product and scan."""
FAR_AWAY = 1e15
"""A row this many center spreads away could overflow float32; it is settled in float64."""


@dataclass(frozen=True)
class PreparedCenters:
    centers: NDArray[np.float32]
    """(k, d) as given."""
    factors: NDArray[np.float32]
    """(k, d + 1): -2 e_j, and |e_j|^2 in the last column."""
    bound_a: NDArray[np.float32]
    bound_b: NDArray[np.float32]
    """(k,) the score of center j for row r is off by at most a_j + b_j |r|."""
    scaled_mean: NDArray[np.float64]
    scale: float


class CpuKernel:
    """BLAS for the product, numba for everything else. One thread; releases the GIL."""

    def prepare(self, centers: NDArray[np.float32]) -> PreparedCenters:
        k, d = centers.shape
        exact = centers.astype(np.float64)
        mean = exact.mean(axis=0)
        spread = float(np.abs(exact - mean).max())
        scale = float(np.ldexp(1.0, -int(np.frexp(spread)[1]))) if spread > 0 else 1.0
        scaled_mean = mean * scale
        e = (exact * scale - scaled_mean).astype(np.float32).astype(np.float64)
        squares = (e * e).sum(axis=1)
        g = (d + 16) * 2.0**-24 * 1.01
        tiny = (d + 1) * 2.0**-120
        factors = np.empty((k, d + 1), np.float32)
        factors[:, :d] = -2 * e
        factors[:, d] = squares
        return PreparedCenters(
            centers=centers,
            factors=factors,
            bound_a=(g * squares + tiny).astype(np.float32),
            bound_b=(2 * g * np.sqrt(squares) + tiny).astype(np.float32),
            scaled_mean=scaled_mean,
            scale=scale,
        )

    def assign(
        self,
        rows: NDArray[np.float32],
        prepared: PreparedCenters,
        labels: NDArray[np.int32],
    ) -> None:
        n = len(rows)
        upper = np.empty(n, np.float32)
        certain = np.empty(n, np.bool_)
        with np.errstate(over="ignore", invalid="ignore"):  # such rows are settled in float64
            for start in range(0, n, TILE_ROWS):
                tile = slice(start, start + TILE_ROWS)
                _assign_tile(rows[tile], prepared, labels[tile], upper[tile], certain[tile])
            open_rows = np.flatnonzero(~certain)
            for start in range(0, len(open_rows), TILE_ROWS):
                part = open_rows[start : start + TILE_ROWS]
                labels[part] = _settle_tile(rows[part], prepared, upper[part])

    def accumulate(
        self,
        rows: NDArray[np.float32],
        labels: NDArray[np.int32],
        scale: NDArray[np.float64],
        sums: NDArray[np.int64],
        counts: NDArray[np.int64],
    ) -> None:
        _accumulate(rows, labels, scale, sums, counts)

    def accumulate_squares(
        self,
        rows: NDArray[np.float32],
        scale: NDArray[np.float64],
        half_bits: int,
        limbs: NDArray[np.int64],
        coarse: NDArray[np.int64],
    ) -> None:
        _accumulate_squares(rows, scale, half_bits, limbs, coarse)

    def distances(
        self, rows: NDArray[np.float32], centers: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        result = np.empty((len(rows), len(centers)), np.float32)
        _distances(rows, np.ascontiguousarray(centers.T), result)
        return result


def _assign_tile(
    rows: NDArray[np.float32],  # (t, d)  IN
    prepared: PreparedCenters,  # IN
    labels: NDArray[np.int32],  # (t,)  OUT
    upper: NDArray[np.float32],  # (t,)  OUT  no center's true score is the least unless below it
    certain: NDArray[np.bool_],  # (t,)  OUT
) -> None:
    t = len(rows)
    residuals, norms = _residuals(rows, prepared)
    lowest, second = np.full((2, t), np.inf, np.float32)
    upper[:] = np.inf
    labels[:] = 0
    for start in range(0, len(prepared.factors), PANEL_CENTERS):
        panel = slice(start, start + PANEL_CENTERS)
        scores = prepared.factors[panel] @ residuals.T
        bounds = prepared.bound_a[panel], prepared.bound_b[panel]
        _scan(scores, *bounds, norms, start, upper, lowest, second, labels)
    np.greater(second, upper, out=certain)
    far = ~(norms < FAR_AWAY)
    certain[far] = False
    upper[far] = np.inf


def _settle_tile(
    rows: NDArray[np.float32], prepared: PreparedCenters, upper: NDArray[np.float32]
) -> NDArray[np.int32]:
    residuals, norms = _residuals(rows, prepared)
    nearest = np.full(len(rows), -1, np.int32)
    squared = np.full(len(rows), np.inf)
    for start in range(0, len(prepared.factors), PANEL_CENTERS):
        panel = slice(start, start + PANEL_CENTERS)
        scores = prepared.factors[panel] @ residuals.T
        bounds = prepared.bound_a[panel], prepared.bound_b[panel]
        _settle(rows, prepared.centers, scores, *bounds, norms, start, upper, nearest, squared)
    return nearest


def _residuals(
    rows: NDArray[np.float32], prepared: PreparedCenters
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    residuals = np.empty((len(rows), rows.shape[1] + 1), np.float32)
    norms = np.empty(len(rows), np.float32)
    _center(rows, prepared.scaled_mean, prepared.scale, residuals)
    _norms(residuals, norms)
    return residuals, norms


@njit(nogil=True, cache=True)
def _center(rows, scaled_mean, scale, residuals):  # type: ignore[no-untyped-def]
    n, d = rows.shape
    for i in range(n):
        for column in range(d):
            residuals[i, column] = np.float32(
                np.float64(rows[i, column]) * scale - scaled_mean[column]
            )
        residuals[i, d] = np.float32(1.0)


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _norms(residuals, norms):  # type: ignore[no-untyped-def]
    # Rounded up: 1.01 covers the float32 sum for any d, the last term what may have underflowed.
    n, width = residuals.shape
    for i in range(n):
        total = np.float32(0.0)
        for column in range(width - 1):
            total += residuals[i, column] * residuals[i, column]
        norms[i] = np.sqrt(total) * np.float32(1.01) + np.float32(2.0**-60)


@njit(nogil=True, cache=True)
def _scan(scores, bound_a, bound_b, norms, first, upper, lowest, second, labels):  # type: ignore[no-untyped-def]
    # Rows run along the vector lanes, so the state of a tile stays in the first-level cache.
    panel, n = scores.shape
    for j in range(panel):
        a = bound_a[j]
        b = bound_b[j]
        label = np.int32(first + j)
        for i in range(n):
            score = scores[j, i]
            margin = a + b * norms[i]
            high = score + margin
            low = score - margin
            before = lowest[i]
            is_lowest = low < before
            rival = before if is_lowest else low
            upper[i] = high if high < upper[i] else upper[i]
            second[i] = rival if rival < second[i] else second[i]
            lowest[i] = low if is_lowest else before
            labels[i] = label if is_lowest else labels[i]


@njit(nogil=True, cache=True)
def _settle(rows, centers, scores, bound_a, bound_b, norms, first, upper, nearest, squared):  # type: ignore[no-untyped-def]
    panel, n = scores.shape
    for i in range(n):
        for j in range(panel):
            if scores[j, i] - (bound_a[j] + bound_b[j] * norms[i]) > upper[i]:
                continue  # written so that a NaN score is a candidate
            candidate = first + j
            distance = squared_distance(rows[i], centers[candidate])
            best = nearest[i]
            if best < 0 or is_nearer(
                rows[i], centers[candidate], distance, centers[best], squared[i]
            ):
                nearest[i] = candidate
                squared[i] = distance


@njit(nogil=True, cache=True)
def _accumulate(rows, labels, scale, sums, counts):  # type: ignore[no-untyped-def]
    n, d = rows.shape
    for i in range(n):
        label = labels[i]
        counts[label] += 1
        for column in range(d):
            sums[label, column] += np.int64(np.rint(np.float64(rows[i, column]) * scale[column]))


@njit(nogil=True, cache=True)
def _accumulate_squares(rows, scale, half_bits, limbs, coarse):  # type: ignore[no-untyped-def]
    n, d = rows.shape
    half = np.int64(1) << (half_bits - 1)
    for i in range(n):
        for column in range(d):
            units = np.int64(np.rint(np.float64(rows[i, column]) * scale[column]))
            high = (units + half) >> half_bits
            low = units - (high << half_bits)
            limbs[0, column] += high * high
            limbs[1, column] += high * low
            limbs[2, column] += low * low
            coarse[column] += np.int64(abs(units) < COARSE_UNITS and rows[i, column] != 0)


@njit(nogil=True, cache=True)
def _distances(rows, columns, result):  # type: ignore[no-untyped-def]
    # Column by column, so that the order of additions does not depend on the vector width.
    n, d = rows.shape
    k = columns.shape[1]
    total = np.empty(k)
    for i in range(n):
        total[:] = 0.0
        for column in range(d):
            x = np.float64(rows[i, column])
            for j in range(k):
                difference = x - np.float64(columns[column, j])
                total[j] += difference * difference
        for j in range(k):
            result[i, j] = np.float32(total[j])
