"""The rules by which a fit ends: pure functions of its history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ray_kmeans.algorithm.batch_rows import Batches
from ray_kmeans.algorithm.state import FitState, Iteration, Stop

PATIENCE = 10
"""Number of iterations without a better smoothed loss after which mini-batch ends."""
MAX_EPOCHS = 100
"""Number of epochs after which mini-batch ends, unless a rule says otherwise."""


@dataclass(frozen=True)
class StopRule:
    """The user's rules for the end of a fit; at a fixed point it ends anyway."""

    steps: int | None = None
    """Number of steps of this fit; None: any number."""
    max_steps: int | None = None
    """Number of steps over all fits of this model; None: any number."""
    relative_tolerance: float | None = None
    """Bound of |L - L_prev| / (1 + |L_prev|) of two iterations of one fit: below it the fit ends.
    None: this rule does not apply."""
    max_epochs: int = MAX_EPOCHS
    """Number of epochs after which mini-batch ends."""

    @property
    def is_open(self) -> bool:
        """Whether no number of steps was given."""
        return self.steps is None and self.max_steps is None

    def last_step(self, began_at: int) -> int | None:
        """Return the number of the last step that `steps` and `max_steps` allow; None: no limit.

        `began_at` is the number of steps of this model before the fit.
        """
        ends = [self.max_steps, None if self.steps is None else began_at + self.steps]
        return min((end for end in ends if end is not None), default=None)

    def is_done(self, state: FitState) -> bool:
        """Tell whether steps or max_steps are reached."""
        last = self.last_step(state.began_at)
        return last is not None and state.iteration >= last

    def is_settled(self, before: float | None, loss: float) -> bool:
        """Tell whether the loss of an iteration differs from the one before by less than the
        tolerance."""
        if self.relative_tolerance is None or before is None:
            return False
        return abs(loss - before) / (1 + abs(before)) < self.relative_tolerance


def why_stop(state: FitState, rule: StopRule) -> Stop | None:
    """Return the reason to stop before the next iteration of full batch, or None."""
    if state.stop is not None:
        return state.stop
    return why_settled(state.lines, rule) or (Stop.STEPS if rule.is_done(state) else None)


def why_settled(lines: Sequence[Iteration], rule: StopRule) -> Stop | None:
    """Return why iterations over the same rows need no further one, or None.

    `lines` are those of the iterations so far, all over these rows.
    """
    if lines and lines[-1].shift == 0:
        return Stop.CONVERGED
    if len(lines) >= 2 and rule.is_settled(lines[-2].inertia, lines[-1].inertia):
        return Stop.TOLERANCE
    if lines and any(line.digest == lines[-1].digest for line in lines[:-1]):
        return Stop.CYCLE
    return None


class LossWatch:
    """The rules of mini-batch, which are told of each line of a fit once.

    The smoothed loss per row is an exponential average over about one epoch, as scikit-learn's.
    """

    def __init__(self, rule: StopRule, state: FitState, batches: Batches | None) -> None:
        """Begin where `state` stands: the steps of its fit so far are seen first."""
        assert state.accumulators is not None
        self._rule = rule
        self._batches = batches
        self._m = state.accumulators.steps_per_iteration
        # A fit that begins within an iteration compares from the next one on.
        self._in_iteration = (state.accumulators.done - len(state.lines)) % self._m
        self._complete = self._in_iteration == 0
        self._loss, self._rows = 0.0, 0
        self._before: float | None = None
        self._smoothed: float | None = None
        self._best = float("inf")
        self._stale = 0
        self._settled = False
        for line in state.lines:
            self.see(line)

    def see(self, line: Iteration) -> float | None:
        """Take one more step into account; return the smoothed loss if it ends an iteration."""
        self._loss += line.inertia
        self._rows += line.rows
        self._in_iteration += 1
        if self._in_iteration < self._m:
            return None
        if self._complete:
            self._compare()
        self._complete = True
        self._in_iteration, self._loss, self._rows = 0, 0.0, 0
        return self._smoothed

    def why_stop(self, state: FitState) -> Stop | None:
        """Return the reason to stop before the next step, or None."""
        if state.stop is not None:
            return state.stop
        if self._settled:
            return Stop.TOLERANCE
        if self._rule.is_done(state):
            return Stop.STEPS
        if not self._rule.is_open or self._batches is None:
            return None
        if self._stale >= PATIENCE:
            return Stop.NO_IMPROVEMENT
        steps = state.iteration - state.began_at
        is_over = (
            self._in_iteration == 0 and steps >= self._rule.max_epochs * self._batches.per_epoch
        )
        return Stop.EPOCHS if is_over else None

    def _compare(self) -> None:
        """Compare the iteration that has ended with those before."""
        self._settled = self._rule.is_settled(self._before, self._loss)
        self._before = self._loss
        if self._batches is None:
            return
        share = min(1.0, 2.0 * self._rows / (self._batches.rows + 1))
        loss = self._loss / self._rows
        last = loss if self._smoothed is None else self._smoothed
        self._smoothed = last + share * (loss - last)
        if self._smoothed < self._best:
            self._best, self._stale = self._smoothed, 0
        else:
            self._stale += 1
