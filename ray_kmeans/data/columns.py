"""Turn Arrow columns into rows of numbers, and tell from their types how a row is made of them.

A row is one column of vectors (lists of numbers, or Spark's), or several columns of numbers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ray_kmeans.algorithm.dtypes import narrow_name
from ray_kmeans.data.datasets import spark
from ray_kmeans.errors import ConfigError, DataError, NoColumnError

LISTS = (
    pa.types.is_fixed_size_list,
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)
"""Tests for the Arrow types that hold lists."""


def to_float32(values: NDArray[Any], place: str, names: Sequence[str] = ()) -> NDArray[np.float32]:
    """Return values (rows, features) as float32; DataError if a finite one becomes infinite.

    `place` and `names`, those of the columns or of the one column of vectors, are for messages.
    """
    if values.dtype == np.float32:
        return values
    if values.dtype.kind not in "biuf":
        raise DataError(f"{place} holds {values.dtype}, which is not a number type.")
    with np.errstate(over="ignore"):
        result = values.astype(np.float32)
    lost = np.isinf(result) & np.isfinite(values)
    if lost.any():
        *_, column = np.argwhere(lost)[0]
        name = f"column {names[column if len(names) > 1 else 0]!r}, " if names else ""
        raise DataError(
            f"{name}{place} holds {values[lost].flat[0]!r}, which float32 cannot hold. Scale it."
        )
    return result


def kind_of(schema: pa.Schema, names: Sequence[str]) -> str:
    """Return, in words, which kind of columns a row is made of; '' if they are null in all rows."""
    kind = type_at(schema, names[0])
    if len(names) == 1 and pa.types.is_null(kind):
        return ""
    return "a column of vectors" if is_vector(kind) else "columns of numbers"


def features_of(schema: pa.Schema, names: Sequence[str]) -> int:
    """Return the number of features of a row; 0 if the types do not tell it."""
    kind = plain_type(type_at(schema, names[0]))
    if len(names) == 1 and pa.types.is_null(kind):
        return 0
    if not is_vector(kind):
        return len(names)
    return int(kind.list_size) if pa.types.is_fixed_size_list(kind) else 0


def of_unknown_length(schema: pa.Schema, names: Sequence[str]) -> list[str]:
    """Return the columns of vectors whose type does not tell their length."""
    types = ((name, type_at(schema, name)) for name in names)
    vectors = [name for name, kind in types if kind is not None and is_vector(kind)]
    return [name for name in vectors if features_of(schema, [name]) == 0]


def narrow_of(schema: pa.Schema, names: Sequence[str]) -> str | None:
    """Return the name of the number type of all values if narrower than float32, else None."""
    kinds = [plain_type(type_at(schema, name)) for name in names]
    if spark.is_vectors(kinds[0]):
        return None
    values = {plain_type(kind.value_type) if is_vector(kind) else kind for kind in kinds}
    kind = values.pop()
    if values or not is_number(kind):
        return None
    return narrow_name(pa.array([], kind).to_numpy(zero_copy_only=False).dtype)


def select(table: Any, names: Sequence[str], place: str) -> pa.Table:
    """Return some columns of a table; a field of a struct is named by its path, as 'doc.id'."""
    check_names(names, table.schema, place)
    return pa.table({name: _column_at(table, name) for name in names})


def check_names(names: Sequence[str], schema: pa.Schema, place: str) -> None:
    """Raise NoColumnError unless all columns are there. Callers add which argument names them."""
    missing = [name for name in names if type_at(schema, name) is None]
    if missing:
        raise NoColumnError(f"columns {missing} are not in {place}, which has {schema.names}.")


def no_columns(names: Sequence[str], place: str) -> ConfigError:
    """Return the error for columns of data that have no names of columns at all."""
    return ConfigError(f"columns {list(names)} are not in {place}, which has no columns by name.")


def is_vector(kind: pa.DataType) -> bool:
    """Tell whether a column holds vectors: lists of readable numbers, or Spark's vectors."""
    kind = plain_type(kind)
    if spark.is_vectors(kind):
        return True
    if kind.num_fields != 1:  # a quick answer for most columns of a wide table
        return False
    return any(test(kind) for test in LISTS) and is_readable(kind.value_type)


def is_number(kind: pa.DataType) -> bool:
    """Tell whether a column holds integers or floats."""
    kind = plain_type(kind)
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def is_readable(kind: pa.DataType) -> bool:
    """Tell whether a column can be read as numbers if it is named: also decimals and booleans."""
    plain = plain_type(kind)
    return is_number(plain) or pa.types.is_decimal(plain) or pa.types.is_boolean(plain)


def path_of(fields: Any, name: str) -> tuple[str, ...]:
    """Return the names on the way to a column or a field of structs; () if there is none."""
    if fields.get_field_index(name) >= 0:
        return (name,)
    outer, _, inner = name.partition(".")
    index = fields.get_field_index(outer)
    if index < 0 or not inner or not pa.types.is_struct(fields.field(index).type):
        return ()
    below = path_of(fields.field(index).type, inner)
    return (outer, *below) if below else ()


