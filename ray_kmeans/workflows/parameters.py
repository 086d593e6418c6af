"""The constructor's arguments by scikit-learn's rules: flat, and nested as component__parameter."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ray_kmeans.config import (
    DistanceMetric,
    EmptyClusters,
    InitialMethod,
    LeafQuota,
    RunConfig,
)
from ray_kmeans.errors import ConfigError

InitialClusters: TypeAlias = (
    InitialMethod | ArrayLike | Callable[[NDArray[np.float32], int], ArrayLike]
)
"""The name of a method, centers (k, d), or a function of sample rows (s, d) and the number of
centers that are still missing."""


@dataclass(frozen=True, kw_only=True)
class FitParams:
    """The arguments of `KMeansClustering` as the user gave them, unchecked; see there."""

    num_clusters: int
    """Number of clusters k."""
    model_dir: str | None
    """Path or URL of the model. None: that of `config`, or a temporary directory."""
    initial_clusters: InitialClusters
    """Initial centers, or how they are chosen."""
    distance_metric: DistanceMetric
    """Distance of a row to a center."""
    random_seed: int
    """Seed of the initial centers and the mini-batches."""
    use_mini_batch: bool
    """Whether a step visits a mini-batch, and not all rows."""
    mini_batch_steps_per_iteration: int
    """Steps of mini-batch between two updates of the centers."""
    kmeans_plus_plus_num_retries: int
    """Further candidates for each center of k-means++; negative: 2 + trunc(ln k)."""
    relative_tolerance: float | None
    """Relative change of the loss below which a fit ends. None: it has no effect."""
    config: RunConfig | None
    """Machines, stores and checkpoints. None: all defaults."""
    empty_clusters: EmptyClusters
    """What becomes of the center of an empty cluster in full batch."""
    n_init: int
    """Number of restarts from other seeds, of which the best one stays."""
    levels: int | Sequence[int] | None
    """Levels of a tree by which the clusters are found; None: one level."""
    refine_steps: int
    """Steps over all clusters once the tree is there."""
    leaf_quota: LeafQuota
    """What the number of children of a node of the tree follows."""
    train_rows: int | float | None
    """Rows that a fit visits, or their share. None: all."""
    renumber_like: Any
    """Model whose numbers the clusters get at the end of a fit, or its place. None: they keep
    theirs."""

    reassignment_ratio: float
    """Share of the largest count of mini-batch below which the center of a cluster moves to a
    row."""
    nested_batches: bool
    """Whether mini-batches are nested samples that grow."""

    def as_dict(self, deep: bool = False) -> dict[str, Any]:
        """Return the arguments by name; `deep`: also the fields of `config`, as 'config__field'."""
        found = _fields_of(self)
        if deep:
            for name, value in list(found.items()):
                if is_dataclass(value):
                    nested = _fields_of(value).items()
                    found |= {f"{name}__{field}": inner for field, inner in nested}
        return found

    def replaced(self, new: Mapping[str, Any]) -> FitParams:
        """Return the arguments with some replaced; ConfigError for a name that does not exist."""
        config = self.config or RunConfig()
        known = replace(self, config=config).as_dict(deep=True)
        unknown = sorted(set(new) - set(known))
        if unknown:
            raise ConfigError(f"{unknown} are no parameters; valid are {sorted(known)}.")
        result = replace(self, **{name: value for name, value in new.items() if "__" not in name})
        nested = {name.split("__")[1]: value for name, value in new.items() if "__" in name}
        if nested:
            result = replace(result, config=replace(result.config or RunConfig(), **nested))
        return result


def _fields_of(record: Any) -> dict[str, Any]:
    """Return the fields of a dataclass by name, without copying their values."""
    return {field.name: getattr(record, field.name) for field in fields(record)}


def level_of_caller() -> int:
    """Return the `stacklevel` with which the caller's warning shows the user's own line."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back and frame.f_globals["__name__"].startswith("ray_kmeans"):
        level, frame = level + 1, frame.f_back
    return level
