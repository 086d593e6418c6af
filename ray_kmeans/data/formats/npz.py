"""Archives of NumPy arrays (.npz): stored ones are read by byte range, others in a stream."""

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
from ray_kmeans.data.formats.base import Head, Opened
from ray_kmeans.data.formats.dense import Dense, read_dense
from ray_kmeans.data.formats.named_arrays import check_there, choose_matrix
from ray_kmeans.data.layout import Block
from ray_kmeans.errors import DataError, RayKMeansError

SUFFIX = ".npy"
LOCAL_HEADER = struct.Struct("<26xHH")
"""Before each member: ends with the lengths of its name and of extra fields, which follow."""
LARGEST_RATIO = 1032
"""Bytes that deflate makes of one at most; a member that promises more is none."""


@dataclass(frozen=True)
class Npz:
    """The rows are those of one member."""

    name: str

    @classmethod
    def of(cls, first: Opened, columns: Sequence[str] | None) -> Npz:
        """Choose the member by the first file where none is named."""
        with _archive(first) as archive:

            def shape_of(name: str) -> tuple[int, ...]:
                begin = _first_bytes(archive, _info(first, archive, name))
                return npy.parsed(f"{name!r} of {first.path}", begin)[0]

            return cls(choose_matrix(_names(archive), shape_of, columns, first.path))

    def head(self, file: Opened) -> Head:
        with _archive(file) as archive:
            _, dense = self._member(file, archive)
            return dense.head

    def read(self, file: Opened, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[Any]]]:
        with _archive(file) as archive:
            info, dense = self._member(file, archive)
            if info.compress_type == zipfile.ZIP_STORED:
                begin = _begin_of(file, info)
                yield from read_dense(file, replace(dense, offset=begin + dense.offset), blocks)
            else:
                yield from _inflate(archive, info, dense, blocks)

    def columns_of(self, file: Opened, block: Block, names: Sequence[str]) -> pa.Table:
        raise no_columns(names, file.path)

    def _member(self, file: Opened, archive: zipfile.ZipFile) -> tuple[zipfile.ZipInfo, Dense]:
        """Return the member, and where in its bytes the rows are."""
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
def _archive(file: Opened) -> Iterator[zipfile.ZipFile]:
    """Open the archive; raises DataError for all that zipfile raises where it is damaged."""
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


def _info(file: Opened, archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """Return what the archive says of an array, if its file can hold that much."""
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
    with archive.open(info) as member:
        return member.read(npy.HEADER_BYTES)


def _begin_of(file: Opened, info: zipfile.ZipInfo) -> int:
    """Return the offset in the file at which the bytes of a stored member begin."""
    begin = info.header_offset
    name, extra = LOCAL_HEADER.unpack(file.cat(begin, begin + LOCAL_HEADER.size))
    return begin + LOCAL_HEADER.size + int(name) + int(extra)


def _inflate(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, dense: Dense, blocks: Sequence[Block]
) -> Iterator[tuple[Block, NDArray[Any]]]:
    """Read the blocks of a deflated member in one pass, if they come in the order of the file.

    Its checksum is compared by zipfile as soon as the last row has been read.
    """
    with archive.open(info) as member:
        for block in blocks:
            ((begin, end),) = dense.spans(block)
            member.seek(begin)
            yield block, dense.values(block, [np.frombuffer(member.read(end - begin), np.uint8)])
