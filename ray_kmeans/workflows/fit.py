"""From what the user asked to a fit: plan, check the budget, choose who coordinates, start."""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.row_spec import RowSpec
from ray_kmeans.algorithm.state import FitState, Origin
from ray_kmeans.algorithm.stopping import StopRule
from ray_kmeans.config import RunConfig
from ray_kmeans.data.array import ArraySource
from ray_kmeans.data.choice import shortened
from ray_kmeans.data.layout import Layout
from ray_kmeans.data.model_rows import spec_of
from ray_kmeans.data.rounded import (
    shift_of,
    shifted,
    under,
    wide_rows,
)
from ray_kmeans.data.source import Source
from ray_kmeans.data.weighted import WeightedSource, columns_of_rows, with_weights
from ray_kmeans.engine.fit_loop import run_fit, run_stream
from ray_kmeans.engine.fit_plan import FitPlan
from ray_kmeans.engine.options import Workload
from ray_kmeans.engine.seeding.choose import KMEANS_PLUS_PLUS
from ray_kmeans.engine.trainers import Loadable
from ray_kmeans.errors import (
    ConfigError,
    DataError,
    TooFewRowsError,
    install_hint,
)
from ray_kmeans.io.publish import Place
from ray_kmeans.observe import events as ev
from ray_kmeans.observe import tensorboard
from ray_kmeans.observe.log import LogLines, tell_all, warn
from ray_kmeans.observe.monitors import Monitors
from ray_kmeans.observe.progress import Progress
from ray_kmeans.observe.run_record import Journal
from ray_kmeans.observe.tensorboard import Summaries, tensorboard_installed
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.workflows.parameters import level_of_caller
from ray_kmeans.workflows.plan import (
    check_reachable,
    open_pool,
    plan_shards,
    planned,
    workforce,
)
from ray_kmeans.workflows.validation import initial_centers

log = logging.getLogger("ray_kmeans")

BATCH_SIZE = 65_536
"""Rows of a mini-batch by default: fixed, so that it does not depend on the workers."""
ALL_IN_A_BATCH = (
    "the data have {:,} rows and a batch has {:,}, so each step of mini-batch visits everything. "
    "Full batch ends sooner and at its fixed point: use_mini_batch=False, or --no-use-mini-batch."
)
WHOLE = 2**62
"""A batch size that no data set reaches: one batch is everything."""


def plan_fit(
    params: Mapping[str, Any], config: RunConfig, rule: StopRule, batch_size: int | None
) -> FitPlan:
    """Return what a fit is to do."""
    k = int(params["num_clusters"])
    return FitPlan(
        num_clusters=k,
        initial=initial_centers(params["initial_clusters"], k),
        metric=Metric(params["distance_metric"]),
        random_seed=int(params["random_seed"]),
        retries=int(params["kmeans_plus_plus_num_retries"]),
        rule=rule,
        batch_size=int(batch_size or BATCH_SIZE) if params["use_mini_batch"] else None,
        steps_per_iteration=int(params["mini_batch_steps_per_iteration"]),
        empty_clusters=params["empty_clusters"],
        checkpoint_steps=config.save_checkpoints_steps,
        checkpoint_secs=config.save_checkpoints_secs,
    )


def is_done(plan: FitPlan, store: ModelDir) -> bool:
    """Tell whether all of `max_steps` are made, and say so; then no data are needed."""
    if plan.rule.max_steps is None:
        return False
    found = store.matching(plan.num_clusters, plan.metric)
    if found is None or found.iteration < plan.rule.max_steps:
        return False
    _warn_of_origin(store, found, plan)
    log.info("%s", ev.EndedBefore(found.stop, found.iteration))
    return True


def _warn_of_origin(store: ModelDir, found: FitState, plan: FitPlan) -> None:
    """Warn of a model that is continued and was begun in another way than is asked for now."""
    differing = others_asked(found.origin, plan.origin) if found.origin else []
    if differing:
        had, asked = (" and ".join(each) for each in zip(*differing, strict=True))
        warnings.warn(
            f"model_dir={store.shown!r} holds a model that was begun with {had}: that model is "
            f"continued, and {asked} chooses no other centers for it. Give another model_dir to "
            "begin anew.",
            stacklevel=level_of_caller(),
        )


def others_asked(had: Origin, asked: Origin) -> list[tuple[str, str]]:
    """Return what was asked for, other than the defaults, and differs from what a model has."""
    default, found = Origin(), []
    if asked.initial not in (default.initial, had.initial):
        found.append((f"initial_clusters={had.initial!r}", f"initial_clusters={asked.initial!r}"))
    if asked.random_seed not in (default.random_seed, had.random_seed) and had.is_drawn:
        found.append((f"random_seed={had.random_seed}", f"random_seed={asked.random_seed}"))
    name = "kmeans_plus_plus_num_retries"
    if asked.retries not in (default.retries, had.retries) and had.initial == KMEANS_PLUS_PLUS:
        found.append((f"{name}={had.retries}", f"{name}={asked.retries}"))
    return found


