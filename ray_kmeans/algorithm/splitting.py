"""Decides which clusters are split where other clusters have no row."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm import draws
from ray_kmeans.algorithm.state import FitState


def new_parts(sizes: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return how many more centers each cluster gets, (k,), if the largest are split `count` times.

    `sizes` are (k,). Each split goes to the cluster with the largest size per center that it has by
    then; of equally large ones to the one with the lowest index. A cluster of size 0 gets none.

    >>> new_parts(np.array([100, 0, 30, 40]), 4).tolist()
    [3, 0, 0, 1]
    """
    more = np.zeros(len(sizes), np.int64)
    heap = [(-float(size), here) for here, size in enumerate(sizes.tolist()) if size > 0]
    heapq.heapify(heap)
    for _ in range(count if heap else 0):
        _, here = heap[0]
        more[here] += 1
        heapq.heapreplace(heap, (-float(sizes[here]) / (int(more[here]) + 1), here))
    return more


def key_of(state: FitState, purpose: str = "split") -> np.uint64:
    """Return the key of the draw of rows in the next step: by the model's seed and the step.

    The seed is the one that the model was begun with, which a checkpoint holds: so a fit that is
    continued draws the same rows whatever seed the call that continues it gives.
    """
    seed = state.origin.random_seed if state.origin else 0
    return np.uint64(draws.words(seed, purpose, state.iteration, size=1)[0])
