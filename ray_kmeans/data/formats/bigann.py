"""Read matrices of big-ann-benchmarks: the number of rows and of features, then the rows."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np

from ray_kmeans.data.formats.base import OpenFile
from ray_kmeans.data.formats.dense import Dense, DenseFormatByName
from ray_kmeans.errors import DataError

DTYPES: Mapping[str, str] = {".fbin": "<f4", ".u8bin": "u1", ".i8bin": "i1", ".ibin": "<i4"}
"""NumPy type of the values by the ending of the file's name."""
HEADER = struct.Struct("<II")
"""Layout of the first bytes: number of rows, number of features."""


class BigAnn(DenseFormatByName):
    """A matrix behind a header of two numbers."""

    def dense(self, file: OpenFile) -> Dense:
        """Return where the rows lie; raise DataError if header and size of the file disagree."""
        if file.size < HEADER.size:
            raise DataError(f"{file.path} has {file.size} bytes; its header alone has 8.")
        rows, features = HEADER.unpack(file.cat(0, HEADER.size))
        dense = Dense(rows, features, np.dtype(self.dtype), HEADER.size)
        if features == 0:
            raise DataError(f"{file.path} has {rows:,} rows of no feature; it is damaged.")
        # Only the name tells the type, so only the exact size shows that it is the right one.
        reason = "it is damaged or cut off, or has the name of another number type"
        dense.check_size(file.path, file.size - dense.offset, reason)
        return dense
