"""Text with a line for each row (.csv, .tsv), plain or gzipped. For many rows, Parquet is better.

How many rows there are is known only when all have been read, so a file is read once before the
run. A row is reached by reading all that stand before it: every worker reads its files from their
start, and columns that are kept are read from there for every block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as text
from numpy.typing import NDArray

from ray_kmeans.data import columns as arrow
from ray_kmeans.data.first_lines import NUMBER, Form, form_of
from ray_kmeans.data.format import Head, Opened
from ray_kmeans.data.plan import Block
from ray_kmeans.errors import DataError

READ_BYTES = 2**22
"""Bytes that are parsed at once: bounds the memory, and the length of a row."""
START_BYTES = 2**16
"""Bytes that tell the form."""


@dataclass(frozen=True)
class Csv:
    """Columns of numbers; the first line has their names, or none."""

    columns: tuple[str, ...]
    """In this order."""
    form: Form

    @classmethod
    def of(cls, first: Opened, columns: Sequence[str] | None, header: bool | None = None) -> Csv:
        """Choose all columns that hold numbers at the start of the first file if none are given.

        Not one without a name: pandas writes its index so.
        """
        form = form_of(first.path, _first_text(first), columns or (), header)
        start = _start(first, form)
        named = [field for field in start.schema if field.name]
        if not columns:
            _check_texts(first.path, start, form)
        else:  # whether they hold numbers is seen when they are read
            named = [pa.field(field.name, pa.float64()) for field in named]
        return cls(arrow.choose_columns(pa.schema(named), columns, first.path), form)

    def head(self, file: Opened) -> Head:
        """Read the whole file, for its rows are not known without; finds what is no number too."""
        there = pa.schema(
            [pa.field(name, pa.float64()) for name in _start(file, self.form).schema.names]
        )
        arrow.choose_columns(there, self.columns, file.path)
        rows = sum(batch.num_rows for batch in self._batches(file, self.columns, pa.float64()))
        return Head((rows,), len(self.columns))

    def read(self, file: Opened, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[Any]]]:
        for run in _runs(blocks):
            batches = self._batches(file, self.columns, pa.float64())
            yield from arrow.cut_batches(batches, self.columns, run)

    def columns_of(self, file: Opened, block: Block, names: Sequence[str]) -> pa.Table:
        """Return other columns as text, as the file has them: no later line can contradict."""
        arrow.check_kept(names, _start(file, self.form).schema, file.path)
        parts: list[pa.RecordBatch] = []
        begin, stop = 0, block.start + block.rows
        for batch in self._batches(file, names, pa.string()):
            low, high = max(block.start - begin, 0), min(stop - begin, batch.num_rows)
            if low < high:
                parts.append(batch.slice(low, high - low))
            begin += batch.num_rows
            if begin >= stop:
                break
        return arrow.kept(pa.Table.from_batches(parts), names, file.path)

    def _batches(
        self, file: Opened, names: Sequence[str], kind: pa.DataType
    ) -> Iterator[pa.RecordBatch]:
        """Read some columns from the start of the file to its end, a few MB at a time."""
        types = dict.fromkeys(names, kind)
        options = text.ConvertOptions(include_columns=names, column_types=types)
        with _reader(file, options, self.form) as reader:
            yield from reader


def _runs(blocks: Sequence[Block]) -> Iterator[list[Block]]:
    """Yield blocks that can be read in one pass over the file: those in its order."""
    run: list[Block] = []
    for block in blocks:
        if run and block.start <= run[-1].start:
            yield run
            run = []
        run.append(block)
    if run:
        yield run


def _start(file: Opened, form: Form) -> pa.Table:
    """Return what the columns seem to hold, with some rows."""
    with _reader(file, text.ConvertOptions(), form) as reader:
        batch = next(iter(reader), None)
        return pa.Table.from_batches([batch] if batch else [], reader.schema)


def _first_text(file: Opened) -> str:
    """Return the first whole lines."""
    with file.fresh() as source:
        found = bytes(_plain(file, source).read(START_BYTES))
    lines = found.decode("utf-8-sig", "replace").splitlines(keepends=True)
    return "".join(lines[:-1] if len(found) == START_BYTES and len(lines) > 1 else lines)


def _plain(file: Opened, source: Any) -> Any:
    is_gzip = file.path.lower().endswith(".gz")
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
