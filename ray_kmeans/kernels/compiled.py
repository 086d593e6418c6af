"""The loops of the portable kernel, compiled by numba. They release the GIL and check nothing.

Arguments that several loops share:

    rows       (n, d)      float32  IN    C order
    centers    (k, d)      float32  IN    C order
    cosine     bool                 IN    whether the score is -x.c, and not |x - c|^2
    lows       (p, t)      float32  IN    where the intervals of p centers and t rows begin
    first      int                  IN    number of the first of these p centers
    labels     (t,)        int32    OUT
    nearest    (t,)        int32    INOUT the best center so far; -1 for none
    scores     (t, 2)      float64  INOUT its score, and by how much that is off at most
    upper      (t,)        float32        an upper bound of the least true score of a row

docs/internals/exactness.md proves the bounds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.kernels import F32, F64, I32, I64
from ray_kmeans.kernels.exact_order import is_nearer, score
from ray_kmeans.kernels.int8.quantize import AHEAD, address_of, fetch_row
from ray_kmeans.kernels.int8.types import Rows
from ray_kmeans.kernels.llvm import vectors
from ray_kmeans.process.jit import njit

FAR_AWAY = 1e15
"""A row this many center spreads away could overflow float32; it is compared in float64."""
TILE_ROWS = 64
"""Rows of a tile of `distances`."""
TILE_COLUMNS = 32
"""Columns of a tile of `distances`: with 64 rows in float64 it takes 16 KB."""
TILE_CENTERS = 64
"""Centers whose sums with a tile are kept at once: 32 KB, whatever the shape of the data."""


@njit(nogil=True, fastmath={"reassoc", "contract"})
def center_rows(rows: F32, scaled_mean: F32, scale: np.float32, residuals: F32) -> None:
    """Write r = scale x - m, 1 and an upper bound of |r| for each row.

    scaled_mean: (d,) float32  IN, m; scale: float32  IN
    residuals: (n, d + 2) float32  OUT
    """
    # Norms are rounded up: 1.01 covers the float32 sum up to d = 200,000, the last term underflow.
    n, d = rows.shape
    for i in range(n):
        total = np.float32(0.0)
        for column in range(d):
            residual = rows[i, column] * scale - scaled_mean[column]
            residuals[i, column] = residual
            total += residual * residual
        residuals[i, d] = np.float32(1.0)
        residuals[i, d + 1] = np.sqrt(total) * np.float32(1.01) + np.float32(2.0**-60)


@njit(nogil=True)
def scan(lows: F32, first: int, lowest: F32, second: F32, labels: I32) -> None:
    """Take some centers into the two lowest interval begins of each row, and the label.

    lowest, second: (t,) float32  INOUT; they begin anew where `first` is 0
    """
    # Rows run along the vector lanes, so the state of a tile stays in the first-level cache.
    panel, n = lows.shape
    if first == 0:
        lowest[:n] = np.inf
        second[:n] = np.inf
        labels[:] = 0
    for j in range(panel):
        label = np.int32(first + j)
        for i in range(n):
            low = lows[j, i]
            before = lowest[i]
            is_lowest = low < before
            rival = before if is_lowest else low
            second[i] = rival if rival < second[i] else second[i]
            lowest[i] = low if is_lowest else before
            labels[i] = label if is_lowest else labels[i]


@njit(nogil=True)
def certify(
    lowest: F32,
    second: F32,
    bound_a: F32,
    bound_b: F32,
    residuals: F32,
    labels: I32,
    upper: F32,
    certain: NDArray[np.bool_],
) -> None:
    """Tell which labels are certain: the lowest interval ends before the second one begins.

    lowest, second: (t,) float32  IN
    bound_a, bound_b: (k,) float32  IN, the bound of a score is a + b |r|
    residuals: (t, d + 2) float32  IN, of `center_rows`
    labels: IN here; upper: OUT
    certain: (t,) bool  OUT
    """
    n, width = residuals.shape
    for i in range(n):
        norm = residuals[i, width - 1]
        label = labels[i]
        # The interval reaches as far above the score as below it, and begins at `lowest`.
        upper[i] = lowest[i] + np.float32(2.0) * (bound_a[label] + bound_b[label] * norm)
        if norm < FAR_AWAY:
            certain[i] = second[i] > upper[i]
        else:  # also where it is not a number
            certain[i] = False
            upper[i] = np.inf


@njit(nogil=True)
def refine(
    rows: F32,
    centers: F32,
    cosine: bool,
    lows: F32,
    first: int,
    upper: F32,
    nearest: I32,
    scores: F64,
) -> None:
    """Compare rows exactly with those of some centers whose interval begins below `upper` (IN)."""
    panel, n = lows.shape
    for i in range(n):
        if cosine and not np.any(rows[i]):
            # There may be many, all centers tie, and working it out takes long.
            nearest[i] = 0
            continue
        for j in range(panel):
            if not lows[j, i] > upper[i]:  # written so that a NaN is a candidate
                _compare(rows[i], centers, first + j, cosine, i, nearest, scores)


@njit(nogil=True)
def refine_pairs(
    rows: F32, centers: F32, cosine: bool, numbers: I64, candidates: I64, nearest: I32, scores: F64
) -> None:
    """Compare rows exactly with their candidates, given as pairs.

    numbers: (pairs,) int64  IN, rows
    candidates: (pairs,) int64  IN, centers; those of a row in ascending order
    """
    for pair in range(len(numbers)):
        i = numbers[pair]
        _compare(rows[i], centers, candidates[pair], cosine, i, nearest, scores)


@njit(nogil=True)
def _compare(
    row: F32, centers: F32, candidate: int, cosine: bool, i: int, nearest: I32, scores: F64
) -> None:
    """Make a candidate the nearest center of row i if it is nearer than all before it.

    Candidates come in ascending order, so a tie leaves the lowest one.
    """
    found = score(row, centers[candidate], cosine)
    best = nearest[i]
    if best < 0 or is_nearer(
        row, centers[candidate], found, centers[best], (scores[i, 0], scores[i, 1]), cosine
    ):
        nearest[i] = candidate
        scores[i, 0], scores[i, 1] = found


@njit(nogil=True)
def gather(blocks: Rows, numbers: I32, rows: F32) -> None:
    """Copy some rows side by side.

    blocks: Rows  IN, where all rows are
    numbers: (m,) int32 or int64  IN; rows: (m, d) float32  OUT
    """
    n, d = rows.shape
    for i in range(n):
        if i + AHEAD < n:
            fetch_row(blocks, numbers[i + AHEAD], d)
        row = vectors.floats_at(address_of(blocks, numbers[i], d), d)
        for column in range(d):  # numba is slow to assign a short row as a whole
            rows[i, column] = row[column]


@njit(nogil=True)
def _term(x: np.float32, c: np.float32, cosine: bool) -> float:
    """Return what one column adds to a distance by `_distance`."""
    if cosine:
        return np.float64(x) * np.float64(c)
    difference = np.float64(x) - np.float64(c)
    return difference * difference


@njit(nogil=True)
def _distance(total: float, cosine: bool) -> float:
    """Return the distance for a sum of terms; by cosine it is not below 0."""
    return max(0.0, 1.0 - total) if cosine else total


@njit(nogil=True)
def _transpose(rows: F32, tile: F64) -> None:
    """Write up to 64 rows of up to 32 columns to a tile (32, 64) float64, column by column."""
    # Eight rows at a time, so that a line of the tile is filled at once.
    n, d = rows.shape
    whole = n // 8 * 8
    for i in range(0, whole, 8):
        for column in range(d):
            for lane in range(8):
                tile[column, i + lane] = rows[i + lane, column]
    for i in range(whole, n):
        for column in range(d):
            tile[column, i] = rows[i, column]


@njit(nogil=True)
def _four(center: F32, column: int) -> tuple[float, float, float, float]:
    """Return four columns of a center from `column` on, in float64."""
    return (
        np.float64(center[column]),
        np.float64(center[column + 1]),
        np.float64(center[column + 2]),
        np.float64(center[column + 3]),
    )


@njit(nogil=True)
def _add_squares(tile: F64, centers: F32, totals: F64) -> None:
    """Add the squared differences of a tile's rows and centers to their totals.

    tile: (32, 64) float64  IN; centers: (p, up to 32) float32  IN
    totals: (p or more, 64 or more) float64  INOUT
    """
    # Rows run along the vector lanes, so the order of additions does not depend on their number.
    # Four columns at a time spare loads and stores of the totals; each is still added by itself.
    k, d = centers.shape
    whole = d // 4 * 4
    for j in range(k):
        for c in range(0, whole, 4):
            c0, c1, c2, c3 = _four(centers[j], c)
            for i in range(TILE_ROWS):
                x0, x1 = tile[c, i] - c0, tile[c + 1, i] - c1
                x2, x3 = tile[c + 2, i] - c2, tile[c + 3, i] - c3
                totals[j, i] = (((totals[j, i] + x0 * x0) + x1 * x1) + x2 * x2) + x3 * x3
        for c in range(whole, d):
            c0 = np.float64(centers[j, c])
            for i in range(TILE_ROWS):
                difference = tile[c, i] - c0
                totals[j, i] += difference * difference


@njit(nogil=True)
def _add_products(tile: F64, centers: F32, totals: F64) -> None:
    """Add the products of a tile's rows and centers to their totals, as `_add_squares` does."""
    k, d = centers.shape
    whole = d // 4 * 4
    for j in range(k):
        for c in range(0, whole, 4):
            c0, c1, c2, c3 = _four(centers[j], c)
            for i in range(TILE_ROWS):
                x0, x1 = tile[c, i] * c0, tile[c + 1, i] * c1
                x2, x3 = tile[c + 2, i] * c2, tile[c + 3, i] * c3
                totals[j, i] = (((totals[j, i] + x0) + x1) + x2) + x3
        for c in range(whole, d):
            c0 = np.float64(centers[j, c])
            for i in range(TILE_ROWS):
                totals[j, i] += tile[c, i] * c0


