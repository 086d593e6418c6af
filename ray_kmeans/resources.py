"""Where a call computes: shards that fit the memory, and a pool to hold them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ray_kmeans.cluster.pool import LocalPool, Pool
from ray_kmeans.config import RunConfig
from ray_kmeans.data.plan import Layout, Shard, check_budget, split
from ray_kmeans.data.source import Source
from ray_kmeans.errors import ConfigError, DataError
from ray_kmeans.observe import events as ev
from ray_kmeans.observe.listeners import LogLines
from ray_kmeans.store.publish import Place


def plan_shards(
    layout: Layout,
    num_clusters: int,
    config: RunConfig,
    batch_size: int | None = None,
    workers: int | None = None,
) -> tuple[Shard, ...]:
    """Deal the blocks out to workers, as many as there may be by default, and check that they fit.

    Joins or starts Ray where it is needed.
    """
    if not layout.blocks:
        raise DataError("the data have no rows. Give at least one.")
    if config.num_workers == 0:
        shards = split(layout.blocks, 1)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    else:
        from ray_kmeans.cluster import on_ray  # ray is not imported where it is not used

        shards = split(layout.blocks, workers or n_workers(config))
        memory = int(on_ray.memory_per_cpu() * config.cpus_per_worker)
    drawn = batch_size if batch_size and batch_size < layout.rows else 0
    check_budget(shards, num_clusters, config.worker_memory_bytes or memory, drawn)
    return shards


def n_workers(config: RunConfig) -> int:
    """Return the number of workers that may be used; joins or starts Ray where it is needed."""
    if config.num_workers == 0:
        return 1
    from ray_kmeans.cluster import on_ray

    on_ray.connect(config.ray_address, config.num_workers, config.cpus_per_worker)
    return config.num_workers or max(int(on_ray.cluster_cpus() / config.cpus_per_worker), 1)


@contextmanager
def open_pool(
    source: Source,
    layout: Layout,
    num_clusters: int,
    metric: str,
    config: RunConfig,
    emit: ev.Emit | None = None,
    *,
    batch_size: int | None = None,
    workers: int | None = None,
) -> Iterator[Pool]:
    """Give a pool that this process owns; with one worker for each shard, or so many."""
    shards = plan_shards(layout, num_clusters, config, batch_size, workers)
    pool: Pool
    if config.num_workers == 0:
        pool = LocalPool(source, shards, metric)
    else:
        from ray_kmeans.cluster import on_ray

        options = on_ray.WorkerOptions(config.cpus_per_worker, config.worker_start_timeout_s)
        pool = on_ray.open_pool(source, shards, metric, options, emit or LogLines(), workers)
    del source  # it may be the first batch of a stream, and go when the next one comes
    try:
        yield pool
    finally:
        pool.close()


def check_reachable(config: RunConfig, places: Mapping[str, Source | Place]) -> None:
    """Raise ConfigError for what only this process sees, where others are to work with it."""
    for what, place in places.items():
        if config.num_workers != 0 and place.only_here:
            raise ConfigError(
                f"{what} is in the memory of this process, where no worker can reach it. Give "
                "config=RunConfig(num_workers=0) to run in this process, or another place."
            )
