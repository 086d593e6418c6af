"""A model in its directory, and what it answers: centers, losses, labels, exports.

A thin shell: validate, plan, run, read back.
"""

from __future__ import annotations

import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.state import FitState, Iteration, Stop
from ray_kmeans.config import RunConfig
from ray_kmeans.data.layout import Layout
from ray_kmeans.data.model_rows import open_for
from ray_kmeans.data.source import Source
from ray_kmeans.data.stream import is_stream, open_batches
from ray_kmeans.errors import ConfigError
from ray_kmeans.observe.monitors import Monitors, check_monitors
from ray_kmeans.store.history import history_table
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.workflows import evaluate as evaluating
from ray_kmeans.workflows import (
    export as exporting,
)
from ray_kmeans.workflows import fit
from ray_kmeans.workflows import (
    predict as inference,
)
from ray_kmeans.workflows.tf_compat import variable, variables
from ray_kmeans.workflows.validation import (
    a_path,
    check_batch_size,
    check_features,
    check_metrics,
    check_no_batch_size,
    check_no_targets,
    check_steps,
    check_to_keep,
    check_weight_of_batches,
    chosen_outputs,
    the_data,
)

log = logging.getLogger("ray_kmeans")


class Model(ABC):
    """What can be asked of a fitted model; every method reads the newest checkpoint."""

    SCORES: ClassVar = "scores"
    CLUSTER_IDX: ClassVar = inference.CLUSTER_IDX
    CLUSTERS: ClassVar = "clusters"
    ALL_SCORES: ClassVar = inference.ALL_SCORES

    @property
    @abstractmethod
    def config(self) -> RunConfig:
        """The run configuration."""

    @property
    @abstractmethod
    def model_dir(self) -> str:
        """Where the model is kept."""

    def clusters(self) -> NDArray[Any]:
        """Return the centers, (num_clusters, num_features); NotFittedError before the first fit.

        Cosine: rows of norm 1. float32; float64 for a model that was fitted with ``center=True``,
        whose centers are told apart by digits that float32 does not have.
        """
        return self._state().clusters

    def get_variable_names(self) -> list[str]:
        """Return the names of the seed's variables that this way of training has, sorted."""
        return list(variables(self._state()))

    def get_variable_value(self, name: str) -> NDArray[Any]:
        """Return a variable by the seed's name; a trailing ':0' is accepted.

        'clusters', 'global_step', 'initialized'; of mini-batch also 'Variable' (the counts, alias
        'total_counts'), and with several steps per iteration 'clusters_updated' and
        'update_in_steps'.
        """
        return variable(self._state(), name)

    def history(self) -> tuple[Iteration, ...]:
        """Return one line per step over all fits of this model."""
        return self._state().history

    def history_table(self) -> Any:
        """Return the history as an Arrow table, with units, as for a notebook or a file."""
        state = self._state()
        return history_table(state.history, state.metric)

    def counts(self) -> NDArray[Any]:
        """Return the rows of each cluster in the last sweep, (k,); of mini-batch other counts.

        int64; float64 for the sums of weights that are not whole. With mini-batches these are no
        sizes of clusters: they count the rows of all steps so far, one that was drawn again counts
        again, and so does each initial center; with several steps per iteration they begin anew
        after each one. ``ray-kmeans evaluate`` tells how all rows spread.
        """
        return self._state().counts

    def why_stopped(self) -> Stop | None:
        """Return why the last fit ended; None for one that was cut off."""
        return self._state().stop

    def checkpoints(self) -> list[str]:
        """Return the paths of all checkpoints, the oldest first: for `checkpoint_path`."""
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
        metrics: Mapping[str, evaluating.Metric] | None = None,
        name: str | None = None,
        checkpoint_path: str | None = None,
        hooks: Sequence[Any] | None = None,
        log_progress: bool = True,
        *,
        sample_weight: Any = None,
    ) -> dict[str, Any]:
        """Return the loss of data under the model; changes nothing in it.

        Parameters
        ----------
        x, input_fn
            As in `fit`.
        batch_size : int, optional
            Rows of a batch, in the order of the data; default all rows.
        steps : int, optional
            Batches at most; default all.
        metrics : dict of callables, optional
            ``f(rows, predictions)`` for a batch of rows (n, d) and what `predict` says of it; their
            mean over all rows is returned under their names. They run in this process.
        name : str, optional
            The TensorBoard file goes to ``model_dir/eval_<name>`` instead of ``model_dir/eval``.
        checkpoint_path : str, optional
            One of `checkpoints`; default the newest.
        hooks : sequence of Monitor, optional
            `begin` and `end` are called.
        log_progress : bool
            Log the result.
        sample_weight : str or array of shape (n,), optional
            How often each row counts in the loss, as in `fit`; metrics do not know it.

        Returns
        -------
        dict
            'scores': sum of the distances to the nearest center over all batches; 'loss': its mean
            over the batches; 'global_step': steps that the model was trained; and the metrics.
        """
        check_no_targets(y)
        if feed_fn is not None:
            raise ConfigError("feed_fn has no meaning without a graph. Give the data as x.")
        check_batch_size(batch_size, input_fn)
        check_steps(steps, None)
        check_metrics(metrics, (self.SCORES, "loss", "global_step"))
        lookers = Monitors(check_monitors(hooks, "hooks"))
        state = self._state(checkpoint_path)
        lookers.begin(state)
        try:
            data = the_data(x, input_fn)
            result = self._evaluated(state, data, batch_size, steps, metrics or {}, sample_weight)
        except BaseException:
            with contextlib.suppress(Exception):  # what went wrong first is what to hear of
                lookers.end(state)
            raise
        lookers.end(state)
        if log_progress:
            log.info("evaluation: %s", result)
        fit.write_evaluation(self._model_dir(), name, result)
        return result

    def score(
        self,
        input_fn: Callable[[], Any] | None = None,
        steps: int | None = None,
        *,
        x: Any = None,
        batch_size: int | None = None,
        sample_weight: Any = None,
    ) -> float:
        """Return the sum over the rows of the distance to the nearest center; positive.

        `input_fn` may also be the data. `steps` limits the number of batches, as in `evaluate`.
        """
        check_batch_size(batch_size, None)
        check_steps(steps, None)
        state, data = self._state(), the_data(x, input_fn)
        result = self._evaluated(state, data, batch_size, steps, {}, sample_weight)
        return float(result[self.SCORES])

    def _evaluated(
        self,
        state: FitState,
        data: Any,
        batch_size: int | None,
        steps: int | None,
        metrics: Mapping[str, evaluating.Metric],
        sample_weight: Any,
    ) -> dict[str, Any]:
        if is_stream(data):
            check_no_batch_size(batch_size)
            check_weight_of_batches(sample_weight)
            about = self.config.storage_options, state.centers.shape[1], sample_weight
            sources = open_batches(data, *about, state)
            losses, means = evaluating.loss_of_stream(state, sources, steps, metrics)
        else:
            source, layout = self._checked(data, state, sample_weight)
            losses, means = evaluating.loss_of(
                state, source, layout, self.config, batch_size, steps, metrics
            )
        return {
            self.SCORES: losses.total,
            "loss": losses.total / losses.batches,
            "global_step": state.iteration,
            **means,
        }

    # --- inference ---------------------------------------------------------------------------

    def predict(
        self,
        x: Any = None,
        input_fn: Callable[[], Any] | None = None,
        batch_size: int | None = None,
        outputs: Sequence[str] | None = None,
        as_iterable: bool = True,
        iterate_batches: bool = False,
    ) -> Any:
        """Return the distances to all centers and the nearest center of each row.

        Parameters
        ----------
        batch_size : int, optional
            Rows in memory at once; default one block of the data.
        outputs : sequence of 'all_scores' and 'cluster_idx', optional
        as_iterable : bool
            True: an iterator of dicts, one per row, in the order of the data. False: one dict of
            arrays over everything.
        iterate_batches : bool
            With `as_iterable`: one dict of arrays per batch.

        Notes
        -----
        'all_scores' are distances (squared Euclidean, or 1 - cos), float32; 'cluster_idx' is int64,
        a tie goes to the lowest index. Runs in this process; jobs/predict.py labels data that need
        a cluster.
        """
        wanted = chosen_outputs(outputs, (self.ALL_SCORES, self.CLUSTER_IDX))
        check_batch_size(batch_size, input_fn)
        batches = self._inferred(the_data(x, input_fn), batch_size, wanted)
        if not as_iterable:
            return inference.whole(batches)
        return batches if iterate_batches else inference.by_row(batches)

    def predict_cluster_idx(
        self, input_fn: Callable[[], Any] | None = None, *, x: Any = None
    ) -> Iterator[np.int64]:
        """Return an iterator over the index of the nearest center of each row.

        `input_fn` may also be the data.
        """
        batches = self._inferred(the_data(x, input_fn), None, (self.CLUSTER_IDX,))
        return (label for batch in batches for label in batch[self.CLUSTER_IDX])

    def transform(
        self,
        input_fn: Callable[[], Any] | None = None,
        as_iterable: bool = False,
        *,
        x: Any = None,
    ) -> Any:
        """Return the distances to all centers, (n, k) float32; or an iterator of rows.

        `input_fn` may also be the data. Squared for 'squared_euclidean', as in the seed.
        """
        batches = self._inferred(the_data(x, input_fn), None, (self.ALL_SCORES,))
        if as_iterable:
            return (row for batch in batches for row in batch[self.ALL_SCORES])
        return inference.whole(batches)[self.ALL_SCORES]

    def _inferred(
        self, data: Any, batch_size: int | None, outputs: Sequence[str]
    ) -> Iterator[inference.Batch]:
        state = self._state()
        predict = inference.ReadyModel(state, outputs)
        if is_stream(data):
            features = state.centers.shape[1]
            opened = open_batches(data, self.config.storage_options, features, state=state)
            sources = ((source, source.describe()) for source in opened)
        else:
            sources = (each for each in [self._checked(data, state)])
        batches = (
            predict(rows)
            for source, layout in sources
            for rows in inference.batches_of(source, layout, batch_size)
        )
        nothing = np.empty((0, state.centers.shape[1]), np.float32)
        return inference.at_least(batches, predict(nothing))

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

        Parameters
        ----------
        export_dir : str
            Directory or fsspec URL; the export goes to a sub-directory named by the time.
        exports_to_keep : int, optional
            Older exports are deleted; default none.
        checkpoint_path : str, optional
            One of `checkpoints`; default the newest.
        input_fn, input_feature_key, use_deprecated_input_fn, signature_fn, prediction_key, \
