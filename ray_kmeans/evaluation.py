"""How well a model fits some data: their loss, and how they spread over the clusters."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from ray_kmeans.clustering.state import FitState
from ray_kmeans.config import RunConfig
from ray_kmeans.data.plan import Layout
from ray_kmeans.data.source import Source
from ray_kmeans.observe import events as ev
from ray_kmeans.observe.listeners import LogLines, tell_all
from ray_kmeans.observe.progress import Progress
from ray_kmeans.observe.table import largest_sizes
from ray_kmeans.resources import check_reachable, open_pool

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
        return "\n".join(
            f"{name.replace('_', ' '):<16}{_said(value):>20}" for name, value in vars(self).items()
        )


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
        distance_metric=state.metric,
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


def _said(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"
