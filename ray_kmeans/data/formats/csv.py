"""Text with a line for each row (.csv, .tsv), plain or gzipped. For many rows, Parquet is better.

How many rows there are is known only when all have been read, so a file is read once before the
run. A row is reached by reading all that stand before it: every worker reads its files from their
start, and columns that are kept are read from there for every block.
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
from ray_kmeans.data.batches import rows_of_blocks, tables_of_blocks
from ray_kmeans.data.formats.base import Head, Look, Opened
from ray_kmeans.data.formats.first_lines import NUMBER, Form, form_of
from ray_kmeans.data.layout import Block, passes_over
from ray_kmeans.errors import DataError

READ_BYTES = 2**22
"""Bytes that are parsed at once: bounds the memory, and the length of a row."""
WRITTEN_NUMBER = (
    r"^\s*[-+]?[$€£]?\s?"
    r"(\d{1,3}([,' ]\d{3})+(\.\d+)?|\d{1,3}(\.\d{3})+,\d+|\d+,\d+|\d+(\.\d+)?)\s?[%€£]?\s*$"
)
"""Thousands set apart, a comma for the point, a sign of money or a percent: no parser's numbers."""
WHOLE_IN_FLOATS = 2**53
"""Up to this float64 has all whole numbers."""
START_BYTES = 2**16
"""Bytes that tell the form."""


@dataclass(frozen=True)
class Csv:
    """Columns of numbers; the first line has their names, or none."""

    columns: tuple[str, ...]
    """In this order."""
    form: Form
    types: tuple[pa.DataType, ...] = ()
    """What each of them is read as."""

    @classmethod
    def of(cls, first: Opened, columns: Sequence[str] | None, header: bool | None = None) -> Csv:
        form = form_of(first.path, first.kind, _first_text(first), columns or (), header)
        return cls(tuple(columns or ()), form)

    def with_columns(self, columns: tuple[str, ...], looks: Sequence[Look]) -> Csv:
        return replace(self, columns=columns, types=tuple(_type_of(n, looks) for n in columns))

    def look(self, file: Opened) -> Look:
        """Return what the columns seem to hold at the start of the file, and their names.

        A column without a name is left out: pandas writes its index so.
        """
        start = _start(file, self.form)
        named = [field for field in start.schema if field.name]
        if self.columns:  # whether they hold numbers is seen when they are read
            spans = arrow.spans_of(start)
            return Look(pa.schema([_as_number(field) for field in named]), spans=spans)
        _check_texts(file.path, start, self.form)
        return Look(pa.schema(named), (), {}, arrow.spans_of(start), _numbers_as_text(start))

    def head_of(self, file: Opened, look: Look) -> Head:
        """Read the whole file, for its rows are not known without; finds what is no number too."""
        rows = sum(batch.num_rows for batch in self._batches(file, self.columns, self._types))
        return Head((rows,), len(self.columns))

    def read(self, file: Opened, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[Any]]]:
        for run in passes_over(blocks):
            batches = self._batches(file, self.columns, self._types)
            yield from rows_of_blocks(batches, self.columns, run)

    @property
    def _types(self) -> dict[str, pa.DataType]:
        return dict(zip(self.columns, self.types, strict=True))

    def columns_of(self, file: Opened, block: Block, names: Sequence[str]) -> pa.Table:
        """Return other columns as text, as the file has them: no later line can contradict."""
        arrow.check_names(names, _start(file, self.form).schema, file.path)
        batches = self._batches(file, names, dict.fromkeys(names, pa.string()))
        [(_, table)] = tables_of_blocks(batches, [block])
        return arrow.select(table, names, file.path)

    def _batches(
        self, file: Opened, names: Sequence[str], types: Mapping[str, pa.DataType]
    ) -> Iterator[pa.RecordBatch]:
        """Read some columns from the start of the file to its end, a few MB at a time."""
        options = text.ConvertOptions(include_columns=names, column_types=types)
        with _reader(file, options, self.form) as reader:
            yield from reader


def _as_number(field: pa.Field) -> pa.Field:
    kept = pa.types.is_boolean(field.type) or pa.types.is_integer(field.type)
    return field if kept else field.with_type(pa.float64())


def _type_of(name: str, looks: Sequence[Look]) -> pa.DataType:
    """Return what a column is read as, by what files hold at their starts.

    That is float64, to which no later line with a point or an exponent is in contradiction; int64
    where numbers are so large that float64 would round them.
    """
    kinds = {look.schema.field(name).type for look in looks if name in look.schema.names}
    if pa.bool_() in kinds:
        return pa.bool_()
    spans = [look.spans[name] for look in looks if name in look.spans]
    is_large = any(max(-low, high) > WHOLE_IN_FLOATS for low, high, _ in spans)
    return pa.int64() if is_large and kinds == {pa.int64()} else pa.float64()


def _start(file: Opened, form: Form) -> pa.Table:
    """Return what the columns seem to hold, with some rows."""
    with _reader(file, text.ConvertOptions(), form) as reader:
        batch = next(iter(reader), None)
        return pa.Table.from_batches([batch] if batch else [], reader.schema)


def _first_text(file: Opened) -> str:
    """Return the first whole lines."""
    with file.fresh() as source:
        found = bytes(_plain(file, source).read(START_BYTES))
    if found.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{file.path} is UTF-16. Write it as UTF-8.")
    lines = found.decode("utf-8-sig", "replace").splitlines(keepends=True)
    return "".join(lines[:-1] if len(found) == START_BYTES and len(lines) > 1 else lines)


def _plain(file: Opened, source: Any) -> Any:
    is_gzip = file.kind.endswith(".gz")
    return pa.CompressedInputStream(source, "gzip") if is_gzip else source


def _check_texts(path: str, start: pa.Table, form: Form) -> None:
    """Raise DataError for a column that would be one of numbers but for some values."""
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
    """Return the columns of text most of whose values people read as numbers, with one of each."""
    found = {}
    for name, column in zip(start.schema.names, start.columns, strict=True):
        if name and pa.types.is_string(column.type):
            are_numbers = pc.match_substring_regex(column, WRITTEN_NUMBER)
            if 2 * (pc.sum(are_numbers).as_py() or 0) > len(column):
                found[name] = f"text as {column[pc.index(are_numbers, True).as_py()].as_py()!r}"
    return found


@contextmanager
def _reader(
    file: Opened, options: text.ConvertOptions, form: Form
) -> Iterator[text.CSVStreamingReader]:
    names = list(form.names) or None
    with file.fresh() as source:
        try:
            yield text.open_csv(
                _plain(file, source),
                text.ReadOptions(use_threads=False, block_size=READ_BYTES, column_names=names),
                text.ParseOptions(delimiter=form.separator, newlines_in_values=True),
                options,
            )
        except pa.ArrowInvalid as error:
            raise DataError(f"cannot read {file.path}: {error}.{_hint(str(error))}") from None


def _hint(error: str) -> str:
    if "conversion error" in error:
        return " The header is row 1. Choose other columns, or leave out what is no number."
    if "straddling" in error:
        return f" A row is longer than {READ_BYTES:,} bytes, or a quote is never closed."
    return ""
