"""Parts of labelled output: Parquet files, each written in one step, and read back."""

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

ROW, LABEL = "row", "cluster_idx"
STAMP, BODY = b"ray_kmeans", b"ray_kmeans_sha256"
"""Keys in a part's footer: of which output it is, and the hash of all that is before the footer."""
ROW_GROUP = 2**17
DISTINCT = (ROW, "distance", "second_distance")
"""Columns whose values differ: a dictionary of them would cost time and room."""
READ_AT_ONCE = 8
SUCCESSOR = "run of another model, other data or other flags"

LabelCounts = tuple[NDArray[np.int64], NDArray[np.int64]]
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
    prefix: str = OLD_PREFIX
    """How the names of its parts begin."""
    home: str = ""
    """URL of the output, where the run's marker stands as long as it may write; '': it may."""

    def put(self, name: str, data: bytes) -> None:
        """Make `data` visible under a name here, in one step, while the run may write.

        Another run that takes the place over deletes the marker first, so it is looked for before,
        and once more afterwards: this process may have slept between the two.
        """
        if self._may_write():
            super().put(name, data)
            if self._may_write():
                return
            self._take_back(name)
        raise LeaseLostError(self._output.shown, SUCCESSOR)

    @cached_property
    def _output(self) -> Manifests:
        return Manifests(self.home or self.url, self.storage_options)

    def _may_write(self) -> bool:
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
        """Remove what was written too late, unless a manifest has it: then the bytes are right."""
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

    def index_of(self, name: str) -> int:
        """Return which part of the run has this name, in whatever folder."""
        return int(name[-16:-8]) - self.first_part

    def there(self, runs: Sequence[Sequence[Any]]) -> Iterator[tuple[int, Part, LabelCounts]]:
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
        with self.raise_store_errors(f"{self.shown!r} cannot be read"):
            try:
                found = self.fs.ls(self.path, detail=False)
            except FileNotFoundError:
                return set()
        return {str(path).rsplit("/", 1)[-1] for path in found}

    def table(self, index: int) -> pa.Table:
        """Return what was written as a part."""
        return pq.read_table(pa.BufferReader(self.read(self._name(index))))

    def read(self, name: str) -> bytes:
        """Return what was written under a name; an error where it is gone."""
        with self.raise_store_errors(f"{self.shown!r} cannot be read"):
            try:
                return bytes(self.fs.cat_file(f"{self.path}/{name}"))
            except FileNotFoundError:
                if self._may_write():
                    raise
        raise LeaseLostError(self._output.shown, SUCCESSOR)

    def _look(self, index: int, blocks: Sequence[Any]) -> tuple[Part, LabelCounts] | None:
        name = self._name(index)
        data = self.read(name)
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
        return f"{self.prefix}{self.first_part + index:08d}.parquet"


def find_damaged(
    place: publish.Place, parts: Sequence[Part], sizes: Mapping[str, int]
) -> list[Part]:
    """Return those parts that are not there as they were written, by their size and their hash.

    `sizes`: of all files of the place, by name.
    """

    def is_whole(part: Part) -> bool:
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
    """Tell whether these bytes are a part of the run whose stamp begins so, by its footer."""
    try:
        metadata = pq.read_metadata(pa.BufferReader(data)).metadata or {}
    except (pa.ArrowException, OSError):
        return False
    return bool(run) and metadata.get(STAMP, b"").startswith(run.encode())


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
