"""The events of a run, as values: the run emits them in order, and listeners log, draw or store.

`str` of an event is a sentence for people, which the log writes after a word. The pairs
``key=value`` of an iteration are made in `observe.log`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from ray_kmeans.algorithm.state import Iteration, Restart, Stop
from ray_kmeans.text.quantities import format_bytes, in_words

# --- told by the driver, before the work begins and while it waits


@dataclass(frozen=True)
class Planned:
    """The driver has planned from metadata what each worker will hold."""

    workers: int
    """Number of workers."""
    threads: int
    """Threads of each worker."""
    rows: int
    """Rows of the largest shard."""
    place: str
    """Place and type in which a worker keeps its rows, as text: 'memory as float32'."""
    num_bytes: int
    """Planned peak memory of a worker, in bytes."""

    def __str__(self) -> str:
        """Return the event as a sentence."""
        who = f"{in_words(self.workers, 'worker')} of {in_words(self.threads, 'thread')}"
        bound = f"{format_bytes(self.num_bytes)} at most"
        return f"{who}, each with {bound}: {in_words(self.rows, 'row')} in {self.place}"


@dataclass(frozen=True)
class Waiting:
    """The driver waits for workers: the Ray cluster has no room for them yet, or is growing."""

    missing: int
    """Workers that have not started."""
    workers: int
    """Workers that the run asks for."""
    free_cpus: float
    """CPUs of the Ray cluster that nobody uses."""

    def __str__(self) -> str:
        """Return the event as a sentence."""
        return (
            f"{self.missing} of {self.workers} workers have not started: {self.free_cpus} CPU are "
            "free; waiting for nodes that come, or for what others use now"
        )


@dataclass(frozen=True)
class EndedBefore:
    """The model has reached the end of the fit that is asked for, so there is nothing to do."""

    stop: Stop | None
    """Why the fit ended; None if only the number of its steps says so."""
    iteration: int
    """Steps that the model was trained."""

    def __str__(self) -> str:
        """Return the event as a sentence."""
        why = self.stop.value if self.stop else "the steps asked for are made"
        return f"the model has ended already, after {self.iteration:,} steps: {why}; nothing to do"


# --- told by whoever does long work: the coordinator of a fit, or the driver of any other run


class Phase(Enum):
    """A phase of a run; the value is the word that users see."""

    READING = "reading"
    SEEDING = "seeding"
    ITERATIONS = "iterations"
    WRITING = "writing"
    GATHERING = "gathering"


@dataclass(frozen=True)
class PhaseBegan:
    """A phase begins that may take long.

    DataLoaded ends the reading and Seeded the seeding. The iterations have no event of this kind:
    FitStarted begins them, every IterationDone moves them and FitEnded ends them.
    """

    phase: Phase
    """The phase that begins."""
    total: int | None
    """Units of work in the phase; None if that is not known before."""
    unit: str
    """The unit that `total` and `done` count: 'rows', 'centers' or 'rounds'."""

    def __str__(self) -> str:
        """Return the event as a sentence."""
        return self.unit if self.total is None else f"{self.total:,} {self.unit}"


@dataclass(frozen=True)
class PhaseMoved:
    """A phase has made progress."""

    phase: Phase
    """The phase that made progress."""
    done: int
    """Units of work done so far."""


# --- told by the coordinator, in this order: before, between and after the iterations


@dataclass(frozen=True)
class DataLoaded:
    """The workers have read their shards."""

    rows: int
    """Rows of all shards together."""
    features: int
    """Features of a row."""
    seconds: float
    """Seconds of reading, from the start of the pool to the summary of all shards."""
    coordinator: tuple[str, int]
    """The coordinator's (host, process id)."""
    workers: tuple[tuple[str, int], ...]
    """The (host, process id) of each worker."""

    @property
    def num_bytes(self) -> int:
        """Size of all rows as float32, in bytes."""
        return self.rows * self.features * 4

    def __str__(self) -> str:
        """Return the event as a sentence."""
        return (
            f"{self.rows:,} rows x {self.features:,} in {in_words(len(self.workers), 'worker')}, "
            f"read in {self.seconds:.1f} s"
        )


