"""KMeansClustering, with the names and the semantics of ``tf.contrib.learn.KMeansClustering``.

A thin shell: validate, plan, run, read back.
"""

from __future__ import annotations

import copy
import inspect
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ray_kmeans import inference, runs
from ray_kmeans.checks import (
    check_count,
    check_fit_arguments,
    check_parameters,
    chosen_outputs,
    the_data,
)
from ray_kmeans.clustering.lloyd import FitState, Iteration, Stop, StopRule
from ray_kmeans.config import RunConfig
from ray_kmeans.data.plan import Layout
from ray_kmeans.data.source import Source, open_source
from ray_kmeans.errors import ConfigError, NotAvailableError
from ray_kmeans.observe import events as ev
from ray_kmeans.store.model_dir import ModelDir


class KMeansClustering:
    """k-means on Ray: the same centers, bit for bit, for any number of workers.

    Parameters
    ----------
    num_clusters : int, >= 1
    model_dir : str, optional
        Directory or fsspec URL for checkpoints. A model that is there already is continued, and
        wins over `initial_clusters`. None: `config.model_dir`, else a new temporary directory.
    initial_clusters : 'random' or array of shape (num_clusters, num_features)
        'random' draws rows without replacement from the whole data set.
    distance_metric : 'squared_euclidean'
    random_seed : int
        The same seed on the same data gives the same centers.
    use_mini_batch : bool
        Must be given as False: this version has full-batch Lloyd only.
    mini_batch_steps_per_iteration, kmeans_plus_plus_num_retries : int
        Not served yet; only the defaults are accepted.
    relative_tolerance : float, optional
        Stop when the loss L of two iterations in a row differs by
        ``|L - L_prev| / (1 + |L_prev|) < relative_tolerance``.
    config : RunConfig, optional
        Machines, stores and checkpoints; nothing in it changes the result.

    Notes
    -----
    The constructor only stores its arguments; `fit` checks them before any worker starts. After a
    failure of any kind, the same call continues from the last checkpoint in `model_dir` and ends
    with the same bits.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[0, 0], [2, 0], [10, 0], [12, 0]], np.float32)
    >>> with tempfile.TemporaryDirectory() as model_dir:
    ...     config = RunConfig(num_workers=0)  # in this process, without Ray
    ...     km = KMeansClustering(2, model_dir, x[[0, 2]], use_mini_batch=False, config=config)
    ...     km.fit(x).clusters().tolist()
    [[1.0, 0.0], [11.0, 0.0]]
    """

    SQUARED_EUCLIDEAN_DISTANCE: ClassVar = "squared_euclidean"
    COSINE_DISTANCE: ClassVar = "cosine"
    RANDOM_INIT: ClassVar = "random"
    KMEANS_PLUS_PLUS_INIT: ClassVar = "kmeans_plus_plus"
    SCORES: ClassVar = "scores"
    CLUSTER_IDX: ClassVar = "cluster_idx"
    CLUSTERS: ClassVar = "clusters"
    ALL_SCORES: ClassVar = "all_scores"
    LOSS_OP_NAME: ClassVar = "kmeans_loss"

    def __init__(
        self,
        num_clusters: int,
        model_dir: str | None = None,
        initial_clusters: Any = RANDOM_INIT,
        distance_metric: str = SQUARED_EUCLIDEAN_DISTANCE,
        random_seed: int = 0,
        use_mini_batch: bool = True,
        mini_batch_steps_per_iteration: int = 1,
        kmeans_plus_plus_num_retries: int = 2,
        relative_tolerance: float | None = None,
        config: RunConfig | None = None,
    ) -> None:
        given = locals()
        self._params = {name: given[name] for name in self._parameter_names()}
        self._temporary_dir: str | None = None
        self._listeners: list[ev.Emit] = []

    # --- the model ---------------------------------------------------------------------------

    @property
    def config(self) -> RunConfig:
        """A copy of the run configuration."""
        return copy.deepcopy(self._params["config"] or RunConfig())

    @property
    def model_dir(self) -> str:
        """Where the model is kept."""
        given, configured = self._params["model_dir"], self.config.model_dir
        if given and configured and given != configured:
            raise ConfigError(
                f"model_dir={given!r} and config.model_dir={configured!r} differ. Give one of them."
            )
        if not (given or configured or self._temporary_dir):
            self._temporary_dir = tempfile.mkdtemp(prefix="ray_kmeans_")
            warnings.warn(
                f"no model_dir was given; the model goes to {self._temporary_dir}.", stacklevel=3
            )
        return str(given or configured or self._temporary_dir)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the constructor's arguments by name (scikit-learn's rule)."""
        return dict(self._params)

    def set_params(self, **params: Any) -> KMeansClustering:
        """Replace constructor arguments; ValueError for a name that is none."""
        unknown = sorted(set(params) - set(self._params))
        if unknown:
            raise ConfigError(f"{unknown} are no parameters; valid are {sorted(self._params)}.")
        self._params.update(params)
        return self

    def clusters(self) -> NDArray[np.float32]:
        """Return the centers, (num_clusters, num_features); NotFittedError before the first fit."""
        return self._state().centers

    def history(self) -> tuple[Iteration, ...]:
        """Return one line per iteration over all fits of this model."""
        return self._state().history

    def counts(self) -> NDArray[np.int64]:
        """Return the rows of each cluster in the last sweep, (num_clusters,)."""
        return self._state().counts

    def why_stopped(self) -> Stop | None:
        """Return why the last fit ended; None for one that was cut off."""
        return self._state().stop

    # --- training ----------------------------------------------------------------------------

    def fit(
        self,
        x: Any = None,
        y: None = None,
        input_fn: Callable[[], Any] | None = None,
        steps: int | None = None,
        batch_size: int | None = None,
        monitors: Sequence[Any] | None = None,
        max_steps: int | None = None,
    ) -> KMeansClustering:
        """Train, continuing from the model in `model_dir` if there is one.

        Parameters
        ----------
        x : array, pyarrow Table, URI, dict of columns or source
            Rows (n, d); exactly one of `x` and `input_fn`. A URI is a Parquet or .npy file, a
            directory or a glob on any fsspec store, and is read by the workers.
        input_fn : callable
            Returns any of these, or the seed's pair (features, None).
        steps : int, optional
            Iterations of this fit at most.
        max_steps : int, optional
            Iterations over all fits at most; returns at once when they are done.
            With neither, the fit ends when no center moves or by `relative_tolerance`.

        Raises
        ------
        ConfigError (ValueError), DataError (ValueError), StoreError (OSError)
            Before any worker starts, where that can be known.

        Notes
        -----
        One iteration costs O(n k d) and moves O(k d) per worker.
        """
        check_parameters(self._params)
        check_fit_arguments(y, batch_size, monitors, steps, max_steps)
        rule = StopRule(steps, max_steps, self._params["relative_tolerance"])
        source = self._open(x, input_fn)
        runs.fit(self._params, source, self._model_dir(), self.config, rule, self._listeners)
        return self

    def score(
        self,
        x: Any = None,
        steps: None = None,
        *,
        input_fn: Callable[[], Any] | None = None,
    ) -> float:
        """Return the sum over all rows of the squared distance to the nearest center."""
        if steps is not None:
            raise NotAvailableError(f"steps={steps}", "score reads all rows. Leave it out.")
        state = self._state()
        return runs.score(state, *self._checked(x, input_fn, state), self.config)

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
        'all_scores' are squared distances, float32; 'cluster_idx' is int64, a tie goes to the
        lowest index. Runs in this process; jobs/predict.py labels data that need a cluster.
        """
        wanted = chosen_outputs(outputs, (self.ALL_SCORES, self.CLUSTER_IDX))
        batches = self._inferred(x, input_fn, batch_size, wanted)
        if not as_iterable:
            return inference.whole(batches)
        return batches if iterate_batches else inference.by_row(batches)

    def predict_cluster_idx(
        self, x: Any = None, *, input_fn: Callable[[], Any] | None = None
    ) -> Iterator[np.int64]:
        """Return an iterator over the index of the nearest center of each row."""
        batches = self._inferred(x, input_fn, None, (self.CLUSTER_IDX,))
        return (label for batch in batches for label in batch[self.CLUSTER_IDX])

    def transform(
        self, x: Any = None, as_iterable: bool = False, *, input_fn: Callable[[], Any] | None = None
    ) -> Any:
        """Return the squared distances to all centers, (n, k) float32; or an iterator of rows."""
        batches = self._inferred(x, input_fn, None, (self.ALL_SCORES,))
        if as_iterable:
            return (row for batch in batches for row in batch[self.ALL_SCORES])
        return inference.whole(batches)[self.ALL_SCORES]

    def _inferred(
        self, x: Any, input_fn: Any, batch_size: int | None, outputs: Sequence[str]
    ) -> Iterator[inference.Batch]:
        state = self._state()
        source, layout = self._checked(x, input_fn, state)
        if batch_size is not None:
            if input_fn is not None:
                raise ConfigError(f"batch_size={batch_size} has no meaning with input_fn.")
            check_count("batch_size", batch_size)
        return inference.infer(state.centers, source, layout, batch_size, outputs)

    # --- inside ------------------------------------------------------------------------------

    def _open(self, x: Any, input_fn: Any) -> Source:
        return open_source(the_data(x, input_fn), storage_options=self.config.storage_options)

    def _checked(self, x: Any, input_fn: Any, state: FitState) -> tuple[Source, Layout]:
        source = self._open(x, input_fn)
        layout = source.describe()
        runs.check_features(layout.features, state, self.model_dir)
        return source, layout

    def _state(self) -> FitState:
        return self._model_dir().fitted()

    def _model_dir(self) -> ModelDir:
        config = self.config
        return ModelDir.at(self.model_dir, config.storage_options, config.keep_checkpoint_max)

    @classmethod
    def _parameter_names(cls) -> list[str]:
        return list(inspect.signature(cls).parameters)

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self)).parameters
        given = (
            f"{name}={value!r}"
            for name, value in self._params.items()
            if value is not defaults[name].default
        )
        return f"{type(self).__name__}({', '.join(given)})"
