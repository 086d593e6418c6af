"""The rules by which scikit-learn ends a fit, as monitors: exact functions of what a fit did."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.state import FitState
from ray_kmeans.observe.monitors import Monitor


def squared_moves(before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    """Return the sum of the squared moves of all centers, (k, d) each, rounded once."""
    moves = after.astype(np.float64) - before
    return math.fsum((moves * moves).ravel().tolist())


class SmallMoves(Monitor):
    """Ends a fit when the squared moves of all centers in a step add up to a tolerance or less."""

    def __init__(self, tolerance: float, verbose: bool = False) -> None:
        self._tolerance = tolerance
        self._verbose = verbose

    def begin(self, state: FitState) -> None:
        """Keep the centers from which the first step begins."""
        self._before = state.centers

    def after_step(self, state: FitState) -> bool:
        """Tell whether the centers moved so little that the fit shall end."""
        moved = squared_moves(self._before, state.centers)
        self._before = state.centers
        ends = 0 < moved <= self._tolerance  # a fit whose centers do not move ends by itself
        if ends and self._verbose:
            print(
                f"Converged at iteration {state.iteration}: center shift {moved} within "
                f"tolerance {self._tolerance}."
            )
        return ends


class BatchConvergence(Monitor):
    """Ends a fit of mini-batch as scikit-learn does: by small moves, or by a loss that stays.

    The loss of a batch per row is averaged over about one epoch, with weights that fall
    exponentially; the first batch is left out, as its loss is that of the first centers.
    """

    def __init__(
        self, rows: int, tolerance: float, most_stale: int | None, verbose: bool = False
    ) -> None:
        """Watch a fit of `rows` rows; `most_stale` steps without a better loss end it."""
        self._rows = rows
        self._tolerance = tolerance
        self._most_stale = most_stale
        self._verbose = verbose
        self.smoothed: float | None = None
        """Average loss per row so far."""

    def begin(self, state: FitState) -> None:
        """Keep the centers from which the first step begins."""
        self._before = state.centers
        self._best, self._stale = math.inf, 0

    def after_step(self, state: FitState) -> bool:
        """Tell whether the fit shall end."""
        before, self._before = self._before, state.centers
        line = state.history[-1]
        loss = line.loss_per_row
        if line.iteration == 1:
            self._say(f"Minibatch step 1: mean batch inertia: {loss}")
            return False
        self._average(loss, line.rows)
        step = f"step {line.iteration}"
        self._say(f"Minibatch {step}: mean batch inertia: {loss}, ewa inertia: {self.smoothed}")
        if self._tolerance > 0 and squared_moves(before, state.centers) <= self._tolerance:
            self._say(f"Converged (small centers change) at {step}")
            return True
        if self._most_stale is not None and self._stale >= self._most_stale:
            self._say(f"Converged (lack of improvement in inertia) at {step}")
            return True
        return False

    def _average(self, loss: float, batch_rows: int) -> None:
        """Take the loss of a batch into the average, and count whether that has improved."""
        share = min(1.0, 2.0 * batch_rows / (self._rows + 1))
        last = loss if self.smoothed is None else self.smoothed
        self.smoothed = last * (1 - share) + loss * share
        if self.smoothed < self._best:
            self._best, self._stale = self.smoothed, 0
        else:
            self._stale += 1

    def _say(self, text: str) -> None:
        """Print a line for a user who wants to see the fit."""
        if self._verbose:
            print(text)
