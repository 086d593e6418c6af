"""Progress of a run: a bar on a terminal, lines in the log of a submitted Ray job."""

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
"""Environment variable that Ray sets in the process of a submitted job."""

LINE_EVERY_S = 10.0
"""Shortest time between two lines of one phase in the log of a job, in seconds."""

forks.hold_while_forking(TqdmDefaultWriteLock.th_lock)


class Progress:
    """Shows a bar for each phase of a run: reading, seeding, iterations, writing, gathering.

    A bar shows the work done, the whole work, the time left and the speed. The bar of the
    iterations also shows the inertia and the rows per second; with mini-batches the loss per row of
    the batch, and the smoothed one that ends the fit.

    - On a terminal, standard error has a bar that is drawn again and again.
    - In the log of a submitted Ray job, which keeps all that is written, a bar is a line: at most
      one every 10 seconds, and none for a phase that is shorter.
    - Anywhere else nothing is shown.

    Parameters
    ----------
    wanted : bool, default True
        False shows nothing anywhere.
    """

    def __init__(self, wanted: bool = True) -> None:
        """Choose between a bar, lines and nothing, by where standard error goes."""
        self._style = _tqdm_style() if wanted else {"disable": True}
        self._is_drawn = self._style.get("file") is sys.stderr
        self._bar: Any = None
        self._phase: Phase | None = None
        self._loss_text = _loss_of_all
        self._resources = ExitStack()
        if self._is_drawn:  # else a log line on the same terminal would begin behind the bar
            self._resources.enter_context(logging_redirect_tqdm())

    def close(self) -> None:
        """End the bar and leave it on the screen; closing twice is no error."""
        self._end()
        self._resources.close()

    def __call__(self, event: ev.Event) -> None:
        """Begin, move or end a bar, as an event tells."""
        match event:
            case ev.PhaseBegan(phase, total, unit):
                many = unit == "rows"
                self._begin(phase, phase.value, total=total, unit=f" {unit}", unit_scale=many)
            case ev.PhaseMoved(phase, done) if phase is self._phase:
                self._move(done)
            case ev.FitStarted(clusters, iteration, last, mini_batch):
                self._loss_text = _loss_of_batch if mini_batch else _loss_of_all
                name = f"k-means, {clusters} clusters"
                self._begin(Phase.ITERATIONS, name, initial=iteration, total=last, unit="it")
            case ev.IterationDone() if self._phase is Phase.ITERATIONS:
                speed = tqdm.format_sizeof(event.rows_per_s)
                text = f"{self._loss_text(event.line)}, {speed} rows/s"
                self._bar.set_postfix_str(text, refresh=False)
                self._move(event.line.iteration)
            case ev.DataLoaded() | ev.Seeded() | ev.FitEnded():
                self._end()
                if not isinstance(event, ev.FitEnded):
                    self._write(str(event))
            case ev.KernelsReady():
                self._write(f"computing by {event}")
            case ev.RestartEnded() | ev.NodesSplit():
                self._write(str(event))

    def _begin(self, phase: Phase, name: str, **kind: Any) -> None:
        """Begin the bar of a phase; `kind`: arguments of tqdm that are its own."""
        self._end()
        leave = phase not in (Phase.READING, Phase.SEEDING)  # their events have a line of their own
        self._bar = tqdm(**{"desc": name, "leave": leave, **kind, **self._style})
        self._phase = phase

    def _move(self, done: int) -> None:
        """Move the bar to this many units."""
        self._bar.update(done - self._bar.n)

    def _end(self) -> None:
        """End the bar, if there is one."""
        if self._bar is not None:
            self._bar.close()
        self._bar = self._phase = None

    def _write(self, text: str) -> None:
        """Write a line above the bar of a terminal."""
        if self._is_drawn:
            tqdm.write(text, file=sys.stderr)


def _loss_of_all(line: Iteration) -> str:
    """Return the inertia of a step over all rows, as text."""
    return f"inertia {line.inertia:.6g}"


def _loss_of_batch(line: Iteration) -> str:
    """Return the loss per row of a mini-batch, and the smoothed one that ends the fit, as text."""
    smoothed = "" if line.smoothed is None else f" (smoothed {line.smoothed:.6g})"
    return f"loss per row {line.loss_per_row:.6g}{smoothed}"


def _tqdm_style() -> dict[str, Any]:
    """Return the arguments of tqdm that suit standard error: a terminal, a job's log, or other."""
    if sys.stderr.isatty():
        return {"file": sys.stderr, "dynamic_ncols": True}
    if RAY_JOB in os.environ:
        pause = {"delay": LINE_EVERY_S, "mininterval": LINE_EVERY_S, "miniters": 1}
        return {"file": _LinesOnStderr(), "ncols": 0, "leave": False, **pause}
    return {"disable": True}


class _LinesOnStderr:
    """Writes to standard error; a text that is meant to overwrite a line becomes the next line."""

    def write(self, text: str) -> None:
        """Write a text as a line of its own; nothing if it is blank."""
        if line := text.strip():
            sys.stderr.write(f"{line}\n")

    def flush(self) -> None:
        sys.stderr.flush()
