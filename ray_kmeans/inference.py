"""Labels and distances of rows that this process reads, in the order of the data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ray_kmeans import kernels
from ray_kmeans.clustering.grid import Extent
from ray_kmeans.data.plan import Layout
from ray_kmeans.data.source import Source
from ray_kmeans.errors import NonFiniteError

ALL_SCORES = "all_scores"
CLUSTER_IDX = "cluster_idx"

Batch: TypeAlias = dict[str, NDArray[Any]]


def infer(
    centers: NDArray[np.float32],
    source: Source,
    layout: Layout,
    batch_size: int | None,
    outputs: Sequence[str],
) -> Iterator[Batch]:
    """Yield a dict of arrays per batch: 'all_scores' (n, k) float32, 'cluster_idx' (n,) int64.

    `batch_size` None: one block of the data at a time. Holds one block and one batch at most.
    """
    kernel = kernels.load()
    prepared = kernel.prepare(centers)
    for rows in _batches(source, layout, batch_size):
        batch: Batch = {}
        if ALL_SCORES in outputs:
            batch[ALL_SCORES] = kernel.distances(rows, centers)
        if CLUSTER_IDX in outputs:
            labels = np.empty(len(rows), np.int32)
            kernel.assign(rows, prepared, labels)
            batch[CLUSTER_IDX] = labels.astype(np.int64)
        yield batch


def whole(batches: Iterator[Batch]) -> Batch:
    """Put all batches together."""
    parts = list(batches)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def by_row(batches: Iterator[Batch]) -> Iterator[dict[str, Any]]:
    """Yield one dict per row."""
    for batch in batches:
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))


def _batches(
    source: Source, layout: Layout, batch_size: int | None
) -> Iterator[NDArray[np.float32]]:
    if not layout.blocks:
        yield np.empty((0, layout.features), np.float32)
    for block, rows in source.read(layout.blocks):
        extent = Extent.of_rows(rows, block.place)
        if extent.nonfinite:
            raise NonFiniteError(extent.nonfinite)
        size = batch_size or len(rows)
        for start in range(0, len(rows), size):
            yield rows[start : start + size]
