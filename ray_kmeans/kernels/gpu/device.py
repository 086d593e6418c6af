"""A device of torch: how much of its memory is ours, and how rows get there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ray_kmeans.kernels.gpu import STAGED_BYTES

PIECES = 64
"""Pieces that our memory is divided into; intermediate results of a kind take one at most."""
SPARE_PIECES = 16
"""Pieces that rows leave free: buffers, scores, panels of centers and candidates take one each."""


@dataclass(frozen=True)
class Device:
    """A GPU, or the CPU in its place, as tests need it."""

    handle: torch.device
    """The device as torch names it."""
    total: int
    """Bytes of memory that are ours."""

    @classmethod
    def of_gpu(cls, share: float = 1.0) -> Device:
        """Return this process's first GPU, of which this share is ours."""
        handle = torch.device("cuda", 0)
        return cls(handle, int(share * torch.cuda.get_device_properties(handle).total_memory))

    @classmethod
    def of_cpu(cls) -> Device:
        """Return the CPU."""
        return cls(torch.device("cpu"), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))

    @property
    def is_gpu(self) -> bool:
        """Whether this is a GPU, and not the CPU in its place."""
        return bool(self.handle.type == "cuda")

    @property
    def name(self) -> str:
        """The name of the device in logs."""
        return torch.cuda.get_device_name(self.handle) if self.is_gpu else "this CPU"

    @property
    def piece(self) -> int:
        """Largest number of bytes that one kind of intermediate result takes at once."""
        return min(self.total // PIECES, STAGED_BYTES)

    def room(self, held: int) -> int:
        """Return the bytes left for rows; `held`: what these take, where torch cannot say."""
        left = self.total - held
        if self.is_gpu:
            taken = torch.cuda.memory_allocated(self.handle)  # by all shards of this process
            free, _ = torch.cuda.mem_get_info(self.handle)  # others may compute there too
            cached = torch.cuda.memory_reserved(self.handle) - taken
            left = min(self.total - taken, free + cached)
        return left - SPARE_PIECES * self.piece

    def put(self, array: NDArray[Any]) -> torch.Tensor:
        """Return a copy of an array on the device."""
        return torch.from_numpy(np.array(array)).to(self.handle)

    def new_stream(self) -> Any:
        """Return a new stream of work; None on the CPU, which does one thing after the other."""
        return torch.cuda.Stream(self.handle) if self.is_gpu else None

    def use_stream(self, stream: Any) -> AbstractContextManager[Any]:
        """Run all work that is submitted in this context on a stream."""
        return torch.cuda.stream(stream) if self.is_gpu else nullcontext()

    def record_event(self) -> Any:
        """Return an event that comes when all that was asked for so far is done."""
        return torch.cuda.current_stream(self.handle).record_event() if self.is_gpu else None

    def wait_for(self, event: Any) -> None:
        """Let all work that is submitted from now on wait for an event."""
        if event is not None:
            torch.cuda.current_stream(self.handle).wait_event(event)


@contextmanager
def use_full_float32() -> Iterator[None]:
    """Let products of float32 be made of all their bits, whatever this process has chosen."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def cut_slices(count: int, each: int, budget: int) -> Iterator[slice]:
    """Yield slices of `count` things of `each` bytes, as large as a budget of bytes allows."""
    step = max(budget // max(each, 1), 1)
    return (slice(start, start + step) for start in range(0, count, step))