default_batch_size
            Of the seed's graph of tf.Example strings; the ONNX graph takes rows, so they must be
            left out.
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
        state = self._state(checkpoint_path)
        files = exporting.onnx_files(state)
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
        serving_input_fn : callable, optional
            Builds the SavedModel's inputs, as in the seed; default one input 'inputs' of rows.
        assets_extra : dict, optional
            Path below ``assets.extra/`` to the file or URL to copy there.
        as_text : bool
            Write both as text (protobuf's text format).
        checkpoint_path : str, optional
            One of `checkpoints`; default the newest.
        strip_default_attrs : bool
            Leave out attributes of nodes that have their default value.
        exports_to_keep : int, optional
            Older exports are deleted; default none.
        default_output_alternative_key, graph_rewrite_specs
            Must be left out: there is one output, and no graph to rewrite.

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

    def _open(self, data: Any, state: FitState | None, sample_weight: Any = None) -> Source:
        options = self.config.storage_options
        return open_for(state, data, storage_options=options, sample_weight=sample_weight)

    def _checked(
        self, data: Any, state: FitState, sample_weight: Any = None
    ) -> tuple[Source, Layout]:
        source = self._open(data, state, sample_weight)
        layout = source.describe()
        check_features(layout.features, state, self.model_dir)
        return source, layout

    def _state(self, checkpoint: str | None = None) -> FitState:
        path = None if checkpoint is None else a_path("checkpoint_path", checkpoint)
        return self._model_dir().fitted(path)

    def _model_dir(self) -> ModelDir:
        return ModelDir.of(self.model_dir, self.config)
