"""Make rows to try things out: a mixture of Gaussians.

Each row is a function of the random seed and of its number alone, so that any part of the data can
be made anywhere, in any order, and is the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm import draws
from ray_kmeans.algorithm.metric import unit_rows
from ray_kmeans.errors import ConfigError

DRAWN_ROWS = 8192
"""Number of rows drawn together, whatever file they go to. Another number makes other rows."""


@dataclass(frozen=True)
class Mixture:
    """Rows drawn around centers, each center with the same probability."""

    num_rows: int
    """Number of rows."""
    num_features: int
    """Number of features of a row."""
    num_clusters: int
    """Number of centers."""
    spread: float
    """Standard deviation of rows around their center; the centers have 1 around zero."""
    random_seed: int
    """Seed of all draws."""
    unit_norm: bool
    """Whether rows are scaled to norm 1."""

    def __post_init__(self) -> None:
        """Raise ConfigError for sizes or a spread that no mixture has."""
        for name in ("num_rows", "num_features", "num_clusters"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1.")
        if not 0 <= self.spread < math.inf:
            raise ConfigError(f"spread={self.spread} must be a number from 0 on.")

    @cached_property
    def centers(self) -> NDArray[np.float32]:
        """Centers of shape (num_clusters, num_features)."""
        shape = self.num_clusters, self.num_features
        return draws.normals(self.random_seed, "mixture centers", shape=shape)

    def rows(self, start: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Return the rows [start, stop), (n, d), and the number of the center of each, (n,)."""
        first = start // DRAWN_ROWS
        drawn = [self._draw(number) for number in range(first, -(-stop // DRAWN_ROWS))]
        wanted = slice(start - first * DRAWN_ROWS, stop - first * DRAWN_ROWS)
        rows, labels = (np.concatenate(parts)[wanted] for parts in zip(*drawn, strict=True))
        return unit_rows(rows) if self.unit_norm else rows, labels

    def _draw(self, number: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Return the rows of one draw, (DRAWN_ROWS, d), and their centers' numbers."""
        words = draws.words(self.random_seed, "mixture labels", number, size=DRAWN_ROWS)
        labels = (words % np.uint64(self.num_clusters)).astype(np.int32)
        shape = DRAWN_ROWS, self.num_features
        rows = draws.normals(self.random_seed, "mixture rows", number, shape=shape)
        rows *= np.float32(self.spread)
        rows += self.centers[labels]
        return rows, labels
