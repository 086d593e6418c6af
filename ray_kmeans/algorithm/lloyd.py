"""Lloyd's algorithm as a value that is stepped. Knows nothing of Ray, files or threads.

Lloyd, Least squares quantization in PCM, IEEE Trans. Inf. Theory 28 (1982); for cosine: Dhillon,
Modha, Concept decompositions for large sparse text data, Machine Learning 42 (2001).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.grid import Summary
from ray_kmeans.algorithm.partial_sums import Partials
from ray_kmeans.algorithm.state import (
    FitState,
    Iteration,
    digest,
    largest_move,
)


def update(
    state: FitState,
    seen: Partials,
    summary: Summary,
    centers: NDArray[np.float32] | None = None,
    relocated: int = 0,
) -> FitState:
    """Return the state after one iteration, given the sums of a sweep over all rows.

    `centers` (k, d) are the new centers; None: the means. They are given where centers of empty
    clusters have been moved, `relocated` of them.
    """
    if centers is None:
        centers = seen.means(summary, state.centers)
    line = Iteration(
        iteration=state.iteration + 1,
        rows=summary.counting,
        inertia=seen.inertia(summary, state.centers),
        shift=largest_move(state.centers, centers),
        empty=int((seen.counts == 0).sum()),
        digest=digest(centers),
        relocated=relocated,
    )
    return replace(
        state,
        centers=centers,
        counts=summary.grid.weights_of(seen.counts),
        iteration=line.iteration,
        history=(*state.history, line),
        accumulators=None,
    )