def fit(
    plan: FitPlan,
    source: Source,
    store: ModelDir,
    config: RunConfig,
    monitors: Sequence[Any] = (),
    listeners: Sequence[ev.Emit] = (),
) -> FitState:
    """Fit; everything that can be known to fail does so before a worker starts.

    On Ray a coordinator of its own steps the fit, unless monitors of this process look on.
    """
    if config.detached and monitors:
        raise ConfigError("detached=True and monitors: these look on from this process. Give one.")
    found = store.matching(plan.num_clusters, plan.metric)
    shift = found.shift if found else shift_of(source)
    plan, source = _shifted(plan, shift), under(source, shift, f"the model in {store.shown!r}")
    layout = source.describe()
    if plan.batch_size is not None and layout.rows <= plan.batch_size:
        log.warning("%s", ALL_IN_A_BATCH.format(layout.rows, plan.batch_size))
    check_shapes(layout, plan, _rows_needed(plan, found))
    plan = _with_rows(plan, source, found)
    check_reachable(config, {f"model_dir={store.shown!r}": store, "the data": source})
    _check_store(store, found, layout, plan)
    k, metric, size = plan.num_clusters, plan.metric, plan.batch_size
    with _listening(config, store, listeners) as emit:
        if config.num_workers != 0 and not monitors:
            from ray_kmeans.on_ray import driver

            shards, options = plan_shards(layout, k, config, size)
            emit(planned(options))
            name = _name_of_fit(store) if config.detached else None
            return driver.fit_on_ray(plan, store, Workload(source, shards, options), emit, name)
        with (
            store.take_lease(f"fit of {k:,} clusters") as held,
            open_pool(source, layout, k, metric, config, emit, batch_size=size) as pool,
        ):
            return run_fit(plan, pool, held, emit, Monitors(monitors))


def _name_of_fit(store: ModelDir) -> str:
    """Return the name under which others find the fit to a model_dir."""
    return f"fit to {store.shown} {hashlib.sha256(store.url.encode()).hexdigest()[:16]}"


def fit_stream(
    plan: FitPlan,
    sources: Iterator[Source],
    store: ModelDir,
    config: RunConfig,
    monitors: Sequence[Any] = (),
    listeners: Sequence[ev.Emit] = (),
) -> FitState:
    """Fit on batches as they come. They come to this process, so it coordinates."""
    if config.detached:
        raise ConfigError("detached=True and an iterator: its batches come to this process.")
    found = store.matching(plan.num_clusters, plan.metric)
    needed = _rows_needed(plan, found)
    plan = _shifted(plan, found.shift if found else ())
    whose = "a model of batches, of which none tells the middle of all,"
    first, sources = _first_rows((under(each, plan.shift, whose) for each in sources), needed)
    layout = first.describe()
    if not layout.blocks:
        raise DataError("the input has no rows. Give at least one batch.")
    check_shapes(layout, plan, needed)
    plan = _with_rows(plan, first, found)
    check_reachable(config, {f"model_dir={store.shown!r}": store, "the data": first})
    _check_store(store, found, layout, plan)
    k, metric, workers = plan.num_clusters, plan.metric, workforce(config)[0]
    with (
        _listening(config, store, listeners) as emit,
        store.take_lease(f"fit of {k:,} clusters, on batches") as held,
        open_pool(first, layout, k, metric, config, emit, workers=workers) as pool,
    ):
        del first  # only the pool holds it, until the next batch comes
        batches = (_loadable(source, plan, config, workers) for source in sources)
        return run_stream(plan, pool, held, emit, batches, Monitors(monitors))


def write_evaluation(store: ModelDir, name: str | None, result: Mapping[str, Any]) -> None:
    """Write an evaluation for TensorBoard, to eval or eval_<name> in the model's directory."""
    if tensorboard_installed():
        place = Place(f"{store.url}/eval{f'_{name}' if name else ''}", store.storage_options)
        scalars = {key: value for key, value in result.items() if key != "global_step"}
        tensorboard.write_evaluation(scalars, result["global_step"], place.put)
    elif name is not None:
        log.warning(
            "name=%r names a TensorBoard file, but tensorboardX is not installed. %s",
            name,
            install_hint("tensorboard"),
        )


def joined(sources: Iterator[Source]) -> Source:
    """Return all batches as one source, in memory: full batch visits them again and again."""
    rows: list[NDArray[Any]] = []
    weights, drop, shifts = [np.empty(0)], False, set()
    names: tuple[str, ...] = ()
    for source in sources:
        shifts.add(shift_of(source))
        names = names or columns_of_rows(source)
        weighted = source if isinstance(source, WeightedSource) else WeightedSource(source)
        blocks = weighted.describe().blocks
        rows += [some for _, some in wide_rows(weighted.source, blocks)]
        given = zip(blocks, weighted.weights_of(blocks), strict=True)
        weights += [np.ones(block.rows) if some is None else some for block, some in given]
        drop |= weighted.drop_nonfinite
    array = np.concatenate(rows) if rows else np.empty((0, 1), np.float32)
    if len(shifts) > 1:
        raise ConfigError(
            "batches with center=True each have a middle of their own. Leave center out, or give "
            "all rows as one source."
        )
    named = ArraySource.of(array, names)
    whole = with_weights(named, np.concatenate(weights), None, drop)
    return shifted(whole, shifts.pop() if shifts else ())


