"""What only TensorFlow's class has: variables by its names, and `model_fn` for one batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.minibatch import running_means
from ray_kmeans.algorithm.state import FitState
from ray_kmeans.config import Mode, check_choice
from ray_kmeans.data.sharding import Layout
from ray_kmeans.data.source import Source
from ray_kmeans.errors import ConfigError
from ray_kmeans.workflows.evaluate import loss_here
from ray_kmeans.workflows.predict_in_memory import (
    ALL_SCORES,
    CLUSTER_IDX,
    Batch,
    ReadyModel,
    batches_of,
    join_batches,
)

ALIASES = {"total_counts": "Variable"}
"""TensorFlow's name for each other name of a variable."""


def variables(state: FitState) -> dict[str, NDArray[Any]]:
    """Return the variables that TensorFlow has after training in the same way, sorted by name."""
    found: dict[str, NDArray[Any]] = {
        "clusters": _clusters(state),
        "global_step": np.asarray(state.iteration, np.int64),
        "initialized": np.asarray(True),
    }
    if state.accumulators is not None:
        found["Variable"] = state.counts
    if state.accumulators is not None and state.accumulators.steps_per_iteration > 1:
        left = state.accumulators.steps_per_iteration - state.accumulators.done
        found["clusters_updated"] = _unshifted(running_means(state), state)
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
    """Return the centers as TensorFlow keeps them: with m = 1 and cosine, unnormalised means."""
    if (
        state.accumulators is None
        or state.metric != Metric.COSINE
        or state.accumulators.steps_per_iteration > 1
    ):
        return state.clusters
    return running_means(state)


def _unshifted(means: NDArray[np.float32], state: FitState) -> NDArray[Any]:
    """Return means (k, d) among the rows as the user gave them."""
    return means + np.asarray(state.shift) if state.shift else means


# --- model_fn


@dataclass(frozen=True)
class ModelFnOps:
    """What a model says of one batch, as TensorFlow's `model_fn` returns it."""

    mode: Mode
    """The mode of the call."""
    predictions: Batch
    """'all_scores' (n, k) float32 and 'cluster_idx' (n,) int64."""
    loss: float | None
    """Sum of the distances to the nearest center; None in mode 'infer'."""
    eval_metric_ops: dict[str, float]
    """{'scores': loss}; empty in mode 'infer'."""
    train_op: Callable[[], Any] | None
    """Function that trains one step on the batch; None but in mode 'train'."""


def model_fn(
    state: FitState, source: Source, layout: Layout, mode: Mode, train: Callable[[], Any]
) -> ModelFnOps:
    """Return what a model says of one batch in memory."""
    check_choice("mode", mode, get_args(Mode))
    predict = ReadyModel(state, (ALL_SCORES, CLUSTER_IDX))
    predictions = join_batches(map(predict, batches_of(source, layout, None)))
    if mode == "infer":
        return ModelFnOps(mode, predictions, None, {}, None)
    loss = loss_here(state, source, layout)
    return ModelFnOps(mode, predictions, loss, {"scores": loss}, train if mode == "train" else None)
