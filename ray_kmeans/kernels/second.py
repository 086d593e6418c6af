"""The nearest of all centers but a row's own: the portable kernel with that one masked out.

What `portable` proves of the nearest of some centers holds for any of them, so also for the others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ray_kmeans.kernels import loops
from ray_kmeans.kernels.exact import is_nearer, score


@njit(nogil=True, cache=True)
def mask(lows, first, own):
    panel, n = lows.shape
    for i in range(n):
        if first <= own[i] < first + panel:
            lows[own[i] - first, i] = np.inf


@njit(nogil=True, cache=True)
def settle(rows, centers, cosine, lows, first, upper, own, nearest, scores):
    panel, n = lows.shape
    for i in range(n):
        if cosine and not np.any(rows[i]):
            nearest[i] = 1 if own[i] == 0 else 0  # all centers tie
            continue
        for j in range(panel):
            candidate = first + j
            if lows[j, i] > upper[i] or candidate == own[i]:
                continue  # written so that a NaN is a candidate
            found = score(rows[i], centers[candidate], cosine)
            best = nearest[i]
            if best < 0 or is_nearer(
                rows[i],
                centers[candidate],
                found,
                centers[best],
                (scores[i, 0], scores[i, 1]),
                cosine,
            ):
                nearest[i] = candidate
                scores[i, 0], scores[i, 1] = found


def assign_part(
    rows: Any, prepared: Any, own: NDArray[np.int32], seconds: NDArray[np.int32]
) -> None:
    """Write the second-nearest center of each row whose `own` is the nearest."""
    space = prepared.space()
    upper = np.empty(len(rows), np.float32)
    certain = np.empty(len(rows), np.bool_)
    with np.errstate(over="ignore", invalid="ignore"):  # such rows are settled in float64
        for start in range(0, len(rows), prepared.tile_rows):
            tile = slice(start, start + prepared.tile_rows)
            _assign_tile(
                rows[tile], prepared, space, own[tile], seconds[tile], upper[tile], certain[tile]
            )
        open_rows = np.flatnonzero(~certain)
        for start in range(0, len(open_rows), prepared.tile_rows):
            part = open_rows[start : start + prepared.tile_rows]
            seconds[part] = _settle_tile(rows[part], prepared, space, own[part], upper[part])
    prepared.spaces.append(space)


def _assign_tile(
    rows: Any, prepared: Any, space: Any, own: Any, seconds: Any, upper: Any, certain: Any
) -> None:
    residuals = space.residuals(rows, prepared)
    for first, lows in space.lows(residuals, prepared):
        mask(lows, first, own)
        loops.scan(lows, first, space.lowest, space.second, seconds)
    bounds = prepared.bound_a, prepared.bound_b
    loops.certify(space.lowest, space.second, *bounds, residuals, seconds, upper, certain)


def _settle_tile(rows: Any, prepared: Any, space: Any, own: Any, upper: Any) -> NDArray[np.int32]:
    nearest = np.full(len(rows), -1, np.int32)
    scores = np.empty((len(rows), 2))
    residuals = space.residuals(rows, prepared)
    for first, lows in space.lows(residuals, prepared):
        mask(lows, first, own)
        settle(rows, prepared.centers, prepared.cosine, lows, first, upper, own, nearest, scores)
    return nearest
