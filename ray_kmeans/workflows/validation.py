"""What the estimator accepts: every argument is checked here, before any worker starts."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.state import FitState
from ray_kmeans.config import RunConfig
from ray_kmeans.data.stream import without_targets
from ray_kmeans.engine.seeding import choose
from ray_kmeans.errors import ConfigError, DataError
from ray_kmeans.text import secrets

INITS = (choose.RANDOM, choose.KMEANS_PLUS_PLUS, choose.KMC2, choose.KMEANS_PARALLEL)
METRICS = (Metric.SQUARED_EUCLIDEAN, Metric.COSINE)
EMPTY_CLUSTERS = ("keep", "farthest")


def check_parameters(params: Mapping[str, Any]) -> None:
    """Check the constructor's arguments as far as that needs no data."""
    check_count("num_clusters", params["num_clusters"])
    check_count("mini_batch_steps_per_iteration", params["mini_batch_steps_per_iteration"])
    for name in ("random_seed", "kmeans_plus_plus_num_retries"):
        if isinstance(params[name], bool) or not isinstance(params[name], Integral):
            raise ConfigError(f"{name}={params[name]!r} must be a whole number.")
    check_choice("distance_metric", params["distance_metric"], METRICS)
    check_choice("empty_clusters", params["empty_clusters"], EMPTY_CLUSTERS)
    if not isinstance(params["use_mini_batch"], bool | np.bool_):
        raise ConfigError(f"use_mini_batch={params['use_mini_batch']!r} must be True or False.")
    _check_tolerance(params["relative_tolerance"])
    if not isinstance(params["config"], RunConfig | None):
        raise ConfigError(f"config={params['config']!r} must be a RunConfig or None.")
    if params["use_mini_batch"] and params["empty_clusters"] != "keep":
        raise ConfigError(
            f"empty_clusters={params['empty_clusters']!r} has no meaning for mini-batch, where a "
            "cluster keeps its rows. Give 'keep', or use_mini_batch=False."
        )
    initial_centers(params["initial_clusters"], int(params["num_clusters"]))


def check_count(name: str, value: Any) -> None:
    """Raise ConfigError unless it is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ConfigError(f"{name}={value!r} must be a whole number of at least 1.")


def initial_centers(initial: Any, num_clusters: int) -> Any:
    """Return the name of a method, a function, or the centers given, float64.

    Rounded they are by who knows what is subtracted before.
    """
    if isinstance(initial, str):
        check_choice("initial_clusters", initial, INITS, ", an array or a function")
        return initial
    if callable(initial):
        function: Callable[..., Any] = initial
        return function
    try:
        centers = np.asarray(initial, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"initial_clusters is no array of numbers: {error}.") from None
    if centers.ndim != 2 or len(centers) != num_clusters:
        raise ConfigError(
            f"initial_clusters has shape {centers.shape} and num_clusters={num_clusters}; "
            "the array must be (num_clusters, num_features)."
        )
    if not (np.abs(centers) <= np.finfo(np.float32).max).all():
        raise ConfigError(
            "initial_clusters holds NaN or infinity, or values beyond float32. Give finite centers."
        )
    return np.ascontiguousarray(centers)


def check_no_targets(y: Any, name: str = "y") -> None:
    """Raise ConfigError for targets."""
    if y is not None:
        raise ConfigError(f"{name} must be None: clustering has no targets.")


def check_steps(steps: Any, max_steps: Any) -> None:
    """Raise ConfigError unless at most one of them is given, as a count."""
    if steps is not None and max_steps is not None:
        raise ConfigError(
            f"steps={steps} and max_steps={max_steps} are both given. Give one of them."
        )
    for name, value in {"steps": steps, "max_steps": max_steps}.items():
        if value is not None:
            check_count(name, value)


def check_batch_size(batch_size: Any, input_fn: Any, use_mini_batch: bool = True) -> None:
    """Raise ConfigError unless it is None, or a count where batches are cut here."""
    if batch_size is None:
        return
    if input_fn is not None:
        raise ConfigError(
            f"batch_size={batch_size} has no meaning with input_fn. Let input_fn return batches, "
            "or give the data as x."
        )
    if not use_mini_batch:
        raise ConfigError(
            f"batch_size={batch_size} has no meaning with use_mini_batch=False: a step visits all "
            "rows. Leave it out, or give use_mini_batch=True."
        )
    check_count("batch_size", batch_size)


def check_no_batch_size(batch_size: Any) -> None:
    """Raise ConfigError for a batch size where the data are batches already."""
    if batch_size is not None:
        raise ConfigError(f"batch_size={batch_size} has no meaning for an iterator of batches.")


def check_weight_of_batches(sample_weight: Any) -> None:
    """Raise ConfigError for weights that cannot be those of an iterator's batches."""
    if not isinstance(sample_weight, str | None):
        raise ConfigError(
            "sample_weight is an array and x an iterator of batches: give the name of a column of "
            "each batch, or batches made by open_source(batch, sample_weight=...)."
        )


