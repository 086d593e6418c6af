"""Define what a file format does, and make a source of files of one format.

- `Format` reads files whose rows have no named columns, `Tabular` files with columns to choose.
- `FileSource` is the source of all files. It reads the head (or look, if tabular) of each file
  once, many at a time, and fails if a file has changed since.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import groupby
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

import pyarrow as pa
from numpy.typing import NDArray

from ray_kmeans.data import columns as arrow
from ray_kmeans.data import hive_keys
from ray_kmeans.data.column_choice import (
    Span,
    check_columns,
    choose_among,
    counts_rows,
)
from ray_kmeans.data.files import File
from ray_kmeans.data.float32_rounding import RoundedSource
from ray_kmeans.data.schema_promotion import common_schema
from ray_kmeans.data.sharding import (
    BLOCK_ROWS,
    Block,
    Layout,
    cut,
)
from ray_kmeans.errors import (
    ConfigError,
    DataError,
    NoColumnError,
    RayKMeansError,
    RequestError,
)
from ray_kmeans.io.ranges import Ranges
from ray_kmeans.io.remote import Remote

HEADS_AT_ONCE = 16
"""Largest number of files whose heads are read at the same time."""

T = TypeVar("T")
"""Answer of a call to each file."""


class OpenFile:
    """An open file, read by byte range or through a file object."""

    def __init__(self, remote: Remote, file: File) -> None:
        """Take note of a file; nothing is opened before the first read."""
        self._remote = remote
        self._path = file.path
        self.path = file.shown
        """Path as people may see it, for messages."""
        self.kind = file.kind
        """Text whose end tells the format, as '.csv.gz'."""
        self.size = file.size
        """Size in bytes when the run was planned."""
        self.local = file.path if remote.is_protocol("file") else None
        """Path on this machine's file system; None if the file is on another store."""

    def cat(self, begin: int, end: int) -> bytes:
        """Return the bytes [begin, end), fewer only at the end of the file."""
        end = min(end, self.size)
        data = bytes(self._remote.fs.cat_file(self._path, start=begin, end=end))
        if len(data) > end - begin:
            raise DataError(
                f"{self.path}: the server sends {len(data):,} bytes where {end - begin:,} were "
                "asked for. It must serve ranges."
            )
        return data

    @cached_property
    def handle(self) -> Any:
        """A file object, closed together with the file."""
        return self.new_handle()

    def new_handle(self) -> Any:
        """Return a file object of its own, which the caller must close."""
        return open(self.local, "rb") if self.local else Ranges(self.cat, self.size)

    def close(self) -> None:
        """Close the file, if anything opened it."""
        if "handle" in self.__dict__:
            self.handle.close()


@contextmanager
def open_file(remote: Remote, file: File) -> Iterator[OpenFile]:
    """Open a file; DataError for errors inside because it is damaged, or has another format."""
    here = OpenFile(remote, file)
    try:
        yield here
    except RayKMeansError:
        raise
    except (pa.ArrowException, OSError, EOFError, ValueError) as error:
        cause = remote.redact(str(error)).replace("\n", " ")
        raise DataError(f"cannot read {file.shown}: {cause}") from None
    finally:
        here.close()


@dataclass(frozen=True)
class Head:
    """The sizes and types of a file's rows, known without reading the rows."""

    group_rows: tuple[int, ...]
    """Number of rows of each row group; one number if the format has no groups."""
    features: int
    """Number of features of a row; 0 if no row tells it."""
    kind: str = ""
    """Kind of the rows in words, in which all files must agree; '' if it does not matter."""
    narrow: str | None = None
    """Name of the number type of all values if it is narrower than float32 (`algorithm.dtypes`)."""
    is_read_whole: bool = False
    """Whether all rows of a row group are in memory while some of them are read."""


