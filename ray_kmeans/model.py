"""Everything that can be asked of a model: centers, losses, labels, labelled output, exports.

A thin shell: it checks arguments, opens data as the model reads them, and calls one workflow.
"""

from __future__ import annotations

import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ray_kmeans.algorithm.quality_sums import BORDERS
from ray_kmeans.algorithm.state import FitState, Iteration, Restart, Stop
from ray_kmeans.algorithm.tree import Tree
from ray_kmeans.config import Output, RunConfig, Work
from ray_kmeans.data.model_rows import open_for, said_of
from ray_kmeans.data.sharding import Layout
from ray_kmeans.data.source import Source
from ray_kmeans.data.stream import is_stream, open_batches
from ray_kmeans.engine.label_writer import LISTS
from ray_kmeans.errors import ConfigError
from ray_kmeans.observe.monitors import Monitor, Monitors, check_monitors
from ray_kmeans.store.history import history_table
from ray_kmeans.store.labelled import LabelledOutput
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.workflows import drift as drifting
from ray_kmeans.workflows import evaluate as evaluating
from ray_kmeans.workflows import explain as explaining
from ray_kmeans.workflows import export as exporting
from ray_kmeans.workflows import fit as fitting
from ray_kmeans.workflows import label as labelling
from ray_kmeans.workflows import predict_in_memory as inference
from ray_kmeans.workflows.quality import quality_options
from ray_kmeans.workflows.tf_compat import variable, variables
from ray_kmeans.workflows.validation import (
    a_path,
    all_rows,
    check_batch_size,
    check_features,
    check_metrics,
    check_nearest,
    check_no_batch_size,
    check_no_targets,
    check_steps,
    check_to_keep,
    chosen_outputs,
    input_data,
)
from ray_kmeans.workflows.worker_plan import machines_for

log = logging.getLogger("ray_kmeans")


