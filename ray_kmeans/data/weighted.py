"""Give each row of a source a weight: by a column, an array or filters; weight 0 leaves it out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ray_kmeans.data.schema_promotion import schema_of
from ray_kmeans.data.sharding import (
    Block,
    Layout,
    groups_of,
    neighbours_in,
)
from ray_kmeans.data.source import Source
from ray_kmeans.errors import ConfigError, DataError

Floats = NDArray[np.float64]
"""Weights, of shape (n,)."""
Filters: TypeAlias = Sequence[Sequence[tuple[str, str, Any]]]
"""Lists of (column, operator, value): a row passes if all conditions of one list hold."""


@dataclass(frozen=True)
class WeightedSource:
    """A source whose rows have weights."""

    source: Source
    """The source of the rows themselves."""
    weights: str | Floats | None = None
    """Name of a column of weights, or the weights (n,) of all rows; None: all are 1."""
    filters: Filters | None = None
    """Conditions on columns; a row that does not pass them has weight 0. None: all pass."""
    drop_nonfinite: bool = False
    """Whether rows with NaN or infinity are left out instead of being an error."""

    @property
    def only_here(self) -> bool:
        """Whether no other process can read the source."""
        return bool(getattr(self.source, "only_here", False))

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that make up a row; () if they have none."""
        return columns_of_rows(self.source)

    def describe(self) -> Layout:
        """Return the layout of the rows; raise DataError if there is not one weight for each."""
        layout = self.source.describe()
        if isinstance(self.weights, np.ndarray) and len(self.weights) != layout.rows:
            raise DataError(
                f"sample_weight has {len(self.weights):,} values and the data have "
                f"{layout.rows:,} rows; give one for each."
            )
        if self._names and layout.blocks:  # fail before a worker starts
            list(self.weights_of([replace(layout.blocks[0], rows=1)]))
        return layout

    def read(self, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[Any]]]:
        return self.source.read(blocks)

    def read_noted(self, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[Any], Any]]:
        """Yield each block, its rows and their rounding error; None if the source knows none."""
        noted = getattr(self.source, "read_noted", None)
        return noted(blocks) if noted else ((*each, None) for each in self.source.read(blocks))

    def columns_of(self, block: Block, names: Sequence[str]) -> pa.Table:
        return self.source.columns_of(block, names)

    def kept_schema(self, names: Sequence[str]) -> pa.Schema:
        """Return the type of each column that labelled output is to keep."""
        return schema_of(self.source, names)

    def weights_of(self, blocks: Sequence[Block]) -> Iterator[Floats | None]:
        """Yield the weights (rows,) of each block, in order; None if all are 1.

        Columns are read once for neighbouring blocks of a row group. Raises DataError for a
        negative, infinite or missing weight.
        """
        for group in groups_of(tuple(blocks)):
            for run in neighbours_in(group):
                table = self._table(replace(run[0], rows=sum(block.rows for block in run)))
                passes = self._passing(table) if self.filters else None
                for block in run:
                    part = slice(block.skip - run[0].skip, block.skip - run[0].skip + block.rows)
                    weights = self._unfiltered_weights(block, table, part)
                    if passes is not None:
                        given = np.ones(block.rows) if weights is None else weights
                        weights = np.where(passes[part], given, 0.0)
                    yield weights

    def _unfiltered_weights(self, block: Block, table: Any, part: slice) -> Floats | None:
        """Return the weights of a block before filters, from the rows `part` of a table."""
        if self.weights is None:
            return None
        if isinstance(self.weights, str):
            column = table.column(self.weights)[part.start : part.stop].to_numpy()
            return _check(as_weights(column, f"column {self.weights!r} of {block.file}"), block)
        return _check(self.weights[block.first : block.first + block.rows], block)

    @property
    def _names(self) -> list[str]:
        """Names of the columns that weights and filters need."""
        named = [self.weights] if isinstance(self.weights, str) else []
        tested = (name for each in self.filters or () for name, _, _ in each)
        return list(dict.fromkeys([*named, *tested]))

    def _table(self, block: Block) -> Any:
        """Read the columns that weights and filters need; None if they need none."""
        if not self._names:
            return None
        try:
            return self.source.columns_of(block, self._names)
        except (ConfigError, DataError) as error:
            what = "sample_weight" if isinstance(self.weights, str) else "filters"
            raise type(error)(f"{what} cannot be read: {error}") from None

    def _passing(self, table: Any) -> NDArray[np.bool_]:
        """Return which rows of a table pass the filters (rows,); one with a null does not."""
        numbered = table.append_column("", pa.array(np.arange(table.num_rows)))
        try:
            left = numbered.filter(pq.filters_to_expression(self.filters))
        except (pa.ArrowException, ValueError, TypeError) as error:
            cause = str(error).splitlines()[0]
            raise ConfigError(f"filters={self.filters!r} cannot be applied: {cause}") from None
        passes = np.zeros(table.num_rows, np.bool_)
        passes[left.column("").to_numpy()] = True
        return passes


