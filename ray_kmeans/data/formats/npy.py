"""Matrices of numbers as NumPy writes them (.npy), read by byte range: never fetched whole."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ray_kmeans.data.formats.base import Opened, refuse_columns
from ray_kmeans.data.formats.dense import Dense, DenseFormat
from ray_kmeans.errors import DataError

HEADER_BYTES = 4096
HEADERS: Mapping[tuple[int, int], Callable[[io.BytesIO], Any]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
    (3, 0): np.lib.format.read_array_header_2_0,  # as 2.0, with names of fields in UTF-8
}
"""What reads the header, by the version of the format."""


@dataclass(frozen=True)
class Npy(DenseFormat):
    """Two-dimensional arrays of any number type."""

    @classmethod
    def of(cls, first: Opened, columns: Sequence[str] | None) -> Npy:
        refuse_columns(first, columns)
        return cls()

    def dense(self, file: Opened) -> Dense:
        dense = header_of(file.path, file.cat(0, HEADER_BYTES))
        dense.check_size(file.path, file.size - dense.offset)
        return dense


def header_of(path: str, begin: bytes) -> Dense:
    """Return where the rows are, from the first bytes of a .npy file."""
    shape, column_major, dtype, offset = parsed(path, begin)
    if len(shape) != 2 or shape[1] == 0 or dtype.kind not in "biuf":
        raise DataError(
            f"{path} holds {dtype} of shape {shape}; it must be a table of numbers "
            "(rows, features)."
        )
    return Dense(shape[0], shape[1], dtype, offset, by_column=column_major and shape[1] > 1)


def parsed(path: str, begin: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Return the shape, whether it is column-major, the type, and where the values begin."""
    start = io.BytesIO(begin)
    try:
        shape, column_major, dtype = _header(start)
    except Exception as error:  # a damaged header can fail in many ways
        raise DataError(f"{path} is not a .npy file: {error}.".replace("\n", " ")) from None
    return shape, column_major, dtype, start.tell()


def _header(start: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(start)
    if version not in HEADERS:
        raise ValueError(f"nobody knows version {version}")
    shape, column_major, dtype = HEADERS[version](start)
    if min(shape, default=0) < 0:
        raise ValueError(f"its shape is {shape}")
    return shape, column_major, dtype
