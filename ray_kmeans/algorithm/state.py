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


OWN_ENDS = (Stop.CONVERGED, Stop.TOLERANCE, Stop.CYCLE, Stop.NO_IMPROVEMENT, Stop.EPOCHS)
"""Ends that follow from the data and the rule alone: the same fit, asked for again, ends there."""


GIVEN = "the given centers"
"""Begins the name of centers that were given."""


@dataclass(frozen=True)
class Origin:
    """Where the first centers of a model came from; it does not change while the model trains."""

    initial: str = "random"
    """The method that chose them, or a name for centers or a function that were given."""
    random_seed: int = 0
    """The seed of the first fit."""
    retries: int = 2
    """Further candidates for each center of k-means++."""

    @property
    def is_drawn(self) -> bool:
        """Whether the seed decided which centers these are."""
        return not self.initial.startswith(GIVEN)


@dataclass(frozen=True)
class Iteration:
    """One line of the history: one step."""

    iteration: int
    rows: int
    """Rows of the step: all of them, or those of a mini-batch."""
    inertia: float
    """Sum of the distances of these rows to the nearest center before the step's update."""
    shift: float
    """Largest move of any coordinate of any center in the update; 0 for a step without one."""
    empty: int
    """Clusters without a row: in the sweep, or since their mini-batch counts began."""
    digest: str
    """Names the centers after the update."""
    smoothed: float | None = field(default=None, compare=False)
    """Loss per row, averaged over about one epoch of this fit: what ends mini-batch. None for full
    batch, where the input has no known end, and within an iteration of several steps. Not compared:
    a step that is the same does not have the same ones before it in every fit."""

    @property
    def loss_per_row(self) -> float:
        """The mean of these distances: batches of different sizes can be compared by it."""
        return self.inertia / self.rows if self.rows else 0.0


@dataclass(frozen=True)
class Running:
    """What mini-batch carries from step to step besides the centers."""

    steps_per_iteration: int
    """m: steps between two updates of the centers."""
    done: int
    """Steps since the last update of the centers, below m."""
    sums: NDArray[np.float64]
    """(2, k, d) sum of the rows that the counts count, in 106 bits (see `twofold`). Exact while the
    data stay the same, so the same however many steps were added at once."""


@dataclass(frozen=True)
class FitState:
    """All that continuing a fit needs."""

    centers: NDArray[np.float32]
    """(k, d) what rows are compared with; unit rows for cosine."""
    counts: NDArray[np.int64] | NDArray[np.float64]
    """(k,) full batch: rows of each cluster in the last sweep, zeros before the first.
    Mini-batch: rows that `running.sums` holds; with m = 1 the initial center counts as one.
    A row with a weight counts as so many rows: int64 where all weights are whole, else float64."""
    metric: Metric = Metric.SQUARED_EUCLIDEAN
    iteration: int = 0
    """Completed steps, over all fits of this model (the seed's global_step)."""
    began: int = 0
    """The iteration at which the current fit began."""
    history: tuple[Iteration, ...] = ()
    stop: Stop | None = None
    """Why the last fit ended; None while one is under way, or was cut off."""
    data: str = ""
    """Names the data that the current fit sees; empty where they cannot be named (a stream)."""
    asked: str = ""
    """Names what the current fit was asked for, besides the data."""
    data_since: int = 0
    """The iteration at which a fit first saw these data: where their first epoch began."""
    running: Running | None = None
    """None for full batch."""
    rows: RowSpec | None = None
    """How the rows were read; None in checkpoints of versions before this was kept."""
    origin: Origin | None = None
    """Where the first centers came from; None in checkpoints of versions before this was kept."""

    @classmethod
    def initial(
        cls,
        centers: NDArray[np.float32],
        metric: Metric = Metric.SQUARED_EUCLIDEAN,
        origin: Origin | None = None,
    ) -> FitState:
        """Return the state before the first step; for cosine, `centers` are unit rows."""
        return cls(centers, np.zeros(len(centers), np.int64), metric, origin=origin)

    def begin(self, data: str, asked: str = "") -> FitState:
        """Return the state in which a fit on these data starts.

        A fit that was cut off goes on where it was when it is asked for again; so a killed fit that
        is run again equals one that was not killed, also in its number of steps. A fit at its fixed
        point stays there.
        """
        same = self.saw(data)
        cut_off = self.stop is None and asked == self.asked
        if same and (cut_off or self.stop is Stop.CONVERGED):
            return self
        return replace(
            self,
            began=self.iteration,
            stop=None,
            data=data,
            asked=asked,
            data_since=self.data_since if same else self.iteration,
        )

    def saw(self, data: str) -> bool:
        """Tell whether the last fit saw these data, and was not one of data without a name."""
        return data == self.data and data != ""

    @property
    def shift(self) -> tuple[float, ...]:
        """What is subtracted from rows before they are compared with centers; empty: nothing."""
        return self.rows.shift if self.rows else ()

    @property
    def clusters(self) -> NDArray[Any]:
        """The centers among the rows as they were given: float64 where these are shifted."""
        return self.centers + np.asarray(self.shift) if self.shift else self.centers

    @property
    def lines(self) -> tuple[Iteration, ...]:
        """The history of the current fit."""
        return self.history[len(self.history) - (self.iteration - self.began) :]


def digest(centers: NDArray[np.float32]) -> str:
    """Return a name for the bits of these centers."""
    return hashlib.sha256(centers.astype("<f4").tobytes()).hexdigest()[:16]


def largest_move(before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    """Return the largest move of any coordinate of any center."""
    return float(np.abs(after.astype(np.float64) - before).max())
