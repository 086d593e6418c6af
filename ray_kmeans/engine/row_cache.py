"""The row cache of a worker keeps a shard's rows in memory or on disk, or reads them again.

Whatever the place, a block has the same bits, so the place changes no result.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.dtypes import (
    STORED,
    item_bytes,
    narrowed,
    widened,
)
from ray_kmeans.errors import DataError, StoreError

Rows = NDArray[np.float32]
"""(n, d) Rows."""
MEMORY = "memory"
"""Value of `CacheOptions.cache` with which workers keep their rows in memory."""
DISK = "disk"
"""Value of `CacheOptions.cache` with which workers keep their rows in files on their nodes."""
SOURCE = "source"
"""Value of `CacheOptions.cache` with which workers read their rows again for every sweep."""


@dataclass(frozen=True)
class CacheOptions:
    """Place and type in which workers keep their rows between two sweeps."""

    cache: str = MEMORY
    """Place of the rows: 'memory'; 'disk'; or 'source', to read them again for every sweep."""
    cache_dir: str | None = None
    """Directory on each node for cache='disk'; None: the system's one for temporary files."""
    readers: int = 1
    """Number of threads that read a shard at the same time."""
    narrow: str | None = None
    """Type narrower than float32 in which rows are stored; None: float32. Whenever they are read
    they are widened to float32."""


class RowCache(Sequence[Rows]):
    """Keeps the rows of each block of a shard, (rows, d); filled once, then read.

    Rows are stored as float32, as the metric sees them; or in a narrower type, as they were read:
    then `seen` turns them into what the metric sees, each time they are fetched.
    """

    stays = False
    """Whether the rows of a block are in memory anyhow, so that fetching them costs nothing."""

    def __init__(
        self,
        sizes: Sequence[int],
        narrow: str | None = None,
        seen: Callable[[Rows], Rows] = lambda rows: rows,
    ) -> None:
        self.sizes = list(sizes)
        self._narrow = narrow
        self._seen = seen

    def __len__(self) -> int:
        return len(self.sizes)

    @overload
    def __getitem__(self, here: int) -> Rows: ...
    @overload
    def __getitem__(self, here: slice) -> list[Rows]: ...
    def __getitem__(self, here: int | slice) -> Rows | list[Rows]:
        """Fetch the rows of one block, or of each block of a slice."""
        if isinstance(here, slice):
            return [self.fetch(each) for each in range(*here.indices(len(self)))]
        return self.fetch(here)

    def __iter__(self) -> Iterator[Rows]:
        """Yield the rows of all blocks in order, as `at` does."""
        return self.at(range(len(self)))

    def at(self, places: Sequence[int]) -> Iterator[Rows]:
        """Yield the rows of the blocks at these places in order; the next ones are fetched
        meanwhile by a thread."""
        with ThreadPoolExecutor(1) as ahead:
            coming = [ahead.submit(self.fetch, here) for here in places[:1]]
            for after in [*places[1:], None]:
                rows = coming.pop().result()
                if after is not None:
                    coming.append(ahead.submit(self.fetch, after))
                yield rows

    @abstractmethod
    def put(self, here: int, rows: Rows) -> None:
        """Store the rows of the block at this place; threads may do so for several at once."""

    @abstractmethod
    def fetch(self, here: int) -> Rows:
        """Return the rows of the block at this place, (rows, d)."""

    def take(self, here: int, numbers: NDArray[np.int64]) -> Rows:
        """Return the rows of a block with these numbers inside it, (len(numbers), d)."""
        rows: Rows = self.fetch(here)[numbers]
        return rows

    def _narrow_rows(self, rows: Rows) -> NDArray[Any]:
        """Return rows in the type in which they are stored; raise DataError if it loses any."""
        if self._narrow is None:
            return rows
        stored = narrowed(rows, self._narrow)
        if not np.array_equal(widened(stored, self._narrow), rows, equal_nan=True):
            raise DataError(
                f"the data hold values that are not {self._narrow}, as was planned; they have "
                "changed since. Start the run again."
            )
        return stored

    def _widen_rows(self, stored: NDArray[Any]) -> Rows:
        """Return stored rows as float32, as the metric sees them."""
        return stored if self._narrow is None else self._seen(widened(stored, self._narrow))


class InMemory(RowCache):
    """Keeps all rows in memory, which is the fastest if they are float32."""

    def __init__(
        self,
        sizes: Sequence[int],
        narrow: str | None = None,
        seen: Callable[[Rows], Rows] = lambda rows: rows,
    ) -> None:
        super().__init__(sizes, narrow, seen)
        self.stays = self._narrow is None
        self._rows: dict[int, NDArray[Any]] = {}

    def at(self, places: Sequence[int]) -> Iterator[Rows]:
        return map(self.fetch, places) if self.stays else super().at(places)

    def put(self, here: int, rows: Rows) -> None:
        self._rows[here] = self._narrow_rows(rows)

    def fetch(self, here: int) -> Rows:
        return self._widen_rows(self._rows[here])

    def take(self, here: int, numbers: NDArray[np.int64]) -> Rows:
        return self._widen_rows(self._rows[here][numbers])


