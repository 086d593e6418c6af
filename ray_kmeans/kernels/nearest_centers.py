"""The nearest centers of rows and their distances, by any kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.kernels import Kernel

LIST_BYTES = 2**22
"""Largest size in bytes of a thread's lists of centers that may be among the nearest, while the
list of one row is smaller."""


def find_nearest(
    kernel: Kernel,
    rows: NDArray[np.float32],  # (n, d)  IN, C order
    prepared: Any,  # IN, of `count` centers or more
    labels: NDArray[np.int32],  # (n,)  IN, the nearest center of each row
    count: int,  # IN
) -> NDArray[np.int32]:
    """Return the `count` nearest centers of each row, (count, n), the nearest first.

    The second-nearest alone is found by products of bytes, which take a fraction of the time of
    those in float32 that find more.
    """
    if count == 1:
        return labels[None]
    if count == 2:
        found = np.stack([labels, np.empty_like(labels)])
        kernel.assign_second(rows, prepared, labels, found[1])
        return found
    lists = np.empty((len(rows), count), np.int32)
    kernel.assign_nearest(rows, prepared, lists)
    return np.ascontiguousarray(lists.T)


def measure_distances(
    kernel: Kernel,
    rows: NDArray[np.float32],  # (n, d)  IN, C order
    centers: NDArray[np.float32],  # (k, d)  IN
    found: NDArray[np.int32],  # (m, n)  IN, some centers of each row
    metric: Metric,  # IN
) -> NDArray[np.float32]:
    """Return the distance of each row to each of some centers of its own, (m, n)."""
    result = np.empty(found.shape, np.float32)
    with np.errstate(over="ignore"):  # a distance beyond float32 is infinite
        for of_rank, centers_of in zip(result, found, strict=True):
            of_rank[:] = kernel.distances_to(rows, centers, centers_of, metric)
    return result
