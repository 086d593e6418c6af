"""Rows that are labelled again and again, with what makes the next time cheaper.

A shard keeps a copy of its rows in bytes, rounded around references (see `rounding`), and for every
row a bound on how far centers may move before its label can change. Both make it faster and decide
nothing: losing them costs time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.kernels import (
    ALIKE,
    Moves,
    compiled,
    drift,
    portable,
    summing,
)
from ray_kmeans.kernels.int8 import row_order
from ray_kmeans.kernels.int8.quantize import round_parts
from ray_kmeans.kernels.int8.refine import (
    HARD,
    LIVE,
    MOVED,
    OPENED,
    VISITED,
)
from ray_kmeans.kernels.int8.row_order import (
    PART_BLOCKS,
    Slots,
    parts_of,
    references_for,
)
from ray_kmeans.kernels.int8.sweep import visit
from ray_kmeans.kernels.int8.sweep_few_columns import MOST_VALUES, visit_by_floats
from ray_kmeans.kernels.int8.types import (
    NONE_LEFT_OUT,
    Coarse,
    Rows,
    ScratchPool,
    Target,
    padded,
    quads_for,
)
from ray_kmeans.kernels.llvm.avx512_float import FLOAT_COLUMNS
from ray_kmeans.kernels.llvm.int8_products import BLOCK_ROWS
from ray_kmeans.kernels.moving_sums import IncrementalSums, SumsInMemory
from ray_kmeans.kernels.threads import TASKS_PER_THREAD, Threads

UNIT_NORM = 2.0**-19
"""How far a squared norm may be from 1 for bounds to hold for 'cosine'."""
SETTLING_COST = 4
REGROUPING_COST = 3
"""Of a row that bytes leave open, and of a row when all are regrouped, in visits of a row."""
ROWS_AT_ONCE = 2**14
"""Rows that are copied to be settled elsewhere."""
FEW_COLUMNS = 4
"""Up to so many columns bytes spare nothing."""
LARGEST_DRIFT = 2.0**8
"""Between the spread of the centers and the one that the scale was made for."""


class HeldRows(IncrementalSums):
    """Blocks of rows and their labels."""

    def __init__(
        self,
        blocks: Sequence[NDArray[np.float32]],
        metric: Metric,
        unit_of: Callable[[int], Any],
        threads: Threads,
        weights: NDArray[np.int64] = ALIKE,
        scratch_pool: ScratchPool | None = None,
    ) -> None:
        super().__init__()
        self._blocks = blocks  # `Rows` holds their addresses, so they must live as long
        self._weights = weights
        self._labels = np.full(sum(map(len, blocks)), -1, np.int32)
        self._is_forgotten = False
        self._metric = metric
        self._threads = threads
        self._d = blocks[0].shape[1]
        self._quads = quads_for(self._d)
        self._unit = unit_of(self._quads)
        self._rows = Rows.of(blocks)
        self._scratch_pool = scratch_pool or ScratchPool()
        self._centers = np.empty((0, self._d), np.float32)
        self._usual, self._excess = -1, 0.0
        self._coarse: Coarse | None = None

    def _forget(self) -> None:
        self._labels[:] = -1
        self._is_forgotten = True

    def _all_labels(self) -> NDArray[np.int32]:
        return self._labels

    def _new_sums(self, k: int, scale: NDArray[np.float64]) -> SumsInMemory:
        return SumsInMemory(k, scale, partial(summing.move_rows, threads=self._threads))

    @np.errstate(over="ignore", invalid="ignore")  # of what overflows, no row is certified
    def _sweep(self, centers: NDArray[np.float32]) -> None:
        centers = np.array(centers)  # writable, as compiled code has met them, and ours to keep
        if centers.shape != self._centers.shape or not self._drift(centers):
            self._label_anew(centers)
            labels = self._slots.labels[: len(self._labels)]  # in the order of the rows
            rows = slots = np.flatnonzero(labels != self._labels).astype(np.int32)
        else:
            if self._excess > REGROUPING_COST * len(self._labels):
                self.regroup()
            slots = self._visit()
            if self._is_forgotten:  # then all rows are new to the sums, whichever labels changed
                slots = np.flatnonzero(self._slots.order >= 0).astype(np.int32)
            rows = self._slots.order[slots]
        moves = Moves(rows=rows, before=self._labels[rows])
        self._labels[rows] = self._slots.labels[slots]
        self._is_forgotten = False
        if self._sums is not None:
            self._sums.move(self._rows, moves, self._labels, self._weights)

    def _label_anew(self, centers: NDArray[np.float32]) -> None:
        """Label all rows without knowing anything of them."""
        self._scale, mean = portable.scale_of(centers)
        self._travels = self._step = np.zeros(len(centers))
        self._slots = Slots.of_rows(len(self._labels))
        self._take(centers)
        reference = padded((mean * self._scale).astype(np.float32)[None])
        begins = np.array([0, len(self._slots.order) // BLOCK_ROWS])
        most = MOST_VALUES * (4 if self._d <= FEW_COLUMNS else 1)
        if centers.size <= most and self._d <= FLOAT_COLUMNS:
            self._references, self._parts = reference, parts_of(begins)
            self._parts.radii[:] = np.inf  # bounds leave any distance
            self._coarse = None
        else:
            self._round(reference, begins)
        self._visit()
        self._usual, self._excess = 0, 0.0  # a reference for all is good for a begin only

    def _drift(self, centers: NDArray[np.float32]) -> bool:
        """Note how far the centers moved; return whether what is known is still of use."""
        scale, _ = portable.scale_of(centers)
        if not 1 / LARGEST_DRIFT <= scale / self._scale <= LARGEST_DRIFT:
            return False
        step = np.empty(len(centers))
        drift.moved(self._centers, centers, step)
        self._step = step * self._scale * (1 + 2.0**-20)
        self._travels = self._travels + self._step
        self._take(centers)
        return True

    def _take(self, centers: NDArray[np.float32]) -> None:
        self._centers = centers
        self._scaled = padded(centers * np.float32(self._scale))
        self._moves = (self._travels * (1 + 2.0**-20)).astype(np.float32)
        self._safe_gap = 0.0
        if self._metric == Metric.COSINE:
            self._safe_gap = self._scale * 2.0**-8
            norms = (centers.astype(np.float64) ** 2).sum(axis=1)
            if np.abs(norms - 1).max() > UNIT_NORM:
                self._safe_gap = np.inf
                self._slots.bounds[self._slots.order >= 0] = -np.inf

    @np.errstate(over="ignore", invalid="ignore")
    def regroup(self) -> None:
        """Round the rows anew, around references near the centers of today."""
        with portable.one_blas_thread():
            references, group_of = references_for(self._scaled, len(self._labels))
        row_order.leave(self._slots, self._parts, self._moves)
        self._slots, begins = row_order.regroup(self._slots, group_of, len(references))
        self._round(references, begins)
        safe_gap = np.float32(self._safe_gap)
        row_order.take_back(self._slots, self._parts, self._moves, safe_gap)
        self._usual, self._excess = -1, 0.0

    def _round(self, references: NDArray[np.float32], begins: NDArray[np.int64]) -> None:
        self._parts = parts_of(begins)
        self._coarse = None  # frees the last one first
        blocks = len(self._slots.order) // BLOCK_ROWS
        weights, errors, sizes = np.empty((3, blocks * BLOCK_ROWS), np.float32)
        self._coarse = Coarse(
            packed=np.zeros((blocks, self._quads, BLOCK_ROWS), np.int32),
            weights=weights,
            errors=errors,
            sizes=sizes,
            references=references,
        )
        about = self._rows, self._slots.order, self._d, np.float32(self._scale), self._coarse
        self._threads.run(
            self._with_scratch(round_parts), [(*run, self._parts, *about) for run in self._runs()]
        )

    def _visit(self) -> NDArray[np.int32]:
        """Visit all parts; return the slots whose label is new."""
        runs = self._runs()
        tallies = np.zeros((len(runs), 6), np.int64)
        moved = np.empty(len(self._slots.order), np.int32)
        spans = self._parts.spans * BLOCK_ROWS
        lists = [moved[spans[first, 1] : spans[last - 1, 2]] for first, last in runs]
        target = Target(
            centers=self._centers,
            scaled=self._scaled,
            scale=np.float32(self._scale),
            cosine=self._metric == Metric.COSINE,
            moves=self._moves,
            step=self._step.astype(np.float32) * np.float32(1 + 2.0**-20),
            safe_gap=np.float32(self._safe_gap),
            left_out=NONE_LEFT_OUT,
        )
        by_floats = self._coarse is None
        known: Any = self._references if by_floats else self._coarse
        about = self._parts, self._rows, self._slots, known, target
        work = [
            (self._unit, *run, *about, listed, tally)
            for run, listed, tally in zip(runs, lists, tallies, strict=True)
        ]
        self._threads.run(self._with_scratch(visit_by_floats if by_floats else visit), work)
        self._tally = tallies.sum(axis=0)
        self._count_excess()
        ends = list(zip(lists, tallies, strict=True))
        found = [listed[: tally[MOVED]] for listed, tally in ends]
        hard = [listed[len(listed) - tally[HARD] :] for listed, tally in ends]
        return np.concatenate([*found, self._settle(np.concatenate(hard))])

    def _count_excess(self) -> None:
        """Note what regrouping would have spared."""
        if self._usual < 0:
            self._usual = int(self._tally[OPENED])
        undecided = max(int(self._tally[OPENED]) - self._usual, 0)
        self._excess += SETTLING_COST * undecided
        if self._coarse is not None:
            self._excess += int(self._tally[VISITED] - self._tally[LIVE])

    def _settle(self, slots: NDArray[np.int32]) -> NDArray[np.int32]:
        """Label the rows that had too many candidates; return the slots whose label is new."""
        if not len(slots):
            return slots
        kernel = portable.PortableKernel(self._threads.count)
        prepared = kernel.prepare(self._centers, self._metric)
        labels = np.empty(len(slots), np.int32)
        for start in range(0, len(slots), ROWS_AT_ONCE):
            some = slots[start : start + ROWS_AT_ONCE]
            rows = np.empty((len(some), self._d), np.float32)
            compiled.gather(self._rows, self._slots.order[some], rows)
            kernel.assign(rows, prepared, labels[start : start + ROWS_AT_ONCE])
        new = labels != self._slots.labels[slots]
        self._slots.labels[slots] = labels
        moved: NDArray[np.int32] = slots[new]
        return moved

    def _with_scratch(self, work: Callable[..., None]) -> Callable[..., None]:
        """Return the work with memory of its own as its last argument."""

        def call(*arguments: Any) -> None:
            about = len(self._centers), self._d, self._quads, PART_BLOCKS
            with self._scratch_pool.lend(*about) as scratch:
                work(*arguments, scratch)

        return call

    def _runs(self) -> list[tuple[int, int]]:
        """Cut the parts into pieces of work of about equal size, (first, last) each."""
        spans = self._parts.spans
        pieces = min(len(spans), TASKS_PER_THREAD * self._threads.count)
        sizes = np.cumsum(spans[:, 2] - spans[:, 1])
        cuts = np.searchsorted(sizes, sizes[-1] * np.arange(1, pieces) / pieces) + 1
        return list(pairwise(np.unique([0, *cuts, len(spans)]).tolist()))
