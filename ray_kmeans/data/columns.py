"""From Arrow columns, or arrays of any number type, to rows of float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ray_kmeans.errors import ConfigError, DataError


def to_float32(values: NDArray[Any], place: str) -> NDArray[np.float32]:
    """Return the values as float32; raises DataError where one does not fit."""
    if values.dtype == np.float32:
        return values
    if values.dtype.kind not in "biuf":
        raise DataError(f"{place} holds {values.dtype}, which is not a number type.")
    with np.errstate(over="ignore"):
        result = values.astype(np.float32)
    lost = np.isinf(result) & np.isfinite(values)
    if lost.any():
        raise DataError(
            f"{place} holds {values[lost].flat[0]!r}, which float32 cannot hold. Scale it."
        )
    return result


def choose_columns(schema: pa.Schema, wanted: Sequence[str] | None, place: str) -> tuple[str, ...]:
    """Return the columns that make up a row: one column of vectors, or several of numbers."""
    if wanted:
        missing = [name for name in wanted if name not in schema.names]
        if missing:
            raise ConfigError(f"columns={missing} are not in {place}, which has {schema.names}.")
        vectors = [name for name in wanted if is_vector(schema.field(name).type)]
        plain = [name for name in wanted if is_number(schema.field(name).type)]
        if len(vectors) + len(plain) < len(wanted) or (vectors and len(wanted) > 1):
            types = {name: str(schema.field(name).type) for name in wanted}
            raise ConfigError(
                f"columns={types} of {place}: give one of vectors or some of numbers."
            )
        return tuple(wanted)
    vectors = [field.name for field in schema if is_vector(field.type)]
    if len(vectors) > 1:
        raise ConfigError(
            f"{place} has several columns of vectors: {vectors}. Choose with columns."
        )
    plain = [field.name for field in schema if is_number(field.type)]
    if not vectors and not plain:
        found = ", ".join(f"{field.name}: {field.type}" for field in schema)
        raise DataError(f"{place} has no numeric column ({found}). Choose another file or table.")
    return tuple(vectors or plain)


def kind_of(schema: pa.Schema, names: Sequence[str]) -> str:
    """Say whether a row is a vector or several numbers."""
    return "a column of vectors" if is_vector(schema.field(names[0]).type) else "columns of numbers"


def features_of(schema: pa.Schema, names: Sequence[str]) -> int:
    """Return the length of a row; 0 where only a row can tell."""
    kind = schema.field(names[0]).type
    if not is_vector(kind):
        return len(names)
    return int(kind.list_size) if pa.types.is_fixed_size_list(kind) else 0


def check_kept(names: Sequence[str], there: Sequence[str], place: str) -> None:
    """Raise DataError for columns to be passed through that are not there."""
    missing = [name for name in names if name not in there]
    if missing:
        raise DataError(f"keep_columns={missing} are not in {place}: {list(there)}.")


def is_vector(kind: pa.DataType) -> bool:
    """Tell whether a column holds lists of numbers."""
    types = pa.types
    lists = types.is_fixed_size_list(kind) or types.is_list(kind) or types.is_large_list(kind)
    return lists and is_number(kind.value_type)


def is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def matrix(
    batch: Any, columns: Sequence[str], features: int, place: str, first_row: int = 0
) -> NDArray[np.float32]:
    """Return the rows of a RecordBatch or Table, (n, features); a null becomes NaN.

    `place` and `first_row`, the number of its first row there, are for messages.
    """
    arrays = [_one_array(batch.column(name)) for name in columns]
    if len(arrays) == 1 and not is_number(arrays[0].type):
        return _vectors(arrays[0], features, f"column {columns[0]!r}, {place}", first_row)
    rows = np.empty((batch.num_rows, len(columns)), np.float32)
    for index, (name, array) in enumerate(zip(columns, arrays, strict=True)):
        values = array.to_numpy(zero_copy_only=False)
        rows[:, index] = to_float32(values, f"column {name!r}, {place}")
    return rows


def vector_length(column: pa.Array) -> int:
    """Return the number of features of the first vector that is not null; 0 if all are null."""
    array = _one_array(column)
    if pa.types.is_fixed_size_list(array.type):
        return int(array.type.list_size)
    return next((len(vector) for vector in array if vector.is_valid), 0)


def _one_array(column: Any) -> Any:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _vectors(array: Any, features: int, place: str, first_row: int) -> NDArray[np.float32]:
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    # flatten() leaves out null lists, and honours slices, which .values does not.
    values = array.flatten().to_numpy(zero_copy_only=False)
    if pa.types.is_fixed_size_list(array.type):
        lengths = np.full(int(valid.sum()), array.type.list_size)
    else:
        lengths = array.value_lengths().to_numpy(zero_copy_only=False)[valid].astype(np.int64)
    ragged = np.flatnonzero(lengths != features)
    if len(ragged):
        row = first_row + int(np.flatnonzero(valid)[ragged[0]])
        raise DataError(
            f"{place}: row {row} has {lengths[ragged[0]]} features where the "
            f"first row of the data has {features}. All vectors must have one length."
        )
    vectors = to_float32(values, place).reshape(-1, features)
    if valid.all():
        return vectors
    rows = np.full((len(array), features), np.nan, np.float32)
    rows[valid] = vectors
    return rows