class OnDisk(RowCache):
    """Keeps all rows in one file without a name.

    The system frees it when this process ends, however it ends. Its room is taken at once, so that
    no later write lacks it. `hash_of` makes a hash of a block's rows, which is taken when they are
    written and compared whenever the block is read.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        features: int,
        directory: str | None,
        hash_of: Callable[[Rows], int],
        narrow: str | None = None,
        seen: Callable[[Rows], Rows] = lambda rows: rows,
    ) -> None:
        super().__init__(sizes, narrow, seen)
        self._directory = directory or tempfile.gettempdir()
        self._features = features
        self._hash_of = hash_of
        self._hashes: dict[int, int] = {}
        self._dtype = np.float32 if self._narrow is None else STORED[self._narrow]
        self._row_bytes = features * item_bytes(self._narrow)
        self._begins = [0, *accumulate(rows * self._row_bytes for rows in sizes)]
        try:
            self._file = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115 (for our life)
            os.posix_fallocate(self._file.fileno(), 0, max(self._begins[-1], 1))
        except OSError as error:
            raise self._no_room(error) from None

    def put(self, here: int, rows: Rows) -> None:
        """Write the rows of a block to its place in the file; keep their hash, to check them by."""
        stored = self._narrow_rows(rows)
        data = np.ascontiguousarray(stored).data.cast("B")
        written = 0
        while written < len(data):
            begin = self._begins[here] + written
            written += os.pwrite(self._file.fileno(), data[written:], begin)
        self._hashes[here] = self._hash_of(self._widen_rows(stored))

    def fetch(self, here: int) -> Rows:
        """Read the rows of a block; raise StoreError if they are not what was written."""
        stored = np.empty((self.sizes[here], self._features), self._dtype)
        self._read(stored, self._begins[here])
        rows = self._widen_rows(stored)
        if self._hash_of(rows) != self._hashes[here]:
            raise StoreError(
                f"block {here} of the rows that this worker keeps in {self._directory!r} does not "
                "come back as it was written: the disk is damaged. Give another cache_dir."
            )
        return rows

    def take(self, here: int, numbers: NDArray[np.int64]) -> Rows:
        """Read single rows of a block, without a check of their hash."""
        stored = np.empty((len(numbers), self._features), self._dtype)
        for row, number in zip(stored, numbers.tolist(), strict=True):
            self._read(row, self._begins[here] + number * self._row_bytes)
        return self._widen_rows(stored)

    def _read(self, rows: NDArray[Any], begin: int) -> None:
        """Fill an array from the file, from this byte on."""
        left = rows.data.cast("B")
        while left:
            count = os.preadv(self._file.fileno(), [left], begin)
            if count == 0:
                raise StoreError(f"the rows kept in {self._directory!r} are cut off.")
            left, begin = left[count:], begin + count

    def _no_room(self, error: OSError) -> StoreError:
        """Return the error for a file that cannot be made: its place, its size, the free bytes."""
        what = (
            f"cache_dir={self._directory!r} cannot keep the {self._begins[-1]:,} bytes of a shard"
        )
        try:
            free = f"; {shutil.disk_usage(self._directory).free:,} are free there"
        except OSError:
            free = ""
        return StoreError(
            f"{what}: {error.strerror}{free}. Give another directory, more workers, or "
            "cache='source' to read the data again for every sweep."
        )


class AtSource(RowCache):
    """Keeps nothing: `read` returns the rows of a block again, from where the data are."""

    def __init__(self, sizes: Sequence[int], read: Callable[[int], Rows]) -> None:
        super().__init__(sizes)
        self._read = read

    def put(self, here: int, rows: Rows) -> None:
        pass  # it is where it came from

    def fetch(self, here: int) -> Rows:
        return self._read(here)


def row_cache_for(
    options: CacheOptions,
    shard: Sequence[Any],
    read: Callable[[int], Rows],
    hash_of: Callable[[Rows], int],
    seen: Callable[[Rows], Rows],
) -> RowCache:
    """Return an empty row cache for the blocks of a shard."""
    sizes = [block.rows for block in shard]
    if options.cache == MEMORY:
        return InMemory(sizes, options.narrow, seen)
    if options.cache == DISK:
        features = shard[0].features
        return OnDisk(sizes, features, options.cache_dir, hash_of, options.narrow, seen)
    return AtSource(sizes, read)