def type_at(schema: pa.Schema, name: str) -> pa.DataType | None:
    """Return the type of a column, or of a field of structs; None if there is none."""
    path = path_of(schema, name)
    if not path:
        return None
    field = schema.field(path[0])
    for part in path[1:]:
        if spark.is_vectors(field.type):
            return None  # the parts of a sparse vector are no columns
        field = field.type.field(part)
    return field.type


def _column_at(batch: Any, name: str) -> Any:
    """Return a column of a RecordBatch or Table; a field is null if its struct is null."""
    outer, *inner = path_of(batch.schema, name)
    return pc.struct_field(batch.column(outer), inner) if inner else batch.column(outer)


def matrix(
    batch: Any, columns: Sequence[str], features: int, place: str, first_row: int = 0
) -> NDArray[Any]:
    """Return the rows of a RecordBatch or Table, (n, features), where a null becomes NaN.

    The number type holds all values exactly. `place`, and `first_row`, the number of the batch's
    first row there, are for messages.
    """
    arrays = [_decode(_column_at(batch, name)) for name in columns]
    if len(arrays) == 1 and pa.types.is_null(arrays[0].type):
        return np.full((batch.num_rows, features), np.nan, np.float32)
    if len(arrays) == 1 and not is_readable(arrays[0].type):
        return _vectors(arrays[0], features, f"column {columns[0]!r}, {place}", first_row)
    return np.stack([_numbers(array) for array in arrays], axis=1)


def _numbers(array: Any) -> NDArray[Any]:
    """Return a column as numbers (n,); decimals, booleans and nulls become float64.

    Decimals without a fraction become int64 if all fit: float64 does not hold all beyond 2**53.
    """
    if pa.types.is_decimal(array.type) and array.type.scale <= 0:
        with contextlib.suppress(pa.ArrowInvalid):
            array = array.cast(pa.int64())
    if not is_number(array.type):
        array = array.cast(pa.float64())
    values: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return values


def vector_length(batch: Any, name: str, place: str, first_row: int = 0) -> int:
    """Return the number of features of the first vector that is not null; 0 if all are null.

    Raises DataError if that vector is empty. `place` and `first_row` are for messages.
    """
    array = _decode(_column_at(batch, name))
    if pa.types.is_null(array.type):
        return 0
    if pa.types.is_fixed_size_list(array.type):
        return int(array.type.list_size)
    if spark.is_vectors(array.type):
        lengths = spark.lengths(array)
    else:
        lengths = array.value_lengths().to_numpy(zero_copy_only=False)
    valid = np.flatnonzero(array.is_valid().to_numpy(zero_copy_only=False))
    if not len(valid):
        return 0
    if not lengths[valid[0]]:
        raise DataError(
            f"column {name!r}, {place}: row {first_row + valid[0]} is a vector of 0 features. All "
            "vectors must have one length, and a missing one is null."
        )
    return int(lengths[valid[0]])


def spans_of(table: Any) -> dict[str, tuple[float, float, int]]:
    """Return (least, largest, count) of the numbers of each column of numbers, by its name.

    Empty if the table has a column of vectors. Columns that share a name are left out.
    """
    schema = table.schema
    if any(map(is_vector, schema.types)):
        return {}
    spans = {}
    for name, kind in zip(schema.names, schema.types, strict=True):
        has_order = is_number(kind) and plain_type(kind) == kind and not pa.types.is_float16(kind)
        if has_order and schema.get_field_index(name) >= 0:
            column = table.column(name)
            both = pc.min_max(column).as_py()
            spans[name] = both["min"] or 0, both["max"] or 0, len(column) - column.null_count
    return spans


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of values behind a dictionary, run-end encoding or extension (tensor)."""
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    return plain_type(kind.storage_type) if isinstance(kind, pa.BaseExtensionType) else kind


def _decode(array: Any) -> Any:
    """Return a column as one array of its plain type, decoded."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if pa.types.is_dictionary(array.type):
        return _decode(array.dictionary_decode())
    if pa.types.is_run_end_encoded(array.type):
        return _decode(pc.run_end_decode(array))
    return _decode(array.storage) if isinstance(array.type, pa.BaseExtensionType) else array


def _vectors(array: Any, features: int, place: str, first_row: int) -> NDArray[Any]:
    """Return a column of vectors as rows (n, features); DataError for one of another length."""
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    is_spark = spark.is_vectors(array.type)
    if pa.types.is_fixed_size_list(array.type):
        lengths = np.full(int(valid.sum()), array.type.list_size)
    elif is_spark:
        lengths = spark.lengths(array)[valid]
    else:
        lengths = array.value_lengths().to_numpy(zero_copy_only=False)[valid].astype(np.int64)
    ragged = np.flatnonzero(lengths != features)
    if len(ragged):
        row = first_row + int(np.flatnonzero(valid)[ragged[0]])
        raise DataError(
            f"{place}: row {row} has {lengths[ragged[0]]} features where the "
            f"first row of the data has {features}. All vectors must have one length."
        )
    if is_spark:
        return spark.dense_rows(array, features, place)
    # flatten() leaves out null lists, and honours slices, which .values does not.
    vectors = _numbers(_decode(array.flatten())).reshape(-1, features)
    if valid.all():
        return vectors
    rows = np.full((len(array), features), np.nan, np.result_type(vectors, np.float32))
    rows[valid] = vectors
    return rows
