"""The CPU kernel: one float32 matrix product per tile, a rigorous bound, float64 for the rest.

A score is |e_j|^2 - 2 r.e_j with r = x - m and e_j = c_j - m around the mean m of the centers, both
scaled by a power of two so that |e_j| stays near 1. Computed in float32 in any order of additions,
with products that may flush to zero, it is off by at most
    a_j + b_j |r|,   b_j = 2 g |e_j| + tiny,  a_j = g |e_j|^2 + tiny,  g = (d + 16) 2^-24 1.01:
(d + 2) roundings of the product (Higham, Accuracy and Stability, 3.1), one each of r, e_j, |e_j|^2
and of the bound itself, with room left. The product itself yields the lower end of this interval,
(r, 1, |r|) . (-2 e_j, |e_j|^2 - a_j, -b_j). A row is certified when the upper end of the interval
that begins lowest lies below where the next one begins. The few other rows are settled in `exact`,
among the centers whose interval begins below that upper end. So the label is the true arg-min,
whatever the BLAS, tile or machine.

For 'cosine' the score is -2 r.e_j - 2 m.e_j, which is -2 s^2 x.c_j, s being the scale, and a term
that all centers share: r + m = s x and e_j + m = s c_j. Its constant q_j = -2 m.e_j stands where
|e_j|^2 stood. It is made in float64 of e_j before that is rounded to float32, for |m| may be large
beside |e_j|; next to r the rounding of e_j is one of those in b_j, as before. So
    a_j = g |q_j| + h_j + tiny,  h_j = (d + 8) 2^-52 sum_l |m_l e_jl|,
h_j for e_j, the products and their sum in float64. Nothing overflows where m is finite: |m_l| is
below 2^26 in a column where centers differ, and e_jl is 0, but for underflow, in all others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.kernels import column_keys, loops

TILE_ROWS = 512
PANEL_CENTERS = 1024
"""A tile of scores is at most 2 MB: it stays in the second-level cache until it is scanned."""
SCORES_AT_ONCE = 2**17
"""Few centers leave room for more rows, which spares calls."""


@dataclass(frozen=True)
class PreparedCenters:
    centers: NDArray[np.float32]
    """(k, d) as given."""
    factors: NDArray[np.float32]
    """(k, d + 2): -2 e_j, |e_j|^2 - a_j or q_j - a_j, -b_j."""
    bound_a: NDArray[np.float32]
    bound_b: NDArray[np.float32]
    """(k,)"""
    scaled_mean: NDArray[np.float32]
    """(d,) m, rounded: a row and the centers are taken relative to the same point."""
    scale: np.float32
    cosine: bool
    tile_rows: int
    space: _Space
    """Used by every call, so one thread at a time may work with prepared centers."""


class CpuKernel:
    """BLAS for the product, numba for everything else. One thread; releases the GIL."""

    @np.errstate(over="ignore", invalid="ignore")  # then no row is certified
    def prepare(self, centers: NDArray[np.float32], metric: str) -> PreparedCenters:
        cosine = metric == "cosine"
        k, d = centers.shape
        exact = centers.astype(np.float64)
        mean = exact.mean(axis=0)
        spread = float(np.abs(exact - mean).max())
        scale = float(np.ldexp(1.0, int(np.clip(-np.frexp(spread)[1], -126, 126))))
        scaled_mean = (mean * scale).astype(np.float32)
        unrounded = exact * scale - scaled_mean
        e = unrounded.astype(np.float32).astype(np.float64)
        squares = (e * e).sum(axis=1)
        g = (d + 16) * 2.0**-24 * 1.01
        tiny = (d + 1) * 2.0**-120
        if cosine:
            products = -2 * (unrounded * scaled_mean)
            constant = products.sum(axis=1)
            in_float64 = (d + 8) * 2.0**-53 * np.abs(products).sum(axis=1)
        else:
            constant, in_float64 = squares, np.zeros(k)
        bound_a = g * np.abs(constant) + in_float64 + tiny
        bound_b = 2 * g * np.sqrt(squares) + tiny
        factors = np.empty((k, d + 2), np.float32)
        factors[:, :d] = -2 * e
        factors[:, d] = constant - bound_a
        factors[:, d + 1] = -bound_b
        tile_rows = max(min(SCORES_AT_ONCE // k, 4 * TILE_ROWS), TILE_ROWS)
        return PreparedCenters(
            centers=centers,
            factors=factors,
            bound_a=bound_a.astype(np.float32),
            bound_b=bound_b.astype(np.float32),
            scaled_mean=scaled_mean,
            scale=np.float32(scale),
            cosine=cosine,
            tile_rows=tile_rows,
            space=_Space(tile_rows, k, d + 2),
        )

    def assign(
        self,
        rows: NDArray[np.float32],
        prepared: PreparedCenters,
        labels: NDArray[np.int32],
    ) -> None:
        upper = np.empty(len(rows), np.float32)
        certain = np.empty(len(rows), np.bool_)
        with np.errstate(over="ignore", invalid="ignore"):  # such rows are settled in float64
            for start in range(0, len(rows), prepared.tile_rows):
                tile = slice(start, start + prepared.tile_rows)
                _assign_tile(rows[tile], prepared, labels[tile], upper[tile], certain[tile])
            open_rows = np.flatnonzero(~certain)
            for start in range(0, len(open_rows), prepared.tile_rows):
                part = open_rows[start : start + prepared.tile_rows]
                labels[part] = _settle_tile(rows[part], prepared, upper[part])

    def accumulate(
        self,
        rows: NDArray[np.float32],
        labels: NDArray[np.int32],
        scale: NDArray[np.float64],
        sums: NDArray[np.int64],
    ) -> None:
        loops.accumulate(rows, labels, scale, sums)

    def move(
        self,
        rows: NDArray[np.float32],
        before: NDArray[np.int32],
        labels: NDArray[np.int32],
        scale: NDArray[np.float64],
        sums: NDArray[np.int64],
    ) -> None:
        loops.move(rows, before, labels, scale, sums)

    def accumulate_squares(
        self,
        rows: NDArray[np.float32],
        scale: NDArray[np.float64],
        half_bits: int,
        limbs: NDArray[np.int64],
        coarse: NDArray[np.int64],
    ) -> None:
        loops.accumulate_squares(rows, scale, half_bits, limbs, coarse)

    def fingerprint(self, rows: NDArray[np.float32]) -> int:
        bits = np.ascontiguousarray(rows).view(np.uint32)
        return int(loops.fingerprint(bits, column_keys(rows.shape[1])))

    def distances(
        self,
        rows: NDArray[np.float32],
        centers: NDArray[np.float32],
        metric: str,
        result: NDArray[Any],
    ) -> None:
        loops.distances(rows, centers, metric == "cosine", result)

    def distances_to(
        self,
        rows: NDArray[np.float32],
        centers: NDArray[np.float32],
        labels: NDArray[np.int32],
        metric: str,
    ) -> NDArray[np.float64]:
        result = np.empty(len(rows))
        loops.distances_to(rows, centers, labels, metric == "cosine", result)
        return result


class _Space:
    """Memory for one tile at a time; taking it anew for each would cost a tenth of the time."""

    def __init__(self, tile_rows: int, k: int, width: int) -> None:
        self._residuals = np.empty((tile_rows, width), np.float32)
        self._lows = np.empty(min(k, PANEL_CENTERS) * tile_rows, np.float32)
        self.lowest, self.second = np.empty((2, tile_rows), np.float32)

    def residuals(
        self, rows: NDArray[np.float32], prepared: PreparedCenters
    ) -> NDArray[np.float32]:
        """Return (t, d + 2): r, 1, |r|."""
        residuals = self._residuals[: len(rows)]
        loops.center(rows, prepared.scaled_mean, prepared.scale, residuals)
        return residuals

    def lows(
        self, residuals: NDArray[np.float32], prepared: PreparedCenters
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield the number of a first center and where the intervals from it on begin, (p, t)."""
        t = len(residuals)
        for first in range(0, len(prepared.factors), PANEL_CENTERS):
            factors = prepared.factors[first : first + PANEL_CENTERS]
            out = self._lows[: len(factors) * t].reshape(len(factors), t)
            yield first, np.matmul(factors, residuals.T, out=out)


def _assign_tile(
    rows: NDArray[np.float32],  # (t, d)  IN
    prepared: PreparedCenters,  # IN
    labels: NDArray[np.int32],  # (t,)  OUT
    upper: NDArray[np.float32],  # (t,)  OUT  the least true score is not above it
    certain: NDArray[np.bool_],  # (t,)  OUT
) -> None:
    space = prepared.space
    residuals = space.residuals(rows, prepared)
    for first, lows in space.lows(residuals, prepared):
        loops.scan(lows, first, space.lowest, space.second, labels)
    bounds = prepared.bound_a, prepared.bound_b
    loops.certify(space.lowest, space.second, *bounds, residuals, labels, upper, certain)


def _settle_tile(
    rows: NDArray[np.float32],
    prepared: PreparedCenters,
    upper: NDArray[np.float32],
) -> NDArray[np.int32]:
    nearest = np.full(len(rows), -1, np.int32)
    scores = np.empty((len(rows), 2))
    space = prepared.space
    target = prepared.centers, prepared.cosine
    residuals = space.residuals(rows, prepared)
    for first, lows in space.lows(residuals, prepared):
        loops.settle(rows, *target, lows, first, upper, nearest, scores)
    return nearest
