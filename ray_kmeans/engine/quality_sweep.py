"""Sum up over the rows of a shard what figures of quality need, in one visit of each."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.contingency import Contingency
from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.quality_sums import BINS, BORDERS, QualitySums, silhouettes_of
from ray_kmeans.engine.shard import Rows, Shard
from ray_kmeans.kernels import Kernel
from ray_kmeans.kernels.moving_sums import counts_of
from ray_kmeans.kernels.threads import Threads

Labelled = tuple[int, Rows, NDArray[np.int32]]
"""(place in the shard, rows (n, d), labels (n,)) of a block."""


class OtherLabels(Protocol):
    """The labels that another clustering gives the rows of the data."""

    def read(self, blocks: Any) -> Iterator[tuple[NDArray[np.int64], Sequence[Hashable]]]:
        """Yield (codes (rows,), values) of each block; code -1: the row has no label."""


@dataclass(frozen=True)
class QualityAsked:
    """The figures of quality that are asked for, besides those that are always made."""

    borders: tuple[float, ...] = BORDERS
    """Percentages: how many rows are within each of them of a border."""
    others: OtherLabels | None = None
    """Labels of another clustering to compare with; None for no comparison."""


class RowFigures(NamedTuple):
    """Figures of some rows."""

    distances: NDArray[np.float64]
    """(n,) Distance to the nearest center, by the metric."""
    lengths: NDArray[np.float64]
    """(n,) Euclidean distance to the nearest center."""
    silhouettes: NDArray[np.float64]
    """(n,) Simplified silhouette; 0 for a single center."""


@dataclass(frozen=True)
class QualitySweep:
    """A sweep over the rows of a shard that sums up what figures of quality need."""

    shard: Shard
    """The rows."""
    metric: Metric
    """Distance metric: 'squared_euclidean' or 'cosine'."""
    kernel: Kernel
    """The kernel that finds labels and distances."""
    threads: Threads
    """Threads that compute at once."""
    centers: NDArray[np.float32]
    """(k, d) The centers."""
    scale: NDArray[np.float64]
    """(d,) Units of the grid per 1.0."""

    def sums(self, labelled: Iterable[Labelled], asked: QualityAsked) -> QualitySums:
        """Return the sums over all rows of the shard, whose labels are given block by block."""
        k, features = self.centers.shape
        total = QualitySums.zero(k, features, len(asked.borders))
        limits = np.array(asked.borders) / 100
        several = k > 1
        prepared = self.kernel.prepare(self.centers, self.metric) if several else None
        others = asked.others.read(self.shard.blocks) if asked.others else None
        pairs, waiting = total.pairs, Contingency.zero()
        for here, rows, labels in labelled:
            weights = self.shard.weights_in(here)
            seconds = np.zeros(len(rows), np.int32)
            if several:
                self.kernel.assign_second(rows, prepared, labels, seconds)
            self._add(total, rows, labels, weights, self._figures(rows, labels, seconds), limits)
            if others is not None:
                waiting += Contingency.of_rows(labels, *next(others), weights)
                if len(waiting.counts) > len(pairs.counts):  # so adding up stays linear
                    pairs, waiting = pairs + waiting, Contingency.zero()
        return replace(total, pairs=pairs + waiting)

    def _figures(
        self, rows: Rows, labels: NDArray[np.int32], seconds: NDArray[np.int32]
    ) -> RowFigures:
        """Return the figures of the rows of a block, made in threads."""
        step = max(-(-len(rows) // self.threads.count), 1)
        parts = [slice(start, start + step) for start in range(0, len(rows), step)]
        work = [(rows[part], labels[part], seconds[part]) for part in parts]
        made = self.threads.run(self._part, work)
        return RowFigures(*map(np.concatenate, zip(*made, strict=True)))

    def _part(
        self, rows: Rows, labels: NDArray[np.int32], seconds: NDArray[np.int32]
    ) -> RowFigures:
        """Return the figures of some rows; each is made of the row and the centers alone."""
        distances = self.kernel.distances_to(rows, self.centers, labels, self.metric)
        squares = distances
        if self.metric == Metric.COSINE:
            squares = self.kernel.distances_to(rows, self.centers, labels, Metric.SQUARED_EUCLIDEAN)
        silhouettes = np.zeros(len(rows))
        if len(self.centers) > 1:
            second = self.kernel.distances_to(rows, self.centers, seconds, self.metric)
            silhouettes = silhouettes_of(distances, second, self.metric)
        return RowFigures(distances, np.sqrt(squares), silhouettes)

    def _add(
        self,
        total: QualitySums,
        rows: Rows,
        labels: NDArray[np.int32],
        weights: NDArray[np.int64],
        figures: RowFigures,
        limits: NDArray[np.float64],
    ) -> None:
        """Add the rows of a block to all sums in place."""
        k = len(self.centers)
        self.kernel.accumulate(rows, labels, self.scale, total.partials.sums, weights)
        np.add(total.partials.counts, counts_of(labels, k, weights), out=total.partials.counts)
        total.distances.add(figures.distances, labels, weights)
        total.lengths.add(figures.lengths, labels, weights)
        total.silhouettes.add(figures.silhouettes, labels, weights)
        bins = np.minimum((figures.silhouettes * BINS).astype(np.int32), BINS - 1)
        np.add(total.histogram, counts_of(bins, BINS, weights), out=total.histogram)
        times = weights if len(weights) else np.ones(len(rows), np.int64)
        near = figures.silhouettes <= limits[:, None]
        np.add(total.near_border, np.where(near, times, 0).sum(axis=1), out=total.near_border)
