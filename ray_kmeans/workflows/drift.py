"""Compare two models: match their clusters, and tell what became of each and of its rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm import center_matching as matching
from ray_kmeans.algorithm.center_matching import Change, Flows, Kind
from ray_kmeans.algorithm.exact_float_sum import as_float
from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.state import FitState
from ray_kmeans.config import RunConfig
from ray_kmeans.data.column_choice import shortened
from ray_kmeans.data.sharding import Layout
from ray_kmeans.data.source import Source
from ray_kmeans.engine.center_neighbours import gaps, nearest, partners_of, seen_by
from ray_kmeans.engine.worker import ShardWorker
from ray_kmeans.errors import ModelMismatchError
from ray_kmeans.observe import events as ev
from ray_kmeans.observe.log import LogLines, tell_all
from ray_kmeans.observe.progress import Progress
from ray_kmeans.text import secrets
from ray_kmeans.text.quantities import format_number
from ray_kmeans.workflows.worker_plan import check_reachable, machines_for, open_pool

SHOWN = 40
"""Largest number of clusters of a kind that the table has a line for."""
HEAD = "   old    new  change        moved by  size before   size after       gained         lost"
"""Header of the table of clusters."""


@dataclass(frozen=True)
class ClusterDrift:
    """What became of one cluster from an old model to a new one."""

    old: int | None
    """Number of the cluster in the old model; None if it is not there."""
    new: int | None
    """Number of the cluster in the new model; None if it is not there."""
    change: Kind
    """'kept', 'split', 'merged', 'new' or 'vanished'."""
    parts: tuple[int, ...]
    """New clusters that the old one went into: itself, and those that are mostly made of it."""
    origins: tuple[int, ...]
    """Old clusters that went into the new one for the larger part of their rows."""
    moved_by: float | None
    """Distance between the two centers: Euclidean, or 1 - cos. None if there is one only."""
    size_before: float | None
    """Weight of its rows under the old model. None if that is not known, or it is not there."""
    size_after: float | None
    """Weight of its rows under the new model. None if that is not known, or it is not there."""
    gained: float | None
    """Weight of the rows that have come from other clusters. None without data."""
    lost: float | None
    """Weight of the rows that have gone to other clusters. None without data."""


@dataclass(frozen=True)
class Drift:
    """What became of the clusters of an old model in a new one."""

    moved_share: float | None
    """Share of the weight of all rows, from 0 to 1, that went to another cluster. None without
    data."""
    loss_before: float | None
    """Loss per row under the old model: of the data, or of the last step of its own fit in full
    batch. None if it is not known."""
    loss_after: float | None
    """Loss per row under the new model, likewise."""
    rows: int | None
    """Number of rows of the data that count. None without data."""
    distance_metric: str
    """Metric of both models: 'squared_euclidean' or 'cosine'."""
    clusters: tuple[ClusterDrift, ...] = field(repr=False)
    """Clusters of the new model in their order, then those of the old one that are gone."""

    def counts(self) -> dict[str, int]:
        """Return how many clusters there are of each kind of change.

        Returns
        -------
        dict of str to int
            Numbers by 'kept', 'split', 'merged', 'new' and 'vanished'; 0 ones are left out.
        """
        return dict(Counter(each.change for each in self.clusters))

    def to_json(self) -> str:
        """Return all of it as JSON, as the command `drift` prints it by ``--json``.

        Returns
        -------
        str
            An object with the names of the fields; None is null.
        """
        return json.dumps(asdict(self), indent=1)

    def table(self) -> str:
        """Return the drift as text, as the command `drift` prints it.

        Returns
        -------
        str
            A line for each cluster, those that changed most first, and the figures of all.
        """
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.counts().items()))
        return "\n".join([HEAD, *_lines(self.clusters), f"clusters: {kinds}", *self._figures()])

    def _figures(self) -> Iterator[str]:
        """Yield a line of each figure of all rows that is known."""
        if self.moved_share is not None and self.rows is not None:
            yield f"moved to another cluster: {self.moved_share:.2%} of {self.rows:,} rows"
        losses = self.loss_before, self.loss_after
        if None not in losses:
            where = "of these rows" if self.rows is not None else "of the last step of each fit"
            before, after = (f"{loss:.6g}" for loss in losses)
            yield f"loss per row {where}: {before} before, {after} after"


@dataclass(frozen=True)
class Side:
    """One of the two models."""

    state: FitState
    """The model."""
    place: str
    """Path or URL of its directory."""


def check_alike(old: Side, new: Side) -> None:
    """Raise ModelMismatchError unless two models have the same metric and the same columns."""
    found, asked = _kind(old), _kind(new)
    names = [_names(each) for each in (old, new)]
    if found == asked and len(names[0]) > 1 and len(names[1]) > 1 and {*names[0]} != {*names[1]}:
        found, asked = (f"the columns {shortened(each)}" for each in names)
    if found != asked:
        of_new = f"{asked}, as the model in {secrets.shown(new.place)!r} has"
        raise ModelMismatchError(secrets.shown(old.place), found, of_new)


def _kind(side: Side) -> str:
    """Return width and metric of a model as text."""
    return f"{side.state.centers.shape[1]} features by {side.state.metric} distance"


def _names(side: Side) -> tuple[str, ...]:
    """Return the names of the columns of a model; () if they have none."""
    return side.state.rows.columns if side.state.rows else ()


def _centers(old: Side, new: Side) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the centers of both, as the new model sees rows: its columns' order, and its shift."""
    state, names = new.state, (_names(old), _names(new))
    clusters = old.state.clusters
    if len(names[0]) == len(names[1]) > 1:
        clusters = clusters[:, [names[0].index(name) for name in names[1]]]
    return seen_by(clusters, state.shift, state.metric), state.centers


