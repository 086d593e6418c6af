"""Parts of labelled output: Parquet files, each written in one step, and read back."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ray_kmeans.errors import DataError
from ray_kmeans.store import publish

ROW, LABEL = "row", "cluster_idx"
STAMP, BODY = b"ray_kmeans", b"ray_kmeans_sha256"
"""Keys in a part's footer: of which output it is, and the hash of all that is before the footer."""
ROW_GROUP = 2**17
DISTINCT = (ROW, "distance", "second_distance")
"""Columns whose values differ: a dictionary of them would cost time and room."""
READ_AT_ONCE = 8

Counts = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Labels, and how many rows have each."""


@dataclass(frozen=True)
class Part:
    """One file of the output."""

    name: str
    """From the root of the output on."""
    rows: int
    size: int
    """Bytes."""
    sha256: str


@dataclass(frozen=True, repr=False)
class Parts(publish.Place):
    """Where workers write the parts of one run."""

    stamp: str = ""
    """Names what the run writes: parts with another one are not taken for its own."""
    first_part: int = 0
    first_row: int = 0
    """Numbers of its first part and row; more than 0 where it adds to an output."""
    kept: pa.Schema | None = None
    """The types of the columns kept, in all parts; None: as the data have them."""

    def write(
        self,
        index: int,
        first_row: int,
        columns: Mapping[str, NDArray[Any]],
        kept: Sequence[pa.Table],
    ) -> Part:
        """Publish part `index`: the columns kept, of one table after the other, row, and these."""
        tables = [_as_kept(table, self.kept) for table in kept or ()]
        whole = pa.concat_tables(tables) if tables else pa.table({})
        table = dict(zip(whole.column_names, whole.columns, strict=True))
        first = self.first_row + first_row
        table[ROW] = pa.array(np.arange(first, first + len(columns[LABEL])))
        table |= {name: pa.array(values) for name, values in columns.items()}
        return self.publish(self._name(index), pa.table(table))

    def publish(self, name: str, table: pa.Table) -> Part:
        """Make a table visible as one file."""
        content = io.BytesIO()
        how = {
            "use_dictionary": [each for each in table.column_names if each not in DISTINCT],
            "column_encoding": {ROW: "DELTA_BINARY_PACKED"},
        }
        with pq.ParquetWriter(content, table.schema.remove_metadata(), **how) as writer:
            writer.write_table(table.replace_schema_metadata(), ROW_GROUP)
            body = publish.sha256(content.getvalue())
            writer.add_key_value_metadata({STAMP: self.stamp.encode(), BODY: body.encode()})
        data = content.getvalue()
        self.put(name, data)
        return Part(name, table.num_rows, len(data), publish.sha256(data))

    def there(self, runs: Sequence[Sequence[Any]]) -> Iterator[tuple[int, Part, Counts]]:
        """Yield the index, the part and the labels of each run of blocks that is there and whole.

        A part is read back, not believed: its hash and the rows of its clusters would otherwise
        need one more file for each. Labels are a small share of the data.
        """
        names = self.names()
        found = [index for index in range(len(runs)) if self._name(index) in names]
        with ThreadPoolExecutor(READ_AT_ONCE) as pool:
            looks = pool.map(lambda index: self._look(index, runs[index]), found)
            for index, part in zip(found, looks, strict=True):
                if part is not None:
                    yield index, *part

    def names(self) -> set[str]:
        """Return the names of the files here, without those in folders."""
        self.fs.invalidate_cache()
        try:
            found = self.fs.ls(self._root, detail=False)
        except FileNotFoundError:
            return set()
        return {str(path).rsplit("/", 1)[-1] for path in found}

    def table(self, index: int) -> pa.Table:
        """Return what was written as a part."""
        data = self.fs.cat_file(f"{self._root}/{self._name(index)}")
        return pq.read_table(pa.BufferReader(data))

    def _look(self, index: int, blocks: Sequence[Any]) -> tuple[Part, Counts] | None:
        name = self._name(index)
        data = bytes(self.fs.cat_file(f"{self._root}/{name}"))
        body = data[: -8 - int.from_bytes(data[-8:-4], "little")]
        try:
            file = pq.ParquetFile(pa.BufferReader(data))
        except (pa.ArrowException, OSError):
            return None
        said = {STAMP: self.stamp.encode(), BODY: publish.sha256(body).encode()}
        if not said.items() <= (file.metadata.metadata or {}).items():
            return None
        table = file.read([ROW, LABEL])
        rows, first = sum(block.rows for block in blocks), self.first_row + blocks[0].first
        if table.num_rows != rows or table[ROW][0].as_py() != first:
            return None
        labels, counts = np.unique(table[LABEL].to_numpy(), return_counts=True)
        return Part(name, rows, len(data), publish.sha256(data)), (labels, counts)

    def _name(self, index: int) -> str:
        return f"part-{self.first_part + index:08d}.parquet"


def _as_kept(table: pa.Table, kept: pa.Schema | None) -> pa.Table:
    """Return columns in the types of the output; DataError for a value that has none there."""
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
