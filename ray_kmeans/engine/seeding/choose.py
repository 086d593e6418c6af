"""Chooses the centers to start from: given ones, or rows by one of several seeding methods.

Every method sees the whole data set, and picks the same rows for any number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.grid import Summary
from ray_kmeans.algorithm.metric import project
from ray_kmeans.engine.pool import Pool
from ray_kmeans.engine.progress import Moved, ignore
from ray_kmeans.engine.seeding.kmeans_parallel import ROUNDS, kmeans_parallel, markov_chains
from ray_kmeans.engine.seeding.kmeans_plus_plus import (
    PoolField,
    candidates_of,
    plus_plus,
    some_rows,
)
from ray_kmeans.engine.worker import ShardWorker
from ray_kmeans.errors import ConfigError, TooFewRowsError

RANDOM = "random"
"""Name of the draw of rows without replacement, as `initial_clusters` takes it."""
KMEANS_PLUS_PLUS = "kmeans_plus_plus"
"""Name of greedy k-means++."""
KMC2 = "kmc2"
"""Name of AFK-MC^2."""
KMEANS_PARALLEL = "kmeans_parallel"
"""Name of k-means||."""

SAMPLE_ROWS = 65_536
"""Number of rows that a user's function sees at once, where the data have as many."""

Initial: TypeAlias = str | NDArray[np.float32] | Callable[[NDArray[np.float32], int], Any]
"""Name of a method; centers, (k, d); or a function of a sample, (n, d), and of the number of
centers that are still missing."""


def choose_centers(
    initial: Initial,
    k: int,
    retries: int,
    seed: int,
    pool: Pool,
    summary: Summary,
    moved: Moved = ignore,
    sample_rows: int = SAMPLE_ROWS,
) -> NDArray[np.float32]:
    """Return k centers, (k, d), as the metric sees them.

    `retries` are further candidates for each center of k-means++, and `seed` is the random seed.
    `moved` hears how much is done, in units of `work_of`. A function sees `sample_rows` rows at
    once, or k if that is more.
    """
    if isinstance(initial, np.ndarray):
        return project(initial, summary.metric)
    if callable(initial):
        return _call_for_centers(initial, k, seed, pool, summary, sample_rows)
    if summary.counting < k:
        raise TooFewRowsError(summary.counting, k)
    request = _Request(k, retries, seed, pool, summary, moved)
    try:
        return _fill_up(_METHODS[initial](request), request)
    finally:
        _forget_seeds(pool)


def _forget_seeds(pool: Pool) -> None:
    """Let all workers, and their replacements, forget the seeds so far."""
    pool.forget(ShardWorker.weigh)
    pool.ask(ShardWorker.end_seeding)


def work_of(initial: Initial, k: int) -> tuple[int, str] | None:
    """Return how much work a seeding method has, and its unit, for a progress bar; None for a quick
    one."""
    if not isinstance(initial, str) or initial == RANDOM:
        return None
    return (ROUNDS, "rounds") if initial == KMEANS_PARALLEL else (k, "centers")


@dataclass(frozen=True)
class _Request:
    """Arguments of a seeding method."""

    k: int
    """Number of centers wanted."""
    retries: int
    """Further candidates for each center of k-means++; negative: TensorFlow's heuristic."""
    seed: int
    """Random seed of all draws."""
    pool: Pool
    """Workers that hold the rows."""
    summary: Summary
    """Summary of all rows."""
    moved: Moved
    """Hears how far the method is, in units of `work_of`."""


def _draw_rows(request: _Request) -> NDArray[np.float32]:
    """Draw rows without replacement, in the order of the data."""
    return some_rows(request.pool, request.summary, request.k, request.seed, RANDOM)


def _run_plus_plus(request: _Request) -> NDArray[np.float32]:
    """Draw rows by greedy k-means++."""
    return plus_plus(
        PoolField(request.pool, request.summary),
        request.k,
        tries=candidates_of(request.retries, request.k),
        seed=request.seed,
        purpose=KMEANS_PLUS_PLUS,
        moved=request.moved,
    )


def _run_chains(request: _Request) -> NDArray[np.float32]:
    """Draw rows by AFK-MC^2."""
    return markov_chains(
        request.pool, request.summary, request.k, request.seed, moved=request.moved
    )


def _run_parallel(request: _Request) -> NDArray[np.float32]:
    """Choose centers by k-means||."""
    return kmeans_parallel(
        request.pool, request.summary, request.k, request.seed, moved=request.moved
    )


_METHODS: Mapping[str, Callable[[_Request], NDArray[np.float32]]] = {
    RANDOM: _draw_rows,
    KMEANS_PLUS_PLUS: _run_plus_plus,
    KMC2: _run_chains,
    KMEANS_PARALLEL: _run_parallel,
}
"""Seeding methods by name; each returns up to k centers."""


def _fill_up(centers: NDArray[np.float32], request: _Request) -> NDArray[np.float32]:
    """Add rows where a method found fewer than k: far ones, then copies where none are left."""
    pool, summary, k = request.pool, request.summary, request.k
    if len(centers) < k:
        _forget_seeds(pool)
        field = PoolField(pool, summary)
        field.add(centers)
        centers = plus_plus(
            field, k, tries=1, seed=request.seed, purpose="missing", given=list(centers)
        )
    missing = k - len(centers)
    if missing == 0:
        return centers
    copies = some_rows(pool, summary, missing, request.seed, "copies")
    return np.concatenate([centers, copies])


def _call_for_centers(
    function: Callable[[NDArray[np.float32], int], Any],
    k: int,
    seed: int,
    pool: Pool,
    summary: Summary,
    sample_rows: int,
) -> NDArray[np.float32]:
    """Call a user's function with one sample after the other until it has returned k rows."""
    features = len(summary.grid.exponent)
    size = min(summary.counting, max(sample_rows, k))
    found = np.empty((0, features), np.float32)
    calls = empty = 0
    while len(found) < k:
        sample = some_rows(pool, summary, size, seed, "sample", calls)
        missing = k - len(found)
        more = _check_answer(function(sample, missing), missing, features)
        found = np.concatenate([found, more])
        calls, empty = calls + 1, 0 if len(more) else empty + 1
        if empty == 2:
            raise ConfigError(
                f"initial_clusters returned no row twice in a row; {missing} are missing."
            )
    return project(found, summary.metric)


def _check_answer(answer: Any, missing: int, features: int) -> NDArray[np.float32]:
    """Return a user function's answer as rows, (up to missing, features); else ConfigError."""
    try:
        with np.errstate(over="ignore"):  # found below
            rows = np.asarray(answer, np.float32)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"initial_clusters returned no array of numbers: {error}.") from None
    if rows.size == 0:
        return np.empty((0, features), np.float32)
    if rows.ndim != 2 or rows.shape[1] != features or len(rows) > missing:
        raise ConfigError(
            f"initial_clusters returned an array of shape {rows.shape}; it must be (rows, "
            f"{features}) with at most the {missing} rows that were asked for."
        )
    if not np.isfinite(rows).all():
        raise ConfigError("initial_clusters returned NaN or infinity.")
    return rows
