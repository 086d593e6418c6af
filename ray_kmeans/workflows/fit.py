"""Start a fit: plan it, check all that can be checked, choose who coordinates it, run it."""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.state import FitState, Origin
from ray_kmeans.algorithm.stopping import StopRule
from ray_kmeans.config import RunConfig
from ray_kmeans.data.array import ArraySource
from ray_kmeans.data.column_choice import shortened
from ray_kmeans.data.float32_rounding import (
    shift_of,
    shifted,
    under,
    wide_rows,
)
from ray_kmeans.data.model_rows import spec_of
from ray_kmeans.data.session_source import SessionSource
from ray_kmeans.data.sharding import Layout
from ray_kmeans.data.source import Source
from ray_kmeans.data.weighted import as_weighted, columns_of_rows, with_weights
from ray_kmeans.engine.fit_loop import run_stream
from ray_kmeans.engine.fit_plan import AfterFit, FitPlan
from ray_kmeans.engine.options import Workload
from ray_kmeans.engine.seeding.choose import KMEANS_PLUS_PLUS
from ray_kmeans.engine.shared_pool import SharedPool
from ray_kmeans.engine.trainers import Loadable
from ray_kmeans.engine.tree_fit import run_plan
from ray_kmeans.errors import (
    ConfigError,
    DataError,
    TooFewRowsError,
)
from ray_kmeans.io.publish import Place
from ray_kmeans.observe import events as ev
from ray_kmeans.observe import tensorboard
from ray_kmeans.observe.log import LogLines, tell_all, warn
from ray_kmeans.observe.monitors import Monitors
from ray_kmeans.observe.progress import Progress
from ray_kmeans.observe.run_record import Journal
from ray_kmeans.observe.tensorboard import Summaries
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.workflows.label import blocks_of_a_part
from ray_kmeans.workflows.parameters import FitParams, level_of_caller
from ray_kmeans.workflows.renumber import has_numbers, in_order
from ray_kmeans.workflows.validation import initial_centers, levels_of
from ray_kmeans.workflows.worker_plan import (
    check_reachable,
    drawn_rows,
    machines_for,
    open_pool,
    plan_event,
    plan_shards,
    workforce,
)

log = logging.getLogger("ray_kmeans")

BATCH_SIZE = 65_536
"""Default rows of a mini-batch, over all workers together: the same for any number of them."""
NESTED_SIZE = 8_192
"""Default rows of the first of nested mini-batches, where k clusters need no more."""
NESTED_ROWS_PER_CLUSTER = 100
"""Rows of the first of nested mini-batches for each cluster, by default."""
ALL_IN_A_BATCH = (
    "the data have {:,} rows and a batch has {:,}, so each step of mini-batch visits everything. "
    "Full batch ends sooner and at its fixed point: use_mini_batch=False, or --no-use-mini-batch."
)
"""Warning for data that fit in one mini-batch; takes the rows of the data and of a batch."""
WHOLE = 2**62
"""Batch size in rows that no data set reaches, so that one batch is all of the data."""


def plan_fit(
    params: FitParams, config: RunConfig, rule: StopRule, batch_size: int | None
) -> FitPlan:
    """Return the plan of a fit; `batch_size` None takes the default of mini-batch."""
    k = int(params.num_clusters)
    return FitPlan(
        num_clusters=k,
        initial=initial_centers(params.initial_clusters, k),
        metric=Metric(params.distance_metric),
        random_seed=int(params.random_seed),
        retries=int(params.kmeans_plus_plus_num_retries),
        rule=rule,
        batch_size=int(batch_size or _rows_of_batch(params)) if params.use_mini_batch else None,
        steps_per_iteration=int(params.mini_batch_steps_per_iteration),
        empty_clusters=params.empty_clusters,
        n_init=int(params.n_init),
        levels=levels_of(params.levels, k),
        refine_steps=int(params.refine_steps),
        leaf_quota=params.leaf_quota,
        reassignment_ratio=float(params.reassignment_ratio),
        nested_batches=bool(params.nested_batches),
        checkpoint_steps=config.save_checkpoints_steps,
        checkpoint_secs=config.save_checkpoints_secs,
    )


def _rows_of_batch(params: FitParams) -> int:
    """Return the default number of rows of a mini-batch."""
    if not params.nested_batches:
        return BATCH_SIZE
    return max(NESTED_SIZE, NESTED_ROWS_PER_CLUSTER * int(params.num_clusters))


def is_done(plan: FitPlan, store: ModelDir, found: FitState | None) -> bool:
    """Return whether the model `found` has all of `max_steps`, and log it; no data are needed."""
    if plan.levels or plan.rule.max_steps is None or found is None:
        return False
    if found.iteration < plan.rule.max_steps:
        return False
    if not has_numbers(plan, found):
        return False
    _warn_of_origin(store, found, plan)
    log.info("%s", ev.EndedBefore(found.stop, found.iteration))
    return True


