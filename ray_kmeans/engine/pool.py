"""Pools: the workers of a run, asked all at once. The local pool is the specification."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import reduce
from operator import add
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.batch_rows import Batches
from ray_kmeans.algorithm.exact_float_sum import as_float
from ray_kmeans.algorithm.grid import Extent, Grid, Summary
from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.minibatch import BatchPartials
from ray_kmeans.algorithm.partial_sums import Partials, Sums
from ray_kmeans.algorithm.reassignment import Reassignment
from ray_kmeans.algorithm.row_counts import rows_of
from ray_kmeans.algorithm.splitting import new_parts
from ray_kmeans.algorithm.state import FitState
from ray_kmeans.algorithm.stopping import LossWatch
from ray_kmeans.algorithm.weights import TOTAL_BITS
from ray_kmeans.engine.label_writer import LABEL_ALONE, Gatherer, NearestCenters, Writer
from ray_kmeans.engine.options import WorkerSetup
from ray_kmeans.engine.progress import Moved, Tally
from ray_kmeans.engine.sampled_rows import SampleAddress, SampleSize
from ray_kmeans.engine.seeding import weighted_sampling
from ray_kmeans.engine.shard import Block, Reader
from ray_kmeans.engine.tree_descent import Beam
from ray_kmeans.engine.worker import ShardWorker
from ray_kmeans.errors import DataError

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound=Sums)


class Pool(ABC):
    """All rows of the data, spread over workers.

    A pool only has to call one method on each worker; how the answers are put together stands here
    once, so that no pool can differ in it. A method is named by the function itself, as in
    ``pool.ask(ShardWorker.sweep, centers)``: so its callers can be found, and its arguments are
    checked by mypy.
    """

    metric: Metric
    """Distance metric: 'squared_euclidean' or 'cosine'."""
    waited = 0.0
    """Seconds from the first worker's answer to the last one's, in all calls so far."""
    answered = 0.0
    """When the last answer came, in seconds by time.perf_counter."""
    _shards: Sequence[Sequence[Block]]
    """Blocks of each shard, in the order of the data."""

    @property
    def num_rows(self) -> int:
        """Number of rows of all shards."""
        return sum(map(rows_of, self._shards))

    @abstractmethod
    def ask_watched(
        self,
        moved: Moved | None,
        method: Callable[Concatenate[ShardWorker, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> list[T]:
        """Do what `ask` does, and let `moved` hear meanwhile how many rows are done."""

    @abstractmethod
    def take(self, source: Any, shards: Sequence[Sequence[Block]]) -> None:
        """Turn to other data; the next call must be `load`, `read` or `summarize`."""

    @abstractmethod
    def load(self, moved: Moved | None = None) -> Extent:
        """Let every worker read its shard; return the extent of all rows."""

    @abstractmethod
    def close(self) -> None:
        """End the workers. May be called twice."""

    @abstractmethod
    def remember(
        self, method: Callable[Concatenate[ShardWorker, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> list[T]:
        """Do what `ask` does; a worker that replaces another one later is asked the same."""

    @abstractmethod
    def forget(self, method: Callable[..., Any]) -> None:
        """Ask no replacement for this method any more, whatever `remember` was told of it."""

    @property
    def has_one_far_worker(self) -> bool:
        """Whether one worker holds all rows, in another process: each call takes a while then."""
        return False

    def ask(
        self, method: Callable[Concatenate[ShardWorker, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> list[T]:
        """Call the method of every worker with these arguments; return the answers by shard, in
        order."""
        return self.ask_watched(None, method, *args, **kwargs)

    def read(self, moved: Moved | None = None) -> Extent:
        """Load the data; raise DataError if no rows count, or if some are not finite."""
        extent = self.load(moved)
        extent.check_finite()
        if extent.span.rows == 0:
            raise DataError(_no_rows(extent))
        return extent

    def summarize(self, moved: Moved | None = None) -> Summary:
        """Read the data, fix the grid of all sums, and return a summary of the rows."""
        return self.measure(self.read(moved))

    def measure(self, extent: Extent) -> Summary:
        """Fix the grid of all sums for rows of this extent, and return a summary of the rows."""
        span = extent.weights
        if span is not None and span.is_too_large:
            raise DataError(
                f"the weights add up to {as_float(span.total):.3g}, and may to 2**{TOTAL_BITS}. "
                "Scale them: only their ratios matter."
            )
        grid = Grid.of(extent)
        squares = reduce(add, self.remember(ShardWorker.measure, grid))
        return Summary(
            rows=extent.rows,
            grid=grid,
            squares=squares,
            metric=self.metric,
            zeros=extent.zeros,
            weights=span,
            dropped=extent.dropped,
            rounding=extent.rounding,
        )

    def get_ready(
        self, n_clusters: int, batch_rows: int | None = None
    ) -> list[tuple[str, int, float]]:
        """Let every worker compile what the first step needs; see `ShardWorker.get_ready`."""
        return self.remember(ShardWorker.get_ready, n_clusters, batch_rows)

    def total(
        self,
        method: Callable[Concatenate[ShardWorker, NDArray[np.float32], P], S],
        centers: NDArray[np.float32],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> S:
        """Return the sum of what `ask` returns; `centers` are of shape (k, d)."""
        answers: list[S] = self.ask(method, centers, *args, **kwargs)
        return reduce(add, answers)

    def sweep(self, centers: NDArray[np.float32]) -> Partials:
        """Visit every row once; return the sums for these centers, (k, d)."""
        return self.total(ShardWorker.sweep, centers)

    def sweep_each(
        self, sets: NDArray[np.float32], places: tuple[int, ...]
    ) -> tuple[Partials, ...]:
        """Visit every row once for several sets of centers, (s, k, d).

        See `ShardWorker.sweep_each`.
        """
        return self.total(ShardWorker.sweep_each, sets, places).sets

    def sweep_batches(
        self, centers: NDArray[np.float32], batches: Batches, first_step: int, steps: int
    ) -> BatchPartials:
        """Visit the rows of some steps of mini-batch; see `ShardWorker.sweep_batches`."""
        return self.total(ShardWorker.sweep_batches, centers, batches, first_step, steps)

    def step_batches(
        self,
        state: FitState,
        batches: Batches,
        watch: LossWatch,
        reassignment: Reassignment,
        most_steps: int,
    ) -> tuple[FitState, LossWatch]:
        """Let the one worker, which holds all rows, make steps; see `ShardWorker.step_batches`."""
        how = batches, watch, reassignment, most_steps
        [answer] = self.ask(ShardWorker.step_batches, state, *how)
        return answer

    def draw_from_batch(
        self, batches: Batches, step: int, key: np.uint64, size: int
    ) -> NDArray[np.float32]:
        """Draw up to `size` rows of a step of mini-batch by their weights, (rows, d).

        They stand in the order of the data.
        """
        answers = self.ask(ShardWorker.draw_from_batch, batches, step, key, size)
        return self.rows_at(np.sort(weighted_sampling.best_of(answers, size)[1]))

    def sweep_sample(self, centers: NDArray[np.float32], address: SampleAddress) -> Partials:
        """Visit every row of a sample once; return the sums for these centers, (k, d)."""
        return self.total(ShardWorker.sweep_sample, centers, address)

    def measure_sample(self, address: SampleAddress) -> SampleSize:
        """Return the number of rows of a sample, and their squares."""
        return reduce(add, self.ask(ShardWorker.measure_sample, address))

    def rows_at(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the rows with these ascending numbers, (rows, d)."""
        return np.concatenate(self.ask(ShardWorker.rows_at, numbers))

    def draw(self, key: np.uint64, size: int) -> NDArray[np.int64]:
        """Return the ascending numbers of `size` rows, drawn by their weights, (size,)."""
        _, won = weighted_sampling.best_of(self.ask(ShardWorker.draw, key, size), size)
        return np.sort(won)

    def farthest(self, centers: NDArray[np.float32], count: int) -> NDArray[np.float32]:
        """Return up to `count` rows farthest from their centers and not on them, (rows, d)."""
        answers = self.ask(ShardWorker.farthest, centers, count)
        distances = np.concatenate([each[0] for each in answers])
        rows = np.concatenate([each[1] for each in answers])
        order = np.argsort(-distances, kind="stable")[:count]
        return np.asarray(rows[order[distances[order] > 0]])

    def rows_of_largest(
        self, centers: NDArray[np.float32], count: int, key: np.uint64
    ) -> NDArray[np.float32]:
        """Draw up to `count` rows of the largest clusters that are not on their centers, (rows, d).

        See `splitting.new_parts`. The rows stand in the order of the data.
        """
        sizes = np.sum(self.ask(ShardWorker.sizes_off_centers, centers), axis=0)
        parts = new_parts(sizes, count)
        answers = self.ask(ShardWorker.draw_off_centers, centers, parts, key)
        won = [
            weighted_sampling.best_of(of_cluster, int(size))[1]
            for of_cluster, size in zip(zip(*answers, strict=True), parts[parts > 0], strict=True)
        ]
        return self.rows_at(np.sort(np.concatenate([np.empty(0, np.int64), *won])))

    def write_labels(
        self,
        centers: NDArray[np.float32],
        output: Writer,
        keep_columns: Sequence[str],
        nearest: NearestCenters = LABEL_ALONE,
        together: int = 1,
        parts: Sequence[int] | None = None,
        moved: Moved | None = None,
        beam: Beam | None = None,
    ) -> tuple[list[Any], NDArray[np.int64]]:
        """Write labelled output for every row; return the parts in order, and the rows by label,
        (k,).

        `nearest`: the centers to write besides. `together` blocks make up a part, and must be in
        one shard. Only these `parts` are written, by their numbers; None: all. `beam`: how the tree
        makes the labels; None: they are exact.
        """
        answers = self.ask_watched(
            moved,
            ShardWorker.write_labels,
            centers,
            output,
            tuple(keep_columns),
            nearest=nearest,
            together=together,
            parts=parts,
            beam=beam,
        )
        written = [part for of_shard, _ in answers for part in of_shard]
        return written, np.sum([counts for _, counts in answers], axis=0)

    def gather(
        self,
        output: Gatherer,
        bundles: Sequence[Sequence[int]],
        width: int,
        together: int = 1,
        moved: Moved | None = None,
    ) -> dict[int, list[Any]]:
        """Put labelled rows in the order of clusters; return files of each bundle by its first
        part.

        See `ShardWorker.gather`.
        """
        answers = self.ask_watched(moved, ShardWorker.gather, output, bundles, width, together)
        return {first: files for answer in answers for first, files in answer}


