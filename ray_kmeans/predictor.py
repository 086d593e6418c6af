"""Predictor: a fitted model as a step of a Ray Data pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from ray_kmeans.config import NonFinite, Output
from ray_kmeans.data.datasets import ray_batch
from ray_kmeans.data.model_rows import open_for
from ray_kmeans.data.opening import check_nonfinite, names_of
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.workflows.predict_in_memory import ReadyModel, batches_of, join_batches
from ray_kmeans.workflows.validation import (
    a_path,
    check_features,
    check_nearest,
    chosen_outputs,
)

OUTPUTS: tuple[str, ...] = get_args(Output)
"""Names of all outputs that a batch can get."""


class Predictor:
    """Label batches of a `ray.data.Dataset`: a class for `map_batches`.

    ``data.map_batches(Predictor, fn_constructor_kwargs={"model_dir": ...}, concurrency=4,
    batch_format="pyarrow")`` reads the model once in each of four actors. An actor computes in one
    thread, on the CPU that Ray gives it.

    Parameters
    ----------
    model_dir : str
        Path or fsspec URL of a fitted model, which the actors reach.
    columns : list of str, default=None
        The column of vectors, or the d columns of numbers. None: those that the model was fitted
        on.
    outputs : sequence of {'all_scores', 'cluster_idx', 'distance'}, \
default=('cluster_idx', 'distance')
        New columns that each batch gets. 'cluster_idx' is the index of the nearest center, int64;
        'distance' the distance to it (squared Euclidean, or 1 - cos), float32; 'all_scores' the
        distances to all k centers, float32 (k,). None: all three.
    nearest : int, 1 to num_clusters, default=None
        Number of nearest clusters that each batch gets as lists, the nearest first:
        'nearest_cluster_idx', int64 (m,), and 'nearest_distance', float32 (m,). None: no lists.
    checkpoint_path : str, default=None
        One of `KMeansClustering.checkpoints`. None: the newest when an actor starts. Give it while
        a fit goes on, so that all actors have the same.
    nonfinite : {'error', 'drop'}, default='error'
        What becomes of rows with NaN, null or infinity. 'drop': they get the label -1 and the
        distance NaN.
    storage_options : dict, default=None
        Options passed to fsspec unchanged.

    Raises
    ------
    NotFittedError
        If there is no model.
    ConfigError
        If an argument cannot be used.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from ray_kmeans import Predictor, import_centers
    >>> with tempfile.TemporaryDirectory() as model_dir:
    ...     km = import_centers(np.array([[0.0, 0.0], [9.0, 9.0]]), model_dir)
    ...     Predictor(model_dir)({"v": np.array([[8.0, 7.0]])})["cluster_idx"].tolist()
    [1]
    """

    def __init__(
        self,
        model_dir: str,
        columns: Sequence[str] | None = None,
        outputs: Sequence[Output] | None = ("cluster_idx", "distance"),
        *,
        nearest: int | None = None,
        checkpoint_path: str | None = None,
        nonfinite: NonFinite = "error",
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        check_nonfinite(nonfinite)
        self._model_dir = a_path("model_dir", model_dir)
        self._columns = names_of(columns)
        self._nonfinite = nonfinite
        store = ModelDir.at(self._model_dir, storage_options or {}, keep=1)
        given = None if checkpoint_path is None else a_path("checkpoint_path", checkpoint_path)
        self._state = store.fitted(given)
        if nearest is not None:
            check_nearest(nearest, len(self._state.centers))
        self._model = ReadyModel(self._state, chosen_outputs(outputs, OUTPUTS), nearest or 0)

    def __call__(self, batch: Any) -> Any:
        """Return a batch with the outputs as new columns.

        Parameters
        ----------
        batch : pyarrow.Table or dict of arrays
            Rows (n, d), in the columns of the model or in those that were chosen.

        Returns
        -------
        pyarrow.Table or dict of arrays
            The same columns and the outputs.

        Raises
        ------
        DataError
            If the rows are not as wide as the model's.
        """
        spec = self._state.rows
        table = ray_batch.table_of(batch, self._columns or (spec.columns if spec else None))
        if not table.num_rows:
            return ray_batch.with_columns(batch, self._model(self._state.centers[:0]))
        source = open_for(self._state, table, self._columns, nonfinite=self._nonfinite)
        layout = source.describe()
        check_features(layout.features, self._state, self._model_dir)
        answers = join_batches(map(self._model, batches_of(source, layout, None)))
        return ray_batch.with_columns(batch, answers)
