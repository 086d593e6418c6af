"""Matrices as big-ann-benchmarks writes them: how many rows and features, then the rows."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ray_kmeans.data.formats.base import Opened, refuse_columns
from ray_kmeans.data.formats.dense import Dense, DenseFormat
from ray_kmeans.errors import DataError

DTYPES: Mapping[str, str] = {".fbin": "<f4", ".u8bin": "u1", ".i8bin": "i1", ".ibin": "<i4"}
HEADER = struct.Struct("<II")


@dataclass(frozen=True)
class BigAnn(DenseFormat):
    """A matrix of one number type, by the end of the file's name."""

    dtype: str

    @classmethod
    def of(cls, dtype: str, first: Opened, columns: Sequence[str] | None) -> BigAnn:
        refuse_columns(first, columns)
        return cls(dtype)

    def dense(self, file: Opened) -> Dense:
        if file.size < HEADER.size:
            raise DataError(f"{file.path} has {file.size} bytes; its header alone has 8.")
        rows, features = HEADER.unpack(file.cat(0, HEADER.size))
        dense = Dense(rows, features, np.dtype(self.dtype), HEADER.size)
        if features == 0:
            raise DataError(f"{file.path} has {rows:,} rows of no feature; it is damaged.")
        # The type stands in the name alone: only the exact size tells that it is the right one.
        reason = "it is damaged or cut off, or has the name of another number type"
        dense.check_size(file.path, file.size - dense.offset, reason)
        return dense
