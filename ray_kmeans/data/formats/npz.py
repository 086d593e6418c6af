"""Read archives of NumPy arrays (.npz).

An array that is not compressed is read by byte range, a compressed one from its start on.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ray_kmeans.data.columns import no_columns
from ray_kmeans.data.formats import npy
from ray_kmeans.data.formats.base import Head, OpenFile
from ray_kmeans.data.formats.dense import Dense, read_dense
from ray_kmeans.data.formats.named_arrays import check_there, choose_matrix
from ray_kmeans.data.sharding import Block
from ray_kmeans.errors import DataError, RayKMeansError

SUFFIX = ".npy"
"""Ending of the members' names, which NumPy does not show."""
LOCAL_HEADER = struct.Struct("<26xHH")
"""Layout of the bytes before a member: at their end, the lengths of its name and extra fields."""
LARGEST_RATIO = 1032
"""Largest number of bytes that deflate makes of one; a member that promises more is damaged."""


@dataclass(frozen=True)
class Npz:
    """Rows of one array of an archive."""

    name: str
    """Name of the array."""

    @classmethod
    def of(cls, first: OpenFile, columns: Sequence[str] | None) -> Npz:
        """Return the format with the array that the user names, or the first file's one matrix."""
        with _archive(first) as archive:

            def shape_of(name: str) -> tuple[int, ...]:
                begin = _first_bytes(archive, _info(first, archive, name))
                return npy.parse_header(f"{name!r} of {first.path}", begin)[0]

            return cls(choose_matrix(_names(archive), shape_of, columns, first.path))

    def head(self, file: OpenFile) -> Head:
        """Return shape and type of the matrix, from the head of the member that holds it."""
        with _archive(file) as archive:
            _, dense = self._member(file, archive)
            return dense.head

    def read(self, file: OpenFile, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[Any]]]:
        """Yield blocks and their rows: from their place in the file, or, if compressed, by
        inflating it."""
        with _archive(file) as archive:
            info, dense = self._member(file, archive)
            if info.compress_type == zipfile.ZIP_STORED:
                begin = _begin_of(file, info)
                yield from read_dense(file, replace(dense, offset=begin + dense.offset), blocks)
            else:
                yield from _inflate(archive, info, dense, blocks)

    def columns_of(self, file: OpenFile, block: Block, names: Sequence[str]) -> pa.Table:
        raise no_columns(names, file.path)

    def _member(self, file: OpenFile, archive: zipfile.ZipFile) -> tuple[zipfile.ZipInfo, Dense]:
        """Return the member of the archive, and the place of the matrix in its bytes."""
        check_there(_names(archive), [self.name], file.path)
        info = _info(file, archive, self.name)
        what = f"{self.name!r} of {file.path}"
        dense = npy.header_of(what, _first_bytes(archive, info))
        dense.check_size(what, info.file_size - dense.offset)
        if dense.by_column and info.compress_type != zipfile.ZIP_STORED:
            raise DataError(
                f"{what} is compressed column by column, so that no row can be read before all. "
                "Write np.ascontiguousarray(x), or without compression."
            )
        return info, dense


@contextmanager
def _archive(file: OpenFile) -> Iterator[zipfile.ZipFile]:
    """Open the archive; DataError for all that zipfile raises inside if it is damaged."""
    try:
        with zipfile.ZipFile(file.handle) as archive:
            yield archive
    except RayKMeansError:
        raise
    except Exception as error:
        raise DataError(f"cannot read {file.path}: {error or repr(error)}.") from None


def _names(archive: zipfile.ZipFile) -> list[str]:
    """Return the names of the arrays, as NumPy shows them."""
    return [name.removesuffix(SUFFIX) for name in archive.namelist() if name.endswith(SUFFIX)]


def _info(file: OpenFile, archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """Return the entry of an array; DataError if it promises more bytes than it can hold."""
    info = archive.getinfo(name + SUFFIX)
    ratio = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: LARGEST_RATIO}.get(info.compress_type)
    if ratio is None:
        raise DataError(
            f"{name!r} of {file.path} is compressed by method {info.compress_type}; "
            "it must be stored or deflated, as NumPy does."
        )
    begin = info.header_offset + LOCAL_HEADER.size
    if begin + info.compress_size > file.size or info.file_size > ratio * info.compress_size:
        raise DataError(
            f"{name!r} of {file.path} promises {info.file_size:,} bytes out of "
            f"{info.compress_size:,} in a file of {file.size:,}; it is damaged."
        )
    return info


def _first_bytes(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Return the bytes of a member that hold the header of its array."""
    with archive.open(info) as member:
        return member.read(npy.HEADER_BYTES)


def _begin_of(file: OpenFile, info: zipfile.ZipInfo) -> int:
    """Return the offset in the file at which the bytes of a stored member begin."""
    begin = info.header_offset
    name, extra = LOCAL_HEADER.unpack(file.cat(begin, begin + LOCAL_HEADER.size))
    return begin + LOCAL_HEADER.size + int(name) + int(extra)


def _inflate(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, dense: Dense, blocks: Sequence[Block]
) -> Iterator[tuple[Block, NDArray[Any]]]:
    """Yield the rows of blocks of a deflated member, in one pass if they follow its order.

    zipfile compares the checksum as soon as the last row has been read.
    """
    with archive.open(info) as member:
        for block in blocks:
            ((begin, end),) = dense.spans(block)
            member.seek(begin)
            yield block, dense.values(block, [np.frombuffer(member.read(end - begin), np.uint8)])
