"""Turn objects of other libraries that hold rows in memory into NumPy arrays or Arrow tables.

The objects are known by their methods or by the names of their classes: no library is imported to
know its objects.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ray_kmeans.data.datasets.ray_batch import as_column
from ray_kmeans.errors import ConfigError, DataError, RayKMeansError

FAILURES = (ValueError, TypeError, RuntimeError, AttributeError, pa.ArrowException)
"""Exceptions by which libraries tell that an object cannot be converted."""
SMALL_FLOATS = ("bfloat16", "float8_", "float6_", "float4_")
"""Beginnings of the names of number types that NumPy lacks; float32 holds all their values."""


def is_frame(x: Any) -> bool:
    """Tell whether `x` has named columns, as frames of pandas and polars and structured arrays."""
    hands_over = hasattr(x, "__arrow_c_stream__") or hasattr(x, "__dataframe__")
    named = isinstance(x, np.ndarray) and x.ndim == 1 and x.dtype.names is not None
    return named or (hands_over and hasattr(x, "columns")) or isinstance(x, pa.RecordBatchReader)


def table_of(x: Any) -> pa.Table:
    """Return a frame as an Arrow table, without the index of pandas."""
    try:
        if isinstance(x, np.ndarray):
            names = x.dtype.names or ()
            return pa.table(
                {name: as_column(as_array(x[name], f"column {name!r}")) for name in names}
            )
        if type(x).__module__.partition(".")[0] == "pandas":
            return pa.Table.from_pandas(x, preserve_index=False)
        if hasattr(x, "__arrow_c_stream__"):
            return pa.table(x)
        from pyarrow import interchange

        return interchange.from_dataframe(x)
    except FAILURES as error:
        raise DataError(
            f"x of type {type(x).__name__} is not a table: {_first_sentence(error)}"
        ) from None


def rows_of_columns(
    columns: Mapping[str, Any], wanted: Sequence[str] | None
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Return a dict of columns as rows (n, d), and the names in order: as `wanted`, or sorted."""
    if not all(isinstance(name, str) for name in columns):
        raise DataError(f"x is a dict of columns with the keys {list(columns)}; give their names.")
    names = tuple(wanted or sorted(columns))
    missing = [name for name in names if name not in columns]
    if missing:
        raise ConfigError(f"columns={missing} are not in x, which has {sorted(columns)}.")
    parts = {name: as_array(columns[name], f"column {name!r}") for name in names}
    lengths = {name: len(part) for name, part in parts.items()}
    if len(set(lengths.values())) != 1:
        raise DataError(f"x is a dict of columns with {lengths} rows; all must have the same.")
    for name, part in parts.items():
        if part.dtype.kind not in "biuf":
            raise DataError(f"column {name!r} holds {part.dtype}, which is not a number type.")
    rows = [part.reshape(len(part), math.prod(part.shape[1:])) for part in parts.values()]
    return np.concatenate(rows, axis=1), names


def as_array(x: Any, what: str) -> NDArray[Any]:
    """Return `x` as an array, with NaN where it is masked; DataError if it is no dense array.

    `what` names it in messages.
    """
    refuse_sparse(x, what)
    try:
        array = _array_of(x, what)
    except RayKMeansError:
        raise
    except FAILURES as error:
        raise DataError(f"{what} is not a table of numbers: {_first_sentence(error)}") from None
    if array.ndim == 0:
        kind = type(x).__name__
        raise DataError(f"x has shape (), as a {kind} has; it must be (rows, features).")
    if array.dtype.kind == "V" and array.dtype.name.startswith(SMALL_FLOATS):
        return array.astype(np.float32)
    if array.dtype == object and array.ndim == 1 and all(isinstance(e, _SEQUENCES) for e in array):
        return as_array(list(array), what)  # a column of vectors
    return array


_SEQUENCES = (list, tuple, np.ndarray)
"""Types of a vector in an array of objects."""


