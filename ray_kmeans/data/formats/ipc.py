"""Read Arrow IPC: files (Feather), and streams (as Hugging Face datasets keep theirs)."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from ray_kmeans.data import columns as arrow
from ray_kmeans.data.formats.base import Head, Look, OpenFile
from ray_kmeans.data.formats.ipc_messages import (
    BATCH,
    MAGIC,
    SCHEMA,
    Message,
    batches_of_file,
    walk,
)
from ray_kmeans.data.record_batches import rows_of_blocks
from ray_kmeans.data.sharding import Block, groups_of
from ray_kmeans.errors import DataError


@dataclass(frozen=True)
class Ipc:
    """Rows in record batches, each of which is a row group.

    A record batch is read whole if it is compressed, or not on this machine. If it is in a stream
    that is not on this machine, even the columns that are not wanted are read; the bound on a
    worker's memory does not count these.
    """

    columns: tuple[str, ...]
    """Names of the column of vectors, or of the columns of numbers; () before the choice."""

    @classmethod
    def of(cls, first: OpenFile, columns: Sequence[str] | None) -> Ipc:
        """Return the format with the columns that the user names."""
        return cls(tuple(columns or ()))

    def with_columns(self, columns: tuple[str, ...], looks: Sequence[Look]) -> Ipc:
        return Ipc(columns)

    def look(self, file: OpenFile) -> Look:
        """Read schema and sizes of a file; only vectors of unknown length need a record batch."""
        batches = _batches(file, self.columns)
        found = batches.found()
        rows = tuple(message.rows for message in found)
        is_whole = not file.local or any(message.is_compressed for message in found)
        vectors = arrow.of_unknown_length(batches.schema, self.columns or batches.schema.names)
        some = batches if self.columns or not vectors else _batches(file, vectors)
        lengths = {name: _first_length(some, len(rows), name, file.path) for name in vectors}
        return Look(batches.schema, rows, lengths, is_read_whole=is_whole)

    def head_of(self, file: OpenFile, look: Look) -> Head:
        return look.head(self.columns, file.path)

    def read(self, file: OpenFile, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[Any]]]:
        """Yield blocks and their rows; each record batch is read once."""
        batches = _batches(file, self.columns)
        for group in groups_of(tuple(blocks)):
            batch = batches.batch(group[0].group)
            for block in group:
                yield from rows_of_blocks([batch], self.columns, [block])

    def columns_of(self, file: OpenFile, block: Block, names: Sequence[str]) -> pa.Table:
        """Return columns of one block, for output beside its labels."""
        batches = _batches(file, names)
        arrow.check_names(names, batches.schema, block.file)
        part = batches.batch(block.group).slice(block.skip, block.rows)
        return arrow.select(part, names, block.file)


def _first_length(batches: _File | _Stream, count: int, name: str, path: str) -> int:
    """Return the length of the first vector of a column; 0 if there is none."""
    lengths = (
        arrow.vector_length(batches.batch(number), name, f"row group {number} of {path}")
        for number in range(count)
    )
    return next((length for length in lengths if length), 0)


def _batches(file: OpenFile, names: Sequence[str] = ()) -> _File | _Stream:
    """Return a reader of the record batches, with some columns; () for all."""
    start = file.cat(0, len(MAGIC))
    if start.startswith(b"FEA1"):
        raise DataError(f"{file.path} is Feather of version 1; write it anew, as version 2.")
    return _File(file, names) if start == MAGIC else _Stream(file, names)


class _File:
    """The record batches of a file, whose footer tells where they are."""

    def __init__(self, file: OpenFile, names: Sequence[str]) -> None:
        """Open a file with a footer; it is memory-mapped if it is local."""
        self._file = file
        source = pa.memory_map(file.local) if file.local else file.handle
        self.schema = pa.ipc.open_file(source).schema
        self._fields = _fields(names, self.schema)
        # Of a mapped file all columns are taken and some then chosen: to leave out others copies.
        options = _options_for([] if file.local else self._fields)
        self._reader = pa.ipc.open_file(source, options=options)

    def found(self) -> list[Message]:
        """Return the messages of all record batches."""
        return batches_of_file(self._file)

    def batch(self, number: int) -> pa.RecordBatch:
        """Return one record batch."""
        batch = self._reader.get_batch(number)
        return _validate(batch.select(self._fields) if self._file.local else batch)


class _Stream:
    """The record batches of a stream, found by walking over all messages before them.

    To read one batch, pyarrow is given a stream of only the schema, the dictionaries before that
    batch, and the batch. A dictionary may be replaced later in the stream, so its place matters.
    """

    def __init__(self, file: OpenFile, names: Sequence[str]) -> None:
        """Open a stream, which has no footer: its batches are found as they are walked over."""
        self._file = file
        self._left = walk(file)
        schema = next(self._left, None)
        if schema is None or schema.kind != SCHEMA:
            raise DataError(f"{file.path} begins with no schema; it is damaged, or no Arrow.")
        self._before = [schema]
        self._read: list[pa.Buffer] = []
        self._batches: list[tuple[Message, int]] = []
        self._source = pa.memory_map(file.local) if file.local else None
        self.schema = pa.ipc.read_schema(self._bytes(schema))
        self._options = _options_for(_fields(names, self.schema))

    def found(self) -> list[Message]:
        """Return the messages of all record batches."""
        while self._go_on():
            pass
        return [message for message, _ in self._batches]

    def batch(self, number: int) -> pa.RecordBatch:
        """Return one record batch; DataError if the stream ends before it."""
        while len(self._batches) <= number and self._go_on():
            pass
        if len(self._batches) <= number:
            raise DataError(f"{self._file.path} has fewer record batches than it had.")
        message, count = self._batches[number]
        while len(self._read) < count:
            self._read.append(self._bytes(self._before[len(self._read)]))
        parts = _JoinedBuffers([*self._read[:count], self._bytes(message)])
        return _validate(pa.ipc.open_stream(parts, options=self._options).read_next_batch())

    def _go_on(self) -> bool:
        """Find one more message; return False at the end of the stream."""
        message = next(self._left, None)
        if message and message.kind == BATCH:
            self._batches.append((message, len(self._before)))
        elif message:
            self._before.append(message)
        return message is not None

    def _bytes(self, message: Message) -> pa.Buffer:
        """Return the bytes of a message, without a copy if the file is mapped into memory."""
        source, length = self._source or self._file.handle, message.end - message.begin
        source.seek(message.begin)
        return source.read_buffer(length) if self._source else pa.py_buffer(source.read(length))


class _JoinedBuffers(io.RawIOBase):
    """A file object of some buffers one after the other, which returns slices without a copy."""

    def __init__(self, parts: Sequence[pa.Buffer]) -> None:
        super().__init__()
        self._parts = list(parts)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> pa.Buffer:
        """Return the next `size` bytes, or fewer at the end of a buffer."""
        if not self._parts:
            return pa.py_buffer(b"")
        first = self._parts[0]
        part = first.slice(0, min(size, first.size))
        self._parts[0] = first.slice(part.size)
        if self._parts[0].size == 0:
            del self._parts[0]
        return part


def _fields(names: Sequence[str], schema: pa.Schema) -> list[int]:
    """Return the numbers of columns in the schema; a field of a struct counts as its column."""
    paths = [arrow.path_of(schema, name) for name in names]
    return sorted({schema.get_field_index(path[0]) for path in paths if path})


def _options_for(fields: Sequence[int]) -> pa.ipc.IpcReadOptions:
    """Return options to read some columns alone; [] stands for all."""
    return pa.ipc.IpcReadOptions(included_fields=list(fields), use_threads=False)


def _validate(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch, or raise if an offset or index leads out of it: pyarrow does not check."""
    batch.validate(full=True)
    return batch
