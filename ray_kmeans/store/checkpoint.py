"""A checkpoint as files: from a state to arrays and a manifest, and back.

Arrays are .npy files; the manifest is JSON and names them with their hashes. Nothing in either can
make code run, and no name leads out of the folder of the checkpoints.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, astuple
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.clustering.row_spec import RowSpec
from ray_kmeans.clustering.state import FitState, Iteration, Origin, Running, Stop
from ray_kmeans.errors import CheckpointError
from ray_kmeans.store import publish

FORMAT = 2
BLOB = re.compile(r"data/\d{8}-[0-9a-f]+/[a-z]+\.npy")
"""The files that a manifest may name: all below its own folder."""
LINE = np.dtype(
    [
        ("iteration", "<i8"),
        ("rows", "<i8"),
        ("inertia", "<f8"),
        ("shift", "<f8"),
        ("empty", "<i8"),
        ("digest", "S16"),
    ]
)
"""A line of the history, as it is stored."""


def blobs_of(state: FitState, folder: str) -> dict[str, bytes]:
    """Return the arrays of a state as files, by their names below `folder`."""
    return {f"{folder}/{name}.npy": _npy(array) for name, array in _arrays(state).items()}


def manifest_of(state: FitState, blobs: Mapping[str, bytes]) -> dict[str, Any]:
    """Return all of a state that is in none of its arrays, and what these are."""
    running = state.running
    return {
        "format": FORMAT,
        "distance_metric": state.metric,
        "num_clusters": len(state.centers),
        "num_features": state.centers.shape[1],
        "iteration": state.iteration,
        "began": state.began,
        "stop": state.stop.name if state.stop else None,
        "data": state.data,
        "asked": state.asked,
        "data_since": state.data_since,
        "mini_batch": [running.steps_per_iteration, running.done] if running else None,
        "rows": state.rows.to_json() if state.rows else None,
        "origin": asdict(state.origin) if state.origin else None,
        "files": {n: {"size": len(b), "sha256": publish.sha256(b)} for n, b in blobs.items()},
    }


def read(path: str, sealed: bytes, fetch: Callable[[str], bytes]) -> FitState:
    """Return the state of a manifest; `fetch` gives a file by its name.

    Raises CheckpointError for whatever is not as it was written.
    """
    manifest = publish.unseal(sealed)
    if manifest is None:
        raise CheckpointError(path, "the manifest is not what was written")
    if manifest.get("format") != FORMAT:
        raise CheckpointError(path, f"its format is {manifest.get('format')}, not {FORMAT}")
    try:
        arrays = {
            name.rsplit("/", 1)[-1].removesuffix(".npy"): _array(path, name, expected, fetch)
            for name, expected in manifest["files"].items()
        }
        return _state(manifest, arrays)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(path, f"it cannot be understood ({error!r})") from None


def _array(
    path: str, name: str, expected: Mapping[str, Any], fetch: Callable[[str], bytes]
) -> NDArray[Any]:
    if not BLOB.fullmatch(name):
        raise CheckpointError(path, f"{name!r} is not the name of a file of a checkpoint")
    try:
        content = fetch(name)
    except FileNotFoundError:
        raise CheckpointError(path, f"{name} is missing") from None
    if publish.sha256(content) != expected["sha256"]:
        raise CheckpointError(path, f"{name} is not what was written")
    array: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
    return array


def _state(manifest: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> FitState:
    running = manifest["mini_batch"]
    return FitState(
        centers=arrays["centers"],
        counts=arrays["counts"],
        metric=manifest["distance_metric"],
        iteration=manifest["iteration"],
        began=manifest["began"],
        history=tuple(_line(*line) for line in arrays["history"].tolist()),
        stop=Stop[manifest["stop"]] if manifest["stop"] else None,
        data=manifest["data"],
        asked=manifest["asked"],
        data_since=manifest["data_since"],
        running=_running(running, arrays) if running else None,
        rows=RowSpec.from_json(manifest["rows"]) if manifest.get("rows") else None,
        origin=Origin(**manifest["origin"]) if manifest.get("origin") else None,
    )


def _arrays(state: FitState) -> dict[str, NDArray[Any]]:
    history = np.array([astuple(line) for line in state.history], LINE)
    arrays: dict[str, NDArray[Any]] = {
        "centers": state.centers,
        "counts": state.counts,
        "history": history,
    }
    if state.running and state.counts.any():  # else the sums are zero
        arrays["sums"] = state.running.sums
    return arrays


def _running(described: list[int], arrays: Mapping[str, NDArray[Any]]) -> Running:
    steps_per_iteration, done = described
    zero = np.zeros((2, *arrays["centers"].shape))
    return Running(steps_per_iteration, done, arrays.get("sums", zero))


def _line(iteration: int, rows: int, *measured: Any) -> Iteration:
    inertia, shift, empty, digest = measured
    return Iteration(iteration, rows, inertia, shift, empty, digest.decode())


def _npy(array: NDArray[Any]) -> bytes:
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    return content.getvalue()
