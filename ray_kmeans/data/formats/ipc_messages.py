"""Find the messages of an Arrow IPC file or stream, and how many rows each holds.

pyarrow tells the number of rows of a record batch only after reading it. Here only headers are
read. They are flatbuffers: tables whose fields are found by offsets. The numbers of their fields
are those of Message.fbs and File.fbs in the specification of Arrow.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from ray_kmeans.data.formats.base import OpenFile
from ray_kmeans.errors import DataError
from ray_kmeans.io.ranges import in_background

MAGIC = b"ARROW1"
"""First and last bytes of a file; a stream has neither."""
CONTINUES = 0xFFFFFFFF
"""Mark before the length of a message, which Arrow before 0.15 does not write."""
SCHEMA = 1
"""Kind of a message that holds the schema."""
DICTIONARY = 2
"""Kind of a message that holds a dictionary."""
BATCH = 3
"""Kind of a message that holds a record batch."""


@dataclass(frozen=True)
class Message:
    """A part of the file: a header, and a body that is never read here."""

    kind: int
    """`SCHEMA`, `DICTIONARY` or `BATCH`."""
    begin: int
    """Offset of the header in the file."""
    end: int
    """Offset of the end of the body."""
    rows: int
    """Number of rows of a record batch; 0 for other kinds."""
    is_compressed: bool = False
    """Whether the body of a record batch is compressed."""


def batches_of_file(file: OpenFile) -> list[Message]:
    """Return the record batches of a file, whose footer tells where they are."""
    blocks = _footer(file)
    for begin, length, body in blocks:
        if min(begin, length, body) < 0 or begin + length + body > file.size:
            raise DataError(f"{file.path} has a footer that does not fit it; it is damaged.")
    headers = [in_background(file.cat, begin, begin + length) for begin, length, _ in blocks]
    found = []
    for (begin, _, _), asked in zip(blocks, headers, strict=True):
        header = asked.result()
        lead, _ = _length(file, header)
        found.append(_message(file, begin, lead, header[lead:]))
        if found[-1].kind != BATCH:
            raise _damage_error(file, begin)
    return found


def walk(file: OpenFile) -> Iterator[Message]:
    """Yield the messages of a stream, reading headers and skipping bodies."""
    at = 0
    while True:
        lead, length = _length(file, _take(file, at, min(8, file.size - at)))
        if length == 0:
            break
        if at + lead + length > file.size:
            raise _cut_off_error(file)
        message = _message(file, at, lead, _take(file, at + lead, length))
        if message.end > file.size:
            raise _cut_off_error(file)
        yield message
        at = message.end
    if at + lead != file.size:
        raise DataError(f"{file.path} goes on after the end of its stream, at byte {at + lead:,}.")


def _take(file: OpenFile, begin: int, length: int) -> bytes:
    """Return some bytes of a file; DataError if it ends before."""
    file.handle.seek(begin)
    data = bytes(file.handle.read(length))
    if len(data) < length:
        raise _cut_off_error(file)
    return data


def _length(file: OpenFile, data: bytes) -> tuple[int, int]:
    """Return the bytes before a header, and those of the header: 0 at the end of a stream."""
    if len(data) < 4:  # writers end a stream by a mark, also inside files
        raise _cut_off_error(file)
    (length,) = struct.unpack_from("<I", data)
    if length != CONTINUES:
        return 4, length
    if len(data) < 8:
        raise _cut_off_error(file)
    return 8, struct.unpack_from("<I", data, 4)[0]


def _message(file: OpenFile, begin: int, lead: int, header: bytes) -> Message:
    """Return the message with this header, `lead` bytes behind its begin; DataError if damaged."""
    try:
        table = _table(header, 0)
        kind = _number(header, table, 1, "<B")
        body = _number(header, table, 3, "<q")
        batch = _table(header, _field(header, table, 2)) if kind == BATCH else 0
        rows = _rows(header, batch) if batch else 0
        is_compressed = bool(batch and _field(header, batch, 3))
    except struct.error:
        raise _damage_error(file, begin) from None
    if kind not in (SCHEMA, DICTIONARY, BATCH) or min(body, rows) < 0:
        raise _damage_error(file, begin)
    return Message(kind, begin, begin + lead + len(header) + body, rows, is_compressed)


def _rows(header: bytes, batch: int) -> int:
    """Return the number of rows of a record batch; -1 if its first column has another number."""
    rows = _number(header, batch, 0, "<q")
    columns = _field(header, batch, 1)
    if columns == 0:
        return rows
    (of_column,) = struct.unpack_from("<q", header, _table(header, columns) + 4)
    return rows if of_column == rows else -1


def _footer(file: OpenFile) -> list[tuple[int, int, int]]:
    """Return (offset, bytes of header, bytes of body) of each record batch."""
    tail = file.cat(max(file.size - 10, 0), file.size)
    if not tail.endswith(MAGIC) or len(tail) < 10:
        raise _cut_off_error(file)
    (length,) = struct.unpack_from("<i", tail)
    footer = file.cat(max(file.size - 10 - length, 0), file.size - 10)
    try:
        field = _field(footer, _table(footer, 0), 3)
        if field == 0:
            return []
        vector = _table(footer, field)
        (count,) = struct.unpack_from("<I", footer, vector)
        return [struct.unpack_from("<qi4xq", footer, vector + 4 + 24 * i) for i in range(count)]
    except struct.error:
        raise _damage_error(file, file.size - 10 - length) from None


def _table(data: bytes, at: int) -> int:
    """Return the place of the table or vector to which the offset at `at` points."""
    return at + int(struct.unpack_from("<I", data, at)[0])


def _field(data: bytes, table: int, number: int) -> int:
    """Return the place of a field of a table; 0 if it is not stored, and has its default."""
    vtable = table - int(struct.unpack_from("<i", data, table)[0])
    (size,) = struct.unpack_from("<H", data, vtable)
    entry = 4 + 2 * number
    offset = int(struct.unpack_from("<H", data, vtable + entry)[0]) if entry < size else 0
    return table + offset if offset else 0


def _number(data: bytes, table: int, number: int, form: str) -> int:
    """Return the integer in a field of a table, of a `struct` format; 0 by default."""
    at = _field(data, table, number)
    return int(struct.unpack_from(form, data, at)[0]) if at else 0


def _cut_off_error(file: OpenFile) -> DataError:
    """Return the error for a file that ends too early."""
    return DataError(f"{file.path} ends before its Arrow data do; it is cut off, or no Arrow.")


def _damage_error(file: OpenFile, at: int) -> DataError:
    """Return the error for a file with something else than a message at a place."""
    return DataError(
        f"{file.path} has no Arrow message at byte {at:,}; it is damaged, or no Arrow."
    )
