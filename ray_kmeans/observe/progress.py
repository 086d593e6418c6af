"""How far a run is: a bar where somebody watches it, lines where a log is kept."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm
from tqdm.std import TqdmDefaultWriteLock

from ray_kmeans.algorithm.state import Iteration
from ray_kmeans.observe import events as ev
from ray_kmeans.observe.events import Phase
from ray_kmeans.process import forks

RAY_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets this variable in the process of a job that was submitted to it."""

LINE_EVERY_S = 10.0
"""Shortest time between two lines of one phase in the log of a job."""

forks.hold_while_forking(TqdmDefaultWriteLock.th_lock)


class Progress:
    """A bar for each phase of a run: reading, seeding, iterations, writing, gathering.

    Each says how much is done of how much, for how long yet, and how fast; that of the iterations
    also the inertia and the rows per second; with mini-batches the loss per row of the batch, and
    the smoothed one that ends the fit. It is drawn on a terminal. The log of a submitted Ray
    job keeps all that is written, so there it is a line, at most one every 10 seconds, and none for
    a phase that is shorter. Where standard error is anything else, nothing is shown.
    """

    def __init__(self, wanted: bool = True) -> None:
        self._how = _way_to_show() if wanted else {"disable": True}
        self._is_drawn = self._how.get("file") is sys.stderr
        self._bar: Any = None
        self._phase: Phase | None = None
        self._loss = _loss_of_all
        self._opened = ExitStack()
        if self._is_drawn:  # else a log line on the same terminal would begin behind the bar
            self._opened.enter_context(logging_redirect_tqdm())

    def close(self) -> None:
        """Leave the bar as it is and go on below it; twice is no error."""
        self._end()
        self._opened.close()

    def __call__(self, event: ev.Event) -> None:
        match event:
            case ev.PhaseBegan(phase, total, unit):
                many = unit == "rows"
                self._begin(phase, phase.value, total=total, unit=f" {unit}", unit_scale=many)
            case ev.PhaseMoved(phase, done) if phase is self._phase:
                self._move(done)
            case ev.FitStarted(clusters, iteration, last, mini_batch):
                self._loss = _loss_of_batch if mini_batch else _loss_of_all
                name = f"k-means, {clusters} clusters"
                self._begin(Phase.ITERATIONS, name, initial=iteration, total=last, unit="it")
            case ev.IterationDone() if self._phase is Phase.ITERATIONS:
                speed = tqdm.format_sizeof(event.rows_per_s)
                text = f"{self._loss(event.line)}, {speed} rows/s"
                self._bar.set_postfix_str(text, refresh=False)
                self._move(event.line.iteration)
            case ev.DataLoaded() | ev.Seeded() | ev.FitEnded():
                self._end()
                self._say(event)
            case ev.KernelsReady():
                self._say(event)

    def _begin(self, phase: Phase, name: str, **kind: Any) -> None:
        self._end()
        leave = phase not in (Phase.READING, Phase.SEEDING)  # what came of these is said below
        self._bar = tqdm(**{"desc": name, "leave": leave, **kind, **self._how})
        self._phase = phase

    def _move(self, done: int) -> None:
        self._bar.update(done - self._bar.n)

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar = self._phase = None

    def _say(self, event: ev.Event) -> None:
        """Write what came of a phase on a line of its own. What went wrong is in the log."""
        if self._is_drawn and (text := _in_words(event)):
            tqdm.write(text, file=sys.stderr)


def _loss_of_all(line: Iteration) -> str:
    return f"inertia {line.inertia:.6g}"


def _loss_of_batch(line: Iteration) -> str:
    """Return the loss per row, for batches differ in their size, and what ends the fit."""
    smoothed = "" if line.smoothed is None else f" (smoothed {line.smoothed:.6g})"
    return f"loss per row {line.loss_per_row:.6g}{smoothed}"


def _in_words(event: ev.Event) -> str:
    match event:
        case ev.DataLoaded():
            return (
                f"{event.rows:,} rows x {event.features} in {len(event.workers)} workers, "
                f"read in {event.seconds:.1f} s"
            )
        case ev.KernelsReady():
            return f"computing by {event}"
        case ev.Seeded(method, clusters, seconds):
            return f"{clusters:,} initial centers by {method}, in {seconds:.1f} s"
    return ""


def _way_to_show() -> dict[str, Any]:
    """Return the arguments of tqdm that suit what standard error is."""
    if sys.stderr.isatty():
        return {"file": sys.stderr, "dynamic_ncols": True}
    if RAY_JOB in os.environ:
        pause = {"delay": LINE_EVERY_S, "mininterval": LINE_EVERY_S, "miniters": 1}
        return {"file": _Lines(), "ncols": 0, "leave": False, **pause}
    return {"disable": True}


class _Lines:
    """Standard error as a log: what is meant to overwrite a line becomes the next one."""

    def write(self, text: str) -> None:
        if line := text.strip():
            sys.stderr.write(f"{line}\n")

    def flush(self) -> None:
        sys.stderr.flush()
