"""Lloyd's algorithm as a value that is stepped. Knows nothing of Ray, files or threads.

Lloyd, Least squares quantization in PCM, IEEE Trans. Inf. Theory 28 (1982).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.clustering.grid import Summary
from ray_kmeans.clustering.partials import Partials


class Stop(Enum):
    """Why a fit ended; the value is the sentence shown to the user."""

    CONVERGED = "converged: no center moved, so no label will"
    TOLERANCE = "the relative change of the loss fell below relative_tolerance"
    STEPS = "the number of steps asked for was reached before the centers settled"
    CYCLE = "the centers came back to those of an earlier iteration (rounding), so they repeat"


@dataclass(frozen=True)
class Iteration:
    """One line of the history."""

    iteration: int
    inertia: float
    """Sum of squared distances to the centers before this iteration's update."""
    shift: float
    """Largest move of any coordinate of any center in the update."""
    empty: int
    """Clusters without a row."""
    digest: str
    """Names the centers after the update."""


@dataclass(frozen=True)
class FitState:
    """All that continuing a fit needs. A checkpoint is one of these."""

    centers: NDArray[np.float32]
    """(k, d)"""
    counts: NDArray[np.int64]
    """(k,) rows of each cluster in the last sweep; zeros before the first."""
    iteration: int = 0
    """Completed updates, over all fits of this model (the seed's global_step)."""
    began: int = 0
    """The iteration at which the current fit began."""
    history: tuple[Iteration, ...] = ()
    stop: Stop | None = None
    """Why the last fit ended; None while one is under way, or was cut off."""
    data: str = ""
    """Digest of the data that the current fit sees."""

    @classmethod
    def initial(cls, centers: NDArray[np.float32]) -> FitState:
        return cls(centers, np.zeros(len(centers), np.int64))

    def begin(self, data: str) -> FitState:
        """Return the state in which a fit on these data starts.

        A fit that was cut off goes on where it was; so a killed fit that is run again equals one
        that was not killed, also in its number of steps. A fit at its fixed point stays there.
        """
        if data == self.data and self.stop in (None, Stop.CONVERGED):
            return self
        return replace(self, began=self.iteration, stop=None, data=data)


@dataclass(frozen=True)
class StopRule:
    """When to stop besides at a fixed point."""

    steps: int | None = None
    """Iterations of this fit."""
    max_steps: int | None = None
    """Iterations over all fits of this model."""
    relative_tolerance: float | None = None
    """Stop when |L - L_prev| / (1 + |L_prev|) of two iterations of one fit falls below it."""


def update(state: FitState, seen: Partials, summary: Summary) -> FitState:
    """Return the state after one iteration: the M step of a sweep over all rows."""
    centers = seen.means(summary.grid, state.centers)
    line = Iteration(
        iteration=state.iteration + 1,
        inertia=seen.inertia(summary, state.centers),
        shift=float(np.abs(centers.astype(np.float64) - state.centers).max()),
        empty=int((seen.counts == 0).sum()),
        digest=hashlib.sha256(centers.astype("<f4").tobytes()).hexdigest()[:16],
    )
    return replace(
        state,
        centers=centers,
        counts=seen.counts,
        iteration=line.iteration,
        history=(*state.history, line),
    )


def why_stop(state: FitState, rule: StopRule) -> Stop | None:
    """Return the reason to stop before the next iteration, or None."""
    if state.stop is not None:
        return state.stop
    lines = state.history[len(state.history) - (state.iteration - state.began) :]
    if lines and lines[-1].shift == 0:
        return Stop.CONVERGED
    if len(lines) >= 2 and rule.relative_tolerance is not None:
        before, now = lines[-2].inertia, lines[-1].inertia
        if abs(now - before) / (1 + abs(before)) < rule.relative_tolerance:
            return Stop.TOLERANCE
    if lines and any(line.digest == lines[-1].digest for line in lines[:-1]):
        return Stop.CYCLE
    done = rule.steps is not None and len(lines) >= rule.steps
    if done or (rule.max_steps is not None and state.iteration >= rule.max_steps):
        return Stop.STEPS
    return None
