"""Read text with a line for each row (.csv, .tsv), plain or gzipped. Prefer Parquet for many rows.

The number of rows is known only when all are read, so each file is read once before the run. A row
is reached by reading all before it: every worker reads its files from their start, and other
columns are read from there for every block.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as text
from numpy.typing import NDArray

from ray_kmeans.data import columns as arrow
from ray_kmeans.data.formats.base import Head, Look, OpenFile
from ray_kmeans.data.formats.first_lines import NUMBER, Form, form_of
from ray_kmeans.data.record_batches import rows_of_blocks, tables_of_blocks
from ray_kmeans.data.sharding import Block, passes_over
from ray_kmeans.errors import DataError

READ_BYTES = 2**22
"""Bytes that are parsed at once, if nothing else is given."""
WRITTEN_NUMBER = (
    r"^\s*[-+]?[$€£]?\s?"
    r"(\d{1,3}([,' ]\d{3})+(\.\d+)?|\d{1,3}(\.\d{3})+,\d+|\d+,\d+|\d+(\.\d+)?)\s?[%€£]?\s*$"
)
"""Pattern of numbers as people write them, which no parser reads: 1,000 or 1,5 or 3 € or 5%."""
WHOLE_IN_FLOATS = 2**53
"""Largest integer up to which float64 holds all integers."""
START_BYTES = 2**16
"""Bytes at the start of a file that tell its form."""


@dataclass(frozen=True)
class Csv:
    """Rows made of columns of numbers, whose names the first line may have."""

    columns: tuple[str, ...]
    """Names of the columns that make up a row, in this order; () before the choice."""
    form: Form
    """Separator, and names of all columns if the first line has none."""
    types: tuple[pa.DataType, ...] = ()
    """Type as which each of the columns is read; () before the choice."""
    read_bytes: int = READ_BYTES
    """Bytes that are parsed at once; bounds the memory, and the length of a row."""

    @classmethod
    def of(
        cls,
        first: OpenFile,
        columns: Sequence[str] | None,
        header: bool | None = None,
        read_bytes: int = READ_BYTES,
    ) -> Csv:
        """Return the format of files like the first; `header`: whether its first line has names."""
        form = form_of(first.path, first.kind, _first_text(first), columns or (), header)
        return cls(tuple(columns or ()), form, read_bytes=read_bytes)

    def with_columns(self, columns: tuple[str, ...], looks: Sequence[Look]) -> Csv:
        return replace(self, columns=columns, types=tuple(_type_of(n, looks) for n in columns))

    def look(self, file: OpenFile) -> Look:
        """Return the columns with the types that the start of the file suggests.

        A column without a name is left out: it is the index that pandas writes.
        """
        start = self._start(file)
        named = [field for field in start.schema if field.name]
        if self.columns:  # `head_of` reads all values, and finds what is no number
            spans = arrow.spans_of(start)
            return Look(pa.schema([_as_number(field) for field in named]), spans=spans)
        _check_texts(file.path, start, self.form)
        return Look(pa.schema(named), (), {}, arrow.spans_of(start), _numbers_as_text(start))

    def head_of(self, file: OpenFile, look: Look) -> Head:
        """Read the whole file to count its rows; DataError if a value is no number."""
        rows = sum(batch.num_rows for batch in self._batches(file, self.columns, self._types))
        return Head((rows,), len(self.columns))

    def read(self, file: OpenFile, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[Any]]]:
        """Yield blocks and their rows; blocks out of the file's order take another pass over it."""
        for run in passes_over(blocks):
            batches = self._batches(file, self.columns, self._types)
            yield from rows_of_blocks(batches, self.columns, run)

    @property
    def _types(self) -> dict[str, pa.DataType]:
        """Type of each column that makes up a row, by its name."""
        return dict(zip(self.columns, self.types, strict=True))

    def columns_of(self, file: OpenFile, block: Block, names: Sequence[str]) -> pa.Table:
        """Return other columns as text, unparsed: so no later line can contradict their type."""
        arrow.check_names(names, self._start(file).schema, file.path)
        batches = self._batches(file, names, dict.fromkeys(names, pa.string()))
        [(_, table)] = tables_of_blocks(batches, [block])
        return arrow.select(table, names, file.path)

    def _batches(
        self, file: OpenFile, names: Sequence[str], types: Mapping[str, pa.DataType]
    ) -> Iterator[pa.RecordBatch]:
        """Yield batches of some columns from the start of the file on, of a few MB each."""
        options = text.ConvertOptions(include_columns=names, column_types=types)
        with self._reader(file, options) as reader:
            yield from reader

    def _start(self, file: OpenFile) -> pa.Table:
        """Return the first rows of a file, with the types that pyarrow takes them for."""
        with self._reader(file, text.ConvertOptions()) as reader:
            batch = next(iter(reader), None)
            return pa.Table.from_batches([batch] if batch else [], reader.schema)

    @contextmanager
    def _reader(
        self, file: OpenFile, options: text.ConvertOptions
    ) -> Iterator[text.CSVStreamingReader]:
        """Open pyarrow's reader of a file; DataError for what it raises inside."""
        names = list(self.form.names) or None
        with file.new_handle() as source:
            try:
                yield text.open_csv(
                    _decompress(file, source),
                    text.ReadOptions(
                        use_threads=False, block_size=self.read_bytes, column_names=names
                    ),
                    text.ParseOptions(delimiter=self.form.separator, newlines_in_values=True),
                    options,
                )
            except pa.ArrowInvalid as error:
                hint = _hint(str(error), self.read_bytes)
                raise DataError(f"cannot read {file.path}: {error}.{hint}") from None


