"""Monitors: objects of the user that see a fit before, between and after its steps."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from itertools import takewhile
from numbers import Integral, Real
from typing import Any

from ray_kmeans.algorithm.state import FitState, Iteration
from ray_kmeans.errors import ConfigError

log = logging.getLogger("ray_kmeans")

CALLED = ("begin", "after_step", "end")
"""Methods that a monitor must have."""


class Monitor:
    """Base class of monitors, which does nothing itself.

    A monitor runs in the driver's process, between the steps: the fit waits for it. The state is
    read-only: the fit goes on with the same arrays, so do not change them.

    Examples
    --------
    >>> class StopBelow(Monitor):
    ...     def after_step(self, state):
    ...         return state.history[-1].inertia < 100.0
    """

    def begin(self, state: FitState) -> None:
        """Look at the state before the first step of a fit.

        Parameters
        ----------
        state : FitState
            The state before the step; ``state.began_at`` is the number of steps done.
        """

    def after_step(self, state: FitState) -> bool | None:
        """Look at the state after a step, and tell whether the fit shall end.

        Parameters
        ----------
        state : FitState
            The state after the step; ``state.history[-1]`` is the line of this step.

        Returns
        -------
        bool or None
            True ends the fit; anything else lets it go on.
        """
        return None

    def end(self, state: FitState) -> None:
        """Look at the state after the fit, also after one that a monitor's exception has cut off.

        It is called once for every monitor whose ``begin`` returned.

        Parameters
        ----------
        state : FitState
            The last state of the fit.
        """


class EarlyStopping(Monitor):
    """Ends the fit when the loss per row no longer falls.

    Parameters
    ----------
    patience : int, default 10
        Steps in a row without progress after which the fit ends.
    min_delta : float, default 0.0
        Progress is a loss per row below the best one by more than this part of it. The best one is
        that of the last progress, so that many small gains add up to one.

    Raises
    ------
    ConfigError
        `patience` is no whole number of at least 1, or `min_delta` is not in [0, 1).

    Examples
    --------
    >>> stop = EarlyStopping(patience=5, min_delta=1e-3)
    >>> stop.patience
    5
    """

    def __init__(self, patience: int = 10, min_delta: float = 0.0) -> None:
        _check_progress(patience, min_delta)
        self.patience = int(patience)
        self.min_delta = float(min_delta)
        self._forget(0)

    def begin(self, state: FitState) -> None:
        """Forget the fit before; a fit that was cut off and goes on is one fit.

        Parameters
        ----------
        state : FitState
            The state before the first step.
        """
        self._forget(state.began_at)

    def after_step(self, state: FitState) -> bool:
        """Return True when the last ``patience`` steps made no progress.

        Parameters
        ----------
        state : FitState
            The state after the step.

        Returns
        -------
        bool
            Whether the fit shall end.
        """
        # All lines not seen yet, by number: a fit that was cut off brings those it had, and one
        # that goes on from its last checkpoint does steps again.
        new = takewhile(lambda line: line.iteration > self._seen, reversed(state.history))
        for line in reversed(list(new)):
            self._see(line)
        return self._without_progress >= self.patience

    def _forget(self, iteration: int) -> None:
        """Begin anew after this iteration."""
        self._best = math.inf
        self._without_progress = 0
        self._seen = iteration

    def _see(self, line: Iteration) -> None:
        """Count a step as progress or as one without."""
        self._seen = line.iteration
        loss = line.inertia / line.rows
        # A product: as best - min_delta * best it is NaN while the best one is infinity.
        if loss < self._best * (1 - self.min_delta):
            self._best, self._without_progress = loss, 0
        else:
            self._without_progress += 1


def _check_progress(patience: Any, min_delta: Any) -> None:
    """Raise ConfigError for parameters of `EarlyStopping` that mean nothing."""
    if isinstance(patience, bool) or not isinstance(patience, Integral) or patience < 1:
        raise ConfigError(f"patience={patience!r} must be a whole number of at least 1.")
    if (
        isinstance(min_delta, bool)
        or not isinstance(min_delta, Real)
        or not 0 <= float(min_delta) < 1
    ):
        raise ConfigError(
            f"min_delta={min_delta!r} must be a number of at least 0 and below 1: the part of the "
            "loss that counts as progress."
        )


class Monitors:
    """Calls all monitors of a fit."""

    def __init__(self, monitors: Sequence[Monitor]) -> None:
        self._monitors = tuple(monitors)
        self._to_end: list[Monitor] = []
        """Monitors whose `begin` has returned and whose `end` is not called yet."""

    def __len__(self) -> int:
        return len(self._monitors)

    def begin(self, state: FitState) -> None:
        """Call `begin` of all; if one raises, end those that have begun, and raise its error."""
        try:
            for monitor in self._monitors:
                monitor.begin(state)
                self._to_end.append(monitor)
        except BaseException as error:
            self._end(state, [error])

    def after_step(self, state: FitState) -> bool:
        """Call `after_step` of all, whatever the others answer; return whether one ends the fit."""
        answers = [monitor.after_step(state) for monitor in self._monitors]
        return any(answers)

    def end(self, state: FitState) -> None:
        """Call `end` of all that have begun, then raise the first error."""
        self._end(state, [])

    def _end(self, state: FitState, errors: list[BaseException]) -> None:
        """Call `end` of all that have begun; raise the first of `errors` and those that come."""
        to_end, self._to_end = self._to_end, []
        for monitor in to_end:
            try:
                monitor.end(state)
            except BaseException as error:
                errors.append(error)
        for other in errors[1:]:
            log.error("the end of a monitor failed, too", exc_info=other)
        if errors:
            raise errors[0]


def check_monitors(monitors: Any, name: str = "monitors") -> tuple[Monitor, ...]:
    """Return the argument `name` as a tuple of monitors; raise ConfigError for anything else."""
    if monitors is None:
        return ()
    if isinstance(monitors, str) or not isinstance(monitors, Sequence):
        raise ConfigError(
            f"{name}={monitors!r} must be a list of monitors, also where there is one: "
            f"{name}=[...]."
        )
    for place, monitor in enumerate(monitors):
        _check_monitor(f"{name}[{place}]={monitor!r}", monitor)
    return tuple(monitors)


def _check_monitor(given: str, monitor: Any) -> None:
    """Raise ConfigError unless `monitor` has all methods; `given` names it in the sentence."""
    if isinstance(monitor, type):
        raise ConfigError(f"{given} is a class; give an instance: {monitor.__name__}(...).")
    missing = [name for name in CALLED if not callable(getattr(monitor, name, None))]
    if missing and hasattr(monitor, "before_run"):
        raise ConfigError(
            f"{given} is a hook of TensorFlow, and there is no session here to run it in. Give a "
            "ray_kmeans Monitor with the methods begin(state), after_step(state) and end(state)."
        )
    if missing:
        raise ConfigError(
            f"{given} has no method {' and no '.join(missing)}. A monitor has begin(state), "
            "after_step(state) and end(state); derive it from Monitor."
        )