def _warn_of_origin(store: ModelDir, found: FitState, plan: FitPlan) -> None:
    """Warn if the model that is continued was begun with other arguments than those of now."""
    differing = differing_origins(found.origin, plan.origin) if found.origin else []
    if differing:
        had, asked = (" and ".join(each) for each in zip(*differing, strict=True))
        warnings.warn(
            f"model_dir={store.shown!r} holds a model that was begun with {had}: that model is "
            f"continued, and {asked} chooses no other centers for it. Give another model_dir to "
            "begin anew.",
            stacklevel=level_of_caller(),
        )


def differing_origins(had: Origin, wanted: Origin) -> list[tuple[str, str]]:
    """Return the arguments, other than defaults, in which a model differs from the request.

    Each is a pair of texts: the model's argument, and the wanted one.
    """
    default, found = Origin(), []
    if wanted.initial not in (default.initial, had.initial):
        found.append((f"initial_clusters={had.initial!r}", f"initial_clusters={wanted.initial!r}"))
    if wanted.random_seed not in (default.random_seed, had.random_seed) and had.is_drawn:
        found.append((f"random_seed={had.random_seed}", f"random_seed={wanted.random_seed}"))
    name = "kmeans_plus_plus_num_retries"
    if wanted.retries not in (default.retries, had.retries) and had.initial == KMEANS_PLUS_PLUS:
        found.append((f"{name}={had.retries}", f"{name}={wanted.retries}"))
    return found


def fit(
    plan: FitPlan,
    source: Source,
    store: ModelDir,
    config: RunConfig,
    monitors: Sequence[Any] = (),
    listeners: Sequence[ev.Emit] = (),
    after: AfterFit | None = None,
) -> FitState:
    """Fit on a source and return the last state.

    Everything that can be known to fail fails before a worker starts. On Ray an actor coordinates
    the fit and then does `after`, unless there are monitors, which run in this process, or a
    session, whose workers belong to this process.
    """
    if config.detached and monitors:
        raise ConfigError("detached=True and monitors: these look on from this process. Give one.")
    config = machines_for(source, config)
    found = store.matching(plan.num_clusters, plan.metric)
    if found:
        source = under(source, found.shift, f"the model in {store.shown!r}")
    layout = source.describe()
    if isinstance(source, SessionSource):  # before anything is written
        source.check(plan.num_clusters, plan.metric, drawn_rows(layout, plan.batch_size))
    if plan.batch_size is not None and layout.rows <= plan.batch_size:
        log.warning("%s", ALL_IN_A_BATCH.format(layout.rows, plan.batch_size))
    check_shapes(layout, plan, _rows_needed(plan, found))
    plan = _with_rows(plan, source, layout, found)
    check_reachable(config, {f"model_dir={store.shown!r}": store, "the data": source})
    _check_store(store, found, layout, plan)
    restarts = plan.n_init if plan.batch_size is None and found is None else 1
    with _open_listeners(config, store, listeners) as emit:
        if config.num_workers != 0 and not monitors and not isinstance(source, SessionSource):
            return _fit_on_ray(plan, source, layout, store, config, emit, after, restarts)
        watchers = Monitors(monitors)
        return _fit_here(plan, source, layout, store, config, emit, after, restarts, watchers)


def _fit_on_ray(
    plan: FitPlan,
    source: Source,
    layout: Layout,
    store: ModelDir,
    config: RunConfig,
    emit: ev.Emit,
    after: AfterFit | None,
    restarts: int,
) -> FitState:
    """Let an actor coordinate a fit whose memory is planned for this many restarts at once."""
    from ray_kmeans.on_ray import driver  # ray: 0.3 s

    shards, options = plan_shards(
        layout,
        plan.num_clusters if after else plan.most_at_once,
        config,
        plan.batch_size,
        together=_together(layout, after),
        other_bytes=after.bytes_beside(layout) if after else 0,
        restarts=restarts,
        is_tree=bool(plan.levels),
    )
    emit(plan_event(options))
    name = _name_of_fit(store) if config.detached else None
    workload = Workload(source, shards, options)
    return driver.fit_on_ray(plan, store, workload, emit, name, after)


