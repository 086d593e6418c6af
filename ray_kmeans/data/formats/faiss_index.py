"""Read centers from an index of faiss: of its inverted lists, or the vectors of a flat index."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.errors import ConfigError


def centers_in_bytes(content: bytes, shown: str) -> tuple[NDArray[np.float32], Metric]:
    """Return the centers (k, d) of an index given as bytes, and its metric; `shown` is its name."""
    faiss = _library(shown)
    try:
        index = faiss.deserialize_index(np.frombuffer(content, np.uint8))
    except RuntimeError as error:
        problem = str(error).strip().splitlines()[-1]
        raise ConfigError(f"{shown} cannot be read as an index of faiss: {problem}") from None
    return centers_in_index(index, shown)


def centers_in_index(index: Any, shown: str) -> tuple[NDArray[np.float32], Metric]:
    """Return the centers (k, d) of an index, and its metric; ConfigError if it keeps none."""
    faiss = _library(shown)
    if isinstance(index, faiss.IndexPreTransform):
        raise ConfigError(
            f"{shown} transforms vectors before it compares them, so its centers are not in the "
            "space of the rows. Give the index inside, and label rows that are transformed alike."
        )
    lists = faiss.try_extract_index_ivf(index)
    flat = faiss.downcast_index(lists.quantizer) if lists else index
    if not isinstance(flat, faiss.IndexFlat | faiss.IndexHNSWFlat) or not flat.ntotal:
        raise ConfigError(
            f"{shown} is an {type(flat).__name__} with {flat.ntotal:,} vectors, which keeps no "
            "centers as they are. Give a trained IVF index, or a flat one that holds the centers."
        )
    metrics = {faiss.METRIC_L2: Metric.SQUARED_EUCLIDEAN, faiss.METRIC_INNER_PRODUCT: Metric.COSINE}
    if flat.metric_type not in metrics:
        raise ConfigError(f"{shown} compares neither by L2 nor by inner product.")
    return np.asarray(flat.reconstruct_n(0, flat.ntotal), np.float32), metrics[flat.metric_type]


def _library(shown: str) -> Any:
    """Return the module faiss; ConfigError if it is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise ConfigError(
            f"{shown} is an index of faiss, which cannot be imported here ({error}). "
            "Run: pip install faiss-cpu."
        ) from None
    return faiss
