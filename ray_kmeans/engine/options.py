"""Records of what a run asks of its workers; they travel to every worker process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.engine.row_cache import CacheOptions
from ray_kmeans.engine.shard import Block


@dataclass(frozen=True)
class WorkerSetup:
    """All that a worker must know to compute on its rows, wherever its process runs."""

    metric: Metric = Metric.SQUARED_EUCLIDEAN
    """Distance metric: 'squared_euclidean' or 'cosine'."""
    kernel: str = "cpu"
    """Name of the kernel that computes, as `kernels.load` takes it."""
    threads: int = 1
    """Number of threads that compute at once."""
    row_cache: CacheOptions = field(default_factory=CacheOptions)
    """Place and type of the rows between two sweeps."""
    gpus_per_worker: float = 1.0
    """Share of a GPU whose memory the worker may take; only kernels of a GPU read it."""
    num_clusters: int | None = None
    """Number of clusters for which a worker compiles its kernel while it reads; None: it does
    not."""


@dataclass(frozen=True)
class WorkerOptions:
    """Needs of each worker on its node, and the times that a run waits for workers.

    A field that comes from RunConfig has the same name there, and is explained there for users.
    """

    cpus_per_worker: float
    """Number of CPUs that Ray reserves for a worker."""
    worker_start_timeout_s: float
    """Seconds that a run waits for its workers to start, and for room when it has none."""
    row_cache: CacheOptions = field(default_factory=CacheOptions)
    """Place and type of the rows between two sweeps."""
    num_workers: int | None = None
    """Number of workers at the start; None: one for each shard."""
    min_workers: int | None = None
    """Fewest workers with which a run starts, or goes on after a loss; None: all to start, and one
    to go on."""
    max_workers: int | None = None
    """Most workers at the same time; None: as many as at the start."""
    most_rows: int | None = None
    """Largest number of rows that one worker may hold; None: any number."""
    planned_rows: int = 0
    """Number of rows of the largest shard, for messages."""
    planned_bytes: int = 0
    """Peak bytes of the worker with the largest shard, as planned, for messages."""
    worker_replace_timeout_s: float = 30.0
    """Seconds to wait for a replacement of a lost worker before the others take its shards over."""
    kernel: str = "cpu"
    """Name of the kernel that computes, as `kernels.load` takes it."""
    gpus_per_worker: float = 0.0
    """Number of GPUs, or the share of one, that Ray reserves for a worker."""
    num_clusters: int | None = None
    """Number of clusters for which a worker compiles its kernel while it reads; None: it does
    not."""

    @property
    def threads(self) -> int:
        """Number of threads in which a worker computes."""
        return threads_of(self.cpus_per_worker)

    def setup(self, metric: Metric) -> WorkerSetup:
        """Return what each worker must know to compute by this metric."""
        return WorkerSetup(
            metric=metric,
            kernel=self.kernel,
            threads=self.threads,
            row_cache=self.row_cache,
            gpus_per_worker=self.gpus_per_worker,
            num_clusters=self.num_clusters,
        )


@dataclass(frozen=True)
class Workload:
    """The data of a run, their cut into shards, and the needs of the workers that hold these."""

    source: Any
    """Source of the rows, a `Reader`; on Ray also an ObjectRef of one, so that the rows of an array
    reach the workers without a copy."""
    shards: Sequence[Sequence[Block]]
    """Blocks of each shard, in the order of the data."""
    options: WorkerOptions
    """Needs of each worker, and the times that the run waits for workers."""

    @property
    def workers_at_start(self) -> int:
        """Number of workers that the run asks for at its start."""
        return self.options.num_workers or len(self.shards)

    @property
    def fewest_workers(self) -> int:
        """Number of workers without which the run does not start."""
        return self.options.min_workers or self.workers_at_start


def threads_of(cpus: float) -> int:
    """Return the number of threads of a worker that has this number of CPUs."""
    return max(int(cpus), 1)