LONG_S = 1.0
"""Seconds to get kernels ready from which on the sentence also says what takes so long."""


@dataclass(frozen=True)
class KernelsReady:
    """The kernels of all workers are compiled, and have passed their check against another one."""

    workers: tuple[tuple[str, int, float], ...]
    """The (name of the kernel, threads, seconds to get ready) of each worker."""
    coordinator: float = 0.0
    """Seconds to compile what the coordinator computes with."""

    def __str__(self) -> str:
        """Return the kernels, their threads and how long they took, as the end of a sentence."""
        kinds = Counter((name, threads) for name, threads, _ in self.workers)
        kernels = ", ".join(
            f"{count} x {name} in {threads} threads" for (name, threads), count in kinds.items()
        )
        seconds = self.coordinator + max(seconds for *_, seconds in self.workers)
        why = " (numba compiles what its cache does not hold)" if seconds >= LONG_S else ""
        return f"{kernels}; ready after {seconds:.1f} s{why}"


@dataclass(frozen=True)
class Seeded:
    """The initial centers of a new model are chosen."""

    method: str
    """Name of the seeding method."""
    num_clusters: int
    """Number of centers chosen."""
    seconds: float
    """Seconds that the seeding took."""

    def __str__(self) -> str:
        """Return the event as a sentence."""
        return f"{self.num_clusters:,} initial centers by {self.method}, in {self.seconds:.1f} s"


@dataclass(frozen=True)
class FitStarted:
    """The fit is about to make its first iteration."""

    num_clusters: int
    """Number of clusters."""
    iteration: int
    """Steps already done: 0 for a new model, more for one that continues."""
    last_iteration: int | None
    """Step at which `steps` or `max_steps` ends the fit; None if neither is given."""
    mini_batch: bool = False
    """Whether a step visits a mini-batch only, so that its inertia is not of all rows."""

    def __str__(self) -> str:
        """Return the event as a sentence."""
        how = "mini-batch" if self.mini_batch else "full batch"
        goes_on = f" after step {self.iteration:,}" if self.iteration else ""
        end = "" if self.last_iteration is None else f", to step {self.last_iteration:,} at most"
        return f"{in_words(self.num_clusters, 'cluster')} by {how}{goes_on}{end}"


@dataclass(frozen=True)
class IterationDone:
    """A step is done, over all rows or over a mini-batch."""

    line: Iteration
    """The line of the history that the step has added."""
    seconds: float
    """Seconds of the whole step."""
    wait: float = 0.0
    """Seconds of the step between the first worker's answer and the last one's."""
    reduce: float = 0.0
    """Seconds of the step between the last worker's answer and the new centers."""

    @property
    def compute(self) -> float:
        """Seconds of the step until the first worker's answer."""
        return max(self.seconds - self.wait - self.reduce, 0.0)

    @property
    def rows_per_s(self) -> float:
        """Rows visited per second of the step."""
        return self.line.rows / self.seconds if self.seconds else math.inf


@dataclass(frozen=True)
class CheckpointSaved:
    """A checkpoint is visible to readers."""

    path: str
    """Path or URL of its manifest."""
    iteration: int
    """Step whose state it holds."""
    seconds: float = field(default=0.0, compare=False)
    """Seconds from the state in memory to the manifest in the store."""

    def __str__(self) -> str:
        """Return the event as a sentence."""
        return f"{self.path} (step {self.iteration:,}, saved in {self.seconds:.1f} s)"


@dataclass(frozen=True)
class Peaks:
    """The iterations are over, and the workers have reported their peak memory."""

    num_bytes: tuple[int, ...]
    """Peak resident memory of each worker process so far, in bytes."""

    def __str__(self) -> str:
        """Return the event as a sentence."""
        return f"{format_bytes(max(self.num_bytes))} at the peak of the largest worker"


