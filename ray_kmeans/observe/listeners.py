"""Who listens to a run: the log, the progress bar, warnings."""

from __future__ import annotations

import logging
import math
import sys
import time
import warnings
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

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
    """

    def __init__(self, every: int = 100) -> None:
        self._every = every
        self._logged_at = -math.inf

    def __call__(self, event: ev.Event) -> None:
        match event:
            case ev.IterationDone():
                self._iteration(event)
            case ev.Warned(message):
                log.warning("%s", message)
            case (
                ev.Waiting()
                | ev.WorkerReplaced()
                | ev.WorkersLag()
                | ev.WorkersJoined()
                | ev.CoordinatorReplaced()
            ):
                log.warning("%s", event)
            case ev.DataLoaded():
                log.info(
                    "rows=%d features=%d workers=%d seconds=%.1f",
                    event.rows,
                    event.features,
                    len(event.workers),
                    event.seconds,
                )
            case ev.KernelsReady():
                log.info("kernels=%s", event)
            case ev.CheckpointSaved():
                log.info("checkpoint=%s", event.path)
            case ev.FitEnded():
                log.info(
                    "stop=%s iteration=%d: %s", event.stop.name, event.iteration, event.stop.value
                )
            case _:
                log.info("%s", event)

    def _iteration(self, event: ev.IterationDone) -> None:
        now = time.monotonic()
        long_ago = now - self._logged_at >= LOG_AT_LEAST_EVERY_S
        if not long_ago and event.line.iteration % self._every != 0:
            return
        self._logged_at = now
        log.info(
            "iteration=%d inertia=%.9g shift=%.3g empty=%d rows=%d seconds=%.3f rows/s=%.3g",
            event.line.iteration,
            event.line.inertia,
            event.line.shift,
            event.line.empty,
            event.line.rows,
            event.seconds,
            event.line.rows / event.seconds,
        )


def warn(event: ev.Event) -> None:
    """Raise a Python warning where the run asks for one."""
    if isinstance(event, ev.Warned):
        warnings.warn(event.message, UserWarning, stacklevel=2)


class Progress:
    """A progress bar on standard error; silent where that is not a terminal."""

    def __init__(self, wanted: bool = True) -> None:
        self._bar: Any = None
        self._wanted = wanted and sys.stderr.isatty()

    def close(self) -> None:
        """Leave the bar as it is and go on below it."""
        if self._bar is not None:
            self._bar.close()

    def __call__(self, event: ev.Event) -> None:
        match event:
            case ev.DataLoaded():
                self._write(
                    f"{event.rows:,} rows x {event.features} in {len(event.workers)} workers, "
                    f"read in {event.seconds:.1f} s"
                )
            case ev.KernelsReady():
                self._write(f"computing by {event}")
            case ev.Seeded():
                self._write(
                    f"{event.num_clusters:,} initial centers by {event.method}, "
                    f"in {event.seconds:.1f} s"
                )
            case ev.FitStarted():
                self._bar = tqdm(
                    desc=f"k-means, {event.num_clusters} clusters",
                    initial=event.iteration,
                    total=event.last_iteration,
                    unit="it",
                    file=sys.stderr,
                    disable=not self._wanted,
                    dynamic_ncols=True,
                )
            case ev.IterationDone() if self._bar is not None:
                speed = tqdm.format_sizeof(event.line.rows / event.seconds)
                self._bar.set_postfix_str(
                    f"inertia {event.line.inertia:.6g}, {speed} rows/s", refresh=False
                )
                self._bar.update(event.line.iteration - self._bar.n)
            case (
                ev.Waiting()
                | ev.WorkerReplaced()
                | ev.WorkersLag()
                | ev.WorkersJoined()
                | ev.CoordinatorReplaced()
            ):
                self._write(str(event))

    def _write(self, text: str) -> None:
        if self._wanted:
            tqdm.write(text, file=sys.stderr)
