"""Read the figures of quality that a report shows, from the JSON of an evaluation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ray_kmeans.algorithm.quality import Quality
from ray_kmeans.algorithm.state import FitState
from ray_kmeans.errors import ConfigError
from ray_kmeans.io.publish import Place, absolute

HOW = "Give the JSON that `ray-kmeans evaluate DATA MODEL_DIR --output` writes of this model."
"""Sentence that tells what to give."""


def read_quality(url: str, storage_options: Mapping[str, Any], state: FitState) -> Quality:
    """Return the figures of quality in a file.

    Raises StoreError if it cannot be read, and ConfigError if it has no figures of this model as it
    is now.
    """
    place = Place(absolute(url), storage_options)
    shown = f"evaluation={place.shown!r}"
    with place.raise_store_errors(f"{place.shown!r} cannot be read"):
        data = bytes(place.fs.cat_file(place.path))
    try:
        found = json.loads(data)
        step, quality = found["global_step"], Quality.parse(found["quality"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ConfigError(f"{shown} holds no figures of quality. {HOW}") from None
    arrays = [quality.sizes, quality.cluster_inertia, quality.cluster_silhouette, quality.gaps]
    shapes = {each.shape for each in [*arrays, quality.nearest] if each is not None}
    if step != state.iteration or shapes != {(len(state.centers),)}:
        raise ConfigError(
            f"{shown} is of {len(quality.sizes):,} clusters after {step} steps, and the model has "
            f"{len(state.centers):,} after {state.iteration}. {HOW}"
        )
    return quality
