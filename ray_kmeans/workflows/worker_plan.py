"""Plan where a call computes: cut shards that fit the workers' memory, and open a pool of
workers."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace

from ray_kmeans.algorithm.dtypes import item_bytes
from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.row_counts import rows_of
from ray_kmeans.config import MachineOptions, RunConfig
from ray_kmeans.data.session_source import SessionSource
from ray_kmeans.data.sharding import Layout, Shard, split
from ray_kmeans.data.source import Source, is_only_here
from ray_kmeans.data.worker_memory import Footprint, readers_of
from ray_kmeans.engine.options import WorkerOptions, Workload, threads_of
from ray_kmeans.engine.pool import LocalPool, Pool
from ray_kmeans.engine.row_cache import (
    DISK,
    MEMORY,
    SOURCE,
    CacheOptions,
)
from ray_kmeans.errors import BudgetError, ConfigError, DataError
from ray_kmeans.io.publish import Place
from ray_kmeans.kernels import gpu
from ray_kmeans.observe import events as ev
from ray_kmeans.observe.log import LogLines
from ray_kmeans.process import forks

log = logging.getLogger("ray_kmeans")

_SECOND_CHOICES = {
    MEMORY: "the rows are kept as {}, and made float32 block by block",
    DISK: "the rows are kept on disk",
}
"""Warning for each place of rows that is not the first choice; takes the type of the values."""


def plan_shards(
    layout: Layout,
    num_clusters: int,
    config: RunConfig,
    batch_size: int | None = None,
    workers: int | None = None,
    together: int = 1,
    or_fewer: bool = False,
    other_bytes: int = 0,
    restarts: int = 1,
    is_tree: bool = False,
) -> tuple[tuple[Shard, ...], WorkerOptions]:
    """Deal the blocks out to workers and check that they fit the memory.

    Returns the shards, and the options of their workers. `workers` None: as many as there may be. A
    number is given for the batches of a stream, whose rows are kept in memory. `together`: number
    of blocks that stay in one shard, see `split`. `or_fewer`: calls with fewer clusters come too.
    `other_bytes`: what the work takes in each worker besides. `restarts`: fits that may run at
    once. `is_tree`: the fit is of a tree. Joins or starts Ray where it is needed.
    """
    if not layout.blocks:
        raise DataError("the data have no rows. Give at least one.")
    count, cpus = workforce(config)
    shards = split(layout.blocks, workers or count, together)
    most = None if workers else config.max_workers
    drawn = batch_size if batch_size and batch_size < layout.rows else 0
    allowed, threads = worker_memory(config), threads_of(cpus)
    staged = gpu.STAGED_BYTES if config.backend == "gpu" else 0
    by_group = layout.is_read_whole
    footprint = Footprint(
        num_clusters,
        drawn,
        threads,
        by_group=by_group,
        staged_bytes=staged,
        restarts=restarts,
        or_fewer=or_fewer,
        is_tree=is_tree,
        other_bytes=other_bytes,
    )
    wanted = config.cache if workers is None else MEMORY
    place, narrow = _choose_cache(wanted, shards, layout, footprint, allowed)
    footprint = _with_cache(footprint, place, narrow)
    options = WorkerOptions(
        cpus_per_worker=cpus,
        worker_start_timeout_s=config.worker_start_timeout_s,
        row_cache=CacheOptions(place, config.cache_dir, readers_of(threads), narrow),
        num_workers=workers or len(shards),
        min_workers=config.min_workers,
        max_workers=most,
        most_rows=footprint.rows_within(shards, allowed),
        planned_rows=max(map(rows_of, shards)),
        planned_bytes=footprint.most(shards),
        worker_replace_timeout_s=config.worker_replace_timeout_s,
        kernel="gpu" if config.backend == "gpu" else "cpu",
        gpus_per_worker=gpus_of(config),
        num_clusters=num_clusters if config.backend != "gpu" else None,
    )
    return split(layout.blocks, most, together) if most else shards, options


def plan_event(options: WorkerOptions) -> ev.Planned:
    """Return the event that tells the plan of a run."""
    row_cache, count = options.row_cache, options.num_workers or 1
    place = f"{row_cache.cache} as {row_cache.narrow or 'float32'}"
    return ev.Planned(count, options.threads, options.planned_rows, place, options.planned_bytes)


def _with_cache(footprint: Footprint, place: str, narrow: str | None) -> Footprint:
    """Return the footprint for rows that are kept at a place, in a narrower type or as float32."""
    if place != MEMORY:
        return replace(footprint, kept=False)
    return replace(footprint, kept=narrow is None, item_bytes=item_bytes(narrow) if narrow else 0)


def _choose_cache(
    wanted: str, shards: Sequence[Shard], layout: Layout, footprint: Footprint, allowed: int
) -> tuple[str, str | None]:
    """Return the first place that has room for the rows, and the type to keep them in.

    The order is: in memory as float32, which is fastest; in memory in the narrower type of the
    data; on disk in that type. Raises BudgetError if no place that `wanted` allows has room.
    """
    narrow = [(MEMORY, layout.narrow)] if layout.narrow else []
    ladder = [(MEMORY, None), *narrow, (DISK, layout.narrow), (SOURCE, None)]
    problem: BudgetError | None = None
    for place, kind in ladder:
        if wanted != place and (wanted != "auto" or place == SOURCE):
            continue
        try:
            _with_cache(footprint, place, kind).check(shards, allowed)
        except BudgetError as error:
            problem = error
            continue
        if problem:
            choice = _SECOND_CHOICES[place].format(kind)
            log.warning("%s, as cache=%r and in memory %s", choice, wanted, problem)
        return place, kind
    assert problem is not None
    raise problem


def worker_memory(config: RunConfig) -> int:
    """Return the bytes of memory that one worker may hold."""
    if config.worker_memory_bytes is not None:
        return config.worker_memory_bytes
    if config.num_workers == 0:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    from ray_kmeans.on_ray import ray_cluster  # ray: 0.3 s

    return int(ray_cluster.memory_per_cpu() * workforce(config)[1])


def workforce(config: RunConfig) -> tuple[int, float]:
    """Return the largest number of workers and the CPUs of each; joins or starts Ray if needed."""
    if config.num_workers == 0:
        if config.backend == "gpu":
            gpu.check()
        return 1, config.cpus_per_worker or _cpus_here()
    forks.check("ray")
    from ray_kmeans.on_ray import ray_cluster  # ray: 0.3 s

    ray_cluster.connect(config.ray_address, config.num_workers, config.cpus_per_worker)
    if config.backend == "gpu" and config.num_workers is None:
        return share_gpus(ray_cluster.nodes_with_gpus(), config.cpus_per_worker, gpus_of(config))
    return share_cpus(ray_cluster.node_cpus(), config.num_workers, config.cpus_per_worker)


def _cpus_here() -> int:
    """Return the number of CPUs that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)  # on Linux
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def share_cpus(nodes: Sequence[int], workers: int | None, cpus: float | None) -> tuple[int, float]:
    """Share the CPUs of some nodes out; return the number of workers and the CPUs of each.

    With `workers` given, each has one CPU by default. Else few large workers are best, as a worker
    computes in as many threads as it has CPUs: one for each node, but nodes that are too small to
    matter (all together below a tenth of the CPUs) get none.

    >>> share_cpus([64, 64, 2], None, None), share_cpus([8, 8], 3, None), share_cpus([8], None, 2)
    ((2, 64), (3, 1), (4, 2))
    """
    if workers is not None:
        return workers, cpus or 1
    if cpus is None:
        used = {size: size * sum(node // size for node in nodes) for size in nodes}
        cpus = max(size for size in nodes if used[size] >= 0.9 * max(used.values()))
    return max(sum(int(node / cpus) for node in nodes), 1), cpus


def share_gpus(
    nodes: Sequence[tuple[float, float]], cpus: float | None, gpus: float
) -> tuple[int, float]:
    """Share nodes of (CPUs, GPUs) out; return the number of workers and the CPUs of each.

    As many workers as there is room for. `cpus` None: what the node with the fewest CPUs per worker
    can give. Raises ConfigError if there is room for none.

    >>> share_gpus([(64, 8), (16, 1)], None, 1), share_gpus([(4, 1), (4, 1)], 2, 0.25)
    ((9, 8), (4, 2))
    """
    rooms = [int(of_node / gpus + 1e-9) for _, of_node in nodes]
    if cpus is None:
        shares = [
            int(of_node // room) for (of_node, _), room in zip(nodes, rooms, strict=True) if room
        ]
        cpus = max(min(shares, default=1), 1)
    rooms = [min(room, int(node[0] / cpus)) for room, node in zip(rooms, nodes, strict=True)]
    if not sum(rooms):
        raise ConfigError(
            f"backend='gpu' needs nodes with {gpus:g} GPU and {cpus:g} CPU for a worker; of those "
            f"of the Ray cluster {len(nodes)} have GPUs, {sum(of for _, of in nodes):g} in all. "
            "Give num_workers to wait for nodes that come later, or backend='cpu'."
        )
    return sum(rooms), cpus


def gpus_of(config: RunConfig) -> float:
    """Return the share of a GPU that each worker has; 0 without a GPU."""
    return float(config.gpus_per_worker or 1) if config.backend == "gpu" else 0.0


@contextmanager
def open_pool(
    source: Source,
    layout: Layout,
    num_clusters: int,
    metric: Metric,
    config: RunConfig,
    emit: ev.Emit | None = None,
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    together: int = 1,
    or_fewer: bool = False,
    other_bytes: int = 0,
    restarts: int = 1,
    is_tree: bool = False,
) -> Iterator[Pool]:
    """Give a pool of workers that hold the data, and close it at the end.

    `workers` None: one for each shard. `together`: number of blocks that stay in one shard.
    `or_fewer`: tasks with fewer clusters come too. `other_bytes`: what the work takes in each
    worker besides. `restarts`: fits that may run at once. `is_tree`: the fit is of a tree. The pool
    of a session is lent, with all rows of the session, and stays open.
    """
    if isinstance(source, SessionSource):
        drawn = drawn_rows(layout, batch_size)
        with source.lend(num_clusters, metric, drawn, emit, other_bytes) as lent:
            yield lent
        return
    shards, options = plan_shards(
        layout,
        num_clusters,
        config,
        batch_size,
        workers,
        together=together,
        or_fewer=or_fewer,
        other_bytes=other_bytes,
        restarts=restarts,
        is_tree=is_tree,
    )
    if emit is not None:
        emit(plan_event(options))
    pool: Pool
    if config.num_workers == 0:
        pool = LocalPool(source, shards, options.setup(metric))
    else:
        from ray_kmeans.on_ray import driver  # ray: 0.3 s

        pool = driver.open_pool(Workload(source, shards, options), metric, emit or LogLines())
    del source  # it may be the first batch of a stream, which is freed when the next one comes
    try:
        yield pool
    finally:
        pool.close()


def drawn_rows(layout: Layout, batch_size: int | None) -> int | None:
    """Return the rows of a mini-batch that is drawn; None where a batch is all rows."""
    return batch_size if batch_size and batch_size < layout.rows else None


def machines_for(source: Source, config: RunConfig) -> RunConfig:
    """Return a configuration with the machines of the session that holds the rows, if one does."""
    if not isinstance(source, SessionSource):
        return config
    if config.detached:
        raise ConfigError("detached=True and a session: its workers belong to this process.")
    own = source.config
    names = (each.name for each in fields(MachineOptions))
    return replace(config, **{name: getattr(own, name) for name in names})


def check_reachable(config: RunConfig, places: Mapping[str, Source | Place]) -> None:
    """Raise ConfigError if workers cannot reach the places, by name, or there is no GPU.

    Workers in other processes cannot reach what is in the memory of this one. A GPU is looked for
    where this process computes on it.
    """
    if config.num_workers == 0 and config.backend == "gpu":
        gpu.check()
    for what, place in places.items():
        if config.num_workers != 0 and is_only_here(place):
            raise ConfigError(
                f"{what} is in the memory of this process, where no worker can reach it. Give "
                "config=RunConfig(num_workers=0) to run in this process, or another place."
            )
