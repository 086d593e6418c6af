"""Read NumPy's matrices (.npy) by byte range: a file is never fetched whole."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ray_kmeans.data.formats.base import OpenFile, refuse_columns
from ray_kmeans.data.formats.dense import Dense, DenseFormat
from ray_kmeans.errors import DataError

HEADER_BYTES = 4096
"""Bytes at the start of a file that are read for its header."""
HEADERS: Mapping[tuple[int, int], Callable[[io.BytesIO], Any]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
    (3, 0): np.lib.format.read_array_header_2_0,  # as 2.0, with names of fields in UTF-8
}
"""Function that reads the header, by the version of the format."""


@dataclass(frozen=True)
class Npy(DenseFormat):
    """A two-dimensional array of any number type."""

    @classmethod
    def of(cls, first: OpenFile, columns: Sequence[str] | None) -> Npy:
        """Return the format; ConfigError if columns are named."""
        refuse_columns(first, columns)
        return cls()

    def dense(self, file: OpenFile) -> Dense:
        """Return where the rows lie; raise DataError if header and size of the file disagree."""
        dense = header_of(file.path, file.cat(0, HEADER_BYTES))
        dense.check_size(file.path, file.size - dense.offset)
        return dense


def header_of(path: str, begin: bytes) -> Dense:
    """Return the place of the matrix, given the first bytes of a .npy file."""
    shape, column_major, dtype, offset = parse_header(path, begin)
    if len(shape) != 2 or shape[1] == 0 or dtype.kind not in "biuf":
        raise DataError(
            f"{path} holds {dtype} of shape {shape}; it must be a table of numbers "
            "(rows, features)."
        )
    return Dense(shape[0], shape[1], dtype, offset, by_column=column_major and shape[1] > 1)


def parse_header(path: str, begin: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Return (shape, is column-major, type, offset of the values), given a file's first bytes."""
    start = io.BytesIO(begin)
    try:
        shape, column_major, dtype = _header(start)
    except Exception as error:  # a damaged header can fail in many ways
        raise DataError(f"{path} is not a .npy file: {error}.".replace("\n", " ")) from None
    return shape, column_major, dtype, start.tell()


def _header(start: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return (shape, is column-major, type); ValueError for an unknown version or shape."""
    version = np.lib.format.read_magic(start)
    if version not in HEADERS:
        raise ValueError(f"nobody knows version {version}")
    shape, column_major, dtype = HEADERS[version](start)
    if min(shape, default=0) < 0:
        raise ValueError(f"its shape is {shape}")
    return shape, column_major, dtype
