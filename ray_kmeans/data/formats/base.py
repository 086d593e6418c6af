"""What a format of files does, and the source that is made of files of one format."""

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
from ray_kmeans.data import partitions
from ray_kmeans.data.choice import (
    Span,
    check_columns,
    choose_among,
    counts_rows,
)
from ray_kmeans.data.files import File
from ray_kmeans.data.layout import (
    BLOCK_ROWS,
    Block,
    Layout,
    cut,
)
from ray_kmeans.data.promotion import promoted
from ray_kmeans.data.rounded import RoundedSource
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

T = TypeVar("T")


class Opened:
    """A file that is read: by range, or as a file object."""

    def __init__(self, remote: Remote, file: File) -> None:
        self._remote = remote
        self._path = file.path
        self.path = file.shown
        """As people may see it."""
        self.kind = file.kind
        """What tells how it is read, as '.csv.gz': the end of it does."""
        self.size = file.size
        self.local = file.path if remote.is_protocol("file") else None
        """Its path where it is on this machine."""

    def cat(self, begin: int, end: int) -> bytes:
        """Return the bytes from one offset to another, less where the file ends."""
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
        """A file object; closed with the file."""
        return self.fresh()

    def fresh(self) -> Any:
        """Return a file object that no other reader moves; whoever asks for it closes it."""
        return open(self.local, "rb") if self.local else Ranges(self.cat, self.size)

    def close(self) -> None:
        if "handle" in self.__dict__:
            self.handle.close()


@contextmanager
def opened(remote: Remote, file: File) -> Iterator[Opened]:
    """Open a file; raises DataError for what is not one of its format, or damaged."""
    here = Opened(remote, file)
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
    """What a file says of itself, known without reading its rows."""

    group_rows: tuple[int, ...]
    """Rows of each part that the format keeps together; one part where it has none such."""
    features: int
    """0 where no row tells."""
    kind: str = ""
    """Of its rows, for formats where files of one data set must agree in it."""
    narrow: str | None = None
    """The type of all values where that is narrower than float32, see `clustering.narrow`."""
    is_read_whole: bool = False
    """Whether all rows of a part are in memory while some of them are read."""


@dataclass(frozen=True)
class Look:
    """What a file says of its columns, whichever of them make up a row."""

    schema: pa.Schema
    group_rows: tuple[int, ...] = ()
    """As in `Head`; empty where rows are counted only when they are read."""
    lengths: Mapping[str, int] = field(default_factory=dict)
    """Length of the first vector, of columns whose type does not tell it; 0: all are null."""
    spans: Mapping[str, Span] = field(default_factory=dict)
    """The numbers of columns that may be keys of the rows."""
    doubtful: Mapping[str, str] = field(default_factory=dict)
    """Columns beyond what their types tell that could be features, with what they hold."""
    is_read_whole: bool = False
    facts: dict[tuple[str, ...], Head] = field(default_factory=dict, compare=False)
    """What the schema says of the rows of some columns; shared by looks of one schema."""

    def tells(self, names: Sequence[str]) -> bool:
        """Tell whether the length of a row of these columns is known."""
        if not self.schema:  # of no rows: nothing is to be told
            return True
        return bool(arrow.features_of(self.schema, names)) or names[0] in self.lengths

    def head(self, names: Sequence[str], place: str) -> Head:
        """Return the head of a file whose rows are made of these columns."""
        said = self.facts.get(tuple(names))
        if said is None:
            check_columns(self.schema, names, place)
            features = arrow.features_of(self.schema, names)
            kind, narrow = arrow.kind_of(self.schema, names), arrow.narrow_of(self.schema, names)
            said = self.facts[tuple(names)] = Head((), features, kind, narrow)
        features = said.features or self.lengths.get(names[0], 0)
        return Head(self.group_rows, features, said.kind, said.narrow, self.is_read_whole)


class Format(Protocol):
    """How rows are found in files of one kind. Travels to the workers by pickle."""

    def head(self, file: Opened) -> Head:
        """Return what the file says of itself."""

    def read(self, file: Opened, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[Any]]]:
        """Read some of its blocks, in the order given: (rows, features) of any number type."""

    def columns_of(self, file: Opened, block: Block, names: Sequence[str]) -> pa.Table:
        """Read other columns of the rows of a block."""


