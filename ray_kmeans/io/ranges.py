"""Read a remote file like a local one, by byte range, with threads that fetch ahead."""

from __future__ import annotations

import errno
import io
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import TypeAlias

from ray_kmeans.process import forks

FIRST_PIECE = 2**16
"""Bytes of the first request: enough for most headers and footers."""
PIECE = 2**22
"""Largest bytes of a piece. While a reader reads on in order, pieces grow fourfold up to it."""
AHEAD = 4
"""Number of pieces that are fetched before they are read."""
IN_FLIGHT = 8
"""Largest number of requests of this process at once, over all files."""

Fetch: TypeAlias = Callable[[int, int], bytes]
"""Function (begin, end) -> the bytes from one offset to another."""


class Ranges(io.RawIOBase):
    """A file object that fetches bytes by range, and holds a few pieces at a time.

    It fetches ahead only while the reader goes on where the last piece ended: one that jumps (a
    footer, then some column chunks) pays for what it reads alone.

    Parameters
    ----------
    fetch : function (begin, end) -> bytes
        Called in threads, several at once.
    size : int
        Bytes of the whole file.
    """

    def __init__(self, fetch: Fetch, size: int) -> None:
        super().__init__()
        self._fetch = fetch
        self._size = size
        self._at = 0
        self._pieces: OrderedDict[int, tuple[int, Future[bytes]]] = OrderedDict()
        self._next = -1
        self._length = FIRST_PIECE

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set where the next read begins, without fetching; OSError before the first byte."""
        at = offset + (0, self._at, self._size)[whence]
        if at < 0:
            raise OSError(errno.EINVAL, f"no byte {at} in a file")
        self._at = at
        return at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Return the next `size` bytes (all if negative), fewer only at the end of the file.

        Each byte is copied out of its piece once, and once more where several pieces are joined.
        """
        left = max(self._size - self._at, 0)
        wanted = left if size < 0 else min(size, left)
        parts: list[bytes] = []
        while wanted:
            begin, piece = self._piece(wanted)
            here = self._at - begin
            parts.append(piece[here : here + wanted])
            self._at += len(parts[-1])
            wanted -= len(parts[-1])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill a buffer, less only at the end of the file; return how many bytes were read."""
        wanted = memoryview(buffer).cast("B")
        found = self.read(len(wanted))
        wanted[: len(found)] = found
        return len(found)

    def close(self) -> None:
        """Cancel the fetches under way, and free their memory."""
        for _, piece in self._pieces.values():
            piece.cancel()
        self._pieces.clear()
        super().close()

    def _piece(self, wanted: int) -> tuple[int, bytes]:
        """Return the piece that holds the next byte, and its offset; EOFError if it came short."""
        here = (at for at, (end, _) in self._pieces.items() if at <= self._at < end)
        begin = next(here, -1)
        if begin < 0:
            goes_on = self._at == self._next
            self._length = min(4 * self._length, PIECE) if goes_on else FIRST_PIECE
            begin = self._at
            self._ask(begin, max(wanted, self._length))
        end, piece = self._pieces[begin]
        if begin == self._at:
            self._look_ahead(end)
        data = piece.result()
        if len(data) != end - begin:
            raise EOFError(f"{len(data):,} bytes where {end - begin:,} were asked for")
        return begin, data

    def _look_ahead(self, end: int) -> None:
        """Fetch the pieces behind `end`, once the reader has gone on through full-sized ones."""
        self._next = end
        last = end
        for _ in range(AHEAD if self._length == PIECE else 0):
            if last not in self._pieces and last < self._size:
                self._ask(last, PIECE)
            last = self._pieces[last][0] if last in self._pieces else self._size

    def _ask(self, begin: int, length: int) -> None:
        """Start to fetch a piece, and forget the oldest ones beyond `AHEAD + 2`."""
        end = min(begin + length, self._size)
        self._pieces[begin] = end, in_background(self._fetch, begin, end)
        while len(self._pieces) > AHEAD + 2:
            self._pieces.popitem(last=False)


def in_background(fetch: Fetch, begin: int, end: int) -> Future[bytes]:
    """Start to fetch bytes in a thread of the shared pool."""
    return _pool().submit(fetch, begin, end)


@lru_cache
def _pool() -> ThreadPoolExecutor:
    """Return the threads of this process that fetch; a forked child makes its own."""
    return ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="ray-kmeans-reading")


forks.at_fork(after_in_child=_pool.cache_clear)  # threads are not forked
