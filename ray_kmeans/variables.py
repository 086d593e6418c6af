"""A model's state under the names that the seed gave its variables."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.clustering.metric import COSINE
from ray_kmeans.clustering.minibatch import running_means
from ray_kmeans.clustering.state import FitState
from ray_kmeans.errors import ConfigError

ALIASES = {"total_counts": "Variable"}


def variables(state: FitState) -> dict[str, NDArray[Any]]:
    """Return all variables by name, sorted; as many as the way of training has."""
    found: dict[str, NDArray[Any]] = {
        "clusters": _clusters(state),
        "global_step": np.asarray(state.iteration, np.int64),
        "initialized": np.asarray(True),
    }
    if state.running is not None:
        found["Variable"] = state.counts
    if state.running is not None and state.running.steps_per_iteration > 1:
        left = state.running.steps_per_iteration - state.running.done
        found["clusters_updated"] = _among_the_rows(running_means(state), state)
        found["update_in_steps"] = np.asarray(left, np.int64)
    return dict(sorted(found.items()))


def variable(state: FitState, name: str) -> NDArray[Any]:
    """Return one variable; a trailing ':0' is accepted."""
    found = variables(state)
    plain = name.removesuffix(":0")
    plain = ALIASES.get(plain, plain)
    if plain not in found:
        raise ConfigError(f"there is no variable {name!r}; the model has {list(found)}.")
    return found[plain]


def _clusters(state: FitState) -> NDArray[Any]:
    """Return the centers as the seed kept them: with m = 1 and cosine, means not normalised."""
    if state.running is None or state.metric != COSINE or state.running.steps_per_iteration > 1:
        return state.clusters
    return running_means(state)


def _among_the_rows(means: NDArray[np.float32], state: FitState) -> NDArray[Any]:
    return means + np.asarray(state.shift) if state.shift else means
