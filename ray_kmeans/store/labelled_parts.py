"""Parts of labelled output: Parquet files, each written in one step, and read back.

A part tells in its footer of which run it is (`STAMP`) and the hash of all bytes before the footer
(`BODY`). So a run that goes on trusts no name: it reads a part, compares both, and writes it again
where one differs.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ray_kmeans.errors import DataError, LeaseLostError
from ray_kmeans.io import publish
from ray_kmeans.store.labelled_manifests import Manifests
from ray_kmeans.store.labelled_names import OLD_PREFIX, marker_of

ROW = "row"
"""Column of the row's number in the output."""
LABEL = "cluster_idx"
"""Column of the row's label; -1 for a row that is left out."""
LISTED = "nearest_cluster_idx"
"""Column of the list of a row's nearest clusters."""
STAMP = b"ray_kmeans"
"""Key in a part's footer of the stamp of its run."""
BODY = b"ray_kmeans_sha256"
"""Key in a part's footer of the SHA-256 of all bytes before the footer."""
ROW_GROUP = 2**17
"""Rows of a row group of Parquet."""
DISTINCT = (ROW, "distance", "second_distance")
"""Columns whose values hardly repeat: a dictionary of them would cost time and room."""
READ_AT_ONCE = 8
"""Number of threads that read parts."""
SUCCESSOR = "run of another model, other data or other flags"
"""The run that has taken over, in a message: its marker is not known to the one that lost."""

LabelCounts = tuple[NDArray[np.int64], NDArray[np.int64]]
"""The labels that some rows have, ascending, and the number of rows of each: (m,), (m,)."""


@dataclass(frozen=True)
class Part:
    """A file of the output, as the manifest tells it."""

    name: str
    """Name of the file, from the root of the output on."""
    rows: int
    """Number of rows."""
    size: int
    """Size of the file in bytes."""
    sha256: str
    """SHA-256 of the file, in hexadecimal."""


@dataclass(frozen=True, repr=False)
class Parts(publish.Place):
    """The place where workers write the parts of one run."""

    stamp: str = ""
    """Hash of the run's marker; parts with another one are not taken for the run's own."""
    first_part: int = 0
    """Number of the run's first part; more than 0 if the run adds to an output."""
    first_row: int = 0
    """Number of the run's first row in the output."""
    kept: pa.Schema | None = None
    """Types of the columns kept, the same in all parts; None: as the data have them."""
    prefix: str = OLD_PREFIX
    """Begin of the names of the run's parts."""
    home: str = ""
    """URL of the output; the run may write while its marker is there. '': it may always write."""

    def put(self, name: str, data: bytes) -> None:
        """Make `data` visible under a name here, in one step, if the run may write.

        A run that takes the place over deletes foreign markers first. So the marker of this run is
        looked for before the write, and once more after it: this process may have slept between the
        two, and then the file is taken back. Raises LeaseLostError if the marker is gone.
        """
        if self._may_write():
            super().put(name, data)
            if self._may_write():
                return
            self._take_back(name)
        raise LeaseLostError(self._output.shown, SUCCESSOR)

    @cached_property
    def _output(self) -> Manifests:
        """The manifests of the output."""
        return Manifests(self.home or self.url, self.storage_options)

    def _may_write(self) -> bool:
        """Return whether the marker of the run is there."""
        if not self.home:
            return True
        with self._output.raise_store_errors(
            f"{self._output.shown!r} cannot be checked for other runs"
        ):
            self.fs.invalidate_cache()
            try:
                self.fs.info(f"{self._output.path}/{marker_of(self.stamp)}")
            except FileNotFoundError:
                return False
        return True

    def _take_back(self, name: str) -> None:
        """Remove a file that was written too late; one in a manifest has the right bytes."""
        named = {part["name"] for part in self._output.newest().get("parts", ())}
        if self.url != self.home or name not in named:
            with contextlib.suppress(FileNotFoundError):
                self.fs.rm_file(f"{self.path}/{name}")

    def write(
        self,
        index: int,
        first_row: int,
        columns: Mapping[str, NDArray[Any]],
        kept: Sequence[pa.Table],
    ) -> Part:
        """Publish part `index`: the columns kept, the row numbers, then `columns`.

        Parameters
        ----------
        index : int
            Index of the part in the run.
        first_row : int
            Index of its first row in the run.
        columns : mapping of (n,) arrays
            Labels and distances, by the names of their columns; lists (n, m) have m of each row.
        kept : sequence of pyarrow.Table
            The columns kept of the n rows, one table after the other; empty for none.
        """
        tables = [_as_kept(table, self.kept) for table in kept or ()]
        whole = pa.concat_tables(tables) if tables else pa.table({})
        table = dict(zip(whole.column_names, whole.columns, strict=True))
        first = self.first_row + first_row
        table[ROW] = pa.array(np.arange(first, first + len(columns[LABEL])))
        table |= {name: _as_column(values) for name, values in columns.items()}
        return self.publish(self._name(index), pa.table(table))

    def publish(self, name: str, table: pa.Table) -> Part:
        """Make a table visible as one file, with stamp and hash in its footer."""
        content = io.BytesIO()
        options = {
            "use_dictionary": [
                *(each for each in table.column_names if each not in DISTINCT),
                f"{LISTED}.list.element",
            ],
            "column_encoding": {ROW: "DELTA_BINARY_PACKED"},
        }
        with pq.ParquetWriter(content, table.schema.remove_metadata(), **options) as writer:
            writer.write_table(table.replace_schema_metadata(), ROW_GROUP)
            body = publish.sha256(content.getvalue())
            writer.add_key_value_metadata({STAMP: self.stamp.encode(), BODY: body.encode()})
        data = content.getvalue()
        self.put(name, data)
        return Part(name, table.num_rows, len(data), publish.sha256(data))

    def index_of(self, name: str) -> int:
        """Return the index in the run of the part with this name, in whatever folder."""
        return int(name[-16:-8]) - self.first_part

    def read_back(self, runs: Sequence[Sequence[Any]]) -> Iterator[tuple[int, Part, LabelCounts]]:
        """Yield (index, part, labels) of each part that is there and whole.

        `runs`: the blocks of each part. A part is read to know its hash and its labels: a note of
        them would be one more file for each part, and labels are small beside the data.
        """
        names = self.list_names()
        found = [index for index in range(len(runs)) if self._name(index) in names]
        with ThreadPoolExecutor(READ_AT_ONCE) as pool:
            parts = pool.map(lambda index: self._read_part(index, runs[index]), found)
            for index, part in zip(found, parts, strict=True):
                if part is not None:
                    yield index, *part

    def list_names(self) -> set[str]:
        """Return the names of the files here; files in folders are not listed."""
        self.fs.invalidate_cache()
        with self.raise_store_errors(f"{self.shown!r} cannot be read"):
            try:
                found = self.fs.ls(self.path, detail=False)
            except FileNotFoundError:
                return set()
        return {str(path).rsplit("/", 1)[-1] for path in found}

    def read_table(self, index: int) -> pa.Table:
        """Return a part as a table."""
        return pq.read_table(pa.BufferReader(self.read(self._name(index))))

    def read(self, name: str) -> bytes:
        """Return the content of a file; LeaseLostError if a run that took over removed it."""
        with self.raise_store_errors(f"{self.shown!r} cannot be read"):
            try:
                return bytes(self.fs.cat_file(f"{self.path}/{name}"))
            except FileNotFoundError:
                if self._may_write():
                    raise
        raise LeaseLostError(self._output.shown, SUCCESSOR)

    def _read_part(self, index: int, blocks: Sequence[Any]) -> tuple[Part, LabelCounts] | None:
        """Return a part and its labels; None if it is not what this run writes there."""
        name = self._name(index)
        data = self.read(name)
        body = data[: -8 - int.from_bytes(data[-8:-4], "little")]
        try:
            file = pq.ParquetFile(pa.BufferReader(data))
        except (pa.ArrowException, OSError):
            return None
        expected = {STAMP: self.stamp.encode(), BODY: publish.sha256(body).encode()}
        if not expected.items() <= (file.metadata.metadata or {}).items():
            return None
        table = file.read([ROW, LABEL])
        rows, first = sum(block.rows for block in blocks), self.first_row + blocks[0].first
        if table.num_rows != rows or table[ROW][0].as_py() != first:
            return None
        labels, counts = np.unique(table[LABEL].to_numpy(), return_counts=True)
        return Part(name, rows, len(data), publish.sha256(data)), (labels, counts)

    def _name(self, index: int) -> str:
        """Return the name of a part."""
        return f"{self.prefix}{self.first_part + index:08d}.parquet"


