"""Rows on a device, chunk by chunk: as many as fit stay there, the others are sent each time."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ray_kmeans.kernels.gpu.device import Device

log = logging.getLogger("ray_kmeans")

NARROW = (torch.int8, torch.uint8, torch.float16, torch.bfloat16)
"""Types that rows are stored as if these hold all their values, the narrowest first."""


class Chunks:
    """Rows in chunks of whole blocks, which are asked for once if all chunks stay."""

    def __init__(
        self, blocks: Sequence[NDArray[np.float32]], sizes: Sequence[int], d: int, device: Device
    ) -> None:
        self._blocks = blocks
        self._d = d
        self._device = device
        self._runs = cut_runs(sizes, device.piece // (4 * d))
        self.sizes = [sum(sizes[run.start : run.stop]) for run in self._runs]
        self._staying: list[torch.Tensor] = []
        self._is_full = False

    @property
    def share_staying(self) -> float:
        """What share of the rows stays on the device, as far as they have been seen."""
        return sum(map(len, self._staying)) / max(sum(self.sizes), 1)

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Yield (n_i, d), each chunk in a type that holds its values; good until the next one."""
        staying = len(self._staying)
        if staying == len(self.sizes):
            yield from self._staying
            return
        with Pipe(self._device, max(self.sizes[staying:]) * self._d) as pipe:
            pipe.send(self._fetch(staying), self.sizes[staying], self._d)
            yield from self._staying[:staying]
            for number in range(staying, len(self.sizes)):
                if number + 1 < len(self.sizes):
                    pipe.send(self._fetch(number + 1), self.sizes[number + 1], self._d)
                with pipe.receive() as rows:
                    yield self._keep_if_room(rows)

    def _fetch(self, number: int) -> Iterator[NDArray[np.float32]]:
        """Yield the blocks of a chunk, each when it is asked for."""
        return (self._blocks[here] for here in self._runs[number])

    def _keep_if_room(self, rows: torch.Tensor) -> torch.Tensor:
        """Keep a copy of the rows in the narrowest type, if there is room; return it, or them."""
        if self._is_full:
            return rows
        small = to_narrowest(rows)
        held = sum(each.nbytes for each in self._staying)
        if small.nbytes > self._device.room(held):
            self._is_full = True
            log.warning(
                "%s has room for %.0f%% of the rows; the others are sent to it for every sweep",
                self._device.name,
                100 * self.share_staying,
            )
            return rows
        self._staying.append(small)
        return small


class Pipe:
    """Two buffers: one chunk is sent, by a thread and a stream of its own, while one is in use.

    Three parties work at the same time: the caller's stream, the sending thread, and its stream.
    Each of the two sides has a staged copy on the host and rows on the device. What keeps one party
    from what another one still reads:

    - The thread writes to a staged copy only after the copying from it to the device has ended. It
      waits for the event in `_sent`.
    - Its stream writes to the rows of a side only after the work that was submitted with them. It
      waits for the event in `_used`, which `receive` records when the caller is done.
    - The caller's stream reads the rows only after they are there: `receive` lets it wait for
      `_sent`, which the thread has set by then, as its result has come.
    - One thread sends, so chunks arrive in the order of the calls of `send`. The caller sends the
      next chunk before it receives one, and no more than one ahead: there are two sides.
    """

    def __init__(self, device: Device, values: int) -> None:
        self._device = device
        self._stream = device.new_stream()
        self._sender = ThreadPoolExecutor(1)
        self._staged = [torch.empty(values, pin_memory=device.is_gpu) for _ in range(2)]
        self._rows = [torch.empty(values, device=device.handle) for _ in range(2)]
        self._sent: list[Any] = [None, None]
        self._used = [device.record_event(), device.record_event()]
        self._coming: list[tuple[int, Future[torch.Tensor]]] = []
        self._side = 0

    def __enter__(self) -> Pipe:
        return self

    def __exit__(self, *_: object) -> None:
        self._sender.shutdown(cancel_futures=True)

    def send(self, blocks: Iterator[NDArray[np.float32]], count: int, d: int) -> None:
        """Begin to send some blocks; the chunk before the last is in use."""
        work = self._sender.submit(self._send, self._side, blocks, count, d)
        self._coming.append((self._side, work))
        self._side = 1 - self._side

    @contextmanager
    def receive(self) -> Iterator[torch.Tensor]:
        """Lend the chunk that was sent first of those that were not received yet."""
        side, work = self._coming.pop(0)
        rows = work.result()
        self._device.wait_for(self._sent[side])
        yield rows
        self._used[side] = self._device.record_event()

    def _send(
        self, side: int, blocks: Iterator[NDArray[np.float32]], count: int, d: int
    ) -> torch.Tensor:
        """Copy blocks to the device by one side's buffers; return the rows there."""
        if self._sent[side] is not None:
            self._sent[side].synchronize()  # it was copied from where we write now
        staged = self._staged[side][: count * d].view(count, d)
        at = 0
        for block in blocks:
            staged.numpy()[at : at + len(block)] = block
            at += len(block)
        rows = self._rows[side][: count * d].view(count, d)
        with self._device.use_stream(self._stream):
            self._device.wait_for(self._used[side])
            rows.copy_(staged, non_blocking=True)
            self._sent[side] = self._device.record_event()
        return rows


def to_narrowest(rows: torch.Tensor) -> torch.Tensor:
    """Return a copy in the narrowest type that holds the values; which of 0 and -0 may be lost."""
    for kind in NARROW:
        narrow = rows.to(kind)
        if torch.equal(narrow.to(torch.float32), rows):
            return narrow
    return rows.clone()


def cut_runs(sizes: Sequence[int], most: int) -> list[range]:
    """Cut blocks of these sizes into runs of at most `most` rows, but of one block at least."""
    runs, begin, rows = [], 0, 0
    for here, size in enumerate(sizes):
        if here > begin and rows + size > most:
            runs.append(range(begin, here))
            begin, rows = here, 0
        rows += size
    return [*runs, range(begin, len(sizes))]
