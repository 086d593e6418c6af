"""Open batches that come one after the other, from an iterable that can be read once only."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from ray_kmeans.algorithm.state import FitState
from ray_kmeans.data.datasets.registry import opener_of
from ray_kmeans.data.in_memory import is_frame, way_to_dense
from ray_kmeans.data.model_rows import open_for
from ray_kmeans.data.source import Source
from ray_kmeans.data.weighted import columns_of_rows
from ray_kmeans.errors import ConfigError, DataError


def is_stream(x: Any) -> bool:
    """Tell whether `x` gives batches: an iterator, a loader, or a list of tables of numbers."""
    is_table = isinstance(x, np.ndarray | pa.Table | pa.RecordBatch | Mapping)
    is_place = isinstance(x, str | os.PathLike | Source)
    is_buffer = isinstance(x, memoryview | bytes | bytearray | array)
    if is_table or is_place or is_buffer or opener_of(x) or way_to_dense(x):
        return False
    if isinstance(x, list | tuple):
        return isinstance(x, list) and len(x) > 0 and all(map(_is_batch, x))
    is_one = hasattr(x, "__array__") or (is_frame(x) and not isinstance(x, Iterator))
    return isinstance(x, Iterable) and not is_one


def open_batches(
    stream: Iterable[Any],
    storage_options: Mapping[str, Any],
    features: int | None = None,
    sample_weight: str | None = None,
    state: FitState | None = None,
) -> Iterator[Source]:
    """Yield a source for each batch that has rows; all must have the same number of features.

    Parameters
    ----------
    stream : iterable
        Its batches are anything that `open_source` takes, or TensorFlow's pair (features, None).
    storage_options : mapping
        As in `open_source`.
    features : int, default None
        Number of features of the model. None: that of the first batch.
    sample_weight : str, default None
        Name of the column of weights.
    state : FitState, default None
        The model, whose columns are read by their names. None, or a model without names: those of
        the first batch that has names.

    Raises
    ------
    ConfigError, DataError
        With the number of the batch, from 1 on, that cannot be read.
    """
    wanted: tuple[str, ...] = ()
    for number, batch in enumerate(stream, start=1):
        try:
            source = open_for(
                state,
                _features_of(batch),
                storage_options=storage_options,
                wanted=wanted,
                sample_weight=sample_weight,
            )
        except (ConfigError, DataError) as error:
            if type(error) not in (ConfigError, DataError):
                raise
            raise type(error)(f"batch {number}: {error}") from None
        wanted = wanted or columns_of_rows(source)
        layout = source.describe()
        features = features or layout.features
        if layout.features != features:
            raise DataError(
                f"batch {number} has {layout.features} features and those before, or the model, "
                f"have {features}; all must have the same."
            )
        if layout.blocks:
            yield source


def without_targets(batch: Any) -> Any:
    """Return the features of TensorFlow's pair (features, None); anything else unchanged."""
    if not isinstance(batch, tuple) or len(batch) != 2:
        return batch
    features, targets = batch
    if targets is not None:
        raise ConfigError("the input has targets; the second of a pair must be None.")
    return features


def _features_of(batch: Any) -> Any:
    """Return the features of a batch: PyTorch's loaders wrap a table in a list of one."""
    if not isinstance(batch, list | tuple) or not _is_table(*batch[:1]):
        return without_targets(batch)
    if len(batch) > 1 and batch[1] is not None:
        raise ConfigError(
            f"the input has targets: each batch is a {type(batch).__name__} of {len(batch)}. Give "
            "its features alone, as in (batch[0] for batch in loader)."
        )
    return batch[0]


def _is_batch(x: Any) -> bool:
    """Tell whether an item of a list is a batch of rows, and not a row."""
    return _is_table(x) or isinstance(x, pa.Table | pa.RecordBatch | Source) or is_frame(x)


def _is_table(x: Any = None) -> bool:
    """Tell whether something has two dimensions."""
    return getattr(x, "ndim", 0) == 2
