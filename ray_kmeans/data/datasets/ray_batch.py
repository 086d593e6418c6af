"""A batch as Ray Data hands it out: a table, or arrays by name; and back with more columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ray_kmeans.errors import ConfigError


def table_of(batch: Any, columns: Sequence[str] | None) -> pa.Table:
    """Return the batch as a table; of arrays by name, those that no row needs are null there."""
    if isinstance(batch, pa.Table):
        return batch
    if not isinstance(batch, Mapping):
        raise ConfigError(
            f"a batch is a {type(batch).__name__}; it must be an Arrow table or a dict of arrays. "
            "Give map_batches batch_format='pyarrow' or 'numpy'."
        )
    wanted = {name for path in columns or () for name in (path, path.partition(".")[0])}
    wanted &= set(batch)  # where none is there, the others are what an error names
    return pa.table(
        {
            name: as_column(values) if not wanted or name in wanted else pa.nulls(len(values))
            for name, values in batch.items()
        }
    )


def with_columns(batch: Any, more: Mapping[str, NDArray[Any]]) -> Any:
    """Return a batch of the same kind with more columns; raises ConfigError for names taken."""
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
    """Return an array as a column; what lies in its further axes becomes one vector."""
    if values.ndim == 1:
        return _plain_column(values)
    width = int(np.prod(values.shape[1:]))
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), width)


def _plain_column(values: NDArray[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except pa.ArrowException:  # things of any kind, among which there is no row of numbers
        return pa.nulls(len(values))
