"""Read the model whose numbers a fit gives to its own clusters at its end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ray_kmeans.algorithm.state import FitState
from ray_kmeans.config import RunConfig
from ray_kmeans.data.column_choice import shortened
from ray_kmeans.engine.fit_plan import FitPlan
from ray_kmeans.errors import ConfigError, ModelMismatchError, NotFittedError
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.workflows.validation import a_path


def with_numbers_of(plan: FitPlan, other: Any, config: RunConfig) -> FitPlan:
    """Return the plan of a fit that gives its clusters the numbers of another model's.

    `other` is its directory or URL, an object with a `model_dir`, or None: the plan stays as it is.
    Raises ModelMismatchError for a model of another metric.
    """
    if other is None:
        return plan
    place = a_path("renumber_like", getattr(other, "model_dir", other))
    store = ModelDir.of(place, config)
    state = store.latest()
    if state is None:
        raise NotFittedError(
            f"renumber_like={store.shown!r} holds no model. Give the directory of a fitted one."
        )
    if state.metric != plan.metric:
        raise ModelMismatchError(store.shown, _by(str(state.metric)), _by(str(plan.metric)))
    names = state.rows.columns if state.rows else ()
    return replace(plan, numbers_of=state.clusters, columns_of_numbers=names)


def _by(metric: str) -> str:
    """Return how a model compares rows, as text."""
    return f"the {metric} distance"


def has_numbers(plan: FitPlan, state: FitState) -> bool:
    """Return whether a model has the numbers already that the plan wants."""
    plan = in_order(replace(plan, rows=state.rows), state.centers.shape[1])
    return plan.renumbered(state) is state


def in_order(plan: FitPlan, features: int) -> FitPlan:
    """Return the plan with the other model's centers in the order of the data's columns.

    Raises ConfigError where the other model has another number of columns, or other columns.
    """
    found, names = plan.numbers_of, plan.columns_of_numbers
    if found is None:
        return plan
    if found.shape[1] != features:
        raise ConfigError(
            f"renumber_like is a model of {found.shape[1]} features and the data have {features}. "
            "Give a model of the same columns, or leave renumber_like out."
        )
    if len(names) < 2 or len(plan.columns) < 2:
        return plan
    if set(names) != set(plan.columns):
        raise ConfigError(
            f"renumber_like is a model of the columns {shortened(names)}, and the data have "
            f"{shortened(plan.columns)}. Give a model of the same columns, or leave it out."
        )
    order = [names.index(name) for name in plan.columns]
    return replace(plan, numbers_of=found[:, order], columns_of_numbers=plan.columns)
