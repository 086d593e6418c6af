"""The data of the self-checks, which a unit must label right before it is used, and its speed."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.kernels.llvm import int8_products
from ray_kmeans.process.jit import njit

ROWS = 700
"""Rows of a self-check: some panels of rows, and one that is not full."""


def near_ties(
    rng: np.random.Generator, k: int, d: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return rows (ROWS, d) and centers (k, d); k - 1 rows are about as near to two centers."""
    centers = rng.standard_normal((k, d), np.float32)
    rows = centers[rng.integers(0, k, ROWS)] + rng.standard_normal((ROWS, d), np.float32)
    rows[: k - 1] = (centers[1:] + centers[:-1]) / 2
    return rows, centers


QUADS = 64
"""Columns, in fours, of the products whose speed is measured."""
TIMES = 200
"""How often they are made: this takes about a millisecond."""


def products_per_second(unit: Any) -> float:
    """Return how many products of two bytes a unit makes per second, at best of three times.

    `unit`: one of `int8_products`, made for QUADS. Compiling it is not counted.
    """
    rows = np.zeros((QUADS, 32, 4), np.int8)
    centers = np.zeros((2, QUADS // 16, 16, 64), np.int8)
    offsets, sums = np.zeros(32, np.int32), np.zeros((32, 32), np.int32)
    multiply = partial(
        multiply_often,
        unit,
        QUADS,
        rows.ctypes.data,
        centers.ctypes.data,
        offsets.ctypes.data,
        sums.ctypes.data,
    )
    multiply(1)
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        multiply(TIMES)
        seconds.append(time.perf_counter() - begin)
    return TIMES * 32 * 32 * 4 * QUADS / min(seconds)


@njit(nogil=True, _nrt=False)
def multiply_often(
    unit: Any, quads: int, rows: int, centers: int, offsets: int, sums: int, times: int
) -> None:
    """Make the same products again and again; addresses as `int8_products.multiply` takes them."""
    int8_products.begin(unit)
    for _ in range(times):
        int8_products.multiply(unit, rows, quads, centers, offsets, sums)
        int8_products.store(unit, sums)
    int8_products.end(unit)