@dataclass(frozen=True)
class Look:
    """The columns of a file, whichever of them will make up a row."""

    schema: pa.Schema
    """All columns with their types; empty if the file has no row and no header."""
    group_rows: tuple[int, ...] = ()
    """Number of rows of each row group; () if rows are counted only later, by `head_of`."""
    lengths: Mapping[str, int] = field(default_factory=dict)
    """Length of the first vector of columns whose type does not tell it; 0 if all are null."""
    spans: Mapping[str, Span] = field(default_factory=dict)
    """(least, largest, count) of the numbers of columns that may be keys of the rows."""
    doubtful: Mapping[str, str] = field(default_factory=dict)
    """Columns that could be features although their types do not tell so, with what they hold."""
    is_read_whole: bool = False
    """Whether all rows of a row group are in memory while some of them are read."""
    facts: dict[tuple[str, ...], Head] = field(default_factory=dict, compare=False)
    """Cache of what the schema tells of rows, by their columns; shared by looks of equal schema."""

    def tells(self, names: Sequence[str]) -> bool:
        """Tell whether the number of features of a row made of these columns is known."""
        if not self.schema:  # the file has no rows
            return True
        return bool(arrow.features_of(self.schema, names)) or names[0] in self.lengths

    def head(self, names: Sequence[str], place: str) -> Head:
        """Return the head of a file whose rows have these columns; ConfigError if none can.

        Thousands of files may share one schema, so what it tells is worked out once (`facts`).
        """
        known = self.facts.get(tuple(names))
        if known is None:
            check_columns(self.schema, names, place)
            features = arrow.features_of(self.schema, names)
            kind, narrow = arrow.kind_of(self.schema, names), arrow.narrow_of(self.schema, names)
            known = self.facts[tuple(names)] = Head((), features, kind, narrow)
        features = known.features or self.lengths.get(names[0], 0)
        return Head(self.group_rows, features, known.kind, known.narrow, self.is_read_whole)


class Format(Protocol):
    """A reader of files of one kind, without named columns. It travels to workers by pickle."""

    def head(self, file: OpenFile) -> Head:
        """Return the sizes and types of the file's rows."""

    def read(self, file: OpenFile, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[Any]]]:
        """Read some of its blocks, in the order given: (rows, features) of any number type."""

    def columns_of(self, file: OpenFile, block: Block, names: Sequence[str]) -> pa.Table:
        """Read other columns of the rows of a block."""


@runtime_checkable
class Tabular(Protocol):
    """A reader of files with named columns, some of which make up a row."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the column of vectors, or of the columns of numbers; () before the choice."""

    def look(self, file: OpenFile) -> Look:
        """Return the columns of the file: the chosen ones, or all before the choice."""

    def with_columns(self, columns: tuple[str, ...], looks: Sequence[Look]) -> Tabular:
        """Return the format with these columns, given the looks of all files."""

    def head_of(self, file: OpenFile, look: Look) -> Head:
        """Return the sizes and types of the file's rows."""

    def read(self, file: OpenFile, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[Any]]]:
        """Read some of its blocks, in the order given: (rows, features) of any number type."""

    def columns_of(self, file: OpenFile, block: Block, names: Sequence[str]) -> pa.Table:
        """Read other columns of the rows of a block."""


Make: TypeAlias = Callable[[OpenFile, Sequence[str] | None], Format | Tabular]
"""Factory (first file, columns that the user names) -> format of all files."""


