"""Models without a fit: read from a directory, made of given centers, written as their centers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast, get_args

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.config import CenterFormat, DistanceMetric, RunConfig, check_choice
from ray_kmeans.estimator import KMeansClustering
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.workflows import export as exporting
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
        an IVF model of Lance (a file); a table of VectorChord (Parquet, or a file of COPY);
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
        If a file tells another metric, or another model is in `model_dir`.
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


def export_centers(
    model_dir: str,
    output: str,
    format: CenterFormat = "parquet",
    *,
    labels: str | None = None,
    row_ids: str = exporting.ROW_ID,
    config: RunConfig | None = None,
) -> str:
    """Write the centers of a model as another program reads them; return their path or URL.

    Parameters
    ----------
    model_dir : str
        Directory or fsspec URL of a fitted or imported model.
    output : str
        Path or fsspec URL of the file; for 'lance' of a folder.
    format : str, default='parquet'
        'parquet': the columns cluster, center, count. 'npy': the centers alone, as an array.
        'npz', 'safetensors': centers, counts and metric. 'faiss': an IVF index that is trained and
        empty; 'faiss-flat': its quantizer. 'lance': an IVF model, and with `labels` the partition
        of each row. 'vectorchord': rows of id, parent and vector for PostgreSQL's COPY in binary;
        'vectorchord-parquet': the same table as Parquet.
    labels : str, default=None
        For 'lance': a labelled output of a Lance data set by this model, whose labels are written
        as the partitions of the rows.
    row_ids : str, default='_rowid'
        Column of that output with Lance's ids of the rows.
    config : RunConfig, default=None
        Stores, as in `KMeansClustering`. None: all defaults.

    Returns
    -------
    str
        Path or URL of the file or folder.

    Raises
    ------
    NotFittedError
        If there is no model.
    ConfigError
        If the format cannot hold the centers, the labels are of another model, or the extra
        ``[lance]`` is not installed.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     km = import_centers(np.array([[0.0, 0.0], [9.0, 9.0]]), f"{folder}/model")
    ...     np.load(export_centers(km.model_dir, f"{folder}/centers.npy", "npy")).tolist()
    [[0.0, 0.0], [9.0, 9.0]]
    """
    config = config or RunConfig()
    state = ModelDir.of(a_path("model_dir", model_dir), config).fitted()
    options = config.storage_options
    return exporting.write_centers(state, output, format, options, labels, row_ids)
