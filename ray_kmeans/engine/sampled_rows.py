"""The rows of a shard that are in the sample of nested mini-batches, held from step to step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm import nested_sample
from ray_kmeans.algorithm.grid import Squares
from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.engine.shard import Rows, Shard
from ray_kmeans.kernels import ALIKE, Held, Kernel


@dataclass(frozen=True)
class SampleAddress:
    """Says which rows are in a sample, to any worker alike."""

    halvings: int
    """Number of times that the rows were halved."""
    key: np.uint64
    """Key of the draw of rows."""


@dataclass(frozen=True)
class SampleSize:
    """The number of rows of a sample, and their squares; those of all workers add up."""

    rows: int
    """Number of its rows that count."""
    squares: Squares
    """Sums of squares of its rows."""

    def __add__(self, other: SampleSize) -> SampleSize:
        """Return the size of both parts together."""
        return SampleSize(self.rows + other.rows, self.squares + other.squares)


class SampledRows(Sequence[Rows]):
    """The rows of a shard that are in a sample, by block; blocks without such a row are left out.

    It keeps the numbers of the rows alone: a block is taken from the row cache when it is asked
    for.
    """

    def __init__(self, shard: Shard, address: SampleAddress) -> None:
        self.address = address
        """Address of the sample."""
        self._shard = shard
        inside = [
            np.flatnonzero(
                nested_sample.is_in(
                    np.arange(block.first, block.first + block.rows), address.halvings, address.key
                )
            )
            for block in shard.blocks
        ]
        self._places = [here for here, rows in enumerate(inside) if len(rows)]
        self._numbers = [inside[here] for here in self._places]
        self._held: Held | None = None

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, here: int) -> Rows: ...
    @overload
    def __getitem__(self, here: slice) -> list[Rows]: ...
    def __getitem__(self, here: int | slice) -> Rows | list[Rows]:
        """Take the rows of one block, or of each block of a slice."""
        if isinstance(here, slice):
            return [self[each] for each in range(*here.indices(len(self)))]
        return self._shard.rows.take(self._places[here], self._numbers[here])

    @property
    def sizes(self) -> list[int]:
        """Number of rows of each block."""
        return list(map(len, self._numbers))

    @property
    def weights(self) -> NDArray[np.int64]:
        """(n,) Weight of each row in units of the grid; ALIKE if all count once."""
        return np.concatenate([ALIKE, *(weights for _, weights in self._numbers_and_weights())])

    @property
    def counting(self) -> int:
        """Number of rows that count."""
        weights = self.weights
        return int((weights > 0).sum()) if len(weights) else sum(self.sizes)

    def parts(self) -> Iterator[tuple[Rows, NDArray[np.int64]]]:
        """Yield the rows of each block with their weights."""
        for here, (_, weights) in enumerate(self._numbers_and_weights()):
            yield self[here], weights

    def hold(self, kernel: Kernel, metric: Metric, k: int) -> Held:
        """Return the rows as the kernel holds them from sweep to sweep.

        Where all rows are in memory, these are copied side by side, and what is known of each row
        spares work in the next sweep.
        """
        if self._held is None and self._shard.rows.stays:
            self._held = kernel.hold([np.concatenate(list(self))], metric, k, self.weights)
        elif self._held is None:
            features = self._shard.features
            self._held = kernel.hold_each(self, self.sizes, features, metric, self.weights)
        return self._held

    def _numbers_and_weights(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield the numbers inside each block, and the weights of these rows, or ALIKE."""
        for here, numbers in zip(self._places, self._numbers, strict=True):
            weights = self._shard.weights_in(here)
            yield numbers, weights[numbers] if len(weights) else ALIKE
