"""Read vectors as Spark ML writes them to Parquet: dense, or sparse as values at indices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ray_kmeans.errors import DataError

FIELDS = ("type", "size", "indices", "values")
"""Names of the fields of the struct that holds a vector."""
SPARSE = 0
"""Type of a sparse vector, which alone has a size and indices."""


def is_vectors(kind: Any) -> bool:
    """Tell whether a column has the type of Spark's vectors."""
    return bool(pa.types.is_struct(kind)) and tuple(field.name for field in kind) == FIELDS


def lengths(array: Any) -> NDArray[np.int64]:
    """Return the number of features of each vector, (n,); 0 for a null one."""
    is_sparse, size, _, values = _parts(array)
    return np.where(is_sparse, size, _counts(values))


def dense_rows(array: Any, features: int, place: str) -> NDArray[np.float64]:
    """Return vectors of one length as rows (n, features), where a null one becomes NaN."""
    is_sparse, _, indices, values = _parts(array)
    counts, numbers = _counts(values), _counts(indices)
    wrong = np.flatnonzero(is_sparse & (counts != numbers))
    if len(wrong):
        raise DataError(
            f"{place}: a sparse vector has {counts[wrong[0]]} values at {numbers[wrong[0]]} "
            "indices; it is damaged."
        )
    rows = np.zeros((len(array), features))
    row = np.repeat(np.arange(len(array)), counts)
    column = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    column[is_sparse[row]] = _flatten(indices, is_sparse)
    if len(column) and not (column.min() >= 0 and column.max() < features):
        raise DataError(f"{place}: a sparse vector has an index beyond its size; it is damaged.")
    rows[row, column] = _flatten(values, np.ones(len(array), np.bool_))
    rows[~array.is_valid().to_numpy(zero_copy_only=False)] = np.nan
    return rows


def _parts(array: Any) -> tuple[NDArray[np.bool_], NDArray[np.int64], Any, Any]:
    """Return (is sparse (n,), sizes (n,), lists of indices, lists of values) of vectors."""
    kind, size, indices, values = (pc.struct_field(array, [name]) for name in FIELDS)
    is_sparse = pc.fill_null(pc.equal(kind, SPARSE), False).to_numpy(zero_copy_only=False)
    sizes = pc.fill_null(size, 0).to_numpy(zero_copy_only=False)
    return is_sparse, sizes.astype(np.int64), indices, values


def _counts(lists: Any) -> NDArray[np.int64]:
    """Return the length of each list, (n,); 0 for a null one."""
    found = pc.fill_null(pc.list_value_length(lists), 0)
    return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)


def _flatten(lists: Any, chosen: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the values of the chosen lists, one list after the other."""
    return np.asarray(lists.filter(pa.array(chosen)).flatten().to_numpy(zero_copy_only=False))
