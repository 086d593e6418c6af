"""Read JSON with an object in each line (.jsonl, .ndjson), plain or gzipped.

Prefer Parquet for many rows. As with CSV, each file is read once before the run, because only all
its lines tell its columns, their types and the number of rows. Every worker reads its files from
their start.
"""

from __future__ import annotations

import io
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.json as text
from numpy.typing import NDArray

from ray_kmeans.data import columns as arrow
from ray_kmeans.data.formats.base import Head, Look, OpenFile
from ray_kmeans.data.record_batches import rows_of_blocks, tables_of_blocks
from ray_kmeans.data.sharding import Block, passes_over
from ray_kmeans.errors import DataError

READ_BYTES = 2**22
"""Bytes that are parsed at once, if nothing else is given."""
FAILURES = (pa.ArrowException, UnicodeDecodeError, RecursionError)
"""Exceptions of pyarrow for lines that are no objects, or contradict each other."""


@dataclass(frozen=True)
class JsonLines:
    """Rows made of named numbers, or of a named list of numbers; a missing name is null."""

    columns: tuple[str, ...]
    """Names of the column of vectors, or of the columns of numbers; () before the choice."""
    schema: pa.Schema = field(default_factory=lambda: pa.schema([]))
    """All columns of all files, each with one type; empty before the choice."""
    read_bytes: int = READ_BYTES
    """Bytes that are parsed at once; bounds the memory, and the length of a line."""

    @classmethod
    def of(
        cls, first: OpenFile, columns: Sequence[str] | None, read_bytes: int = READ_BYTES
    ) -> JsonLines:
        """Return the format with the columns that the user names."""
        return cls(tuple(columns or ()), read_bytes=read_bytes)

    def with_columns(self, columns: tuple[str, ...], looks: Sequence[Look]) -> JsonLines:
        return replace(self, columns=columns, schema=_unite([look.schema for look in looks]))

    def look(self, file: OpenFile) -> Look:
        """Read the whole file to know its columns and the number of its rows."""
        schema, rows = self._schema_and_rows(file)
        vectors = arrow.of_unknown_length(schema, self.columns or schema.names)
        lengths = {name: self._first_length(file, schema, name) for name in vectors}
        return Look(schema, (rows,) if rows else (), lengths)

    def head_of(self, file: OpenFile, look: Look) -> Head:
        """Return the sizes and types of the rows; a file without rows agrees with all others."""
        filled = look if look.schema else replace(look, schema=self.schema, facts={})
        return filled.head(self.columns, file.path)

    def read(self, file: OpenFile, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[Any]]]:
        """Yield blocks and their rows; blocks out of the file's order take another pass over it."""
        for run in passes_over(blocks):
            yield from rows_of_blocks(self._batches(file, self._of_rows), self.columns, run)

    def columns_of(self, file: OpenFile, block: Block, names: Sequence[str]) -> pa.Table:
        """Return other columns, with the types that they have over all files."""
        arrow.check_names(names, self.schema, file.path)
        schema = self._schema_of(names)
        [(_, table)] = tables_of_blocks(self._batches(file, schema), [block])
        table.validate(full=True)
        return arrow.select(table, names, file.path)

    @property
    def _of_rows(self) -> pa.Schema:
        """Columns that make up a row; one of nulls in all rows is read as float64."""
        return pa.schema(
            [(each.name, _with_floats(each.type)) for each in self._schema_of(self.columns)]
        )

    def _schema_of(self, names: Sequence[str]) -> pa.Schema:
        """Return the schema of some columns; a field of an object stands for the whole object."""
        outer = dict.fromkeys(arrow.path_of(self.schema, name)[0] for name in names)
        return pa.schema([self.schema.field(name) for name in outer])

    def _first_length(self, file: OpenFile, schema: pa.Schema, name: str) -> int:
        """Return the length of the first vector of a column; 0 if there is none."""
        row = 0
        for batch in self._batches(file, pa.schema([schema.field(arrow.path_of(schema, name)[0])])):
            length = arrow.vector_length(batch, name, file.path, row)
            if length:
                return length
            row += batch.num_rows
        return 0

    def _schema_and_rows(self, file: OpenFile) -> tuple[pa.Schema, int]:
        """Return the columns of a file, with one type for all lines, and the number of rows."""
        found, rows = pa.schema([]), 0
        for number, lines in self._chunks(file):
            table = _parse(file, number, lines, text.ParseOptions())
            here, rows = table.schema, rows + table.num_rows
            try:
                plain = pa.schema([(each.name, _without_times(each.type)) for each in here])
                found = pa.unify_schemas([found, plain], promote_options="permissive")
            except FAILURES as error:
                raise DataError(f"{file.path}, lines from {number:,} on: {error}.") from None
        return found, rows

    def _batches(self, file: OpenFile, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Yield batches of some columns from the start of the file on, of a few MB each."""
        options = text.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
        for number, lines in self._chunks(file):
            yield from _parse(file, number, lines, options).to_batches()

    def _chunks(self, file: OpenFile) -> Iterator[tuple[int, bytes]]:
        """Yield whole lines, a few MB at a time, with the number of the first, from 1 on."""
        number, rest = 1, b""
        with file.new_handle() as source:
            stream = (
                pa.CompressedInputStream(source, "gzip") if file.kind.endswith(".gz") else source
            )
            while data := stream.read(self.read_bytes):
                lines, end, after = (rest + data).rpartition(b"\n")
                if end:
                    yield number, lines
                    number += lines.count(b"\n") + 1
                rest = after
                if len(rest) > self.read_bytes:
                    raise DataError(
                        f"{file.path}: line {number:,} is longer than {self.read_bytes:,} bytes. "
                        "Each line must hold one object."
                    )
        if rest:
            yield number, rest


def _unite(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """Return all columns with one type each; if two types contradict each other, the first."""
    fields: dict[str, pa.Field] = {}
    for new in (each for schema in dict.fromkeys(schemas) for each in schema):
        both = [pa.schema([each]) for each in (fields.get(new.name, new), new)]
        try:
            fields[new.name] = pa.unify_schemas(both, promote_options="permissive").field(0)
        except pa.ArrowException:
            continue  # an error only if the column is used; it names both files then
    return pa.schema(list(fields.values()))


def _parse(file: OpenFile, number: int, lines: bytes, options: text.ParseOptions) -> pa.Table:
    """Return the rows of some lines; DataError names the first line that cannot be read.

    pyarrow does not tell its number, so it is found by bisection.
    """
    try:
        return _rows(lines, options)
    except FAILURES as error:
        first = bisect_left(
            range(1, lines.count(b"\n") + 1), True, key=lambda count: _fails(lines, count, options)
        )
        cause = str(error).removeprefix("JSON parse error: ").partition(" in row ")[0].rstrip(".")
        raise DataError(
            f"cannot read {file.path}, line {number + first:,}: {cause}. Correct it."
        ) from None


def _fails(lines: bytes, count: int, options: text.ParseOptions) -> bool:
    """Tell whether the first `count` lines cannot be read."""
    try:
        _rows(b"\n".join(lines.split(b"\n")[:count]), options)
    except FAILURES:
        return True
    return False


def _rows(lines: bytes, options: text.ParseOptions) -> pa.Table:
    """Return the rows of some lines, one for each line that is not blank."""
    count = sum(1 for line in lines.split(b"\n") if line.strip())
    if not count:
        return pa.schema(options.explicit_schema or []).empty_table()
    read = text.ReadOptions(use_threads=False, block_size=len(lines) + 1)
    table = text.read_json(io.BytesIO(lines), read, options)
    if table.num_rows != count:
        raise pa.ArrowInvalid("a line must hold one object, whole")
    return table


def _without_times(kind: pa.DataType) -> pa.DataType:
    """Return the type as which a column is read: text that looks like a time stays text."""
    if pa.types.is_temporal(kind):
        return pa.string()
    return _map_inside(kind, _without_times)


def _with_floats(kind: pa.DataType) -> pa.DataType:
    """Return a type with float64 in place of null."""
    if pa.types.is_null(kind):
        return pa.float64()
    return _map_inside(kind, _with_floats)


def _map_inside(kind: pa.DataType, change: Any) -> pa.DataType:
    """Return a type of lists or objects with the types inside changed by a function."""
    if pa.types.is_list(kind):
        return pa.list_(change(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, change(field.type)) for field in kind])
    return kind
