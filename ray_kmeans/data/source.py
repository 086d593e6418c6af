"""What the rest of the house asks of data, and which source serves what the user gave."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ray_kmeans.data import bigann, vecs
from ray_kmeans.data.array import ArraySource
from ray_kmeans.data.bigann import BigAnn
from ray_kmeans.data.csv import Csv
from ray_kmeans.data.files import list_files
from ray_kmeans.data.format import FileSource, Make
from ray_kmeans.data.ipc import Ipc
from ray_kmeans.data.libraries import open_folder, opener_of
from ray_kmeans.data.npy import Npy
from ray_kmeans.data.npz import Npz
from ray_kmeans.data.parquet import Parquet
from ray_kmeans.data.plan import Block, Layout
from ray_kmeans.data.safetensors import Safetensors
from ray_kmeans.data.vecs import Vecs
from ray_kmeans.data.weighted import with_weights
from ray_kmeans.errors import ConfigError, DataError

FORMATS: Mapping[str, Make] = {
    ".parquet": Parquet.of,
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
}
"""By the end of a file's name: what makes of its first file, and the columns wanted, its format."""


@runtime_checkable
class Source(Protocol):
    """Rows in blocks, the same blocks every time. Travels to the workers by pickle.

    Where no format serves, write a source of your own: a class of the three methods below, which
    is given as `x` like any data. It must be importable, and its data readable, on every node; one
    that only this process can read says so by an attribute `only_here = True`. Inherit
    `ray_kmeans.testing.SourceContract` in a test of it. As an example, the squares of the numbers
    up to `rows`:

    >>> import numpy as np
    >>> import pyarrow as pa
    >>> from ray_kmeans import open_source
    >>> from ray_kmeans.data.plan import Layout, cut
    >>> class Squares:
    ...     def __init__(self, rows):
    ...         self.rows = rows
    ...
    ...     def describe(self):
    ...         return Layout(tuple(cut("squares", [self.rows], features=2)), features=2)
    ...
    ...     def read(self, blocks):
    ...         for block in blocks:
    ...             numbers = np.arange(block.start, block.start + block.rows, dtype=np.float32)
    ...             yield block, np.stack([numbers, numbers**2], axis=1)
    ...
    ...     def columns_of(self, block, names):
    ...         numbers = np.arange(block.start, block.start + block.rows)
    ...         return pa.table({"number": numbers}).select(names)

    `cut` makes blocks of at most BLOCK_ROWS rows from the rows of each part of a file (here one).

    >>> source = open_source(Squares(10_000))
    >>> [(block.start, block.rows) for block in source.describe().blocks]
    [(0, 8192), (8192, 1808)]
    >>> [rows[:2].tolist() for _, rows in source.read(source.describe().blocks)]
    [[[0.0, 0.0], [1.0, 1.0]], [[8192.0, 67108864.0], [8193.0, 67125248.0]]]
    """

    def describe(self) -> Layout:
        """Return all blocks, from metadata alone."""

    def read(self, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[np.float32]]]:
        """Read blocks, in the order given: (rows, features), C order."""

    def columns_of(self, block: Block, names: Sequence[str]) -> pa.Table:
        """Read other columns of the same rows, to be passed through to labelled output."""


def is_only_here(source: Any) -> bool:
    """Tell whether no other process can read a source (as with memory:// URLs)."""
    return bool(getattr(source, "only_here", False))


def open_source(
    x: Any,
    columns: Sequence[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    *,
    sample_weight: Any = None,
    filters: Any = None,
    nonfinite: str = "error",
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

    Raises
    ------
    ConfigError, DataError
        For what cannot be a data set.
    """
    check_nonfinite(nonfinite)
    source = _opened(x, columns, storage_options)
    return with_weights(source, sample_weight, filters, nonfinite == "drop")


def check_nonfinite(nonfinite: str) -> None:
    """Raise ConfigError for a way to treat rows that are not finite that there is not."""
    if nonfinite not in ("error", "drop"):
        raise ConfigError(f"nonfinite={nonfinite!r} is unknown. Give 'error' or 'drop'.")


def _opened(
    x: Any, columns: Sequence[str] | None, storage_options: Mapping[str, Any] | None
) -> Source:
    if isinstance(x, str | os.PathLike):
        return _open_files([os.fspath(x)], columns, storage_options or {})
    if isinstance(x, list | tuple) and x and all(isinstance(each, str | os.PathLike) for each in x):
        return _open_files([os.fspath(each) for each in x], columns, storage_options or {})
    if isinstance(x, Source):
        return x
    open_it = opener_of(x)
    if open_it:
        return open_it(x, columns)
    if isinstance(x, Mapping):  # the seed's rule: columns in the order of their sorted names
        return ArraySource.of(_side_by_side(x))
    if isinstance(x, pa.Table | pa.RecordBatch):
        return ArraySource.of_table(x, columns)
    return ArraySource.of(_as_array(x, f"x of type {type(x).__name__}"))


def _as_array(x: Any, what: str) -> NDArray[Any]:
    try:
        array = np.asarray(x)
    except ValueError as error:
        raise DataError(f"{what} is not a table of numbers: {error}.") from None
    if array.ndim == 0:
        kind = type(x).__name__
        raise DataError(f"x has shape (), as a {kind} has; it must be (rows, features).")
    return array


def _side_by_side(columns: Mapping[str, Any]) -> NDArray[Any]:
    if not all(isinstance(name, str) for name in columns):
        raise DataError(f"x is a dict of columns with the keys {list(columns)}; give their names.")
    parts = {name: _as_array(columns[name], f"column {name!r}") for name in sorted(columns)}
    lengths = {name: len(part) for name, part in parts.items()}
    if len(set(lengths.values())) != 1:
        raise DataError(f"x is a dict of columns with {lengths} rows; all must have the same.")
    return np.concatenate([part.reshape(len(part), -1) for part in parts.values()], axis=1)


def _open_files(
    uris: Sequence[str], columns: Sequence[str] | None, storage_options: Mapping[str, Any]
) -> Source:
    if len(uris) == 1 and not uris[0].lower().endswith(tuple(FORMATS)):
        found = open_folder(uris[0], columns, storage_options)
        if found:
            return found
    remote, files = list_files(uris, storage_options, tuple(FORMATS))
    kinds = {suffix_of(file.shown) for file in files}
    if len({FORMATS[kind] for kind in kinds}) > 1:
        raise ConfigError(
            f"{remote.shown!r} holds files of several formats: {', '.join(sorted(kinds))}. "
            f"Give a glob, as in {remote.shown.rstrip('/')}/*{sorted(kinds)[-1]}."
        )
    return FileSource.of(FORMATS[kinds.pop()], remote, files, columns or None)


def suffix_of(path: str) -> str:
    """Return the end of a file's name that tells its format."""
    return next(suffix for suffix in FORMATS if path.lower().endswith(suffix))
