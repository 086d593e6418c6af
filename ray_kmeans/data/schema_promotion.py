"""Find one type for each column that labelled output keeps, whatever types the files have.

`kept_schema` is where labelled output asks for it, and where errors name the argument
`keep_columns`: the functions below it name columns and files alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from ray_kmeans.errors import ConfigError, DataError

OfFile = tuple[str, Mapping[str, pa.DataType | None]]
"""A file's name, and the type of each column in it; None for a column that it does not have."""


def common_schema(files: Iterable[OfFile], names: Sequence[str]) -> pa.Schema:
    """Return the columns `names`, each with a type that holds the values of all files.

    Raises
    ------
    DataError
        If a file lacks a column, or no type holds both of two; it names the files.
    """
    types: dict[str, tuple[str, pa.DataType]] = {}
    seen: set[tuple[str, pa.DataType]] = set()
    for file, of_file in files:
        missing = [name for name in names if of_file[name] is None]
        if missing:
            raise DataError(f"columns {missing} are not in {file}. Keep what all files have.")
        for name in names:
            kind = of_file[name]
            if (name, kind) not in seen:
                seen.add((name, kind))
                types[name] = _unite(types.get(name), name, file, kind)
    return pa.schema([(name, types[name][1]) for name in names])


def _unite(
    before: tuple[str, pa.DataType] | None, name: str, file: str, kind: pa.DataType
) -> tuple[str, pa.DataType]:
    """Return a type for what was found `before` and `kind` together, and a file that has it."""
    if before is None or before[1].equals(kind):
        return file, _type_for_more_files(kind)
    first, found = before
    both = _common_type(_value_type(found), _value_type(kind))
    if both is None:
        raise DataError(
            f"column {name!r} is {kind} in {file} and {found} in {first}, and one "
            "output cannot hold both. Write the files anew with one type, or do not keep it."
        )
    return (file if pa.types.is_null(found) else first), both


def filled(schema: pa.Schema, others: Iterable[pa.Schema]) -> pa.Schema:
    """Return a schema whose columns of nulls get the type that one of the others has for them."""
    types: dict[str, pa.DataType] = {}
    for field in (field for other in others for field in other):
        if not pa.types.is_null(field.type):
            types.setdefault(field.name, field.type)
    empty = [field for field in schema if pa.types.is_null(field.type)]
    new = {f.name: f.with_type(types[f.name]) for f in empty if f.name in types}
    return pa.schema([new.get(field.name, field) for field in schema])


def held_by(there: pa.Schema, kept: pa.Schema) -> pa.Schema:
    """Return the types of an output that rows are appended to, if they hold the new data's.

    Raises DataError for a column whose type in the output cannot hold the new values.

    >>> held_by(pa.schema([("id", pa.int64())]), pa.schema([("id", pa.int32())])).types
    [DataType(int64)]
    """
    for name, old, new in zip(kept.names, there.types, kept.types, strict=True):
        if _common_type(_value_type(old), _value_type(new)) != _value_type(old):
            raise DataError(
                f"append: column {name!r} is {new} in the data and {old} in the output, which "
                "cannot hold it. Give data like those that are there, or another place."
            )
    return there


def kept_schema(source: Any, names: Sequence[str]) -> pa.Schema:
    """Return the type of each column that labelled output is to keep, for all rows of a source.

    Raises
    ------
    ConfigError, DataError
        If the source has no such column, or none with one type; the text begins "keep_columns".
    """
    try:
        return schema_of(source, names)
    except (ConfigError, DataError) as error:
        raise type(error)(f"keep_columns: {error}") from None


def schema_of(source: Any, names: Sequence[str]) -> pa.Schema:
    """Return the type of some columns of a source, by its own `kept_schema` or by its first row."""
    if hasattr(source, "kept_schema"):
        schema: pa.Schema = source.kept_schema(names)
        return schema
    first = replace(source.describe().blocks[0], rows=1)
    return source.columns_of(first, names).schema.remove_metadata()


def _common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Return a type to which both can be cast without losing a digit; None if there is none."""
    decimal = pa.types.is_decimal(one) or pa.types.is_decimal(other)
    if decimal and (pa.types.is_floating(one) or pa.types.is_floating(other)):
        return None
    try:
        schemas = [pa.schema([("", kind)]) for kind in (one, other)]
        both = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
        for kind in (one, other):
            pa.nulls(1, kind).cast(both)
    except (pa.ArrowException, NotImplementedError):
        return None
    return both


def _type_for_more_files(kind: pa.DataType) -> pa.DataType:
    """Return a type that has room for more files: a dictionary of few codes becomes its values."""
    if pa.types.is_dictionary(kind) and not pa.types.is_int32(kind.index_type):
        return _value_type(kind)
    return kind


def _value_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of a dictionary's values; any other type unchanged."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind
