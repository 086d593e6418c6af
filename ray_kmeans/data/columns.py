"""From Arrow columns, or arrays of any number type, to rows of float32."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ray_kmeans.clustering.narrow import narrow_name
from ray_kmeans.data import spark
from ray_kmeans.data.plan import Block
from ray_kmeans.errors import ConfigError, DataError

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


def choose_columns(schema: pa.Schema, wanted: Sequence[str] | None, place: str) -> tuple[str, ...]:
    """Return the columns that make up a row: one column of vectors, or several of numbers.

    A field of a struct is one where it is wanted by its path, as 'doc.embedding'.
    """
    names = tuple(wanted or _columns_of_rows(schema, place))
    types = {name: _type_at(schema, name) for name in names}
    missing = [name for name, kind in types.items() if kind is None]
    if missing:
        twice = {name for name in missing if schema.names.count(name) > 1}
        those = f"{schema.names}{', one name for several columns' if twice else ''}"
        raise ConfigError(f"columns={missing} are not in {place}, which has {those}.")
    vectors = [name for name, kind in types.items() if is_vector(kind)]
    plain = [name for name, kind in types.items() if is_number(kind)]
    if len(vectors) + len(plain) < len(types) or (vectors and len(names) > 1):
        shown = {name: str(kind) for name, kind in types.items()}
        raise ConfigError(f"columns={shown} of {place}: give one of vectors or some of numbers.")
    return names


def _columns_of_rows(schema: pa.Schema, place: str) -> list[str]:
    """Return the one column of vectors or else all of numbers, where none are wanted by name."""
    vectors = [field.name for field in schema if is_vector(field.type)]
    if len(vectors) > 1:
        raise ConfigError(
            f"{place} has several columns of vectors: {vectors}. Choose with columns."
        )
    plain = [field.name for field in schema if is_number(field.type)]
    if not vectors and not plain:
        found = ", ".join(f"{field.name}: {field.type}" for field in schema)
        nested = any(pa.types.is_struct(field.type) for field in schema)
        hint = " Name a field of a struct with columns, as in 'doc.embedding'." if nested else ""
        raise DataError(
            f"{place} has no numeric column ({found}). Choose another file or table.{hint}"
        )
    return vectors or plain


def kind_of(schema: pa.Schema, names: Sequence[str]) -> str:
    """Say whether a row is a vector or several numbers."""
    vectors = is_vector(_type_at(schema, names[0]))
    return "a column of vectors" if vectors else "columns of numbers"


def features_of(schema: pa.Schema, names: Sequence[str]) -> int:
    """Return the length of a row; 0 where only a row can tell."""
    kind = _plain_type(_type_at(schema, names[0]))
    if not is_vector(kind):
        return len(names)
    return int(kind.list_size) if pa.types.is_fixed_size_list(kind) else 0


def narrow_of(schema: pa.Schema, names: Sequence[str]) -> str | None:
    """Return the type of all values where that is one narrower than float32."""
    kinds = [_plain_type(_type_at(schema, name)) for name in names]
    if spark.is_vectors(kinds[0]):
        return None
    values = {_plain_type(kind.value_type) if is_vector(kind) else kind for kind in kinds}
    kind = values.pop()
    if values:
        return None
    return narrow_name(pa.array([], kind).to_numpy(zero_copy_only=False).dtype)


def kept(table: Any, names: Sequence[str], place: str) -> pa.Table:
    """Return the columns to be passed through, fields of structs under their paths."""
    check_kept(names, table.schema, place)
    return pa.table({name: _at(table, name) for name in names})


def check_kept(names: Sequence[str], schema: pa.Schema, place: str) -> None:
    """Raise DataError for columns to be passed through that are not there."""
    missing = [name for name in names if _type_at(schema, name) is None]
    if missing:
        raise DataError(f"keep_columns={missing} are not in {place}: {schema.names}.")


def is_vector(kind: pa.DataType) -> bool:
    """Tell whether a column holds lists of numbers."""
    kind = _plain_type(kind)
    return spark.is_vectors(kind) or (
        any(test(kind) for test in LISTS) and is_number(kind.value_type)
    )


def is_number(kind: pa.DataType) -> bool:
    kind = _plain_type(kind)
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


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


def _type_at(schema: pa.Schema, name: str) -> pa.DataType | None:
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
    if len(arrays) == 1 and not is_number(arrays[0].type):
        return _vectors(arrays[0], features, f"column {columns[0]!r}, {place}", first_row)
    return np.stack([array.to_numpy(zero_copy_only=False) for array in arrays], axis=1)


def vector_length(batch: Any, name: str, place: str, first_row: int = 0) -> int:
    """Return the number of features of the first vector that is not null; 0 if all are null.

    Raises DataError where that vector is empty. `place` and `first_row` are for messages.
    """
    array = _plain(_at(batch, name))
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


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """Return what a dictionary encodes and an extension (as FixedShapeTensor) is stored as."""
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    return _plain_type(kind.storage_type) if isinstance(kind, pa.BaseExtensionType) else kind


def _plain(array: Any) -> Any:
    """Return a column as one array of its plain type."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if pa.types.is_dictionary(array.type):
        return array.dictionary_decode()
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
    vectors: NDArray[Any] = array.flatten().to_numpy(zero_copy_only=False).reshape(-1, features)
    if valid.all():
        return vectors
    rows = np.full((len(array), features), np.nan, np.result_type(vectors, np.float32))
    rows[valid] = vectors
    return rows


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