class Model(ABC):
    """What can be asked of a fitted model."""

    SCORES: ClassVar = "scores"
    """Key of the loss in the result of `evaluate`."""
    CLUSTER_IDX: ClassVar = inference.CLUSTER_IDX
    """Key of the nearest center in the result of `predict`."""
    CLUSTERS: ClassVar = "clusters"
    """Name of the centers among the variables."""
    ALL_SCORES: ClassVar = inference.ALL_SCORES
    """Key of the distances to all centers in the result of `predict`."""

    @property
    @abstractmethod
    def config(self) -> RunConfig:
        """The run configuration: machines, stores and checkpoints."""

    @property
    @abstractmethod
    def model_dir(self) -> str:
        """Path or URL of the directory that the model is in."""

    # --- what the model is -------------------------------------------------------------------

    def clusters(self) -> NDArray[Any]:
        """Return the centers.

        Returns
        -------
        ndarray of shape (num_clusters, num_features)
            float32, rows of norm 1 for cosine. float64 for a model that was fitted with
            ``center=True``, whose centers are told apart by digits that float32 does not have.

        Raises
        ------
        NotFittedError
            If there is no model yet.
        """
        return self._state().clusters

    def get_variable_names(self) -> list[str]:
        """Return the names of the variables that TensorFlow has after training in the same way.

        Returns
        -------
        list of str
            Sorted names; which they are depends on whether mini-batches were used.
        """
        return list(variables(self._state()))

    def get_variable_value(self, name: str) -> NDArray[Any]:
        """Return a variable by the name that it has in TensorFlow.

        Parameters
        ----------
        name : str
            'clusters', 'global_step' or 'initialized'; after mini-batches also 'Variable' (the
            counts; 'total_counts' is the same), and with several steps per iteration
            'clusters_updated' and 'update_in_steps'. A trailing ':0' is accepted.

        Returns
        -------
        ndarray
            The value; shape (num_clusters, num_features), (num_clusters,) or ().

        Raises
        ------
        ConfigError
            If there is no such variable.
        """
        return variable(self._state(), name)

    def history(self) -> tuple[Iteration, ...]:
        """Return one record per step over all fits of this model.

        Returns
        -------
        tuple of Iteration
            The oldest step first.
        """
        return self._state().history

    def history_table(self) -> pa.Table:
        """Return the history as an Arrow table, as for a notebook or a file.

        Returns
        -------
        pyarrow.Table
            One row per step; the metadata of each column have its unit and its meaning.
        """
        state = self._state()
        return history_table(state.history, state.metric)

    def counts(self) -> NDArray[Any]:
        """Return the number of rows of each cluster in the last sweep.

        With mini-batches these are not sizes of clusters: they count the rows of all steps so far,
        a row that was drawn again counts again, and so does each initial center; with several steps
        per iteration they begin anew after each one. `evaluation` counts all rows once.

        Returns
        -------
        ndarray of shape (num_clusters,)
            int64; float64 for the sums of weights that are not whole.
        """
        return self._state().counts

    def why_stopped(self) -> Stop | None:
        """Return why the last fit ended.

        Returns
        -------
        Stop or None
            The reason, whose value is a sentence; None for a fit that was cut off.
        """
        return self._state().stop

    def restarts(self) -> tuple[Restart, ...]:
        """Return the fits among which the model was the best, see `n_init`.

        Returns
        -------
        tuple of Restart
            One for each seed, in order; empty where the model was the only fit.
        """
        return self._state().restarts

    def tree(self) -> Tree | None:
        """Return the levels above the clusters of a model that was fitted with `levels`.

        Returns
        -------
        Tree or None
            Its `centers` are those of each level from the top down, (k_l, num_features), as rows
            of the data are seen by the fit, and its `parents` the number of each center's parent,
            of the clusters last; None for clusters of one level.
        """
        return self._state().tree

    def checkpoints(self) -> list[str]:
        """Return the paths of all checkpoints, as `checkpoint_path` takes them.

        Returns
        -------
        list of str
            The oldest first.
        """
        return self._model_dir().checkpoints()

    # --- evaluation --------------------------------------------------------------------------

    def evaluate(
        self,
        x: Any = None,
        y: None = None,
        input_fn: Callable[[], Any] | None = None,
        feed_fn: None = None,
        batch_size: int | None = None,
        steps: int | None = None,
        metrics: Mapping[str, evaluating.MetricFunction] | None = None,
        name: str | None = None,
        checkpoint_path: str | None = None,
        hooks: Sequence[Monitor] | None = None,
        log_progress: bool = True,
        *,
        sample_weight: Any = None,
    ) -> dict[str, Any]:
        """Return the loss of data under the model; changes nothing in it.

        `evaluation` also tells how the rows spread over the clusters.

        Parameters
        ----------
        x : array, table, URI, source or iterator of batches, default=None
            Rows (n, d), as in `fit`; exactly one of `x` and `input_fn`.
        y : None, default=None
            Not used: clustering has no targets.
        input_fn : callable, default=None
            Function that returns the data.
        feed_fn : None, default=None
            Not used: there is no graph.
        batch_size : int, default=None
            Rows of a batch, in the order of the data. None: all rows.
        steps : int, default=None
            Largest number of batches. None: all.
        metrics : dict of callables, default=None
            Functions ``f(rows, predictions)`` by name, of the rows of a batch (n, d) and of what
            `predict` says of them; their mean over all rows is returned. They run in this process.
        name : str, default=None
            The TensorBoard file goes to ``model_dir/eval_<name>``. None: to ``model_dir/eval``.
        checkpoint_path : str, default=None
            One of `checkpoints`. None: the newest.
        hooks : sequence of Monitor, default=None
            Monitors, of which `begin` and `end` are called.
        log_progress : bool, default=True
            Whether the result is logged.
        sample_weight : str or array of shape (n,), default=None
            How often each row counts in the loss, as in `fit`; metrics do not know it.

        Returns
        -------
        dict
            'scores': sum of the distances to the nearest center over all batches; 'loss': its mean
            over the batches; 'global_step': steps that the model was trained; and the metrics.

        Raises
        ------
        NotFittedError
            If there is no model yet.
        ConfigError
            If an argument cannot be used.
        DataError
            If the data cannot be read, or are not like those of the model.
        """
        check_no_targets(y)
        if feed_fn is not None:
            raise ConfigError("feed_fn has no meaning without a graph. Give the data as x.")
        check_batch_size(batch_size, input_fn)
        check_steps(steps, None)
        check_metrics(metrics, (self.SCORES, "loss", "global_step"))
        monitors = Monitors(check_monitors(hooks, "hooks"))
        state = self._state(checkpoint_path)
        monitors.begin(state)
        try:
            result = self._losses(
                state,
                input_data(x, input_fn),
                batch_size=batch_size,
                steps=steps,
                metrics=metrics,
                sample_weight=sample_weight,
            )
        except BaseException:
            with contextlib.suppress(Exception):  # the first error is the one to raise
                monitors.end(state)
            raise
        monitors.end(state)
        if log_progress:
            log.info("evaluation: %s", result)
        fitting.write_evaluation(self._model_dir(), name, result)
        return result

    def evaluation(
        self,
        x: Any,
        *,
        sample_weight: Any = None,
        quality: bool = True,
        borders: Sequence[float] = BORDERS,
        against_column: str | None = None,
        against_output: str | None = None,
    ) -> evaluating.Evaluation:
        """Return the loss of all rows, how they spread over the clusters, and how good these are.

        The command ``ray-kmeans evaluate`` prints this. Workers visit the rows, as in a fit.

        Parameters
        ----------
        x : array, table, URI or source
            Rows (n, d), as in `fit`; not an iterator.
        sample_weight : str or array of shape (n,), default=None
            How often each row counts, as in `fit`. None: once.
        quality : bool, default=True
            Whether `quality` of the result is made, too: the second-nearest center of each row
            costs about one sweep more, and comparing the centers time O(k^2 d).
        borders : sequence of float, default=(1, 5, 10)
            Percentages x: the share of rows within each of them of a border is told, rows with
            ``(b - a) / b <= x / 100`` for the distances a to the nearest and b to the
            second-nearest center.
        against_column : str, default=None
            Column of the data with labels of another clustering to compare with: whole numbers,
            texts or booleans. Rows without one are left out of the comparison.
        against_output : str, default=None
            Path or URL of a labelled output of the same rows, in the order of the data, to compare
            with.

        Returns
        -------
        Evaluation
            Loss, mean loss, rows, empty clusters, `sizes` and `shares` of the clusters, and a
            `Quality`.

        Raises
        ------
        NotFittedError
            If there is no model yet.
        ConfigError
            If an argument cannot be used.
        DataError
            If the data cannot be read, or are not like those of the model.

        Examples
        --------
        >>> import numpy as np, tempfile
        >>> from ray_kmeans import RunConfig, import_centers
        >>> here = RunConfig(num_workers=0, progress=False)
        >>> with tempfile.TemporaryDirectory() as model_dir:
        ...     km = import_centers(np.array([[0.0], [9.0]]), model_dir, config=here)
        ...     found = km.evaluation(np.array([[1.0], [8.0], [10.0], [9.0]]))
        >>> found.loss, found.sizes.tolist(), found.shares.tolist()
        (3.0, [1, 3], [0.25, 0.75])
        """
        options = quality_options(quality, borders, against_column, against_output)
        state = self._state()
        source, layout = self._open_checked(all_rows(x), state, sample_weight)
        return evaluating.evaluate_on(source, layout, state, self.config, options)

    def drift_from(
        self, other: str | Model, x: Any = None, *, sample_weight: Any = None
    ) -> drifting.Drift:
        """Return what became of the clusters of another model, which is the older one.

        The command ``ray-kmeans drift`` prints this. Centers are matched one to one, with the least
        sum of Euclidean distances (beyond 4,096 clusters: those that are each other's nearest).

        Parameters
        ----------
        other : str or Model
            The old model, or its directory or URL.
        x : array, table, URI or source, default=None
            Rows (n, d), as in `fit`; not an iterator. Workers label them by both models in one
            sweep. None: changes are told by the distances of the centers.
        sample_weight : str or array of shape (n,), default=None
            How often each row counts, as in `fit`. None: once.

        Returns
        -------
        Drift
            Loss before and after, the moved share of the rows, and a record for each cluster.

        Raises
        ------
        NotFittedError
            If either model is not there.
        ModelMismatchError
            If the models have other columns or another metric.
        DataError
            If the data cannot be read, or are not like those of the models.

        Examples
        --------
        >>> import numpy as np, tempfile
        >>> from ray_kmeans import RunConfig, import_centers
        >>> here = RunConfig(num_workers=0, progress=False)
        >>> with tempfile.TemporaryDirectory() as root:
        ...     old = import_centers(np.array([[0.0], [9.0]]), f"{root}/old", config=here)
        ...     new = import_centers(np.array([[9.5], [0.0]]), f"{root}/new", config=here)
        ...     found = new.drift_from(old, np.array([[1.0], [8.0], [10.0], [9.0]]))
        >>> found.moved_share, [(each.old, each.new, each.moved_by) for each in found.clusters]
        (0.0, [(1, 0, 0.5), (0, 1, 0.0)])
        """
        if not isinstance(other, Model):
            other = FittedModel(a_path("other", other), self.config)
        old, new = (drifting.Side(each._state(), each.model_dir) for each in (other, self))
        drifting.check_alike(old, new)
        if x is None:
            return drifting.drift_of_centers(old, new)
        source, layout = self._open_checked(all_rows(x), new.state, sample_weight)
        return drifting.drift_on(source, layout, old, new, self.config)

    def score(
        self,
        input_fn: Callable[[], Any] | None = None,
        steps: int | None = None,
        *,
        x: Any = None,
        batch_size: int | None = None,
        sample_weight: Any = None,
    ) -> float:
        """Return the sum over the rows of the distance to the nearest center.

        Parameters
        ----------
        input_fn : callable, default=None
            Function that returns the data; may also be the data.
        steps : int, default=None
            Largest number of batches, as in `evaluate`. None: all.
        x : array, table, URI, source or iterator of batches, default=None
            Rows (n, d), as in `fit`; exactly one of `x` and `input_fn`.
        batch_size : int, default=None
            Rows of a batch. None: all rows.
        sample_weight : str or array of shape (n,), default=None
            How often each row counts, as in `fit`. None: once.

        Returns
        -------
        float
            The loss; positive, where scikit-learn's `score` is the same with a minus.
        """
        check_batch_size(batch_size, None)
        check_steps(steps, None)
        result = self._losses(
            self._state(),
            input_data(x, input_fn),
            batch_size=batch_size,
            steps=steps,
            sample_weight=sample_weight,
        )
        return float(result[self.SCORES])

    def _losses(
        self,
        state: FitState,
        data: Any,
        *,
        batch_size: int | None,
        steps: int | None,
        metrics: Mapping[str, evaluating.MetricFunction] | None = None,
        sample_weight: Any,
    ) -> dict[str, Any]:
        """Return what `evaluate` returns."""
        metrics = metrics or {}
        if is_stream(data):
            check_no_batch_size(batch_size)
            losses, means = evaluating.loss_of_stream(
                state, data, self.config, steps, metrics, sample_weight
            )
        else:
            source, layout = self._open_checked(data, state, sample_weight)
            losses, means = evaluating.loss_of(
                state, source, layout, self.config, batch_size, steps, metrics
            )
        return {
            self.SCORES: losses.total,
            "loss": losses.total / losses.batches,
            "global_step": state.iteration,
            **means,
        }

    # --- labels ------------------------------------------------------------------------------

    @overload
    def predict(
        self,
        x: Any = None,
        input_fn: Callable[[], Any] | None = None,
        batch_size: int | None = None,
        outputs: Sequence[Output] | None = None,
        as_iterable: Literal[True] = True,
        iterate_batches: bool = False,
    ) -> Iterator[dict[str, Any]]: ...

    @overload
    def predict(
        self,
        x: Any = None,
        input_fn: Callable[[], Any] | None = None,
        batch_size: int | None = None,
        outputs: Sequence[Output] | None = None,
        *,
        as_iterable: Literal[False],
        iterate_batches: bool = False,
    ) -> inference.Batch: ...

    @overload
    def predict(
        self,
        x: Any = None,
        input_fn: Callable[[], Any] | None = None,
        batch_size: int | None = None,
        outputs: Sequence[Output] | None = None,
        as_iterable: bool = True,
        iterate_batches: bool = False,
    ) -> inference.Batch | Iterator[dict[str, Any]]: ...

    def predict(
        self,
        x: Any = None,
        input_fn: Callable[[], Any] | None = None,
        batch_size: int | None = None,
        outputs: Sequence[Output] | None = None,
        as_iterable: bool = True,
        iterate_batches: bool = False,
    ) -> inference.Batch | Iterator[dict[str, Any]]:
        """Return the distances to all centers and the nearest center of each row.

        Runs in this process and holds one batch; `label` labels data that need a Ray cluster.

        Parameters
        ----------
        x : array, table, URI, source or iterator of batches, default=None
            Rows (n, d), as in `fit`; exactly one of `x` and `input_fn`.
        input_fn : callable, default=None
            Function that returns the data.
        batch_size : int, default=None
            Rows in memory at once. None: one block of the data.
        outputs : sequence of {'all_scores', 'cluster_idx'}, default=None
            Names of the outputs that are wanted. None: both.
        as_iterable : bool, default=True
            Whether an iterator is returned. False: one dict of arrays over all rows.
        iterate_batches : bool, default=False
            Whether the iterator gives batches, each a dict of arrays. False: rows, each a dict.

        Returns
        -------
        iterator of dict, or dict
            'all_scores': distances to all centers (squared Euclidean, or 1 - cos), float32 (k,) of
            a row and (n, k) of a batch. 'cluster_idx': index of the nearest center, int64; a tie
            goes to the lowest index. In the order of the data.

        Raises
        ------
        NotFittedError
            If there is no model yet; raised by the call, before the first row is asked for.
        ConfigError
            If an argument cannot be used.
        DataError
            If the data cannot be read, or are not like those of the model.

        Examples
        --------
        >>> import numpy as np, tempfile
        >>> from ray_kmeans import import_centers
        >>> with tempfile.TemporaryDirectory() as model_dir:
        ...     km = import_centers(np.array([[0.0], [9.0]]), model_dir)
        ...     found = km.predict(np.array([[1.0], [8.0]]), as_iterable=False)
        >>> found["cluster_idx"].tolist(), found["all_scores"].tolist()
        ([0, 1], [[1.0, 64.0], [64.0, 1.0]])
        """
        wanted = chosen_outputs(outputs, (self.ALL_SCORES, self.CLUSTER_IDX))
        check_batch_size(batch_size, input_fn)
        batches = self._predict_batches(input_data(x, input_fn), batch_size, wanted)
        if not as_iterable:
            return inference.join_batches(batches)
        return batches if iterate_batches else inference.by_row(batches)

    def predict_cluster_idx(
        self, input_fn: Callable[[], Any] | None = None, *, x: Any = None
    ) -> Iterator[np.int64]:
        """Return the index of the nearest center of each row.

        Parameters
        ----------
        input_fn : callable, default=None
            Function that returns the data; may also be the data.
        x : array, table, URI, source or iterator of batches, default=None
            Rows (n, d), as in `fit`; exactly one of `x` and `input_fn`.

        Returns
        -------
        iterator of int64
            In the order of the data.
        """
        batches = self._predict_batches(input_data(x, input_fn), None, (self.CLUSTER_IDX,))
        return (label for batch in batches for label in batch[self.CLUSTER_IDX])

    @overload
    def transform(
        self,
        input_fn: Callable[[], Any] | None = None,
        as_iterable: Literal[False] = False,
        *,
        x: Any = None,
    ) -> NDArray[np.float32]: ...

    @overload
    def transform(
        self,
        input_fn: Callable[[], Any] | None = None,
        *,
        as_iterable: Literal[True],
        x: Any = None,
    ) -> Iterator[NDArray[np.float32]]: ...

    def transform(
        self,
        input_fn: Callable[[], Any] | None = None,
        as_iterable: bool = False,
        *,
        x: Any = None,
    ) -> NDArray[np.float32] | Iterator[NDArray[np.float32]]:
        """Return the distances of each row to all centers.

        Parameters
        ----------
        input_fn : callable, default=None
            Function that returns the data; may also be the data.
        as_iterable : bool, default=False
            Whether an iterator of rows is returned, which holds one block at a time.
        x : array, table, URI, source or iterator of batches, default=None
            Rows (n, d), as in `fit`; exactly one of `x` and `input_fn`.

        Returns
        -------
        ndarray of shape (n, num_clusters), or iterator of ndarray of shape (num_clusters,)
            float32. Squared for 'squared_euclidean', as in TensorFlow; 1 - cos for 'cosine'.
        """
        batches = self._predict_batches(input_data(x, input_fn), None, (self.ALL_SCORES,))
        if as_iterable:
            return (row for batch in batches for row in batch[self.ALL_SCORES])
        return inference.join_batches(batches)[self.ALL_SCORES]

    def predict_nearest(self, x: Any, nearest: int) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Return the nearest clusters of each row and their distances, the nearest first.

        Runs in this process; `label` writes them for data that need a Ray cluster. It costs one
        product of all rows and centers in float32. A block of rows is scored at a time, and a
        thousand centers, so that large numbers of clusters take no memory for their distances.

        Parameters
        ----------
        x : array, table, URI, source or iterator of batches
            Rows (n, d), as in `fit`.
        nearest : int, 1 to num_clusters
            Number of nearest clusters, m.

        Returns
        -------
        (ndarray of shape (n, m), ndarray of shape (n, m))
            Indices, int64, and distances (squared Euclidean, or 1 - cos), float32. Indices are
            right over the real numbers, and of equally near clusters the lowest index comes first.
            A row that is left out has -1 and NaN.

        Raises
        ------
        NotFittedError
            If there is no model yet.
        ConfigError
            If an argument cannot be used.
        DataError
            If the data cannot be read, or are not like those of the model.

        Examples
        --------
        >>> import numpy as np, tempfile
        >>> from ray_kmeans import import_centers
        >>> with tempfile.TemporaryDirectory() as model_dir:
        ...     km = import_centers(np.array([[0.0], [9.0], [4.0]]), model_dir)
        ...     indices, distances = km.predict_nearest(np.array([[1.0], [8.0]]), 2)
        >>> indices.tolist(), distances.tolist()
        ([[0, 2], [1, 2]], [[1.0, 9.0], [1.0, 16.0]])
        """
        check_nearest(nearest, len(self._state().centers))
        found = inference.join_batches(self._predict_batches(x, None, (), nearest))
        return found[LISTS[0]], found[LISTS[1]]

    def _predict_batches(
        self, data: Any, batch_size: int | None, outputs: Sequence[str], nearest: int = 0
    ) -> Iterator[inference.Batch]:
        """Return an iterator over what the model says of each batch of some data."""
        state = self._state()
        predict = inference.ReadyModel(state, outputs, nearest)
        if is_stream(data):
            features = state.centers.shape[1]
            opened = open_batches(data, self.config.storage_options, features, state=state)
            sources = ((source, source.describe()) for source in opened)
        else:
            sources = (each for each in [self._open_checked(data, state)])
        return predict.each(sources, batch_size)

    def label(
        self,
        x: Any,
        output: str,
        keep_columns: Sequence[str] = (),
        second: bool = False,
        by_cluster: bool = False,
        append: bool = False,
        *,
        nearest: int | None = None,
        beam: int | None = None,
        recall: float | None = None,
    ) -> labelling.LabelCounts:
        """Write the cluster of every row to Parquet files; the same call again continues.

        Each worker writes the rows that it reads. The output has the columns `row` (number of the
        row in the data), `cluster_idx` and `distance`. It is complete once ``_manifest.json`` is
        there.

        Parameters
        ----------
        x : array, table, URI or source
            Rows (n, d), as in `fit`; not an iterator. `open_source` chooses columns and filters.
        output : str
            Directory or fsspec URL for the files.
        keep_columns : sequence of str, default=()
            Columns of the data to pass through to the output.
        second : bool, default=False
            Whether the second-nearest cluster and its distance are written too, in the columns
            `second_cluster_idx` and `second_distance`. It costs another pass.
        by_cluster : bool, default=False
            Whether the files are in folders by cluster (``cluster=00007/``, as Hive has them), or
            by ranges of many clusters.
        append : bool, default=False
            Whether the rows are added to an output of other data, made with the same model and
            arguments.
        nearest : int, 1 to num_clusters, default=None
            Number of nearest clusters that are listed for each row with their distances, the
            nearest first, in the columns `nearest_cluster_idx` and `nearest_distance`: lists of
            this length. They are exact as labels are, with ties to the lowest index. They cost one
            product of all rows and centers in float32, and an output of 8 bytes for each.
        beam : int, >= 1, default=None
            Label by the tree of a model that was fitted with `levels`: of each level, the children
            of this many nodes nearest to the row are looked at. Most labels are of the nearest
            center and some are not: a sample of 10,000 rows is labelled exactly as well, and the
            result and the output's manifest tell the share that is right, with its interval of
            95 %, and how much higher the loss is. None: labels are exact.
        recall : float, 0 < recall < 1, default=None
            The same by the narrowest beam whose share of right labels is at least this, by the
            lower end of the interval.

        Returns
        -------
        LabelCounts
            The number of rows, and of those without a cluster; and what a beam was worth.

        Raises
        ------
        NotFittedError
            If there is no model yet.
        ConfigError
            If an argument cannot be used.
        DataError
            If the data cannot be read, or are not like those of the model.
        BusyError
            If another run writes to the same output.
        StoreError
            If something else is at `output`, or it cannot be written.

        Examples
        --------
        >>> import numpy as np, tempfile
        >>> from ray_kmeans import RunConfig, import_centers
        >>> here = RunConfig(num_workers=0, progress=False)
        >>> with tempfile.TemporaryDirectory() as place:
        ...     km = import_centers(np.array([[0.0], [9.0]]), f"{place}/model", config=here)
        ...     print(km.label(np.array([[1.0], [8.0]]), f"{place}/labelled"))
        2 rows labelled
        """
        state, config = self._state(), self.config
        return labelling.write_labels(
            state,
            open_for(state, all_rows(x), storage_options=self.config.storage_options),
            LabelledOutput.at(a_path("output", output), config.storage_options),
            config,
            model_dir=self.model_dir,
            keep_columns=keep_columns,
            second=second,
            nearest=nearest,
            by_cluster=by_cluster,
            append=append,
            beam=beam,
            recall=recall,
        )

    def _explanation(self, x: Any, work: Work) -> str:
        """Return the plan of a work with this model, as text."""
        state = self._state()
        source, layout = self._open_checked(all_rows(x), state)
        config = machines_for(source, self.config)
        return explaining.explain(
            layout, len(state.centers), config, work=work, features=said_of(source)
        )

    # --- export ------------------------------------------------------------------------------

    def export(
        self,
        export_dir: str,
        input_fn: None = None,
        input_feature_key: None = None,
        use_deprecated_input_fn: bool = True,
        signature_fn: None = None,
        prediction_key: str | None = None,
        default_batch_size: int = 1,
        exports_to_keep: int | None = None,
        checkpoint_path: str | None = None,
    ) -> str:
        """Write the model as an ONNX graph to a new directory; return its path.

        The arguments of TensorFlow's graph of tf.Example strings must be left out: the ONNX graph
        takes rows.

        Parameters
        ----------
        export_dir : str
            Directory or fsspec URL; the export goes to a sub-directory named by the time.
        input_fn : None, default=None
            Must be left out.
        input_feature_key : None, default=None
            Must be left out.
        use_deprecated_input_fn : bool, default=True
            Must be left out.
        signature_fn : None, default=None
            Must be left out.
        prediction_key : None, default=None
            Must be left out.
        default_batch_size : int, default=1
            Must be left out.
        exports_to_keep : int, default=None
            Number of the newest exports to keep; older ones are deleted. None: all.
        checkpoint_path : str, default=None
            One of `checkpoints`. None: the newest.

        Returns
        -------
        str
            Path or URL of the new directory.

        Raises
        ------
        NotFittedError
            If there is no model yet.
        ConfigError
            If an argument cannot be used, or the extra ``[onnx]`` is not installed.
        """
        exporting.refuse(
            input_fn=input_fn,
            input_feature_key=input_feature_key,
            use_deprecated_input_fn=use_deprecated_input_fn is not True or None,
            signature_fn=signature_fn,
            prediction_key=prediction_key,
            default_batch_size=None if default_batch_size == 1 else default_batch_size,
        )
        check_to_keep(exports_to_keep)
        files = exporting.onnx_files(self._state(checkpoint_path))
        options = self.config.storage_options
        return exporting.publish(export_dir, files, options, exports_to_keep)

    def export_savedmodel(
        self,
        export_dir_base: str,
        serving_input_fn: Callable[[], Any] | None = None,
        default_output_alternative_key: None = None,
        assets_extra: Mapping[str, str] | None = None,
        as_text: bool = False,
        checkpoint_path: str | None = None,
        graph_rewrite_specs: None = None,
        strip_default_attrs: bool = False,
        *,
        exports_to_keep: int | None = None,
    ) -> str:
        """Write the model as an ONNX graph and a TensorFlow SavedModel; return the path.

        Parameters
        ----------
        export_dir_base : str
            Directory or fsspec URL; the export goes to a sub-directory named by the time.
        serving_input_fn : callable, default=None
            Function that builds the SavedModel's inputs, as in TensorFlow. None: one input
            'inputs' of rows.
        default_output_alternative_key : None, default=None
            Must be left out: there is one output.
        assets_extra : dict of str to str, default=None
            Files or URLs to copy, by their paths below ``assets.extra/``.
        as_text : bool, default=False
            Whether both are written as text (protobuf's text format).
        checkpoint_path : str, default=None
            One of `checkpoints`. None: the newest.
        graph_rewrite_specs : None, default=None
            Must be left out: there is no graph to rewrite.
        strip_default_attrs : bool, default=False
            Whether attributes of nodes that have their default value are left out.
        exports_to_keep : int, default=None
            Number of the newest exports to keep; older ones are deleted. None: all.

        Returns
        -------
        str
            Path or URL of the new directory.

        Raises
        ------
        NotFittedError
            If there is no model yet.
        ConfigError
            If an argument cannot be used, or the extra ``[onnx]`` is not installed.

        Notes
        -----
        The SavedModel is written where TensorFlow is installed (extra ``[tensorflow]``); else a
        warning says that it is missing. The ONNX graph needs the extra ``[onnx]``.
        """
        exporting.refuse(
            default_output_alternative_key=default_output_alternative_key,
            graph_rewrite_specs=graph_rewrite_specs,
        )
        check_to_keep(exports_to_keep)
        state = self._state(checkpoint_path)
        options = self.config.storage_options
        files = exporting.onnx_files(state, as_text, strip_default_attrs)
        files |= exporting.saved_model(state, as_text, strip_default_attrs, serving_input_fn)
        files |= exporting.assets(assets_extra, options)
        return exporting.publish(export_dir_base, files, options, exports_to_keep)

    # --- inside ------------------------------------------------------------------------------

    def _open_checked(
        self, data: Any, state: FitState, sample_weight: Any = None
    ) -> tuple[Source, Layout]:
        """Open data; raise DataError unless they are as wide as the model."""
        options = self.config.storage_options
        source = open_for(state, data, storage_options=options, sample_weight=sample_weight)
        layout = source.describe()
        check_features(layout.features, state, self.model_dir)
        return source, layout

    def _state(self, checkpoint: str | None = None) -> FitState:
        """Read the newest checkpoint, or the one at a path."""
        path = None if checkpoint is None else a_path("checkpoint_path", checkpoint)
        return self._model_dir().fitted(path)

    def _model_dir(self) -> ModelDir:
        """Return the directory that the checkpoints are in."""
        return ModelDir.of(self.model_dir, self.config)


class FittedModel(Model):
    """A model as it was when it was read; a fit that goes on meanwhile does not change its answers.

    The commands use it, so that all that one of them does is by one checkpoint, read once.
    """

    def __init__(self, model_dir: str, config: RunConfig) -> None:
        self._config = config
        self._place = model_dir
        self.state = super()._state()
        """The model: its centers, and how it was trained."""

    @property
    def config(self) -> RunConfig:
        """The run configuration: machines and stores."""
        return self._config

    @property
    def model_dir(self) -> str:
        """Path or URL of the directory that the model was read from."""
        return self._place

    def explain(self, x: Any, work: Work) -> str:
        """Return the plan of a work with this model, as text; see `KMeansClustering.explain`."""
        return self._explanation(x, work)

    def _state(self, checkpoint: str | None = None) -> FitState:
        """Return the model as it was read, or read the checkpoint at a path."""
        return self.state if checkpoint is None else super()._state(checkpoint)
