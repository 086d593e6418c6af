"""The constructor's arguments by scikit-learn's rules: flat, and nested as component__parameter."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from ray_kmeans.config import RunConfig
from ray_kmeans.errors import ConfigError


def described(params: Mapping[str, Any], deep: bool) -> dict[str, Any]:
    """Return the arguments by name; `deep`: with those of components that have such."""
    found = dict(params)
    if deep:
        for name, value in params.items():
            if is_dataclass(value):
                found |= {
                    f"{name}__{each.name}": getattr(value, each.name) for each in fields(value)
                }
    return found


def replaced(params: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with some replaced; ConfigError for a name that is none."""
    known = described({**params, "config": params["config"] or RunConfig()}, deep=True)
    unknown = sorted(set(new) - set(known))
    if unknown:
        raise ConfigError(f"{unknown} are no parameters; valid are {sorted(known)}.")
    result = {**params, **{name: value for name, value in new.items() if "__" not in name}}
    nested = {name.split("__")[1]: value for name, value in new.items() if "__" in name}
    if nested:
        result["config"] = replace(result["config"] or RunConfig(), **nested)
    return result


def level_of_caller() -> int:
    """Return the `stacklevel` with which the caller's warning shows the user's own line."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back and frame.f_globals["__name__"].startswith("ray_kmeans"):
        level, frame = level + 1, frame.f_back
    return level
