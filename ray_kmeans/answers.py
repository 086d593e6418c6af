"""What a fitted model says of data: losses, labels to a store, one batch by the seed's model_fn."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans import hiding
from ray_kmeans.cluster.pool import LocalPool, Pool
from ray_kmeans.clustering.state import FitState
from ray_kmeans.config import RunConfig
from ray_kmeans.data.plan import Layout, split
from ray_kmeans.data.source import Source
from ray_kmeans.errors import ConfigError, DataError
from ray_kmeans.inference import ALL_SCORES, CLUSTER_IDX, Batch, ReadyModel, batches_of, whole
from ray_kmeans.labelling import How, Labelling
from ray_kmeans.observe.listeners import LogLines, tell_all
from ray_kmeans.observe.progress import Progress
from ray_kmeans.resources import check_reachable, open_pool
from ray_kmeans.store.labelled import Counted, Held, LabelledOutput, Run

log = logging.getLogger("ray_kmeans")

Metric = Callable[[NDArray[np.float32], Batch], float]


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
        totals.append(_loss_here(state, source, layout))
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


def _loss_here(state: FitState, source: Source, layout: Layout) -> float:
    """Return the loss of all rows of a source, computed in this process."""
    return _loss_in(LocalPool(source, split(layout.blocks, 1), state.metric), state)


def _loss_in(pool: Pool, state: FitState) -> float:
    summary = pool.summarize()
    return pool.sweep(state.centers).inertia(summary, state.centers)


@dataclass(frozen=True)
class ModelFnOps:
    """What the seed's model_fn gives for one batch."""

    mode: str
    predictions: Batch
    """'all_scores' (n, k) float32 and 'cluster_idx' (n,) int64."""
    loss: float | None
    """Sum of the distances to the nearest center; None in mode 'infer'."""
    eval_metric_ops: dict[str, float]
    """{'scores': loss}; empty in mode 'infer'."""
    train_op: Callable[[], Any] | None
    """Call it to train one step on the batch; None but in mode 'train'."""


MODES = ("train", "eval", "infer")


def model_fn(
    state: FitState, source: Source, layout: Layout, mode: str, train: Callable[[], Any]
) -> ModelFnOps:
    """Return what a model says of one batch in memory."""
    if mode not in MODES:
        raise ConfigError(f"mode={mode!r} is unknown. Give one of {', '.join(map(repr, MODES))}.")
    predict = ReadyModel(state, (ALL_SCORES, CLUSTER_IDX))
    predictions = whole(map(predict, batches_of(source, layout, None)))
    if mode == "infer":
        return ModelFnOps(mode, predictions, None, {}, None)
    loss = _loss_here(state, source, layout)
    return ModelFnOps(mode, predictions, loss, {"scores": loss}, train if mode == "train" else None)


def write_labels(
    state: FitState,
    source: Source,
    output: LabelledOutput,
    config: RunConfig,
    *,
    model_dir: str,
    keep_columns: Sequence[str] = (),
    second: bool = False,
    by_cluster: bool = False,
    append: bool = False,
) -> Counted:
    """Write label and distance of every row, by the workers; return how many rows there are.

    What a run that was cut off has written stays, and only the rest is. `second`: also the
    second-nearest center. `by_cluster`: in folders by cluster. `append`: to what is there already
    of other data. Raises BusyError where another run writes to the same place.
    """
    layout = source.describe()
    if not layout.blocks:
        raise DataError("the data have no rows. Give at least one.")
    check_features(layout.features, state, model_dir)
    if second and len(state.centers) < 2:
        raise ConfigError("second=True: the model has one cluster, so there is no second. Omit it.")
    check_reachable(config, {f"the output {output.shown!r}": output, "the data": source})
    how = How(tuple(keep_columns), second, by_cluster).of(source, output if append else None)
    content = how.content(state, source, layout)
    done = output.complete(content, append)
    if done is None:
        with output.held() as held, closing(Progress(config.progress)) as progress:
            emit = tell_all([LogLines(), progress])
            labelling = Labelling(state, source, layout, config, how, emit)
            run = held.begin(content, append)
            if run.there is None or run.damaged:
                about = {"model_dir": hiding.shown(model_dir), "iteration": state.iteration}
                return _written(labelling, output, held, run, about)
            done = run.there
    log.info("%r is complete already: nothing is written", output.shown)
    return done


def _written(
    labelling: Labelling, output: LabelledOutput, held: Held, run: Run, model: Mapping[str, Any]
) -> Counted:
    """Write what is missing of an output, and last that it is complete."""
    if run.there is None:
        written, numbers = labelling.write(output, run)
        return held.finish(run, written, model, numbers)
    log.warning(
        "%r is complete, but %d of its parts are missing or not as they were written (%s): "
        "they are written again",
        output.shown,
        len(run.damaged),
        run.damaged[0].name,
    )
    return held.mend(run, labelling.mend(output, run))


def check_features(features: int, state: FitState, model_dir: str) -> None:
    """Raise DataError unless the data are as wide as the model."""
    if features != state.centers.shape[1]:
        raise DataError(
            f"the data have {features} features and the model in {hiding.shown(model_dir)!r} has "
            f"{state.centers.shape[1]}. Give data like those it was fitted on."
        )