def drift_of_centers(old: Side, new: Side) -> Drift:
    """Return the drift by the distances of centers, and by the sizes and losses that models keep.

    Only the last sweep of full batch knows the sizes.
    """
    metric = new.state.metric
    before, after = _centers(old, new)
    relations = matching.relations_by_distance(
        partners_of(before, after, metric),
        nearest(before, after, metric),
        nearest(after, before, metric),
        (gaps(before, metric), gaps(after, metric)),
    )
    sizes, losses = zip(*(_kept_figures(each.state) for each in (old, new)), strict=True)
    found = [
        _with_numbers(each, (before, after), metric, sizes, None)
        for each in matching.changes(relations)
    ]
    return Drift(None, losses[0], losses[1], None, str(metric), tuple(found))


def _kept_figures(state: FitState) -> tuple[NDArray[Any] | None, float | None]:
    """Return the sizes of the clusters and the loss per row in the last step of a model; None for
    each that it does not know."""
    if state.accumulators is not None or not state.history or not state.counts.any():
        return None, None
    return state.counts, float(state.history[-1].inertia / state.counts.sum())


def drift_on(source: Source, layout: Layout, old: Side, new: Side, config: RunConfig) -> Drift:
    """Return the drift on some data, whose rows are labelled by both models in one sweep."""
    config = machines_for(source, config)
    check_reachable(config, {"the data": source})
    metric, centers = new.state.metric, _centers(old, new)
    held = len(centers[0]) + len(centers[1])  # a worker has the centers of both
    with closing(Progress(config.progress)) as progress:
        emit = tell_all([LogLines(), progress])
        with open_pool(source, layout, held, metric, config, emit) as pool:
            summary = pool.summarize(ev.begin(emit, ev.Phase.READING, layout.rows, "rows"))
            flows: Flows = reduce(add, pool.ask(ShardWorker.flows, *centers))
    unit = float(summary.grid.weights_of(np.ones(1, np.int64))[0])
    partners = partners_of(*centers, metric)
    sizes = flows.sizes(0, len(centers[0])), flows.sizes(1, len(centers[1]))
    relations = matching.relations_by_rows(flows, partners, len(centers[0]))
    changes = matching.changes(relations)
    total = int(flows.weights.sum())
    stayed = sum(
        flows.between(each.old, each.new)
        for each in changes
        if each.old is not None and each.new is not None
    )
    found = [
        _with_numbers(each, centers, metric, [unit * size for size in sizes], (flows, unit))
        for each in changes
    ]
    before, after = (as_float(loss) / (unit * total) for loss in flows.losses)
    return Drift(1 - stayed / total, before, after, summary.counting, str(metric), tuple(found))


