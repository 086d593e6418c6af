"""All that a report is made of: a model, and what it says of some rows of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.state import FitState
from ray_kmeans.data.model_rows import taken_from
from ray_kmeans.data.source import Source
from ray_kmeans.html_report.centers import (
    Gaps,
    Plane,
    Sizes,
    gaps_of,
    plane_of,
    sizes_of,
)
from ray_kmeans.html_report.sample import (
    Sample,
    Shown,
    check_column,
    sample_of,
    shown,
)
from ray_kmeans.observe import run_record
from ray_kmeans.observe.run_record import RunRecord
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.text import secrets
from ray_kmeans.workflows.validation import check_features

LARGEST_SHOWN, SMALLEST_SHOWN = 8, 4
"""Clusters of which rows are shown."""
ROWS_SHOWN = 5


@dataclass(frozen=True)
class Data:
    """What is known of the data."""

    name: str
    """Where they are, without secrets."""
    source: Source
    sample: Sample

    def nearest(self, clusters: Sequence[int], show: str | None) -> dict[int, tuple[Shown, ...]]:
        """Return what to show of the sampled rows nearest to the centers of these clusters."""
        numbers = {cluster: self.sample.nearest(cluster, ROWS_SHOWN) for cluster in clusters}
        wanted = sorted(number for each in numbers.values() for number in each)
        names: Mapping[int, Shown] = {number: f"row {number:,}" for number in wanted}
        if show:
            names = shown(self.source, self.sample, show, wanted)
        return {cluster: tuple(names[each] for each in numbers[cluster]) for cluster in clusters}


@dataclass(frozen=True)
class Facts:
    """What is known of a model."""

    name: str
    """Where the model is, without secrets."""
    state: FitState
    runs: tuple[RunRecord, ...]
    """That made it, the first one first."""
    plane: Plane
    gaps: Gaps | None
    """None for a single center."""
    sizes: Sizes | None
    data: Data | None
    examples: Mapping[int, tuple[Shown, ...]]
    """Of the largest and smallest clusters, what to show of the sampled rows nearest to each."""

    @property
    def distance(self) -> str:
        """What a distance of this model is."""
        return "cosine distance" if self.state.metric == Metric.COSINE else "squared distance"


def facts_of(
    model: ModelDir, data: Sequence[str], columns: Sequence[str], show: str | None
) -> Facts:
    """Read a model, and a sample of the data where there are some."""
    state = model.fitted()
    plane = plane_of(state.centers)
    seen = _look_at(data, columns, show, model, state, plane) if data else None
    gaps = gaps_of(state.centers, state.metric)
    sizes = sizes_of(state, seen.sample.labels if seen else None)
    examples = seen.nearest(_largest_and_smallest(sizes), show) if seen and sizes else {}
    return Facts(model.shown, state, _runs_of(model), plane, gaps, sizes, seen, examples)


def _runs_of(model: ModelDir) -> tuple[RunRecord, ...]:
    found = map(RunRecord.parse, model.records(run_record.FOLDER))
    return tuple(sorted((run for run in found if run), key=lambda run: run.began))


def _look_at(
    data: Sequence[str],
    columns: Sequence[str],
    show: str | None,
    model: ModelDir,
    state: FitState,
    plane: Plane,
) -> Data:
    source = taken_from(state, list(data), columns, model.storage_options)
    layout = source.describe()
    check_features(layout.features, state, model.url)
    if show:
        check_column(source, layout, show)
    sample = sample_of(source, layout, state, plane)
    return Data(", ".join(map(secrets.shown, data)), source, sample)


def _largest_and_smallest(sizes: Sizes) -> list[int]:
    """Return the clusters of which rows are shown, in the order of their sizes; no empty one."""
    order = np.argsort(-sizes.counts, kind="stable")
    some: list[int] = order[sizes.counts[order] > 0].tolist()
    if len(some) > LARGEST_SHOWN + SMALLEST_SHOWN:
        return some[:LARGEST_SHOWN] + some[-SMALLEST_SHOWN:]
    return some
