"""Check what a user gives to the estimators, in the words of scikit-learn's arguments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_array

from ray_kmeans.config import RunConfig
from ray_kmeans.errors import ConfigError

INITS = ("k-means++", "random")
"""Names of the methods that choose first centers."""


def check_whole(name: str, value: Any, least: int, none: bool = False) -> None:
    """Raise ConfigError unless a value is a whole number of at least `least`, or None if it may."""
    if value is None and none:
        return
    if isinstance(value, bool | np.bool_) or not isinstance(value, Integral) or value < least:
        more = ", or None" if none else ""
        raise ConfigError(f"{name}={value!r} must be a whole number of at least {least}{more}.")


def check_real(name: str, value: Any) -> None:
    """Raise ConfigError unless a value is a finite number of at least 0."""
    is_number = isinstance(value, Real) and not isinstance(value, bool | np.bool_)
    if not is_number or not math.isfinite(value) or value < 0:
        raise ConfigError(f"{name}={value!r} must be a number of at least 0.")


def check_flag(name: str, value: Any) -> None:
    """Raise ConfigError unless a value is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ConfigError(f"{name}={value!r} must be True or False.")


def check_name(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raise ConfigError unless a value is one of some words."""
    if not isinstance(value, str) or value not in choices:
        raise ConfigError(f"{name}={value!r} is unknown. Give one of {', '.join(choices)}.")


def check_verbose(value: Any) -> None:
    """Raise ConfigError unless a value says how much is printed: True, False, or a number."""
    if not isinstance(value, bool | np.bool_):
        check_whole("verbose", value, 0)


def check_init(init: Any) -> None:
    """Raise ConfigError unless a value says how first centers are found, or is an array of them."""
    if isinstance(init, str):
        check_name("init", init, INITS)
    elif not callable(init) and not _is_array_like(init):
        raise ConfigError(
            f"init={init!r} must be 'k-means++', 'random', an array of centers, or a function of "
            "(X, n_clusters, random_state) that returns one."
        )


def _is_array_like(value: Any) -> bool:
    """Tell whether a value can be an array of centers."""
    return hasattr(value, "__len__") or hasattr(value, "__array__") or hasattr(value, "shape")


def check_n_init(n_init: Any) -> None:
    """Raise ConfigError unless a value is a number of starts or 'auto'."""
    if not isinstance(n_init, str) or n_init != "auto":
        try:
            check_whole("n_init", n_init, 1)
        except ConfigError:
            raise ConfigError(
                f"n_init={n_init!r} must be 'auto' or a whole number of at least 1."
            ) from None


def config_of(config: Any) -> RunConfig:
    """Return where a fit is to run: in this process unless a configuration says otherwise.

    Raises ConfigError for a configuration that asks for what a model in memory cannot have.
    """
    if config is None:
        return RunConfig(num_workers=0, progress=False)
    if not isinstance(config, RunConfig):
        raise ConfigError(f"config={config!r} must be a RunConfig, or None to run in this process.")
    if config.detached:
        raise ConfigError("detached=True: this process coordinates the fit. Leave detached out.")
    if config.model_dir is not None:
        raise ConfigError(
            "config.model_dir is given, and this estimator keeps its model in memory and writes "
            "nothing. Leave it out, or take ray_kmeans.KMeansClustering."
        )
    return config


def checked_centers(centers: Any, n_clusters: int, n_features: int) -> NDArray[np.float64]:
    """Return initial centers of a user as float64 (n_clusters, n_features); else ConfigError."""
    found: NDArray[np.float64] = check_array(centers, dtype=np.float64, input_name="init")
    shape = f"The shape of the initial centers {found.shape} does not match the number of"
    if len(found) != n_clusters:
        raise ConfigError(f"{shape} clusters {n_clusters}.")
    if found.shape[1] != n_features:
        raise ConfigError(f"{shape} features of the data {n_features}.")
    return found
