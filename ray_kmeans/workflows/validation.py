"""Check all arguments, before any worker starts."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, get_args

import numpy as np

from ray_kmeans.algorithm.state import FitState
from ray_kmeans.algorithm.tree import level_sizes
from ray_kmeans.config import (
    DistanceMetric,
    EmptyClusters,
    InitialMethod,
    LeafQuota,
    RunConfig,
    check_choice,
)
from ray_kmeans.data.sampled import check_train_rows
from ray_kmeans.data.stream import is_stream, without_targets
from ray_kmeans.errors import ConfigError, DataError
from ray_kmeans.text import secrets
from ray_kmeans.workflows.parameters import FitParams


def check_parameters(params: FitParams) -> None:
    """Raise ConfigError for arguments of the constructor that are wrong whatever the data are."""
    check_count("num_clusters", params.num_clusters)
    check_count("mini_batch_steps_per_iteration", params.mini_batch_steps_per_iteration)
    _check_whole("random_seed", params.random_seed)
    _check_whole("kmeans_plus_plus_num_retries", params.kmeans_plus_plus_num_retries)
    check_choice("distance_metric", params.distance_metric, get_args(DistanceMetric))
    check_choice("empty_clusters", params.empty_clusters, get_args(EmptyClusters))
    if not _is_bool(params.use_mini_batch):
        raise ConfigError(f"use_mini_batch={params.use_mini_batch!r} must be True or False.")
    _check_tolerance(params.relative_tolerance)
    if not _is_config(params.config):
        raise ConfigError(f"config={params.config!r} must be a RunConfig or None.")
    if params.use_mini_batch and params.empty_clusters != "keep":
        raise ConfigError(
            f"empty_clusters={params.empty_clusters!r} has no meaning for mini-batch, where a "
            "cluster keeps its rows. Give 'keep', or use_mini_batch=False."
        )
    _check_reassignment(params)
    _check_nested(params)
    check_count("n_init", params.n_init)
    check_train_rows(params.train_rows)
    initial = initial_centers(params.initial_clusters, int(params.num_clusters))
    if isinstance(initial, np.ndarray) and params.n_init > 1 and not params.use_mini_batch:
        raise ConfigError(
            f"n_init={params.n_init} with given initial_clusters: each restart would be the same. "
            "Give n_init=1, or the name of a method."
        )
    _check_tree(params, isinstance(initial, np.ndarray))


def _check_tree(params: FitParams, has_centers: bool) -> None:
    """Raise ConfigError for levels that cannot be, or for what has no meaning with or without
    them; `has_centers`: whether initial centers are given."""
    check_choice("leaf_quota", params.leaf_quota, get_args(LeafQuota))
    _check_whole("refine_steps", params.refine_steps)
    if params.refine_steps < 0:
        raise ConfigError(f"refine_steps={params.refine_steps} must be 0 or more.")
    if params.levels is None:
        if params.refine_steps:
            raise ConfigError(
                f"refine_steps={params.refine_steps} without levels: the steps that follow a tree. "
                "Give levels=2, or leave it out."
            )
        return
    levels_of(params.levels, int(params.num_clusters))
    if params.use_mini_batch:
        raise ConfigError(
            f"levels={params.levels!r} with use_mini_batch=True: a tree is fitted by full batch. "
            "Give use_mini_batch=False."
        )
    if has_centers:
        raise ConfigError(
            f"levels={params.levels!r} with given initial_clusters: a tree begins with centers of "
            "its own. Leave levels out, or give the name of a method."
        )
    if params.empty_clusters != "keep":
        raise ConfigError(
            f"levels={params.levels!r} with empty_clusters={params.empty_clusters!r}: the nodes of "
            "a tree keep theirs. Leave one of them out."
        )


def levels_of(levels: Any, num_clusters: int) -> tuple[int, ...]:
    """Return the number of centers of each level of a tree, (); or raise ConfigError.

    `levels` is a number of levels, the mean numbers of children, or None for no tree.
    """
    if levels is None:
        return ()
    if not isinstance(levels, Integral) and not isinstance(levels, Sequence):
        raise ConfigError(f"levels={levels!r} must be a number of levels, or numbers of children.")
    given = levels if isinstance(levels, Sequence) else [levels]
    for value in given:
        check_count("levels", value)
    if isinstance(levels, Sequence) and math.prod(levels) != num_clusters:
        raise ConfigError(
            f"levels={tuple(levels)} makes {math.prod(levels):,} clusters, and "
            f"num_clusters={num_clusters:,}. Give numbers whose product is num_clusters, or "
            "levels=2."
        )
    sizes = level_sizes(num_clusters, int(levels) if isinstance(levels, Integral) else levels)
    if len(sizes) < 2 or sizes[0] < 2 or any(b <= a for a, b in pairwise(sizes)):
        raise ConfigError(
            f"levels={levels!r} of {num_clusters:,} clusters would be levels of {list(sizes)} "
            "centers. Two levels or more are needed, each larger than the one above. Give others, "
            "more clusters, or leave levels out."
        )
    return sizes


def _check_whole(name: str, value: Any) -> None:
    """Raise ConfigError unless a value is a whole number."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ConfigError(f"{name}={value!r} must be a whole number.")


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool | np.bool_)


