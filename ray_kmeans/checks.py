"""What the estimator accepts: every argument is checked here, before any worker starts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.config import RunConfig
from ray_kmeans.errors import ConfigError, NotAvailableError

NOT_YET_INITS = ("kmeans_plus_plus", "kmc2", "kmeans_parallel")


def check_parameters(params: Mapping[str, Any]) -> None:
    """Check the constructor's arguments as far as that needs no data."""
    check_count("num_clusters", params["num_clusters"])
    if not isinstance(params["random_seed"], Integral):
        raise ConfigError(f"random_seed={params['random_seed']!r} must be a whole number.")
    _check_metric(params["distance_metric"])
    _check_tolerance(params["relative_tolerance"])
    if not isinstance(params["config"], RunConfig | None):
        raise ConfigError(f"config={params['config']!r} must be a RunConfig or None.")
    if params["use_mini_batch"]:
        raise NotAvailableError(
            "use_mini_batch=True", "Give use_mini_batch=False: full-batch Lloyd."
        )
    defaults = {"mini_batch_steps_per_iteration": 1, "kmeans_plus_plus_num_retries": 2}
    for name, default in defaults.items():
        if params[name] != default:
            raise NotAvailableError(f"{name}={params[name]!r}", "Leave it out.")
    initial_centers(params["initial_clusters"], int(params["num_clusters"]))


def check_count(name: str, value: Any) -> None:
    """Raise ConfigError unless it is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ConfigError(f"{name}={value!r} must be a whole number of at least 1.")


def initial_centers(initial: Any, num_clusters: int) -> NDArray[np.float32] | None:
    """Return the centers given as an array, float32; None for 'random'."""
    if isinstance(initial, str):
        if initial == "random":
            return None
        if initial in NOT_YET_INITS:
            raise NotAvailableError(
                f"initial_clusters={initial!r}", "Give 'random' or an array of centers."
            )
        raise ConfigError(f"initial_clusters={initial!r} is unknown. Give 'random' or an array.")
    if callable(initial):
        raise NotAvailableError("initial_clusters as a function", "Give 'random' or an array.")
    try:
        with np.errstate(over="ignore"):
            centers = np.asarray(initial, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"initial_clusters is no array of numbers: {error}.") from None
    if centers.ndim != 2 or len(centers) != num_clusters:
        raise ConfigError(
            f"initial_clusters has shape {centers.shape} and num_clusters={num_clusters}; "
            "the array must be (num_clusters, num_features)."
        )
    if not np.isfinite(centers).all():
        raise ConfigError(
            "initial_clusters holds NaN or infinity, or values beyond float32. Give finite centers."
        )
    return np.ascontiguousarray(centers)


def check_fit_arguments(y: Any, batch_size: Any, monitors: Any, steps: Any, max_steps: Any) -> None:
    """Check the arguments of `fit` besides the data."""
    if y is not None:
        raise ConfigError("y must be None: clustering has no targets.")
    if batch_size is not None:
        raise NotAvailableError(
            f"batch_size={batch_size!r}", "A step visits all rows. Leave it out."
        )
    if monitors is not None:
        raise NotAvailableError("monitors", "Leave it out.")
    if steps is not None and max_steps is not None:
        raise ConfigError(
            f"steps={steps} and max_steps={max_steps} are both given. Give one of them."
        )
    for name, value in {"steps": steps, "max_steps": max_steps}.items():
        if value is not None:
            check_count(name, value)


def the_data(x: Any, input_fn: Callable[[], Any] | None) -> Any:
    """Return what x or input_fn gives; a function given as x is an input_fn."""
    if callable(x) and not hasattr(x, "describe"):
        if input_fn is not None:
            raise ConfigError("x and input_fn are both given. Give exactly one of them.")
        x, input_fn = None, x
    if (x is None) == (input_fn is None):
        given = "neither x nor input_fn is" if x is None else "x and input_fn are both"
        raise ConfigError(f"{given} given. Give exactly one of them.")
    if input_fn is None:
        return x
    made = input_fn()
    if isinstance(made, tuple) and len(made) == 2:
        features, targets = made
        if targets is not None:
            raise ConfigError("input_fn returned targets; the second of the pair must be None.")
        return features
    return made


def chosen_outputs(outputs: Sequence[str] | None, known: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of the known outputs that are wanted, all by default."""
    if outputs is None:
        return known
    chosen = tuple(name for name in known if name in outputs)
    if not chosen:
        raise ConfigError(f"outputs={list(outputs)} names none of {list(known)}.")
    return chosen


def _check_metric(metric: Any) -> None:
    if metric == "cosine":
        raise NotAvailableError(
            "distance_metric='cosine'",
            "Give 'squared_euclidean'; on rows of unit norm the nearest center is often the same.",
        )
    if metric != "squared_euclidean":
        raise ConfigError(f"distance_metric={metric!r} is unknown. Give 'squared_euclidean'.")


def _check_tolerance(tolerance: Any) -> None:
    if tolerance is not None and not (
        isinstance(tolerance, Real) and 0 <= float(tolerance) < math.inf
    ):
        raise ConfigError(f"relative_tolerance={tolerance!r} must be None or a number from 0 on.")