@njit(nogil=True)
def _write(totals: F64, cosine: bool, result: F32 | F64) -> None:
    """Write the distances for some totals; result: (up to 64, p)  OUT, float32 or float64."""
    n, panel = result.shape
    if cosine:
        for j in range(panel):
            for i in range(TILE_ROWS):
                totals[j, i] = _distance(totals[j, i], cosine)
    for i in range(n):
        for j in range(panel):
            result[i, j] = totals[j, i]


@njit(nogil=True)
def distances(rows: F32, centers: F32, cosine: bool, result: F32 | F64) -> None:
    """Write all distances, summed up in float64 in the order of the columns.

    result: (n, k)  OUT, float32 or float64
    """
    n, d = rows.shape
    k = centers.shape[0]
    tile = np.zeros((TILE_COLUMNS, TILE_ROWS))
    # 8 more: at a stride of 2**9 bytes the totals of a row would compete for the same cache sets.
    totals = np.empty((min(k, TILE_CENTERS), TILE_ROWS + 8))
    for start in range(0, n, TILE_ROWS):
        end = start + TILE_ROWS
        for first in range(0, k, TILE_CENTERS):
            last = first + TILE_CENTERS
            totals[:] = 0.0
            # The order of the columns is part of the result, so their tiles come in it as well.
            for left in range(0, d, TILE_COLUMNS):
                right = left + TILE_COLUMNS
                _transpose(rows[start:end, left:right], tile)
                if cosine:
                    _add_products(tile, centers[first:last, left:right], totals)
                else:
                    _add_squares(tile, centers[first:last, left:right], totals)
            _write(totals, cosine, result[start:end, first:last])


