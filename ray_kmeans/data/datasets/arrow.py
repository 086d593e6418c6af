"""Read a pyarrow.dataset.Dataset: its Parquet or Arrow IPC files, with its own schema."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import pyarrow as pa

from ray_kmeans.data.columns import is_vector
from ray_kmeans.data.datasets.base import TableSource, raise_data_errors
from ray_kmeans.data.files import File
from ray_kmeans.data.formats.base import HEADS_AT_ONCE
from ray_kmeans.data.formats.parquet import BATCH_ROWS
from ray_kmeans.data.record_batches import tables_of_blocks
from ray_kmeans.data.schema_promotion import filled
from ray_kmeans.data.sharding import Block, groups_of, passes_over
from ray_kmeans.errors import ConfigError, DataError, NoDataError
from ray_kmeans.io.retry import protocols_of

NAME = "the dataset"
"""Name of every such data set, for messages."""


@dataclass(frozen=True)
class ArrowDataset:
    """The files of a dataset; an IPC file counts as one row group, and is read from its start."""

    fragments: tuple[Any, ...]
    """pyarrow's fragment for each file."""
    schema: pa.Schema
    """All columns, with the dataset's types."""
    files: tuple[File, ...]
    """Files as they were when the dataset was given, in its order."""
    batch_rows: int = BATCH_ROWS
    """Number of rows decoded at once."""

    name = NAME
    """Name of the data set, for messages."""

    def parts(self) -> list[tuple[str, tuple[int, ...]]]:
        """Return the path of each file with the rows of its row groups; reads all footers in
        threads."""
        with ThreadPoolExecutor(HEADS_AT_ONCE) as pool:
            rows = list(pool.map(_rows_of, self.fragments))
        return [(file.path, of_file) for file, of_file in zip(self.files, rows, strict=True)]

    def read(self, blocks: Sequence[Block], names: Sequence[str]) -> Iterator[tuple[Block, Any]]:
        """Yield blocks with their tables; a file that changes while it is read raises DataError."""
        for path, of_file in groupby(blocks, key=lambda block: block.file):
            fragment, file = self._by_path[path]
            file.check(_file_of(fragment))
            for group in groups_of(tuple(of_file)):
                part = _part(fragment, group[0].group)
                for run in passes_over(group):
                    yield from tables_of_blocks(self._batches(part, names), run)
            file.check(_file_of(fragment))

    def _batches(self, part: Any, names: Sequence[str]) -> Iterator[Any]:
        """Yield batches of a fragment or row group, read ahead by one batch at most."""
        options: dict[str, Any] = {"batch_readahead": 1, "fragment_readahead": 1}
        if _is_parquet(part):
            import pyarrow.dataset as ds

            frugal = ds.ParquetFragmentScanOptions(pre_buffer=False, use_buffered_stream=True)
            options["fragment_scan_options"] = frugal
        batches: Iterator[Any] = part.to_batches(
            self.schema, list(names), batch_size=self.batch_rows, use_threads=False, **options
        )
        return batches

    @cached_property
    def _by_path(self) -> dict[str, tuple[Any, File]]:
        """Fragment and file by path."""
        pairs = zip(self.fragments, self.files, strict=True)
        return {file.path: (fragment, file) for fragment, file in pairs}


def open_dataset(x: Any, columns: Sequence[str] | None) -> TableSource:
    """Return the source of a pyarrow.dataset.Dataset of files, in the dataset's order.

    If no columns are named, they are chosen among those in the files, not the keys of partitions.
    """
    try:
        fragments = tuple(x.get_fragments())
    except ValueError:
        raise ConfigError(
            "x is a dataset with a filter, whose rows are unknown before all are read. Give "
            "x.to_table(), or write what it leaves with pyarrow.dataset.write_dataset(x, folder)."
        ) from None
    if not fragments:
        raise NoDataError("x is a dataset without a file.")
    _check(x, fragments)
    with raise_data_errors(NAME), ThreadPoolExecutor(HEADS_AT_ONCE) as pool:
        files = tuple(pool.map(_file_of, fragments))
        of_files = list(pool.map(_schema_of, fragments))
    schema = _whole_schema(x.schema, of_files, columns)
    there = {name for of_file in of_files for name in of_file.names}
    stored = pa.schema([field for field in schema if field.name in there])
    tables = ArrowDataset(fragments, schema, files)
    only_here = _in_memory(fragments[0].filesystem)
    return TableSource.of(tables, columns, stored, only_here=only_here)


def _check(x: Any, fragments: Sequence[Any]) -> None:
    """Raise ConfigError unless all fragments are Parquet or IPC files, each there once."""
    paths = set()
    for fragment in fragments:
        path = getattr(fragment, "path", None)
        kind = getattr(getattr(fragment, "format", None), "default_extname", "memory")
        if not path or kind not in ("parquet", "arrow", "feather", "ipc"):
            raise ConfigError(
                f"x is a {type(x).__name__} of {kind}; it must be one of Parquet or Arrow IPC "
                "files. Give x.to_table(), or the files by their URI."
            )
        if path in paths:
            raise ConfigError(f"x is a dataset that holds {path} twice. Give each file once.")
        paths.add(path)


def _schema_of(fragment: Any) -> pa.Schema:
    """Return the columns that a file holds."""
    with raise_data_errors(fragment.path):
        return fragment.physical_schema


def _whole_schema(
    schema: pa.Schema, of_files: Sequence[pa.Schema], columns: Sequence[str] | None
) -> pa.Schema:
    """Return the schema of the dataset, with types for columns of nulls from other files.

    pyarrow may have made the schema from the first file alone. So ConfigError is raised if another
    file has a column of vectors that the schema lacks, and no columns are named.
    """
    vectors = {f.name: f for of_file in of_files for f in of_file if is_vector(f.type)}
    lost = [name for name in vectors if name not in schema.names]
    if lost and not columns:
        raise ConfigError(
            f"x is a dataset whose schema {schema.names} has no {lost}, which some of its files "
            "have. Give it a schema, or the columns that are meant."
        )
    return filled(schema, of_files)


def _is_parquet(fragment: Any) -> bool:
    """Tell whether a fragment is a Parquet file."""
    return bool(fragment.format.default_extname == "parquet")


def _in_memory(filesystem: Any) -> bool:
    """Tell whether pyarrow reads fsspec's memory://, which no other process sees."""
    fs = getattr(getattr(filesystem, "handler", None), "fs", None)
    return fs is not None and "memory" in protocols_of(fs)


def _rows_of(fragment: Any) -> tuple[int, ...]:
    """Return the number of rows of each row group of a file."""
    with raise_data_errors(fragment.path):
        if _is_parquet(fragment):
            return tuple(group.num_rows for group in fragment.row_groups)
        return (fragment.count_rows(),)


def _part(fragment: Any, group: int) -> Any:
    """Return the fragment of one row group."""
    if not _is_parquet(fragment):
        return fragment
    return fragment.subset(row_group_ids=[fragment.row_groups[group].id])


def _file_of(fragment: Any) -> File:
    """Return the file of a fragment as it is now; DataError if it is gone."""
    info = fragment.filesystem.get_file_info(fragment.path)
    if not info.is_file:
        raise DataError(f"{fragment.path} is gone since the dataset was made.")
    return File(fragment.path, info.size, str(info.mtime_ns or ""))
