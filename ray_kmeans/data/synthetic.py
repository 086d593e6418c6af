"""A mixture of Gaussians: rows to try things out, each a function of seed and number."""

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
"""Rows that are drawn together, whatever file they go to: part of what a row is."""


@dataclass(frozen=True)
class Mixture:
    """Rows around centers; every row is as likely to be around one as around another."""

    num_rows: int
    num_features: int
    num_clusters: int
    spread: float
    """Standard deviation around a center. The centers themselves have 1 around zero."""
    random_seed: int
    unit_norm: bool
    """Whether rows are scaled to norm 1."""

    def __post_init__(self) -> None:
        """Raise ConfigError for what cannot be."""
        for name in ("num_rows", "num_features", "num_clusters"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1.")
        if not 0 <= self.spread < math.inf:
            raise ConfigError(f"spread={self.spread} must be a number from 0 on.")

    @cached_property
    def centers(self) -> NDArray[np.float32]:
        """(num_clusters, num_features)"""
        shape = self.num_clusters, self.num_features
        return draws.normals(self.random_seed, "mixture centers", shape=shape)

    def rows(self, start: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Return some rows (stop - start, d), and the center that each was drawn around."""
        first = start // DRAWN_ROWS
        drawn = [self._drawn(number) for number in range(first, -(-stop // DRAWN_ROWS))]
        wanted = slice(start - first * DRAWN_ROWS, stop - first * DRAWN_ROWS)
        rows, labels = (np.concatenate(parts)[wanted] for parts in zip(*drawn, strict=True))
        return unit_rows(rows) if self.unit_norm else rows, labels

    def _drawn(self, number: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        words = draws.words(self.random_seed, "mixture labels", number, size=DRAWN_ROWS)
        labels = (words % np.uint64(self.num_clusters)).astype(np.int32)
        shape = DRAWN_ROWS, self.num_features
        rows = draws.normals(self.random_seed, "mixture rows", number, shape=shape)
        rows *= np.float32(self.spread)
        rows += self.centers[labels]
        return rows, labels
