"""Export a model: make its files for other programs, and write them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from ray_kmeans.algorithm.state import FitState
from ray_kmeans.errors import ConfigError, install_hint
from ray_kmeans.export.centers import npy_of, parquet_of
from ray_kmeans.export.directory import ExportDir, assets
from ray_kmeans.export.onnx_graph import onnx_model
from ray_kmeans.export.saved_model import saved_model_files, tensorflow_installed
from ray_kmeans.io.publish import Place, absolute, put
from ray_kmeans.workflows.parameters import level_of_caller

__all__ = [
    "assets",
    "check_tensorflow",
    "onnx_files",
    "publish",
    "refuse",
    "saved_model",
    "write_centers",
]

CENTERS = {"parquet": parquet_of, "npy": npy_of}
"""Function that makes a file of the centers alone, for each format."""


def refuse(**arguments: Any) -> None:
    """Raise ConfigError if arguments are given that only TensorFlow's graph has."""
    given = sorted(name for name, value in arguments.items() if value is not None)
    if given:
        raise ConfigError(
            f"{', '.join(given)}: belongs to TensorFlow's graph and has no meaning here. Leave it "
            "out; the exported graph takes rows as 'inputs', float32 (batch, features)."
        )


def onnx_files(
    state: FitState, as_text: bool = False, strip_default_attrs: bool = False
) -> dict[str, bytes]:
    """Return the file of a model's ONNX graph, by its name."""
    _check_not_shifted(state)
    properties = {"distance_metric": str(state.metric), "global_step": str(state.iteration)}
    content = onnx_model(
        state.centers,
        state.metric,
        properties,
        as_text=as_text,
        strip_default_attrs=strip_default_attrs,
    )
    return {"model.onnx.textproto" if as_text else "model.onnx": content}


def saved_model(
    state: FitState,
    as_text: bool,
    strip_default_attrs: bool,
    serving_input_fn: Callable[[], Any] | None,
) -> dict[str, bytes]:
    """Return the files of a SavedModel by name; none, with a warning, without TensorFlow."""
    _check_not_shifted(state)
    if serving_input_fn is None and not tensorflow_installed():
        warnings.warn(
            "the export holds no SavedModel, because TensorFlow is not installed. "
            f"{install_hint('tensorflow')}",
            stacklevel=level_of_caller(),
        )
        return {}
    return saved_model_files(
        state.centers,
        state.metric,
        as_text=as_text,
        strip_default_attrs=strip_default_attrs,
        serving_input_fn=serving_input_fn,
    )


def _check_not_shifted(state: FitState) -> None:
    """Raise ConfigError for a model whose rows float32 cannot tell apart."""
    if state.shift:
        raise ConfigError(
            "the model was fitted with center=True, and a graph takes rows of float32, which do "
            "not tell its rows apart. Write its centers alone (--format npy or parquet: float64)."
        )


def check_tensorflow() -> None:
    """Raise ConfigError unless TensorFlow is installed, which a SavedModel needs."""
    if not tensorflow_installed():
        raise ConfigError(
            f"a SavedModel needs TensorFlow, which is not installed. {install_hint('tensorflow')}"
        )


def write_centers(
    state: FitState, url: str, file_format: str, storage_options: Mapping[str, Any]
) -> str:
    """Write the centers alone to a file, whole or not at all; return its URL."""
    place = Place(absolute(url), storage_options)
    with place.raise_store_errors(f"{place.shown!r} cannot be written"):
        put(place.fs, place.path, CENTERS[file_format](state.clusters, state.counts))
    return place.url


def publish(
    url: str, files: Mapping[str, bytes], storage_options: Mapping[str, Any], keep: int | None
) -> str:
    """Write an export to a new directory under `url`, whole or not at all; return its URL."""
    return ExportDir.at(url, storage_options).publish(files, keep=keep)
