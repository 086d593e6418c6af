"""The portable kernel: one float32 matrix product per tile, a rigorous bound, float64 for the rest.

A score is computed as an interval; a row is certified when the interval that begins lowest ends
before the next one begins. The few other rows are compared exactly, by `exact_order`, with the
centers whose interval begins below that end. So the label is the true arg-min, whatever the BLAS,
tile or machine. docs/internals/exactness.md proves the bounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from threading import RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.kernels import (
    ALIKE,
    BLAS,
    Moves,
    candidate_lists,
    column_keys,
    compiled,
    drift,
    summing,
)
from ray_kmeans.kernels.int8.types import Rows
from ray_kmeans.kernels.moving_sums import HoldsPlainly
from ray_kmeans.kernels.threads import Threads
from ray_kmeans.process import forks

TILE_ROWS = 512
"""Rows of a tile of scores at least."""
PANEL_CENTERS = 1024
"""Centers of a tile of scores: with 512 rows it takes 2 MB, and stays in the second-level cache
until it is scanned."""
SCORES_AT_ONCE = 2**17
"""Scores of a tile, where there are few centers: these leave room for more rows, which spares calls
of BLAS."""


@dataclass(frozen=True)
class PreparedCenters:
    """Centers as the matrix product takes them; names as in docs/internals/exactness.md."""

    centers: NDArray[np.float32]
    """(k, d) as given."""
    factors: NDArray[np.float32]
    """(k, d + 2): -2 e_j, |e_j|^2 - a_j or q_j - a_j, -b_j."""
    bound_a: NDArray[np.float32]
    """(k,) a_j: the part of the bound of a score that does not depend on the row."""
    bound_b: NDArray[np.float32]
    """(k,) b_j: what the bound grows by for each unit of |r|."""
    scaled_mean: NDArray[np.float32]
    """(d,) m, rounded: a row and the centers are taken relative to the same point."""
    scale: np.float32
    """Power of two that brings the spread of the centers near 1."""
    cosine: bool
    """Whether the score is -2 x.c, and not |x - c|^2."""
    tile_rows: int
    """Rows of a tile."""
    free: list[_Scratch]
    """Memory for tiles that no thread uses: each takes one and puts it back. `pop` and `append` of
    a list are atomic, so no lock is needed."""

    def take_scratch(self) -> _Scratch:
        """Return memory for a tile, which the caller appends to `free` when it is done."""
        try:
            return self.free.pop()
        except IndexError:
            return _Scratch(self.tile_rows, *self.factors.shape)


def scale_of(centers: NDArray[np.float32]) -> tuple[float, NDArray[np.float64]]:
    """Return a power of two that brings the spread of the centers near 1, and their mean (d,)."""
    mean = np.zeros(centers.shape[1])
    return scale_for(drift.measure_spread(centers, mean)), mean


def scale_for(spread: float) -> float:
    """Return a power of two that brings a spread near 1."""
    return math.ldexp(1.0, min(max(-math.frexp(spread)[1], -126), 126))


class PortableKernel(HoldsPlainly):
    """BLAS for the product, numba for everything else. Releases the GIL."""

    def __init__(self, threads: int) -> None:
        self._threads = Threads(threads)

    def ready(self, rows: int, k: int, d: int) -> str:
        """Return the name; BLAS needs no preparation."""
        return BLAS

    @np.errstate(over="ignore", invalid="ignore")  # what overflows certifies no row
    def prepare(self, centers: NDArray[np.float32], metric: Metric) -> PreparedCenters:
        """Make the matrix and the bounds of docs/internals/exactness.md, section 2."""
        cosine = metric == Metric.COSINE
        k, d = centers.shape
        exact = centers.astype(np.float64)
        scale, mean = scale_of(centers)
        scaled_mean = (mean * scale).astype(np.float32)
        unrounded = exact * scale - scaled_mean
        e = unrounded.astype(np.float32).astype(np.float64)
        squares = (e * e).sum(axis=1)
        # (d + 2) roundings of the product and some of r, e, q and the bound itself; 1.01 rounds up.
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
            free=[],
        )

    def assign(
        self,
        rows: NDArray[np.float32],
        prepared: PreparedCenters,
        labels: NDArray[np.int32],
    ) -> None:
        """Label rows tile by tile, in threads, see `Kernel.assign`."""
        tiles = -(-len(rows) // prepared.tile_rows)
        step = max(-(-tiles // self._threads.count), 1) * prepared.tile_rows
        parts = [slice(start, start + step) for start in range(0, len(rows), step)]
        with use_one_blas_thread():
            self._threads.run(
                _assign_part, [(rows[part], prepared, labels[part]) for part in parts]
            )

    def assign_second(
        self,
        rows: NDArray[np.float32],
        prepared: PreparedCenters,
        labels: NDArray[np.int32],
        seconds: NDArray[np.int32],
    ) -> None:
        """Take from the two nearest the one that is not in `labels`, see `Kernel.assign_second`."""
        found = np.empty((len(rows), 2), np.int32)
        _assign_nearest(rows, prepared, found, self._threads)
        seconds[:] = np.where(found[:, 0] == labels, found[:, 1], found[:, 0])

    def assign_nearest(
        self,
        rows: NDArray[np.float32],
        prepared: PreparedCenters,
        found: NDArray[np.int32],
    ) -> None:
        """Find the m nearest centers tile by tile, in threads, see `Kernel.assign_nearest`."""
        _assign_nearest(rows, prepared, found, self._threads)

    def move(
        self,
        blocks: Sequence[NDArray[np.float32]],
        moves: Moves,
        labels: NDArray[np.int32],
        scale: NDArray[np.float64],
        sums: NDArray[np.int64],
        weights: NDArray[np.int64] = ALIKE,
    ) -> None:
        """Move rows between sums, in threads, see `Kernel.move`."""
        summing.move_rows(Rows.of(blocks), moves, labels, scale, sums, weights, self._threads)

    def accumulate(
        self,
        rows: NDArray[np.float32],
        labels: NDArray[np.int32],
        scale: NDArray[np.float64],
        sums: NDArray[np.int64],
        weights: NDArray[np.int64] = ALIKE,
    ) -> None:
        """Add rows to sums in a compiled loop, see `Kernel.accumulate`."""
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
        """Add squares in a compiled loop, see `Kernel.accumulate_squares`."""
        summing.accumulate_squares(rows, scale, half_bits, limbs, coarse, weights)

    def fingerprint(self, rows: NDArray[np.float32], weights: NDArray[np.int64] = ALIKE) -> int:
        """Hash rows in a compiled loop, see `Kernel.fingerprint`."""
        bits = np.ascontiguousarray(rows).view(np.uint32)
        return int(compiled.fingerprint(bits, column_keys(rows.shape[1]), weights))

    def distances(
        self,
        rows: NDArray[np.float32],
        centers: NDArray[np.float32],
        metric: Metric,
        result: NDArray[Any],
    ) -> None:
        """Write distances in a compiled loop, see `Kernel.distances`."""
        compiled.distances(rows, centers, metric == Metric.COSINE, result)

    def distances_to(
        self,
        rows: NDArray[np.float32],
        centers: NDArray[np.float32],
        labels: NDArray[np.int32],
        metric: Metric,
    ) -> NDArray[np.float64]:
        """Return distances from a compiled loop, see `Kernel.distances_to`."""
        result = np.empty(len(rows))
        compiled.distances_to(rows, centers, labels, metric == Metric.COSINE, result)
        return result


class _Scratch:
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
        compiled.center_rows(rows, prepared.scaled_mean, prepared.scale, residuals)
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


def _assign_part(
    rows: NDArray[np.float32],  # (n, d)  IN
    prepared: PreparedCenters,  # IN
    labels: NDArray[np.int32],  # (n,)  OUT
) -> None:
    """Label rows with the nearest center."""
    scratch = prepared.take_scratch()
    upper = np.empty(len(rows), np.float32)
    certain = np.empty(len(rows), np.bool_)
    with np.errstate(over="ignore", invalid="ignore"):  # such rows are compared in float64
        for start in range(0, len(rows), prepared.tile_rows):
            tile = slice(start, start + prepared.tile_rows)
            _assign_tile(rows[tile], prepared, scratch, labels[tile], upper[tile], certain[tile])
        undecided = np.flatnonzero(~certain)
        for start in range(0, len(undecided), prepared.tile_rows):
            part = undecided[start : start + prepared.tile_rows]
            labels[part] = _refine_tile(rows[part], prepared, scratch, upper[part])
    prepared.free.append(scratch)


def _assign_tile(
    rows: NDArray[np.float32],  # (t, d)  IN
    prepared: PreparedCenters,  # IN
    scratch: _Scratch,  # INOUT
    labels: NDArray[np.int32],  # (t,)  OUT
    upper: NDArray[np.float32],  # (t,)  OUT  the least true score is not above it
    certain: NDArray[np.bool_],  # (t,)  OUT
) -> None:
    """Label a tile of rows by their intervals, and tell which labels are certain."""
    residuals = scratch.residuals(rows, prepared)
    for first, lows in scratch.lows(residuals, prepared):
        compiled.scan(lows, first, scratch.lowest, scratch.second, labels)
    bounds = prepared.bound_a, prepared.bound_b
    compiled.certify(scratch.lowest, scratch.second, *bounds, residuals, labels, upper, certain)


def _refine_tile(
    rows: NDArray[np.float32],  # (t, d)  IN
    prepared: PreparedCenters,  # IN
    scratch: _Scratch,  # INOUT
    upper: NDArray[np.float32],  # (t,)  IN, of `_assign_tile`
) -> NDArray[np.int32]:
    """Return the labels of undecided rows (t,), by exact comparison of their candidates."""
    nearest = np.full(len(rows), -1, np.int32)
    scores = np.empty((len(rows), 2))
    target = prepared.centers, prepared.cosine
    residuals = scratch.residuals(rows, prepared)
    for first, lows in scratch.lows(residuals, prepared):
        compiled.refine(rows, *target, lows, first, upper, nearest, scores)
    return nearest


def _assign_nearest(
    rows: NDArray[np.float32], prepared: PreparedCenters, found: NDArray[np.int32], threads: Threads
) -> None:
    """Find the m nearest centers of all rows, in threads."""
    step = prepared.tile_rows
    parts = [slice(start, start + step) for start in range(0, len(rows), step)]
    with use_one_blas_thread():
        threads.run(_find_nearest, [(rows[part], prepared, found[part]) for part in parts])


def _find_nearest(
    rows: NDArray[np.float32],  # (n, d)  IN
    prepared: PreparedCenters,  # IN
    found: NDArray[np.int32],  # (n, m)  OUT
) -> None:
    """Find the m nearest centers of up to `tile_rows` rows."""
    scratch = prepared.take_scratch()
    k, m = len(prepared.centers), found.shape[1]
    lists = candidate_lists.Lists.of(len(rows), k, m, min(k, PANEL_CENTERS))
    limits = np.empty(len(rows), np.float32)
    undecided = []
    with np.errstate(over="ignore", invalid="ignore"):  # such rows are compared in float64
        for start in range(0, len(rows), len(lists.used)):
            tile = slice(start, start + len(lists.used))
            left = _rank_tile(rows[tile], prepared, scratch, lists, limits[tile], found[tile])
            undecided.append(start + left)
        numbers = np.concatenate([np.empty(0, np.int64), *undecided])
        for start in range(0, len(numbers), len(lists.used)):
            part = numbers[start : start + len(lists.used)]
            found[part] = _rank_undecided(rows[part], prepared, scratch, limits[part], m)
    prepared.free.append(scratch)


def _rank_tile(
    rows: NDArray[np.float32],  # (t, d)  IN
    prepared: PreparedCenters,  # IN
    scratch: _Scratch,  # INOUT
    lists: candidate_lists.Lists,  # INOUT, of t rows or more
    limits: NDArray[np.float32],  # (t,)  OUT
    found: NDArray[np.int32],  # (t, m)  OUT, but not of the rows that are returned
) -> NDArray[np.int64]:
    """Find the m nearest centers of a tile of rows; return which rows are undecided."""
    m, bounds = found.shape[1], (prepared.bound_a, prepared.bound_b)
    residuals = scratch.residuals(rows, prepared)
    candidate_lists.begin(residuals, bounds, m, lists, limits)
    for first, lows in scratch.lows(residuals, prepared):
        candidate_lists.collect(lows, first, m, bounds, residuals, lists, limits)
    target = prepared.centers, prepared.cosine
    candidate_lists.rank_lists(rows, *target, lists, limits, found)
    return np.flatnonzero(lists.used[: len(rows)] == candidate_lists.UNDECIDED)


def _rank_undecided(
    rows: NDArray[np.float32],  # (t, d)  IN
    prepared: PreparedCenters,  # IN
    scratch: _Scratch,  # INOUT
    limits: NDArray[np.float32],  # (t,)  IN, of `_rank_tile`
    m: int,  # IN
) -> NDArray[np.int32]:
    """Return the m nearest centers of undecided rows (t, m), by exact comparison."""
    found, filled = np.empty((len(rows), m), np.int32), np.zeros(len(rows), np.int32)
    scores = np.empty((len(rows), m, 2))
    target = prepared.centers, prepared.cosine
    residuals = scratch.residuals(rows, prepared)
    for first, lows in scratch.lows(residuals, prepared):
        candidate_lists.rank_all(rows, *target, lows, first, limits, found, scores, filled)
    return found


@cache
def _blas() -> ThreadpoolController:
    """Return the handle of the BLAS that NumPy uses: looking for it takes milliseconds."""
    return ThreadpoolController().select(user_api="blas")


class _OneBlasThread:
    """Limits BLAS to the thread that calls it, while any thread is inside.

    The first one to come sets the limit and the last one to go ends it: else the first of two to go
    would end it for the other. So whoever is inside of it already enters it again for nothing.
    """

    def __init__(self) -> None:
        self._lock = RLock()
        self._inside = 0
        self._limit: Any = None
        forks.hold_while_forking(self._lock)

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._limit = _blas().limit(limits=1)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._limit.restore_original_limits()


_one_blas_thread = _OneBlasThread()
"""The limit of this process: one for all threads, as BLAS has one number of threads for all."""


def use_one_blas_thread() -> AbstractContextManager[None]:
    """Let BLAS use the thread that calls it: our own are as many as there may be."""
    return _one_blas_thread
