"""Who listens to a run: the log, and warnings."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Sequence

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
    """One log line for the first and every n-th iteration, and one for all else that matters.

    A line is also logged when the last one is long ago, so that a slow fit never looks dead.

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

    `inertia` and `shift` have all digits that bring the same bits back; the timings have six.
    """

    def __init__(self, every: int = 100) -> None:
        self._every = every
        self._logged_at = -math.inf

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
                log.info("%s", _text(event))

    def _iteration(self, event: ev.IterationDone) -> None:
        now = time.monotonic()
        long_ago = now - self._logged_at >= LOG_AT_LEAST_EVERY_S
        if not long_ago and event.line.iteration % self._every != 0:
            return
        self._logged_at = now
        log.info("%s", _pairs(event))


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


def warn(event: ev.Event) -> None:
    """Raise a Python warning where the run asks for one."""
    if isinstance(event, ev.Warned):
        warnings.warn(event.message, UserWarning, stacklevel=2)