def as_weighted(source: Source) -> WeightedSource:
    """Return a source as one with weights, which are 1 where it has none."""
    return source if isinstance(source, WeightedSource) else WeightedSource(source)


def columns_of_rows(source: Any) -> tuple[str, ...]:
    """Return the names of the columns that make up a row of a source; () if they have none."""
    return tuple(getattr(source, "columns", ()))


def with_weights(source: Source, weights: Any, filters: Any, drop_nonfinite: bool) -> Source:
    """Return a source with these weights; the same source if all rows count once.

    Parameters
    ----------
    source : Source
        The rows; weights that it has already are kept where none are given here.
    weights : str, array of shape (n,) or None
        Name of a column, or the weights.
    filters : list or None
        As in `open_source`.
    drop_nonfinite : bool
        Whether rows with NaN or infinity are left out.

    Raises
    ------
    ConfigError, DataError
        If weights or filters cannot be read as such, or if the source has its own, too.
    """
    filters = _lists_of(filters) if filters else None
    if weights is None and not filters and not drop_nonfinite:
        return source
    if isinstance(source, WeightedSource):
        for name, given, there in (
            ("sample_weight", weights, source.weights),
            ("filters", filters, source.filters),
        ):
            if given is not None and there is not None:
                raise ConfigError(f"{name} is given, and x has such already. Give one.")
        weights = source.weights if weights is None else weights
        filters = source.filters if filters is None else filters
        drop_nonfinite |= source.drop_nonfinite
        source = source.source
    if weights is not None and not isinstance(weights, str):
        weights = as_weights(weights, "sample_weight")
        if weights.ndim != 1:
            raise ConfigError(
                f"sample_weight has shape {weights.shape}; it must be the name of a column, or one "
                "number for each row."
            )
    return WeightedSource(source, weights, filters, drop_nonfinite)


def as_weights(values: Any, what: str) -> Floats:
    """Return weights as float64 (n,), with NaN for null; `what` is their name in messages."""
    try:
        return np.ascontiguousarray(values, np.float64)
    except (TypeError, ValueError):
        kind = getattr(values, "dtype", type(values).__name__)
        raise DataError(f"{what} holds {kind}; weights must be numbers.") from None


def _lists_of(filters: Any) -> Filters:
    """Return filters, given as one list of conditions or several, as several; else ConfigError."""
    with contextlib.suppress(TypeError, ValueError, IndexError, KeyError):
        lists = [filters] if isinstance(filters[0][0], str) else filters
        found = [[(name, operator, value) for name, operator, value in each] for each in lists]
        if all(isinstance(name, str) for each in found for name, _, _ in each):
            return found
    raise ConfigError(
        f"filters={filters!r} must be a list of (column, operator, value), which all must hold, or "
        "a list of such lists, of which one must."
    )


def _check(weights: Floats, block: Block) -> Floats:
    """Return the weights of a block; DataError for one that is negative or not finite."""
    bad = np.flatnonzero(~(weights >= 0) | np.isinf(weights))
    if len(bad):
        raise DataError(
            f"row {block.start + bad[0]:,} of {block.file} has the weight {weights[bad[0]]}; "
            "weights must be finite numbers from 0 on."
        )
    return weights
