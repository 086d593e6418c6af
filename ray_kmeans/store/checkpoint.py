"""The format of a checkpoint: a state as arrays and a manifest, written and read.

Arrays are .npy files; the manifest is JSON and names them with their hashes. The folder of
checkpoints may have been filled by anybody, so a reader believes little:

- Nothing in a file can make code run: arrays are read by `_from_npy`, which knows plain numbers
  only, and manifests are JSON.
- No name leads out of the folder of checkpoints (`BLOB`).
- No header makes a reader allocate more than the file has bytes.
- A hash tells that nobody changed a file by chance, not that the file makes sense: so the state
  must be a possible one (see `algorithm.state_checks`).
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.row_spec import RowSpec
from ray_kmeans.algorithm.state import (
    Accumulators,
    FitState,
    Iteration,
    Origin,
    Restart,
    Sample,
    Stop,
)
from ray_kmeans.algorithm.state_checks import problem_of
from ray_kmeans.algorithm.tree import Tree
from ray_kmeans.errors import CheckpointError
from ray_kmeans.io import publish

FORMAT = 2
"""Version of the format; a manifest of any other version is refused."""
BLOB = re.compile(r"(data/(?:[0-9]{8,15}-)?[0-9]{8,15}-[0-9a-f]+)/([a-z]+)\.npy")
"""Name that a manifest may give to an array; groups: folder, array."""
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
"""Type of a stored line of the history."""
SMOOTHED_LINE = np.dtype([*LINE.descr, ("smoothed", "<f8")])
"""Type of a stored line of a mini-batch history; a `smoothed` of NaN stands for None."""
RELOCATED_LINE = np.dtype([*SMOOTHED_LINE.descr, ("relocated", "<i8")])
"""Type of a stored line of a history in which centers were moved to rows."""
TYPES = {
    "centers": ("<f4",),
    "counts": ("<i8", "<f8"),
    "history": (LINE, SMOOTHED_LINE, RELOCATED_LINE),
    "sums": ("<f8",),
    "levels": ("<f4",),
    "parents": ("<i4",),
}
"""Number types that each array of a checkpoint may have, by the array's name."""
UNREADABLE = KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError
"""Errors that a manifest raises whose values have other types than those that are written."""
HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(?s:..)\{'descr': (.{1,400}), 'fortran_order': False, "
    rb"'shape': \(((?:\d{1,18}(?:, )?)*,?)\), \} *\n"
)
"""Header of a .npy file in C order, as numpy writes it; groups: type, shape."""


def blobs_of(state: FitState, folder: str) -> dict[str, bytes]:
    """Return the arrays of a state as .npy files, by their names below `folder`."""
    return {f"{folder}/{name}.npy": _npy(array) for name, array in _arrays(state).items()}


