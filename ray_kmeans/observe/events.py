"""What can happen in a run, as values. The run emits them in order; listeners do the rest."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from ray_kmeans.algorithm.state import Iteration, Stop


@dataclass(frozen=True)
class Waiting:
    """Workers have not started yet: the Ray cluster has no room for them, or is growing."""

    missing: int
    workers: int
    free_cpus: float

    def __str__(self) -> str:
        """Say so in words."""
        return (
            f"{self.missing} of {self.workers} workers have not started: {self.free_cpus} CPU are "
            "free; waiting for nodes that come, or for what others use now"
        )


@dataclass(frozen=True)
class Planned:
    """What workers will hold, as far as metadata tell."""

    workers: int
    threads: int
    """Of each."""
    rows: int
    """Of the largest shard."""
    place: str
    """Where it is kept, and as what."""
    num_bytes: int
    """That a worker holds at most."""


class Phase(Enum):
    """What a run does one after the other; the value is the word shown to the user."""

    READING = "reading"
    SEEDING = "seeding"
    ITERATIONS = "iterations"
    WRITING = "writing"
    GATHERING = "gathering"


@dataclass(frozen=True)
class PhaseBegan:
    """Something begins that may take long.

    DataLoaded ends the reading and Seeded the seeding. The iterations have no event of this kind:
    FitStarted begins them, every IterationDone moves them and FitEnded ends them.
    """

    phase: Phase
    total: int | None
    """Units until it is over; None: not known before."""
    unit: str
    """What is counted: rows, centers, rounds."""


@dataclass(frozen=True)
class PhaseMoved:
    """A phase has got on."""

    phase: Phase
    done: int
    """Units so far."""


@dataclass(frozen=True)
class DataLoaded:
    """The workers hold their shards."""

    rows: int
    features: int
    seconds: float
    """From the start of reading, both looks at the data included."""
    coordinator: tuple[str, int]
    """(host, pid)"""
    workers: tuple[tuple[str, int], ...]
    """(host, pid) of each."""

    @property
    def num_bytes(self) -> int:
        """Size of the rows as float32."""
        return self.rows * self.features * 4


LONG_S = 1.0
"""From so many seconds on it is said what took them."""


@dataclass(frozen=True)
class KernelsReady:
    """What labels rows in each worker is compiled, and checked against another way."""

    workers: tuple[tuple[str, int, float], ...]
    """(what computes, threads, seconds to get ready) of each; the first time, it is compiled."""
    coordinator: float = 0.0
    """Seconds for what the coordinator computes with."""

    def __str__(self) -> str:
        """Say how many workers compute by what, in how many threads, and how long that took."""
        kinds = Counter((name, threads) for name, threads, _ in self.workers)
        what = ", ".join(
            f"{count} x {name} in {threads} threads" for (name, threads), count in kinds.items()
        )
        seconds = self.coordinator + max(seconds for *_, seconds in self.workers)
        why = " (numba compiles what its cache does not hold)" if seconds >= LONG_S else ""
        return f"{what}; ready after {seconds:.1f} s{why}"


@dataclass(frozen=True)
class Seeded:
    """The initial centers of a new model are chosen."""

    method: str
    num_clusters: int
    seconds: float


@dataclass(frozen=True)
class FitStarted:
    """The centers before the first iteration of this fit are known."""

    num_clusters: int
    iteration: int
    """Steps already done: 0 for a new model, else it continues."""
    last_iteration: int | None
    """Where steps or max_steps end the fit, if given."""
    mini_batch: bool = False
    """Whether a step visits some rows, so that what it sums up is not of all."""


@dataclass(frozen=True)
class IterationDone:
    """One step: over all rows, or over those of a mini-batch."""

    line: Iteration
    seconds: float
    wait: float = 0.0
    """Seconds of these from the first worker's answer to the last one's."""
    reduce: float = 0.0
    """Seconds of these from the last answer to the new centers."""

    @property
    def compute(self) -> float:
        """Seconds from the centers to the first worker's answer."""
        return max(self.seconds - self.wait - self.reduce, 0.0)

    @property
    def rows_per_s(self) -> float:
        """Rows of the step for each second of it."""
        return self.line.rows / self.seconds if self.seconds else math.inf


@dataclass(frozen=True)
class CheckpointSaved:
    """A checkpoint is visible to readers."""

    path: str
    iteration: int
    seconds: float = field(default=0.0, compare=False)
    """From the state to the file that makes it visible."""


@dataclass(frozen=True)
class WorkerReplaced:
    """A worker died; another process took over its blocks and redoes its part of the sweep."""

    worker: int
    cause: str

    def __str__(self) -> str:
        """Say so in words."""
        return f"worker {self.worker} was lost and is replaced: {self.cause}"


@dataclass(frozen=True)
class WorkersLag:
    """Some workers take far longer than the others, which now do their work too."""

    workers: int
    rows: int
    """That are computed twice; the answer that comes first counts."""

    def __str__(self) -> str:
        """Say so in words."""
        return f"{self.workers} workers lag: {self.rows:,} rows are computed elsewhere too"


@dataclass(frozen=True)
class WorkersJoined:
    """Workers have come and take blocks from the others."""

    workers: int
    """That there are now."""

    def __str__(self) -> str:
        """Say so in words."""
        return f"workers have joined; there are {self.workers} now"


@dataclass(frozen=True)
class CoordinatorReplaced:
    """The coordinator died; another one goes on from the last checkpoint."""

    cause: str

    def __str__(self) -> str:
        """Say so in words."""
        return f"the coordinator was lost and is replaced: {self.cause}"


@dataclass(frozen=True)
class Peaks:
    """The iterations are over; the most memory that each worker has held so far."""

    num_bytes: tuple[int, ...]


@dataclass(frozen=True)
class Warned:
    """Something that the user should know about data or parameters."""

    message: str


@dataclass(frozen=True)
class Logged:
    """The coordinator has put a warning into the log of its own process."""

    message: str


@dataclass(frozen=True)
class FitEnded:
    """The fit is over and its last checkpoint is saved."""

    stop: Stop
    iteration: int


@dataclass(frozen=True)
class EndedBefore:
    """The model is at the end of the fit that is asked for, so nothing is to do."""

    stop: Stop | None
    """Why it ended; None where nothing else than the number of its steps says so."""
    iteration: int

    def __str__(self) -> str:
        """Say so in words."""
        why = self.stop.value if self.stop else "the steps asked for are made"
        return f"the model has ended already, after {self.iteration:,} steps: {why}; nothing to do"


Event: TypeAlias = (
    Planned
    | Waiting
    | PhaseBegan
    | PhaseMoved
    | DataLoaded
    | KernelsReady
    | Seeded
    | FitStarted
    | IterationDone
    | CheckpointSaved
    | WorkerReplaced
    | WorkersLag
    | WorkersJoined
    | CoordinatorReplaced
    | Peaks
    | Warned
    | Logged
    | FitEnded
    | EndedBefore
)

Emit: TypeAlias = Callable[[Event], None]


def begin(emit: Emit, phase: Phase, total: int, unit: str) -> Callable[[int], None]:
    """Tell that a phase begins; return what tells how far it is."""
    emit(PhaseBegan(phase, total, unit))
    return lambda done: emit(PhaseMoved(phase, done))
