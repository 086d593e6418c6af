"""What a fit is to do, and where its states are kept."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from ray_kmeans.algorithm.batches import Batches
from ray_kmeans.algorithm.grid import Summary
from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.row_spec import RowSpec
from ray_kmeans.algorithm.state import (
    GIVEN,
    FitState,
    Origin,
    digest,
)
from ray_kmeans.algorithm.stopping import StopRule
from ray_kmeans.engine.pool import Pool
from ray_kmeans.engine.seeding.choose import Initial
from ray_kmeans.engine.trainers import FullBatch, MiniBatch, Trainer
from ray_kmeans.errors import ConfigError

FARTHEST = ", empty clusters move to the farthest rows"
"""Stands in what a fit was asked for where it moves the centers of empty clusters."""


class LeasedStore(Protocol):
    """Where states are kept, by one run alone."""

    def latest(self) -> FitState | None: ...
    def save(self, state: FitState) -> str: ...
    def checkpoints(self) -> list[str]: ...


class Store(Protocol):
    """The same before a run has it."""

    @property
    def is_local(self) -> bool: ...
    def latest(self) -> FitState | None: ...
    def checkpoints(self) -> list[str]: ...
    def take_lease(self, what: str) -> AbstractContextManager[LeasedStore]: ...


@dataclass(frozen=True)
class FitPlan:
    """What a fit is to do; the same plan on the same data gives the same bits anywhere."""

    num_clusters: int
    initial: Initial
    metric: Metric
    random_seed: int
    retries: int
    """Further candidates for each center of k-means++."""
    rule: StopRule
    batch_size: int | None
    """Rows of a mini-batch; None for full batch."""
    steps_per_iteration: int
    """Mini-batch: steps between two updates of the centers."""
    empty_clusters: str
    """Full batch: 'keep' or 'farthest'."""
    checkpoint_steps: int | None
    checkpoint_secs: float
    in_danger: bool = False
    """A coordinator has died: the next one saves as often as if it were to die soon, too."""
    rows: RowSpec | None = None
    """How the rows are read, which the states of this fit keep."""

    def trainer(self, pool: Pool, summary: Summary) -> Trainer:
        """Return what makes the steps."""
        if self.batch_size is None:
            return FullBatch(pool, summary, self.rule, self.empty_clusters)
        batches = self._batches(self.batch_size, summary)
        return MiniBatch(pool, summary, self.rule, batches, self.steps_per_iteration)

    def data_name(self, summary: Summary) -> str:
        """Return a name for what a fit sees: the data, and how they are cut into batches."""
        if self.batch_size is None:
            return summary.digest
        batches = self._batches(self.batch_size, summary)
        return f"{summary.digest} in batches of {batches.size}, seed {batches.seed}"

    @property
    def name(self) -> str:
        """A name for all that decides the result: equal plans have equal names."""
        initial = self.initial
        if isinstance(initial, np.ndarray):
            initial = digest(initial)
        elif callable(initial):
            initial = _qualified(initial)
        plan = replace(self, checkpoint_steps=None, checkpoint_secs=0.0, in_danger=False)
        return repr(replace(plan, initial=initial))

    @property
    def shift(self) -> tuple[float, ...]:
        """What is subtracted from the rows; empty where nothing is."""
        return self.rows.shift if self.rows else ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns; empty where they have none."""
        return self.rows.columns if self.rows else ()

    def check_shift(self, found: FitState | None) -> None:
        """Raise ConfigError where the model that is there now belongs to other rows."""
        if found and found.shift != self.shift:
            raise ConfigError(
                "another run has written its model to this model_dir meanwhile, and has shifted "
                "its rows (center=True) otherwise than this run. Run this fit again: it will shift "
                "its rows as that model does."
            )

    @property
    def asked(self) -> str:
        """A name for what a fit is to do with the data: the same call has the same."""
        policy = FARTHEST if self.empty_clusters == "farthest" else ""
        return f"steps={self.rule.steps}, {self.steps_per_iteration} per iteration{policy}"

    def reopened(self, found: FitState | None) -> FitState | None:
        """Return a model without its end where empty clusters, kept so far, are to be moved now."""
        if found is None or FARTHEST not in self.asked or FARTHEST in found.asked:
            return found
        return replace(found, stop=None) if any(line.empty for line in found.lines[-1:]) else found

    @property
    def origin(self) -> Origin:
        """Where the first centers of a new model come from."""
        initial = self.initial
        if isinstance(initial, np.ndarray):
            initial = f"{GIVEN} {digest(initial)}"
        elif callable(initial):
            initial = f"the function {_qualified(initial)}"
        return Origin(initial, self.random_seed, self.retries)

    def _batches(self, size: int, summary: Summary) -> Batches:
        return Batches(summary.rows, min(size, summary.rows), self.random_seed)


def _qualified(function: Any) -> str:
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"
