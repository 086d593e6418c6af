"""The state of a fit as a value. A checkpoint is one of these."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.row_spec import RowSpec
from ray_kmeans.algorithm.tree import Tree


class Stop(Enum):
    """Why a fit ended; the value is the sentence shown to the user."""

    CONVERGED = "converged: no center moved, so no label will"
    TOLERANCE = "the relative change of the loss fell below relative_tolerance"
    STEPS = "the number of steps asked for was reached before the centers settled"
    CYCLE = "the centers came back to those of an earlier iteration (rounding), so they repeat"
    NO_IMPROVEMENT = "the smoothed loss has not improved for 10 iterations"
    EPOCHS = "the data were seen 100 times"
    END_OF_INPUT = "the input ended"
    MONITOR = "a monitor asked to stop"
    SECONDS = "max_seconds were over; the same call again goes on from here"


OWN_ENDS = (Stop.CONVERGED, Stop.TOLERANCE, Stop.CYCLE, Stop.NO_IMPROVEMENT, Stop.EPOCHS)
"""Ends that follow from the data and the rule alone: the same fit, asked for again, ends there."""


GIVEN = "the given centers"
"""Beginning of the name of centers that were given."""


@dataclass(frozen=True)
class Origin:
    """Origin of the first centers of a model; it does not change while the model trains."""

    initial: str = "random"
    """The method that chose them, or a name for centers or a function that were given."""
    random_seed: int = 0
    """Random seed of the first fit."""
    retries: int = 2
    """Further candidates for each center of k-means++."""

    @property
    def is_drawn(self) -> bool:
        """Whether the random seed decided which centers these are."""
        return not self.initial.startswith(GIVEN)


@dataclass(frozen=True)
class Iteration:
    """One line of the history: one step."""

    iteration: int
    """Number of the step, from 1 on, over all fits of the model."""
    rows: int
    """Number of rows that the step visited: all that count, or those of a mini-batch."""
    inertia: float
    """Sum of the distances of these rows to the nearest center before the step's update."""
    shift: float
    """Largest move of any coordinate of any center in the update; 0 for a step without one."""
    empty: int
    """Number of clusters without a row: in the sweep, or since their mini-batch counts began."""
    digest: str
    """Name of the centers after the update, see `digest`."""
    smoothed: float | None = field(default=None, compare=False)
    """Loss per row, averaged over about one epoch of this fit: what ends mini-batch. None for full
    batch, where the input has no known end, and within an iteration of several steps. Not compared:
    a step that is the same does not have the same ones before it in every fit."""
    relocated: int = 0
    """Number of centers of empty or starved clusters that were moved to rows."""

    @property
    def loss_per_row(self) -> float:
        """Mean of the distances, by which batches of different sizes can be compared."""
        return self.inertia / self.rows if self.rows else 0.0


@dataclass(frozen=True)
class Accumulators:
    """Accumulators that mini-batch carries from step to step besides the centers."""

    steps_per_iteration: int
    """Number of steps between two updates of the centers, m."""
    done: int
    """Number of steps since the last update of the centers, below m."""
    sums: NDArray[np.float64]
    """(2, k, d) Sum of the rows that `FitState.counts` counts, as double-doubles (high, low). Exact
    while the data stay the same, and so the same however many steps were added at once."""


@dataclass(frozen=True)
class Sample:
    """The part of the rows that a step of nested mini-batches visits."""

    halvings: int
    """Number of times that the rows were halved, each by a draw; 0 for all rows."""
    since: int
    """Value of `FitState.iteration` when the sample became this one."""


@dataclass(frozen=True)
class Restart:
    """One of several fits from other random seeds, of which the model is the best."""

    random_seed: int
    """Random seed of the restart."""
    inertia: float
    """Sum of the distances of all rows to the nearest of its last centers."""
    iterations: int
    """Number of its steps."""
    stop: Stop | None
    """Why it ended."""


