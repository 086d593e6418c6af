"""The record of centers that every writer of a file takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.metric import Metric

NO_PARENT = -1
"""Parent of a node at the top of a tree."""


@dataclass(frozen=True)
class Level:
    """A level of a tree of centers, above the leaves."""

    centers: NDArray[Any]
    """(m, d) Centers of the level."""
    parents: NDArray[np.integer[Any]]
    """(n,) For each of the n centers one level below, the index of its parent in `centers`."""


@dataclass(frozen=True)
class Nodes:
    """All centers of a tree, numbered from 0 on: first the leaves, then level by level upwards."""

    centers: NDArray[Any]
    """(n, d) Centers of all levels."""
    counts: NDArray[Any]
    """(n,) Weight of the rows below each."""
    parents: NDArray[np.int64]
    """(n,) Number of the parent of each; `NO_PARENT` at the top."""
    levels: NDArray[np.int64]
    """(n,) Level of each; 0 for a leaf."""


@dataclass(frozen=True)
class ExportedCenters:
    """The centers of a model, and the tree above them if it has one."""

    centers: NDArray[Any]
    """(k, d) Centers of the clusters, float32; float64 if the model's rows are shifted."""
    counts: NDArray[Any]
    """(k,) Weight of the rows of each cluster, int64 or float64."""
    metric: Metric
    """Distance metric of the model."""
    levels: tuple[Level, ...] = ()
    """Levels above the clusters, the lowest first; () for a model without a tree."""

    @property
    def nodes(self) -> Nodes:
        """The centers of all levels, as one numbered list."""
        all_centers = [self.centers, *(level.centers for level in self.levels)]
        counts = [self.counts]
        for level in self.levels:
            above = np.zeros(len(level.centers), self.counts.dtype)
            np.add.at(above, level.parents, counts[-1])
            counts.append(above)
        sizes = [len(centers) for centers in all_centers]
        firsts = np.cumsum([0, *sizes])
        parents = [
            level.parents.astype(np.int64) + first
            for level, first in zip(self.levels, firsts[1:], strict=False)
        ]
        top = np.full(sizes[-1], NO_PARENT, np.int64)
        return Nodes(
            np.concatenate(all_centers),
            np.concatenate(counts),
            np.concatenate([*parents, top]),
            np.repeat(np.arange(len(sizes)), sizes),
        )

    def without_childless(self) -> ExportedCenters:
        """Return the same tree without the centers that have no center below them.

        Index builders take a node without children for a leaf, which no row was labelled with.
        """
        kept: list[Level] = []
        alive = np.arange(len(self.centers))
        for level in self.levels:
            used, parents = np.unique(level.parents[alive], return_inverse=True)
            kept.append(Level(level.centers[used], parents.ravel()))
            alive = used
        return replace(self, levels=tuple(kept))
