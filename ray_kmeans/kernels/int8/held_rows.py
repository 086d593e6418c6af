"""Rows that are labelled again and again, with what makes the next sweep cheaper.

A shard keeps a copy of its rows in bytes, quantized around references (see `quantize`), and for
every row a bound on how far centers may move before its label can change. Both make it faster and
decide nothing: losing them costs time and no bit. docs/internals/kernels.md draws the way of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
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
from ray_kmeans.kernels.int8 import held_prefixes, row_order
from ray_kmeans.kernels.int8.float_rows import pack_parts
from ray_kmeans.kernels.int8.prefix import (
    MOST_COLUMNS,
    SAMPLE,
    Axes,
    Costs,
    Prefixes,
    choose_axes,
    floats_per_second,
    prepare_centers,
)
from ray_kmeans.kernels.int8.quantize import quantize_parts
from ray_kmeans.kernels.int8.row_order import (
    PART_BLOCKS,
    choose_references,
    count_groups,
    cut_parts,
)
from ray_kmeans.kernels.int8.sweep import sweep_parts
from ray_kmeans.kernels.int8.sweep_few_columns import (
    MOST_VALUES,
    WIDE_VALUES,
    sweep_parts_by_floats,
)
from ray_kmeans.kernels.int8.types import (
    N_ACTIVE,
    N_OPEN,
    N_SCORED,
    N_UNDECIDED,
    NONE_LEFT_OUT,
    PACKED_COLUMNS,
    TALLIES,
    FloatRows,
    QuantizedRows,
    Rows,
    ScratchPool,
    Slots,
    Sweep,
    Target,
    pad_columns,
    quads_for,
)
from ray_kmeans.kernels.llvm.float_vectors import FLOAT_COLUMNS
from ray_kmeans.kernels.llvm.int8_products import BLOCK_ROWS
from ray_kmeans.kernels.llvm.vectors import LANES
from ray_kmeans.kernels.moving_sums import IncrementalSums, SumsInMemory
from ray_kmeans.kernels.self_check import QUADS, products_per_second
from ray_kmeans.kernels.threads import TASKS_PER_THREAD, Threads

UNIT_NORM = 2.0**-19
"""How far the squared norm of a center may be from 1 for bounds to hold for 'cosine'."""
REFINING_COST = 4
"""Cost of refining one undecided row, in units of scoring one row by one byte."""
REGROUPING_COST = 3
"""Cost of regrouping, for each row of the shard, in the same units."""
LEAST_ROWS = 2**14
"""Rows of which regrouping fewer costs as much: to choose references takes as long as for these."""
ROWS_AT_ONCE = 2**14
"""Deferred rows that are copied at once to be labelled by BLAS: bounds the memory for them."""
FEW_COLUMNS = PACKED_COLUMNS
"""Up to this many columns, rows are grouped and packed as float32 where there are MANY_CENTERS."""
MANY_CENTERS = 128
"""From this many centers on, rows of few columns are packed; it is also the number of centers whose
scores in float32 cost as much as scoring one row by one byte."""
PREFIX_COLUMNS = 64
"""Columns of rows from which a prefix may pay."""
FASTEST_UNIT = 8.0
"""Products of bytes in the time of one of float32, from which on no prefix is tried: margins are
weaker with a prefix, and where bytes are that cheap (13 by AVX-512 VNNI, 66 by AMX; 4.6 by AVX2) a
fit of mnist to its end took 12 % longer."""
PREFIX_SCORES = 2**11
"""Scores of a sweep from which it pays to choose a prefix: for each column, and times the cost of a
product of float32. Half as many where rows are regrouped anyway."""
WORTH = 0.75
"""Share of the cost without a prefix, below which one pays."""
LARGEST_DRIFT = 2.0**8
"""The spread of the centers may grow or shrink by this factor before bytes lose too many bits."""


class HeldRows(IncrementalSums):
    """Blocks of rows (n_i, d) that stay in memory, their labels, and a bound for each.

    Rows are swept in the order of `self._slots`. It begins as their own order, around one
    reference. When the rows that had to be refined or were scored in vain have cost more than
    regrouping would, rows are grouped by their center, and quantized anew around references near
    the centers of then.
    """

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
        self._unit_of, self._unit = unit_of, unit_of(self._quads)
        self._rows = Rows.of(blocks)
        self._scratch_pool = scratch_pool or ScratchPool()
        self._centers = np.empty((0, self._d), np.float32)
        self._usual_undecided, self._excess_cost = -1, 0.0
        self._quantized: QuantizedRows | None = None
        self._prefixes: Prefixes | None = None
        self._axes: Axes | None = None
        self._is_grouped = self._is_labelled = False

    def _forget(self) -> None:
        """Give every row the label -1, and let the next sweep count all as new."""
        self._labels[:] = -1
        self._is_forgotten = True

    def _all_labels(self) -> NDArray[np.int32]:
        """Return the labels, which the next sweep overwrites."""
        return self._labels

    def _new_sums(self, k: int, scale: NDArray[np.float64]) -> SumsInMemory:
        """Return sums in memory, in which threads move rows."""
        return SumsInMemory(k, scale, partial(summing.move_rows, threads=self._threads))

    @np.errstate(over="ignore", invalid="ignore")  # of what overflows, no row is certified
    def _sweep(self, centers: NDArray[np.float32]) -> None:
        """Sweep the parts, or label from the start where nothing that is known is of use."""
        # A copy, as we keep it, and writable: for an array that is not, numba compiles again.
        centers = np.array(centers)
        if centers.shape != self._centers.shape or not self._drift(centers):
            self._label_anew(centers)
            labels = self._slots.labels[: len(self._labels)]  # in the order of the rows
            rows = slots = np.flatnonzero(labels != self._labels).astype(np.int32)
        else:
            is_due = self._excess_cost > REGROUPING_COST * max(len(self._labels), LEAST_ROWS)
            if is_due or not self._is_grouped:
                self._consider_prefix(is_due)
                if is_due or self._axes is not None:
                    self.regroup()
            slots = self._sweep_parts()
            if self._is_forgotten:  # then all rows are new to the sums, whichever labels changed
                slots = np.flatnonzero(self._slots.order >= 0).astype(np.int32)
            rows = self._slots.order[slots]
        # The labels of before are copied by this, and are overwritten only then.
        moves = Moves(rows=rows, before=self._labels[rows])
        self._labels[rows] = self._slots.labels[slots]
        self._is_forgotten = False
        if self._sums is not None:
            self._sums.move(self._rows, moves, self._labels, self._weights)

    def _consider_prefix(self, is_due: bool) -> None:
        """Choose the axes of a prefix, or none, before rows are regrouped.

        Where the first sweep has chosen some, the second one only regroups the rows.
        """
        is_chosen = not self._is_grouped and self._axes is not None
        self._is_grouped = True
        if not is_chosen and self._may_use_prefix(PREFIX_SCORES // 2 if is_due else PREFIX_SCORES):
            self._choose_axes(WORTH, self._slots.labels)

    def _label_anew(self, centers: NDArray[np.float32]) -> None:
        """Label all rows from the start, around one reference: the mean of the centers."""
        self._scale, mean = portable.scale_of(centers)
        self._travels = self._step = np.zeros(len(centers))
        self._slots = Slots.of_rows(len(self._labels))
        self._set_centers(centers)
        reference = pad_columns((mean * self._scale).astype(np.float32)[None])
        begins = np.array([0, len(self._slots.order) // BLOCK_ROWS])
        self._axes, self._prefixes = None, None
        self._is_grouped = self._is_labelled = False
        if self._takes_floats(len(centers)):
            self._hold_unpacked(reference, begins)
        else:
            if self._may_use_prefix(PREFIX_SCORES):
                self._choose_axes(WORTH, None)
            self._quantize(reference, begins)
        # With one reference for all, every undecided row is one too many: regroup soon.
        self._usual_undecided, self._excess_cost = 0, 0.0
        self._sweep_parts()
        self._is_labelled = True
        if not self._packs(len(centers)):
            self._excess_cost = 0.0

    def _takes_floats(self, k: int) -> bool:
        """Tell whether rows are swept by float32 at first, for k centers."""
        if self._d > FLOAT_COLUMNS or self._packs(k):
            return self._packs(k)
        is_cheap = self._d <= LANES or self._costs.float_cost < FASTEST_UNIT
        return k * self._d <= (MOST_VALUES if is_cheap else WIDE_VALUES)

    def _packs(self, k: int) -> bool:
        """Tell whether rows are held as float32 around references, for k centers."""
        return self._d <= FEW_COLUMNS and k >= MANY_CENTERS

    def _hold_unpacked(self, reference: NDArray[np.float32], begins: NDArray[np.int64]) -> None:
        """Hold the rows where they are, around one reference (1, columns)."""
        self._parts = cut_parts(begins)
        self._parts.radii[:] = np.inf  # so that no bound is cut off
        self._quantized = None
        none = np.empty((0, self._d, BLOCK_ROWS), np.float32)
        self._floats = FloatRows(columns=none, references=reference)

    def _drift(self, centers: NDArray[np.float32]) -> bool:
        """Note how far the centers moved; return whether the margins are still of use."""
        scale, _ = portable.scale_of(centers)
        if not 1 / LARGEST_DRIFT <= scale / self._scale <= LARGEST_DRIFT:
            return False
        step = np.empty(len(centers))
        drift.measure_moves(self._centers, centers, step)
        # More than the sum, the square root and the scaling were rounded by, in any order.
        self._step = step * self._scale * (1 + 2.0**-20)
        self._travels = self._travels + self._step
        self._set_centers(centers)
        return True

    def _set_centers(self, centers: NDArray[np.float32]) -> None:
        """Take new centers (k, d), and what bounds need to know of them.

        By cosine bounds hold for centers of norm 1 up to rounding, which `_safe_gap` covers. If one
        is not of norm 1, no bound is of use.
        """
        self._centers = centers
        self._scaled = pad_columns(centers * np.float32(self._scale))
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
        """Group the rows by their center, and quantize them around references near the centers."""
        with portable.use_one_blas_thread():
            packs = self._packs(len(self._scaled))
            shared = row_order.GROUP_ROWS if packs else row_order.SHARED_ROWS
            groups = count_groups(len(self._scaled), len(self._labels), shared)
            references, group_of = choose_references(self._scaled, groups)
        # Bounds are counted with the moves of the parts, and these are about to be made anew.
        row_order.subtract_moves(self._slots, self._parts, self._moves)
        self._slots, begins = row_order.regroup(self._slots, group_of, len(references))
        hold = self._pack if packs else self._quantize
        hold(references, begins)
        safe_gap = np.float32(self._safe_gap)
        row_order.add_moves(self._slots, self._parts, self._moves, safe_gap)
        self._usual_undecided, self._excess_cost = -1, 0.0

    def _pack(self, references: NDArray[np.float32], begins: NDArray[np.int64]) -> None:
        """Pack the rows around references (groups, columns); `begins`: as of `cut_parts`."""
        self._parts = cut_parts(begins)
        del self._floats  # frees the rows of before, so that both are never there at once
        blocks = len(self._slots.order) // BLOCK_ROWS
        columns = np.empty((blocks, self._d, BLOCK_ROWS), np.float32)
        self._floats = FloatRows(columns=columns, references=references)
        rows, order, scale = self._rows, self._slots.order, np.float32(self._scale)
        work = [(*run, self._parts, rows, order, scale, self._floats) for run in self._runs()]
        self._threads.run(pack_parts, work)

    def _quantize(self, references: NDArray[np.float32], begins: NDArray[np.int64]) -> None:
        """Quantize the rows around references (groups, columns); `begins`: as of `cut_parts`."""
        self._parts = cut_parts(begins)
        before = self._prefixes
        if before is not None and before.axes is not self._axes:
            before = None
        # This frees the bytes of before, so that both are never there at once; prefixes that only
        # move are half as long at most.
        self._quantized = self._prefixes = None
        if self._axes is not None:
            self._hold_prefixes(references, self._axes, before)
            return
        blocks = len(self._slots.order) // BLOCK_ROWS
        weights, errors, sizes = np.empty((3, blocks * BLOCK_ROWS), np.float32)
        self._quantized = QuantizedRows(
            packed=np.zeros((blocks, self._quads, BLOCK_ROWS), np.int32),
            weights=weights,
            errors=errors,
            sizes=sizes,
            references=references,
        )
        rows, order, scale = self._rows, self._slots.order, np.float32(self._scale)
        work = [
            (*run, self._parts, rows, order, self._d, scale, self._quantized)
            for run in self._runs()
        ]
        self._threads.run(self._with_scratch(quantize_parts), work)

    def shorten(self) -> None:
        """Hold prefixes of the rows, whatever they cost; rows must have 32 columns at least."""
        self._choose_axes(np.inf, self._slots.labels)
        self.regroup()

    def _choose_axes(self, at_most: float, labels: NDArray[np.int32] | None) -> None:
        """Choose the axes of a prefix by some rows, or none; `at_most`: as in `choose_axes`.

        labels: (slots,)  IN, the center of each row; None where it is not known yet
        """
        self._axes = None
        n = len(self._labels)
        slots = np.arange(0, len(self._slots.order), max(n // SAMPLE, 1))
        slots = slots[self._slots.order[slots] >= 0]
        rows = np.empty((len(slots), self._d), np.float32)
        compiled.gather(self._rows, self._slots.order[slots], rows)
        with portable.use_one_blas_thread():
            self._axes = choose_axes(
                rows,
                None if labels is None else labels[slots],
                self._target(),
                float(self._unit.largest_byte),
                self._costs,
                at_most,
            )

    def _may_use_prefix(self, from_scores: int) -> bool:
        """Tell whether there is enough work for choosing a prefix; see `PREFIX_SCORES`."""
        if not PREFIX_COLUMNS <= self._d <= MOST_COLUMNS:
            return False
        if self._costs.float_cost >= FASTEST_UNIT:
            return False
        scores = len(self._labels) * len(self._centers)
        return scores >= from_scores * self._d * self._costs.float_cost

    @cached_property
    def _costs(self) -> Costs:
        """What rows cost with a prefix and without."""
        return Costs(float_cost=products_per_second(self._unit_of(QUADS)) / floats_per_second())

    def _hold_prefixes(
        self, references: NDArray[np.float32], axes: Axes, before: Prefixes | None
    ) -> None:
        """Make the prefixes of all rows, or move those of `before`, which are along the same axes.

        references: (groups, columns)  IN, of the parts
        """
        prefixes = held_prefixes.empty_prefixes(
            axes, self._unit_of, len(self._centers), self._slots.order, references
        )
        places = held_prefixes.places_in(before, len(self._labels))
        shard = self._rows, np.float32(self._scale), self._parts
        fill = partial(held_prefixes.fill, prefixes, before, places, *shard)
        with portable.use_one_blas_thread():
            self._threads.run(self._with_scratch(fill), self._runs())
        self._prefixes = prefixes

    def _sweep_parts(self) -> NDArray[np.int32]:
        """Sweep all parts; return the slots whose label is new."""
        runs = self._runs()
        pieces = self._pieces(runs)
        if self._prefixes is not None:
            self._sweep_by_prefix(self._prefixes, runs, pieces)
        elif self._quantized is None:
            self._run(sweep_parts_by_floats, (self._parts, self._floats), runs, pieces)
        else:
            sweep = partial(sweep_parts, self._unit)
            self._run(sweep, (self._parts, self._quantized), runs, pieces)
        self._tally = np.sum([piece.tally for piece in pieces], axis=0)
        self._count_excess()
        deferred = np.concatenate([piece.deferred_slots for piece in pieces])
        return np.concatenate([*(p.new_slots for p in pieces), self._label_deferred(deferred)])

    def _pieces(self, runs: list[tuple[int, int]]) -> list[Sweep]:
        """Return a piece of a sweep for each run of parts.

        Each has a tally and slots of its own, so no two threads write to the same memory.
        """
        tallies = np.zeros((len(runs), TALLIES), np.int64)
        changed = np.empty(len(self._slots.order), np.int32)
        spans = self._parts.spans * BLOCK_ROWS
        return [
            Sweep(
                rows=self._rows,
                slots=self._slots,
                target=self._target(),
                changed=changed[spans[first, 1] : spans[last - 1, 2]],
                tally=tally,
            )
            for (first, last), tally in zip(runs, tallies, strict=True)
        ]

    def _run(
        self,
        work: Callable[..., None],
        held: tuple[Any, ...],
        runs: list[tuple[int, int]],
        pieces: list[Sweep],
    ) -> None:
        """Call `work` with runs of parts, the rows as they are `held`, and a piece for each."""
        arguments = [(*run, *held, piece) for run, piece in zip(runs, pieces, strict=True)]
        self._threads.run(self._with_scratch(work), arguments)

    def _sweep_by_prefix(
        self, prefixes: Prefixes, runs: list[tuple[int, int]], pieces: list[Sweep]
    ) -> None:
        """Sweep pieces of work, each a run of parts, by the prefixes of their rows."""
        shape = len(self._centers), self._d, self._quads, PART_BLOCKS
        with self._scratch_pool.lend(*shape) as scratch, portable.use_one_blas_thread():
            centers = prepare_centers(
                prefixes.axes, prefixes.unit, self._target(), scratch, prefixes.scratch
            )
        known = prefixes, centers, self._parts
        if not self._is_labelled:
            guess = partial(held_prefixes.guess, *known, self._slots.labels)
            self._threads.run(self._with_scratch(guess), runs)
        sweep = partial(held_prefixes.sweep, *known)
        work = [(*run, piece) for run, piece in zip(runs, pieces, strict=True)]
        self._threads.run(self._with_scratch(sweep), work)

    def _target(self) -> Target:
        """Return the centers as compiled loops take them."""
        return Target(
            centers=self._centers,
            scaled=self._scaled,
            scale=np.float32(self._scale),
            cosine=self._metric == Metric.COSINE,
            moves=self._moves,
            # float32 rounds to nearest, so the factor makes sure that it is up.
            step=self._step.astype(np.float32) * np.float32(1 + 2.0**-20),
            safe_gap=np.float32(self._safe_gap),
            left_out=NONE_LEFT_OUT,
        )

    def _count_excess(self) -> None:
        """Add up what regrouping would have spared, in units of scoring one row.

        That is the refining of rows beyond those that were undecided in the first sweep after the
        last regrouping, and the scoring of rows that share a block with active ones; of very few
        columns the scoring of all centers, before rows are packed.
        """
        if self._usual_undecided < 0:
            self._usual_undecided = int(self._tally[N_UNDECIDED])
        undecided = max(int(self._tally[N_UNDECIDED]) - self._usual_undecided, 0)
        self._excess_cost += REFINING_COST * undecided
        if self._quantized is not None or self._prefixes is not None:
            self._excess_cost += int(self._tally[N_SCORED] - self._tally[N_ACTIVE])
        elif not len(self._floats.columns) and self._packs(len(self._centers)):
            self._excess_cost += len(self._centers) / MANY_CENTERS * int(self._tally[N_SCORED])
        if self._axes is not None and self._tally[N_SCORED]:
            k, costs = len(self._centers), self._costs
            share = float(self._tally[N_OPEN] / (self._tally[N_SCORED] * k))
            cost = costs.with_prefix(self._axes.axes.shape[1], self._d, share, k)
            if cost > self._axes.without:
                self._excess_cost = np.inf

    def _label_deferred(self, slots: NDArray[np.int32]) -> NDArray[np.int32]:
        """Label the rows of some slots by BLAS; return the slots whose label is new."""
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
        changed: NDArray[np.int32] = slots[new]
        return changed

    def _with_scratch(self, work: Callable[..., None]) -> Callable[..., None]:
        """Return a call of `work` that adds scratch memory of its own as the last argument."""

        def call(*arguments: Any) -> None:
            shape = len(self._centers), self._d, self._quads, PART_BLOCKS
            with self._scratch_pool.lend(*shape) as scratch:
                work(*arguments, scratch)

        return call

    def _runs(self) -> list[tuple[int, int]]:
        """Cut the parts into pieces of work of about equal size, (first, last) each."""
        spans = self._parts.spans
        pieces = min(len(spans), TASKS_PER_THREAD * self._threads.count)
        sizes = np.cumsum(spans[:, 2] - spans[:, 1])
        # By blocks and not by parts, which may be small: no thread waits long for the last piece.
        cuts = np.searchsorted(sizes, sizes[-1] * np.arange(1, pieces) / pieces) + 1
        return list(pairwise(np.unique([0, *cuts, len(spans)]).tolist()))
