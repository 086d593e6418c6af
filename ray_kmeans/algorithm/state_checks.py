"""Checks that a fit can have reached a state that comes from a file, which may hold anything."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.row_spec import RowSpec
from ray_kmeans.algorithm.state import (
    Accumulators,
    FitState,
    Iteration,
    Origin,
    Restart,
    Sample,
)
from ray_kmeans.algorithm.tree import Tree

NORM_TOLERANCE = 1e-5
"""Largest distance from 1 of the norm of a center by cosine: float32 rounds each coordinate."""
MOST = 2**63
"""Bound of any number of steps, which are stored as int64."""


def problem_of(state: FitState) -> str | None:
    """Return the fault of a state as text; None for a state that a fit can have reached.

    Every field is looked at, also for its type. The arrays must have the types that `FitState`
    names; their shapes are compared with each other here.
    """
    return next(_problems(state), None)


def _problems(state: FitState) -> Iterator[str]:
    """Yield a text of each thing that is wrong with a state."""
    yield from _of_numbers(state)
    yield from _of_arrays(state)
    yield from _of_history(state.history, state.iteration, len(state.centers))
    if state.accumulators is not None:
        yield from _of_accumulators(state.accumulators, state.counts, state.centers)
    if state.rows is not None:
        yield from _of_rows(state.rows, state.centers.shape[1])
    if state.origin is not None:
        yield from _of_origin(state.origin)
    if state.sample is not None:
        yield from _of_sample(state.sample, state.iteration)
    for restart in state.restarts:
        yield from _of_restart(restart)
    if state.tree is not None:
        yield from _of_tree(state.tree, state.centers)


def _of_numbers(state: FitState) -> Iterator[str]:
    """Yield the faults of the numbers of steps and of the names, by the keys of a checkpoint."""
    counts = {
        "iteration": state.iteration,
        "began": state.began_at,
        "data_since": state.data_since,
    }
    for key, count in counts.items():
        if not _is_count(count):
            yield f"{key} is {count!r}, and no number of steps"
    if not state.data_since <= state.began_at <= state.iteration:
        yield (
            f"data_since is {state.data_since}, began {state.began_at} and iteration "
            f"{state.iteration}: they must not fall"
        )
    names: dict[str, Any] = {"data": state.data_name, "asked": state.request}
    for key, name in names.items():
        if not isinstance(name, str):
            yield f"{key} is {name!r}, and no text"


def _of_arrays(state: FitState) -> Iterator[str]:
    """Yield the faults of the metric, the centers and the counts."""
    known: tuple[Any, ...] = tuple(Metric)  # a store may hold anything in the place of one
    if state.metric not in known:
        yield f"distance_metric is {state.metric!r}, which nobody knows"
    centers, counts = state.centers, state.counts
    if centers.ndim != 2 or 0 in centers.shape:
        yield f"centers has shape {centers.shape}, and is no table of clusters and features"
    if counts.shape != (len(centers),):
        yield f"counts has shape {counts.shape} for {len(centers)} clusters"
    if not np.isfinite(centers).all():
        yield "centers holds NaN or infinity"
    if not (np.isfinite(counts).all() and (counts >= 0).all()):
        yield "counts holds NaN, infinity or numbers below 0"
    if counts.dtype.kind == "f" and not math.isfinite(sum(counts.tolist())):
        yield "counts holds more than float64 can sum"
    if state.metric == Metric.COSINE and not _are_units(centers):
        yield "centers has rows whose norm is not 1, by cosine distance"


def _are_units(centers: NDArray[np.float32]) -> bool:
    """Tell whether all rows have norm 1; a zero row, which has no direction, stays zero."""
    norms = np.linalg.norm(centers.astype(np.float64), axis=1)
    return bool(((np.abs(norms - 1) <= NORM_TOLERANCE) | (norms == 0)).all())


def _of_history(history: tuple[Iteration, ...], last: int, clusters: int) -> Iterator[str]:
    """Yield the faults of the history of a model of this many steps and clusters."""
    first = last - len(history) + 1
    if first < 1:
        yield f"history has {len(history)} lines for {last} iterations"
    for number, line in enumerate(history, start=first):
        if line.iteration != number:
            yield f"history has a line of iteration {line.iteration} where that of {number} belongs"
        if line.rows < 0 or not 0 <= line.empty <= clusters:
            yield f"history has {line.rows} rows and {line.empty} empty clusters in one step"
        if not 0 <= line.relocated <= clusters:
            yield f"history has {line.relocated} relocated centers in one step"
        if not (0 <= line.inertia < math.inf and 0 <= line.shift < math.inf):
            yield f"history has the inertia {line.inertia} and the shift {line.shift} in one step"
        if line.smoothed is not None and not 0 <= line.smoothed < math.inf:
            yield f"history has the smoothed loss {line.smoothed}"


def _of_accumulators(
    accumulators: Accumulators, counts: NDArray[np.generic], centers: NDArray[np.float32]
) -> Iterator[str]:
    """Yield the faults of the accumulators of mini-batch."""
    m, done = accumulators.steps_per_iteration, accumulators.done
    if not (_is_count(m) and _is_count(done) and done < m):
        yield f"mini_batch is {[m, done]!r}, and not the steps of an iteration and those done"
    if accumulators.sums.shape != (2, *centers.shape):
        yield f"sums has shape {accumulators.sums.shape} for centers of shape {centers.shape}"
    if not np.isfinite(accumulators.sums).all():
        yield "sums holds NaN or infinity"
    if accumulators.sums.any() and not counts.any():
        yield "sums are not 0, though counts are"


def _of_rows(rows: RowSpec, features: int) -> Iterator[str]:
    """Yield the faults of the record of how rows were read."""
    texts = rows.filters, rows.nonfinite, rows.sample_weight, *rows.columns
    if not all(isinstance(text, str) for text in texts) or "" in rows.columns:
        yield "rows names columns, filters or weights that are no text"
    if rows.nonfinite not in ("error", "drop"):
        yield f"rows has nonfinite={rows.nonfinite!r}, which nobody knows"
    if rows.filters and not isinstance(json.loads(rows.filters), list):
        yield "rows has filters that are no list"
    # Fewer than features, where a dict has tables for its columns; at most one for each.
    if len(rows.columns) > features or len({*rows.columns}) < len(rows.columns):
        yield f"rows names the columns {list(rows.columns)!r} for {features} features"
    if len(rows.shift) not in (0, features) or not all(map(math.isfinite, rows.shift)):
        yield f"rows has a shift of {len(rows.shift)} values for {features} features"


def _of_origin(origin: Origin) -> Iterator[str]:
    """Yield the faults of the origin of the first centers."""
    kinds = [type(value) for value in (origin.initial, origin.random_seed, origin.retries)]
    if kinds != [str, int, int] or origin.retries < 0:
        yield f"origin is {origin!r}, and not a name and two whole numbers"


def _of_sample(sample: Sample, iteration: int) -> Iterator[str]:
    """Yield the faults of the sample of nested mini-batches."""
    halvings, since = sample.halvings, sample.since
    if not (_is_count(halvings) and _is_count(since) and halvings < 64 and since <= iteration):
        yield f"sample is {[halvings, since]!r}, and no halvings and a number of steps"


def _of_restart(restart: Restart) -> Iterator[str]:
    """Yield the faults of a restart among which the model was the best."""
    seed, inertia = restart.random_seed, restart.inertia
    is_number = type(inertia) in (int, float) and 0 <= inertia < math.inf
    if not (type(seed) is int and is_number and _is_count(restart.iterations)):
        yield f"restarts has {restart!r}, and not a seed, an inertia and a number of steps"


def _of_tree(tree: Tree, clusters: NDArray[np.float32]) -> Iterator[str]:
    """Yield the faults of the tree above the clusters, (k, d)."""
    for level, centers in enumerate(tree.centers):
        if centers.ndim != 2 or centers.shape[1] != clusters.shape[1]:
            yield f"level {level} has shape {centers.shape} for clusters of {clusters.shape}"
        elif not np.isfinite(centers).all():
            yield f"level {level} holds NaN or infinity"
    for level, parents in enumerate(tree.parents):
        above = len(tree.centers[level])
        if parents.ndim != 1 or not ((parents >= 0) & (parents < above)).all():
            yield f"level {level + 1} has parents that are none of the {above} above it"


def _is_count(value: object) -> bool:
    """Tell whether a value is a whole number of steps that an int64 holds."""
    return type(value) is int and 0 <= value < MOST
