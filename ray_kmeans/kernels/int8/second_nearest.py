"""The second-nearest center of each row, by byte products with the nearest one left out.

One byte a column decides only where one center is much nearer than all others, as the nearest often
is and the second seldom. So all rows are quantized to two bytes, around one reference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.kernels import F32, portable
from ray_kmeans.kernels.int8.quantize import compute_terms
from ray_kmeans.kernels.int8.refine import refine_among_all
from ray_kmeans.kernels.int8.row_order import PART_BLOCKS
from ray_kmeans.kernels.int8.types import (
    TALLIES,
    Rows,
    Scratch,
    ScratchPool,
    Slots,
    Sweep,
    Target,
    bare,
    pad_columns,
    quads_for,
)
from ray_kmeans.kernels.llvm import int8_products
from ray_kmeans.kernels.llvm.int8_products import BLOCK_ROWS, Unit
from ray_kmeans.kernels.threads import Threads

AT_ONCE = PART_BLOCKS * BLOCK_ROWS
"""Rows for which the centers are quantized once, so that pieces of work are of about equal size."""


class SecondNearest:
    """Centers (k, d) among which rows look for the second-nearest one."""

    @np.errstate(over="ignore", invalid="ignore")  # of what overflows, no row is certified
    def __init__(
        self,
        centers: NDArray[np.float32],
        metric: Metric,
        unit_of: Callable[[int], Any],
        threads: Threads,
        scratch_pool: ScratchPool,
    ) -> None:
        self._centers = np.array(centers)  # writable: else numba compiles again
        self._cosine = metric == Metric.COSINE
        self._threads = threads
        self._quads = quads_for(centers.shape[1])
        self._unit = unit_of(self._quads)
        scale, mean = portable.scale_of(self._centers)
        self._scale = np.float32(scale)
        self._scaled = pad_columns(self._centers * self._scale)
        self._reference = pad_columns((mean * scale).astype(np.float32)[None])[0]
        self._still = np.zeros(len(centers), np.float32)
        self._scratch_pool = scratch_pool

    @np.errstate(over="ignore", invalid="ignore")
    def label(
        self, rows: NDArray[np.float32], labels: NDArray[np.int32], seconds: NDArray[np.int32]
    ) -> NDArray[np.int64]:
        """Write the second-nearest center of each row; return which rows are left to the caller.

        rows: (n, d)  IN, C order
        labels: (n,)  IN, the nearest centers
        seconds: (n,)  OUT, but not of the rows that are returned
        """
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
        places = Rows.of([rows])
        work = [
            (first, min(first + step, len(rows)), places, slots, target)
            for first in range(0, len(rows), step)
        ]
        # Threads share the slots, and each piece writes those of its own rows.
        deferred = self._threads.run(self._label_piece, work)
        seconds[:] = slots.labels[: len(rows)]
        return np.concatenate([np.empty(0, np.int64), *deferred])

    def _label_piece(
        self, first: int, last: int, rows: Rows, slots: Slots, target: Target
    ) -> NDArray[np.int32]:
        """Label the rows from `first` to `last`; return those that are deferred."""
        sweep = Sweep(
            rows=rows,
            slots=slots,
            target=target,
            changed=np.empty(last - first, np.int32),
            tally=np.zeros(TALLIES, np.int64),
        )
        with self._scratch_pool.lend(*self._centers.shape, self._quads, PART_BLOCKS) as scratch:
            label_seconds(self._unit, first, last, self._reference, sweep, scratch)
        return sweep.deferred_slots


@bare
def label_seconds(
    unit: Unit, first: int, last: int, reference: F32, sweep: Sweep, scratch: Scratch
) -> None:
    """Label the rows from `first` to `last`, in their own order, by two bytes a column.

    reference: (columns,) float32  IN. The other arguments are those of the table in `types`.
    """
    int8_products.begin(unit)
    shift = compute_terms(sweep.target, reference, scratch)
    for slot in range(first, last):
        scratch.undecided[slot - first] = slot
    # No bound is kept between two calls, so it may be any number, and no center has moved.
    no_moves = np.float32(0.0)
    refine_among_all(unit, sweep, reference, shift, no_moves, last - first, scratch)
    int8_products.end(unit)
