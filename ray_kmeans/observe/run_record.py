"""The run record: what a run did and how long that took, in a small file beside its model."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any

from ray_kmeans.observe import events as ev

log = logging.getLogger("ray_kmeans")

FOLDER = "runs"
"""Folder of a model's directory that holds the records."""
VERSION = 1
"""Version of the format; a record of any other version is not read."""
MOST_SPANS = 512
"""Largest number of spans in a record; when there are more, each two neighbours become one."""


@dataclass
class Span:
    """Consecutive steps of a run, with the seconds they took together."""

    iteration: int
    """Number of the last step."""
    steps: int
    """Number of steps."""
    compute: float
    """Seconds until the first worker's answer, summed over the steps."""
    wait: float
    """Seconds between the first and the last worker's answer, summed over the steps."""
    reduce: float
    """Seconds between the last worker's answer and the new centers, summed over the steps."""

    def joined(self, later: Span) -> Span:
        """Return one span of this one's steps and the later one's."""
        return Span(
            later.iteration,
            self.steps + later.steps,
            self.compute + later.compute,
            self.wait + later.wait,
            self.reduce + later.reduce,
        )


@dataclass
class RunRecord:
    """The record of a run; a value that is not known yet is 0 or empty."""

    began: str
    """Time at which the run began: UTC, ISO 8601, whole seconds."""
    workers: int = 0
    """Number of workers."""
    rows: int = 0
    """Rows of the data set."""
    features: int = 0
    """Features of a row."""
    reading: float = 0.0
    """Seconds of reading the shards."""
    kernels: str = ""
    """Kernels of the workers, their threads and how long they took to get ready, as text."""
    seeding: float = 0.0
    """Seconds of choosing the initial centers."""
    spans: list[Span] = field(default_factory=list)
    """The steps of the run, in order."""
    checkpoints: int = 0
    """Number of checkpoints saved."""
    checkpointing: float = 0.0
    """Seconds of saving checkpoints, most of them while the next iteration computes."""
    relocated: int = 0
    """Number of times that the center of an empty or starved cluster was moved to a row."""
    survived: list[str] = field(default_factory=list)
    """Failures that the run survived: time of the day in UTC, and a sentence."""
    planned_rows: int = 0
    """Rows of the largest shard, as planned."""
    planned_bytes: int = 0
    """Peak memory of a worker in bytes, as planned."""
    place: str = ""
    """Place and type in which a worker keeps its rows, as text: 'memory as float32'."""
    peak_bytes: int = 0
    """Peak memory of the worker that held the most, in bytes, as measured."""

    def __bytes__(self) -> bytes:
        return json.dumps({"version": VERSION, **asdict(self)}).encode()

    @staticmethod
    def parse(data: bytes) -> RunRecord | None:
        """Return the record in a file; None for another version, or if there is none."""
        try:
            found: dict[str, Any] = json.loads(data)
            if found.pop("version") != VERSION:
                return None
            spans = [Span(**span) for span in found.pop("spans")]
            return RunRecord(spans=spans, **found)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None


class Journal:
    """Listens to a run, keeps its record, and publishes that with every checkpoint.

    No program needs the record: where it cannot be written the log says so, and the fit goes on.

    Parameters
    ----------
    publish : callable
        Is called as ``publish(name, content)`` with the name of the file and its whole content.
    """

    def __init__(self, publish: Callable[[str, bytes], None]) -> None:
        """Begin a record whose name begins with the time, so that names sort by it."""
        now = datetime.now(timezone.utc)
        self._publish = publish
        self._name = f"{FOLDER}/{now:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}.json"
        self._run = RunRecord(now.isoformat(timespec="seconds"))

    def __call__(self, event: ev.Event) -> None:
        """Add what an event tells to the record."""
        run = self._run
        match event:
            case ev.Planned():
                run.planned_rows, run.planned_bytes = event.rows, event.num_bytes
                run.place = event.place
            case ev.DataLoaded():
                run.workers = len(event.workers)
                run.rows, run.features = event.rows, event.features
                run.reading += event.seconds
            case ev.KernelsReady():
                run.kernels = str(event)
            case ev.Seeded():
                run.seeding += event.seconds
            case ev.IterationDone():
                run.relocated += event.line.relocated
                self._add(event)
            case (
                ev.WorkerReplaced()
                | ev.WorkersLag()
                | ev.WorkersJoined()
                | ev.CoordinatorReplaced()
            ):
                run.survived.append(f"{datetime.now(timezone.utc):%H:%M:%S} {event}")
            case ev.CheckpointSaved():
                run.checkpoints += 1
                run.checkpointing += event.seconds
                self._write()
            case ev.Peaks():
                run.peak_bytes = max(event.num_bytes)
            case ev.FitEnded():
                self._write()

    def _add(self, event: ev.IterationDone) -> None:
        """Append a span of one step; halve the number of spans when there are too many."""
        spans = self._run.spans
        spans.append(Span(event.line.iteration, 1, event.compute, event.wait, event.reduce))
        if len(spans) > MOST_SPANS:
            pairs = zip(spans[::2], spans[1::2], strict=False)
            self._run.spans = [first.joined(second) for first, second in pairs] + spans[-1:]

    def _write(self) -> None:
        """Publish the record; only log if that fails."""
        try:
            self._publish(self._name, bytes(self._run))
        except Exception as error:
            log.warning("the record of this run is not written: %s", error)
