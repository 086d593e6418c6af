"""Listeners that write a run to Python's log, and raise its warnings."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable, Sequence

from ray_kmeans.algorithm.state import Iteration
from ray_kmeans.observe import events as ev

log = logging.getLogger("ray_kmeans")

LOG_AT_LEAST_EVERY_S = 10.0
"""Longest silence of the log during the iterations, in seconds."""
WORDS: dict[type[ev.Event], str] = {
    ev.Planned: "plan",
    ev.DataLoaded: "read",
    ev.KernelsReady: "kernels",
    ev.Seeded: "seeded",
    ev.FitStarted: "fit",
    ev.CheckpointSaved: "checkpoint",
    ev.Peaks: "memory",
    ev.FitEnded: "stopped",
}
"""The word before the sentence of an event in the log. Other sentences say by themselves what they
are about."""


def tell_all(listeners: Sequence[ev.Emit]) -> ev.Emit:
    """Return one listener that passes every event on to all of these, in their order."""

    def emit(event: ev.Event) -> None:
        for listener in listeners:
            listener(event)

    return emit


class LogLines:
    """Logs the first, the last and every n-th iteration, and every other event but progress.

    Before the n-th iteration it also logs the 10th, 20th, 50th, 100th, ... of a fit. An iteration
    is logged as well when the last line is long ago, so that a slow fit never looks dead.

    Parameters
    ----------
    every : int, default 100
        Log iterations whose number is a multiple of this.

    Notes
    -----
    The line of an iteration is made for machines: pairs ``key=value``, one space between them, no
    space inside, always these keys in this order::

        iteration=31 rows=6000 inertia=4678.0 shift=0.0 empty=0 seconds=0.004 rows_per_s=1.5e+06

    =============  =========================================================================
    `iteration`    number of the step, over all fits of the model
    `rows`         rows of the step: all of them, or those of a mini-batch
    `inertia`      sum of their distances to the nearest center before the update
    `shift`        largest move of any coordinate of any center in the update
    `empty`        clusters without a row
    `seconds`      of the step, as the coordinator saw it
    `rows_per_s`   rows / seconds
    =============  =========================================================================

    `inertia` and `shift` have all digits that bring the same bits back; the timings have six. The
    line of a mini-batch goes on with two more pairs, of six digits, since batches differ in size:
    `loss_per_row` of the batch, and `smoothed`, the same over about one epoch, by which the fit
    ends; None for input that has no known end, and within an iteration of several steps.

    All other lines are for people, a word and a sentence with rounded numbers::

        plan: 2 workers of 4 threads, each with 550.1 MiB at most: 3,000 rows in memory as float32
        seeded: 25 initial centers by kmeans_parallel, in 0.1 s
        stopped: converged: no center moved, so no label will (after 31 steps)
    """

    def __init__(self, every: int = 100, clock: Callable[[], float] = time.monotonic) -> None:
        self._every = every
        self._clock = clock
        """Returns the seconds since some moment."""
        self._logged_at = -math.inf
        self._mini_batch = False
        self._began: int | None = None
        """Steps of the model before the first iteration that was seen."""
        self._unlogged: ev.IterationDone | None = None
        """The newest iteration, if it has no line yet."""

    def __call__(self, event: ev.Event) -> None:
        """Write the lines of an event, if it has any."""
        match event:
            case ev.IterationDone():
                self._iteration(event)
            case ev.Warned(message) | ev.Logged(message):
                log.warning("%s", message)
            case (
                ev.Waiting()
                | ev.WorkerReplaced()
                | ev.WorkersLag()
                | ev.WorkersJoined()
                | ev.CoordinatorReplaced()
            ):
                log.warning("%s", event)
            case ev.PhaseMoved():
                pass  # the progress bar shows it
            case _:
                if isinstance(event, ev.FitStarted):
                    self._mini_batch = event.mini_batch
                if isinstance(event, ev.FitEnded) and self._unlogged is not None:
                    self._log(self._unlogged)
                log.info("%s", _line(event))

    def _iteration(self, event: ev.IterationDone) -> None:
        """Log an iteration, or keep it until the end of the fit."""
        iteration = event.line.iteration
        if self._began is None:
            self._began = iteration - 1
        long_ago = self._clock() - self._logged_at >= LOG_AT_LEAST_EVERY_S
        if long_ago or iteration % self._every == 0 or self._is_among_the_first(iteration):
            self._log(event)
        else:
            self._unlogged = event

    def _is_among_the_first(self, iteration: int) -> bool:
        """Return whether this is the 10th, 20th, 50th, ... iteration of the fit, below `every`."""
        assert self._began is not None
        count = iteration - self._began
        return 10 <= count < self._every and str(count).rstrip("0") in ("1", "2", "5")

    def _log(self, event: ev.IterationDone) -> None:
        """Write the line of an iteration."""
        self._logged_at, self._unlogged = self._clock(), None
        more = _batch_pairs(event.line) if self._mini_batch else ""
        log.info("%s%s", _iteration_pairs(event), more)


def _line(event: ev.Event) -> str:
    """Return the log line of an event other than an iteration: one word and a sentence."""
    word = event.phase.value if isinstance(event, ev.PhaseBegan) else WORDS.get(type(event))
    return f"{word}: {event}" if word else str(event)


def _iteration_pairs(event: ev.IterationDone) -> str:
    """Return the log line of an iteration, see `LogLines`."""
    line = event.line
    relocated = f"relocated={line.relocated} " if line.relocated else ""
    return (
        f"iteration={line.iteration} rows={line.rows} inertia={float(line.inertia)!r} "
        f"shift={float(line.shift)!r} empty={line.empty} {relocated}seconds={event.seconds:.6g} "
        f"rows_per_s={event.rows_per_s:.6g}"
    )


def _batch_pairs(line: Iteration) -> str:
    """Return the two pairs that the log line of a mini-batch has in addition."""
    smoothed = "None" if line.smoothed is None else f"{line.smoothed:.6g}"
    return f" loss_per_row={line.loss_per_row:.6g} smoothed={smoothed}"


def warn(event: ev.Event) -> None:
    """Raise a Python warning for an event `Warned`; do nothing for any other one."""
    if isinstance(event, ev.Warned):
        warnings.warn(event.message, UserWarning, stacklevel=2)
