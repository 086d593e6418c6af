"""Where the rows of a shard are between two sweeps: in memory, on a disk, or where they came from.

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

from ray_kmeans.errors import StoreError

Rows = NDArray[np.float32]
MEMORY, DISK, SOURCE = "memory", "disk", "source"


@dataclass(frozen=True)
class Keep:
    """Where workers are to keep their rows."""

    place: str = MEMORY
    """'memory', 'disk', or 'source': nowhere, to be read again for every sweep."""
    directory: str | None = None
    """For 'disk': on each node; None: the system's directory for temporary files."""
    readers: int = 1
    """Threads that read a shard at once."""


class Shelf(Sequence[Rows]):
    """The rows of each block of a shard, (rows, features); filled once, then read."""

    stays = False
    """Whether a block that was fetched stays where it is in memory."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = list(sizes)

    def __len__(self) -> int:
        return len(self.sizes)

    @overload
    def __getitem__(self, here: int) -> Rows: ...
    @overload
    def __getitem__(self, here: slice) -> list[Rows]: ...
    def __getitem__(self, here: int | slice) -> Rows | list[Rows]:
        if isinstance(here, slice):
            return [self.fetch(each) for each in range(*here.indices(len(self)))]
        return self.fetch(here)

    def __iter__(self) -> Iterator[Rows]:
        """Yield all blocks in order; the next one is fetched while one is worked on."""
        with ThreadPoolExecutor(1) as ahead:
            coming = [ahead.submit(self.fetch, here) for here in range(min(1, len(self)))]
            for here in range(len(self)):
                rows = coming.pop().result()
                if here + 1 < len(self):
                    coming.append(ahead.submit(self.fetch, here + 1))
                yield rows

    @abstractmethod
    def put(self, here: int, rows: Rows) -> None:
        """Keep a block; threads may do so for several at once."""

    @abstractmethod
    def fetch(self, here: int) -> Rows:
        """Return a block."""

    def take(self, here: int, numbers: NDArray[np.int64]) -> Rows:
        """Return some rows of a block."""
        rows: Rows = self.fetch(here)[numbers]
        return rows


class InMemory(Shelf):
    """All rows in memory: the fastest."""

    stays = True

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__(sizes)
        self._rows: dict[int, Rows] = {}

    def __iter__(self) -> Iterator[Rows]:
        return map(self.fetch, range(len(self)))

    def put(self, here: int, rows: Rows) -> None:
        self._rows[here] = rows

    def fetch(self, here: int) -> Rows:
        return self._rows[here]


class OnDisk(Shelf):
    """One file without a name: the system frees it when this process ends, however it ends.

    `hash_of` rows is taken when they are written and compared whenever they are read.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        features: int,
        directory: str | None,
        hash_of: Callable[[Rows], int],
    ) -> None:
        super().__init__(sizes)
        self._directory = directory or tempfile.gettempdir()
        self._features = features
        self._hash_of = hash_of
        self._hashes: dict[int, int] = {}
        self._begins = [0, *accumulate(rows * features * 4 for rows in sizes)]
        try:
            self._file = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115 (for our life)
            os.posix_fallocate(self._file.fileno(), 0, max(self._begins[-1], 1))
        except OSError as error:
            raise self._no_room(error) from None

    def put(self, here: int, rows: Rows) -> None:
        data = np.ascontiguousarray(rows).data.cast("B")
        written = 0
        while written < len(data):
            begin = self._begins[here] + written
            written += os.pwrite(self._file.fileno(), data[written:], begin)
        self._hashes[here] = self._hash_of(rows)

    def fetch(self, here: int) -> Rows:
        rows = np.empty((self.sizes[here], self._features), np.float32)
        self._read(rows, self._begins[here])
        if self._hash_of(rows) != self._hashes[here]:
            raise StoreError(
                f"block {here} of the rows that this worker keeps in {self._directory!r} does not "
                "come back as it was written: the disk is damaged. Give another cache_dir."
            )
        return rows

    def take(self, here: int, numbers: NDArray[np.int64]) -> Rows:
        rows = np.empty((len(numbers), self._features), np.float32)
        for row, number in zip(rows, numbers.tolist(), strict=True):
            self._read(row, self._begins[here] + number * self._features * 4)
        return rows

    def _read(self, rows: Rows, begin: int) -> None:
        left = rows.data.cast("B")
        while left:
            count = os.preadv(self._file.fileno(), [left], begin)
            if count == 0:
                raise StoreError(f"the rows kept in {self._directory!r} are cut off.")
            left, begin = left[count:], begin + count

    def _no_room(self, error: OSError) -> StoreError:
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


class AtSource(Shelf):
    """Nothing is kept: `read` gives a block again, from where the data are."""

    def __init__(self, sizes: Sequence[int], read: Callable[[int], Rows]) -> None:
        super().__init__(sizes)
        self._read = read

    def put(self, here: int, rows: Rows) -> None:
        pass  # it is where it came from

    def fetch(self, here: int) -> Rows:
        return self._read(here)


def shelf_for(
    keep: Keep, shard: Sequence[Any], read: Callable[[int], Rows], hash_of: Callable[[Rows], int]
) -> Shelf:
    """Return an empty shelf for a shard."""
    sizes = [block.rows for block in shard]
    if keep.place == MEMORY:
        return InMemory(sizes)
    if keep.place == DISK:
        return OnDisk(sizes, shard[0].features, keep.directory, hash_of)
    return AtSource(sizes, read)
