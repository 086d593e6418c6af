"""What a format of files does, and the source that is made of files of one format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import groupby
from typing import Any, Protocol

import pyarrow as pa
from numpy.typing import NDArray

from ray_kmeans.data.files import File
from ray_kmeans.data.plan import BLOCK_ROWS, Block, Layout, cut
from ray_kmeans.data.ranges import Ranges
from ray_kmeans.data.rounded import RoundedSource
from ray_kmeans.errors import ConfigError, DataError, RayKMeansError, RequestError
from ray_kmeans.remote import Remote, redacted

HEADS_AT_ONCE = 16


class Opened:
    """A file that is read: by range, or as a file object."""

    def __init__(self, remote: Remote, file: File) -> None:
        self._remote = remote
        self._path = file.path
        self.path = file.shown
        """As people may see it."""
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
        cause = redacted(str(error), remote.storage_options).replace("\n", " ")
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
    columns: tuple[str, ...] = field(default=())
    """Other columns, that may be passed through."""
    narrow: str | None = None
    """The type of all values where that is narrower than float32, see `clustering.narrow`."""
    is_read_whole: bool = False
    """Whether all rows of a part are in memory while some of them are read."""


class Format(Protocol):
    """How rows are found in files of one kind. Travels to the workers by pickle."""

    def head(self, file: Opened) -> Head:
        """Return what the file says of itself."""

    def read(self, file: Opened, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[Any]]]:
        """Read some of its blocks, in the order given: (rows, features) of any number type."""

    def columns_of(self, file: Opened, block: Block, names: Sequence[str]) -> pa.Table:
        """Read other columns of the rows of a block."""


@dataclass(frozen=True)
class FileSource(RoundedSource):
    """Files of one format, one after the other."""

    remote: Remote
    files: tuple[File, ...]
    format: Format
    shift: tuple[float, ...] = ()

    @property
    def only_here(self) -> bool:
        return self.remote.only_here

    def describe(self) -> Layout:
        return self._layout

    @cached_property
    def _layout(self) -> Layout:
        """Made once: a head may take a request to a store, or reading the whole file."""
        with ThreadPoolExecutor(HEADS_AT_ONCE) as pool:
            heads = list(pool.map(self._head, self.files))
        features = next((head.features for head in heads if head.features), 0)
        if features == 0 and any(sum(head.group_rows) for head in heads):
            raise DataError(f"no row of {self.files[0].shown} tells how many features there are.")
        blocks: list[Block] = []
        first = 0
        for file, head in zip(self.files, heads, strict=True):
            if head.features not in (0, features) or head.kind != heads[0].kind:
                raise DataError(_differs(file, head, self.files[0], heads[0], features))
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
        file = self._by_path[block.file]
        partitions = {name: file.partitions[name] for name in names if name in file.partitions}
        stored = [name for name in names if name not in partitions]
        with self._unchanged(file) as opened:
            table = self.format.columns_of(opened, block, stored) if stored else None
        columns = dict(zip(stored, table.columns, strict=True)) if table else {}
        columns |= {key: pa.array([value] * block.rows) for key, value in partitions.items()}
        return pa.table({name: columns[name] for name in names})

    def _head(self, file: File) -> Head:
        with self._opened(file) as here:
            return self.format.head(here)

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
            now = self.remote.fs.info(file.path)
        except FileNotFoundError:
            raise DataError(f"{file.shown} is gone since the run was planned.") from None
        file.check(File.of(now))

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


def no_columns(file: Opened, names: Sequence[str]) -> ConfigError:
    return ConfigError(f"keep_columns={list(names)}: {file.path} has no columns to pass through.")


def _differs(file: File, head: Head, first: File, of_first: Head, features: int) -> str:
    if head.features not in (0, features):
        mine, others = f"has {head.features} features", f"has {features}"
    else:
        mine, others = f"holds {head.kind}", f"holds {of_first.kind}"
    return f"{file.shown} {mine} and {first.shown} {others}; all files must have the same."
