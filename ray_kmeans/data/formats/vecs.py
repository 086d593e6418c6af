"""Vectors as TEXMEX and FAISS write them: each row begins with the number of its features.

Such a file does not say how many rows it has: cut off between two rows, it is a shorter one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ray_kmeans.data.formats.base import Opened, refuse_columns
from ray_kmeans.data.formats.dense import Dense, DenseFormat
from ray_kmeans.errors import DataError

DTYPES: Mapping[str, str] = {".fvecs": "<f4", ".bvecs": "u1", ".ivecs": "<i4"}
LENGTH_BYTES = 4


@dataclass(frozen=True)
class Vecs(DenseFormat):
    """Rows of one number type, by the end of the file's name."""

    dtype: str

    @classmethod
    def of(cls, dtype: str, first: Opened, columns: Sequence[str] | None) -> Vecs:
        refuse_columns(first, columns)
        return cls(dtype)

    def dense(self, file: Opened) -> Dense:
        features = int.from_bytes(file.cat(0, LENGTH_BYTES), "little", signed=True)
        dense = Dense(0, features, np.dtype(self.dtype), offset=0, lead=LENGTH_BYTES)
        if features <= 0 or file.size % dense.row_bytes:
            raise DataError(
                f"{file.path} has {file.size:,} bytes and a first row of {features:,} "
                f"{dense.dtype}: not a whole number of such rows; it is damaged or cut off."
            )
        return replace(dense, rows=file.size // dense.row_bytes)
