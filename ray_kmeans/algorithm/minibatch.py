"""Mini-batch k-means as a value that is stepped, by the equations of TensorFlow's class.

With m = mini_batch_steps_per_iteration, U and c the running means and counts:
    m = 1:  c starts at 1 (the initial center counts as a row); after each step
            U += (s - k U) / (c + k), c += k, and the centers are U
    m > 1:  c starts at 0; the same U and c over m steps with fixed centers; then the centers
            become U (a cluster without a row keeps its own), and c is 0 again
where s is the sum of a batch's rows of one cluster, and k their number. The code keeps the sum
T = c U, for which both equations are T += s: exact, so that m steps can be merged into one.

Sculley, Web-scale k-means clustering, WWW 2010, for m = 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm import double_double
from ray_kmeans.algorithm.exact_float_sum import as_float
from ray_kmeans.algorithm.grid import Grid
from ray_kmeans.algorithm.metric import new_centers
from ray_kmeans.algorithm.partial_sums import Partials
from ray_kmeans.algorithm.state import (
    Accumulators,
    FitState,
    Iteration,
    digest,
    largest_move,
)


@dataclass(frozen=True)
class BatchPartials:
    """Sums over the rows of some steps; those of all workers add up to the whole."""

    partials: Partials
    """Sums and counts of all the steps together."""
    losses: tuple[int, ...]
    """Sum of the distances of each step's rows, in units of `exact_total`."""

    def __add__(self, other: BatchPartials) -> BatchPartials:
        """Return the partial sums of both sets of rows, with the losses added step by step."""
        losses = tuple(a + b for a, b in zip(self.losses, other.losses, strict=True))
        return BatchPartials(self.partials + other.partials, losses)

    def in_slices(self, count: int) -> list[BatchPartials]:
        """Cut into `count` slices of the clusters; the first one has the losses."""
        first, *others = self.partials.in_slices(count)
        nothing = (0,) * len(self.losses)
        return [
            BatchPartials(first, self.losses),
            *(BatchPartials(each, nothing) for each in others),
        ]

    @classmethod
    def joined(cls, slices: Sequence[BatchPartials]) -> BatchPartials:
        """Put the slices of one total together again."""
        return cls(Partials.joined([each.partials for each in slices]), slices[0].losses)


def prepare(state: FitState, steps_per_iteration: int) -> FitState:
    """Return the state in which mini-batch goes on, with this number of steps per iteration, m.

    Sums and counts of a fit with the same m are kept; else they begin anew at the centers.
    """
    if (
        state.accumulators is not None
        and state.accumulators.steps_per_iteration == steps_per_iteration
    ):
        return state
    sums = np.zeros((2, *state.centers.shape))
    counts = np.zeros(len(state.centers), np.int64)
    if steps_per_iteration == 1:
        sums[0] = state.centers
        counts += 1
    return replace(state, counts=counts, accumulators=Accumulators(steps_per_iteration, 0, sums))


def advance(
    state: FitState,
    seen: BatchPartials,
    rows: Sequence[int],
    grid: Grid,
    smooth: Callable[[Iteration], float | None] = lambda line: None,
) -> FitState:
    """Return the state after the steps whose sums are `seen`.

    `rows` are the numbers of rows of each step. The steps must not reach beyond the end of an
    iteration. `smooth` is told of each new line of the history, and returns its smoothed loss.
    """
    assert state.accumulators is not None
    accumulators = replace(
        state.accumulators,
        done=state.accumulators.done + len(rows),
        sums=_merge(state.accumulators.sums, seen.partials, grid),
    )
    counts = state.counts + grid.weights_of(seen.partials.counts)
    centers, empty = state.centers, 0
    if accumulators.done == accumulators.steps_per_iteration:
        empty = _count_empty(counts, accumulators)
        centers = _new_centers(state, counts, accumulators, seen.partials)
        accumulators, counts = _begin_iteration(accumulators, counts)
    lines = _lines(state, centers, seen, rows, empty)
    lines = [replace(line, smoothed=smooth(line)) for line in lines]
    return replace(
        state,
        centers=centers,
        counts=counts,
        accumulators=accumulators,
        iteration=state.iteration + len(rows),
        history=(*state.history, *lines),
    )


def running_means(state: FitState) -> NDArray[np.float32]:
    """Return U, (k, d) float32: the running means, not normalised for cosine."""
    assert state.accumulators is not None
    means = state.centers.copy()
    some = state.counts > 0
    means[some] = _means(state.accumulators, state.counts, some)
    return means


def _merge(sums: NDArray[np.float64], seen: Partials, grid: Grid) -> NDArray[np.float64]:
    """Return the running sums with those of some rows added, (2, k, d)."""
    touched = _wanted(seen.counts > 0)
    high, low = double_double.from_int64(seen.sums[touched])
    unit = np.ldexp(1.0, -grid.exponent - grid.weight_exponent)
    before = sums[0, touched], sums[1, touched]
    merged = sums.copy()
    merged[:, touched] = double_double.add(before, (high * unit, low * unit))
    return merged


def _wanted(which: NDArray[np.bool_]) -> NDArray[np.bool_] | slice:
    """Return the same choice as an index; to take all clusters, a slice is faster."""
    return slice(None) if which.all() else which


def _new_centers(
    state: FitState,
    counts: NDArray[Any],
    accumulators: Accumulators,
    seen: Partials,
) -> NDArray[np.float32]:
    """Return the running means as the new centers, (k, d), at the end of an iteration."""
    is_touched = seen.counts > 0 if accumulators.steps_per_iteration == 1 else counts > 0
    touched = _wanted(is_touched)
    means = _means(accumulators, counts, touched)
    centers = state.centers.copy()
    centers[touched] = new_centers(means, state.centers[touched], state.metric)
    return centers


def _begin_iteration(
    accumulators: Accumulators, counts: NDArray[Any]
) -> tuple[Accumulators, NDArray[Any]]:
    """Return the accumulators and counts with which an iteration begins: with m > 1 anew."""
    if accumulators.steps_per_iteration == 1:
        return replace(accumulators, done=0), counts
    sums = np.zeros_like(accumulators.sums)
    return replace(accumulators, done=0, sums=sums), np.zeros_like(counts)


def _means(
    accumulators: Accumulators, counts: NDArray[Any], wanted: NDArray[np.bool_] | slice
) -> NDArray[np.float64]:
    """Return the running means of the wanted clusters, (wanted, d)."""
    means: NDArray[np.float64] = accumulators.sums[0, wanted] / counts[wanted, None]
    return means


def _count_empty(counts: NDArray[Any], accumulators: Accumulators) -> int:
    """Return the number of clusters without a row since their counts began."""
    return int((counts == (accumulators.steps_per_iteration == 1)).sum())


def _lines(
    state: FitState,
    centers: NDArray[np.float32],
    seen: BatchPartials,
    rows: Sequence[int],
    empty: int,
) -> list[Iteration]:
    """Return a line of the history for each step; only the last step can have moved the centers.

    `centers` (k, d) are those after the steps, and `empty` counts empty clusters.
    """
    is_new = centers is not state.centers
    # The name of the centers takes a while, and no line has it where the only step moves them.
    same = "" if is_new and len(rows) == 1 else digest(state.centers)
    lines = [
        Iteration(state.iteration + 1 + number, size, as_float(loss), 0.0, 0, same)
        for number, (loss, size) in enumerate(zip(seen.losses, rows, strict=True))
    ]
    if is_new:
        shift = largest_move(state.centers, centers)
        lines[-1] = replace(lines[-1], shift=shift, empty=empty, digest=digest(centers))
    return lines