def _no_rows(extent: Extent) -> str:
    """Return the text of the error that no rows count."""
    if not extent.rows:
        return "the data have no rows."
    return f"all {extent.rows:,} rows have weight 0, or hold NaN, null or infinity."


class LocalPool(Pool):
    """Workers in this process, asked one after the other: every other pool must equal this one."""

    def __init__(
        self,
        source: Reader,
        shards: Sequence[Sequence[Block]],
        setup: WorkerSetup = WorkerSetup(),  # noqa: B008 (frozen)
    ) -> None:
        self.metric = setup.metric
        self._setup = setup
        self._workers: list[ShardWorker] = []
        self.take(source, shards)

    def take(self, source: Reader, shards: Sequence[Sequence[Block]]) -> None:
        """Turn to other data: the workers of the old ones are dropped with their rows."""
        self._source = source
        self._shards = shards
        self._drop_workers()
        self._rows = list(map(rows_of, shards))
        self._workers = [ShardWorker(self._setup) for _ in shards]

    def load(self, moved: Moved | None = None) -> Extent:
        """Read one shard after the other; return the extent of all rows."""
        extents = self._each(self._load_shard, moved)
        return reduce(add, extents)

    def ask_watched(
        self,
        moved: Moved | None,
        method: Callable[Concatenate[ShardWorker, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> list[T]:
        return self._each(lambda shard: method(self._workers[shard], *args, **kwargs), moved)

    def _load_shard(self, shard: int) -> Extent:
        return self._workers[shard].load(self._source, self._shards[shard])

    def _each(self, call: Callable[[int], T], moved: Moved | None) -> list[T]:
        """Call for one shard after the other, so that nobody waits for another one."""
        answers: list[T] = []
        rows = 0
        for number, rows_here in enumerate(self._rows):
            self._workers[number].on_rows = tally = Tally(moved, rows)
            answers.append(call(number))
            rows += rows_here
            tally.catch_up(rows)
        self.answered = time.perf_counter()
        return answers

    def remember(
        self, method: Callable[Concatenate[ShardWorker, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> list[T]:
        return self.ask(method, *args, **kwargs)

    def forget(self, method: Callable[..., Any]) -> None:
        pass  # no worker is ever replaced here

    def close(self) -> None:
        self._drop_workers()

    def _drop_workers(self) -> None:
        """Drop all workers with their rows, and let none of them go on compiling."""
        for worker in self._workers:
            worker.stop_compiling()
        self._workers = []
