"""A pool: the workers of a run, asked all at once. The local one is the specification."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import reduce
from operator import add
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.batches import Batches
from ray_kmeans.algorithm.blocks import rows_of
from ray_kmeans.algorithm.exact_total import as_float
from ray_kmeans.algorithm.grid import Extent, Grid, Summary
from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.minibatch import BatchPartials
from ray_kmeans.algorithm.partials import Partials, Sums
from ray_kmeans.algorithm.weights import TOTAL_BITS
from ray_kmeans.engine.label_writer import Gatherer, Writer
from ray_kmeans.engine.options import WorkerSetup
from ray_kmeans.engine.progress import Moved, Tally
from ray_kmeans.engine.seeding import weighted_sampling
from ray_kmeans.engine.shard import Block, Reader
from ray_kmeans.engine.worker import ShardWorker
from ray_kmeans.errors import DataError

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound=Sums)


class Pool(ABC):
    """Every row of the data, spread over workers.

    A pool only has to call one method on each worker; how the answers are put together stands here
    once, so that no pool can differ in it. A method is named by the function itself, as in
    ``pool.ask(ShardWorker.sweep, centers)``: so its callers can be found, and its arguments are
    checked by mypy.
    """

    metric: Metric
    waited = 0.0
    """Seconds from the first worker's answer to the last one's, in all calls so far."""
    answered = 0.0
    """When the last answer came, by time.perf_counter."""
    _shards: Sequence[Sequence[Block]]

    @property
    def num_rows(self) -> int:
        """Rows of all shards."""
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
        """Turn to these data; the next call is `read` or `summarize`."""

    @abstractmethod
    def load(self, moved: Moved | None = None) -> Extent:
        """Let every worker read its shard."""

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

    def ask(
        self, method: Callable[Concatenate[ShardWorker, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> list[T]:
        """Call the method of every worker with these arguments; answers in the order of shards."""
        return self.ask_watched(None, method, *args, **kwargs)

    def read(self, moved: Moved | None = None) -> Extent:
        """Load the data. Raises DataError for rows that cannot be clustered."""
        extent = self.load(moved)
        extent.check_finite()
        if extent.span.rows == 0:
            raise DataError(_no_rows(extent))
        return extent

    def summarize(self, moved: Moved | None = None) -> Summary:
        """Read the data and fix the grid."""
        extent = self.read(moved)
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
        """Let every worker compile and check what labelling for so many clusters needs."""
        return self.remember(ShardWorker.get_ready, n_clusters, batch_rows)

    def total(
        self,
        method: Callable[Concatenate[ShardWorker, NDArray[np.float32], P], S],
        centers: NDArray[np.float32],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> S:
        """Return the sum of what `ask` returns."""
        answers: list[S] = self.ask(method, centers, *args, **kwargs)
        return reduce(add, answers)

    def sweep(self, centers: NDArray[np.float32]) -> Partials:
        """Visit every row once."""
        return self.total(ShardWorker.sweep, centers)

    def sweep_batches(
        self, centers: NDArray[np.float32], batches: Batches, first_step: int, steps: int
    ) -> BatchPartials:
        """Visit the rows of some steps of mini-batch."""
        return self.total(ShardWorker.sweep_batches, centers, batches, first_step, steps)

    def rows_at(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the rows with these ascending numbers."""
        return np.concatenate(self.ask(ShardWorker.rows_at, numbers))

    def draw(self, key: np.uint64, size: int) -> NDArray[np.int64]:
        """Return the ascending numbers of so many rows, drawn by their weights."""
        tickets, numbers = zip(*self.ask(ShardWorker.draw, key, size), strict=True)
        _, won = weighted_sampling.lowest(np.concatenate(tickets), np.concatenate(numbers), size)
        return np.sort(won)

    def farthest(self, centers: NDArray[np.float32], count: int) -> NDArray[np.float32]:
        """Return up to `count` rows that are farthest from their centers, and not on them."""
        answers = self.ask(ShardWorker.farthest, centers, count)
        distances = np.concatenate([each[0] for each in answers])
        rows = np.concatenate([each[1] for each in answers])
        order = np.argsort(-distances, kind="stable")[:count]
        return np.asarray(rows[order[distances[order] > 0]])

    def write_labels(
        self,
        centers: NDArray[np.float32],
        output: Writer,
        keep_columns: Sequence[str],
        second: bool = False,
        together: int = 1,
        moved: Moved | None = None,
    ) -> tuple[list[Any], NDArray[np.int64]]:
        """Write labelled output for every row; return parts in the order of the data, and counts.

        `second`: with the second-nearest center. So many blocks `together` are a part, and must be
        in one shard. The counts are those of the rows of each label.
        """
        answers = self.ask_watched(
            moved,
            ShardWorker.write_labels,
            centers,
            output,
            tuple(keep_columns),
            second=second,
            together=together,
        )
        parts = [part for of_shard, _ in answers for part in of_shard]
        return parts, np.sum([counts for _, counts in answers], axis=0)

    def gather(
        self,
        output: Gatherer,
        bundles: Sequence[Sequence[int]],
        width: int,
        moved: Moved | None = None,
    ) -> dict[int, list[Any]]:
        """Gather labelled rows by cluster; return the files of each bundle, by its first block."""
        answers = self.ask_watched(moved, ShardWorker.gather, output, bundles, width)
        return {first: files for answer in answers for first, files in answer}


def _no_rows(extent: Extent) -> str:
    if not extent.rows:
        return "the data have no rows."
    return f"all {extent.rows:,} rows have weight 0, or hold NaN, null or infinity."


class LocalPool(Pool):
    """All workers in this process, one after the other: what every other pool must equal."""

    def __init__(
        self,
        source: Reader,
        shards: Sequence[Sequence[Block]],
        setup: WorkerSetup = WorkerSetup(),  # noqa: B008 (frozen)
    ) -> None:
        self.metric = setup.metric
        self._setup = setup
        self.take(source, shards)

    def take(self, source: Reader, shards: Sequence[Sequence[Block]]) -> None:
        self._source = source
        self._shards = shards
        self._workers = [ShardWorker(self._setup) for _ in shards]

    def load(self, moved: Moved | None = None) -> Extent:
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
        """Call for one shard after the other. Nobody waits for another one here."""
        answers: list[T] = []
        rows = 0
        for number, shard in enumerate(self._shards):
            self._workers[number].noted = tally = Tally(moved, rows)
            answers.append(call(number))
            rows += rows_of(shard)
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
        self._workers = []
