"""What a run asks of its workers."""

from __future__ import annotations

from dataclasses import dataclass, field

from ray_kmeans.engine.row_cache import Keep


@dataclass(frozen=True)
class WorkerOptions:
    """What a worker takes of a node, where it keeps its rows, and how long others wait for it."""

    cpus: float
    start_timeout_s: float
    keep: Keep = field(default_factory=Keep)
    count: int | None = None
    """Workers at the start; None: one for each shard."""
    fewest: int | None = None
    """Workers with which a run starts, or goes on after a loss; None: all, and one."""
    most: int | None = None
    """Workers that may be there at once; None: as many as at the start."""
    most_rows: int | None = None
    """Rows that a worker may hold; None: any number."""
    rows: int = 0
    """Of the largest shard."""
    num_bytes: int = 0
    """That the worker with that shard holds, as planned."""
    replace_timeout_s: float = 30.0
    """After a loss, before the others take the shards over."""
    kernel: str = "cpu"
    """What computes, by the name that `kernels.load` takes."""
    gpus: float = 0.0
    """What a worker has of a GPU."""

    @property
    def threads(self) -> int:
        """Threads in which a worker computes."""
        return threads_of(self.cpus)


def threads_of(cpus: float) -> int:
    """Return the threads of a worker with so many CPUs."""
    return max(int(cpus), 1)