def manifest_of(state: FitState, blobs: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the manifest of a state: all that is not in its arrays, and their hashes."""
    accumulators = state.accumulators
    return {
        "format": FORMAT,
        "distance_metric": str(state.metric),
        "num_clusters": len(state.centers),
        "num_features": state.centers.shape[1],
        "iteration": state.iteration,
        "began": state.began_at,
        "stop": state.stop.name if state.stop else None,
        "data": state.data_name,
        "asked": state.request,
        "data_since": state.data_since,
        "mini_batch": [accumulators.steps_per_iteration, accumulators.done]
        if accumulators
        else None,
        "rows": state.rows.to_json() if state.rows else None,
        "origin": asdict(state.origin) if state.origin else None,
        "restarts": [
            [each.random_seed, each.inertia, each.iterations, each.stop and each.stop.name]
            for each in state.restarts
        ],
        "levels": [len(each) for each in state.tree.centers] if state.tree else None,
        **({"sample": astuple(state.sample)} if state.sample else {}),
        "files": {n: {"size": len(b), "sha256": publish.sha256(b)} for n, b in blobs.items()},
    }


def is_array(name: str) -> bool:
    """Return whether a file in the folder of a checkpoint is an array, published or not."""
    name = publish.published_name(name)
    return name.removesuffix(".npy") in TYPES and name.endswith(".npy")


def read(path: str, sealed: bytes, fetch: Callable[[str], bytes]) -> FitState:
    """Return the state of the manifest `sealed` at `path`; `fetch` returns a file by its name.

    Raises CheckpointError for a file that is not as it was written, or a state that no fit has.
    """
    manifest = publish.unseal(sealed)
    if manifest is None:
        raise CheckpointError(path, "the manifest is not what was written")
    if manifest.get("format") != FORMAT:
        raise CheckpointError(path, f"its format is {manifest.get('format')!r:.40}, not {FORMAT}")
    try:
        state = _state(manifest, _arrays_of(path, manifest["files"], fetch))
        problem = problem_of(state) or _other_shape(manifest, state)
    except UNREADABLE as error:
        raise CheckpointError(path, f"it cannot be understood ({error!r:.200})") from None
    if problem is not None:
        raise CheckpointError(path, f"it holds no state of a fit: {problem:.200}")
    return state


def _other_shape(manifest: Mapping[str, Any], state: FitState) -> str | None:
    """Describe how the manifest's shapes differ from those of the arrays; return None if they
    agree."""
    shape = manifest["num_clusters"], manifest["num_features"]
    if shape == state.centers.shape and all(type(number) is int for number in shape):
        return None
    return f"centers has shape {state.centers.shape}, and the manifest says {shape!r}"


def _arrays_of(
    path: str, files: Mapping[str, Mapping[str, Any]], fetch: Callable[[str], bytes]
) -> dict[str, NDArray[Any]]:
    """Return the arrays that a manifest names, by their names; all must be in one folder."""
    arrays, folders = {}, set()
    for name, expected in files.items():
        found = BLOB.fullmatch(name)
        if found is None:
            raise CheckpointError(path, f"{name!r:.200} is not the name of a file of a checkpoint")
        folder, array = found.groups()
        folders.add(folder)
        arrays[array] = _array(path, name, expected, fetch)
    if len(folders) != 1 or not {"centers", "counts", "history"} <= set(arrays) <= set(TYPES):
        raise ValueError(f"its files are not those of one checkpoint: {sorted(files)}")
    return arrays


def _array(
    path: str, name: str, expected: Mapping[str, Any], fetch: Callable[[str], bytes]
) -> NDArray[Any]:
    """Return one array; raise CheckpointError if its file is missing or was changed."""
    try:
        content = fetch(name)
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(path, f"{name} is missing") from None
    except IsADirectoryError:
        raise CheckpointError(path, f"{name} is a folder") from None
    if publish.sha256(content) != expected["sha256"]:
        raise CheckpointError(path, f"{name} is not what was written")
    try:
        array = _from_npy(content, TYPES[name.rsplit("/", 1)[-1].removesuffix(".npy")])
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if len(content) != expected["size"]:
        raise ValueError(f"{name} has {len(content)} bytes, not {expected['size']!r:.40}")
    return array


def _from_npy(content: bytes, types: Sequence[Any]) -> NDArray[Any]:
    """Return the array of a .npy file, without allocating more than the size of the file.

    It must be as `_npy` writes it: of one of these types, in C order, with as many values as its
    shape tells.
    """
    header = HEADER.match(content)
    if header is None or header.end() != 10 + int.from_bytes(content[8:10], "little"):
        raise ValueError("it is no .npy file of rows of plain numbers")
    by_descr = {repr(np.lib.format.dtype_to_descr(np.dtype(kind))): kind for kind in types}
    kind = by_descr.get(header[1].decode("latin-1"))
    if kind is None:
        raise ValueError(f"its type is {header[1].decode('latin-1')}, not {' or '.join(by_descr)}")
    shape = tuple(int(size) for size in header[2].split(b",") if size.strip())
    values = content[header.end() :]
    if math.prod(shape) * np.dtype(kind).itemsize != len(values):
        raise ValueError(f"it says to have the shape {shape}, and has {len(values):,} bytes")
    return np.frombuffer(values, kind).reshape(shape).copy()


def _state(manifest: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> FitState:
    """Return the state of a manifest and its arrays."""
    accumulators, stop = manifest["mini_batch"], manifest["stop"]
    rows, origin = manifest.get("rows"), manifest.get("origin")
    if accumulators is None and "sums" in arrays:
        raise ValueError("sums are of mini-batches, and it has none")
    return FitState(
        centers=arrays["centers"],
        counts=arrays["counts"],
        metric=_metric(manifest["distance_metric"]),
        iteration=manifest["iteration"],
        began_at=manifest["began"],
        history=tuple(_line(*line) for line in arrays["history"].tolist()),
        stop=None if stop is None else Stop[stop],
        data_name=manifest["data"],
        request=manifest["asked"],
        data_since=manifest["data_since"],
        accumulators=None if accumulators is None else _accumulators(accumulators, arrays),
        rows=None if rows is None else RowSpec.from_json(rows),
        origin=None if origin is None else _origin(**origin),
        restarts=_restarts(manifest.get("restarts", [])),
        tree=_tree(manifest.get("levels"), arrays),
        sample=None if manifest.get("sample") is None else Sample(*manifest["sample"]),
    )


def _metric(name: Any) -> Any:
    """Return the metric of a name; an unknown one stays as it is, and `state_checks` refuses it."""
    return Metric(name) if name in tuple(Metric) else name


def _origin(initial: str, random_seed: int, retries: int) -> Origin:
    """Return the origin of the first centers; each of its values must be in the manifest."""
    return Origin(initial, random_seed, retries)


def _tree(sizes: Any, arrays: Mapping[str, NDArray[Any]]) -> Tree | None:
    """Return the tree above the clusters; `sizes` are the numbers of centers of its levels."""
    if sizes is None:
        if "levels" in arrays or "parents" in arrays:
            raise ValueError("its files hold a tree, and it names no levels")
        return None
    whole = isinstance(sizes, list) and all(type(size) is int and size > 0 for size in sizes)
    if not whole or not sizes:
        raise TypeError(f"levels is {sizes!r:.40}, and no list of numbers of centers")
    centers, parents = arrays["levels"], arrays["parents"]
    if len(centers) != sum(sizes) or len(parents) != sum(sizes[1:]) + len(arrays["centers"]):
        raise ValueError(f"levels has {len(centers)} centers and {len(parents)} parents")
    return Tree(
        tuple(np.split(centers, np.cumsum(sizes)[:-1])),
        tuple(np.split(parents, np.cumsum(sizes[1:]))),
    )


def _restarts(given: Any) -> tuple[Restart, ...]:
    """Return the restarts of a manifest, a list of their values."""
    if not isinstance(given, list):
        raise TypeError(f"restarts is {given!r}, and no list")
    return tuple(_restart(*each) for each in given)


def _restart(random_seed: int, inertia: float, iterations: int, stop: str | None) -> Restart:
    """Return a restart from its values in a manifest."""
    return Restart(random_seed, inertia, iterations, None if stop is None else Stop[stop])


def _arrays(state: FitState) -> dict[str, NDArray[Any]]:
    """Return the arrays of a state that are stored, by their names."""
    arrays: dict[str, NDArray[Any]] = {
        "centers": state.centers,
        "counts": state.counts,
        "history": _history(state.history),
    }
    if state.accumulators and state.counts.any():  # else the sums are zero
        arrays["sums"] = state.accumulators.sums
    if state.tree:
        arrays["levels"] = np.concatenate(state.tree.centers)
        arrays["parents"] = np.concatenate(state.tree.parents)
    return arrays


def _history(lines: Sequence[Iteration]) -> NDArray[Any]:
    """Return the history as an array of the first type that holds all that the lines have.

    The types are `LINE`, `SMOOTHED_LINE` and `RELOCATED_LINE`.
    """
    if any(line.relocated for line in lines):
        kind = RELOCATED_LINE
    else:
        kind = LINE if all(line.smoothed is None for line in lines) else SMOOTHED_LINE
    no_value = math.nan
    filled = (replace(line, smoothed=no_value) if line.smoothed is None else line for line in lines)
    return np.array([astuple(line)[: len(kind.descr)] for line in filled], kind)


def _accumulators(numbers: list[int], arrays: Mapping[str, NDArray[Any]]) -> Accumulators:
    """Return the state of mini-batch; `numbers`: (steps per iteration, steps of it done)."""
    steps_per_iteration, done = numbers
    if "sums" not in arrays and arrays["counts"].any():
        raise ValueError("its file of sums is not named")
    zero = np.zeros((2, *arrays["centers"].shape))
    return Accumulators(steps_per_iteration, done, arrays.get("sums", zero))


def _line(iteration: int, rows: int, inertia: float, shift: float, *more: Any) -> Iteration:
    """Return a line of the history from the values of a stored one."""
    empty, digest, *rest = more
    values: list[Any] = [*rest, *(math.nan, 0)[len(rest) :]]  # older lines have less
    smoothed, relocated = values
    average = None if math.isnan(smoothed) else smoothed
    name = digest.decode()
    return Iteration(iteration, rows, inertia, shift, empty, name, average, relocated)


def _npy(array: NDArray[Any]) -> bytes:
    """Return an array as a .npy file."""
    content = io.BytesIO()
    np.save(content, np.ascontiguousarray(array), allow_pickle=False)
    return content.getvalue()
