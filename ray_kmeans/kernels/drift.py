"""How far centers are apart, and how far they moved: one pass over all values."""

from __future__ import annotations

import numpy as np

from ray_kmeans.kernels import F32, F64
from ray_kmeans.process.jit import njit


@njit(nogil=True, error_model="numpy")
def measure_spread(centers: F32, mean: F64) -> float:
    """Write the mean of the centers; return how far any is from it in any column.

    centers: (k, d) float32  IN; mean: (d,) float64  INOUT, zeros before
    """
    k, d = centers.shape
    for j in range(k):
        for column in range(d):
            mean[column] += np.float64(centers[j, column])
    mean /= k
    # One maximum for each column, as the loop over columns then is one of vectors.
    most = np.zeros(d)
    for j in range(k):
        for column in range(d):
            apart = abs(np.float64(centers[j, column]) - mean[column])
            most[column] = apart if apart > most[column] else most[column]
    return most.max()


@njit(nogil=True, fastmath={"reassoc", "contract"})
def measure_moves(before: F32, after: F32, distances: F64) -> None:
    """Write how far each center moved.

    before, after: (k, d) float32  IN; distances: (k,) float64  OUT
    """
    k, d = before.shape
    for j in range(k):
        total = 0.0
        for column in range(d):
            # Any order will do: the caller rounds the way up by more than an order can change.
            step = np.float64(after[j, column]) - np.float64(before[j, column])
            total += step * step
        distances[j] = np.sqrt(total)
