"""Who listens to a run: the log, and warnings."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Sequence

from ray_kmeans.algorithm.state import Iteration
from ray_kmeans.observe import events as ev

log = logging.getLogger("ray_kmeans")

LOG_AT_LEAST_EVERY_S = 10.0
"""Longest silence of the log while iterations go by."""


def tell_all(listeners: Sequence[ev.Emit]) -> ev.Emit:
    """Return one listener that passes every event on to all of these."""

    def emit(event: ev.Event) -> None:
        for listener in listeners:
            listener(event)

    return emit


class LogLines:
    """One log line for the first, the last and every n-th iteration, and one for all that matters.

    Before the n-th there are also the 10th, 20th, 50th, 100th, ... of a fit. A line is also logged
    when the last one is long ago, so that a slow fit never looks dead.

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
    """

    def __init__(self, every: int = 100) -> None:
        self._every = every
        self._logged_at = -math.inf
        self._mini_batch = False
        self._began: int | None = None
        self._unlogged: ev.IterationDone | None = None
        """The newest iteration, where it has no line."""

    def __call__(self, event: ev.Event) -> None:
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
                pass  # how far it is, the progress bar says
            case _:
                if isinstance(event, ev.FitStarted):
                    self._mini_batch = event.mini_batch
                if isinstance(event, ev.FitEnded) and self._unlogged is not None:
                    self._log(self._unlogged)
                log.info("%s", _text(event))

    def _iteration(self, event: ev.IterationDone) -> None:
        iteration = event.line.iteration
        if self._began is None:
            self._began = iteration - 1
        long_ago = time.monotonic() - self._logged_at >= LOG_AT_LEAST_EVERY_S
        if long_ago or iteration % self._every == 0 or self._is_among_the_first(iteration):
            self._log(event)
        else:
            self._unlogged = event

    def _is_among_the_first(self, iteration: int) -> bool:
        """Tell whether it is the 10th, 20th, 50th, 100th, ... of this fit, before the n-th."""
        assert self._began is not None
        count = iteration - self._began
        return 10 <= count < self._every and str(count).rstrip("0") in ("1", "2", "5")

    def _log(self, event: ev.IterationDone) -> None:
        self._logged_at, self._unlogged = time.monotonic(), None
        log.info("%s%s", _pairs(event), _of_batch(event.line) if self._mini_batch else "")


def _text(event: ev.Event) -> str:
    """Return the line of an event that comes once or now and then."""
    match event:
        case ev.Planned():
            workers = f"workers={event.workers} threads={event.threads} rows={event.rows}"
            return f"plan: {workers} kept={event.place!r} bytes={event.num_bytes}"
        case ev.DataLoaded():
            data = f"rows={event.rows} features={event.features}"
            return f"{data} workers={len(event.workers)} seconds={event.seconds:.1f}"
        case ev.Peaks():
            return f"peak_bytes={max(event.num_bytes)}"
        case ev.KernelsReady():
            return f"kernels={event}"
        case ev.PhaseBegan(phase, total, unit):
            return f"phase={phase.value} total={total} unit={unit}"
        case ev.CheckpointSaved():
            return f"checkpoint={event.path}"
        case ev.FitEnded(stop, iteration):
            return f"stop={stop.name} iteration={iteration}: {stop.value}"
        case _:
            return str(event)


def _pairs(event: ev.IterationDone) -> str:
    """Return the line of an iteration."""
    line = event.line
    return (
        f"iteration={line.iteration} rows={line.rows} inertia={float(line.inertia)!r} "
        f"shift={float(line.shift)!r} empty={line.empty} seconds={event.seconds:.6g} "
        f"rows_per_s={event.rows_per_s:.6g}"
    )


def _of_batch(line: Iteration) -> str:
    """Return what the line of a mini-batch says besides."""
    smoothed = "None" if line.smoothed is None else f"{line.smoothed:.6g}"
    return f" loss_per_row={line.loss_per_row:.6g} smoothed={smoothed}"


def warn(event: ev.Event) -> None:
    """Raise a Python warning where the run asks for one."""
    if isinstance(event, ev.Warned):
        warnings.warn(event.message, UserWarning, stacklevel=2)
