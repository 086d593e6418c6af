"""What a worker answers while first centers are chosen: seeding weights, draws and sums."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.grid import Grid
from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.partial_sums import Partials
from ray_kmeans.engine.seeding import weighted_sampling
from ray_kmeans.engine.seeding.potential import Potential
from ray_kmeans.engine.shard import Shard
from ray_kmeans.kernels import Kernel


class SeedingAnswers(ABC):
    """Answers for the rows of one shard while seeds are chosen; `ShardWorker` is the only kind."""

    _kernel: Kernel
    """Computes distances."""
    _metric: Metric
    """Distance metric: 'squared_euclidean' or 'cosine'."""
    _potential: Potential | None = None
    """Seeding weights; None before they are needed, and after the seeding."""

    @property
    @abstractmethod
    def _shard(self) -> Shard:
        """The shard."""

    @property
    @abstractmethod
    def _on(self) -> Grid:
        """The grid of all sums."""

    def chances(self) -> NDArray[np.float64]:
        """Return the seeding weight of each block before there is a seed, (blocks,)."""
        return self._seeded.chances()

    def weigh(self, centers: NDArray[np.float32]) -> NDArray[np.float64]:
        """Add seeds, (s, d); return the seeding weight of each block, (blocks,)."""
        return self._seeded.add(centers, self._kernel)

    def potentials(self, candidates: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the weight of each block that each candidate would leave as a seed, (blocks,
        c)."""
        return self._seeded.with_each(candidates, self._kernel)

    def find(self, blocks: NDArray[np.int64], offsets: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the number of the row at each offset into the seeding weights of a block.

        `blocks` (m,) are indices of blocks, `offsets` (m,) the sums of weights before the rows.
        Where a block is not in this shard, the answer is -1.
        """
        numbers = np.full(len(blocks), -1)
        places = {block.index: (here, block.first) for here, block in enumerate(self._shard.blocks)}
        for index in np.unique(blocks).tolist():
            if index in places:
                here, first = places[index]
                targets = blocks == index
                numbers[targets] = first + self._seeded.find(here, offsets[targets])
        return numbers

    def weights_at(
        self, numbers: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the seeding weights and the own weights of the rows with these ascending
        numbers."""
        found = [self._seeded.weights[here][at] for here, at in self._shard.inside(numbers)]
        return np.concatenate([np.empty(0), *found]), self._shard.weights_at(numbers)

    def join(self, key: np.uint64, share: float) -> NDArray[np.float32]:
        """Return the rows that join the candidates, each by a draw of its own, (rows, d), in order.

        `share` is the chance of a row over its seeding weight.
        """
        chosen = [
            self._shard.rows.take(
                here, np.flatnonzero(self._seeded.joins(here, block.first, key, share))
            )
            for here, block in enumerate(self._shard.blocks)
        ]
        return np.concatenate(chosen)

    def draw(self, key: np.uint64, size: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the tickets and row numbers of the best `size` rows in a draw by weights."""
        numbers = [np.arange(b.first, b.first + b.rows) for b in self._shard.blocks]
        return weighted_sampling.winners(np.concatenate(numbers), self._shard.weights, key, size)

    def sums_near(self, seeds: NDArray[np.float32], first: int) -> Partials:
        """Return the sums over the rows whose nearest seed is one of these, (s, d).

        `first` is the number of the first of them among all seeds so far.
        """
        return self._seeded.sums_near(first, len(seeds), self._on.scale, self._kernel)

    def end_seeding(self) -> None:
        """Forget all seeds, and free their memory."""
        self._potential = None

    @property
    def _seeded(self) -> Potential:
        """The seeding weights, made when they are first needed."""
        if self._potential is None:
            shard = self._shard
            self._potential = Potential(shard.rows, self._metric, shard.weights_in)
        return self._potential
