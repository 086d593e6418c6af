"""Make models without a fit: read them from a directory, or make them of given centers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast, get_args

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.config import DistanceMetric, RunConfig, check_choice
from ray_kmeans.estimator import KMeansClustering
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.workflows import import_centers as importing
from ray_kmeans.workflows.validation import a_path


def load_model(model_dir: str, config: RunConfig | None = None) -> KMeansClustering:
    """Return the model in a directory, with the parameters that its newest checkpoint tells.

    Parameters
    ----------
    model_dir : str
        Directory or fsspec URL of a fitted or imported model.
    config : RunConfig, default=None
        Machines and stores, as in `KMeansClustering`. None: all defaults.

    Returns
    -------
    KMeansClustering
        With the model's `num_clusters`, `distance_metric`, `use_mini_batch`,
        `mini_batch_steps_per_iteration` and `random_seed`.

    Raises
    ------
    NotFittedError
        If there is no model.
    CheckpointError
        If its newest checkpoint is damaged.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> with tempfile.TemporaryDirectory() as model_dir:
    ...     km = import_centers(np.array([[0.0, 0.0], [9.0, 9.0]]), model_dir)
    ...     load_model(model_dir).clusters().tolist()
    [[0.0, 0.0], [9.0, 9.0]]
    """
    place = a_path("model_dir", model_dir)
    state = ModelDir.of(place, config or RunConfig()).fitted()
    accumulators = state.accumulators
    return KMeansClustering(
        len(state.centers),
        place,
        distance_metric=cast(DistanceMetric, str(state.metric)),
        random_seed=state.origin.random_seed if state.origin else 0,
        use_mini_batch=accumulators is not None or not state.history,
        mini_batch_steps_per_iteration=accumulators.steps_per_iteration if accumulators else 1,
        config=config,
    )


def import_centers(
    centers: Any,
    model_dir: str,
    *,
    distance_metric: DistanceMetric = "squared_euclidean",
    columns: Sequence[str] = (),
    config: RunConfig | None = None,
) -> KMeansClustering:
    """Make a model of centers that come from elsewhere, and return it.

    It labels, evaluates and exports as it is; a fit trains on from these centers.

    Parameters
    ----------
    centers : path, URL, array of shape (num_clusters, num_features), table or model
        A file of any format that `fit` reads, as .npy, .npz or Parquet (a column of vectors; the
        file of ``export --format parquet`` in the order of its column 'cluster'); an index of
        faiss, as a file or object: the centers of its inverted lists, or the vectors of a flat one;
        an object with `cluster_centers_`, as KMeans of scikit-learn. Pickles are not read.
    model_dir : str
        Directory or fsspec URL for the model. One that is there already is not replaced.
    distance_metric : {'squared_euclidean', 'cosine'}, default='squared_euclidean'
        'cosine': the centers are scaled to norm 1.
    columns : list of str, default=()
        The column of vectors, or the columns of numbers, where there is a choice.
    config : RunConfig, default=None
        Machines and stores, as in `KMeansClustering`. None: all defaults.

    Returns
    -------
    KMeansClustering
        The model, as `load_model` returns it.

    Raises
    ------
    ConfigError
        If an index compares by another metric, or another model is in `model_dir`.
    DataError
        If there are no centers, or values that are not finite.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> with tempfile.TemporaryDirectory() as model_dir:
    ...     km = import_centers(np.array([[0.0, 0.0], [9.0, 9.0]]), model_dir)
    ...     km.predict(np.array([[8.0, 7.0]]), as_iterable=False)["cluster_idx"].tolist()
    [1]
    """
    check_choice("distance_metric", distance_metric, get_args(DistanceMetric))
    config = config or RunConfig()
    place = a_path("model_dir", model_dir)
    metric = Metric(distance_metric)
    given = importing.centers_of(centers, columns, config.storage_options, metric)
    importing.make_model(given, metric, ModelDir.of(place, config))
    return load_model(place, config)
