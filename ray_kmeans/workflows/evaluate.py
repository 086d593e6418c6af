"""Measure how well a model fits some data: their loss, and how they spread over the clusters.

`evaluate_on` makes all figures in one sweep; `loss_of` and `loss_of_stream` make the loss alone,
over batches, as TensorFlow's `evaluate` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.grid import Summary
from ray_kmeans.algorithm.partial_sums import Partials
from ray_kmeans.algorithm.quality import Quality
from ray_kmeans.algorithm.state import FitState
from ray_kmeans.config import RunConfig
from ray_kmeans.data.session_source import SessionSource
from ray_kmeans.data.sharding import Layout, split
from ray_kmeans.data.source import Source
from ray_kmeans.data.stream import open_batches
from ray_kmeans.engine.options import WorkerSetup
from ray_kmeans.engine.pool import LocalPool, Pool
from ray_kmeans.errors import ConfigError, DataError
from ray_kmeans.observe import events as ev
from ray_kmeans.observe.fit_table import largest_sizes
from ray_kmeans.observe.log import LogLines, tell_all
from ray_kmeans.observe.progress import Progress
from ray_kmeans.observe.quality_table import quality_table
from ray_kmeans.text.quantities import format_number
from ray_kmeans.workflows.predict_in_memory import (
    ALL_SCORES,
    CLUSTER_IDX,
    Batch,
    ReadyModel,
    batches_of,
)
from ray_kmeans.workflows.quality import QualityOptions, bytes_of, measure_quality
from ray_kmeans.workflows.validation import check_weight_of_batches
from ray_kmeans.workflows.worker_plan import check_reachable, machines_for, open_pool

MetricFunction: TypeAlias = Callable[[NDArray[np.float32], Batch], float]
"""A user's function of the rows of a batch (n, d) and of what the model predicts for them."""

CHEAP_VALUES = 2**24
"""Largest number of values (rows x features) that are read again after mini-batch: 64 MiB."""
CHEAP_PRODUCTS = 2**33
"""Largest number of multiplications of a sweep after mini-batch: about a second of one core."""


@dataclass(frozen=True)
class Evaluation:
    """The fit of a model to some data, over all rows that count."""

    loss: float
    """Sum of the distances to the nearest center, each as often as its row counts."""
    mean_loss: float
    """The loss divided by the weight of all rows."""
    rows: int
    """Number of rows that count."""
    rows_left_out: int
    """Number of rows left out by a filter, by a weight of 0, or because they are not finite."""
    weight: float
    """Sum of the weights of all rows; the number of rows if they have none."""
    num_clusters: int
    """Number of clusters of the model."""
    empty_clusters: int
    """Number of clusters without a row that counts."""
    largest_share: float
    """Share of the weight that is in the largest cluster, from 0 to 1."""
    distance_metric: str
    """The model's metric: 'squared_euclidean' or 'cosine'."""
    global_step: int
    """Number of steps that the model was trained."""
    sizes: NDArray[Any] = field(repr=False, compare=False)
    """Weight of the rows of each cluster, (k,): int64, or float64 if weights are not whole."""
    quality: Quality | None = None
    """Figures of how tight, even and separate the clusters are; None where they were not asked
    for."""

    @property
    def shares(self) -> NDArray[np.float64]:
        """Share of the weight that is in each cluster, (k,); they add up to 1."""
        return np.asarray(self.sizes / self.weight, np.float64)

    def figures(self) -> dict[str, Any]:
        """Return all figures by name, as the command `evaluate` writes them.

        Returns
        -------
        dict
            Values that JSON can hold; under 'quality' the result of `Quality.figures`, with the
            sizes.
        """
        found = self._single_figures
        return found if self.quality is None else {**found, "quality": self.quality.figures()}

    @property
    def _single_figures(self) -> dict[str, float | str]:
        """The figures that are a number or a text."""
        return {k: value for k, value in vars(self).items() if k not in ("sizes", "quality")}

    def table(self) -> str:
        """Return the figures as text, as the command `evaluate` prints them.

        Returns
        -------
        str
            A line for each figure; below them those of `quality`.
        """
        texts = {
            name.replace("_", " "): value if isinstance(value, str) else format_number(value)
            for name, value in self._single_figures.items()
        }
        lines = [f"{name:<16}{text:>20}" for name, text in texts.items()]
        return "\n".join(lines if self.quality is None else [*lines, quality_table(self.quality)])


def evaluate_on(
    source: Source,
    layout: Layout,
    state: FitState,
    config: RunConfig,
    options: QualityOptions | None = None,
) -> Evaluation:
    """Return loss and sizes after one sweep over all rows; changes nothing in the model.

    With `options` the same sweep makes the figures of quality, too.
    """
    config = machines_for(source, config)
    asked = options.asked(source, layout, config.storage_options) if options else None
    places: dict[str, Any] = {"the data": source}
    if asked and asked.others:
        places["the other clustering"] = asked.others
    check_reachable(config, places)
    quality: Quality | None = None
    with closing(Progress(config.progress)) as progress:
        emit = tell_all([LogLines(), progress])
        more = bytes_of(asked, layout, len(state.centers)) if asked else 0
        with _open_pool(source, layout, state, config, emit, more) as pool:
            summary = pool.summarize(ev.begin(emit, ev.Phase.READING, layout.rows, "rows"))
            if asked is None:
                partials = pool.sweep(state.centers)
            else:
                quality, partials = measure_quality(pool, summary, state, asked, layout)
    return _evaluation(state, layout, summary, partials, quality)


