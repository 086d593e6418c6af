"""Open data of any kind: an array, a table, URIs, or a data set of a library.

`open_source` alone decides what `x` is. It hands URIs to `uris`, objects of libraries to
`datasets.registry`, and what is in memory to `array`; none of them comes back here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import pyarrow as pa

from ray_kmeans.config import NonFinite, check_choice
from ray_kmeans.data.array import ArraySource
from ray_kmeans.data.datasets.registry import opener_of
from ray_kmeans.data.float32_rounding import center_columns
from ray_kmeans.data.in_memory import (
    as_array,
    is_frame,
    refuse_sparse,
    rows_of_columns,
    table_of,
)
from ray_kmeans.data.source import Source
from ray_kmeans.data.uris import open_uris
from ray_kmeans.data.weighted import with_weights
from ray_kmeans.errors import ConfigError


def open_source(
    x: Any,
    columns: Sequence[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    *,
    sample_weight: Any = None,
    filters: Any = None,
    nonfinite: NonFinite = "error",
    format: str | None = None,
    center: bool = False,
    header: bool | None = None,
) -> Source:
    """Open a data set: return the source that reads its rows in blocks.

    Parameters
    ----------
    x : array of shape (rows, features), table, dict, str, path, list of these, data set, or Source
        - an array, tensor or list of rows in memory, of any number type;
        - a table of pyarrow, pandas, polars or another library, or a dict of columns (sorted by
          their names);
        - the path or URI of a file, a directory or a glob, or a list of these;
        - a Dataset of pyarrow, Hugging Face datasets, Lance or Ray, or an Array of Zarr;
        - a source, which is returned as it is unless another argument changes it.
    columns : list of str, default None
        The column of vectors, or the columns of numbers. None: the one column of vectors, or else
        all columns of numbers. ConfigError lists them if that is a guess: if these are not all
        floats, one looks like a key of the rows, or others could be read as numbers.
    storage_options : dict, default None
        Options of the store, passed to fsspec unchanged.
    sample_weight : str or array of shape (rows,), default None
        How often each row counts: the name of a column, or numbers >= 0. None: each counts once.
        A row of weight 3 gives the same centers as three such rows, bit for bit. Weights that are
        not whole are rounded to 24 bits of their mean, to 12 for many rows, and to fewer from
        2**28 rows on. Their sum must be less than 2**40.
    filters : list of (column, operator, value), default None
        Conditions that a row must all meet, else it is left out; or a list of such lists, one of
        which it must meet (as in pyarrow.parquet.read_table). A row that is left out is still read
        and takes memory, keeps its number, and gets the label -1.
    nonfinite : {'error', 'drop'}, default 'error'
        What becomes of rows with NaN, null or infinity. 'drop': they are left out, and a warning
        counts them.
    format : str, default None
        The format of the files, as 'parquet', 'csv.gz' or 'jsonl', if their names do not tell it;
        all files of a directory or glob are then read that way. None: the ending of each name.
    center : bool, default False
        Subtract its middle from each column, in float64, before rows become float32: for values
        that differ little beside their distance from zero, as time stamps do. The middle is the
        median of rows from all over the data, which are read for it. It changes no distance. A
        model fitted on such rows subtracts the same from later data, and `clusters` adds it again.
    header : bool, default None
        Whether the first line of CSV files has the names of the columns, which else are '0', '1',
        and so on. None: it has, and ConfigError asks if it holds numbers.

    Returns
    -------
    Source
        Its `describe()` returns all blocks, and its `read(blocks)` yields their rows.

    Raises
    ------
    ConfigError
        If an argument cannot be used with this data, or there is a choice of columns.
    DataError
        If the data cannot be read, or are no table of numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from ray_kmeans import open_source
    >>> layout = open_source(np.zeros((10_000, 3))).describe()
    >>> layout.rows, layout.features, len(layout.blocks)
    (10000, 3, 2)
    """
    check_nonfinite(nonfinite)
    if header not in (None, True, False):
        raise ConfigError(f"header={header!r} must be True, False or None.")
    source = _open_any(x, names_of(columns), storage_options, format, header)
    if center:
        source = center_columns(source)
    return with_weights(source, sample_weight, filters, nonfinite == "drop")


def names_of(columns: Any) -> list[str] | None:
    """Return names of columns as a list; ConfigError if they are no names, or one comes twice."""
    if columns is None:
        return None
    names = [columns] if isinstance(columns, str) else list(columns)
    if isinstance(columns, str | set | frozenset) or not all(isinstance(n, str) for n in names):
        raise ConfigError(
            f"columns={columns!r} must be a list of names, in the order that they have in a row."
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"columns={names} names {twice} twice. Give each column once.")
    return [str(name) for name in names]


def check_nonfinite(nonfinite: str) -> None:
    """Raise ConfigError unless `nonfinite` is 'error' or 'drop'."""
    check_choice("nonfinite", nonfinite, get_args(NonFinite))


def _open_any(
    x: Any,
    columns: Sequence[str] | None,
    storage_options: Mapping[str, Any] | None,
    format: str | None,
    header: bool | None,
) -> Source:
    """Return the source of `x`, whatever it is, before its rows are centered or weighted."""
    if isinstance(x, str | os.PathLike):
        x = [x]
    if isinstance(x, list | tuple) and x and all(isinstance(each, str | os.PathLike) for each in x):
        uris = [os.fspath(each) for each in x]
        return open_uris(uris, columns, storage_options or {}, format, header)
    if format is not None:
        raise ConfigError(f"format={format!r} is for files, and x is a {type(x).__name__}.")
    if header is not None:
        raise ConfigError(f"header={header!r} has no meaning for x of type {type(x).__name__}.")
    if isinstance(x, Source):
        if columns:
            raise ConfigError(f"columns={list(columns)}: x is a source, whose columns are chosen.")
        return x
    open_it = opener_of(x)
    if open_it:
        return open_it(x, columns)
    what = f"x of type {type(x).__name__}"
    refuse_sparse(x, what)  # some are dicts
    if isinstance(x, Mapping):  # columns in the order of their sorted names, as in TensorFlow
        return ArraySource.of(*rows_of_columns(x, columns))
    if isinstance(x, pa.Table | pa.RecordBatch):
        return ArraySource.of_table(x, columns)
    if is_frame(x):
        return ArraySource.of_table(table_of(x), columns)
    if columns:
        raise ConfigError(
            f"columns={list(columns)} has no meaning for {what}: its columns have no names. "
            "Choose among them before, or give a table or a dict of columns."
        )
    return ArraySource.of(as_array(x, what))