def _fit_here(
    plan: FitPlan,
    source: Source,
    layout: Layout,
    store: ModelDir,
    config: RunConfig,
    emit: ev.Emit,
    after: AfterFit | None,
    restarts: int,
    monitors: Monitors,
) -> FitState:
    """Coordinate a fit in this process, by workers of its own or of the session of the rows."""
    with (
        store.take_lease(f"fit of {plan.num_clusters:,} clusters") as held,
        open_pool(
            source,
            layout,
            plan.num_clusters if after else plan.most_at_once,
            plan.metric,
            config,
            emit,
            batch_size=plan.batch_size,
            together=_together(layout, after),
            other_bytes=after.bytes_beside(layout) if after else 0,
            restarts=restarts,
            is_tree=bool(plan.levels),
        ) as pool,
    ):
        # A session has planned its memory for one fit at a time.
        shared = SharedPool(pool, 1 if isinstance(source, SessionSource) else restarts)
        state = run_plan(plan, shared, held, emit, monitors)
        if after is not None:
            after(state, shared, source, emit)
        return state


def _together(layout: Layout, after: AfterFit | None) -> int:
    """Return the number of blocks that stay in one shard: those of a part, if rows are labelled."""
    return blocks_of_a_part(len(layout.blocks)) if after else 1


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
    """Fit on batches as they come; this process coordinates, as the batches come to it."""
    if config.detached:
        raise ConfigError("detached=True and an iterator: its batches come to this process.")
    if plan.n_init > 1:
        raise ConfigError(
            f"n_init={plan.n_init} and an iterator, whose batches are seen once. Give n_init=1, or "
            "data that can be read again."
        )
    if plan.nested_batches:
        raise ConfigError(
            "nested_batches=True and an iterator, whose batches are seen once, and nested ones "
            "again and again. Give data that can be read again, or leave it out."
        )
    found = store.matching(plan.num_clusters, plan.metric)
    needed = _rows_needed(plan, found)
    shift = found.shift if found else ()
    whose = "a model of batches, of which none tells the middle of all,"
    first, sources = _first_rows((under(each, shift, whose) for each in sources), needed)
    layout = first.describe()
    if not layout.blocks:
        raise DataError("the input has no rows. Give at least one batch.")
    check_shapes(layout, plan, needed)
    plan = _with_rows(plan, first, layout, found)
    check_reachable(config, {f"model_dir={store.shown!r}": store, "the data": first})
    _check_store(store, found, layout, plan)
    k, metric, workers = plan.num_clusters, plan.metric, workforce(config)[0]
    with (
        _open_listeners(config, store, listeners) as emit,
        store.take_lease(f"fit of {k:,} clusters, on batches") as held,
        open_pool(first, layout, k, metric, config, emit, workers=workers) as pool,
    ):
        del first  # only the pool holds it, until the next batch comes
        batches = (_loadable(source, plan, config, workers) for source in sources)
        return run_stream(plan, pool, held, emit, batches, Monitors(monitors))


def write_evaluation(store: ModelDir, name: str | None, result: Mapping[str, Any]) -> None:
    """Write an evaluation for TensorBoard, to eval or eval_<name> in the model's directory."""
    place = Place(f"{store.url}/eval{f'_{name}' if name else ''}", store.storage_options)
    scalars = {key: value for key, value in result.items() if key != "global_step"}
    tensorboard.write_evaluation(scalars, result["global_step"], place.put)


def join_batches(sources: Iterator[Source]) -> Source:
    """Return all batches as one source in memory, as full batch visits them again and again."""
    rows: list[NDArray[Any]] = []
    weights, drop, shifts = [np.empty(0)], False, set()
    names: tuple[str, ...] = ()
    for source in sources:
        shifts.add(shift_of(source))
        names = names or columns_of_rows(source)
        weighted = as_weighted(source)
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


def _with_rows(plan: FitPlan, source: Source, layout: Layout, found: FitState | None) -> FitPlan:
    """Return the plan with the way its rows are read; log the columns.

    Where a shift (d,) is subtracted from the rows, it is from given centers as well.
    """
    spec = spec_of(source, found.rows if found else None)
    if spec.columns:
        log.info("features: %s", shortened(spec.columns))
    if spec.sample:
        log.info("training on %s of %s rows (train_rows)", *map("{:,}".format, spec.sample))
    if spec.shift and plan.metric == Metric.COSINE:
        raise ConfigError(
            "center=True and distance_metric='cosine': a shift changes all directions. Leave "
            "center out, or take 'squared_euclidean'."
        )
    initial: Any = plan.initial
    if isinstance(initial, np.ndarray):
        initial = (initial - np.asarray(spec.shift or 0.0)).astype(np.float32)
    elif spec.shift and callable(initial):
        initial = _unshifted(initial, np.asarray(spec.shift))
    return in_order(replace(plan, initial=initial, rows=spec), layout.features)