def _is_config(value: Any) -> bool:
    return isinstance(value, RunConfig | None)


def check_count(name: str, value: Any) -> None:
    """Raise ConfigError unless the value is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ConfigError(f"{name}={value!r} must be a whole number of at least 1.")


def check_nearest(nearest: Any, num_clusters: int) -> None:
    """Raise ConfigError unless this many nearest clusters is a whole number from 1 to all."""
    check_count("nearest", nearest)
    if nearest > num_clusters:
        raise ConfigError(
            f"nearest={nearest}: the model has {num_clusters:,} clusters. Give at most as many."
        )


def initial_centers(initial: Any, num_clusters: int) -> Any:
    """Return the name of a method, a function, or the given centers (k, d) as float64.

    They are rounded to float32 later, once it is known what is subtracted from the rows.
    """
    if isinstance(initial, str):
        methods = get_args(InitialMethod)
        check_choice("initial_clusters", initial, methods, ", an array or a function")
        return initial
    if callable(initial):
        function: Callable[..., Any] = initial
        return function
    try:
        centers = np.asarray(initial, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"initial_clusters is not an array of numbers: {error}.") from None
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
    """Raise ConfigError if targets are given."""
    if y is not None:
        raise ConfigError(f"{name} must be None: clustering has no targets.")


def check_steps(steps: Any, max_steps: Any) -> None:
    """Raise ConfigError unless at most one limit is given, as a whole number of at least 1."""
    if steps is not None and max_steps is not None:
        raise ConfigError(
            f"steps={steps} and max_steps={max_steps} are both given. Give one of them."
        )
    for name, value in {"steps": steps, "max_steps": max_steps}.items():
        if value is not None:
            check_count(name, value)


def check_max_seconds(max_seconds: Any) -> None:
    """Raise ConfigError unless `max_seconds` is None or a finite number above 0."""
    is_number = isinstance(max_seconds, Real) and not _is_bool(max_seconds)
    if max_seconds is not None and not (is_number and 0 < float(max_seconds) < math.inf):
        raise ConfigError(f"max_seconds={max_seconds!r} must be None or a number above 0.")


def check_batch_size(batch_size: Any, input_fn: Any, use_mini_batch: bool = True) -> None:
    """Raise ConfigError unless `batch_size` is None, or a count that has a meaning for the call."""
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


def check_no_sample(train_rows: Any) -> None:
    """Raise ConfigError if a sample is wanted of rows that come once."""
    if train_rows is not None:
        raise ConfigError(
            f"train_rows={train_rows} and x an iterator, whose rows come once and are not counted "
            "before. Leave it out, or give data that can be read again."
        )


def check_no_batch_size(batch_size: Any) -> None:
    """Raise ConfigError if a batch size is given for data that are batches already."""
    if batch_size is not None:
        raise ConfigError(f"batch_size={batch_size} has no meaning for an iterator of batches.")


def check_weight_of_batches(sample_weight: Any) -> None:
    """Raise ConfigError unless the weights of an iterator's batches are None or a column's name."""
    if not isinstance(sample_weight, str | None):
        raise ConfigError(
            "sample_weight is an array and x an iterator of batches: give the name of a column of "
            "each batch, or batches made by open_source(batch, sample_weight=...)."
        )


def check_budget(params: FitParams, max_seconds: float | None) -> None:
    """Raise ConfigError for restarts or a tree with a budget of time."""
    if max_seconds is None:
        return
    if params.n_init > 1:
        raise ConfigError(
            f"max_seconds={max_seconds:g} and n_init={params.n_init}: a budget that ends among "
            "restarts would leave no best one. Give one of them."
        )
    if params.levels is not None:
        raise ConfigError(
            f"max_seconds={max_seconds:g} and levels={params.levels!r}: a budget that ends within "
            "a tree would leave no clusters. Give one of them; steps bounds the fit of each node."
        )


def check_unnamed(names: Sequence[str]) -> None:
    """Raise ConfigError if given centers have names of columns, and the data are batches."""
    if names:
        raise ConfigError(
            f"initial_clusters has the columns {', '.join(names)}, and batches come with names "
            "of their own. Give the centers as an array, in the order of the batches' columns."
        )


def all_rows(x: Any) -> Any:
    """Return the data; ConfigError for an iterator, which only this process can read."""
    if is_stream(x):
        raise ConfigError(
            f"x of type {type(x).__name__} gives batches once, and workers read rows where "
            "they are. Give an array, a table, a URI or a source."
        )
    return x


def check_to_keep(exports_to_keep: Any) -> None:
    """Raise ConfigError unless the number of exports to keep is None or at least 1."""
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
    """Raise ConfigError unless metrics are functions by names that are not in `own`."""
    if metrics is None:
        return
    if not isinstance(metrics, Mapping) or not all(callable(each) for each in metrics.values()):
        raise ConfigError(
            f"metrics={metrics!r} must be None or a dict of functions of (rows, predictions)."
        )
    taken = sorted(set(metrics) & set(own))
    if taken:
        raise ConfigError(f"metrics={taken}: evaluate returns values of these names itself.")


def input_data(x: Any, input_fn: Callable[[], Any] | None) -> Any:
    """Return the data that `x` or `input_fn` gives; a function given as `x` is an `input_fn`."""
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
    """Return the chosen ones among the known outputs, in their order; None chooses all."""
    if outputs is None:
        return known
    if isinstance(outputs, str) or not isinstance(outputs, Collection):
        raise ConfigError(f"outputs={outputs!r} must be a list with some of {list(known)}.")
    chosen = tuple(name for name in known if name in outputs)
    if not chosen:
        raise ConfigError(f"outputs={list(outputs)} names none of {list(known)}.")
    return chosen


def _check_tolerance(tolerance: Any) -> None:
    """Raise ConfigError unless `relative_tolerance` is None or a finite number from 0 on."""
    if tolerance is None:
        return
    is_number = isinstance(tolerance, Real) and not isinstance(tolerance, bool | np.bool_)
    if not is_number or not 0 <= float(tolerance) < math.inf:
        raise ConfigError(f"relative_tolerance={tolerance!r} must be None or a number from 0 on.")


def _check_reassignment(params: FitParams) -> None:
    """Raise ConfigError unless `reassignment_ratio` is a share that has a meaning for the fit."""
    ratio: Any = params.reassignment_ratio
    if _is_bool(ratio) or not isinstance(ratio, Real) or not 0 <= float(ratio) <= 1:
        raise ConfigError(f"reassignment_ratio={ratio!r} must be a number from 0 to 1.")
    if not ratio:
        return
    if not params.use_mini_batch:
        raise ConfigError(
            f"reassignment_ratio={ratio!r} has no meaning for full batch. Give use_mini_batch=True,"
            " or empty_clusters='split_largest'."
        )
    m = params.mini_batch_steps_per_iteration
    if m != 1:
        raise ConfigError(
            f"reassignment_ratio={ratio!r} with mini_batch_steps_per_iteration={m}: counts begin "
            "anew with each iteration of several steps, and tell of no starved cluster. Give 1."
        )


def _check_nested(params: FitParams) -> None:
    """Raise ConfigError unless `nested_batches` is a bool that fits the other arguments."""
    if not _is_bool(params.nested_batches):
        raise ConfigError(f"nested_batches={params.nested_batches!r} must be True or False.")
    if not params.nested_batches:
        return
    wrong = {
        "use_mini_batch": (params.use_mini_batch, True),
        "mini_batch_steps_per_iteration": (params.mini_batch_steps_per_iteration, 1),
        "reassignment_ratio": (params.reassignment_ratio, 0),
    }
    for name, (value, wanted) in wrong.items():
        if value != wanted:
            raise ConfigError(
                f"{name}={value!r} has no meaning with nested_batches=True. Give {wanted}."
            )


def check_features(features: int, state: FitState, model_dir: str) -> None:
    """Raise DataError unless the data are as wide as the model."""
    if features != state.centers.shape[1]:
        raise DataError(
            f"the data have {features} features and the model in {secrets.shown(model_dir)!r} has "
            f"{state.centers.shape[1]}. Give data like those it was fitted on."
        )