@njit(nogil=True)
def distances_to(rows: F32, centers: F32, labels: I32, cosine: bool, result: F64) -> None:
    """Write the distance of each row to one center: the float64 bits of `distances`.

    labels: (n,) int32  IN; result: (n,) float64  OUT
    """
    # Four rows at a time: each addition waits for the one before it in the same row.
    n, d = rows.shape
    whole = n // 4 * 4
    for i in range(0, whole, 4):
        j0, j1, j2, j3 = labels[i], labels[i + 1], labels[i + 2], labels[i + 3]
        t0 = t1 = t2 = t3 = 0.0
        for column in range(d):
            t0 += _term(rows[i, column], centers[j0, column], cosine)
            t1 += _term(rows[i + 1, column], centers[j1, column], cosine)
            t2 += _term(rows[i + 2, column], centers[j2, column], cosine)
            t3 += _term(rows[i + 3, column], centers[j3, column], cosine)
        result[i], result[i + 1] = _distance(t0, cosine), _distance(t1, cosine)
        result[i + 2], result[i + 3] = _distance(t2, cosine), _distance(t3, cosine)
    for i in range(whole, n):
        total = 0.0
        for column in range(d):
            total += _term(rows[i, column], centers[labels[i], column], cosine)
        result[i] = _distance(total, cosine)


@njit(nogil=True)
def fingerprint(bits: NDArray[np.uint32], keys: NDArray[np.uint64], weights: I64) -> np.uint64:
    """Return the sum modulo 2**64 of a hash of each row.

    bits: (n, d) uint32  IN, of the rows; keys: (d,) uint64  IN
    weights: (n,) int64  IN, how often each row counts, or ALIKE
    """
    n, d = bits.shape
    total = np.uint64(0)
    for i in range(n):
        mixed = np.uint64(0)
        for column in range(d):
            mixed += np.uint64(bits[i, column]) * keys[column]
        # Up to here the hash is linear: rows that exchange values of a column would add up to the
        # same. The shifts end that. The sum over rows wraps, so neither order nor split matters.
        mixed = (mixed ^ (mixed >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
        times = np.uint64(weights[i]) if len(weights) else np.uint64(1)
        total += times * (mixed ^ (mixed >> np.uint64(33)))
    return total
