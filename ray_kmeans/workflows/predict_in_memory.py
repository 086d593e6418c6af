"""Predict labels and distances of rows that this process reads, in the order of the data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ray_kmeans import kernels
from ray_kmeans.algorithm.grid import Extent
from ray_kmeans.algorithm.metric import project
from ray_kmeans.algorithm.state import FitState
from ray_kmeans.data.sharding import Block, Layout
from ray_kmeans.data.source import Source
from ray_kmeans.data.weighted import WeightedSource, columns_of_rows
from ray_kmeans.engine.label_writer import LISTS
from ray_kmeans.kernels.nearest_centers import find_nearest, measure_distances

ALL_SCORES = "all_scores"
"""Name of the output with the distances to all centers."""
CLUSTER_IDX = "cluster_idx"
"""Name of the output with the index of the nearest center."""
DISTANCE = "distance"
"""Name of the output with the distance to the nearest center."""

Batch: TypeAlias = dict[str, NDArray[Any]]
"""The outputs for some rows, by name: 'all_scores' (n, k), 'cluster_idx' (n,), 'distance' (n,),
'nearest_cluster_idx' (n, m), 'nearest_distance' (n, m)."""


class ReadyModel:
    """Labels rows in memory by a model, with the kernel of this machine."""

    def __init__(self, state: FitState, outputs: Sequence[str], listed: int = 0) -> None:
        """Load the kernel and prepare the centers, once for all rows.

        `listed`: number of nearest centers that are listed for each row, beside the outputs.
        """
        self._kernel = kernels.load()
        self._centers = state.centers
        self._metric = state.metric
        self._prepared = self._kernel.prepare(self._centers, state.metric)
        self._outputs = outputs
        self._listed = listed

    def get_ready(self, rows: int) -> None:
        """Compile now what labelling `rows` rows at once takes."""
        self._kernel.ready(rows, *self._centers.shape)

    def each(
        self, sources: Iterable[tuple[Source, Layout]], batch_size: int | None
    ) -> Iterator[Batch]:
        """Yield the outputs for each batch of some data; one without rows if there is none."""
        batches = (
            self(rows)
            for source, layout in sources
            for rows in batches_of(source, layout, batch_size)
        )
        return at_least(batches, self(self._centers[:0]))

    def __call__(self, rows: NDArray[np.float32]) -> Batch:
        """Return the wanted outputs for rows (n, d) float32.

        'all_scores' is (n, k) float32, 'cluster_idx' (n,) int64, 'distance' (n,) float32; lists
        are (n, m), of the same types. A row of NaN is left out: it gets NaN and -1.
        """
        out = np.isnan(rows[:, 0])  # `batches_of` marks rows that are left out so
        if out.any():
            rows = np.where(out[:, None], np.float32(0), rows)
        rows = project(rows, self._metric)
        batch: Batch = {}
        if ALL_SCORES in self._outputs:
            batch[ALL_SCORES] = np.empty((len(rows), len(self._centers)), np.float32)
            self._kernel.distances(rows, self._centers, self._metric, batch[ALL_SCORES])
            batch[ALL_SCORES][out] = np.nan
        if self._listed or CLUSTER_IDX in self._outputs or DISTANCE in self._outputs:
            batch |= self._nearest(rows, out)
        return batch

    def _nearest(self, rows: NDArray[np.float32], out: NDArray[np.bool_]) -> Batch:
        """Return the wanted outputs about the nearest centers of rows, but for those left `out`."""
        labels = np.empty(len(rows), np.int32)
        self._kernel.assign(rows, self._prepared, labels)
        count = max(self._listed, 1)
        found = find_nearest(self._kernel, rows, self._prepared, labels, count)
        batch: Batch = {}
        if CLUSTER_IDX in self._outputs:
            batch[CLUSTER_IDX] = np.where(out, -1, labels.astype(np.int64))
        if DISTANCE not in self._outputs and not self._listed:
            return batch
        measured = measure_distances(self._kernel, rows, self._centers, found, self._metric)
        distances = np.where(out, np.float32(np.nan), measured)
        if DISTANCE in self._outputs:
            batch[DISTANCE] = distances[0]
        if self._listed:
            listed = np.where(out, -1, found.astype(np.int64))
            batch |= {LISTS[0]: listed.T.copy(), LISTS[1]: distances.T.copy()}
        return batch


def batches_of(
    source: Source, layout: Layout, batch_size: int | None
) -> Iterator[NDArray[np.float32]]:
    """Yield the rows in batches (b, d); without `batch_size`, one block of the data at a time.

    Holds at most one block and one batch. A row that is left out is NaN in all columns.
    """
    if not layout.blocks:
        yield np.empty((0, layout.features), np.float32)
    kept: list[NDArray[np.float32]] = []
    missing = batch_size or 0
    for rows in _blocks_of(source, layout):
        if batch_size is None:
            yield rows
            continue
        while len(rows) >= missing:
            yield np.concatenate([*kept, rows[:missing]]) if kept else rows[:missing]
            kept, rows, missing = [], rows[missing:], batch_size
        if len(rows):
            kept.append(rows)
            missing -= len(rows)
    if kept:
        yield np.concatenate(kept)


def _blocks_of(source: Source, layout: Layout) -> Iterator[NDArray[np.float32]]:
    """Yield the rows of each block; NonFiniteError for rows neither finite nor left out."""
    weights: Iterable[NDArray[np.float64] | None]
    drop, weights, names = False, repeat(None), columns_of_rows(source)
    if isinstance(source, WeightedSource):
        drop, weights = source.drop_nonfinite, source.weights_of(layout.blocks)
    for (block, rows), given in zip(source.read(layout.blocks), weights, strict=False):
        out: NDArray[np.bool_] = np.zeros(len(rows), np.bool_) if given is None else given == 0
        if drop:
            out = out | np.logical_not(np.isfinite(rows).all(axis=1))
        if not out.any():
            yield _check_finite(rows, block, names)
        else:
            _check_finite(np.where(out[:, None], np.float32(0), rows), block, names)
            yield np.where(out[:, None], np.float32(np.nan), rows)


def _check_finite(
    rows: NDArray[np.float32], block: Block, names: Sequence[str]
) -> NDArray[np.float32]:
    """Return the rows of a block; NonFiniteError, with their place, unless all are finite."""
    Extent.of_rows(rows, block.place, block.start, names).check_finite()
    return rows


def at_least(batches: Iterator[Batch], nothing: Batch) -> Iterator[Batch]:
    """Yield the batches; `nothing`, a batch without rows, if there are none."""
    first = next(batches, nothing)
    yield first
    yield from batches


def join_batches(batches: Iterator[Batch]) -> Batch:
    """Return all batches as one."""
    parts = list(batches)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def by_row(batches: Iterator[Batch]) -> Iterator[dict[str, Any]]:
    """Yield a dict of values for each row."""
    for batch in batches:
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))
