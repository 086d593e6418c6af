"""From what the user asked to a run: plan, check the budget, choose the pool, start."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.checks import initial_centers
from ray_kmeans.cluster.coordinator import FitPlan, run_fit
from ray_kmeans.cluster.pool import LocalPool, Pool
from ray_kmeans.clustering.lloyd import FitState, StopRule
from ray_kmeans.config import RunConfig
from ray_kmeans.data.plan import Layout, Shard, check_budget, split
from ray_kmeans.data.source import Source
from ray_kmeans.errors import ConfigError, DataError, TooFewRowsError
from ray_kmeans.observe import events as ev
from ray_kmeans.observe.listeners import LogLines, Progress, tell_all, warn
from ray_kmeans.store.labelled import OWN_COLUMNS, LabelledOutput
from ray_kmeans.store.model_dir import ModelDir


def fit(
    params: Mapping[str, Any],
    source: Source,
    store: ModelDir,
    config: RunConfig,
    rule: StopRule,
    listeners: Sequence[ev.Emit] = (),
) -> FitState:
    """Fit; everything that can be known to fail does so before a worker starts."""
    layout = source.describe()
    num_clusters = int(params["num_clusters"])
    initial = initial_centers(params["initial_clusters"], num_clusters)
    _check_shapes(layout, num_clusters, initial)
    _check_reachable(config, {f"model_dir={store.url!r}": store, "the data": source})
    found = store.check(num_clusters, layout.features)
    if found and rule.max_steps is not None and found.iteration >= rule.max_steps:
        return found
    plan = FitPlan(
        num_clusters=num_clusters,
        initial=initial,
        random_seed=int(params["random_seed"]),
        rule=rule,
        checkpoint_steps=config.save_checkpoints_steps,
        checkpoint_secs=config.save_checkpoints_secs,
    )
    shards = _plan_shards(layout, num_clusters, config)
    with closing(Progress(config.progress)) as progress:
        emit = tell_all([LogLines(config.log_step_count_steps), warn, progress, *listeners])
        if config.num_workers == 0:
            return run_fit(plan, LocalPool(source, shards), store, emit)
        from ray_kmeans.cluster import on_ray

        return on_ray.fit_on_ray(
            plan, store, source, shards, start_timeout_s=config.worker_start_timeout_s, emit=emit
        )


def score(state: FitState, source: Source, layout: Layout, config: RunConfig) -> float:
    """Return the inertia of these rows under the model's centers."""
    _check_reachable(config, {"the data": source})
    with _open_pool(state, source, layout, config) as pool:
        summary = pool.summarize()
        return pool.sweep(state.centers).inertia(summary, state.centers)


def write_labels(
    state: FitState,
    source: Source,
    output: LabelledOutput,
    config: RunConfig,
    *,
    model_dir: str,
    keep_columns: Sequence[str] = (),
) -> int:
    """Write label and distance of every row, by the workers; return the number of rows."""
    layout = source.describe()
    check_features(layout.features, state, model_dir)
    _check_kept(source, layout, keep_columns)
    _check_reachable(config, {f"the output {output.url!r}": output, "the data": source})
    output.start()
    with _open_pool(state, source, layout, config) as pool:
        pool.read()
        parts = pool.write_labels(state.centers, output, keep_columns)
    output.finish(parts, {"model_dir": model_dir, "iteration": state.iteration})
    return sum(part.rows for part in parts)


@contextmanager
def _open_pool(
    state: FitState, source: Source, layout: Layout, config: RunConfig
) -> Iterator[Pool]:
    shards = _plan_shards(layout, len(state.centers), config)
    pool: Pool
    if config.num_workers == 0:
        pool = LocalPool(source, shards)
    else:
        from ray_kmeans.cluster import on_ray

        pool = on_ray.open_pool(source, shards, config.worker_start_timeout_s, LogLines())
    try:
        yield pool
    finally:
        pool.close()


def _plan_shards(layout: Layout, num_clusters: int, config: RunConfig) -> tuple[Shard, ...]:
    """Deal the blocks out and check that they fit; joins or starts Ray where it is needed."""
    if not layout.blocks:
        raise DataError("the data have no rows. Give at least one.")
    if config.num_workers == 0:
        shards = split(layout.blocks, 1)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    else:
        from ray_kmeans.cluster import on_ray  # ray is not imported where it is not used

        on_ray.connect(config.ray_address, config.num_workers)
        shards = split(layout.blocks, config.num_workers or on_ray.cluster_cpus())
        memory = on_ray.memory_per_cpu()
    check_budget(shards, num_clusters, config.worker_memory_bytes or memory)
    return shards


def check_features(features: int, state: FitState, model_dir: str) -> None:
    """Raise DataError unless the data are as wide as the model."""
    if features != state.centers.shape[1]:
        raise DataError(
            f"the data have {features} features and the model in {model_dir!r} has "
            f"{state.centers.shape[1]}. Give data like those it was fitted on."
        )


def _check_reachable(
    config: RunConfig, places: Mapping[str, Source | ModelDir | LabelledOutput]
) -> None:
    for what, place in places.items():
        if config.num_workers != 0 and place.only_here:
            raise ConfigError(
                f"{what} is in the memory of this process, where no worker can reach it. Give "
                "config=RunConfig(num_workers=0) to run in this process, or another place."
            )


def _check_kept(source: Source, layout: Layout, names: Sequence[str]) -> None:
    taken = [name for name in names if name in OWN_COLUMNS]
    if taken:
        raise ConfigError(f"keep_columns={taken}: the output has columns of these names itself.")
    if names and layout.blocks:
        source.columns_of(layout.blocks[0], names)  # raises for a name that is not there


def _check_shapes(layout: Layout, num_clusters: int, initial: NDArray[np.float32] | None) -> None:
    if layout.rows < num_clusters:
        raise TooFewRowsError(layout.rows, num_clusters)
    if initial is not None and initial.shape[1] != layout.features:
        raise ConfigError(
            f"initial_clusters has {initial.shape[1]} features and the data have "
            f"{layout.features}; they must have the same."
        )
