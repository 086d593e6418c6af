"""The portable kernel: one float32 matrix product per tile, a rigorous bound, float64 for the rest.

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

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.kernels import (
    ALIKE,
    BLAS,
    Moves,
    column_keys,
    compiled,
    drift,
    summing,
)
from ray_kmeans.kernels.int8.types import Rows
from ray_kmeans.kernels.moving_sums import HoldsPlainly
from ray_kmeans.kernels.threads import Threads

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
    spaces: list[_Space]
    """Memory for tiles: a thread takes one and puts it back."""

    def space(self) -> _Space:
        try:
            return self.spaces.pop()
        except IndexError:
            return _Space(self.tile_rows, *self.factors.shape)


def scale_of(centers: NDArray[np.float32]) -> tuple[float, NDArray[np.float64]]:
    """Return a power of two that brings the spread of the centers near 1, and their mean (d,)."""
    mean = np.zeros(centers.shape[1])
    return scale_for(drift.spread(centers, mean)), mean


def scale_for(spread: float) -> float:
    """Return a power of two that brings a spread near 1."""
    return float(np.ldexp(1.0, int(np.clip(-np.frexp(spread)[1], -126, 126))))


class PortableKernel(HoldsPlainly):
    """BLAS for the product, numba for everything else. Releases the GIL."""

    def __init__(self, threads: int) -> None:
        self._threads = Threads(threads)

    def ready(self, rows: int, k: int, d: int) -> str:
        return BLAS

    @np.errstate(over="ignore", invalid="ignore")  # then no row is certified
    def prepare(self, centers: NDArray[np.float32], metric: Metric) -> PreparedCenters:
        cosine = metric == Metric.COSINE
        k, d = centers.shape
        exact = centers.astype(np.float64)
        scale, mean = scale_of(centers)
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
            spaces=[],
        )

    def assign(
        self,
        rows: NDArray[np.float32],
        prepared: PreparedCenters,
        labels: NDArray[np.int32],
    ) -> None:
        tiles = -(-len(rows) // prepared.tile_rows)
        step = max(-(-tiles // self._threads.count), 1) * prepared.tile_rows
        parts = [slice(start, start + step) for start in range(0, len(rows), step)]
        with one_blas_thread():
            self._threads.run(
                _assign_part, [(rows[part], prepared, None, labels[part]) for part in parts]
            )

    def assign_second(
        self,
        rows: NDArray[np.float32],
        prepared: PreparedCenters,
        labels: NDArray[np.int32],
        seconds: NDArray[np.int32],
    ) -> None:
        step = prepared.tile_rows
        parts = [slice(start, start + step) for start in range(0, len(rows), step)]
        with one_blas_thread():
            self._threads.run(
                _assign_part,
                [(rows[part], prepared, labels[part], seconds[part]) for part in parts],
            )

    def move(
        self,
        blocks: Sequence[NDArray[np.float32]],
        moves: Moves,
        labels: NDArray[np.int32],
        scale: NDArray[np.float64],
        sums: NDArray[np.int64],
        weights: NDArray[np.int64] = ALIKE,
    ) -> None:
        summing.move_rows(Rows.of(blocks), moves, labels, scale, sums, weights, self._threads)

    def accumulate(
        self,
        rows: NDArray[np.float32],
        labels: NDArray[np.int32],
        scale: NDArray[np.float64],
        sums: NDArray[np.int64],
        weights: NDArray[np.int64] = ALIKE,
    ) -> None:
        summing.accumulate(rows, labels, scale, sums, weights)

    def accumulate_squares(
        self,
        rows: NDArray[np.float32],
        scale: NDArray[np.float64],
        half_bits: int,
        limbs: NDArray[np.int64],
        coarse: NDArray[np.int64],
        weights: NDArray[np.int64] = ALIKE,
    ) -> None:
        summing.accumulate_squares(rows, scale, half_bits, limbs, coarse, weights)

    def fingerprint(self, rows: NDArray[np.float32], weights: NDArray[np.int64] = ALIKE) -> int:
        bits = np.ascontiguousarray(rows).view(np.uint32)
        return int(compiled.fingerprint(bits, column_keys(rows.shape[1]), weights))

    def distances(
        self,
        rows: NDArray[np.float32],
        centers: NDArray[np.float32],
        metric: Metric,
        result: NDArray[Any],
    ) -> None:
        compiled.distances(rows, centers, metric == Metric.COSINE, result)

    def distances_to(
        self,
        rows: NDArray[np.float32],
        centers: NDArray[np.float32],
        labels: NDArray[np.int32],
        metric: Metric,
    ) -> NDArray[np.float64]:
        result = np.empty(len(rows))
        compiled.distances_to(rows, centers, labels, metric == Metric.COSINE, result)
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
        compiled.center(rows, prepared.scaled_mean, prepared.scale, residuals)
        return residuals

    def lows(
        self,
        residuals: NDArray[np.float32],
        prepared: PreparedCenters,
        left_out: NDArray[np.int32] | None,
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield the number of a first center and where the intervals from it on begin, (p, t)."""
        t = len(residuals)
        for first in range(0, len(prepared.factors), PANEL_CENTERS):
            factors = prepared.factors[first : first + PANEL_CENTERS]
            out = self._lows[: len(factors) * t].reshape(len(factors), t)
            lows = np.matmul(factors, residuals.T, out=out)
            if left_out is not None:
                compiled.mask(lows, first, left_out)
            yield first, lows


