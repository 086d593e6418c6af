"""Turn a batch of Ray Data (a table, or arrays by name) into a table, and add columns to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ray_kmeans.errors import ConfigError


def table_of(batch: Any, columns: Sequence[str] | None) -> pa.Table:
    """Return a batch as a table. Of a dict of arrays, those that no row needs become nulls."""
    if isinstance(batch, pa.Table):
        return batch
    if not isinstance(batch, Mapping):
        raise ConfigError(
            f"a batch is a {type(batch).__name__}; it must be an Arrow table or a dict of arrays. "
            "Give map_batches batch_format='pyarrow' or 'numpy'."
        )
    wanted = {name for path in columns or () for name in (path, path.partition(".")[0])}
    wanted &= set(batch)  # if none is there, all are kept, for the error to name
    return pa.table(
        {
            name: as_column(values) if not wanted or name in wanted else pa.nulls(len(values))
            for name, values in batch.items()
        }
    )


def with_columns(batch: Any, more: Mapping[str, NDArray[Any]]) -> Any:
    """Return a batch of the same kind with more columns; ConfigError if a name is taken."""
    names = batch.column_names if isinstance(batch, pa.Table) else list(batch)
    taken = sorted(set(names) & set(more))
    if taken:
        raise ConfigError(
            f"the batch has columns {taken} already. Rename or drop them before, or choose others "
            "with outputs."
        )
    if not isinstance(batch, pa.Table):
        return {**batch, **more}
    for name, values in more.items():
        batch = batch.append_column(name, as_column(values))
    return batch


def as_column(values: NDArray[Any]) -> pa.Array:
    """Return an array (n, ...) as a column of n numbers, or of n vectors of the other axes."""
    if values.ndim == 1:
        return _plain_column(values)
    width = int(np.prod(values.shape[1:]))
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), width)


def _plain_column(values: NDArray[Any]) -> pa.Array:
    """Return an array (n,) as a column; nulls if Arrow has no type for its values."""
    try:
        return pa.array(values)
    except pa.ArrowException:  # objects of any kind, which cannot be numbers of a row
        return pa.nulls(len(values))
