"""The plan of a fit, with all that decides its result, and the store that a fit needs."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm import tree
from ray_kmeans.algorithm.batch_rows import Batches
from ray_kmeans.algorithm.grid import Summary
from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.reassignment import Reassignment
from ray_kmeans.algorithm.row_spec import RowSpec
from ray_kmeans.algorithm.state import (
    GIVEN,
    FitState,
    Origin,
    digest,
)
from ray_kmeans.algorithm.stopping import StopRule
from ray_kmeans.engine.center_neighbours import renumbered
from ray_kmeans.engine.pool import Pool
from ray_kmeans.engine.seeding.choose import Initial
from ray_kmeans.engine.shared_pool import SharedPool
from ray_kmeans.engine.trainers import FullBatch, MiniBatch, NestedBatches, Trainer
from ray_kmeans.errors import ConfigError
from ray_kmeans.observe import events as ev

MOVING = {
    "farthest": ", empty clusters move to the farthest rows",
    "split_largest": ", empty clusters split the largest",
}
"""Part of a request's name where the fit moves the centers of empty clusters, by the policy."""


class LeasedStore(Protocol):
    """Place of the checkpoints while one run holds it alone."""

    def latest(self) -> FitState | None:
        """Return the newest state; None if there is none."""

    def save(self, state: FitState) -> str:
        """Save a state; return the path of the checkpoint."""

    def checkpoints(self) -> list[str]:
        """Return the paths of all checkpoints, the oldest first."""

    def restart(self, name: str) -> LeasedStore:
        """Return the place of a restart, which the run holds with this one."""

    def delete_restarts(self) -> None:
        """Delete the checkpoints of all restarts."""


class Store(Protocol):
    """Place of the checkpoints before a run holds it."""

    @property
    def is_local(self) -> bool:
        """Whether only processes of this machine can reach the place."""

    def latest(self) -> FitState | None:
        """Return the newest state; None if there is none."""

    def checkpoints(self) -> list[str]:
        """Return the paths of all checkpoints, the oldest first."""

    def newest_checkpoint(self) -> list[str]:
        """Return the path of the newest checkpoint, also of a restart, as a list of none or one."""

    def take_lease(self, what: str) -> AbstractContextManager[LeasedStore]:
        """Hold the place for one run; `what` names the run to others that want the place."""


class AfterFit(Protocol):
    """Work on the rows that follows the end of a fit, by the workers that hold them."""

    def bytes_beside(self, layout: Any) -> int:
        """Return the bytes that the work takes in a worker beside the fit, at most."""

    def __call__(self, state: FitState, shared: SharedPool, source: Any, emit: ev.Emit) -> None:
        """Work with the last state of the fit; `source` is where the rows were read from."""


