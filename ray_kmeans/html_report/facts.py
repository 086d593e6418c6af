"""The facts that a report shows: of a model, its runs, and a sample of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.quality import Quality
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
from ray_kmeans.html_report.evaluation import read_quality
from ray_kmeans.html_report.sample import (
    Sample,
    Shown,
    check_column,
    sample_of,
    show_rows,
)
from ray_kmeans.observe import run_record
from ray_kmeans.observe.run_record import RunRecord
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.text import secrets
from ray_kmeans.workflows.validation import check_features

LARGEST_SHOWN = 8
"""Number of largest clusters whose rows are shown."""
SMALLEST_SHOWN = 4
"""Number of smallest clusters whose rows are shown."""
ROWS_SHOWN = 5
"""Number of rows of a cluster that are shown."""


@dataclass(frozen=True)
class Data:
    """The data of a report."""

    name: str
    """Paths or URLs of the data, without secrets."""
    source: Source
    """The data as rows."""
    sample: Sample
    """Some rows with their labels."""

    def nearest(self, clusters: Sequence[int], show: str | None) -> dict[int, tuple[Shown, ...]]:
        """Return texts or images of the sampled rows nearest to the centers of these clusters."""
        numbers = {cluster: self.sample.nearest(cluster, ROWS_SHOWN) for cluster in clusters}
        wanted = sorted(number for each in numbers.values() for number in each)
        names: Mapping[int, Shown] = {number: f"row {number:,}" for number in wanted}
        if show:
            names = show_rows(self.source, self.sample, show, wanted)
        return {cluster: tuple(names[each] for each in numbers[cluster]) for cluster in clusters}


@dataclass(frozen=True)
class Facts:
    """All facts of a report."""

    name: str
    """Path or URL of the model, without secrets."""
    state: FitState
    """The newest state of the model."""
    runs: tuple[RunRecord, ...]
    """Records of the runs that made the model, the oldest first."""
    plane: Plane
    """The plane to draw centers and rows in."""
    gaps: Gaps | None
    """Distances between centers; None for a single center."""
    sizes: Sizes | None
    """Sizes of the clusters; None if nothing counts their rows."""
    data: Data | None
    """The data; None if none are given."""
    examples: Mapping[int, tuple[Shown, ...]]
    """Texts or images of the rows nearest to the center, for the largest and smallest clusters."""
    quality: Quality | None = None
    """Figures of quality over all rows; None where no evaluation is given."""

    @property
    def distance(self) -> str:
        """The name of a distance of this model."""
        return "cosine distance" if self.state.metric == Metric.COSINE else "squared distance"


def facts_of(
    model: ModelDir,
    data: Sequence[str],
    columns: Sequence[str],
    show: str | None,
    evaluation: str | None = None,
) -> Facts:
    """Read a model, an evaluation of it, and a sample of the data, as far as they are given."""
    state = model.fitted()
    quality = read_quality(evaluation, model.storage_options, state) if evaluation else None
    plane = plane_of(state.centers)
    given = _read_data(data, columns, show, model, state, plane) if data else None
    gaps = gaps_of(state.centers, state.metric)
    sizes = sizes_of(state, given.sample.labels if given else None)
    if quality is not None:
        sizes = Sizes(quality.sizes, "all rows of the evaluation")
    examples = given.nearest(_largest_and_smallest(sizes), show) if given and sizes else {}
    return Facts(
        name=model.shown,
        state=state,
        runs=_runs_of(model),
        plane=plane,
        gaps=gaps,
        sizes=sizes,
        data=given,
        examples=examples,
        quality=quality,
    )


def _runs_of(model: ModelDir) -> tuple[RunRecord, ...]:
    """Return the run records of a model, the oldest first."""
    found = map(RunRecord.parse, model.records(run_record.FOLDER))
    return tuple(sorted((run for run in found if run), key=lambda run: run.began))


def _read_data(
    data: Sequence[str],
    columns: Sequence[str],
    show: str | None,
    model: ModelDir,
    state: FitState,
    plane: Plane,
) -> Data:
    """Return the data of a report, with a sample that is labelled under the model."""
    source = taken_from(state, list(data), columns, model.storage_options)
    layout = source.describe()
    check_features(layout.features, state, model.url)
    if show:
        check_column(source, layout, show)
    sample = sample_of(source, layout, state, plane)
    return Data(", ".join(map(secrets.shown, data)), source, sample)


def _largest_and_smallest(sizes: Sizes) -> list[int]:
    """Return the clusters whose rows are shown, the largest first; none that is empty."""
    order = np.argsort(-sizes.counts, kind="stable")
    clusters: list[int] = order[sizes.counts[order] > 0].tolist()
    if len(clusters) > LARGEST_SHOWN + SMALLEST_SHOWN:
        return clusters[:LARGEST_SHOWN] + clusters[-SMALLEST_SHOWN:]
    return clusters