def _as_number(field: pa.Field) -> pa.Field:
    """Return a column as one of numbers: float64, unless it is boolean or integer."""
    kept = pa.types.is_boolean(field.type) or pa.types.is_integer(field.type)
    return field if kept else field.with_type(pa.float64())


def _type_of(name: str, looks: Sequence[Look]) -> pa.DataType:
    """Return the type as which a column is read, by the starts of all files.

    That is float64, which a later line with a point or an exponent does not contradict. It is int64
    for integers so large that float64 would round them, and boolean if any file begins so.
    """
    kinds = {look.schema.field(name).type for look in looks if name in look.schema.names}
    if pa.bool_() in kinds:
        return pa.bool_()
    spans = [look.spans[name] for look in looks if name in look.spans]
    is_large = any(max(-low, high) > WHOLE_IN_FLOATS for low, high, _ in spans)
    return pa.int64() if is_large and kinds == {pa.int64()} else pa.float64()


def _first_text(file: OpenFile) -> str:
    """Return the first whole lines of a file; DataError if it is UTF-16."""
    with file.new_handle() as source:
        found = bytes(_decompress(file, source).read(START_BYTES))
    if found.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{file.path} is UTF-16. Write it as UTF-8.")
    lines = found.decode("utf-8-sig", "replace").splitlines(keepends=True)
    return "".join(lines[:-1] if len(found) == START_BYTES and len(lines) > 1 else lines)


def _decompress(file: OpenFile, source: Any) -> Any:
    """Return a file object of the text, decompressed if the file is gzipped."""
    is_gzip = file.kind.endswith(".gz")
    return pa.CompressedInputStream(source, "gzip") if is_gzip else source


def _check_texts(path: str, start: pa.Table, form: Form) -> None:
    """Raise DataError for a column of text most of whose values are numbers: some are damaged."""
    for name, column in zip(start.schema.names, start.columns, strict=True):
        if not pa.types.is_string(column.type):
            continue
        is_number = pc.match_substring_regex(column, NUMBER)
        is_other = pc.and_(pc.invert(is_number), pc.not_equal(column, ""))
        if pc.sum(is_number).as_py() > pc.sum(is_other).as_py():
            row = pc.index(is_other, True).as_py()
            number = row + (1 if form.names else 2)
            raise DataError(
                f"{path} has {column[row].as_py()!r} in row {number} of column {name!r}, which "
                "else holds numbers. Correct it, or choose with columns."
            )


def _numbers_as_text(start: pa.Table) -> dict[str, str]:
    """Return the columns of text that are mostly numbers as people write them, with an example."""
    found = {}
    for name, column in zip(start.schema.names, start.columns, strict=True):
        if name and pa.types.is_string(column.type):
            are_numbers = pc.match_substring_regex(column, WRITTEN_NUMBER)
            if 2 * (pc.sum(are_numbers).as_py() or 0) > len(column):
                found[name] = f"text as {column[pc.index(are_numbers, True).as_py()].as_py()!r}"
    return found


def _hint(error: str, read_bytes: int) -> str:
    """Return the advice that fits the text of pyarrow's error; '' if there is none."""
    if "conversion error" in error:
        return " The header is row 1. Choose other columns, or leave out what is no number."
    if "straddling" in error:
        return f" A row is longer than {read_bytes:,} bytes, or a quote is never closed."
    return ""
