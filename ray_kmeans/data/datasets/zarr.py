"""Read Zarr: a two-dimensional array in chunks, of format 2 or 3, on any fsspec store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from ray_kmeans.algorithm.dtypes import narrow_name
from ray_kmeans.data.columns import no_columns
from ray_kmeans.data.datasets.base import raise_data_errors
from ray_kmeans.data.float32_rounding import RoundedSource
from ray_kmeans.data.sharding import (
    BLOCK_ROWS,
    Block,
    Layout,
    cut,
    groups_of,
)
from ray_kmeans.errors import (
    ConfigError,
    DataError,
    NoDataError,
    install_hint,
)
from ray_kmeans.io.remote import Remote
from ray_kmeans.io.retry import protocols_of


@dataclass(frozen=True)
class ZarrSource(RoundedSource):
    """The rows of an array. A row group is as many chunks as fit into a block, at least one.

    A chunk that is not stored has the fill value, as always in Zarr.
    """

    array: Any
    """zarr.Array of shape (rows, features), which opens its store anew in another process."""
    name: str
    """Path of the array as people may see it."""
    only_here: bool = False
    """Whether no other process can read the array."""
    shift: tuple[float, ...] = ()
    """Shift (d,) subtracted from each column before rounding; () for none."""
    block_rows: int = BLOCK_ROWS
    """Largest number of rows of a block."""

    def describe(self) -> Layout:
        """Return the layout; a row group is whole chunks of the array, or whole shards."""
        rows, features = self.array.shape
        of_chunk = (getattr(self.array, "shards", None) or self.array.chunks)[0]
        part = max(self.block_rows // of_chunk, 1) * of_chunk
        parts = [min(part, rows - start) for start in range(0, rows, part)]
        blocks = tuple(cut(self.name, parts, features, block_rows=self.block_rows))
        return Layout(blocks, features, narrow_name(self.array.dtype))

    def read_wide(self, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[Any]]]:
        """Yield blocks and their rows; the wanted rows of a row group are read at once."""
        for wanted in groups_of(tuple(blocks)):
            begin = min(block.start for block in wanted)
            end = max(block.start + block.rows for block in wanted)
            with raise_data_errors(f"row group {wanted[0].group} of {self.name}"):
                part = self.array[begin:end]  # in one read, as a chunk is decoded whole
            for block in wanted:
                rows = part[block.start - begin :][: block.rows]
                yield block, rows

    def columns_of(self, block: Block, names: Sequence[str]) -> pa.Table:
        raise no_columns(names, self.name)


def open_zarr(x: Any, columns: Sequence[str] | None) -> ZarrSource:
    """Return the source of a zarr.Array."""
    return _source(x, str(x.store_path), columns, only_here=_in_memory(x.store))


def open_zarr_folder(
    uri: str, columns: Sequence[str] | None, storage_options: Mapping[str, Any]
) -> ZarrSource:
    """Return the source of the array in a folder; `storage_options` are those of fsspec."""
    remote = Remote(uri, storage_options)
    try:
        import zarr
    except ImportError:
        raise ConfigError(
            f"{remote.shown!r} needs Zarr, which is not installed. {install_hint('zarr')}"
        ) from None
    if not remote.fs.isdir(remote.path):
        raise NoDataError(f"{remote.shown!r} does not exist. Give the folder of a Zarr array.")
    with raise_data_errors(remote.shown):
        store = zarr.storage.FsspecStore.from_url(
            uri, storage_options=dict(storage_options), read_only=True
        )
        found = zarr.open(store, mode="r")
    if isinstance(found, zarr.Group):
        arrays = [f"{remote.shown.rstrip('/')}/{name}" for name in sorted(found.array_keys())]
        raise ConfigError(f"{remote.shown!r} is a group of arrays. Give one of them: {arrays}.")
    return _source(found, remote.shown, columns, only_here=remote.only_here)


def _source(array: Any, name: str, columns: Sequence[str] | None, *, only_here: bool) -> ZarrSource:
    """Return the source of an array; errors for named columns, and for other shapes."""
    if columns:
        raise ConfigError(f"columns={list(columns)} has no meaning for {name}: Zarr has none.")
    if array.ndim != 2 or array.shape[1] == 0 or array.dtype.kind not in "biuf":
        raise DataError(
            f"{name} holds {array.dtype} of shape {array.shape}; "
            "it must be a table of numbers (rows, features)."
        )
    return ZarrSource(array, name, only_here)


def _in_memory(store: Any) -> bool:
    """Tell whether a store of Zarr is in this process's memory."""
    fs = getattr(store, "fs", None)
    return "Memory" in type(store).__name__ or (fs is not None and "memory" in protocols_of(fs))