def _assign_part(
    rows: NDArray[np.float32],
    prepared: PreparedCenters,
    left_out: NDArray[np.int32] | None,
    labels: NDArray[np.int32],
) -> None:
    """Label rows with the nearest of all centers, but for the one that is `left_out` of each.

    What is proved of the nearest of some centers holds for any of them.
    """
    space = prepared.space()
    upper = np.empty(len(rows), np.float32)
    certain = np.empty(len(rows), np.bool_)
    with np.errstate(over="ignore", invalid="ignore"):  # such rows are settled in float64
        for start in range(0, len(rows), prepared.tile_rows):
            tile = slice(start, start + prepared.tile_rows)
            out = None if left_out is None else left_out[tile]
            _assign_tile(rows[tile], prepared, space, out, labels[tile], upper[tile], certain[tile])
        open_rows = np.flatnonzero(~certain)
        for start in range(0, len(open_rows), prepared.tile_rows):
            part = open_rows[start : start + prepared.tile_rows]
            out = None if left_out is None else left_out[part]
            labels[part] = _settle_tile(rows[part], prepared, space, out, upper[part])
    prepared.spaces.append(space)


def _assign_tile(
    rows: NDArray[np.float32],  # (t, d)  IN
    prepared: PreparedCenters,  # IN
    space: _Space,  # OUT
    left_out: NDArray[np.int32] | None,  # (t,)  IN
    labels: NDArray[np.int32],  # (t,)  OUT
    upper: NDArray[np.float32],  # (t,)  OUT  the least true score is not above it
    certain: NDArray[np.bool_],  # (t,)  OUT
) -> None:
    residuals = space.residuals(rows, prepared)
    for first, lows in space.lows(residuals, prepared, left_out):
        compiled.scan(lows, first, space.lowest, space.second, labels)
    bounds = prepared.bound_a, prepared.bound_b
    compiled.certify(space.lowest, space.second, *bounds, residuals, labels, upper, certain)


def _settle_tile(
    rows: NDArray[np.float32],
    prepared: PreparedCenters,
    space: _Space,
    left_out: NDArray[np.int32] | None,
    upper: NDArray[np.float32],
) -> NDArray[np.int32]:
    nearest = np.full(len(rows), -1, np.int32)
    scores = np.empty((len(rows), 2))
    target = prepared.centers, prepared.cosine
    none = np.full(len(rows), -1, np.int32) if left_out is None else left_out
    residuals = space.residuals(rows, prepared)
    for first, lows in space.lows(residuals, prepared, left_out):
        compiled.settle(rows, *target, lows, first, upper, none, nearest, scores)
    return nearest


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


def one_blas_thread() -> AbstractContextManager[Any]:
    """Let BLAS use the thread that calls it: our own are as many as there may be."""
    context: AbstractContextManager[Any] = _blas().limit(limits=1)
    return context
