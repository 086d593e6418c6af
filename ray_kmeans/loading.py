"""A model that no fit of this process made: read back from its directory, or made of centers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.config import RunConfig
from ray_kmeans.estimator import KMeansClustering
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.workflows import import_centers as importing
from ray_kmeans.workflows.validation import METRICS, a_path, check_choice


def load_model(model_dir: str, config: RunConfig | None = None) -> KMeansClustering:
    """Return the model in a directory; what it is stands in its newest checkpoint.

    Parameters
    ----------
    model_dir : str
        Directory or fsspec URL of a fitted or imported model.
    config : RunConfig, optional
        As in `KMeansClustering`.

    Returns
    -------
    KMeansClustering
        With the model's `num_clusters`, `distance_metric`, `use_mini_batch`,
        `mini_batch_steps_per_iteration` and `random_seed`.

    Raises
    ------
    NotFittedError
        Where there is no model.
    CheckpointError
        Where its newest checkpoint is damaged.
    """
    place = a_path("model_dir", model_dir)
    state = ModelDir.of(place, config or RunConfig()).fitted()
    running = state.running
    return KMeansClustering(
        len(state.centers),
        place,
        distance_metric=str(state.metric),
        random_seed=state.origin.random_seed if state.origin else 0,
        use_mini_batch=running is not None or not state.history,
        mini_batch_steps_per_iteration=running.steps_per_iteration if running else 1,
        config=config,
    )


def import_centers(
    centers: Any,
    model_dir: str,
    *,
    distance_metric: str = Metric.SQUARED_EUCLIDEAN.value,
    columns: Sequence[str] = (),
    config: RunConfig | None = None,
) -> KMeansClustering:
    """Make a model of centers that come from elsewhere, and return it.

    It labels, evaluates and exports as it is; a fit trains on from these centers.

    Parameters
    ----------
    centers : path, URL, array, table or model, holding (num_clusters, num_features) values
        A file of any format that `fit` reads, as .npy, .npz or Parquet (a column of vectors; that
        of `export --format parquet` in the order of its column 'cluster'); an index of faiss, as
        a file or object: the centers of its inverted lists, or the vectors of a flat one; an
        object with `cluster_centers_`, as KMeans of scikit-learn. Pickles are not read.
    model_dir : str
        Directory or fsspec URL for the model. One that is there already is not replaced.
    distance_metric : 'squared_euclidean' or 'cosine'
        'cosine': the centers are scaled to norm 1.
    columns : list of str, optional
        The column of vectors, or the columns of numbers, where there is a choice.
    config : RunConfig, optional
        As in `KMeansClustering`.

    Raises
    ------
    ConfigError, DataError (ValueError)
        For what holds no centers, values that are not finite, an index that compares by another
        metric, and a `model_dir` with another model.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> with tempfile.TemporaryDirectory() as model_dir:
    ...     km = import_centers(np.array([[0.0, 0.0], [9.0, 9.0]]), model_dir)
    ...     km.predict(np.array([[8.0, 7.0]]), as_iterable=False)["cluster_idx"].tolist()
    [1]
    """
    check_choice("distance_metric", distance_metric, METRICS)
    config = config or RunConfig()
    place = a_path("model_dir", model_dir)
    metric = Metric(distance_metric)
    found = importing.centers_of(centers, columns, config.storage_options, metric)
    importing.imported(found, metric, ModelDir.of(place, config))
    return load_model(place, config)
