"""One type for each column that labelled output passes through, whatever its files have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from ray_kmeans.errors import DataError

OfFile = tuple[str, Mapping[str, pa.DataType | None]]
"""The name of a file, and the type of each column there; None where it has no such column."""


def promoted(files: Iterable[OfFile], names: Sequence[str]) -> pa.Schema:
    """Return the columns with types that hold what all files have.

    Raises DataError that names a column and a file for one that is not there, and two files with
    their types where no type holds both.
    """
    types: dict[str, tuple[str, pa.DataType]] = {}
    seen: set[tuple[str, pa.DataType]] = set()
    for file, of_file in files:
        missing = [name for name in names if of_file[name] is None]
        if missing:
            raise DataError(f"keep_columns={missing} are not in {file}. Keep what all files have.")
        for name in names:
            kind = of_file[name]
            if (name, kind) not in seen:
                seen.add((name, kind))
                types[name] = _with(types.get(name), name, file, kind)
    return pa.schema([(name, types[name][1]) for name in names])


def _with(
    before: tuple[str, pa.DataType] | None, name: str, file: str, kind: pa.DataType
) -> tuple[str, pa.DataType]:
    """Return a type that holds what was found before, and this; and a file that has such."""
    if before is None or before[1].equals(kind):
        return file, _lasting(kind)
    first, found = before
    both = _common(_plain(found), _plain(kind))
    if both is None:
        raise DataError(
            f"keep_columns: column {name!r} is {kind} in {file} and {found} in {first}, and one "
            "output cannot hold both. Write the files anew with one type, or do not keep it."
        )
    return (file if pa.types.is_null(found) else first), both


def filled(schema: pa.Schema, others: Iterable[pa.Schema]) -> pa.Schema:
    """Return a schema in which a column of nulls has the type that another one has for it."""
    types: dict[str, pa.DataType] = {}
    for field in (field for other in others for field in other):
        if not pa.types.is_null(field.type):
            types.setdefault(field.name, field.type)
    empty = [field for field in schema if pa.types.is_null(field.type)]
    new = {f.name: f.with_type(types[f.name]) for f in empty if f.name in types}
    return pa.schema([new.get(field.name, field) for field in schema])


def held_by(there: pa.Schema, kept: pa.Schema) -> pa.Schema:
    """Return the types of an output that is added to; DataError where one cannot hold the data's.

    >>> held_by(pa.schema([("id", pa.int64())]), pa.schema([("id", pa.int32())])).types
    [DataType(int64)]
    """
    for name, old, new in zip(kept.names, there.types, kept.types, strict=True):
        if _common(_plain(old), _plain(new)) != _plain(old):
            raise DataError(
                f"append: column {name!r} is {new} in the data and {old} in the output, which "
                "cannot hold it. Give data like those that are there, or another place."
            )
    return there


def kept_schema(source: Any, names: Sequence[str]) -> pa.Schema:
    """Return the type of each column that is to be passed through, for all rows of a source."""
    if hasattr(source, "kept_schema"):
        schema: pa.Schema = source.kept_schema(names)
        return schema
    first = replace(source.describe().blocks[0], rows=1)
    return source.columns_of(first, names).schema.remove_metadata()


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Return a type that both can be made of without a digit lost; None where there is none."""
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


def _lasting(kind: pa.DataType) -> pa.DataType:
    """Return the type, or what it encodes where it has too few numbers for the values of all."""
    if pa.types.is_dictionary(kind) and not pa.types.is_int32(kind.index_type):
        return _plain(kind)
    return kind


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return what a dictionary encodes, and any other type as it is."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind
