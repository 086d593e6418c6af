"""Compile now, and check, all loops that runs on this type of machine need, so that none waits."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.batch_rows import Batches
from ray_kmeans.algorithm.grid import Extent
from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.partial_sums import Partials
from ray_kmeans.algorithm.state import FitState
from ray_kmeans.data.array import ArraySource
from ray_kmeans.data.sharding import split
from ray_kmeans.engine.label_writer import NearestCenters
from ray_kmeans.engine.options import WorkerSetup
from ray_kmeans.engine.pool import LocalPool
from ray_kmeans.engine.quality_sweep import QualityAsked
from ray_kmeans.engine.seeding.choose import KMEANS_PARALLEL, KMEANS_PLUS_PLUS, choose_centers
from ray_kmeans.workflows.predict_in_memory import (
    ALL_SCORES,
    CLUSTER_IDX,
    DISTANCE,
    ReadyModel,
)
from ray_kmeans.workflows.quality import measure_quality

SIZES = ((600, 70, 4), (9000, 70, 256), (40_000, 8, 256))
"""Rows, columns and clusters of the data that are worked on: little for BLAS, and enough for bytes,
with many columns and with few."""


class CompiledKernels(NamedTuple):
    """What there is now that the loops are compiled."""

    kernels: tuple[str, ...]
    """Names of what labels the rows of each of SIZES."""
    seconds: float
    """Seconds that compiling and checking took."""
    folder: Path | None
    """Folder below which the machine code is; None where none can be written."""


def compile_kernels() -> CompiledKernels:
    """Compile and check all loops for the processor of this machine; say what won.

    It works on small random data in this process as fits do: whatever they run is compiled then.
    """
    begin = time.perf_counter()
    from ray_kmeans.algorithm import compiled as arithmetic  # numba: 0.2 s
    from ray_kmeans.kernels import compiled as loops
    from ray_kmeans.kernels import fastest_unit
    from ray_kmeans.process import jit

    for work in fastest_unit.Work:
        fastest_unit.fastest(work, anew=True)
    names = [_work_on(metric, *size) for size in SIZES for metric in Metric]
    folders = [jit.folder_of(some) for some in (arithmetic.extent, loops.fingerprint)]
    found = [str(folder) for folder in folders if folder is not None]
    return CompiledKernels(
        kernels=tuple(names[:: len(Metric)]),
        seconds=time.perf_counter() - begin,
        folder=Path(os.path.commonpath(found)) if found else None,
    )


def _work_on(metric: Metric, rows: int, columns: int, clusters: int) -> str:
    """Do all that fits and labellings do with random rows; return the name of what labels them."""
    drawn = np.random.default_rng(0).standard_normal((rows, columns), np.float32)
    source = ArraySource.of(drawn)
    pool = LocalPool(source, split(source.describe().blocks, 1), WorkerSetup(metric))
    try:
        summary = pool.summarize()
        Partials.get_ready(summary)
        [(name, _, _)] = pool.get_ready(clusters)
        pool.get_ready(clusters, rows)
        for method in (KMEANS_PARALLEL, KMEANS_PLUS_PLUS):
            choose_centers(method, 4, retries=2, seed=0, pool=pool, summary=summary)
        centers = drawn[:clusters]
        for moved in (centers, centers * np.float32(0.98)):
            pool.sweep(moved)
        pool.sweep_batches(centers, Batches(rows, rows // 2, seed=0), 0, 1)
        pool.farthest(centers, 1)
        pool.rows_of_largest(centers, 1, np.uint64(0))
        for listed in (None, 3):
            pool.write_labels(centers, _Nowhere(), (), NearestCenters(True, listed))
        layout, state = source.describe(), FitState.initial(centers, metric)
        measure_quality(pool, summary, state, QualityAsked(others=_Numbers()), layout)
    finally:
        pool.close()
    _predict(drawn, FitState.initial(centers, metric))
    return name


def _predict(rows: NDArray[np.float32], state: FitState) -> None:
    """Predict all that a model can say, for rows that may be written to, and others that may not.

    numba compiles for each of them by itself; those of Arrow's tables may not.
    """
    fixed = rows.view()
    fixed.setflags(write=False)
    for some in (rows, fixed):
        Extent.of_rows(some)
        ReadyModel(state, (ALL_SCORES, CLUSTER_IDX, DISTANCE))(some)


class _Numbers:
    """Labels of another clustering: the number of each row in its block, up to a bound."""

    def read(self, blocks: Any) -> Iterator[tuple[NDArray[np.int64], range]]:
        """Yield the codes of each block, and their values."""
        yield from ((np.arange(block.rows) % 4, range(4)) for block in blocks)


class _Nowhere:
    """A place for labelled output that keeps none."""

    def write(self, index: int, first_row: int, columns: Any, kept: Any) -> None:
        """Take a part and forget it."""
