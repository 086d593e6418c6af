"""A fitted model as a Ray Serve application: rows come by HTTP, labels go back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

from ray_kmeans.data.source import is_only_here
from ray_kmeans.errors import ConfigError, NotFittedError, install_hint
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.workflows.validation import a_path, check_count


def nearest(
    model_dir: str,
    *,
    checkpoint_path: str | None = None,
    max_batch_size: int = 32,
    batch_wait_timeout_s: float = 0.01,
    max_rows: int = 1024,
    storage_options: Mapping[str, Any] | None = None,
    **deployment_options: Any,
) -> Any:
    """Return an application for `serve.run` that tells the nearest center of rows.

    POST ``{"rows": [[...], ...]}`` is answered by ``{"cluster_idx": [...], "distance": [...]}``, as
    `KMeansClustering.predict` labels; GET tells which model answers. From another deployment:
    ``await handle.label.remote(rows)`` with an array. A replica computes in one thread.

    Parameters
    ----------
    model_dir : str
        Path or fsspec URL of a fitted model, which the replicas reach.
    checkpoint_path : str, optional
        One of `KMeansClustering.checkpoints`; default the newest now, for all replicas, those that
        start later too. Another one comes by ``user_config: {checkpoint_path: ...}``, for which no
        replica has to restart.
    max_batch_size : int
        Requests that are answered together at most, by one pass over the centers.
    batch_wait_timeout_s : float
        Longest wait for that many.
    max_rows : int
        Rows of a request at most. A replica holds max_batch_size times as many.
    storage_options : dict, optional
        Passed to fsspec unchanged.
    **deployment_options
        Of `serve.deployment`, as num_replicas, autoscaling_config, ray_actor_options.
    """
    _check(max_batch_size, max_rows, batch_wait_timeout_s)
    store = ModelDir.at(a_path("model_dir", model_dir), storage_options or {}, keep=1)
    if is_only_here(store):
        raise ConfigError(
            f"model_dir={store.shown!r} is in the memory of this process, where no replica can "
            "reach it. Give a path or a store."
        )
    given = None if checkpoint_path is None else a_path("checkpoint_path", checkpoint_path)
    config = {"checkpoint_path": given or _newest(store)}
    store.fitted(config["checkpoint_path"])  # what is wrong with it is said here
    options = {
        "name": "nearest",
        "user_config": config,
        "max_ongoing_requests": 2 * max_batch_size,  # while a batch is computed, the next gathers
        **deployment_options,
    }
    about = store, int(max_rows), int(max_batch_size), float(batch_wait_timeout_s)
    return _deployment().options(**options).bind(*about)


ARGUMENTS: Mapping[str, Callable[[Any], Any]] = {
    "model_dir": str,
    "checkpoint_path": str,
    "max_batch_size": int,
    "batch_wait_timeout_s": float,
    "max_rows": int,
    "storage_options": lambda value: json.loads(value) if isinstance(value, str) else value,
    "num_replicas": int,
}
"""What a builder takes, as text of a command line or values of a config file."""


def builder(args: dict[str, Any]) -> Any:
    """Return the application of `nearest`, for ``serve run ray_kmeans.serving:builder``.

    The arguments are those of `nearest`, as in ``model_dir=s3://bucket/model max_rows=64``;
    storage_options as JSON.
    """
    unknown = sorted(set(args) - set(ARGUMENTS))
    if unknown or "model_dir" not in args:
        given = f"{unknown} are unknown" if unknown else "model_dir is missing"
        raise ConfigError(f"{given}. Give model_dir=..., and any of {sorted(ARGUMENTS)}.")
    chosen = {}
    for name, value in args.items():
        try:
            chosen[name] = ARGUMENTS[name](value)
        except ValueError as error:
            raise ConfigError(f"{name}={value!r} cannot be read: {error}.") from None
    return nearest(**chosen)


def _check(max_batch_size: Any, max_rows: Any, wait: Any) -> None:
    check_count("max_batch_size", max_batch_size)
    check_count("max_rows", max_rows)
    if isinstance(wait, bool) or not isinstance(wait, Real) or not 0 <= float(wait) < 60:
        raise ConfigError(f"batch_wait_timeout_s={wait!r} must be seconds from 0 to 60.")


def _newest(store: ModelDir) -> str:
    """Return the name of the newest checkpoint: it holds no secret, as a URL may."""
    paths = store.checkpoints()
    if not paths:
        raise NotFittedError(f"there is no model in {store.shown!r}. Call fit first.")
    return paths[-1].rsplit("/", 1)[-1]


def _deployment() -> Any:
    try:
        from ray_kmeans.serving import replica
    except ImportError as error:
        raise ConfigError(
            f"serving needs Ray Serve, which cannot be imported here ({error}). "
            f"{install_hint('serve')}"
        ) from error
    return replica.deployment
