"""Fit rows in memory without a model directory: nothing is written, no lease is taken.

Workers hold the rows, in this process or on Ray, and this process coordinates. The model is the
state that comes back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.grid import Summary
from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.state import FitState, Stop
from ray_kmeans.config import RunConfig
from ray_kmeans.data.source import Source
from ray_kmeans.engine.fit_plan import FitPlan, LeasedStore
from ray_kmeans.engine.seeding.choose import choose_centers
from ray_kmeans.engine.shared_pool import SharedPool
from ray_kmeans.engine.tree_fit import run_plan
from ray_kmeans.observe import events as ev
from ray_kmeans.observe.monitors import Monitor, Monitors
from ray_kmeans.workflows.predict_in_memory import CLUSTER_IDX, ReadyModel, batches_of
from ray_kmeans.workflows.worker_plan import open_pool


class MemoryStore:
    """Holds the newest state of a fit in this process, where other fits have checkpoints."""

    def __init__(self, state: FitState | None = None) -> None:
        """Begin with a state that a fit is to go on from; None: with none."""
        self._state = state

    def latest(self) -> FitState | None:
        """Return the newest state; None if there is none."""
        return self._state

    def save(self, state: FitState) -> str:
        """Keep a state in place of the one before; return no path, as there is none."""
        self._state = state
        return ""

    def checkpoints(self) -> list[str]:
        """Return no paths: a state in memory has none."""
        return []

    def restart(self, name: str) -> LeasedStore:
        """Return a place for a restart, which is new: a fit that was cut off is not found again."""
        return MemoryStore()

    def delete_restarts(self) -> None:
        """Do nothing: nobody keeps the places of restarts."""


@dataclass(frozen=True)
class Fitted:
    """What a fit of rows in memory gives."""

    state: FitState
    """Last state of the fit."""
    inertia: float
    """Weighted sum of the squared distances of all rows to the nearest of the last centers."""
    summary: Summary
    """Summary of all rows."""


def fit_rows(
    plan: FitPlan,
    source: Source,
    config: RunConfig,
    emit: ev.Emit,
    monitors: Sequence[Monitor] = (),
    before: FitState | None = None,
) -> Fitted:
    """Fit rows, from the state `before` on if there is one; return the state and its inertia.

    Without Ray nothing outlives the call but what it returns.
    """
    with _shared(plan, source, config, emit, plan.n_init) as shared:
        store = MemoryStore(before)
        watchers = Monitors(monitors) if monitors else None
        state = run_plan(plan, shared, store, emit, watchers)
        summary = shared.summarize()
        return Fitted(state, _inertia(state, shared, summary), summary)


def _inertia(state: FitState, shared: SharedPool, summary: Summary) -> float:
    """Return the inertia of the last centers, by one sweep more unless it is known already."""
    if state.restarts:
        return min(each.inertia for each in state.restarts)
    if state.stop is Stop.CONVERGED:  # the last step moved no center
        return state.lines[-1].inertia
    return shared.lend().sweep(state.centers).inertia(summary, state.centers)


def choose_by_sample(
    plan: FitPlan, sample: Source, config: RunConfig, emit: ev.Emit
) -> NDArray[np.float32]:
    """Return first centers (k, d) that the plan's method chooses among the rows of a sample."""
    with _shared(plan, sample, config, emit) as shared:
        pool = shared.lend()
        return choose_centers(
            initial=plan.initial,
            k=plan.num_clusters,
            retries=plan.retries,
            seed=plan.random_seed,
            pool=pool,
            summary=pool.summarize(),
        )


def inertia_of(
    centers: NDArray[np.float32], plan: FitPlan, source: Source, config: RunConfig
) -> float:
    """Return the weighted sum of the squared distances of rows to the nearest center of (k, d)."""
    with _shared(plan, source, config, lambda event: None) as shared:
        pool = shared.lend()
        summary = pool.summarize()
        return pool.sweep(centers).inertia(summary, centers)


def label_rows(centers: NDArray[np.float32], source: Source) -> NDArray[np.int32]:
    """Return the number of the nearest center of (k, d) for each row, (n,), block by block."""
    layout = source.describe()
    label = ReadyModel(FitState.initial(centers, Metric.SQUARED_EUCLIDEAN), [CLUSTER_IDX])
    labels = np.empty(layout.rows, np.int32)
    done = 0
    for rows in batches_of(source, layout, None):
        labels[done : done + len(rows)] = label(rows)[CLUSTER_IDX]
        done += len(rows)
    return labels


@contextmanager
def _shared(
    plan: FitPlan, source: Source, config: RunConfig, emit: ev.Emit, restarts: int = 1
) -> Iterator[SharedPool]:
    """Give a pool of workers that hold the rows, for one task after the other.

    BLAS is limited to one thread for all of it. Each sweep does that again, for nothing where it is
    done already; to set the limit anew takes a good part of a sweep over a thousand rows.
    """
    from ray_kmeans.kernels.portable import use_one_blas_thread  # numba: 0.2 s

    with (
        use_one_blas_thread(),
        open_pool(
            source,
            source.describe(),
            plan.num_clusters,
            plan.metric,
            config,
            emit,
            batch_size=plan.batch_size,
            restarts=restarts,
        ) as pool,
    ):
        yield SharedPool(pool, restarts)
