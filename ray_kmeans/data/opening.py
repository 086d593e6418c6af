"""Open data: choose the source for an array, a table, a path or a data set of a library."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from ray_kmeans.data.array import ArraySource
from ray_kmeans.data.datasets.registry import open_folder, opener_of
from ray_kmeans.data.files import list_files
from ray_kmeans.data.formats import bigann, vecs
from ray_kmeans.data.formats.base import FileSource, Make
from ray_kmeans.data.formats.bigann import BigAnn
from ray_kmeans.data.formats.csv import Csv
from ray_kmeans.data.formats.ipc import Ipc
from ray_kmeans.data.formats.json_lines import JsonLines
from ray_kmeans.data.formats.npy import Npy
from ray_kmeans.data.formats.npz import Npz
from ray_kmeans.data.formats.parquet import Parquet
from ray_kmeans.data.formats.safetensors import Safetensors
from ray_kmeans.data.formats.vecs import Vecs
from ray_kmeans.data.objects import (
    as_array,
    is_frame,
    refuse_sparse,
    side_by_side,
    table_of,
)
from ray_kmeans.data.rounded import centered
from ray_kmeans.data.source import Source
from ray_kmeans.data.weighted import with_weights
from ray_kmeans.errors import ConfigError

FORMATS: Mapping[str, Make] = {
    ".parquet": Parquet.of,
    ".pq": Parquet.of,
    ".parq": Parquet.of,
    ".npy": Npy.of,
    ".npz": Npz.of,
    ".safetensors": Safetensors.of,
    **{suffix: partial(Vecs.of, dtype) for suffix, dtype in vecs.DTYPES.items()},
    **{suffix: partial(BigAnn.of, dtype) for suffix, dtype in bigann.DTYPES.items()},
    ".arrow": Ipc.of,
    ".feather": Ipc.of,
    ".ipc": Ipc.of,
    ".csv": Csv.of,
    ".csv.gz": Csv.of,
    ".tsv": Csv.of,
    ".tsv.gz": Csv.of,
    **dict.fromkeys((".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz"), JsonLines.of),
}
"""Format factory for each ending of a file name: (first file, columns) -> Format."""


def open_source(
    x: Any,
    columns: Sequence[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    *,
    sample_weight: Any = None,
    filters: Any = None,
    nonfinite: str = "error",
    format: str | None = None,
    center: bool = False,
    header: bool | None = None,
) -> Source:
    """Return the source for an array, a table, a dict of columns, a URI or a source itself.

    Also for a Dataset of pyarrow, datasets, Lance or Ray, and an array of Zarr.

    Parameters
    ----------
    columns : list of str, optional
        The column of vectors, or the columns of numbers. Where none are given, the one column of
        vectors is taken, or else all of numbers; ConfigError lists them where these are not all
        floats, one looks like a key of the rows, or others could be read as numbers.
    storage_options : dict, optional
        Passed to fsspec unchanged.
    sample_weight : str or array of shape (rows,), optional
        How often each row counts: the name of a column of the data, or numbers from 0 on. A row of
        weight 3 gives the centers that three such rows give, bit for bit. Weights that are not
        whole are rounded to 24 bits of their mean, to 12 for many rows, and to fewer from 2**28
        rows on. They add up to less than 2**40.
    filters : list of (column, operator, value), optional
        Rows for which not all of these hold are left out; or a list of such lists, of which one
        must hold (as in pyarrow.parquet.read_table). Rows that are left out are read and take their
        place in memory all the same, keep their numbers, and get the label -1.
    nonfinite : 'error' or 'drop'
        Of rows with NaN, null or infinity. 'drop': they are left out and counted in a warning.
    format : str, optional
        What the files are, as 'parquet', 'csv.gz' or 'jsonl', where their names do not end so: then
        all files of a directory or glob are read that way. None: the end of each name tells it.
    center : bool
        Subtract from each column its middle (the median of rows all over the data, which are read
        for it), in float64, before rows become float32: for values that differ by little beside
        their distance from zero, as time stamps do. It changes no distance. A model that is fitted
        on them subtracts the same from whatever data come later, and `clusters` adds it again.
    header : bool, optional
        Of CSV: whether the first line has the names of the columns, which else are 0, 1, ....
        Default: it has, and numbers in it are a question.

    Raises
    ------
    ConfigError, DataError
        For what cannot be a data set.
    """
    check_nonfinite(nonfinite)
    if header not in (None, True, False):
        raise ConfigError(f"header={header!r} must be True, False or None.")
    source = _opened(x, names_of(columns), storage_options, format, header)
    if center:
        source = centered(source)
    return with_weights(source, sample_weight, filters, nonfinite == "drop")


def names_of(columns: Any) -> list[str] | None:
    """Return the names of columns as a list; ConfigError for what are no names, or one twice."""
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
    """Raise ConfigError for a way to treat rows that are not finite that there is not."""
    if nonfinite not in ("error", "drop"):
        raise ConfigError(f"nonfinite={nonfinite!r} is unknown. Give 'error' or 'drop'.")


def _opened(
    x: Any,
    columns: Sequence[str] | None,
    storage_options: Mapping[str, Any] | None,
    format: str | None,
    header: bool | None,
) -> Source:
    if isinstance(x, str | os.PathLike):
        x = [x]
    if isinstance(x, list | tuple) and x and all(isinstance(each, str | os.PathLike) for each in x):
        uris = [os.fspath(each) for each in x]
        return _open_files(uris, columns, storage_options or {}, format, header)
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
    if isinstance(x, Mapping):  # the seed's rule: columns in the order of their sorted names
        return ArraySource.of(*side_by_side(x, columns))
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


def _open_files(
    uris: Sequence[str],
    columns: Sequence[str] | None,
    storage_options: Mapping[str, Any],
    format: str | None,
    header: bool | None,
) -> Source:
    ending = _ending(format)
    if not all(uris):
        raise ConfigError("x holds an empty path. Give a file, a directory or a glob.")
    if len(uris) == 1 and not uris[0].lower().endswith(tuple(FORMATS)):
        found = open_folder(uris[0], columns, storage_options)
        if found and not ending:
            return found
        if found:
            raise ConfigError(f"format={format!r}, and {uris[0]!r} is a table of a library.")
    remote, files = list_files(uris, storage_options, tuple(FORMATS), ending)
    kinds = {suffix_of(file.kind) for file in files}
    if len({FORMATS[kind] for kind in kinds}) > 1:
        raise ConfigError(
            f"{remote.shown!r} holds files of several formats: {', '.join(sorted(kinds))}. "
            f"Give a glob, as in {remote.shown.rstrip('/')}/*{sorted(kinds)[-1]}."
        )
    kind = kinds.pop()
    make = FORMATS[kind]
    if header is not None:
        if make != Csv.of:
            raise ConfigError(f"header={header!r} has no meaning for {kind} files: CSV alone.")
        make = partial(Csv.of, header=header)
    return FileSource.of(make, remote, files, columns or None)


def _ending(format: str | None) -> str:
    """Return the end of the names of files of a format; '' where their names tell it."""
    if format is None:
        return ""
    ending = f".{str(format).lower().removeprefix('.')}"
    if ending not in FORMATS:
        known = ", ".join(suffix[1:] for suffix in FORMATS)
        raise ConfigError(f"format={format!r} is unknown. Give one of {known}.")
    return ending


def suffix_of(path: str) -> str:
    """Return the end of a file's name that tells its format."""
    return next(suffix for suffix in FORMATS if path.lower().endswith(suffix))
