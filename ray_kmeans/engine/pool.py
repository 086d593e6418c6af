"""A pool: the workers of a run, asked all at once. The local one is the specification."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.batches import Batches
from ray_kmeans.algorithm.exact_total import as_float
from ray_kmeans.algorithm.grid import Extent, Grid, Summary
from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.minibatch import BatchPartials
from ray_kmeans.algorithm.partials import Partials
from ray_kmeans.algorithm.weights import TOTAL_BITS
from ray_kmeans.engine.label_writer import Gatherer, Writer
from ray_kmeans.engine.progress import Moved, Tally, nobody
from ray_kmeans.engine.row_cache import Keep
from ray_kmeans.engine.seeding import weighted_sampling
from ray_kmeans.engine.shard import Block, Reader
from ray_kmeans.engine.worker import ShardWorker
from ray_kmeans.errors import DataError


class Pool(ABC):
    """Every row of the data, spread over workers.

    A pool only has to call one method on each worker; how the answers are put together stands here
    once, so that no pool can differ in it.
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
    def ask(self, method: str, *args: Any, moved: Moved = nobody) -> list[Any]:
        """Call the method of every worker with these arguments; answers in the order of shards."""

    @abstractmethod
    def take(self, source: Any, shards: Sequence[Sequence[Block]]) -> None:
        """Turn to these data; the next call is `read` or `summarize`."""

    @abstractmethod
    def load(self, moved: Moved = nobody) -> Extent:
        """Let every worker read its shard."""

    @abstractmethod
    def close(self) -> None:
        """End the workers. May be called twice."""

    @abstractmethod
    def remember(self, method: str, *args: Any) -> list[Any]:
        """Ask for something that a worker which replaces another one must be asked too."""

    @abstractmethod
    def forget(self, method: str) -> None:
        """Take back what `remember` was told of this method."""

    def read(self, moved: Moved = nobody) -> Extent:
        """Load the data. Raises DataError for rows that cannot be clustered."""
        extent = self.load(moved)
        extent.check_finite()
        if extent.span.rows == 0:
            raise DataError(_no_rows(extent))
        return extent

    def summarize(self, moved: Moved = nobody) -> Summary:
        """Read the data and fix the grid."""
        extent = self.read(moved)
        span = extent.weights
        if span is not None and span.is_too_large:
            raise DataError(
                f"the weights add up to {as_float(span.total):.3g}, and may to 2**{TOTAL_BITS}. "
                "Scale them: only their ratios matter."
            )
        grid = Grid.of(extent)
        squares = reduce(add, self.remember("measure", grid))
        about = extent.zeros, span, extent.dropped, extent.rounding
        return Summary(extent.rows, grid, squares, self.metric, *about)

    def get_ready(
        self, n_clusters: int, batch_rows: int | None = None
    ) -> list[tuple[str, int, float]]:
        """Let every worker compile and check what labelling for so many clusters needs."""
        return self.remember("get_ready", n_clusters, batch_rows)

    def total(self, method: str, *args: Any) -> Any:
        """Return the sum of what `ask` returns."""
        return reduce(add, self.ask(method, *args))

    def sweep(self, centers: NDArray[np.float32]) -> Partials:
        """Visit every row once."""
        partials: Partials = self.total("sweep", centers)
        return partials

    def sweep_batches(
        self, centers: NDArray[np.float32], batches: Batches, first_step: int, steps: int
    ) -> BatchPartials:
        """Visit the rows of some steps of mini-batch."""
        partials: BatchPartials = self.total("sweep_batches", centers, batches, first_step, steps)
        return partials

    def rows_at(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the rows with these ascending numbers."""
        return np.concatenate(self.ask("rows_at", numbers))

    def draw(self, key: np.uint64, size: int) -> NDArray[np.int64]:
        """Return the ascending numbers of so many rows, drawn by their weights."""
        tickets, numbers = zip(*self.ask("draw", key, size), strict=True)
        _, won = weighted_sampling.lowest(np.concatenate(tickets), np.concatenate(numbers), size)
        return np.sort(won)

    def farthest(self, centers: NDArray[np.float32], count: int) -> NDArray[np.float32]:
        """Return up to `count` rows that are farthest from their centers, and not on them."""
        answers = self.ask("farthest", centers, count)
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
        moved: Moved = nobody,
    ) -> tuple[list[Any], NDArray[np.int64]]:
        """Write labelled output for every row; return parts in the order of the data, and counts.

        `second`: with the second-nearest center. So many blocks `together` are a part, and must be
        in one shard. The counts are those of the rows of each label.
        """
        how = output, tuple(keep_columns), second, together
        answers = self.ask("write_labels", centers, *how, moved=moved)
        parts = [part for of_shard, _ in answers for part in of_shard]
        return parts, np.sum([counts for _, counts in answers], axis=0)

    def gather(
        self,
        output: Gatherer,
        bundles: Sequence[Sequence[int]],
        width: int,
        moved: Moved = nobody,
    ) -> dict[int, list[Any]]:
        """Gather labelled rows by cluster; return the files of each bundle, by its first block."""
        answers = self.ask("gather", output, bundles, width, moved=moved)
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
        metric: Metric = Metric.SQUARED_EUCLIDEAN,
        kernel: str = "cpu",
        threads: int = 1,
        keep: Keep = Keep(),  # noqa: B008 (frozen)
        gpus: float = 1.0,
    ) -> None:
        self.metric = metric
        self._how = kernel, threads, keep, gpus
        self.take(source, shards)

    def take(self, source: Reader, shards: Sequence[Sequence[Block]]) -> None:
        self._source = source
        self._shards = shards
        self._workers = [ShardWorker(self.metric, *self._how) for _ in shards]

    def load(self, moved: Moved = nobody) -> Extent:
        extents: list[Extent] = self._each(self._load_shard, moved)
        return reduce(add, extents)

    def ask(self, method: str, *args: Any, moved: Moved = nobody) -> list[Any]:
        return self._each(lambda shard: getattr(self._workers[shard], method)(*args), moved)

    def _load_shard(self, shard: int) -> Extent:
        return self._workers[shard].load(self._source, self._shards[shard])

    def _each(self, call: Callable[[int], Any], moved: Moved) -> list[Any]:
        """Call for one shard after the other. Nobody waits for another one here."""
        answers, rows = [], 0
        for number, shard in enumerate(self._shards):
            self._workers[number].noted = tally = Tally(moved, rows)
            answers.append(call(number))
            rows += rows_of(shard)
            if tally.rows < rows:  # it was asked for what is not told block by block
                moved(rows)
        self.answered = time.perf_counter()
        return answers

    def remember(self, method: str, *args: Any) -> list[Any]:
        return self.ask(method, *args)

    def forget(self, method: str) -> None:
        pass  # no worker is ever replaced here

    def close(self) -> None:
        self._workers = []


def rows_of(shard: Sequence[Block]) -> int:
    """Return how many rows a shard has."""
    return sum(block.rows for block in shard)
