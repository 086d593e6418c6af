"""Read the keys of Hive's folders named key=value, as pyarrow does.

Keys and values are quoted as in URLs, and null is a word of its own (`NULL`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

import pyarrow as pa

from ray_kmeans.errors import DataError

NULL = "__HIVE_DEFAULT_PARTITION__"
"""Value of a folder that stands for null."""
INTEGER = re.compile(r"-?[0-9]+")
"""Pattern of a value that is an integer."""
INT32 = range(-(2**31), 2**31)
"""Integers that int32 can hold."""


class Placed(Protocol):
    """A file whose folders give it keys and values."""

    @property
    def partitions(self) -> Mapping[str, Sequence[Any]]:
        """The values of each key: one, or several if folders contradict each other."""


def keys_of(path: str) -> dict[str, list[str | None]]:
    """Return the values of each key that the folders of a path give, null as None.

    >>> keys_of("data/lang=en%20us/year=2024/x.parquet")
    {'lang': ['en us'], 'year': ['2024']}
    """
    keys: dict[str, list[str | None]] = {}
    for folder in path.split("/")[:-1]:
        key, equals, value = folder.partition("=")
        if not key or not equals:
            continue
        name, text = _unquote(key, path), None if value == NULL else _unquote(value, path)
        keys.setdefault(name, []).append(text)
    return keys


def single_value(values: Sequence[Any], name: str, path: str) -> Any:
    """Return the one value of a key; DataError if the folders of a file give it several."""
    if len(set(values)) > 1:
        raise DataError(
            f"{path} is below folders that give {name!r} different values ({values}). Rename all "
            "but one of them."
        )
    return values[0]


def schema_of(files: Iterable[Placed]) -> pa.Schema:
    """Return one type for each key over all files: int32 if it holds all values, else string.

    Values from the log of a Delta table have types of their own, which are kept.
    """
    values: dict[str, list[Any]] = {}
    for file in files:
        for key, of_file in file.partitions.items():
            values.setdefault(key, []).extend(of_file)
    return pa.schema([(key, _type_of(of_key)) for key, of_key in values.items()])


def column(value: Any, kind: pa.DataType, rows: int) -> pa.Array:
    """Return a column of `rows` times the same value of a key."""
    if isinstance(value, str) and pa.types.is_integer(kind):
        value = int(value)
    return pa.nulls(rows, kind) if value is None else pa.repeat(pa.scalar(value, kind), rows)


def _type_of(values: list[Any]) -> pa.DataType:
    """Return the type of a key with these values."""
    there = {value for value in values if value is not None}
    if not there:
        return pa.string()
    if not all(isinstance(value, str) for value in there):
        return pa.array(list(there)).type
    return pa.int32() if all(map(_is_int32, there)) else pa.string()


def _is_int32(text: str) -> bool:
    """Tell whether a value is written as an integer that int32 can hold."""
    return INTEGER.fullmatch(text) is not None and int(text) in INT32


def _unquote(text: str, path: str) -> str:
    """Return a key or a value with its %XX decoded; DataError if that is not UTF-8."""
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise DataError(
            f"{path} is below a folder whose {text!r} is no UTF-8 once it is unquoted. Rename it."
        ) from None
