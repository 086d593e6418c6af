"""A fitted model as a Ray Serve application, which labels the rows of HTTP requests."""

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
    """Return an application for `serve.run` that answers with the nearest center of each row.

    POST ``{"rows": [[...], ...]}`` is answered by ``{"cluster_idx": [...], "distance": [...]}``,
    the same as by `KMeansClustering.predict`. GET is answered by a description of the model.
    Another deployment calls ``await handle.label.remote(rows)`` with an array. A replica computes
    in one thread.

    Parameters
    ----------
    model_dir : str
        Path or fsspec URL of a fitted model, which all replicas must reach.
    checkpoint_path : str, optional
        One of `KMeansClustering.checkpoints`; default the newest one at this call, also for
        replicas that start later. ``user_config: {checkpoint_path: ...}`` replaces it while the
        replicas run.
    max_batch_size : int, default 32
        Largest number of requests that are answered together, by one pass over the centers.
    batch_wait_timeout_s : float, default 0.01
        Longest wait for that many requests, in seconds, from 0 to 60.
    max_rows : int, default 1024
        Largest number of rows of a request. A replica holds max_batch_size times as many.
    storage_options : dict, optional
        Passed to fsspec unchanged.
    **deployment_options
        Passed to `serve.deployment`: num_replicas, autoscaling_config, ray_actor_options, ...

    Returns
    -------
    ray.serve.Application

    Raises
    ------
    ConfigError
        An argument has no meaning, Ray Serve is not installed, or no replica could reach the model.
    NotFittedError
        There is no model, or no such checkpoint.

    Examples
    --------
    >>> from ray import serve  # doctest: +SKIP
    >>> serve.run(nearest("s3://bucket/model", num_replicas=2))  # doctest: +SKIP
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
    store.fitted(config["checkpoint_path"])  # errors are raised here, not in a replica
    options = {
        "name": "nearest",
        "user_config": config,
        "max_ongoing_requests": 2 * max_batch_size,  # one batch is computed, the next one comes in
        **deployment_options,
    }
    return (
        _deployment()
        .options(**options)
        .bind(store, int(max_rows), int(max_batch_size), float(batch_wait_timeout_s))
    )


ARGUMENTS: Mapping[str, Callable[[Any], Any]] = {
    "model_dir": str,
    "checkpoint_path": str,
    "max_batch_size": int,
    "batch_wait_timeout_s": float,
    "max_rows": int,
    "storage_options": lambda value: json.loads(value) if isinstance(value, str) else value,
    "num_replicas": int,
}
"""Conversion of each argument of `builder` from a command line's text or a file's value."""


def builder(args: dict[str, Any]) -> Any:
    """Return the application of `nearest`, for ``serve run ray_kmeans.serving:builder``.

    Parameters
    ----------
    args : dict
        Arguments of `nearest`, as in ``model_dir=s3://bucket/model max_rows=64``; storage_options
        as JSON.

    Returns
    -------
    ray.serve.Application

    Raises
    ------
    ConfigError
        An argument is unknown, cannot be read or is missing.
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
    """Raise ConfigError for arguments that have no meaning."""
    check_count("max_batch_size", max_batch_size)
    check_count("max_rows", max_rows)
    if isinstance(wait, bool) or not isinstance(wait, Real) or not 0 <= float(wait) < 60:
        raise ConfigError(f"batch_wait_timeout_s={wait!r} must be seconds from 0 to 60.")


def _newest(store: ModelDir) -> str:
    """Return the name of the newest checkpoint; a name holds no secret, as a URL may."""
    paths = store.checkpoints()
    if not paths:
        raise NotFittedError(f"there is no model in {store.shown!r}. Call fit first.")
    return paths[-1].rsplit("/", 1)[-1]


def _deployment() -> Any:
    """Return the deployment; raise ConfigError if Ray Serve cannot be imported."""
    try:
        from ray_kmeans.serving import replica  # ray.serve: 0.9 s, and may be missing
    except ImportError as error:
        raise ConfigError(
            f"serving needs Ray Serve, which cannot be imported here ({error}). "
            f"{install_hint('serve')}"
        ) from error
    return replica.deployment
