"""The key=value folders of Hive, as pyarrow reads them: quoted as in URLs, with a mark for null."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

import pyarrow as pa

from ray_kmeans.errors import DataError

NULL = "__HIVE_DEFAULT_PARTITION__"
INTEGER = re.compile(r"-?[0-9]+")
INT32 = range(-(2**31), 2**31)


class Placed(Protocol):
    """A file with the keys that the folders on the way to it tell."""

    @property
    def partitions(self) -> Mapping[str, Sequence[Any]]: ...


def keys_of(path: str) -> dict[str, list[str | None]]:
    """Return the keys of the folders on the way to a file, and their values; null is None.

    >>> keys_of("data/lang=en%20us/year=2024/x.parquet")
    {'lang': ['en us'], 'year': ['2024']}
    """
    keys: dict[str, list[str | None]] = {}
    for folder in path.split("/")[:-1]:
        key, equals, value = folder.partition("=")
        if not key or not equals:
            continue
        name, text = _unquoted(key, path), None if value == NULL else _unquoted(value, path)
        keys.setdefault(name, []).append(text)
    return keys


def the_one(values: Sequence[Any], name: str, path: str) -> Any:
    """Return the value of a key; raises DataError where the folders give it several."""
    if len(set(values)) > 1:
        raise DataError(
            f"{path} is below folders that give {name!r} different values ({values}). Rename all "
            "but one of them."
        )
    return values[0]


def schema_of(files: Iterable[Placed]) -> pa.Schema:
    """Return one type for each key over all files: int32 where all values are such, or string.

    Values that a table's log tells (see `delta`) have their own types.
    """
    values: dict[str, list[Any]] = {}
    for file in files:
        for key, of_file in file.partitions.items():
            values.setdefault(key, []).extend(of_file)
    return pa.schema([(key, _type_of(of_key)) for key, of_key in values.items()])


def column(value: Any, kind: pa.DataType, rows: int) -> pa.Array:
    """Return the value of a key for all rows of a block."""
    if isinstance(value, str) and pa.types.is_integer(kind):
        value = int(value)
    return pa.nulls(rows, kind) if value is None else pa.repeat(pa.scalar(value, kind), rows)


def _type_of(values: list[Any]) -> pa.DataType:
    there = {value for value in values if value is not None}
    if not there:
        return pa.string()
    if not all(isinstance(value, str) for value in there):
        return pa.array(list(there)).type
    return pa.int32() if all(map(_is_int32, there)) else pa.string()


def _is_int32(text: str) -> bool:
    return INTEGER.fullmatch(text) is not None and int(text) in INT32


def _unquoted(text: str, path: str) -> str:
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise DataError(
            f"{path} is below a folder whose {text!r} is no UTF-8 once it is unquoted. Rename it."
        ) from None
