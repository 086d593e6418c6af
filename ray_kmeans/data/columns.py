"""From Arrow columns, or arrays of any number type, to rows of float32."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ray_kmeans.algorithm.dtypes import narrow_name
from ray_kmeans.data.datasets import spark
from ray_kmeans.data.layout import Block
from ray_kmeans.errors import DataError, NoColumnError

LISTS = (
    pa.types.is_fixed_size_list,
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)


def to_float32(values: NDArray[Any], place: str, names: Sequence[str] = ()) -> NDArray[np.float32]:
    """Return the values as float32; raises DataError where one does not fit.

    `names`: of the columns (or of the one column of vectors), for messages.
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
    """Say whether a row is a vector or several numbers; '' where it is null in all rows."""
    kind = type_at(schema, names[0])
    if len(names) == 1 and pa.types.is_null(kind):
        return ""
    return "a column of vectors" if is_vector(kind) else "columns of numbers"


def features_of(schema: pa.Schema, names: Sequence[str]) -> int:
    """Return the length of a row; 0 where only a row can tell."""
    kind = plain_type(type_at(schema, names[0]))
    if len(names) == 1 and pa.types.is_null(kind):
        return 0
    if not is_vector(kind):
        return len(names)
    return int(kind.list_size) if pa.types.is_fixed_size_list(kind) else 0


def of_unknown_length(schema: pa.Schema, names: Sequence[str]) -> list[str]:
    """Return those of the columns that hold vectors whose length only a row can tell."""
    types = ((name, type_at(schema, name)) for name in names)
    vectors = [name for name, kind in types if kind is not None and is_vector(kind)]
    return [name for name in vectors if features_of(schema, [name]) == 0]


def narrow_of(schema: pa.Schema, names: Sequence[str]) -> str | None:
    """Return the type of all values where that is one narrower than float32."""
    kinds = [plain_type(type_at(schema, name)) for name in names]
    if spark.is_vectors(kinds[0]):
        return None
    values = {plain_type(kind.value_type) if is_vector(kind) else kind for kind in kinds}
    kind = values.pop()
    if values or not is_number(kind):
        return None
    return narrow_name(pa.array([], kind).to_numpy(zero_copy_only=False).dtype)


def kept(table: Any, names: Sequence[str], place: str) -> pa.Table:
    """Return the columns to be passed through, fields of structs under their paths."""
    check_kept(names, table.schema, place)
    return pa.table({name: _at(table, name) for name in names})


def check_kept(names: Sequence[str], schema: pa.Schema, place: str) -> None:
    """Raise NoColumnError for columns to be passed through that are not there."""
    missing = [name for name in names if type_at(schema, name) is None]
    if missing:
        raise NoColumnError(f"keep_columns={missing} are not in {place}: {schema.names}.")


def is_vector(kind: pa.DataType) -> bool:
    """Tell whether a column holds lists of what can be read as numbers."""
    kind = plain_type(kind)
    if spark.is_vectors(kind):
        return True
    if kind.num_fields != 1:  # of a wide table, most
        return False
    return any(test(kind) for test in LISTS) and is_readable(kind.value_type)


def is_number(kind: pa.DataType) -> bool:
    """Tell whether a column holds numbers as computers have them."""
    kind = plain_type(kind)
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def is_readable(kind: pa.DataType) -> bool:
    """Tell whether a column holds what is read as numbers where it is named: decimals, booleans."""
    plain = plain_type(kind)
    return is_number(plain) or pa.types.is_decimal(plain) or pa.types.is_boolean(plain)


def path_of(fields: Any, name: str) -> tuple[str, ...]:
    """Return the way to a column of a schema, or to a field of its structs; () where none is."""
    if fields.get_field_index(name) >= 0:
        return (name,)
    outer, _, inner = name.partition(".")
    index = fields.get_field_index(outer)
    if index < 0 or not inner or not pa.types.is_struct(fields.field(index).type):
        return ()
    below = path_of(fields.field(index).type, inner)
    return (outer, *below) if below else ()


def type_at(schema: pa.Schema, name: str) -> pa.DataType | None:
    """Return the type of a column, or of a field of structs; None where there is none."""
    path = path_of(schema, name)
    if not path:
        return None
    field = schema.field(path[0])
    for part in path[1:]:
        if spark.is_vectors(field.type):
            return None  # what is in a sparse vector is no row by itself
        field = field.type.field(part)
    return field.type


