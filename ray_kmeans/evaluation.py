"""How well a model fits some data: their loss, and how they spread over the clusters."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

from ray_kmeans.clustering.state import FitState
from ray_kmeans.config import RunConfig
from ray_kmeans.data.plan import Layout
from ray_kmeans.data.rounded import under
from ray_kmeans.data.source import Source
from ray_kmeans.observe import events as ev
from ray_kmeans.observe.listeners import LogLines, tell_all
from ray_kmeans.observe.progress import Progress
from ray_kmeans.resources import check_reachable, open_pool


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
    source = under(source, state.shift, "the model")
    check_reachable(config, {"the data": source})
    with closing(Progress(config.progress)) as progress:
        emit = tell_all([LogLines(), progress])
        with open_pool(source, layout, len(state.centers), state.metric, config, emit) as pool:
            summary = pool.summarize(ev.begin(emit, ev.Phase.READING, layout.rows, "rows"))
            partials = pool.sweep(state.centers)
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
        distance_metric=state.metric,
        global_step=state.iteration,
    )


def _said(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"
