"""Turn validated arrays and sparse matrices into sources of rows, and measure them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from scipy.spatial.distance import cdist
from sklearn.utils.sparsefuncs import mean_variance_axis

from ray_kmeans.config import RunConfig
from ray_kmeans.data.array import ArraySource
from ray_kmeans.data.float32_rounding import center_columns, shift_of
from ray_kmeans.data.sharding import BLOCK_ROWS
from ray_kmeans.data.source import Source
from ray_kmeans.data.sparse import SparseSource
from ray_kmeans.data.weighted import with_weights
from ray_kmeans.errors import DataError
from ray_kmeans.text.quantities import format_bytes

MOST_DENSE_BYTES = 2**32
"""Bytes that the rows of a sparse matrix may take once they are dense, as float32, unless
`worker_memory_bytes` of a configuration allows others."""
MIDDLE_VALUES = 2**14
"""Number of values, at most, by which the middles of all columns are found."""
VARIANCE_VALUES = 2**23
"""Number of values that are copied at once where a variance is computed."""

Shift = tuple[float, ...]
"""Values (d,) that are subtracted from each column before it is rounded to float32, or ()."""


def source_of(rows: Any, weights: NDArray[Any] | None, shift: Shift) -> Source:
    """Return the source of validated rows (n, d), dense or sparse, with their weights (n,)."""
    source = SparseSource(rows, shift) if issparse(rows) else ArraySource(rows, shift=shift)
    return with_weights(source, weights, None, False)


def less(centers: NDArray[Any], shift: Shift) -> NDArray[np.float32]:
    """Return centers (k, d) less the shift of their rows, as float32."""
    moved = centers - np.asarray(shift) if shift else centers
    return np.ascontiguousarray(moved, np.float32)


def middle_of(rows: Any) -> Shift:
    """Return the shift for rows (n, d): the middle of each column of float64, else none.

    Rows of float32 are taken as they are, to the bit.
    """
    if rows.dtype == np.float32:
        return ()
    return shift_of(center_columns(source_of(rows, None, ()), MIDDLE_VALUES))


def check_dense_size(rows: Any, config: RunConfig) -> None:
    """Raise DataError for a sparse matrix whose rows would take too many bytes, once dense."""
    if not issparse(rows):
        return
    needed = 4 * rows.shape[0] * rows.shape[1]
    allowed = config.worker_memory_bytes or MOST_DENSE_BYTES
    if needed > allowed:
        raise DataError(
            f"X is sparse, of shape {rows.shape}, and workers hold dense rows: "
            f"{format_bytes(needed)}, where {format_bytes(allowed)} are allowed. Reduce the "
            "columns (sklearn.decomposition.TruncatedSVD), give parts of the rows to "
            "MiniBatchKMeans.partial_fit, or allow more by "
            "config=RunConfig(num_workers=0, worker_memory_bytes=...)."
        )


def mean_variance(rows: Any) -> float:
    """Return the mean of the variances of all columns of rows (n, d), without their weights."""
    if issparse(rows):
        return float(np.mean(mean_variance_axis(rows, axis=0)[1]))
    step = max(VARIANCE_VALUES // len(rows), 1)
    parts = [
        np.var(rows[:, first : first + step], axis=0, dtype=np.float64)
        for first in range(0, rows.shape[1], step)
    ]
    return float(np.mean(np.concatenate(parts)))


def distances(rows: Any, centers: NDArray[Any]) -> NDArray[Any]:
    """Return the distance of each row (n, d) to each center (k, d), (n, k), in the type of rows.

    Differences are squared in float64, so that rows far from zero lose no digits.
    """
    found = np.empty((rows.shape[0], len(centers)), rows.dtype)
    if not issparse(rows):
        found[:] = cdist(rows, centers)
        return found
    for first in range(0, rows.shape[0], BLOCK_ROWS):
        some = slice(first, first + BLOCK_ROWS)
        found[some] = cdist(rows[some].toarray(), centers)
    return found
