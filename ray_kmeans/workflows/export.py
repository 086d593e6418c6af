"""Export a model: make its files for other programs, and write them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_args

import numpy as np

from ray_kmeans.algorithm.state import FitState
from ray_kmeans.center_files import arrays, faiss_index, lance_ivf, vectorchord
from ray_kmeans.center_files.exported import ExportedCenters, Level
from ray_kmeans.config import CenterFormat, check_choice
from ray_kmeans.data.datasets.lance import ROW_ID, in_words_of_lance
from ray_kmeans.errors import ConfigError, install_hint
from ray_kmeans.export.directory import ExportDir, assets
from ray_kmeans.export.onnx_graph import onnx_model
from ray_kmeans.export.saved_model import saved_model_files, tensorflow_installed
from ray_kmeans.io.publish import Place, absolute, put
from ray_kmeans.store.labelled_parts import LABEL
from ray_kmeans.store.labelled_tables import LabelledTables
from ray_kmeans.workflows.parameters import level_of_caller
from ray_kmeans.workflows.validation import a_path

__all__ = [
    "ROW_ID",
    "assets",
    "check_tensorflow",
    "onnx_files",
    "publish",
    "refuse",
    "saved_model",
    "write_centers",
]

CENTERS: Mapping[str, Callable[[ExportedCenters], bytes]] = {
    "parquet": arrays.parquet_of,
    "npy": arrays.npy_of,
    "npz": arrays.npz_of,
    "safetensors": arrays.safetensors_of,
    "faiss": faiss_index.inverted_index_of,
    "faiss-flat": faiss_index.flat_index_of,
    "vectorchord": vectorchord.copy_of,
    "vectorchord-parquet": vectorchord.table_of,
}
"""Function that makes a file of the centers alone, for each format."""
FLOAT64 = ("parquet", "npy", "npz", "safetensors")
"""Formats that hold the float64 centers of a model with center=True."""


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
            "the model was fitted with center=True, and other programs take rows of float32, which "
            f"do not tell its rows apart. Write its centers in float64: --format "
            f"{', '.join(FLOAT64)}."
        )


def check_tensorflow() -> None:
    """Raise ConfigError unless TensorFlow is installed, which a SavedModel needs."""
    if not tensorflow_installed():
        raise ConfigError(
            f"a SavedModel needs TensorFlow, which is not installed. {install_hint('tensorflow')}"
        )


def exported(state: FitState) -> ExportedCenters:
    """Return the centers of a model, and the tree above them, as the writers of files take them."""
    tree, shift = state.tree, state.shift
    upwards = zip(reversed(tree.centers), reversed(tree.parents), strict=True) if tree else ()
    levels = (
        Level(centers + np.asarray(shift) if shift else centers, parents)
        for centers, parents in upwards
    )
    return ExportedCenters(state.clusters, state.counts, state.metric, tuple(levels))


def write_centers(
    state: FitState,
    url: str,
    file_format: CenterFormat,
    storage_options: Mapping[str, Any],
    labels: str | None = None,
    row_ids: str = ROW_ID,
) -> str:
    """Write the centers alone, to a file that appears whole or not at all; return its URL.

    Lance gets a folder, and the only use of `labels` and `row_ids` (`_write_lance`).
    """
    check_choice("format", file_format, get_args(CenterFormat))
    url = a_path("output", url)
    if file_format == "lance":
        return _write_lance(state, url, labels, row_ids, storage_options)
    if labels is not None:
        raise ConfigError(f"labels={labels!r} has no meaning for format={file_format!r}.")
    if file_format not in FLOAT64:
        _check_not_shifted(state)
    place = Place(absolute(url), storage_options)
    content = CENTERS[file_format](exported(state))
    with place.raise_store_errors(f"{place.shown!r} cannot be written"):
        put(place.fs, place.path, content)
    return place.url


def _write_lance(
    state: FitState,
    url: str,
    labels: str | None,
    row_ids: str,
    storage_options: Mapping[str, Any],
) -> str:
    """Write the centers for Lance's index builder to a folder; return its URL.

    Parameters
    ----------
    state : FitState
        The model.
    url : str
        Path or URL of the folder.
    labels : str, optional
        Labelled output of a Lance data set by this model, whose labels become the partitions of
        the rows. None: the centers alone are written.
    row_ids : str
        Column of the labelled output with Lance's ids of the rows.
    storage_options : mapping
        Options for fsspec; Lance, which writes itself, gets them in its own words.
    """
    _check_not_shifted(state)
    place = Place(absolute(url), storage_options)
    if place.only_here:
        raise ConfigError(
            f"{place.shown!r} is memory that Lance, which writes itself, does not see. Give a "
            "folder on a disk or in an object store."
        )
    options = in_words_of_lance(storage_options)
    found = _labels_for_lance(state, labels, row_ids, storage_options) if labels else None
    home = place.url.rstrip("/")
    with place.raise_store_errors(f"{place.shown!r} cannot be written"):
        if found and place.fs.exists(f"{place.path}/{lance_ivf.PARTITIONS}/_versions"):
            raise ConfigError(
                f"{place.shown!r} holds {lance_ivf.PARTITIONS} already, which is not replaced. "
                "Give another folder."
            )
        lance_ivf.write_model(exported(state), f"{home}/{lance_ivf.MODEL}", options)
        if found:
            lance_ivf.write_partitions(found, f"{home}/{lance_ivf.PARTITIONS}", options)
    return place.url


def _labels_for_lance(
    state: FitState, labels: str, row_ids: str, storage_options: Mapping[str, Any]
) -> Iterator[lance_ivf.Labels]:
    """Return the row ids and labels of a labelled output, part by part.

    The output, its model and the column are checked before anything is written.
    """
    output = LabelledTables.at(labels, storage_options)
    output.check_model(state.model_name)
    output.check_integers(row_ids)
    if output.manifest["rows"] > lance_ivf.LARGEST_ROWS:
        raise ConfigError(
            f"labels={output.shown!r} has {output.manifest['rows']:,} rows, and Lance takes the "
            f"partitions of at most {lance_ivf.LARGEST_ROWS:,}. Export without labels."
        )
    tables = output.read([row_ids, LABEL])
    return ((table[row_ids].to_numpy(), table[LABEL].to_numpy()) for table in tables)


def publish(
    url: str, files: Mapping[str, bytes], storage_options: Mapping[str, Any], keep: int | None
) -> str:
    """Write an export to a new directory under `url`, whole or not at all; return its URL."""
    return ExportDir.at(url, storage_options).publish(files, keep=keep)
