"""The second-nearest centers, by products of bytes: of each row the center that is nearest is left out.

Centers that are about as far from a row are told apart by no more than a byte for each value only where
one is much nearer than all others, as the nearest may be and the second seldom is. So two bytes are
taken for all rows, and one reference for all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.kernels import portable
from ray_kmeans.kernels.int8.nearest import HIGHEST
from ray_kmeans.kernels.int8.quantize import norms_around
from ray_kmeans.kernels.int8.refine import HARD, settle_all
from ray_kmeans.kernels.int8.row_order import PART_BLOCKS, Slots
from ray_kmeans.kernels.int8.types import (
    Rows,
    ScratchPool,
    Target,
    bare,
    padded,
    quads_for,
)
from ray_kmeans.kernels.llvm import int8_products
from ray_kmeans.kernels.llvm.int8_products import BLOCK_ROWS
from ray_kmeans.kernels.threads import Threads

AT_ONCE = PART_BLOCKS * BLOCK_ROWS
"""Rows for which the centers are rounded once."""


class SecondNearest:
    """Centers among which rows look for the second-nearest."""

    @np.errstate(over="ignore", invalid="ignore")  # of what overflows, no row is certified
    def __init__(
        self,
        centers: NDArray[np.float32],
        metric: Metric,
        unit_of: Callable[[int], Any],
        threads: Threads,
        scratch_pool: ScratchPool,
    ) -> None:
        self._centers = np.array(centers)  # writable, as compiled code has met them
        self._cosine = metric == Metric.COSINE
        self._threads = threads
        self._quads = quads_for(centers.shape[1])
        self._unit = unit_of(self._quads)
        scale, mean = portable.scale_of(self._centers)
        self._scale = np.float32(scale)
        self._scaled = padded(self._centers * self._scale)
        self._reference = padded((mean * scale).astype(np.float32)[None])[0]
        self._still = np.zeros(len(centers), np.float32)
        self._scratch_pool = scratch_pool

    @np.errstate(over="ignore", invalid="ignore")
    def label(
        self, rows: NDArray[np.float32], labels: NDArray[np.int32], seconds: NDArray[np.int32]
    ) -> NDArray[np.int64]:
        """Write the second-nearest centers, given the nearest; return which rows are left open."""
        slots = Slots.of_rows(len(rows))
        nearest = np.full(len(slots.order), -1, np.int32)
        nearest[: len(rows)] = labels
        target = Target(
            centers=self._centers,
            scaled=self._scaled,
            scale=self._scale,
            cosine=self._cosine,
            moves=self._still,
            step=self._still,
            safe_gap=np.float32(0.0),
            left_out=nearest,
        )
        step = min(AT_ONCE, -(-len(rows) // self._threads.count))
        about = self._unit, Rows.of([rows]), slots, self._reference, target
        work = [
            (first, min(first + step, len(rows)), *about) for first in range(0, len(rows), step)
        ]
        hard = self._threads.run(self._piece, work)
        seconds[:] = slots.labels[: len(rows)]
        return np.concatenate([np.empty(0, np.int64), *hard])

    def _piece(self, first: int, last: int, *about: Any) -> NDArray[np.int32]:
        moved, tally = np.empty(last - first, np.int32), np.zeros(6, np.int64)
        with self._scratch_pool.lend(*self._centers.shape, self._quads, PART_BLOCKS) as scratch:
            visit_seconds(first, last, *about, moved, tally, scratch)
        return moved[len(moved) - tally[HARD] :]


@bare
def visit_seconds(first, last, unit, rows, slots, reference, target, moved, tally, scratch):
    """Label some rows, in their own order."""
    int8_products.begin(unit)
    shift = norms_around(target, reference, scratch)
    for slot in range(first, last):
        scratch.undecided[slot - first] = slot
    margin, around = (HIGHEST, np.float32(0.0)), (reference, shift)
    settle_all(unit, rows, slots, target, around, margin, last - first, moved, tally, scratch)
    int8_products.end(unit)