def _with_numbers(
    change: Change,
    centers: tuple[NDArray[np.float32], NDArray[np.float32]],
    metric: Metric,
    sizes: Any,
    flows: tuple[Flows, float] | None,
) -> ClusterDrift:
    """Return a change with all its numbers.

    `sizes` are those of the old and the new model, (a,) and (b,), each None if it is not known;
    `flows` the rows by both labels and the unit of their weight, None without data.
    """
    old, new = change.old, change.new
    before, after = (
        None if size is None or here is None else float(size[here])
        for size, here in zip(sizes, (old, new), strict=True)
    )
    gained = lost = moved_by = None
    if old is not None and new is not None:
        moved_by = _distance(centers[0][old], centers[1][new], metric)
    if flows is not None:
        both = old is not None and new is not None
        stayed = flows[1] * flows[0].between(old, new) if both else 0.0  # type: ignore[arg-type]
        gained, lost = (None if size is None else size - stayed for size in (after, before))
    return ClusterDrift(
        old, new, change.kind, change.parts, change.origins, moved_by, before, after, gained, lost
    )


def _distance(a: NDArray[np.float32], b: NDArray[np.float32], metric: Metric) -> float:
    """Return the distance between two centers: Euclidean, or 1 - cos."""
    squared = float(((a.astype(np.float64) - b) ** 2).sum())
    return squared / 2 if metric == Metric.COSINE else float(np.sqrt(squared))


# --- the table


def _lines(clusters: tuple[ClusterDrift, ...]) -> Iterator[str]:
    """Yield a line for each cluster: first those that are not kept, then those that moved most."""
    changed = [each for each in clusters if each.change != "kept"]
    kept = [each for each in clusters if each.change == "kept"]
    kept.sort(key=lambda each: -(each.moved_by or 0.0))
    for some in (changed, kept):
        yield from map(_line, some[:SHOWN])
        if len(some) > SHOWN:
            what = "kept, which moved less" if some is kept else "that changed; --json has all"
            yield f"   ... {len(some) - SHOWN:,} more {what}"


def _line(each: ClusterDrift) -> str:
    """Return the line of a cluster under `HEAD`."""
    old, new = ("-" if number is None else f"{number}" for number in (each.old, each.new))
    moved = "-" if each.moved_by is None else f"{each.moved_by:.4g}"
    numbers = each.size_before, each.size_after, each.gained, each.lost
    texts = ("-" if number is None else format_number(number) for number in numbers)
    line = f"{old:>6} {new:>6}  {each.change:<9}{moved:>13}" + "".join(f"{t:>13}" for t in texts)
    return f"{line}  {_others(each)}".rstrip()


def _others(each: ClusterDrift) -> str:
    """Return with which other clusters a cluster has to do, as text; '' for none."""
    if each.change == "split":
        if each.new is not None and each.old is None:
            return f"part of old {each.origins[0]}"
        return f"into new {_listed(each.parts)}"
    if each.change == "merged":
        if each.new is None:
            return f"into new {each.parts[0]}"
        return f"of old {_listed(each.origins)}"
    return ""


def _listed(numbers: tuple[int, ...]) -> str:
    """Return numbers as text."""
    return ", ".join(map(str, numbers))
