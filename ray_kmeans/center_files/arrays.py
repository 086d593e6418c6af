"""Centers as arrays and tables: Parquet, .npy, .npz and .safetensors.

Each tells the metric where the format has a place for it, and `metric_in` reads that back. The
centers themselves are read by `data/formats`, as any data are.
"""

from __future__ import annotations

import io
import json
import zipfile
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.center_files.exported import NO_PARENT, ExportedCenters

CENTERS = "centers"
"""Name of the array of centers in an archive of several arrays."""
METRIC = "distance_metric"
"""Name under which a file tells the metric."""
LONGEST_TEXT = 4096
"""Largest bytes of the array that tells the metric in .npz."""
SAFETENSORS_NAMES = {"float32": "F32", "float64": "F64", "int64": "I64"}
"""Name that .safetensors has for a number type, by NumPy's name."""


def parquet_of(given: ExportedCenters) -> bytes:
    """Return Parquet with the columns cluster, center and count.

    Of a tree it holds the centers of all levels, the clusters first, with two columns more: level
    (0 for a cluster) and parent (the number of another row; null at the top).
    """
    nodes = given.nodes
    columns = {
        "cluster": pa.array(np.arange(len(nodes.centers), dtype=np.int32)),
        "center": vectors(nodes.centers),
        "count": pa.array(nodes.counts),
    }
    if given.levels:
        columns["level"] = pa.array(nodes.levels.astype(np.int32))
        columns["parent"] = optional_parents(nodes.parents)
    return parquet_bytes(columns, given)


def parquet_bytes(columns: dict[str, pa.Array], given: ExportedCenters) -> bytes:
    """Return columns as a Parquet file that tells the metric of the centers."""
    table = pa.table(columns).replace_schema_metadata({METRIC: str(given.metric)})
    content = io.BytesIO()
    pq.write_table(table, content)
    return content.getvalue()


def vectors(centers: NDArray[Any]) -> pa.FixedSizeListArray:
    """Return the centers (k, d) as an Arrow array of k vectors."""
    values = np.ascontiguousarray(centers).ravel()
    return pa.FixedSizeListArray.from_arrays(pa.array(values), centers.shape[1])


def optional_parents(parents: NDArray[np.int64]) -> pa.Array:
    """Return the parents of nodes (n,) as an Arrow array of int32, null for a node without one."""
    return pa.array(parents.astype(np.int32), mask=parents == NO_PARENT)


def npy_of(given: ExportedCenters) -> bytes:
    """Return the centers (k, d) as .npy, which holds one array and so no counts."""
    content = io.BytesIO()
    np.save(content, given.centers, allow_pickle=False)
    return content.getvalue()


def npz_of(given: ExportedCenters) -> bytes:
    """Return .npz with the arrays centers, counts and distance_metric, and the levels of a tree."""
    content = io.BytesIO()
    arrays: dict[str, Any] = {**arrays_of(given), METRIC: np.array(str(given.metric))}
    np.savez(content, **arrays)
    return content.getvalue()


def safetensors_of(given: ExportedCenters) -> bytes:
    """Return .safetensors with the tensors centers and counts, and the levels of a tree.

    Its metadata tell the metric. The format is a length, a header in JSON and the values of all
    tensors (https://github.com/huggingface/safetensors).
    """
    header: dict[str, Any] = {"__metadata__": {METRIC: str(given.metric)}}
    values, end = [], 0
    for name, array in arrays_of(given).items():
        begin, end = end, end + array.nbytes
        kind = SAFETENSORS_NAMES[array.dtype.name]
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [begin, end]}
        values.append(array.astype(array.dtype.newbyteorder("<")).tobytes())
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the values begin at a multiple of eight
    return b"".join([len(text).to_bytes(8, "little"), text, *values])


def arrays_of(given: ExportedCenters) -> dict[str, NDArray[Any]]:
    """Return the arrays of centers by name.

    Of a tree, centers_1 is the level above the clusters, and parents_1 the index in it of the
    parent of each cluster; centers_2 and parents_2 are of the level above that, and so on.
    """
    arrays = {CENTERS: given.centers, "counts": given.counts}
    for number, level in enumerate(given.levels, 1):
        arrays[f"{CENTERS}_{number}"] = level.centers
        arrays[f"parents_{number}"] = level.parents.astype(np.int64)
    return arrays


def metric_in(handle: IO[bytes], size: int, name: str) -> Metric | None:
    """Return the metric that a file of centers tells; None if it tells none, or is damaged.

    `name` is the name of the file, whose ending tells the format. A file that is damaged is an
    error where its centers are read.
    """
    readers = {".parquet": _in_parquet, ".npz": _in_npz, ".safetensors": _in_safetensors}
    reader = next((each for ending, each in readers.items() if name.endswith(ending)), None)
    if reader is None:
        return None
    try:
        return Metric(reader(handle, size))
    except (ValueError, KeyError, TypeError, AttributeError, OSError, EOFError, RecursionError):
        return None
    except (pa.ArrowException, zipfile.BadZipFile, NotImplementedError, RuntimeError):
        return None


def _in_parquet(handle: IO[bytes], size: int) -> str:
    """Return what the schema of a Parquet file tells."""
    return str((pq.read_schema(handle).metadata or {})[METRIC.encode()], "utf-8")


def _in_npz(handle: IO[bytes], size: int) -> str:
    """Return what the array of that name in an archive tells."""
    with zipfile.ZipFile(handle) as archive, archive.open(f"{METRIC}.npy") as member:
        begin = io.BytesIO(member.read(LONGEST_TEXT))
    return str(np.lib.format.read_array(begin, allow_pickle=False))


def _in_safetensors(handle: IO[bytes], size: int) -> str:
    """Return what the metadata in the header of a .safetensors file tell."""
    length = int.from_bytes(handle.read(8), "little")
    if length > size:
        raise ValueError(f"a header of {length} bytes")
    return str(json.loads(handle.read(length))["__metadata__"][METRIC])
