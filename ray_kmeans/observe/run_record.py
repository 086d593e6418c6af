"""What a run did and how long that took: one small file for each run, beside its model."""

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
VERSION = 1
MOST_SPANS = 512
"""Spans of a run at most; when there are more, two neighbours become one."""


@dataclass
class Span:
    """Some steps that followed each other."""

    iteration: int
    """The last one."""
    steps: int
    compute: float
    wait: float
    reduce: float
    """Seconds of all of them, see `events.IterationDone`."""

    def joined(self, later: Span) -> Span:
        """Return this and the next one as one."""
        return Span(
            later.iteration,
            self.steps + later.steps,
            self.compute + later.compute,
            self.wait + later.wait,
            self.reduce + later.reduce,
        )


@dataclass
class RunRecord:
    """The record of a run. Times are in seconds; what is not known yet is 0 or empty."""

    began: str
    """When, in UTC, as ISO 8601 has it."""
    workers: int = 0
    rows: int = 0
    features: int = 0
    reading: float = 0.0
    kernels: str = ""
    seeding: float = 0.0
    spans: list[Span] = field(default_factory=list)
    checkpoints: int = 0
    checkpointing: float = 0.0
    """Most of it while the next iteration computes."""
    survived: list[str] = field(default_factory=list)
    """What failed, with the time of the day."""
    planned_rows: int = 0
    planned_bytes: int = 0
    """Of a worker, at most."""
    place: str = ""
    peak_bytes: int = 0
    """The most that a worker held."""

    def __bytes__(self) -> bytes:
        return json.dumps({"version": VERSION, **asdict(self)}).encode()

    @staticmethod
    def parse(data: bytes) -> RunRecord | None:
        """Return the record of a run, or None for one of a later version or none at all."""
        try:
            found: dict[str, Any] = json.loads(data)
            if found.pop("version") != VERSION:
                return None
            spans = [Span(**span) for span in found.pop("spans")]
            return RunRecord(spans=spans, **found)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None


class Journal:
    """Keeps the record of a run, and publishes it with every checkpoint.

    The record is for people to look at: where it cannot be written the log says so, and the fit
    goes on.

    Parameters
    ----------
    publish : callable
        Takes the name of the file and all of its content so far.
    """

    def __init__(self, publish: Callable[[str, bytes], None]) -> None:
        now = datetime.now(timezone.utc)
        self._publish = publish
        self._name = f"{FOLDER}/{now:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}.json"
        self._run = RunRecord(now.isoformat(timespec="seconds"))

    def __call__(self, event: ev.Event) -> None:
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
        spans = self._run.spans
        spans.append(Span(event.line.iteration, 1, event.compute, event.wait, event.reduce))
        if len(spans) > MOST_SPANS:
            pairs = zip(spans[::2], spans[1::2], strict=False)
            self._run.spans = [first.joined(second) for first, second in pairs] + spans[-1:]

    def _write(self) -> None:
        try:
            self._publish(self._name, bytes(self._run))
        except Exception as error:
            log.warning("the record of this run is not written: %s", error)
