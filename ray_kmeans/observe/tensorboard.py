"""Event files that TensorBoard draws, made whole on this machine and handed to any store."""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

from ray_kmeans.errors import ConfigError, install_hint
from ray_kmeans.observe import events as ev

log = logging.getLogger("ray_kmeans")

Publish: TypeAlias = Callable[[str, bytes], None]
"""Makes a file of this name and content visible in one step, in place of the one before."""


def tensorboard_installed() -> bool:
    """Tell whether event files can be written, without importing what writes them."""
    return find_spec("tensorboardX") is not None


def write_evaluation(metrics: Mapping[str, float], step: int, publish: Publish) -> None:
    """Publish one event file with these scalars at `step`."""
    with _EventFile() as file:
        file.add(metrics, step)
        publish(file.name, file.content())


class Summaries:
    """Scalars of a fit, published with every checkpoint.

    'loss/raw' and 'global_step/sec' are the seed's, with its names; 'rows/sec', 'shift' and
    'empty_clusters' stand beside them, and with mini-batches 'loss/per_row' and 'loss/smoothed',
    since 'loss/raw' sums up one batch there. All steps of full batch are drawn.

    Parameters
    ----------
    every : int
        Steps of mini-batch between two points of a curve (``save_summary_steps``); the first and
        the last one are drawn, too.
    publish : callable
        Takes the name of the event file and all of its content so far.
    """

    def __init__(self, every: int, publish: Publish) -> None:
        self._every = every
        self._publish = publish
        self._apart = every
        self._mini_batch = False
        self._drawn = 0
        self._published = 0
        self._undrawn: ev.IterationDone | None = None
        """The newest step, where it has no point."""
        self._file = _EventFile()

    def __call__(self, event: ev.Event) -> None:
        match event:
            case ev.FitStarted():
                self._mini_batch = event.mini_batch
                self._apart = self._every if event.mini_batch else 1
            case ev.IterationDone():
                self._see(event)
            case ev.CheckpointSaved():
                self._publish_new()
            case ev.FitEnded():
                self._draw_last()
                self._publish_new()

    def close(self) -> None:
        """Publish what is left of a fit that was cut off, and tidy up; twice is no error.

        What fails here is logged: raised, it would stand in the place of what ended the fit.
        """
        try:
            with self._file:
                self._draw_last()
                self._publish_new()
        except Exception:
            log.warning("the last summaries are not published", exc_info=True)
        self._published = self._drawn

    def _see(self, event: ev.IterationDone) -> None:
        iteration = event.line.iteration
        if iteration <= self._drawn:
            return  # done again, as the fit went on from its last checkpoint
        if self._drawn == 0 or iteration % self._apart == 0:
            self._draw(event)
        else:
            self._undrawn = event

    def _draw_last(self) -> None:
        if self._undrawn is not None:
            self._draw(self._undrawn)

    def _draw(self, event: ev.IterationDone) -> None:
        self._undrawn = None
        self._drawn = event.line.iteration
        self._file.add(_scalars(event, self._mini_batch), self._drawn)

    def _publish_new(self) -> None:
        if self._published < self._drawn:
            self._publish(self._file.name, self._file.content())
            self._published = self._drawn


def _scalars(event: ev.IterationDone, mini_batch: bool) -> dict[str, float]:
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


class _EventFile:
    """One event file in a directory of its own, which goes when the file is closed."""

    def __init__(self) -> None:
        try:
            # Not SummaryWriter: its flush leaves out what its thread has not written yet.
            from tensorboardX.event_file_writer import EventsWriter
        except ImportError as error:
            raise ConfigError(
                "summaries for TensorBoard need tensorboardX, which cannot be imported here "
                f"({error}). {install_hint('tensorboard')}"
            ) from error
        with ExitStack() as opened:
            folder = Path(opened.enter_context(TemporaryDirectory(prefix="ray_kmeans-")))
            # By itself it names a file by host and second only.
            suffix = f".{uuid.uuid4().hex[:12]}"
            self._writer = EventsWriter(str(folder / "events"), filename_suffix=suffix)
            opened.callback(self._writer.close)
            (self._path,) = folder.iterdir()
            self._opened = opened.pop_all()
        self.name = self._path.name

    def __enter__(self) -> _EventFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def add(self, scalars: Mapping[str, float], step: int) -> None:
        """Add one point to each of these curves."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=float(y)) for tag, y in scalars.items()]
        event = Event(wall_time=time.time(), step=step, summary=Summary(value=values))
        self._writer.write_event(event)

    def content(self) -> bytes:
        """Return the whole file so far."""
        self._writer.flush()
        return self._path.read_bytes()