def check_to_keep(exports_to_keep: Any) -> None:
    """Raise ConfigError unless it is None or a count."""
    if exports_to_keep is not None:
        check_count("exports_to_keep", exports_to_keep)


def a_path(name: str, value: Any) -> str:
    """Return a path or URL as text; raises ConfigError for anything else."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{name}={value!r} must be a path or URL.")
    return value


def check_metrics(metrics: Any, own: Sequence[str]) -> None:
    """Raise ConfigError unless metrics are functions by name."""
    if metrics is None:
        return
    if not isinstance(metrics, Mapping) or not all(callable(each) for each in metrics.values()):
        raise ConfigError(
            f"metrics={metrics!r} must be None or a dict of functions of (rows, predictions)."
        )
    taken = sorted(set(metrics) & set(own))
    if taken:
        raise ConfigError(f"metrics={taken}: evaluate returns values of these names itself.")


def the_data(x: Any, input_fn: Callable[[], Any] | None) -> Any:
    """Return what x or input_fn gives; either may be given as the other."""
    if callable(x) and not hasattr(x, "describe") and not hasattr(x, "__iter__"):
        if input_fn is not None:
            raise ConfigError("x and input_fn are both given. Give exactly one of them.")
        x, input_fn = None, x
    if (x is None) == (input_fn is None):
        given = "neither x nor input_fn is" if x is None else "x and input_fn are both"
        raise ConfigError(f"{given} given. Give exactly one of them.")
    if input_fn is None:
        return x
    return without_targets(input_fn()) if callable(input_fn) else input_fn


def chosen_outputs(outputs: Sequence[str] | None, known: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of the known outputs that are wanted, all by default."""
    if outputs is None:
        return known
    if isinstance(outputs, str) or not isinstance(outputs, Collection):
        raise ConfigError(f"outputs={outputs!r} must be a list with some of {list(known)}.")
    chosen = tuple(name for name in known if name in outputs)
    if not chosen:
        raise ConfigError(f"outputs={list(outputs)} names none of {list(known)}.")
    return chosen


def check_choice(name: str, value: Any, known: Sequence[str], more: str = "") -> None:
    """Raise ConfigError unless it is one of the known names."""
    if not isinstance(value, str) or value not in known:
        choices = ", ".join(repr(each) for each in known)
        raise ConfigError(f"{name}={value!r} is unknown. Give one of {choices}{more}.")


def _check_tolerance(tolerance: Any) -> None:
    if tolerance is None:
        return
    is_number = isinstance(tolerance, Real) and not isinstance(tolerance, bool | np.bool_)
    if not is_number or not 0 <= float(tolerance) < math.inf:
        raise ConfigError(f"relative_tolerance={tolerance!r} must be None or a number from 0 on.")


def check_features(features: int, state: FitState, model_dir: str) -> None:
    """Raise DataError unless the data are as wide as the model."""
    if features != state.centers.shape[1]:
        raise DataError(
            f"the data have {features} features and the model in {secrets.shown(model_dir)!r} has "
            f"{state.centers.shape[1]}. Give data like those it was fitted on."
        )
