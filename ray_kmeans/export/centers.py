"""The centers of a model as one file, for programs that build indexes over vectors."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray


def parquet_of(centers: NDArray[Any], counts: NDArray[Any]) -> bytes:
    """Return Parquet with the columns cluster, center, count, from centers (k, d), counts (k,)."""
    width = centers.shape[1]
    columns = {
        "cluster": pa.array(np.arange(len(centers), dtype=np.int32)),
        "center": pa.FixedSizeListArray.from_arrays(pa.array(centers.ravel()), width),
        "count": pa.array(counts),
    }
    content = io.BytesIO()
    pq.write_table(pa.table(columns), content)
    return content.getvalue()


def npy_of(centers: NDArray[Any], counts: NDArray[Any]) -> bytes:
    """Return the centers (k, d) as .npy; an array has no room for their counts."""
    content = io.BytesIO()
    np.save(content, centers, allow_pickle=False)
    return content.getvalue()