@runtime_checkable
class Tabular(Protocol):
    """The same for files with columns that have names, of which some make up a row."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The column of vectors, or the columns of numbers, in this order; () before the choice."""

    def look(self, file: Opened) -> Look:
        """Return what the file says of its columns: of those chosen, or of all."""

    def with_columns(self, columns: tuple[str, ...], looks: Sequence[Look]) -> Tabular:
        """Return the format with these columns, for files that look so."""

    def head_of(self, file: Opened, look: Look) -> Head:
        """Return what the file says of its rows."""

    def read(self, file: Opened, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[Any]]]:
        """Read some of its blocks, in the order given: (rows, features) of any number type."""

    def columns_of(self, file: Opened, block: Block, names: Sequence[str]) -> pa.Table:
        """Read other columns of the rows of a block."""


Make: TypeAlias = Callable[[Opened, Sequence[str] | None], Format | Tabular]
"""What makes of the first file, and of the columns wanted, the format of all."""


@dataclass(frozen=True)
class FileSource(RoundedSource):
    """Files of one format, one after the other."""

    remote: Remote
    files: tuple[File, ...]
    format: Format | Tabular
    by_name: bool = False
    """Whether the user named the columns."""
    shift: tuple[float, ...] = ()

    @classmethod
    def of(
        cls, make: Make, remote: Remote, files: tuple[File, ...], columns: Sequence[str] | None
    ) -> FileSource:
        """Return the source of some files; where no columns are given, all files are asked."""
        with opened(remote, files[0]) as first:
            made = make(first, columns)
        source = cls(remote, files, made, by_name=bool(columns))
        return source._choosing(made.columns) if isinstance(made, Tabular) else source

    @property
    def only_here(self) -> bool:
        return self.remote.only_here

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns that make up a row; () where they have none."""
        return self.format.columns if isinstance(self.format, Tabular) else ()

    def with_columns(self, columns: Sequence[str]) -> FileSource:
        """Return the same files with rows of these columns; ConfigError where one has others."""
        assert isinstance(self.format, Tabular)
        kinds = {
            id(look.schema): (look.schema, file) for file, look in self._looked() if look.schema
        }
        for schema, file in kinds.values():
            check_columns(schema, columns, file.shown)
        source = replace(self, format=self.format.with_columns(tuple(columns), self._looks))
        if all(look.tells(columns) for look in self._looks):
            source.__dict__["_looks"] = self._looks
        return source

    def kept_schema(self, names: Sequence[str]) -> pa.Schema:
        """Return one type for each column that is to be passed through, whatever each file has.

        Raises DataError where a file has no such column, or types that do not go together.
        """
        if isinstance(self.format, Tabular):  # a file of no rows may have no schema
            schemas = [(file, look.schema) for file, look in self._looked() if look.schema]
        else:
            schemas = [(file, pa.schema([])) for file in self.files]
            if any(name not in file.partitions for file in self.files for name in names):
                raise arrow.no_columns(names, self.files[0].shown)
        of_files = (
            (file.shown, {name: _type_in(file, schema, name) for name in names})
            for file, schema in schemas
        )
        return promoted(of_files, names)

    def describe(self) -> Layout:
        return self._layout

    @cached_property
    def _layout(self) -> Layout:
        """Made once: a head may take a request to a store, or reading the whole file."""
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
                raise DataError(_differs(file, head, first_file, told, features))
            blocks += cut(file.shown, head.group_rows, features, first, len(blocks))
            first += sum(head.group_rows)
        types = {head.narrow for head in heads}
        narrow = types.pop() if len(types) == 1 else None
        return Layout(tuple(blocks), features, narrow, any(head.is_read_whole for head in heads))

    def read_wide(self, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[Any]]]:
        for path, of_file in groupby(blocks, key=lambda block: block.file):
            with self._unchanged(self._by_path[path]) as opened:
                yield from self.format.read(opened, list(of_file))

    @property
    def names(self) -> tuple[str, ...]:
        return getattr(self.format, "columns", ())

    def columns_of(self, block: Block, names: Sequence[str]) -> pa.Table:
        file, keys = self._by_path[block.file], self.partition_schema
        there = [name for name in names if name in keys.names and name in file.partitions]
        with self._unchanged(file) as opened:
            columns = {
                name: self._stored(opened, block, name, keys)
                for name in names
                if name in keys.names and name not in there
            }
            stored = [name for name in names if name not in there and name not in columns]
            table = self.format.columns_of(opened, block, stored) if stored else None
        columns |= dict(zip(stored, table.columns, strict=True)) if table else {}
        for name in there:
            kind = keys.field(name).type
            value = partitions.the_one(file.partitions[name], name, file.shown)
            columns[name] = partitions.column(value, kind, block.rows)
        return pa.table({name: columns[name] for name in names})

    def _stored(self, opened: Opened, block: Block, name: str, keys: pa.Schema) -> Any:
        """Return a column that other files have as a folder; null where this one has neither."""
        try:
            return self.format.columns_of(opened, block, [name]).column(0)
        except (ConfigError, NoColumnError):
            return pa.nulls(block.rows, keys.field(name).type)

    @cached_property
    def partition_schema(self) -> pa.Schema:
        """The keys of key=value folders, each with one type over all files."""
        return partitions.schema_of(self.files)

    def _choosing(self, columns: Sequence[str]) -> FileSource:
        """Return the source with these columns, or with those that all files together tell."""
        if not columns:
            looks = self._looks
            keys = [name for name in looks[0].spans if counts_rows(_spans(looks, name))]
            doubtful = {name: what for look in looks for name, what in look.doubtful.items()}
            schemas = {id(look.schema): look.schema for look in looks if look.schema}
            columns = choose_among(list(schemas.values()), self._shown, keys, doubtful)
        return self.with_columns(columns)

    @property
    def _shown(self) -> str:
        """What messages call all files."""
        first = self.files[0].shown
        return first if len(self.files) == 1 else f"{first} and {len(self.files) - 1:,} more files"

    @cached_property
    def _looks(self) -> list[Look]:
        """Made once, see `_layout`; looks at files with equal columns share one schema."""
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

    def _looked(self) -> Iterator[tuple[File, Look]]:
        return zip(self.files, self._looks, strict=True)

    def _heads(self) -> list[Head]:
        if isinstance(self.format, Tabular):
            return self._each(self.format.head_of, [(look,) for look in self._looks])
        return self._each(self.format.head, [()] * len(self.files))

    def _each(self, ask: Callable[..., T], more: Sequence[tuple[Any, ...]]) -> list[T]:
        """Ask something of every file, of some at once."""

        def one(file: File, given: tuple[Any, ...]) -> T:
            with self._opened(file) as here:
                return ask(here, *given)

        with ThreadPoolExecutor(HEADS_AT_ONCE) as pool:
            return list(pool.map(one, self.files, more))

    @contextmanager
    def _opened(self, file: File) -> Iterator[Opened]:
        """Open a file; where that fails because it is another one now, say so."""
        try:
            with opened(self.remote, file) as here:
                yield here
        except (DataError, RequestError):
            self._check(file)
            raise

    @contextmanager
    def _unchanged(self, file: File) -> Iterator[Opened]:
        """Open a file that is still the one that was listed, also when it has been read."""
        self._check(file)
        with self._opened(file) as here:
            yield here
        self._check(file)

    def _check(self, file: File) -> None:
        try:
            now = file.now(self.remote)
        except FileNotFoundError:
            raise DataError(f"{file.shown} is gone since the run was planned.") from None
        file.check(now)

    @cached_property
    def _by_path(self) -> dict[str, File]:
        return {file.shown: file for file in self.files}

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind what can be made again."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


def one_part(rows: int) -> tuple[int, ...]:
    """Return the parts of a file that has none: runs of rows as long as a block."""
    return tuple(min(BLOCK_ROWS, rows - start) for start in range(0, rows, BLOCK_ROWS))


def refuse_columns(first: Opened, columns: Sequence[str] | None) -> None:
    """Raise ConfigError where columns are chosen of files that have none."""
    if columns:
        raise ConfigError(
            f"columns={list(columns)} has no meaning for {first.path}: it has no columns."
        )


def _spans(looks: Sequence[Look], name: str) -> list[Span]:
    """Return the numbers of a column in each file; [] unless all files tell them."""
    spans = [look.spans[name] for look in looks if name in look.spans]
    return spans if len(spans) == len(looks) else []


def _type_in(file: File, schema: pa.Schema, name: str) -> pa.DataType | None:
    """Return the type of a column of a file, or of a key of its folders; None where it has none."""
    if name in file.partitions:
        return pa.array([file.partitions[name]]).type
    return arrow.type_at(schema, name)


def _differs(file: File, head: Head, first: File, of_first: Head, features: int) -> str:
    if head.features not in (0, features):
        mine, others = f"has {head.features} features", f"has {features}"
    else:
        mine, others = f"holds {head.kind}", f"holds {of_first.kind}"
    return f"{file.shown} {mine} and {first.shown} {others}; all files must have the same."
