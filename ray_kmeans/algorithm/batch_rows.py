"""The rows that each mini-batch step visits: every row once per epoch, in an order from the
seed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm import draws

ROUNDS = 8
"""Number of rounds of the network that permutes the rows."""
SMALL = 2**16
"""Largest number of rows whose order is drawn as a whole, each order equally likely: a network of
few rounds prefers some orders of few rows."""


@dataclass(frozen=True)
class Batches:
    """The mini-batches of a data set, addressed by the number of the step.

    Any worker can tell on its own which of its rows belong to a step, in time and memory O(size).
    """

    rows: int
    """Number of rows of the data set."""
    size: int
    """Number of rows of a batch; the last batch of an epoch holds the rest."""
    seed: int
    """Random seed of the order."""

    @property
    def per_epoch(self) -> int:
        """Number of batches in an epoch."""
        return -(-self.rows // self.size)

    @property
    def is_whole(self) -> bool:
        """Whether a batch is the whole data set."""
        return self.size >= self.rows

    def rows_in(self, step: int) -> int:
        """Return the number of rows of the batch of a step."""
        begin = step % self.per_epoch * self.size
        return min(self.size, self.rows - begin)

    def numbers(self, step: int) -> NDArray[np.int64]:
        """Return the ascending numbers of the rows of the batch of a step, (rows,)."""
        epoch, batch = divmod(step, self.per_epoch)
        begin = batch * self.size
        end = begin + self.rows_in(step)
        if self.rows <= SMALL:
            return np.sort(_order(self.rows, self.seed, epoch)[begin:end])
        positions = np.arange(begin, end, dtype=np.uint64)
        keys = _keys(self.seed, epoch)
        return np.sort(permuted(positions, self.rows, keys)).astype(np.int64)


@lru_cache(maxsize=2)
def _order(rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the numbers of all rows in the order of an epoch, (rows,)."""
    return np.argsort(draws.words(seed, "epoch", epoch, size=rows), kind="stable")


@lru_cache(maxsize=2)
def _keys(seed: int, epoch: int) -> NDArray[np.uint64]:
    """Return the keys of the network that permutes the rows of an epoch, (ROUNDS,)."""
    return draws.words(seed, "epoch", epoch, size=ROUNDS)


def permuted(positions: NDArray[np.uint64], n: int, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return where a pseudo-random permutation of range(n) takes these positions, (m,).

    A generalized Feistel network on a rectangle a x b >= n, repeated for what falls outside of n
    (Black, Rogaway, Ciphers with arbitrary finite domains, 2002, methods 3 and 2).
    """
    from ray_kmeans.algorithm import compiled  # numba: 0.2 s, and may be missing

    a = math.isqrt(max(n - 1, 0)) + 1
    b = -(-n // a)
    result = positions.copy()
    outside: slice | NDArray[np.int64] = slice(None)
    while len(moved := result[outside]):
        compiled.permute(moved, np.uint64(a), np.uint64(b), keys)
        result[outside] = moved
        outside = np.flatnonzero(result >= n)
    return result