def find_damaged(
    place: publish.Place, parts: Sequence[Part], sizes: Mapping[str, int]
) -> list[Part]:
    """Return the parts that are missing or not as they were written, by their size and their hash.

    `sizes`: size in bytes of each file of the place, by name.
    """

    def is_whole(part: Part) -> bool:
        """Return whether a part has the size and the hash that it was written with."""
        if sizes.get(part.name) != part.size:
            return False
        try:
            data = place.fs.cat_file(f"{place.path}/{part.name}")
        except FileNotFoundError:
            return False
        return publish.sha256(data) == part.sha256

    with ThreadPoolExecutor(READ_AT_ONCE) as pool:
        return [part for part, ok in zip(parts, pool.map(is_whole, parts), strict=True) if not ok]


def is_of_run(data: bytes, run: str) -> bool:
    """Return whether these bytes are a part of a run, by the stamp in its footer.

    `run`: the begin of the stamp.
    """
    try:
        metadata = pq.read_metadata(pa.BufferReader(data)).metadata or {}
    except (pa.ArrowException, OSError):
        return False
    return bool(run) and metadata.get(STAMP, b"").startswith(run.encode())


def _as_column(values: NDArray[Any]) -> pa.Array:
    """Return an array (n,) as a column of numbers, or (n, m) as one of lists of m numbers."""
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def _as_kept(table: pa.Table, kept: pa.Schema | None) -> pa.Table:
    """Return a table in the types of the output; DataError for a value that does not fit them."""
    if kept is None or table.schema.equals(kept):
        return table
    columns = {}
    for field in kept:
        try:
            columns[field.name] = table.column(field.name).cast(field.type)
        except pa.ArrowException as error:
            raise DataError(
                f"keep_columns: column {field.name!r} is {field.type} in the output, and holds a "
                f"value that this cannot be: {str(error).splitlines()[0]} Write the files anew "
                "with one type, or do not keep it."
            ) from None
    return pa.table(columns)
