"""Choose the columns that make up a row, by the schemas of all files, before any row is read.

Where no columns are named, only a clear case is taken: one column of vectors, or columns of floats
alone. Whatever else could be features is a question to the user (ConfigError), not a guess: keys of
rows, integers, and text that looks like numbers would all give a fit that means nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, NoReturn, TypeAlias

import pyarrow as pa

from ray_kmeans.data.columns import (
    LISTS,
    is_number,
    is_readable,
    is_vector,
    plain_type,
    type_at,
)
from ray_kmeans.data.datasets import spark
from ray_kmeans.errors import ConfigError, DataError

KEY_NAME = re.compile(
    r"(?i:(.*[_ .-])?(id|idx|index|key|pk|uuid|guid)|rowid|unnamed: \d+|__index_level_\d+__)"
    r"|.*[a-z](Id|ID|Key|Index)"
)
"""Pattern of the names that keys of rows have, and features hardly ever."""
FEWEST_COUNTED = 10
"""Number of rows below which numbers may follow each other by chance."""
SHOWN = 8
"""Largest number of names in a message before it is shortened."""

Kinds: TypeAlias = tuple[pa.DataType, ...]
"""Types that a column has in some files; () where it is null in all of them."""
Span: TypeAlias = tuple[float, float, int]
"""(least, largest, count) of the numbers that a column has in one file."""


class _Role(Enum):
    """How a column can be part of a row, if no columns are named."""

    VECTORS = 1
    """A column of vectors, which makes up a row alone."""
    FLOATS = 2
    """A column of floats."""
    INTEGERS = 3
    """A column of integers, which may be features or keys."""
    DOUBTFUL = 4
    """A column that could be read as numbers, but may not be meant so."""
    OTHER = 5
    """A column that holds no numbers."""


def choose_columns(
    schema: pa.Schema,
    wanted: Sequence[str] | None,
    place: str,
    *,
    keys: Collection[str] = (),
    doubtful: Mapping[str, str] | None = None,
) -> tuple[str, ...]:
    """Return the columns that make up a row: one column of vectors, or several of numbers.

    Parameters
    ----------
    schema : pyarrow.Schema
        All columns.
    wanted : sequence of str or None
        Columns that the user names. A field of a struct is named by its path, as 'doc.embedding'.
        Decimals and booleans count as numbers if they are named.
    place : str
        Name of the data, for messages.
    keys : collection of str, default ()
        Columns whose values look like keys of rows.
    doubtful : mapping, default None
        Columns that could be features although their types do not tell so, with what they hold.

    Raises
    ------
    ConfigError
        If a wanted column is not there or holds no numbers. If none is wanted and there is a
        choice: several columns of vectors; or none, and the columns of numbers are several and not
        all floats, or one looks like a key, or another column could be a feature, too.
    """
    names = tuple(wanted or choose_among([schema], place, keys, doubtful))
    check_columns(schema, names, place)
    return names


def choose_among(
    schemas: Sequence[pa.Schema],
    place: str,
    keys: Collection[str] = (),
    doubtful: Mapping[str, str] | None = None,
) -> tuple[str, ...]:
    """Choose as `choose_columns` does, by the schemas of several files and without names.

    It does not check that each file has the columns.
    """
    return tuple(_columns_of_rows(_kinds_by_name(schemas), place, keys, doubtful or {}))


def check_columns(schema: pa.Schema, names: Sequence[str], place: str) -> None:
    """Raise ConfigError unless all columns are there, and are one of vectors or all of numbers.

    A column that is null in all rows may be either.
    """
    types = {name: type_at(schema, name) for name in names}
    missing = [name for name, kind in types.items() if kind is None]
    if missing:
        twice = {name for name in missing if schema.names.count(name) > 1}
        those = f"{schema.names}{', one name for several columns' if twice else ''}"
        raise ConfigError(f"columns={missing} are not in {place}, which has {those}.")
    vectors = [name for name, kind in types.items() if is_vector(kind)]
    plain = [name for name, kind in types.items() if is_readable(kind) or pa.types.is_null(kind)]
    if len(vectors) + len(plain) < len(types) or (vectors and len(names) > 1):
        shown = {name: str(kind) for name, kind in types.items()}
        raise ConfigError(f"columns={shown} of {place}: give one of vectors or some of numbers.")


def looks_like_key(name: str) -> bool:
    """Tell whether a column has the name of a key, as 'user_id'.

    >>> [looks_like_key(name) for name in ("id", "user_id", "userId", "Unnamed: 0", "x", "valid")]
    [True, True, True, True, False, False]
    """
    return KEY_NAME.fullmatch(name) is not None


def counts_rows(spans: Sequence[Span]) -> bool:
    """Tell whether a column seems to number the rows, by the spans of its numbers in each file.

    It does if its numbers are whole, and as many as from the least to the largest: over all files
    together, or in each file by itself. Fewer than `FEWEST_COUNTED` numbers tell nothing.

    >>> counts_rows([(5, 9, 5), (0, 4, 5)]), counts_rows([(0, 9, 10)] * 2), counts_rows([(0, 9, 9)])
    (True, True, False)
    """
    if not spans or any(low % 1 != 0 or high % 1 != 0 for low, high, _ in spans):
        return False
    lows, highs, counts = zip(*spans, strict=True)
    together = max(highs) - min(lows) + 1 == sum(counts)
    alone = all(high - low + 1 == count for low, high, count in spans)
    return sum(counts) >= FEWEST_COUNTED and (together or alone)


def shortened(names: Sequence[str], shown: int = SHOWN) -> str:
    """Return names as one text; of more than `shown`, the first three, the last and the count.

    >>> shortened(["x", "y"]), shortened([f"f{n}" for n in range(784)])
    ('x, y', 'f0, f1, f2 ... f783 (784 columns)')
    """
    safe = [name if name.isprintable() else repr(name) for name in names]
    if len(safe) <= shown:
        return ", ".join(safe)
    return f"{', '.join(safe[:3])} ... {safe[-1]} ({len(safe):,} columns)"


def _kinds_by_name(schemas: Iterable[pa.Schema]) -> dict[str, Kinds]:
    """Return the types that each column has in some files, by its name."""
    found: dict[str, dict[pa.DataType, None]] = {}
    for schema in dict.fromkeys(schema.remove_metadata() for schema in schemas):
        for field in schema:
            of_name = found.setdefault(field.name, {})
            if not pa.types.is_null(field.type):
                of_name[field.type] = None
    return {name: tuple(types) for name, types in found.items()}


def _columns_of_rows(
    kinds: Mapping[str, Kinds],
    place: str,
    keys: Collection[str],
    doubtful: Mapping[str, str],
) -> list[str]:
    """Return the one column of vectors, or else all of numbers; ConfigError if that is a guess."""
    roles = {name: _role(of_name) for name, of_name in kinds.items()}
    roles |= dict.fromkeys(doubtful, _Role.DOUBTFUL)
    vectors = [name for name, role in roles.items() if role is _Role.VECTORS]
    if len(vectors) > 1:
        raise ConfigError(
            f"{place} has several columns of vectors: {vectors}. Choose with columns, as in "
            f"columns={vectors[:1]} (--columns {vectors[0]})."
        )
    if vectors:
        return vectors
    scalars = {name: role for name, role in roles.items() if role is not _Role.OTHER}
    if not scalars:
        raise _no_numbers(kinds, place)
    numbers = [name for name in scalars if scalars[name] is not _Role.DOUBTFUL]
    like_keys = [name for name in numbers if looks_like_key(name) or name in keys]
    floats_alone = all(scalars[name] is _Role.FLOATS for name in numbers)
    if like_keys or len(numbers) < len(scalars) or not (floats_alone or len(numbers) == 1):
        words = {name: doubtful.get(name) or _words(kinds[name]) for name in scalars}
        _ask(place, words, like_keys, [name for name in numbers if name not in like_keys])
    return numbers


def _role(kinds: Kinds) -> _Role:
    """Return the role of a column that has these types."""
    plain = [plain_type(kind) for kind in kinds]
    lists = [kind for kind in plain if any(test(kind) for test in LISTS)]
    if any(is_number(kind.value_type) for kind in lists) or any(map(spark.is_vectors, plain)):
        return _Role.VECTORS
    if not any(is_vector(kind) or is_readable(kind) for kind in plain):
        return _Role.OTHER
    if not all(is_number(kind) for kind in plain):
        return _Role.DOUBTFUL
    return _Role.FLOATS if all(pa.types.is_floating(k) for k in plain) else _Role.INTEGERS


def _words(kinds: Kinds) -> str:
    """Return the types of a column, for messages."""
    return " or ".join(map(str, kinds))


def _ask(
    place: str, words: Mapping[str, str], like_keys: Sequence[str], likely: Sequence[str]
) -> NoReturn:
    """Raise ConfigError, which lists the possible columns and shows how to name some."""
    listed = shortened([f"{name}: {kind}" for name, kind in words.items()], 2 * SHOWN)
    key = f" {like_keys[0]!r} looks like a key of the rows." if like_keys else ""
    some = list(likely or words)[:2]
    raise ConfigError(
        f"{place} has columns that may be features, and none is named: {listed}.{key} Name the "
        f"features with columns, as in columns={some} (--columns {' '.join(some)})."
    )


def _no_numbers(kinds: Mapping[str, Any], place: str) -> DataError:
    """Return the error for data without a column of numbers or vectors."""
    found = ", ".join(f"{name}: {_words(of_name) or 'null'}" for name, of_name in kinds.items())
    nested = any(pa.types.is_struct(kind) for of_name in kinds.values() for kind in of_name)
    hint = " Name a field of a struct with columns, as in 'doc.embedding'." if nested else ""
    return DataError(
        f"{place} has no numeric column ({found}). Choose another file or table.{hint}"
    )
