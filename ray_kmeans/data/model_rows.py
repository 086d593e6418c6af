"""Open data for a model: by the names of the columns that it was fitted on, with its shift."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from datetime import date
from functools import lru_cache
from typing import Any

from ray_kmeans.algorithm.row_spec import RowSpec
from ray_kmeans.algorithm.state import FitState
from ray_kmeans.data.column_choice import shortened
from ray_kmeans.data.float32_rounding import shift_of, under
from ray_kmeans.data.opening import names_of, open_source
from ray_kmeans.data.sampled import sample_of
from ray_kmeans.data.session_source import HoldsRows
from ray_kmeans.data.source import Source
from ray_kmeans.data.weighted import WeightedSource, as_weighted, columns_of_rows
from ray_kmeans.errors import ConfigError, DataError


def spec_of(source: Source, before: RowSpec | None = None) -> RowSpec:
    """Return how a source reads its rows, for a checkpoint; without names, those `before` stay."""
    weighted = as_weighted(source)
    weights = weighted.weights
    return RowSpec(
        columns=weighted.columns or (before.columns if before else ()),
        filters=json.dumps(weighted.filters, default=_as_json) if weighted.filters else "",
        nonfinite="drop" if weighted.drop_nonfinite else "error",
        sample_weight=weights if isinstance(weights, str) else "",
        shift=shift_of(source),
        sample=sample_of(source),
    )


def open_for(
    state: FitState | None,
    x: Any,
    columns: Sequence[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    *,
    wanted: tuple[str, ...] = (),
    **counting: Any,
) -> Source:
    """Return a source that has the model's columns in the model's order, and the model's shift.

    Parameters
    ----------
    state : FitState or None
        The model. None, or a model without names: data are opened as for a new model.
    x, columns, storage_options
        As in `open_source`.
    wanted : tuple of str, default ()
        Names of columns to go by if the model has none.
    **counting
        The other arguments of `open_source`: which rows count, and how files are read.

    Raises
    ------
    ConfigError
        If the data have names of columns, and others than the model; it lists both. Data without
        names are taken as they are, and so is one column of vectors that the user names.
    """
    if isinstance(x, HoldsRows):
        x.check_open()
        x.source.check_given(columns, counting)
        x.source.check_fits(state)
        return x.source
    of_model = state.rows.columns if state and state.rows else ()
    source = _open_by_name(of_model or wanted, x, names_of(columns), storage_options, counting)
    if state is None:
        return source
    if state.rows is None and len(columns_of_rows(source)) > 1:
        _warn_of_order()
    return under(source, state.shift, "the model")


def _open_by_name(
    wanted: tuple[str, ...],
    x: Any,
    columns: Sequence[str] | None,
    storage_options: Mapping[str, Any] | None,
    counting: Mapping[str, Any],
) -> Source:
    """Return a source with the columns `wanted`, in this order; () stands for any columns."""
    if not wanted:
        return open_source(x, columns, storage_options, **counting)
    if not columns and not isinstance(x, Source):
        return _open_unnamed(wanted, x, storage_options, counting)
    if columns and len(columns) > 1 and set(columns) != set(wanted):
        raise _other_names(columns, wanted)
    chosen = wanted if columns and len(columns) > 1 else columns
    return _in_order(open_source(x, chosen, storage_options, **counting), wanted)


def taken_from(
    state: FitState,
    x: Any,
    columns: Sequence[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Source:
    """Return a source for a model that also has the filters and weights of its fit."""
    rows = state.rows or RowSpec()
    return open_for(
        state,
        x,
        columns,
        storage_options,
        sample_weight=rows.sample_weight or None,
        filters=json.loads(rows.filters) if rows.filters else None,
        nonfinite=rows.nonfinite,
    )


def said_of(source: Source) -> str:
    """Return the names of the columns that make up a row as one text for people; '' if they have
    none."""
    return shortened(columns_of_rows(source))


def _open_unnamed(
    wanted: tuple[str, ...], x: Any, storage_options: Any, counting: Mapping[str, Any]
) -> Source:
    """Return a source if the user names no columns: by the model's, if the data have names.

    Data tell whether they have names only when they are opened. So they are opened by the model's
    names first; where that fails, without names, to tell data that have none from data that have
    others.
    """
    try:
        source = open_source(x, wanted, storage_options, **counting)
        if columns_of_rows(source) in ((), wanted):
            return source
        missing = ""
    except (ConfigError, DataError) as error:
        missing = str(error)
    try:
        source = open_source(x, None, storage_options, **counting)
    except ConfigError as question:  # the data have names, and ask which are meant
        if str(question) == missing:
            raise
        of_model = shortened(wanted)
        raise ConfigError(
            f"{missing} The model was fitted on the columns {of_model}. Give data that have them."
        ) from None
    if columns_of_rows(source):
        raise _other_names(columns_of_rows(source), wanted)
    return source


def _in_order(source: Source, wanted: tuple[str, ...]) -> Source:
    """Return a source whose columns are in the model's order; ConfigError if they are others.

    One column of vectors that the user names is taken, whatever its name.
    """
    if isinstance(source, WeightedSource):
        inner = _in_order(source.source, wanted)
        return WeightedSource(inner, source.weights, source.filters, source.drop_nonfinite)
    names = columns_of_rows(source)
    if names in ((), wanted):
        return source
    is_named = getattr(source, "by_name", True)
    if is_named and len(names) == 1 and source.describe().features > 1:
        return source
    if is_named and set(names) != set(wanted):
        raise _other_names(names, wanted)
    any_source: Any = source
    try:
        ordered: Source = any_source.with_columns(wanted)
    except (ConfigError, AttributeError):
        raise _other_names(names, wanted) from None
    return ordered


def _other_names(names: Sequence[str], wanted: Sequence[str]) -> ConfigError:
    """Return the error for data whose columns `names` are not the model's `wanted`."""
    hint = "Give data with these columns, or rename theirs."
    if len(wanted) == 1:
        hint += " A column of vectors under another name is taken where columns names it."
    return ConfigError(
        f"the model was fitted on the columns {shortened(wanted)}, and the data have "
        f"{shortened(names)}. {hint}"
    )


@lru_cache
def _warn_of_order() -> None:
    """Warn, once in this process, that columns are read in the order of the data."""
    warnings.warn(
        "the checkpoint of this model is of a version that did not keep the names of its columns, "
        "so columns are read in the order that the data have. Make sure that it is that of the "
        "centers; a fit that goes on from it keeps their names.",
        UserWarning,
        stacklevel=2,
    )


def _as_json(value: Any) -> Any:
    """Return a value of a filter as one that JSON can hold, for `json.dumps`."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    if hasattr(value, "item"):  # a number of NumPy
        return value.item()
    return value.isoformat() if isinstance(value, date) else str(value)