def _shifted(plan: FitPlan, shift: tuple[float, ...]) -> FitPlan:
    """Return the plan of a fit whose rows are less a shift, and its given centers too."""
    initial: Any = plan.initial
    if isinstance(initial, np.ndarray):
        matching = initial.ndim == 2 and initial.shape[1] == len(shift)
        initial = (initial - np.asarray(shift) if matching else initial).astype(np.float32)
    elif shift and callable(initial):
        initial = _called_with_the_users_rows(initial, np.asarray(shift))
    if shift and plan.metric == Metric.COSINE:
        raise ConfigError(
            "center=True and distance_metric='cosine': a shift changes all directions. Leave "
            "center out, or take 'squared_euclidean'."
        )
    rows = replace(plan.rows or RowSpec(), shift=shift) if shift else plan.rows
    return replace(plan, initial=initial, rows=rows)


def _called_with_the_users_rows(function: Any, shift: NDArray[np.float64]) -> Any:
    """Return a function of shifted rows that knows the user's alone, and answers for shifted."""

    @functools.wraps(function)
    def call(sample: NDArray[np.float32], missing: int) -> Any:
        answer = function(sample + shift, missing)
        try:
            return np.asarray(answer, np.float64) - shift
        except (TypeError, ValueError):
            return answer  # which is refused with the reason

    return call


def check_shapes(layout: Layout, plan: FitPlan, rows_needed: int) -> None:
    """Raise unless the data have so many rows, and the features of the given centers."""
    initial = plan.initial
    if layout.rows < rows_needed:
        raise TooFewRowsError(layout.rows, plan.num_clusters)
    if isinstance(initial, np.ndarray) and initial.shape[1] != layout.features:
        raise ConfigError(
            f"initial_clusters has {initial.shape[1]} features and the data have "
            f"{layout.features}; they must have the same."
        )


def _with_rows(plan: FitPlan, source: Source, found: FitState | None) -> FitPlan:
    """Return the plan with how its rows are read, which the log tells."""
    spec = spec_of(source, found.rows if found else None)
    if spec.columns:
        log.info("features: %s", shortened(spec.columns))
    shift = plan.rows.shift if plan.rows else ()
    return replace(plan, rows=replace(spec, shift=shift))


def _check_store(store: ModelDir, found: FitState | None, layout: Layout, plan: FitPlan) -> None:
    if found is not None and found.centers.shape[1] != layout.features:
        store.matching(plan.num_clusters, plan.metric, layout.features)  # says what is there
    if found is not None:
        _warn_of_origin(store, found, plan)
    store.check_writable()


def _rows_needed(plan: FitPlan, found: FitState | None) -> int:
    """Return how many rows a fit must have; mini-batch needs few where it has centers."""
    to_be_seeded = found is None and isinstance(plan.initial, str)
    return plan.num_clusters if to_be_seeded or plan.batch_size is None else 1


def _first_rows(sources: Iterator[Source], needed: int) -> tuple[Source, Iterator[Source]]:
    """Return a source of the first batches that have so many rows, and all batches again."""
    taken: list[Source] = []
    rows = 0
    while rows < needed and (source := next(sources, None)) is not None:
        taken.append(source)
        rows += source.describe().rows
    first = taken[0] if len(taken) == 1 else joined(iter(taken))
    return first, itertools.chain(_let_go(taken), sources)


def _let_go(sources: list[Source]) -> Iterator[Source]:
    while sources:
        yield sources.pop(0)


def _loadable(source: Source, plan: FitPlan, config: RunConfig, workers: int) -> Loadable:
    shards, _ = plan_shards(source.describe(), plan.num_clusters, config, workers=workers)
    if config.num_workers == 0:
        return Loadable(source, shards)
    from ray_kmeans.on_ray import object_store

    return Loadable(object_store.put(source), shards)


@contextmanager
def _listening(
    config: RunConfig, store: ModelDir, listeners: Sequence[ev.Emit]
) -> Iterator[ev.Emit]:
    """Give what tells everybody of a fit's events."""
    with ExitStack() as open_ones:
        progress = open_ones.enter_context(closing(Progress(config.progress)))
        everybody: list[ev.Emit] = [
            LogLines(config.log_step_count_steps),
            warn,
            progress,
            *listeners,
        ]
        if config.num_workers != 0:
            from ray_kmeans.on_ray.prometheus import (
                RayMetrics,  # ray is not imported where not used
            )

            everybody.append(RayMetrics())
        publish = Place(store.url, store.storage_options).put
        everybody.append(Journal(publish))
        if tensorboard_installed():
            scalars = Summaries(config.save_summary_steps, publish)
            everybody.append(open_ones.enter_context(closing(scalars)))
        yield tell_all(everybody)
