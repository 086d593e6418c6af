"""The worker of one shard: it holds the rows and computes on them. It knows nothing of Ray."""

from __future__ import annotations

import os
import resource
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial, reduce
from itertools import starmap
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans import kernels
from ray_kmeans.algorithm.batch_rows import Batches, permuted
from ray_kmeans.algorithm.center_matching import Flows
from ray_kmeans.algorithm.exact_float_sum import exact_total
from ray_kmeans.algorithm.grid import Extent, Grid, Squares
from ray_kmeans.algorithm.metric import Metric, without_direction
from ray_kmeans.algorithm.minibatch import BatchPartials
from ray_kmeans.algorithm.partial_sums import Partials, PartialsOfEach
from ray_kmeans.algorithm.quality import CenterGaps
from ray_kmeans.algorithm.quality_sums import QualitySums
from ray_kmeans.algorithm.reassignment import Reassignment
from ray_kmeans.algorithm.recall import RecallSums
from ray_kmeans.algorithm.state import FitState
from ray_kmeans.algorithm.stopping import LossWatch
from ray_kmeans.algorithm.tree import Tree
from ray_kmeans.engine.batch_sweeps import BatchSweeps
from ray_kmeans.engine.center_gaps import Separation, share_of
from ray_kmeans.engine.label_writer import (
    AT_ONCE,
    FETCHED_AT_ONCE,
    LABEL_ALONE,
    BlockLabeller,
    Gatherer,
    LabelledBlock,
    NearestCenters,
    Writer,
    read_kept_columns,
    write_parts,
)
from ray_kmeans.engine.options import WorkerSetup
from ray_kmeans.engine.progress import Moved, ignore
from ray_kmeans.engine.quality_sweep import QualityAsked, QualitySweep
from ray_kmeans.engine.sampled_rows import SampleAddress, SampledRows, SampleSize
from ray_kmeans.engine.seeding import weighted_sampling
from ray_kmeans.engine.seeding_answers import SeedingAnswers
from ray_kmeans.engine.shard import Block, Reader, Shard
from ray_kmeans.engine.subtrees import NodeSums, Subtrees
from ray_kmeans.engine.tree_descent import Beam, BeamLabels, sums_of_beams
from ray_kmeans.kernels.moving_sums import counts_of, sums_side_by_side
from ray_kmeans.kernels.threads import Threads

MEASURED_VALUES = 2**17
"""Number of values that stay in a processor's cache while they are read twice."""


def this_process() -> tuple[str, int]:
    """Return the name of this machine and the id of this process."""
    return socket.gethostname(), os.getpid()