@dataclass(frozen=True)
class FitState:
    """All that is needed to continue a fit; a checkpoint stores it."""

    centers: NDArray[np.float32]
    """(k, d) Centers; for cosine of norm 1."""
    counts: NDArray[np.int64] | NDArray[np.float64]
    """(k,) Weight of the rows of each cluster: int64 if all weights are whole, else float64. In
    full batch those of the last sweep, zeros before the first. In mini-batch those in
    `accumulators.sums`; with m = 1 the initial center counts as one row."""
    metric: Metric = Metric.SQUARED_EUCLIDEAN
    """Distance metric: 'squared_euclidean' or 'cosine'."""
    iteration: int = 0
    """Number of completed steps over all fits of this model (TensorFlow's global_step)."""
    began_at: int = 0
    """Value of `iteration` when the current fit began."""
    history: tuple[Iteration, ...] = ()
    """One line for each step, the newest last."""
    stop: Stop | None = None
    """Why the last fit ended; None while one is under way, or was cut off."""
    data_name: str = ""
    """Name of the data that the current fit sees; empty if they have none (a stream)."""
    request: str = ""
    """Name of what the current fit was asked for, besides the data."""
    data_since: int = 0
    """Value of `iteration` when a fit first saw these data: there their first epoch began."""
    accumulators: Accumulators | None = None
    """Accumulators of mini-batch; None for full batch."""
    rows: RowSpec | None = None
    """Record of how the rows were read; None in checkpoints of versions without it."""
    origin: Origin | None = None
    """Origin of the first centers; None in checkpoints of versions without it."""
    restarts: tuple[Restart, ...] = ()
    """The restarts among which the model was the best; empty where it was the only fit."""
    tree: Tree | None = None
    """The levels above the clusters, by which they were found; None for clusters of one level."""
    sample: Sample | None = None
    """Sample of the next step of nested mini-batches; None where the last fit had none."""

    @classmethod
    def initial(
        cls,
        centers: NDArray[np.float32],
        metric: Metric = Metric.SQUARED_EUCLIDEAN,
        origin: Origin | None = None,
    ) -> FitState:
        """Return the state before the first step; for cosine, `centers` are unit rows."""
        return cls(centers, np.zeros(len(centers), np.int64), metric, origin=origin)

    def begin(self, data_name: str, request: str = "") -> FitState:
        """Return the state in which a fit on these data starts.

        A fit that was cut off goes on where it was when it is asked for again; so a killed fit that
        is run again equals one that was not killed, also in its number of steps. So does one whose
        time was over. A fit at its fixed point stays there.
        """
        same = self.saw(data_name)
        if same and self.stop is Stop.CONVERGED:
            return self
        if same and self.stop in (None, Stop.SECONDS) and request == self.request:
            return replace(self, stop=None)
        return replace(
            self,
            began_at=self.iteration,
            stop=None,
            data_name=data_name,
            request=request,
            data_since=self.data_since if same else self.iteration,
            sample=self.sample if same else None,
        )

    def saw(self, data_name: str) -> bool:
        """Tell whether the last fit saw the data of this name; never if data have no name."""
        return data_name == self.data_name and data_name != ""

    @property
    def shift(self) -> tuple[float, ...]:
        """(d,) Values that are subtracted from rows before these are compared with centers, or
        ()."""
        return self.rows.shift if self.rows else ()

    @property
    def clusters(self) -> NDArray[Any]:
        """(k, d) Centers among the rows as the user gives them: float64 if these are shifted."""
        return self.centers + np.asarray(self.shift) if self.shift else self.centers

    @property
    def model_name(self) -> list[Any]:
        """Name of all that decides the labels of rows, as labelled output keeps it."""
        return [digest(self.centers), str(self.metric), *self.shift]

    @property
    def lines(self) -> tuple[Iteration, ...]:
        """Lines of the history that are of the current fit."""
        return self.history[len(self.history) - (self.iteration - self.began_at) :]


def digest(centers: NDArray[np.float32]) -> str:
    """Return a name of the bits of these centers: 16 hexadecimal digits."""
    return hashlib.sha256(centers.astype("<f4").tobytes()).hexdigest()[:16]


def largest_move(before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    """Return the largest move of any coordinate of any center."""
    return float(np.abs(after.astype(np.float64) - before).max())