def _evaluation(
    state: FitState,
    layout: Layout,
    summary: Summary,
    partials: Partials,
    quality: Quality | None,
) -> Evaluation:
    """Return the record of what the sums over all rows tell."""
    counts = summary.grid.weights_of(partials.counts)
    loss, weight = partials.inertia(summary, state.centers), float(counts.sum())
    return Evaluation(
        loss=loss,
        mean_loss=loss / weight,
        rows=summary.counting,
        rows_left_out=layout.rows - summary.counting,
        weight=weight,
        num_clusters=len(counts),
        empty_clusters=int((counts == 0).sum()),
        largest_share=float(counts.max()) / weight,
        distance_metric=str(state.metric),
        global_step=state.iteration,
        sizes=counts,
        quality=quality,
    )


def _open_pool(
    source: Source,
    layout: Layout,
    state: FitState,
    config: RunConfig,
    emit: ev.Emit | None = None,
    other_bytes: int = 0,
) -> AbstractContextManager[Pool]:
    """Open a pool that compares rows with the centers of a model."""
    k = len(state.centers)
    return open_pool(source, layout, k, state.metric, config, emit, other_bytes=other_bytes)


def after_mini_batch(source: Source, state: FitState, config: RunConfig) -> str:
    """Return a line about loss and sizes over all rows, which mini-batch itself does not know.

    They cost a sweep. It is made in this process where the metadata say that it is cheap; else the
    line names the command that makes it.
    """
    layout = source.describe()
    values = layout.rows * layout.features
    if values > CHEAP_VALUES or values * len(state.centers) > CHEAP_PRODUCTS:
        return "loss and sizes over all rows, which no step visited together: ray-kmeans evaluate"
    here = replace(config, num_workers=0, progress=False)
    found = evaluate_on(source, layout, state, here)
    return (
        f"all {found.rows:,} rows by the last centers: loss per row {found.mean_loss:,.6g}, "
        f"{found.num_clusters:,} clusters of {largest_sizes(found.sizes)}"
    )


# --- losses of batches


@dataclass(frozen=True)
class Losses:
    """The loss of the batches of some data under a model."""

    total: float
    """Sum over all batches of the distances to the nearest center."""
    batches: int
    """Number of batches."""


def loss_of(
    state: FitState,
    source: Source,
    layout: Layout,
    config: RunConfig,
    batch_size: int | None,
    steps: int | None,
    metrics: Mapping[str, MetricFunction],
) -> tuple[Losses, dict[str, float]]:
    """Return loss and metrics of the first `steps` batches of a source; None takes all rows.

    The workers make the loss; the metrics are made batch by batch in this process.
    """
    config = machines_for(source, config)
    check_reachable(config, {"the data": source})
    size = batch_size or layout.rows
    if steps is not None and isinstance(source, SessionSource):
        raise ConfigError(
            f"steps={steps} with a session, whose workers hold all rows. Leave steps out, or give "
            "the data."
        )
    if steps is not None:
        layout = layout.head(steps * size)
    with _open_pool(source, layout, state, config) as pool:
        total = _loss_in(pool, state)
    means = _Means(metrics, state)
    for rows in batches_of(source, layout, size) if metrics else ():
        means.add(rows)
    return Losses(total, -(-layout.rows // size)), means.result


def loss_of_stream(
    state: FitState,
    batches: Any,
    config: RunConfig,
    steps: int | None,
    metrics: Mapping[str, MetricFunction],
    sample_weight: Any,
) -> tuple[Losses, dict[str, float]]:
    """Return loss and metrics of the first `steps` batches of an iterator; None takes all."""
    check_weight_of_batches(sample_weight)
    sources = open_batches(
        batches,
        config.storage_options,
        features=state.centers.shape[1],
        sample_weight=sample_weight,
        state=state,
    )
    means = _Means(metrics, state)
    totals = []
    for source in islice(sources, steps):
        layout = source.describe()
        totals.append(loss_here(state, source, layout))
        for rows in batches_of(source, layout, layout.rows) if metrics else ():
            means.add(rows)
    if not totals:
        raise DataError("the input has no rows. Give at least one batch.")
    return Losses(sum(totals), len(totals)), means.result


class _Means:
    """Adds up the user's metrics over batches; the mean counts each row once."""

    def __init__(self, metrics: Mapping[str, MetricFunction], state: FitState) -> None:
        self._metrics = metrics
        self._predict = ReadyModel(state, (ALL_SCORES, CLUSTER_IDX))
        self._shift = np.asarray(state.shift)
        self._sums = dict.fromkeys(metrics, 0.0)
        self._rows = 0

    def add(self, rows: NDArray[np.float32]) -> None:
        """Add a batch of rows (n, d); rows of NaN are left out."""
        rows = rows[~np.isnan(rows[:, 0])]  # rows that are left out
        predictions = self._predict(rows)
        rows = rows + self._shift if len(self._shift) else rows  # as the user gave them
        self._rows += len(rows)
        for name, metric in self._metrics.items():
            self._sums[name] += float(metric(rows, predictions)) * len(rows)

    @property
    def result(self) -> dict[str, float]:
        """The mean of each metric over all rows, by name."""
        return {name: total / self._rows for name, total in self._sums.items()}


def loss_here(state: FitState, source: Source, layout: Layout) -> float:
    """Return the loss of all rows of a source, computed in this process."""
    return _loss_in(LocalPool(source, split(layout.blocks, 1), WorkerSetup(state.metric)), state)


def _loss_in(pool: Pool, state: FitState) -> float:
    """Return the loss of all rows of a pool after one sweep."""
    summary = pool.summarize()
    return pool.sweep(state.centers).inertia(summary, state.centers)