@dataclass(frozen=True)
class FitPlan:
    """All that a fit is to do; the same plan on the same data gives the same bits anywhere."""

    num_clusters: int
    """Number of clusters, k."""
    initial: Initial
    """Name of a seeding method, centers of shape (k, d), or a function that returns rows."""
    metric: Metric
    """Distance metric: 'squared_euclidean' or 'cosine'."""
    random_seed: int
    """Seed of all draws."""
    retries: int
    """Further candidates for each center of k-means++; negative: TensorFlow's heuristic."""
    rule: StopRule
    """When the fit ends, besides at a fixed point."""
    batch_size: int | None
    """Number of rows of a mini-batch; None for full batch."""
    steps_per_iteration: int
    """Number of mini-batch steps between two updates of the centers, m."""
    empty_clusters: str
    """Treatment of the center of an empty cluster in full batch: 'keep', 'farthest' to move it to
    the farthest row, or 'split_largest' to move it to a row of the largest cluster."""
    checkpoint_steps: int | None
    """Number of iterations between two checkpoints; None: by time."""
    checkpoint_secs: float
    """Seconds between two checkpoints, if `checkpoint_steps` is None."""
    n_init: int = 1
    """Number of restarts, of which the one with the lowest inertia stays."""
    reassignment_ratio: float = 0.0
    """Share of the largest count of mini-batch below which a cluster is starved; 0: none is."""
    nested_batches: bool = False
    """Whether mini-batches are nested samples that grow."""
    in_danger: bool = False
    """Whether a coordinator has died: then the next one saves as if it were to die soon, too."""
    rows: RowSpec | None = None
    """Record of how the rows are read, which the states of this fit keep."""
    numbers_of: NDArray[Any] | None = None
    """(a, d) Centers of another model, among the rows of the user, whose numbers the clusters get
    at the end of the fit; None: the clusters keep the numbers of their first centers."""
    columns_of_numbers: tuple[str, ...] = ()
    """Names of the columns of `numbers_of`; empty if they have none."""
    max_seconds: float | None = None
    """Seconds that the fit may take, from its first row on; None: any time. They do not change what
    it computes."""
    levels: tuple[int, ...] = ()
    """Number of centers of each level of a tree, all clusters last; empty for one level."""
    refine_steps: int = 0
    """Number of steps over all clusters once the tree is there."""
    leaf_quota: str = "loss"
    """What the number of children of a node follows: its 'loss', or its 'rows'."""

    @property
    def most_at_once(self) -> int:
        """Largest number of centers that a worker sums rows up by at once."""
        return tree.most_at_once(self.num_clusters, self.levels, self.refine_steps)

    @property
    def top(self) -> FitPlan:
        """Plan of the top level of a tree."""
        return replace(self, num_clusters=self.levels[0], levels=(), numbers_of=None)

    @property
    def refining(self) -> FitPlan:
        """Plan of the steps over all clusters once the tree is there."""
        return replace(self, rule=replace(self.rule, steps=self.refine_steps, max_steps=None))

    def trainer(self, pool: Pool, summary: Summary) -> Trainer:
        """Return the trainer that makes the steps of this fit with a pool."""
        if self.batch_size is None:
            return FullBatch(pool, summary, self.rule, self.empty_clusters)
        if self.nested_batches:
            return NestedBatches(pool, summary, self.rule, self.batch_size, self.random_seed)
        batches, m = self._batches(self.batch_size, summary), self.steps_per_iteration
        return MiniBatch(pool, summary, self.rule, batches, m, self.starving)

    @property
    def starving(self) -> Reassignment:
        """Rule of when clusters of mini-batch are starved."""
        return Reassignment(self.reassignment_ratio)

    @property
    def drawn_rows(self) -> int | None:
        """Number of rows of a mini-batch that is drawn for each step; None where none is."""
        return None if self.nested_batches else self.batch_size

    def taken_over(self, seconds: float) -> FitPlan:
        """Return the plan for the coordinator that goes on after one has died.

        `seconds` have gone by since the fit began; its time is counted on.
        """
        left = None if self.max_seconds is None else self.max_seconds - seconds
        return replace(self, in_danger=True, max_seconds=left)

    def data_name(self, summary: Summary) -> str:
        """Return a name for the data and how they are cut into batches; equal for an equal fit."""
        if self.batch_size is None:
            return summary.digest
        batches = self._batches(self.batch_size, summary)
        kind = "nested batches from" if self.nested_batches else "batches of"
        return f"{summary.digest} in {kind} {batches.size}, seed {batches.seed}"

    @property
    def name(self) -> str:
        """Name of all that decides the result: equal plans have equal names."""
        initial = self.initial
        if isinstance(initial, np.ndarray):
            initial = digest(initial)
        elif callable(initial):
            initial = _qualified(initial)
        numbers: Any = None if self.numbers_of is None else digest(self.numbers_of)
        plan = replace(self, checkpoint_steps=None, checkpoint_secs=0.0, in_danger=False)
        return repr(replace(plan, initial=initial, max_seconds=None, numbers_of=numbers))

    @property
    def shift(self) -> tuple[float, ...]:
        """(d,) Values that are subtracted from each row; empty if nothing is."""
        return self.rows.shift if self.rows else ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns; empty if they have none."""
        return self.rows.columns if self.rows else ()

    def check_shift(self, found: FitState | None) -> None:
        """Raise ConfigError if the model in the store was made of rows with another shift."""
        if found and found.shift != self.shift:
            raise ConfigError(
                "another run has written its model to this model_dir meanwhile, and has shifted "
                "its rows (center=True) otherwise than this run. Run this fit again: it will shift "
                "its rows as that model does."
            )

    @property
    def request(self) -> str:
        """Name of what this fit is to do with the data; equal calls have equal names."""
        policy = MOVING.get(self.empty_clusters, "")
        if self.reassignment_ratio:
            policy = f", starved below {self.reassignment_ratio:g} of the largest move to rows"
        levels = f", levels {self.levels} by {self.leaf_quota}" if self.levels else ""
        return f"steps={self.rule.steps}, {self.steps_per_iteration} per iteration{policy}{levels}"

    def reopened(self, found: FitState | None) -> FitState | None:
        """Return the model as one that has not ended, if this fit moves empty clusters and the last
        one kept them."""
        kept = found is not None and not any(each in found.request for each in MOVING.values())
        if found is None or self.empty_clusters not in MOVING or not kept:
            return found
        return replace(found, stop=None) if any(line.empty for line in found.lines[-1:]) else found

    def renumbered(self, state: FitState) -> FitState:
        """Return a state with the numbers of the other model's clusters, if there is one."""
        return state if self.numbers_of is None else renumbered(state, self.numbers_of)

    @property
    def origin(self) -> Origin:
        """Origin of the first centers, as a new model keeps it."""
        initial = self.initial
        if isinstance(initial, np.ndarray):
            initial = f"{GIVEN} {digest(initial)}"
        elif callable(initial):
            initial = f"the function {_qualified(initial)}"
        return Origin(initial, self.random_seed, self.retries)

    def _batches(self, size: int, summary: Summary) -> Batches:
        """Return the mini-batches of up to `size` rows."""
        return Batches(summary.rows, min(size, summary.rows), self.random_seed)


def _qualified(function: Any) -> str:
    """Return the name of a function, or of the class of a callable, with its module."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"
