"""Centers as the table (id, parent, vector) from which VectorChord builds an index of PostgreSQL.

VectorChord (https://docs.vectorchord.ai, "External Build") takes a table of which all parents are
null for centers without a tree. For a tree, one root stands above all, all leaves are equally deep,
and each inner center has children. Ids are those of our clusters; inner centers come after them.

The table is written as Parquet, or for COPY in PostgreSQL's binary format: a signature, then each
row as the number of its fields and the length and bytes of each field; all numbers big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ray_kmeans.center_files.arrays import optional_parents, parquet_bytes, vectors
from ray_kmeans.center_files.exported import NO_PARENT, ExportedCenters, Level, Nodes
from ray_kmeans.errors import ConfigError, DataError

SIGNATURE = b"PGCOPY\n\xff\r\n\0"
"""First bytes of a file of COPY in binary format."""
START = struct.Struct(">II")
"""Two numbers after the signature: flags, and bytes of an extension."""
ROW_FIELDS = struct.Struct(">h")
"""Number of fields of a row, before these."""
FIELD_BYTES = struct.Struct(">i")
"""Bytes of a field, before these."""
END = b"\xff\xff"
"""Bytes after the last row, in place of the number of its fields."""
NULL = -1
"""Length of a field that is null."""
LARGEST_DIMENSIONS = 16_000
"""Largest number of dimensions of pgvector's type `vector`."""


def table_of(given: ExportedCenters) -> bytes:
    """Return the table as Parquet with the columns id, parent and vector."""
    nodes = _nodes(given)
    columns = {
        "id": pa.array(np.arange(len(nodes.centers), dtype=np.int32)),
        "parent": optional_parents(nodes.parents),
        "vector": vectors(nodes.centers),
    }
    return parquet_bytes(columns, given)


def copy_of(given: ExportedCenters) -> bytes:
    """Return the table as a file for `COPY table (id, parent, vector) ... (FORMAT binary)`."""
    nodes = _nodes(given)
    inner = nodes.parents != NO_PARENT
    pieces = [SIGNATURE, START.pack(0, 0)]
    for has_parent in (True, False):
        pieces.append(_rows(nodes, np.flatnonzero(inner == has_parent), has_parent).tobytes())
    return b"".join([*pieces, END])


def _nodes(given: ExportedCenters) -> Nodes:
    """Return the rows of the table; ConfigError for centers that the type `vector` cannot hold."""
    k, d = given.centers.shape
    if d > LARGEST_DIMENSIONS:
        raise ConfigError(
            f"the centers have {d:,} features, and pgvector's type `vector` has at most "
            f"{LARGEST_DIMENSIONS:,}. Export them in another format."
        )
    tree = given.without_childless()
    tops = len(tree.levels[-1].centers) if tree.levels else k
    if (k == 1 and not tree.levels) or (tree.levels and tops > 1):
        tree = replace(tree, levels=(*tree.levels, _root(tree)))
    return tree.nodes


def _root(tree: ExportedCenters) -> Level:
    """Return a level of one center, the mean of those below it."""
    below = tree.levels[-1].centers if tree.levels else tree.centers
    mean = below.mean(axis=0, dtype=np.float64, keepdims=True).astype(np.float32)
    return Level(mean, np.zeros(len(below), np.int64))


def _rows(nodes: Nodes, numbers: NDArray[np.intp], has_parent: bool) -> NDArray[Any]:
    """Return the rows of these nodes, which all have a parent or all have none."""
    d = nodes.centers.shape[1]
    of_parent = [("parent", ">i4")] if has_parent else []
    rows = np.zeros(
        len(numbers),
        [
            ("fields", ">i2"),
            *(("id_bytes", ">i4"), ("id", ">i4")),
            *(("parent_bytes", ">i4"), *of_parent),
            *(("vector_bytes", ">i4"), ("dimensions", ">i2"), ("unused", ">i2")),
            ("vector", ">f4", (d,)),
        ],
    )
    rows["fields"], rows["id_bytes"], rows["id"] = 3, 4, numbers
    rows["parent_bytes"] = 4 if has_parent else NULL
    if has_parent:
        rows["parent"] = nodes.parents[numbers]
    rows["vector_bytes"], rows["dimensions"] = 4 + 4 * d, d
    rows["vector"] = nodes.centers[numbers]
    return rows


def rows_in_copy(content: bytes, shown: str) -> pa.Table:
    """Return the table (id, parent, vector) in a file of COPY; DataError if it is another one."""
    try:
        rows = list(_rows_in(content))
        table = {
            "id": pa.array([_number(row[0]) for row in rows], pa.int64()),
            "parent": pa.array([row[1] and _number(row[1]) for row in rows], pa.int64()),
            "vector": vectors(np.stack([_vector(row[2]) for row in rows])),
        }
    except (struct.error, ValueError, TypeError) as error:
        raise DataError(
            f"{shown} is a file of PostgreSQL's COPY, but not of rows (id integer, parent integer, "
            f"vector vector): {error}. It is damaged, or of another table."
        ) from None
    return pa.table(table)


def _rows_in(content: bytes) -> Iterator[list[bytes | None]]:
    """Yield the three fields of each row; ValueError or struct.error if the bytes are no rows."""
    flags, extension = START.unpack_from(content, len(SIGNATURE))
    at = len(SIGNATURE) + START.size + extension
    while content[at : at + len(END)] != END:
        fields: list[bytes | None] = []
        (count,) = ROW_FIELDS.unpack_from(content, at)
        at += ROW_FIELDS.size
        for _ in range(count):
            (length,) = FIELD_BYTES.unpack_from(content, at)
            at += FIELD_BYTES.size + max(length, 0)
            if length < NULL or at > len(content):
                raise ValueError(f"the field before byte {at:,} has {length:,} bytes")
            fields.append(None if length == NULL else content[at - length : at])
        if len(fields) != 3:
            raise ValueError(f"a row has {len(fields)} fields")
        yield fields
    if flags or at + len(END) != len(content):
        raise ValueError(f"it has the flags {flags:#x}, or bytes behind its end")


def _number(field: bytes | None) -> int:
    """Return the integer in a field."""
    (number,) = struct.unpack(">i", field or b"")
    return int(number)


def _vector(field: bytes | None) -> NDArray[np.float32]:
    """Return the values (d,) in a field of pgvector's type `vector`."""
    data = field or b""
    d, unused = struct.unpack_from(">hh", data)
    if unused or d < 1 or len(data) != 4 + 4 * d:
        raise ValueError(f"a vector of {d} dimensions has {len(data):,} bytes")
    return np.frombuffer(data, ">f4", d, 4).astype(np.float32)