@dataclass(frozen=True)
class FitEnded:
    """The fit is over and its last checkpoint is saved."""

    stop: Stop
    """Why the fit ended."""
    iteration: int
    """Steps that the model was trained."""

    def __str__(self) -> str:
        """Return the event as a sentence."""
        return f"{self.stop.value} (after {in_words(self.iteration, 'step')})"


@dataclass(frozen=True)
class RestartEnded:
    """One of several fits from other random seeds has ended."""

    number: int
    """Number of the restart, from 1 on."""
    count: int
    """Number of all restarts."""
    restart: Restart
    """Seed, inertia, steps and end of the restart."""

    def __str__(self) -> str:
        """Return the event as a sentence."""
        one = self.restart
        return (
            f"restart {self.number} of {self.count} (random_seed={one.random_seed}): inertia "
            f"{one.inertia:.6g} after {one.iterations:,} steps"
        )


@dataclass(frozen=True)
class NodesSplit:
    """Some more nodes of a level of a tree are split."""

    level: int
    """Number of the level of their children; the top is 1."""
    done: int
    """Nodes that are split so far."""
    count: int
    """All nodes to split."""
    children: int
    """Children of those that are split."""

    def __str__(self) -> str:
        """Return the event as a sentence."""
        return (
            f"level {self.level} of the tree: {self.done:,} of {self.count:,} nodes are split into "
            f"{self.children:,} clusters"
        )


# --- told by the pool, when workers are lost, slow or new


@dataclass(frozen=True)
class WorkerReplaced:
    """A worker died; another process takes over its blocks and redoes its part of the sweep."""

    worker: int
    """Number of the worker."""
    cause: str
    """Cause of its death as Ray gives it, in one line."""

    def __str__(self) -> str:
        """Return the event as a sentence."""
        return f"worker {self.worker} was lost and is replaced: {self.cause}"


@dataclass(frozen=True)
class WorkersLag:
    """Some workers take far longer than the others, which compute their rows too."""

    workers: int
    """Number of slow workers."""
    rows: int
    """Rows that are computed twice; the answer that comes first counts."""

    def __str__(self) -> str:
        """Return the event as a sentence."""
        return f"{self.workers} workers lag: {self.rows:,} rows are computed elsewhere too"


@dataclass(frozen=True)
class WorkersJoined:
    """New workers have started and take blocks from the others."""

    workers: int
    """Number of workers, the new ones included."""

    def __str__(self) -> str:
        """Return the event as a sentence."""
        return f"workers have joined; there are {self.workers} now"


# --- told by the driver, about the coordinator


@dataclass(frozen=True)
class CoordinatorReplaced:
    """The coordinator died; another one goes on from the last checkpoint."""

    cause: str
    """Cause of its death as Ray gives it, in one line."""

    def __str__(self) -> str:
        """Return the event as a sentence."""
        return f"the coordinator was lost and is replaced: {self.cause}"


# --- told by the driver or the coordinator, at any time


@dataclass(frozen=True)
class Warned:
    """The user should know something about the data or the parameters."""

    message: str
    """The warning, a sentence."""


@dataclass(frozen=True)
class Logged:
    """The coordinator has written a warning to the log of its own process."""

    message: str
    """The text of the log record."""


Event: TypeAlias = (
    Planned
    | Waiting
    | EndedBefore
    | PhaseBegan
    | PhaseMoved
    | DataLoaded
    | KernelsReady
    | Seeded
    | FitStarted
    | IterationDone
    | CheckpointSaved
    | Peaks
    | FitEnded
    | RestartEnded
    | NodesSplit
    | WorkerReplaced
    | WorkersLag
    | WorkersJoined
    | CoordinatorReplaced
    | Warned
    | Logged
)
"""Any event of a run."""

Emit: TypeAlias = Callable[[Event], None]
"""A listener: it is called with every event, in order."""


def begin(emit: Emit, phase: Phase, total: int, unit: str) -> Callable[[int], None]:
    """Emit that a phase begins; return a function that emits how many units of it are done."""
    emit(PhaseBegan(phase, total, unit))
    return lambda done: emit(PhaseMoved(phase, done))
