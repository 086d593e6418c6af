"""TensorBoard writer: event files, made whole in memory and published to any store."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

from ray_kmeans.observe import events as ev
from ray_kmeans.observe.event_file import EventFile

log = logging.getLogger("ray_kmeans")

Publish: TypeAlias = Callable[[str, bytes], None]
"""``publish(name, content)`` makes a file visible in one step, in place of the one before."""


def write_evaluation(metrics: Mapping[str, float], step: int, publish: Publish) -> None:
    """Publish one event file with these scalars, by their tags, at `step`."""
    file = EventFile()
    file.add(metrics, step)
    publish(file.name, file.content())


class Summaries:
    """Listens to a fit and publishes its scalars for TensorBoard with every checkpoint.

    'loss/raw' and 'global_step/sec' are the scalars of TensorFlow's class, with its names.
    'rows/sec', 'shift' and 'empty_clusters' stand beside them, and with mini-batches 'loss/per_row'
    and 'loss/smoothed', since 'loss/raw' is the sum over one batch there. A full-batch fit has a
    point for every step.

    Parameters
    ----------
    every : int
        Mini-batch steps between two points of a curve (``save_summary_steps``); the first and the
        last step have a point, too.
    publish : callable
        Is called as ``publish(name, content)`` with the name of the event file and its whole
        content.
    """

    def __init__(self, every: int, publish: Publish) -> None:
        self._every = every
        self._publish = publish
        self._steps_apart = every
        """Steps between two points of a curve in this fit."""
        self._mini_batch = False
        self._newest_point = 0
        """Number of the newest step that has a point."""
        self._newest_published = 0
        """Number of the newest step whose point is published."""
        self._without_point: ev.IterationDone | None = None
        """The newest step, if it has no point yet."""
        self._file = EventFile()

    def __call__(self, event: ev.Event) -> None:
        """Add a point for an event that has one; publish where a checkpoint is saved or the fit
        ends."""
        match event:
            case ev.FitStarted():
                self._mini_batch = event.mini_batch
                self._steps_apart = self._every if event.mini_batch else 1
            case ev.IterationDone():
                self._see(event)
            case ev.CheckpointSaved():
                self._publish_new()
            case ev.FitEnded():
                self._add_last_point()
                self._publish_new()

    def close(self) -> None:
        """Publish the last points of a fit that was cut off.

        Closing twice is no error. A failure is only logged: raised, it would hide the error that
        ended the fit.
        """
        try:
            self._add_last_point()
            self._publish_new()
        except Exception:
            log.warning("the last summaries are not published", exc_info=True)
        self._newest_published = self._newest_point

    def _see(self, event: ev.IterationDone) -> None:
        """Add a point for a step, or keep the step until the end of the fit."""
        iteration = event.line.iteration
        if iteration <= self._newest_point:
            return  # a step is done again where the fit goes on from its last checkpoint
        if self._newest_point == 0 or iteration % self._steps_apart == 0:
            self._add_point(event)
        else:
            self._without_point = event

    def _add_last_point(self) -> None:
        """Add a point for the newest step, if it has none."""
        if self._without_point is not None:
            self._add_point(self._without_point)

    def _add_point(self, event: ev.IterationDone) -> None:
        """Add a point for a step to all curves."""
        self._without_point = None
        self._newest_point = event.line.iteration
        self._file.add(_scalars(event, self._mini_batch), self._newest_point)

    def _publish_new(self) -> None:
        """Publish the file, if it has points that are not published."""
        if self._newest_published < self._newest_point:
            self._publish(self._file.name, self._file.content())
            self._newest_published = self._newest_point


def _scalars(event: ev.IterationDone, mini_batch: bool) -> dict[str, float]:
    """Return the scalars of a step by their tags."""
    line = event.line
    of_batch = {"loss/per_row": line.loss_per_row, "loss/smoothed": line.smoothed}
    return {
        "loss/raw": event.line.inertia,
        "global_step/sec": 1 / event.seconds if event.seconds else math.inf,
        "rows/sec": event.rows_per_s,
        "shift": event.line.shift,
        "empty_clusters": event.line.empty,
        **{tag: y for tag, y in of_batch.items() if mini_batch and y is not None},
    }
