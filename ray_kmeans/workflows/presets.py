"""Settings of a fit by one word, and the advice where TensorFlow's settings lose much."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_kmeans.algorithm.state import FitState, Origin
from ray_kmeans.engine.seeding.choose import KMEANS_PARALLEL, RANDOM

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "best": {
        "initial_clusters": KMEANS_PARALLEL,
        "use_mini_batch": False,
        "relative_tolerance": 1e-4,
        "n_init": 4,
    }
}
"""Arguments of the constructor by the name of a preset; flags have the same names."""
FEW = 20
"""Largest number of clusters for which random rows and mini-batch lost nothing to speak of."""
ADVICE = (
    "these clusters began at random rows and saw mini-batches, as by TensorFlow's defaults; with "
    "k-means|| and full batch the loss of data with clusters was 1 to 7 % lower: --preset best, or "
    "KMeansClustering.recommended"
)
"""Line at the end of a fit whose loss is likely poor."""


def advice_of(state: FitState, began: int) -> str | None:
    """Return the line that tells of better settings, or None where they would hardly help.

    It is for a model of many clusters that a fit has begun, by random rows, and trained by
    mini-batch. `began` is the number of steps that the model had before the fit.
    """
    random = state.origin is not None and state.origin.initial == Origin().initial == RANDOM
    is_new, many = began == 0, len(state.centers) > FEW
    return ADVICE if random and is_new and many and state.accumulators is not None else None
