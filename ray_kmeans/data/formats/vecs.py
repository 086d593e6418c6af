"""Read vectors of TEXMEX and FAISS: each row begins with the number of its features.

The file does not tell how many rows it has: one that is cut off between two rows looks whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ray_kmeans.data.formats.base import OpenFile
from ray_kmeans.data.formats.dense import Dense, DenseFormatByName
from ray_kmeans.errors import DataError

DTYPES: Mapping[str, str] = {".fvecs": "<f4", ".bvecs": "u1", ".ivecs": "<i4"}
"""NumPy type of the values by the ending of the file's name."""
LENGTH_BYTES = 4
"""Bytes of the number of features before each row."""


class Vecs(DenseFormatByName):
    """Rows that each begin with the number of their features."""

    def dense(self, file: OpenFile) -> Dense:
        """Return where the rows lie, by the length of the first; raise DataError if the size
        disagrees."""
        features = int.from_bytes(file.cat(0, LENGTH_BYTES), "little", signed=True)
        dense = Dense(0, features, np.dtype(self.dtype), offset=0, lead=LENGTH_BYTES)
        if features <= 0 or file.size % dense.row_bytes:
            raise DataError(
                f"{file.path} has {file.size:,} bytes and a first row of {features:,} "
                f"{dense.dtype}: not a whole number of such rows; it is damaged or cut off."
            )
        return replace(dense, rows=file.size // dense.row_bytes)
