"""Centers as the IVF model of Lance, and the partition of each row for its index builder.

`lance.LanceDataset.create_index` takes both: the centers as `ivf_centroids`, and the partitions as
`precomputed_partition_dataset`, a data set with the columns row_id and partition in one file. Lance
looks at no row again then; a row that the data set lacks is in no partition, and no search finds
it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.center_files.arrays import vectors
from ray_kmeans.center_files.exported import ExportedCenters
from ray_kmeans.errors import ConfigError, DataError, install_hint

MODEL = "ivf.lance"
"""Name of the file of the IVF model in an export."""
PARTITIONS = "partitions.lance"
"""Name of the data set of partitions in an export."""
DISTANCES = {Metric.SQUARED_EUCLIDEAN: "l2", Metric.COSINE: "cosine"}
"""Name that Lance has for each metric."""
ROWS = pa.schema([("row_id", pa.uint64()), ("partition", pa.uint32())])
"""Columns of the data set of partitions."""
LARGEST_ROWS = 2**32 - 1
"""Largest number of rows that Lance numbers within a fragment; the partitions must be in one."""
LARGEST_BYTES = 2**62
"""Largest bytes of the file of partitions, so that there is one file."""
MAGIC = b"LANC"
"""Last bytes of a file of Lance."""

Labels = tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]]]
"""Row ids (n,) of some rows and their labels (n,)."""


def write_model(given: ExportedCenters, uri: str, options: Mapping[str, str]) -> None:
    """Write the IVF model; `options` are in the words of Lance."""
    model = _indices().IvfModel(vectors(given.centers), DISTANCES[given.metric])
    model.save(uri, storage_options=dict(options))


def write_partitions(labels: Iterable[Labels], uri: str, options: Mapping[str, str]) -> int:
    """Write the partitions of rows to a new data set, batch by batch; return how many rows it has.

    Rows with the label -1 are left out. Lance makes the data set visible in one step, at the end.
    """
    import lance

    written = 0

    def batches() -> Iterator[pa.RecordBatch]:
        """Yield row ids and partitions, and count them."""
        nonlocal written
        for row_ids, partitions in labels:
            has = partitions >= 0
            written += int(has.sum())
            columns = [row_ids[has].astype(np.uint64), partitions[has].astype(np.uint32)]
            yield pa.RecordBatch.from_arrays([pa.array(each) for each in columns], schema=ROWS)

    reader = pa.RecordBatchReader.from_batches(ROWS, batches())
    limits: dict[str, Any] = {
        "max_rows_per_file": LARGEST_ROWS,
        "max_bytes_per_file": LARGEST_BYTES,
    }
    lance.write_dataset(reader, uri, mode="create", storage_options=dict(options), **limits)
    return written


def read_model(
    uri: str, options: Mapping[str, str], shown: str
) -> tuple[NDArray[np.float32], Metric]:
    """Return the centers (k, d) in a file of an IVF model, and its metric."""
    try:
        model = _indices().IvfModel.load(uri, storage_options=dict(options))
        width = model.centroids.type.list_size
        values = np.asarray(model.centroids.flatten(), np.float32)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        problem = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise DataError(
            f"{shown} cannot be read as an IVF model of Lance: {problem}. Give the file that "
            "lance.indices.IvfModel.save wrote."
        ) from None
    metrics = {name: metric for metric, name in DISTANCES.items()}
    if model.distance_type not in metrics:
        raise ConfigError(
            f"{shown} compares by {model.distance_type!r}; a model has 'l2' or 'cosine'."
        )
    return values.reshape(-1, width), metrics[model.distance_type]


def _indices() -> Any:
    """Return the module lance.indices; ConfigError if Lance is not installed."""
    try:
        import lance.indices
    except ImportError:
        raise ConfigError(
            f"an IVF model of Lance needs Lance, which is not installed. {install_hint('lance')}"
        ) from None
    return lance.indices