@dataclass(frozen=True)
class FileSource(RoundedSource):
    """The rows of files of one format, one file after the other."""

    remote: Remote
    """Store of the files."""
    files: tuple[File, ...]
    """Files as they were when the run was planned, in order."""
    format: Format | Tabular
    """Reader of the files."""
    by_name: bool = False
    """Whether the user named the columns."""
    shift: tuple[float, ...] = ()
    """Shift (d,) subtracted from each column before rounding; () for none."""
    block_rows: int = BLOCK_ROWS
    """Largest number of rows of a block."""

    @classmethod
    def of(
        cls, make: Make, remote: Remote, files: tuple[File, ...], columns: Sequence[str] | None
    ) -> FileSource:
        """Return the source of some files; if no columns are named, all files' columns are read."""
        with open_file(remote, files[0]) as first:
            made = make(first, columns)
        source = cls(remote, files, made, by_name=bool(columns))
        return source._choose(made.columns) if isinstance(made, Tabular) else source

    @property
    def only_here(self) -> bool:
        """Whether no other process can read the files."""
        return self.remote.only_here

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that make up a row; () if they have none."""
        return self.format.columns if isinstance(self.format, Tabular) else ()

    def with_columns(self, columns: Sequence[str]) -> FileSource:
        """Return a source of the same files with these columns; ConfigError if a file lacks one."""
        assert isinstance(self.format, Tabular)
        kinds = {
            id(look.schema): (look.schema, file)
            for file, look in self._files_and_looks()
            if look.schema
        }
        for schema, file in kinds.values():
            check_columns(schema, columns, file.shown)
        source = replace(self, format=self.format.with_columns(tuple(columns), self._looks))
        if all(look.tells(columns) for look in self._looks):
            source.__dict__["_looks"] = self._looks
        return source

    def kept_schema(self, names: Sequence[str]) -> pa.Schema:
        """Return one type for each column that labelled output is to keep, over all files.

        Raises DataError if a file has no such column, or no type holds the values of all files.
        """
        if isinstance(self.format, Tabular):  # a file of no rows may have no schema
            schemas = [(f, look.schema) for f, look in self._files_and_looks() if look.schema]
        else:
            schemas = [(file, pa.schema([])) for file in self.files]
            if any(name not in file.partitions for file in self.files for name in names):
                raise arrow.no_columns(names, self.files[0].shown)
        of_files = (
            (file.shown, {name: _type_in(file, schema, name) for name in names})
            for file, schema in schemas
        )
        return common_schema(of_files, names)

    def describe(self) -> Layout:
        return self._layout

    @cached_property
    def _layout(self) -> Layout:
        """The layout, made once: a head takes a request to a store, or reading the whole file."""
        heads = self._heads()
        features = next((head.features for head in heads if head.features), 0)
        if features == 0 and any(sum(head.group_rows) for head in heads):
            raise DataError(f"no row of {self.files[0].shown} tells how many features there are.")
        blocks: list[Block] = []
        first = 0
        pairs = list(zip(self.files, heads, strict=True))
        first_file, told = next(((f, head) for f, head in pairs if head.features), pairs[0])
        for file, head in pairs:
            if head.features not in (0, features) or head.kind not in ("", told.kind):
                raise DataError(_describe_difference(file, head, first_file, told, features))
            blocks += cut(
                file.shown, head.group_rows, features, first, len(blocks), self.block_rows
            )
            first += sum(head.group_rows)
        types = {head.narrow for head in heads}
        narrow = types.pop() if len(types) == 1 else None
        return Layout(tuple(blocks), features, narrow, any(head.is_read_whole for head in heads))

    def read_wide(self, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[Any]]]:
        """Yield blocks and their rows as the format reads them, one file open at a time."""
        for path, of_file in groupby(blocks, key=lambda block: block.file):
            with self._open_unchanged(self._by_path[path]) as file:
                yield from self.format.read(file, list(of_file))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns that make up a row, for messages; () if they have none."""
        return getattr(self.format, "columns", ())

    def columns_of(self, block: Block, names: Sequence[str]) -> pa.Table:
        """Return columns of a block: stored ones, keys of partitions, and nulls for ones that are
        missing."""
        file, keys = self._by_path[block.file], self.partition_schema
        there = [name for name in names if name in keys.names and name in file.partitions]
        with self._open_unchanged(file) as opened:
            columns = {
                name: self._column_or_nulls(opened, block, name, keys)
                for name in names
                if name in keys.names and name not in there
            }
            stored = [name for name in names if name not in there and name not in columns]
            table = self.format.columns_of(opened, block, stored) if stored else None
        columns |= dict(zip(stored, table.columns, strict=True)) if table else {}
        for name in there:
            kind = keys.field(name).type
            value = hive_keys.single_value(file.partitions[name], name, file.shown)
            columns[name] = hive_keys.column(value, kind, block.rows)
        return pa.table({name: columns[name] for name in names})

    def _column_or_nulls(self, opened: OpenFile, block: Block, name: str, keys: pa.Schema) -> Any:
        """Return a column that other files have as a key of folders; nulls if this one lacks it."""
        try:
            return self.format.columns_of(opened, block, [name]).column(0)
        except (ConfigError, NoColumnError):
            return pa.nulls(block.rows, keys.field(name).type)

    @cached_property
    def partition_schema(self) -> pa.Schema:
        """Keys of the folders named key=value, each with one type over all files."""
        return hive_keys.schema_of(self.files)

    def _choose(self, columns: Sequence[str]) -> FileSource:
        """Return the source with these columns, or for () with those that suit all files."""
        if not columns:
            looks = self._looks
            keys = [name for name in looks[0].spans if counts_rows(_spans(looks, name))]
            doubtful = {name: what for look in looks for name, what in look.doubtful.items()}
            schemas = {id(look.schema): look.schema for look in looks if look.schema}
            columns = choose_among(list(schemas.values()), self._shown, keys, doubtful)
        return self.with_columns(columns)

    @property
    def _shown(self) -> str:
        """Name of all files together, for messages."""
        first = self.files[0].shown
        return first if len(self.files) == 1 else f"{first} and {len(self.files) - 1:,} more files"

    @cached_property
    def _looks(self) -> list[Look]:
        """The look of each file, made once. Looks with equal columns share one schema object."""
        assert isinstance(self.format, Tabular)
        known: dict[bytes, Look] = {}
        looks: list[Look] = []
        for look in self._each(self.format.look, [()] * len(self.files)):
            schema = look.schema.remove_metadata()
            if looks and schema.equals(looks[-1].schema):
                like = looks[-1]
            else:
                mine = replace(look, schema=schema)
                like = known.setdefault(schema.serialize().to_pybytes(), mine)
            looks.append(replace(look, schema=like.schema, facts=like.facts))
        return looks

    def _files_and_looks(self) -> Iterator[tuple[File, Look]]:
        """Return each file with its look."""
        return zip(self.files, self._looks, strict=True)

    def _heads(self) -> list[Head]:
        """Return the head of each file."""
        if isinstance(self.format, Tabular):
            return self._each(self.format.head_of, [(look,) for look in self._looks])
        return self._each(self.format.head, [()] * len(self.files))

    def _each(self, ask: Callable[..., T], more: Sequence[tuple[Any, ...]]) -> list[T]:
        """Return `ask(file, *more)` for every file, up to `HEADS_AT_ONCE` at the same time."""

        def one(file: File, given: tuple[Any, ...]) -> T:
            with self._open(file) as here:
                return ask(here, *given)

        with ThreadPoolExecutor(HEADS_AT_ONCE) as pool:
            return list(pool.map(one, self.files, more))

    @contextmanager
    def _open(self, file: File) -> Iterator[OpenFile]:
        """Open a file; if it cannot be read because it has changed, the error says so."""
        try:
            with open_file(self.remote, file) as here:
                yield here
        except (DataError, RequestError):
            self._check(file)
            raise

    @contextmanager
    def _open_unchanged(self, file: File) -> Iterator[OpenFile]:
        """Open a file, and check before and after reading that it is the one that was planned.

        The check before alone would miss a file that is replaced while it is read: its first rows
        would come from one file and its last rows from another.
        """
        self._check(file)
        with self._open(file) as here:
            yield here
        self._check(file)

    def _check(self, file: File) -> None:
        """Raise DataError if a file is gone or has changed since the run was planned."""
        try:
            now = file.now(self.remote)
        except FileNotFoundError:
            raise DataError(f"{file.shown} is gone since the run was planned.") from None
        file.check(now)

    @cached_property
    def _by_path(self) -> dict[str, File]:
        """Files by the name that their blocks have."""
        return {file.shown: file for file in self.files}

    def __getstate__(self) -> dict[str, Any]:
        """Leave looks and layout behind: a worker makes again what it needs."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


def block_sized_groups(rows: int) -> tuple[int, ...]:
    """Return row groups of the length of a block, for a format that has none of its own."""
    return tuple(min(BLOCK_ROWS, rows - start) for start in range(0, rows, BLOCK_ROWS))


def refuse_columns(first: OpenFile, columns: Sequence[str] | None) -> None:
    """Raise ConfigError if the user names columns of a file whose format has none."""
    if columns:
        raise ConfigError(
            f"columns={list(columns)} has no meaning for {first.path}: it has no columns."
        )


def _spans(looks: Sequence[Look], name: str) -> list[Span]:
    """Return the span of a column in each file; [] unless all files tell it."""
    spans = [look.spans[name] for look in looks if name in look.spans]
    return spans if len(spans) == len(looks) else []


def _type_in(file: File, schema: pa.Schema, name: str) -> pa.DataType | None:
    """Return the type of a column of a file, or of a key of its folders; None if it has neither."""
    if name in file.partitions:
        return pa.array([file.partitions[name]]).type
    return arrow.type_at(schema, name)


def _describe_difference(file: File, head: Head, first: File, of_first: Head, features: int) -> str:
    """Return the text of the error for a file whose rows are unlike those of the first."""
    if head.features not in (0, features):
        mine, others = f"has {head.features} features", f"has {features}"
    else:
        mine, others = f"holds {head.kind}", f"holds {of_first.kind}"
    return f"{file.shown} {mine} and {first.shown} {others}; all files must have the same."