def _unshifted(function: Any, shift: NDArray[np.float64]) -> Any:
    """Wrap a user's function of rows, so that it takes and returns shifted rows."""

    @functools.wraps(function)
    def call(sample: NDArray[np.float32], missing: int) -> Any:
        answer = function(sample + shift, missing)
        try:
            return np.asarray(answer, np.float64) - shift
        except (TypeError, ValueError):
            return answer  # is refused later, with the reason

    return call


def names_of_centers(initial: Any) -> tuple[str, ...]:
    """Return the names of the columns of given centers; () for an array, which has none."""
    for attribute in ("column_names", "columns"):  # of Arrow, whose `columns` are values; of frames
        names = getattr(initial, attribute, None)
        if isinstance(names, Iterable) and all(isinstance(name, str) for name in names):
            return tuple(names)
    return ()


def order_centers(plan: FitPlan, names: Sequence[str], columns: Sequence[str]) -> FitPlan:
    """Return the plan with given centers in the order of the columns of the data, by names.

    Centers or data without names, and data of one column of vectors, go by position. Raises
    ConfigError, with both lists, where the names are others.
    """
    if not names or len(columns) < 2 or not isinstance(plan.initial, np.ndarray):
        return plan
    if set(names) != set(columns):
        raise ConfigError(
            f"initial_clusters has the columns {shortened(names)}, and the data have "
            f"{shortened(columns)}. Give centers with the columns of the data, or an array."
        )
    return replace(plan, initial=plan.initial[:, [names.index(name) for name in columns]])


def check_shapes(layout: Layout, plan: FitPlan, rows_needed: int) -> None:
    """Raise unless the data have `rows_needed` rows, and as many features as given centers."""
    initial = plan.initial
    if layout.rows < rows_needed:
        raise TooFewRowsError(layout.rows, plan.num_clusters)
    if isinstance(initial, np.ndarray) and initial.shape[1] != layout.features:
        raise ConfigError(
            f"initial_clusters has {initial.shape[1]} features and the data have "
            f"{layout.features}; they must have the same."
        )


def _check_store(store: ModelDir, found: FitState | None, layout: Layout, plan: FitPlan) -> None:
    """Raise unless the model that is there has the width of the data, and the store is writable."""
    if found is not None and found.centers.shape[1] != layout.features:
        store.matching(plan.num_clusters, plan.metric, layout.features)  # says what is there
    if found is not None:
        _warn_of_origin(store, found, plan)
    store.check_writable()


def _rows_needed(plan: FitPlan, found: FitState | None) -> int:
    """Return the fewest rows for a fit; mini-batch that has centers already needs one."""
    draws_centers = found is None and isinstance(plan.initial, str)
    return plan.num_clusters if draws_centers or plan.batch_size is None else 1


def _first_rows(sources: Iterator[Source], needed: int) -> tuple[Source, Iterator[Source]]:
    """Return a source of the first batches, of `needed` rows at least, and all batches again."""
    taken: list[Source] = []
    rows = 0
    while rows < needed and (source := next(sources, None)) is not None:
        taken.append(source)
        rows += source.describe().rows
    first = taken[0] if len(taken) == 1 else join_batches(iter(taken))
    return first, itertools.chain(_pop_all(taken), sources)


def _pop_all(sources: list[Source]) -> Iterator[Source]:
    """Yield sources and drop each, so that it is freed when the next one is asked for."""
    while sources:
        yield sources.pop(0)


def _loadable(source: Source, plan: FitPlan, config: RunConfig, workers: int) -> Loadable:
    """Return a batch as a pool loads it: on Ray, put into the object store once."""
    shards, _ = plan_shards(source.describe(), plan.num_clusters, config, workers=workers)
    if config.num_workers == 0:
        return Loadable(source, shards)
    from ray_kmeans.on_ray import object_store  # ray: 0.3 s

    return Loadable(object_store.put(source), shards)


@contextmanager
def _open_listeners(
    config: RunConfig, store: ModelDir, listeners: Sequence[ev.Emit]
) -> Iterator[ev.Emit]:
    """Give a listener that passes a fit's events on: to log, progress, metrics and files."""
    with ExitStack() as stack:
        progress = stack.enter_context(closing(Progress(config.progress)))
        everybody: list[ev.Emit] = [
            LogLines(config.log_step_count_steps),
            warn,
            progress,
            *listeners,
        ]
        if config.num_workers != 0:
            from ray_kmeans.on_ray.prometheus import RayMetrics  # ray: 0.3 s

            everybody.append(RayMetrics())
        publish = Place(store.url, store.storage_options).put
        everybody.append(Journal(publish))
        scalars = Summaries(config.save_summary_steps, publish)
        everybody.append(stack.enter_context(closing(scalars)))
        yield tell_all(everybody)