def _at(batch: Any, name: str) -> Any:
    """Return a column of a RecordBatch or Table; a field of a struct is null where that is."""
    outer, *inner = path_of(batch.schema, name)
    return pc.struct_field(batch.column(outer), inner) if inner else batch.column(outer)


def matrix(
    batch: Any, columns: Sequence[str], features: int, place: str, first_row: int = 0
) -> NDArray[Any]:
    """Return the rows of a RecordBatch or Table, (n, features); a null becomes NaN.

    Of a type that holds all values. `place` and `first_row`, the number of its first row there, are
    for messages.
    """
    arrays = [_plain(_at(batch, name)) for name in columns]
    if len(arrays) == 1 and pa.types.is_null(arrays[0].type):
        return np.full((batch.num_rows, features), np.nan, np.float32)
    if len(arrays) == 1 and not is_readable(arrays[0].type):
        return _vectors(arrays[0], features, f"column {columns[0]!r}, {place}", first_row)
    return np.stack([_numbers(array) for array in arrays], axis=1)


def _numbers(array: Any) -> NDArray[Any]:
    """Return a column of numbers; decimals, booleans and nulls become float64.

    Decimals without a fraction become whole numbers where these can hold them all, as float64
    cannot beyond 2**53.
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

    Raises DataError where that vector is empty. `place` and `first_row` are for messages.
    """
    array = _plain(_at(batch, name))
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
    """Return the least and largest number of columns of numbers, and how many numbers they hold.

    Of none where a row is a vector, and of no column that shares its name.
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
    """Return what a dictionary or runs encode and an extension (a tensor) is stored as."""
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    return plain_type(kind.storage_type) if isinstance(kind, pa.BaseExtensionType) else kind


def _plain(array: Any) -> Any:
    """Return a column as one array of its plain type."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if pa.types.is_dictionary(array.type):
        return _plain(array.dictionary_decode())
    if pa.types.is_run_end_encoded(array.type):
        return _plain(pc.run_end_decode(array))
    return _plain(array.storage) if isinstance(array.type, pa.BaseExtensionType) else array


def _vectors(array: Any, features: int, place: str, first_row: int) -> NDArray[Any]:
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
        return spark.dense(array, features, place)
    # flatten() leaves out null lists, and honours slices, which .values does not.
    vectors = _numbers(_plain(array.flatten())).reshape(-1, features)
    if valid.all():
        return vectors
    rows = np.full((len(array), features), np.nan, np.result_type(vectors, np.float32))
    rows[valid] = vectors
    return rows


def rows_of_block(batches: Iterable[pa.RecordBatch], block: Block) -> list[pa.RecordBatch]:
    """Return the rows of a block out of a file's batches; reads none after the block's end."""
    parts: list[pa.RecordBatch] = []
    begin, stop = 0, block.start + block.rows
    for batch in batches:
        low, high = max(block.start - begin, 0), min(stop - begin, batch.num_rows)
        if low < high:
            parts.append(batch.slice(low, high - low))
        begin += batch.num_rows
        if begin >= stop:
            break
    return parts


def cut_batches(
    batches: Iterator[Any], names: Sequence[str], blocks: Sequence[Block]
) -> Iterator[tuple[Block, NDArray[Any]]]:
    """Put the rows of batches of a part together to the blocks wanted, which are in its order."""
    wanted = deque(blocks)
    begin = 0  # of the batch, within the part
    for batch in batches:
        end = begin + batch.num_rows
        while wanted and wanted[0].skip < end:
            block = wanted[0]
            low, high = max(block.skip, begin), min(block.skip + block.rows, end)
            part = batch.slice(low - begin, high - low)
            values = matrix(part, names, block.features, block.place, low)
            if low == block.skip:
                rows = np.empty((block.rows, block.features), values.dtype)
            rows = rows.astype(np.result_type(rows, values), copy=False)  # nulls make floats
            rows[low - block.skip : high - block.skip] = values
            if high < block.skip + block.rows:
                break  # the next batch goes on with this block
            yield wanted.popleft(), rows
            if not wanted:
                return
        begin = end
    if wanted:
        raise DataError(f"{wanted[0].file} has fewer rows than its metadata say; it is damaged.")