def _array_of(x: Any, what: str) -> NDArray[Any]:
    """Return `x` as an array, in the way of its kind."""
    if isinstance(x, np.ma.MaskedArray):
        return _from_masked(x)
    if _is_of(x, "torch") and hasattr(x, "detach"):
        return _from_torch(x)
    if hasattr(x, "__cuda_array_interface__") and hasattr(x, "get"):
        return np.asarray(x.get())
    if isinstance(x, list | tuple):
        return _from_list(x, what)
    if hasattr(x, "__dlpack__") and not hasattr(x, "__array__"):
        return np.from_dlpack(x)
    return np.asarray(x)


def _from_masked(x: Any) -> NDArray[Any]:
    """Return a masked array as a plain one, with NaN where it is masked."""
    if x.dtype.kind not in "biuf" or not np.ma.getmaskarray(x).any():
        return np.asarray(x.data)
    floats = x.astype(np.result_type(x.dtype, np.float32))
    return np.asarray(floats.filled(np.nan))


def _from_torch(x: Any) -> NDArray[Any]:
    """Return the values of a tensor on any device; types that NumPy lacks become float32."""
    x = x.detach().cpu().resolve_conj().resolve_neg()
    name = str(x.dtype).removeprefix("torch.")
    return np.asarray((x.float() if name.startswith(SMALL_FLOATS) else x).numpy())


def _from_list(x: Sequence[Any], what: str) -> NDArray[Any]:
    """Return a list of rows as an array; each row may itself be an object of another library."""
    rows = [
        as_array(row, f"row {number} of {what}") if hasattr(row, "ndim") and row.ndim else row
        for number, row in enumerate(x)
    ]
    if any(isinstance(row, Mapping) for row in rows):
        raise DataError(
            f"{what} holds dicts, one for each row. Give a table that is made of them, as by "
            "pyarrow.Table.from_pylist(x), or a dict of columns."
        )
    lengths = [len(row) if hasattr(row, "__len__") else None for row in rows]
    usual = Counter(lengths).most_common(1)[0][0] if lengths else None
    if len(set(lengths)) > 1:
        odd = next(number for number, length in enumerate(lengths) if length != usual)
        raise DataError(
            f"{what} is not a table of numbers: row {odd} has {_size(lengths[odd])} and row "
            f"{lengths.index(usual)} {_size(usual)}; all rows must have the same length."
        )
    return np.asarray(rows)


def _size(length: int | None) -> str:
    """Return the length of a row in words; None is a row that has none."""
    return "no length, as a single value," if length is None else f"{length} features"


def way_to_dense(x: Any) -> str:
    """Return the code that makes a sparse array dense, as 'x.toarray()'; '' if `x` is dense."""
    if _is_of(x, "torch") and hasattr(x, "layout"):
        return "" if str(x.layout) == "torch.strided" else "x.to_dense()"
    if hasattr(x, "dense_shape") and hasattr(x, "indices"):
        return "tf.sparse.to_dense(x)"
    ways = (name for name in ("toarray", "todense") if hasattr(x, "nnz") and hasattr(x, name))
    return next((f"x.{name}()" for name in ways), "")


def refuse_sparse(x: Any, what: str) -> None:
    """Raise DataError if `x` is sparse; `what` names it in the message."""
    way = way_to_dense(x)
    if way:
        raise DataError(
            f"{what} is sparse, of shape {tuple(x.shape)}, and rows are dense here. Give {way}, or "
            "that of some rows after the others to partial_fit."
        )


def _is_of(x: Any, library: str) -> bool:
    """Tell whether the class of an object, or a base of it, is defined in a library."""
    return any(base.__module__.partition(".")[0] == library for base in type(x).__mro__)


def _first_sentence(error: BaseException) -> str:
    """Return the first line of an error's text, as a sentence."""
    text = "; ".join(map(str, error.args)).strip() or type(error).__name__
    first: str = text.splitlines()[0]
    return first if first.endswith((".", "!")) else f"{first}."
