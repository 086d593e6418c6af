"""How well a model fits some data: their loss, and how they spread over the clusters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.state import FitState
from ray_kmeans.config import RunConfig
from ray_kmeans.data.layout import Layout, split
from ray_kmeans.data.source import Source
from ray_kmeans.engine.options import WorkerSetup
from ray_kmeans.engine.pool import LocalPool, Pool
from ray_kmeans.errors import DataError
from ray_kmeans.observe import events as ev
from ray_kmeans.observe.log import LogLines, tell_all
from ray_kmeans.observe.progress import Progress
from ray_kmeans.observe.table import largest_sizes
from ray_kmeans.text.quantities import format_number
from ray_kmeans.workflows.plan import check_reachable, open_pool
from ray_kmeans.workflows.predict import ALL_SCORES, CLUSTER_IDX, Batch, ReadyModel, batches_of

Metric = Callable[[NDArray[np.float32], Batch], float]

CHEAP_VALUES = 2**24
"""Numbers of a data set (64 MiB as float32) that are read again for the figures of all rows."""
CHEAP_PRODUCTS = 2**33
"""Multiplications of a sweep that are made for them: about a second of one core."""


@dataclass(frozen=True)
class Evaluation:
    """What is known of data under a model."""

    loss: float
    """Sum of the distances to the nearest center, each as often as its row counts."""
    mean_loss: float
    """The loss for each time that a row counts."""
    rows: int
    """Rows that count."""
    rows_left_out: int
    """By a filter, a weight of 0, or as they are not finite."""
    weight: float
    """How often all rows count together."""
    num_clusters: int
    empty_clusters: int
    """Clusters without a row that counts."""
    largest_share: float
    """Share of the weight that is in the largest cluster."""
    distance_metric: str
    global_step: int
    """Steps that the model was trained."""

    def table(self) -> str:
        """Return a line for each of these."""
        texts = {
            name.replace("_", " "): value if isinstance(value, str) else format_number(value)
            for name, value in vars(self).items()
        }
        return "\n".join(f"{name:<16}{text:>20}" for name, text in texts.items())


def evaluate_on(source: Source, layout: Layout, state: FitState, config: RunConfig) -> Evaluation:
    """Visit all rows once, by the workers; changes nothing in the model."""
    return _swept(source, layout, state, config)[0]


def _swept(
    source: Source, layout: Layout, state: FitState, config: RunConfig
) -> tuple[Evaluation, NDArray[Any]]:
    """Return the figures, and how many rows each cluster has."""
    check_reachable(config, {"the data": source})
    with closing(Progress(config.progress)) as progress:
        emit = tell_all([LogLines(), progress])
        with open_pool(source, layout, len(state.centers), state.metric, config, emit) as pool:
            summary = pool.summarize(ev.begin(emit, ev.Phase.READING, layout.rows, "rows"))
            partials = pool.sweep(state.centers)
    counts = summary.grid.weights_of(partials.counts)
    loss, weight = partials.inertia(summary, state.centers), float(counts.sum())
    result = Evaluation(
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
    )
    return result, counts


def after_mini_batch(source: Source, state: FitState, config: RunConfig) -> str:
    """Return what mini-batch itself does not know: loss and sizes of clusters over all rows.

    They cost a sweep. It is made in this process where it is cheap by what it reads and multiplies,
    as the metadata tell; else the command that makes it is named.
    """
    layout = source.describe()
    values = layout.rows * layout.features
    if values > CHEAP_VALUES or values * len(state.centers) > CHEAP_PRODUCTS:
        return "loss and sizes over all rows, which no step visited together: ray-kmeans evaluate"
    here = replace(config, num_workers=0, progress=False)
    found, counts = _swept(source, layout, state, here)
    return (
        f"all {found.rows:,} rows by the last centers: loss per row {found.mean_loss:,.6g}, "
        f"{found.num_clusters:,} clusters of {largest_sizes(counts)}"
    )


# --- losses of batches


@dataclass(frozen=True)
class Losses:
    """The loss of some rows under a model."""

    total: float
    """Sum of the distances to the nearest center."""
    batches: int
    """How many batches these rows made up."""


def loss_of(
    state: FitState,
    source: Source,
    layout: Layout,
    config: RunConfig,
    batch_size: int | None,
    steps: int | None,
    metrics: Mapping[str, Metric],
) -> tuple[Losses, dict[str, float]]:
    """Return loss and metrics of the first `steps` batches of a source; of all rows by default.

    The loss is made by the workers, the metrics batch by batch in this process.
    """
    check_reachable(config, {"the data": source})
    size = batch_size or layout.rows
    if steps is not None:
        layout = layout.head(steps * size)
    with open_pool(source, layout, len(state.centers), state.metric, config) as pool:
        total = _loss_in(pool, state)
    means = _Means(metrics, state)
    for rows in batches_of(source, layout, size) if metrics else ():
        means.see(rows)
    return Losses(total, -(-layout.rows // size)), means.result


def loss_of_stream(
    state: FitState, sources: Iterator[Source], steps: int | None, metrics: Mapping[str, Metric]
) -> tuple[Losses, dict[str, float]]:
    """Return loss and metrics of the first `steps` batches of a stream; of all by default."""
    means = _Means(metrics, state)
    totals = []
    for source in islice(sources, steps):
        layout = source.describe()
        totals.append(loss_here(state, source, layout))
        for rows in batches_of(source, layout, layout.rows) if metrics else ():
            means.see(rows)
    if not totals:
        raise DataError("the input has no rows. Give at least one batch.")
    return Losses(sum(totals), len(totals)), means.result


class _Means:
    """The means of some metrics over all rows seen."""

    def __init__(self, metrics: Mapping[str, Metric], state: FitState) -> None:
        self._metrics = metrics
        self._predict = ReadyModel(state, (ALL_SCORES, CLUSTER_IDX))
        self._shift = np.asarray(state.shift)
        self._sums = dict.fromkeys(metrics, 0.0)
        self._rows = 0

    def see(self, rows: NDArray[np.float32]) -> None:
        rows = rows[~np.isnan(rows[:, 0])]  # rows that are left out
        predictions = self._predict(rows)
        rows = rows + self._shift if len(self._shift) else rows  # the user knows these alone
        self._rows += len(rows)
        for name, metric in self._metrics.items():
            self._sums[name] += float(metric(rows, predictions)) * len(rows)

    @property
    def result(self) -> dict[str, float]:
        return {name: total / self._rows for name, total in self._sums.items()}


def loss_here(state: FitState, source: Source, layout: Layout) -> float:
    """Return the loss of all rows of a source, computed in this process."""
    return _loss_in(LocalPool(source, split(layout.blocks, 1), WorkerSetup(state.metric)), state)


def _loss_in(pool: Pool, state: FitState) -> float:
    summary = pool.summarize()
    return pool.sweep(state.centers).inertia(summary, state.centers)
