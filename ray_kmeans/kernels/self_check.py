"""The data of the self-checks: what a unit must label right in this process before it is used."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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