class ShardWorker(SeedingAnswers):
    """Holds the rows of one shard, and answers for them.

    The order of calls: `load`, then `measure`, which fixes the grid of all sums, then any others.
    Each may be made again with the same result, except `weigh`, which adds seeds. So a worker that
    replaces another one needs `load`, and then what its pool remembers: `measure`, and every
    `weigh` since the seeding began.
    """

    def __init__(self, setup: WorkerSetup = WorkerSetup()) -> None:  # noqa: B008 (frozen)
        self._metric = setup.metric
        self._row_cache = setup.row_cache
        self._num_clusters = setup.num_clusters
        self._setup = setup
        self._kernel = kernels.load(setup.kernel, setup.threads, setup.gpus_per_worker)
        self._threads = Threads(setup.threads)
        self.on_rows: Moved = ignore
        """Hears the number of rows of each block that is read, or whose labels are being
        written."""
        self._ahead: Any = None
        self._loaded: Shard | None = None
        self._grid: Grid | None = None
        self._held: kernels.Held | None = None
        self._held_each: dict[int, kernels.Held] = {}
        """Rows as the kernel holds them for each of several sets of centers, by its place."""
        self._batches: BatchSweeps | None = None
        self._subtrees: Subtrees | None = None
        self._sampled: SampledRows | None = None
        """Rows of the newest sample of nested mini-batches."""

    def where(self) -> tuple[str, int]:
        """Return the name of this machine and the id of this process."""
        return this_process()

    def peak_bytes(self) -> int:
        """Return the peak bytes of memory of this process so far."""
        found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return found if sys.platform == "darwin" else 1024 * found

    def load(self, source: Reader, blocks: Sequence[Block]) -> Extent:
        """Read the shard and return its extent, in which the rows that are not finite are
        counted."""
        self._loaded = None
        self.begin_task()
        shard = Shard(source, blocks, self._metric, self._row_cache, self._kernel.fingerprint)
        self._compile_ahead(sum(block.rows for block in blocks), shard.features)
        try:
            extent = shard.load(self.on_rows)
        except BaseException:
            self.stop_compiling()
            raise
        self._loaded = shard
        return extent

    def _compile_ahead(self, rows: int, features: int) -> None:
        """Let another thread compile what labels the rows, while this one reads them."""
        if self._num_clusters is None:
            return
        from ray_kmeans.process import jit  # numba: 0.2 s, and not every kernel takes it

        self.stop_compiling()
        # What reads needs first: else it would wait for whatever the thread is just compiling.
        some = np.zeros((1, features), np.float32)
        Extent.of_rows(some)
        self._kernel.fingerprint(some)
        self._ahead = jit.Ahead(partial(self._kernel.ready, rows, self._num_clusters, features))

    def stop_compiling(self) -> None:
        """Stop what another thread compiles: nobody will need it."""
        if self._ahead is not None:
            self._ahead.stop()
            self._ahead = None

    def _await_compiled(self) -> None:
        """Wait for what another thread compiles, if there is one."""
        if self._ahead is not None:
            self._ahead.join()
            self._ahead = None

    def get_ready(self, n_clusters: int, batch_rows: int | None = None) -> tuple[str, int, float]:
        """Compile and check all that the first step needs, so that no step waits for it.

        `batch_rows` is the size of mini-batches; None for full batch. Returns the name of what
        computes the labels, the number of threads, and the seconds that this took.
        """
        begin = time.perf_counter()
        self._await_compiled()
        rows = sum(self._shard.rows.sizes)
        name = self._kernel.ready(rows, n_clusters, self._shard.features)
        if name.startswith(kernels.BLAS) or batch_rows is not None:
            self._warm_up(batch_rows is not None)
        return name, self._threads.count, time.perf_counter() - begin

    def _warm_up(self, in_batches: bool) -> None:
        """Label and sum up two rows, so that whatever is compiled for that is compiled now."""
        # Not two rows of the data, which may have to be fetched from far away.
        some = np.zeros((2, self._shard.features), np.float32)
        some[:, 0] = 1.0
        centers = np.repeat(some[:1], 2, axis=0)  # a tie for every row, which nothing quick settles
        scale = np.ones(some.shape[1])
        if not in_batches:
            self._kernel.hold([some], self._metric, 2).sums(centers, scale)
            return
        rows, labels = np.array(some), np.zeros(len(some), np.int32)
        self._kernel.assign(rows, self._kernel.prepare(centers, self._metric), labels)
        self._kernel.accumulate(rows, labels, scale, np.zeros(centers.shape, np.int64))
        exact_total(self._kernel.distances_to(rows, centers, labels, self._metric))
        permuted(np.arange(2, dtype=np.uint64), 2, np.arange(2, dtype=np.uint64))
        if self._shard.rows.stays:
            self._shard.rows_at(np.array([self._shard.blocks[0].first]))

    def measure(self, grid: Grid) -> Squares:
        """Fix the grid of all sums to come, and return the sums of squares on it."""
        self._grid = grid
        self.begin_task()
        self._shard.take_units(grid.weight_exponent)
        work = ((rows, self._shard.weights_in(here)) for here, rows in enumerate(self._shard.rows))
        parts = (self._threads.run if self._shard.rows.stays else starmap)(self._squares, work)
        squares: Squares = reduce(add, parts)
        return squares

    def _squares(self, rows: NDArray[np.float32], weights: NDArray[np.int64]) -> Squares:
        """Return the sums of squares of some rows, (n, d), with their weights, (n,) or ALIKE."""
        total = Squares.zero(rows.shape[1])
        step = max(MEASURED_VALUES // rows.shape[1], 1)
        for start in range(0, len(rows), step):
            some, times = rows[start : start + step], weights[start : start + step]
            squares = Squares.zero(rows.shape[1], self._kernel.fingerprint(some, times))
            self._kernel.accumulate_squares(
                some, self._on.scale, self._on.half_bits, squares.limbs, squares.coarse, times
            )
            total += squares
        return total

    def begin_task(self) -> None:
        """Drop all that is held here besides the rows and the grid: bounds, seeds, batches."""
        self._held, self._potential, self._batches = None, None, None
        self._held_each, self._sampled, self._subtrees = {}, None, None

    def sweep(self, centers: NDArray[np.float32]) -> Partials:
        """Assign each row to its nearest of the centers, (k, d); return sums and counts by
        cluster."""
        return Partials(*self._rows_held(centers).sums(centers, self._on.scale))

    def keeps_rows(self) -> bool:
        """Return whether the rows are in memory as float32, so that fetching them costs nothing."""
        return self._shard.rows.stays

    def sweep_each(self, sets: NDArray[np.float32], places: tuple[int, ...]) -> PartialsOfEach:
        """Do what `sweep` does for several sets of centers, (s, k, d), and fetch the rows once.

        What is held of the rows for each set stays for its next sweep, by its place, (s,).
        """
        for place in places:
            if place not in self._held_each:
                self._held_each[place] = self._hold_fetched()
        held = [self._held_each[place] for place in places]
        found = sums_side_by_side(held, self._shard.rows, list(sets), self._on.scale)
        return PartialsOfEach(tuple(Partials(*each) for each in found))

    def sweep_batches(
        self, centers: NDArray[np.float32], batches: Batches, first_step: int, steps: int
    ) -> BatchPartials:
        """Return the sums of the shard's rows in some mini-batches, all with these centers, (k, d).

        The batches are those of `steps` steps, from `first_step` on.
        """
        return self._batch_sweeps.sweep(centers, batches, first_step, steps)

    def draw_from_batch(
        self, batches: Batches, step: int, key: np.uint64, size: int
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the tickets and numbers of the best `size` rows of a step in a draw by weights."""
        if batches.is_whole:
            return self.draw(key, size)
        numbers = self._shard.within(batches.numbers(step))
        return weighted_sampling.winners(numbers, self._shard.weights_at(numbers), key, size)

    def measure_sample(self, address: SampleAddress) -> SampleSize:
        """Return the size of the shard's part of a sample of nested mini-batches."""
        sampled = self._sample_of(address)
        nothing = Squares.zero(self._shard.features)
        return SampleSize(
            sampled.counting, reduce(add, starmap(self._squares, sampled.parts()), nothing)
        )

    def sweep_sample(self, centers: NDArray[np.float32], address: SampleAddress) -> Partials:
        """Do what `sweep` does for the rows of a sample, which stay for the next such call."""
        sampled = self._sample_of(address)
        if not len(sampled):
            return Partials.zero(*centers.shape)
        held = sampled.hold(self._kernel, self._metric, len(centers))
        return Partials(*held.sums(centers, self._on.scale))

    def _sample_of(self, address: SampleAddress) -> SampledRows:
        """Return the shard's rows of a sample; those of another one are dropped before."""
        if self._sampled is None or self._sampled.address != address:
            self._sampled = None
            self._sampled = SampledRows(self._shard, address)
        return self._sampled

    def measure_quality(self, centers: NDArray[np.float32], asked: QualityAsked) -> QualitySums:
        """Return the sums over the rows, each visited once, from which figures of quality follow.

        `centers` are of shape (k, d).
        """
        sweep = QualitySweep(
            self._shard, self._metric, self._kernel, self._threads, centers, self._on.scale
        )
        return sweep.sums(self._label_blocks(centers), asked)

    def measure_gaps(self, separation: Separation, all_blocks: int) -> CenterGaps:
        """Return the gaps of this shard's share of the centers; `all_blocks` are those of the
        data."""
        numbers = share_of(self._shard.blocks, all_blocks, len(separation.centers))
        return separation.gaps(numbers, self._kernel)

    def step_batches(
        self,
        state: FitState,
        batches: Batches,
        watch: LossWatch,
        reassignment: Reassignment,
        most_steps: int,
    ) -> tuple[FitState, LossWatch]:
        """Make steps of mini-batch, as the only worker; return the state and the watch after them.

        There are up to `most_steps` steps, each an iteration, for STEPPING_S seconds, and none
        after one that the watch stops at, or after which clusters are starved. The history of the
        state begins with the first of them.
        """
        return self._batch_sweeps.make_steps(state, batches, watch, reassignment, most_steps)

    def place_in_tree(
        self, levels: Sequence[NDArray[np.float32]], parents: Sequence[NDArray[np.int32]]
    ) -> NodeSums:
        """Put the rows in the order of the nodes of a tree's lowest level; return their sums.

        `levels` are the centers from the top down, (k_l, d), and `parents` those of each level but
        the top, (k_l,).
        """
        subtrees = Subtrees(self._shard, self._setup, self._kernel, self._threads)
        sums = subtrees.place(self._label_blocks(levels[0]), levels, parents)
        self.begin_task()
        self._subtrees = subtrees
        return sums

    def open_nodes(self, nodes: Sequence[int], sizes: Sequence[int]) -> list[Squares]:
        """Begin to split some nodes, and no others; see `Subtrees.open`."""
        return self._placed.open(nodes, sizes, self._on)

    def draw_in_nodes(
        self, nodes: Sequence[int], sizes: Sequence[int], key: np.uint64
    ) -> list[tuple[NDArray[np.float64], NDArray[np.int64]]]:
        """Draw rows of open nodes by their weights; see `Subtrees.draw`."""
        return self._placed.draw(nodes, sizes, key)

    def sweep_nodes(
        self, centers: NDArray[np.float32], nodes: Sequence[int], sizes: Sequence[int]
    ) -> PartialsOfEach:
        """Assign each row of some open nodes to the nearest child of its node; return the sums.

        `centers` (q, d) are the children of all these nodes, `sizes` (m,) of each.
        """
        sets = np.split(centers, np.cumsum(sizes)[:-1])
        return PartialsOfEach(self._placed.sweep(nodes, sets, self._on.scale))

    def rows_at(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the rows of the shard among these ascending numbers, (rows, d), in order."""
        return self._shard.rows_at(numbers)

    def farthest(
        self, centers: NDArray[np.float32], count: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Return the distances, (r,), and rows, (r, d), of up to `count` rows far from their
        centers.

        The farthest comes first; of equally far ones the one with the lower number.
        """
        distances, rows = np.empty(0), np.empty((0, centers.shape[1]), np.float32)
        for _, block_rows, _, here in self._off_centers(centers):
            order = np.argsort(-here, kind="stable")[:count]
            distances = np.concatenate([distances, here[order]])
            rows = np.concatenate([rows, block_rows[order]])
            order = np.argsort(-distances, kind="stable")[:count]
            distances, rows = distances[order], rows[order]
        return distances, rows

    def sizes_off_centers(self, centers: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the weight of the rows of each cluster that are not on its center, (k,)."""
        sizes = np.zeros(len(centers), np.int64)
        for number, _, labels, distances in self._off_centers(centers):
            off, weights = distances > 0, self._shard.weights_in(number)
            some = weights[off] if len(weights) else weights
            sizes += counts_of(labels[off], len(centers), some)
        return sizes

    def draw_off_centers(
        self, centers: NDArray[np.float32], sizes: NDArray[np.int64], key: np.uint64
    ) -> list[tuple[NDArray[np.float64], NDArray[np.int64]]]:
        """Draw rows that are not on their center by their weights: `sizes` of each cluster, (k,).

        Returns the tickets and numbers of up to as many rows, for each cluster of which some are
        wanted.
        """
        wanted = sizes[sizes > 0].tolist()
        won = [(np.empty(0), np.empty(0, np.int64))] * len(wanted)
        for number, _, labels, distances in self._off_centers(centers):
            first, weights = self._shard.blocks[number].first, self._shard.weights_in(number)
            off = np.flatnonzero(distances > 0)
            times = weights[off] if len(weights) else weights
            found = weighted_sampling.winners_by_cluster(
                first + off, labels[off], times, sizes, key
            )
            won = [
                weighted_sampling.best_of(both, size)
                for *both, size in zip(won, found, wanted, strict=True)
            ]
        return won

    def _off_centers(
        self, centers: NDArray[np.float32]
    ) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.int32], NDArray[np.float64]]]:
        """Yield (place in the shard, rows, labels, distances to their centers) of each block.

        The distance is 0 for a row on its center, for one that is left out and for one without a
        direction: none of them can be the center of an empty cluster.
        """
        for number, rows, labels in self._label_blocks(centers):
            # Of unit rows it orders as cosine does, and is exactly 0 for a row on its center.
            here = self._kernel.distances_to(rows, centers, labels, Metric.SQUARED_EUCLIDEAN)
            here[without_direction(rows, self._metric) | self._shard.left_out_in(number)] = 0
            yield number, rows, labels, here

    def flows(self, old: NDArray[np.float32], new: NDArray[np.float32]) -> Flows:
        """Label each row by two models' centers, (a, d) and (b, d), in one visit; return the sums.

        Rows that do not count are left out.
        """
        self._await_compiled()
        prepared = [self._kernel.prepare(each, self._metric) for each in (old, new)]
        found, losses = [], [0, 0]
        for number, rows in enumerate(self._shard.rows):
            weights, labels = self._shard.weights_in(number), []
            for which, centers in enumerate((old, new)):
                labels.append(self._assign(rows, prepared[which]))
                distances = self._kernel.distances_to(rows, centers, labels[-1], self._metric)
                times = self._on.weights_of(weights) if len(weights) else 1
                losses[which] += exact_total(distances * times)
            units = weights if len(weights) else np.ones(len(rows), np.int64)
            found.append(Flows.of(np.stack(labels, axis=1), units, (0, 0)))
            self.on_rows(len(rows))
        return replace(reduce(add, found), losses=(losses[0], losses[1]))

    def write_labels(
        self,
        centers: NDArray[np.float32],
        output: Writer,
        keep_columns: Sequence[str],
        nearest: NearestCenters = LABEL_ALONE,
        together: int = 1,
        parts: Sequence[int] | None = None,
        beam: Beam | None = None,
    ) -> tuple[list[Any], NDArray[np.int64]]:
        """Write the label of every row; return the output's answer for each part, and the number of
        rows by label, (k,).

        `nearest`: the centers to write besides. `together` blocks make up a part, and only these
        `parts` are written; None: all. With a beam labels are made by the tree, and are not exact.
        """
        labeller = BlockLabeller(self._kernel, centers, self._metric, nearest)
        counts = np.zeros(len(centers), np.int64)
        whole, wanted = self._shard.blocks, None if parts is None else set(parts)
        places = [
            here
            for here, block in enumerate(whole)
            if wanted is None or block.index // together in wanted
        ]

        def label_all() -> Iterator[LabelledBlock]:
            """Yield each block with its labels; count the labels of rows that are not left out."""
            for here, rows, labels in self._label_blocks(centers, places, beam):
                out = self._shard.left_out_in(here)
                np.add(counts, counts_of(labels[~out], len(centers)), out=counts)
                yield labeller.label(whole[here], rows, labels, out)
                self.on_rows(len(rows))

        blocks = [whole[here] for here in places]
        kept = read_kept_columns(self._shard.source, blocks, keep_columns)
        most = AT_ONCE if self._shard.rows.stays else FETCHED_AT_ONCE
        at_once = nearest.blocks_within(most, max((block.rows for block in blocks), default=0))
        threads = self._threads.count
        written = write_parts(labeller, label_all(), kept, output, together, threads, at_once)
        return written, counts

    def measure_beams(
        self,
        centers: NDArray[np.float32],
        tree: Tree,
        widths: Sequence[int],
        numbers: NDArray[np.int64],
    ) -> RecallSums:
        """Label the rows with these ascending numbers exactly and by beams; return the sums."""
        beams = BeamLabels(tree, centers, self._kernel, self._metric)
        return sums_of_beams(self._shard, centers, beams, widths, numbers)

    def gather(
        self, output: Gatherer, bundles: Sequence[Sequence[int]], width: int, together: int = 1
    ) -> list[tuple[int, Any]]:
        """Put labelled rows in the order of clusters, for the bundles that begin in this shard.

        A bundle is a run of parts by their numbers, each of `together` blocks, and `width` the
        number of clusters in a folder. Returns (first part, files) of each bundle.
        """
        mine, files = {block.index: block.rows for block in self._shard.blocks}, []
        for bundle in bundles:
            first = bundle[0] * together
            if first in mine:
                files.append((bundle[0], output.gather(bundle, width)))
                self.on_rows(mine[first])
        return files

    @property
    def _shard(self) -> Shard:
        """The shard, which `load` has read; never answer for rows that are not there."""
        if self._loaded is None:
            raise RuntimeError("this worker holds no shard: load comes first")
        return self._loaded

    @property
    def _on(self) -> Grid:
        """The grid of all sums, which `measure` has fixed before."""
        if self._grid is None:
            raise RuntimeError("this worker has no grid: measure comes before sweep")
        return self._grid

    @property
    def _placed(self) -> Subtrees:
        """The rows by the nodes of a tree, which `place_in_tree` has put in order."""
        if self._subtrees is None:
            raise RuntimeError("this worker knows no tree: place_in_tree comes before open_nodes")
        return self._subtrees

    @property
    def _batch_sweeps(self) -> BatchSweeps:
        """The sweeps over mini-batches, made when they are first needed."""
        if self._batches is None:
            kernel, threads = self._kernel, Threads(1)
            if self._shard.rows.stays and not self._setup.kernel.startswith("gpu"):
                # Each thread labels rows of its own: to share the rows of a small batch again and
                # again, for each thing that is done with them, would take longer than doing it.
                kernel, threads = kernels.load(self._setup.kernel), self._threads
            self._batches = BatchSweeps(self._shard, self._on, self._metric, kernel, threads)
        return self._batches

    def _rows_held(self, centers: NDArray[np.float32]) -> kernels.Held:
        """Return the rows as the kernel holds them from sweep to sweep."""
        if self._held is None:
            self._sampled = None  # the plan has room for one of them
            rows, weights = self._shard.rows, self._shard.weights
            if rows.stays:
                self._held = self._kernel.hold(list(rows), self._metric, len(centers), weights)
            else:
                self._held = self._hold_fetched()
        return self._held

    def _hold_fetched(self) -> kernels.Held:
        """Return the rows as the kernel holds those that are fetched for each sweep."""
        rows, shard = self._shard.rows, self._shard
        return self._kernel.hold_each(rows, rows.sizes, shard.features, self._metric, shard.weights)

    def _assign(self, rows: NDArray[np.float32], prepared: Any) -> NDArray[np.int32]:
        """Return the label of each row, (n,)."""
        labels = np.empty(len(rows), np.int32)
        self._kernel.assign(rows, prepared, labels)
        return labels

    def _label_blocks(
        self,
        centers: NDArray[np.float32],
        places: Sequence[int] | None = None,
        beam: Beam | None = None,
    ) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.int32]]]:
        """Yield (place in the shard, rows, labels) of each block at these places; None: of all.

        With a beam labels are made by the tree, and are not exact.
        """
        self._await_compiled()
        if places is None:
            places = range(len(self._shard.blocks))
        if not places:
            return
        rows = zip(places, self._shard.rows.at(places), strict=True)
        if beam is not None:
            beams = BeamLabels(beam.tree, centers, self._kernel, self._metric)
            yield from ((here, block, beams.labels(block, beam.width)) for here, block in rows)
            return
        if not self._shard.rows.stays:  # labelled as they come: they are fetched once, not twice
            prepared = self._kernel.prepare(centers, self._metric)
            for here, block in rows:
                yield here, block, self._assign(block, prepared)
            return
        labels = self._rows_held(centers).assign(centers)
        for here, block in rows:
            yield here, block, labels[self._shard.rows_in(here)]
