"""Everything before the first step: read the rows, warn of oddities, choose the first centers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.grid import Summary
from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.state import FitState
from ray_kmeans.engine.checkpoint_saver import Saver
from ray_kmeans.engine.fit_plan import FitPlan
from ray_kmeans.engine.pool import Pool
from ray_kmeans.engine.progress import Moved, ignore
from ray_kmeans.engine.seeding.choose import Initial, choose_centers, work_of
from ray_kmeans.engine.worker import ShardWorker, this_process
from ray_kmeans.observe import events as ev
from ray_kmeans.process import interrupt


def read_rows(pool: Pool, emit: ev.Emit, names: Sequence[str] = ()) -> Summary:
    """Let the workers read their rows; return a summary of these, and warn of oddities.

    `names` are those of the columns, for messages.
    """
    begin = time.perf_counter()
    summary = pool.summarize(_stopping(ev.begin(emit, ev.Phase.READING, pool.num_rows, "rows")))
    emit(
        ev.DataLoaded(
            rows=summary.counting,
            features=len(summary.grid.exponent),
            seconds=time.perf_counter() - begin,
            coordinator=this_process(),
            workers=tuple(pool.ask(ShardWorker.where)),
        )
    )
    for message in _oddities(summary, names):
        emit(ev.Warned(message))
    return summary


def _stopping(moved: Moved) -> Moved:
    """Return a callback that calls another one, and ends the run if it was asked to end
    meanwhile."""

    def check_and_move(done: int) -> None:
        interrupt.check()
        moved(done)

    return check_and_move


def _oddities(summary: Summary, names: Sequence[str]) -> Iterator[str]:
    """Yield warnings of what a user should know of the data."""
    if summary.dropped:
        yield (
            f"{summary.dropped:,} of {summary.rows:,} rows hold NaN, null or infinity: they are "
            "left out, and get no label."
        )
    lost = summary.lost
    if len(lost):
        assert summary.rounding is not None
        count, column = int(summary.rounding.changed[lost].sum()), int(lost[0])
        name = repr(names[column]) if len(names) == len(summary.grid.exponent) else str(column)
        more = f" and {len(lost) - 1:,} more" if len(lost) > 1 else ""
        yield (
            f"{count:,} of {summary.rows * len(lost):,} values of column {name}{more} "
            "lie so far from zero, beside how little they differ, that float32 rounds their "
            "differences away: rows become equal that are not. Give center=True (--center), which "
            "subtracts the middle of each column before, or subtract it yourself."
        )
    coarse = np.flatnonzero(summary.squares.coarse > summary.rows // 100)
    if len(coarse):
        yield (
            f"column {coarse[0]} ({len(coarse)} such) reaches values so large that over 1 % of "
            "its other values vanish beside them, also in the centers. "
            "Remove the outliers (or fill values), or scale the column."
        )
    if summary.metric == Metric.COSINE and summary.zeros:
        yield (
            f"{summary.zeros:,} of {summary.counting:,} rows are zero: they have no direction. "
            "Their cosine distance to every center is 1, and they count for the first cluster. "
            "Remove them if that is not what you want."
        )


def choose_first_centers(
    plan: FitPlan, pool: Pool, summary: Summary, saver: Saver, emit: ev.Emit
) -> FitState:
    """Choose the first centers and save them, so that a seeding is never lost; return the state."""
    begin = time.perf_counter()
    work = work_of(plan.initial, plan.num_clusters)
    moved = ev.begin(emit, ev.Phase.SEEDING, *work) if work else ignore
    centers = choose_centers(
        initial=plan.initial,
        k=plan.num_clusters,
        retries=plan.retries,
        seed=plan.random_seed,
        pool=pool,
        summary=summary,
        moved=_stopping(moved),
    )
    emit(ev.Seeded(_name_of(plan.initial), len(centers), time.perf_counter() - begin))
    if isinstance(plan.initial, str):
        _warn_of_copies(centers, len(summary.lost) > 0, emit)
    state = replace(FitState.initial(centers, plan.metric, plan.origin), rows=plan.rows)
    saver.save(state)
    saver.flush()
    return state


def _warn_of_copies(centers: NDArray[np.float32], by_rounding: bool, emit: ev.Emit) -> None:
    """Warn of initial centers that are equal; `by_rounding` tells whether rounding made rows
    equal."""
    copies = len(centers) - len(np.unique(centers, axis=0))
    if not copies:
        return
    if by_rounding:
        why = "rounding to float32 made rows equal", "Give center=True (--center)."
    else:
        why = "the data hold equal rows", "Lower num_clusters, or remove duplicate rows."
    emit(
        ev.Warned(
            f"{copies} of {len(centers)} initial centers are copies of another one, because "
            f"{why[0]}; their clusters stay empty. {why[1]}"
        )
    )


def _name_of(initial: Initial) -> str:
    """Return the name of the way in which the first centers were found, for the log."""
    if isinstance(initial, str):
        return initial
    return "given centers" if isinstance(initial, np.ndarray) else "a function"
