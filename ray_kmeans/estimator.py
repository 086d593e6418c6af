"""KMeansClustering, with the names and the semantics of ``tf.contrib.learn.KMeansClustering``."""

from __future__ import annotations

import copy
import inspect
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from ray_kmeans.algorithm import metric
from ray_kmeans.algorithm.state import FitState
from ray_kmeans.algorithm.stopping import StopRule
from ray_kmeans.config import RunConfig
from ray_kmeans.data.stream import is_stream, open_batches
from ray_kmeans.engine.seeding import choose
from ray_kmeans.errors import ConfigError, ModelMismatchError, NotFittedError
from ray_kmeans.model import Model
from ray_kmeans.observe import events as ev
from ray_kmeans.observe.monitors import check_monitors
from ray_kmeans.text import secrets
from ray_kmeans.text.secrets import redacted
from ray_kmeans.workflows import fit as runs
from ray_kmeans.workflows import parameters, tf_compat
from ray_kmeans.workflows.validation import (
    a_path,
    check_batch_size,
    check_no_batch_size,
    check_no_targets,
    check_parameters,
    check_steps,
    check_weight_of_batches,
    the_data,
)


class KMeansClustering(Model):
    """k-means on Ray: the same centers, bit for bit, for any number of workers.

    Parameters
    ----------
    num_clusters : int, >= 1
    model_dir : str, optional
        Directory or fsspec URL for checkpoints. A model that is there already is continued, and
        wins over `initial_clusters`. None: `config.model_dir`, else a new temporary directory.
    initial_clusters : str, array of shape (num_clusters, num_features) or callable
        'random': rows drawn without replacement. 'kmeans_plus_plus': greedy k-means++, best up to
        some thousand clusters. 'kmeans_parallel': k-means||, which sees the data a few times only.
        'kmc2': AFK-MC^2, which sees them once. All look at the whole data set and train on none of
        it. A callable ``f(sample, missing)`` gets rows (s, num_features) and the number of centers
        still missing, and returns at most so many; it is called until there are all.
    distance_metric : 'squared_euclidean' or 'cosine'
        'cosine' is spherical k-means: rows and centers on the unit sphere, distance ``1 - cos``.
    random_seed : int
        Of the initial centers and the mini-batches. The same seed on the same data gives the same
        centers.
    use_mini_batch : bool
        True: a step visits `batch_size` rows. False: all rows (Lloyd's algorithm).
    mini_batch_steps_per_iteration : int, >= 1
        Mini-batch: steps with the same centers, after which they are updated. 1: running means
        over all steps (Sculley 2010). m > 1: the means of the m batches.
    kmeans_plus_plus_num_retries : int
        Further candidates for each center of k-means++; negative: 2 + trunc(ln(num_clusters)).
    relative_tolerance : float, optional
        Stop when the loss L of two iterations in a row differs by
        ``|L - L_prev| / (1 + |L_prev|) < relative_tolerance``.
    config : RunConfig, optional
        Machines, stores and checkpoints; nothing in it changes the result.
    empty_clusters : 'keep' or 'farthest'
        Full batch: what becomes of the center of a cluster without a row. 'keep': nothing.
        'farthest': it moves to the row that is farthest from its own center.

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

    SQUARED_EUCLIDEAN_DISTANCE: ClassVar = metric.Metric.SQUARED_EUCLIDEAN.value
    COSINE_DISTANCE: ClassVar = metric.Metric.COSINE.value
    RANDOM_INIT: ClassVar = choose.RANDOM
    KMEANS_PLUS_PLUS_INIT: ClassVar = choose.KMEANS_PLUS_PLUS
    KMC2_INIT: ClassVar = choose.KMC2
    KMEANS_PARALLEL_INIT: ClassVar = choose.KMEANS_PARALLEL
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
        *,
        empty_clusters: str = "keep",
    ) -> None:
        given = locals()
        self._params = {name: given[name] for name in _PARAMETERS}
        self._temporary_dir: str | None = None
        self._listeners: list[ev.Emit] = []

    # --- parameters --------------------------------------------------------------------------

    @property
    def config(self) -> RunConfig:
        """A copy of the run configuration."""
        return copy.deepcopy(self._params["config"] or RunConfig())

    @property
    def model_dir(self) -> str:
        """Where the model is kept."""
        given, configured = (
            each and a_path("model_dir", each)
            for each in (self._params["model_dir"], self.config.model_dir)
        )
        if given and configured and given != configured:
            given, configured = secrets.shown(given), secrets.shown(configured)
            both = f"model_dir={given!r} and config.model_dir={configured!r}"
            raise ConfigError(f"{both} differ. Give one of them.")
        if not (given or configured or self._temporary_dir):
            self._temporary_dir = tempfile.mkdtemp(prefix="ray_kmeans_")
            warnings.warn(
                f"no model_dir was given; the model goes to {self._temporary_dir}.",
                stacklevel=parameters.level_of_caller(),
            )
        return str(given or configured or self._temporary_dir)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the constructor's arguments by name (scikit-learn's rule).

        `deep`: with the fields of `config`, as 'config__num_workers'.
        """
        return parameters.described(self._params, deep)

    def set_params(self, **params: Any) -> KMeansClustering:
        """Replace arguments, or with 'config__num_workers' fields of `config`.

        Raises ConfigError (ValueError) for a name that is none.
        """
        self._params = parameters.replaced(self._params, params)
        return self

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
        *,
        sample_weight: Any = None,
    ) -> KMeansClustering:
        """Train, continuing from the model in `model_dir` if there is one.

        Parameters
        ----------
        x : array, pyarrow Table, URI, dict of columns, source, or iterator of any of these
            Rows (n, d); exactly one of `x` and `input_fn`. A URI is a file (Parquet, Arrow, .npy
            and others, see the README), a directory or a glob on any fsspec store, or the folder
            of a Delta table, a Lance dataset or a Zarr array, and is read by the workers; so is a
            list of URIs. Also a Dataset of pyarrow, Hugging Face or Ray. An iterator gives batches,
            each of which is one step, seen once. The model keeps the names of the columns, and
            later data with names are read by them.
        input_fn : callable
            Returns any of these, or the seed's pair (features, None).
        steps : int, optional
            Steps of this fit at most.
        batch_size : int, optional
            Rows of a mini-batch over all workers together; default 65,536, at most n. Every row
            is visited once per epoch, in an order that the seed decides.
        monitors : sequence of Monitor, optional
            Called at begin, after every step and at the end, with the state.
        max_steps : int, optional
            Steps over all fits at most; returns at once when they are done.
            With neither, full batch ends when no center moves, mini-batch when the smoothed loss
            has not improved for 10 iterations or after 100 epochs, an iterator with its end; each
            of them also by `relative_tolerance`.
        sample_weight : str or array of shape (n,), optional
            How often each row counts: the name of a column of the data, or numbers from 0 on; see
            `open_source`.

        Raises
        ------
        ConfigError (ValueError), DataError (ValueError), StoreError (OSError)
            Before any worker starts, where that can be known.

        Notes
        -----
        A step over b rows costs O(b k d). An iteration moves O(k d) per worker.
        """
        check_steps(steps, max_steps)
        rule = StopRule(steps, max_steps)
        with self._without_a_trace_of_failure():
            return self._fit(x, y, input_fn, rule, batch_size, monitors, None, sample_weight)

    def partial_fit(
        self,
        x: Any = None,
        y: None = None,
        input_fn: Callable[[], Any] | None = None,
        steps: int | None = 1,
        batch_size: int | None = None,
        monitors: Sequence[Any] | None = None,
        *,
        sample_weight: Any = None,
    ) -> KMeansClustering:
        """Train some steps, by default one that visits all rows given.

        As `fit`, but a mini-batch is the whole of `x` by default. For an iterator of arrays, of
        which only one is in memory at a time, ``steps=None`` trains until it ends.
        """
        check_steps(steps, None)
        size = runs.WHOLE if batch_size is None else None
        rule = StopRule(steps)
        with self._without_a_trace_of_failure():
            return self._fit(x, y, input_fn, rule, batch_size, monitors, size, sample_weight)

    def _fit(
        self,
        x: Any,
        y: Any,
        input_fn: Any,
        rule: StopRule,
        batch_size: int | None,
        monitors: Any,
        default_size: int | None,
        sample_weight: Any,
    ) -> KMeansClustering:
        params, config = self._params, self.config
        check_parameters(params)
        check_no_targets(y)
        check_batch_size(batch_size, input_fn, params["use_mini_batch"])
        lookers = check_monitors(monitors)
        rule = StopRule(rule.steps, rule.max_steps, params["relative_tolerance"])
        store = self._model_dir()
        found = store.matching(params["num_clusters"], params["distance_metric"])
        plan = runs.plan_fit(params, config, rule, batch_size or default_size)
        if runs.is_done(plan, store):
            return self
        data = the_data(x, input_fn)
        if not is_stream(data):
            source = self._open(data, found, sample_weight)
            runs.fit(plan, source, store, config, lookers, self._listeners)
            return self
        check_no_batch_size(batch_size)
        check_weight_of_batches(sample_weight)
        about = config.storage_options, None, sample_weight, found
        batches = open_batches(data, *about)
        if params["use_mini_batch"]:
            runs.fit_stream(plan, batches, store, config, lookers, self._listeners)
        else:
            runs.fit(plan, runs.joined(batches), store, config, lookers, self._listeners)
        return self

    def model_fn(
        self, features: Any, labels: None = None, mode: str = "infer", config: Any = None
    ) -> tf_compat.ModelFnOps:
        """Return what the model says of one batch in memory, as the seed's model_fn.

        Parameters
        ----------
        features : array, table or dict of columns
        labels : None
        mode : 'train', 'eval' or 'infer'
            'infer': predictions; 'eval': the loss too; 'train': also `train_op`, which trains one
            step on the batch when it is called.
        config : RunConfig, optional
            Of `train_op`; default the estimator's own.
        """
        check_no_targets(labels, "labels")
        source, layout = self._checked(features, state := self._state())

        def train() -> KMeansClustering:
            own = {"model_dir": self.model_dir, "config": config or self._params["config"]}
            return KMeansClustering(**{**self._params, **own}).partial_fit(features)

        return tf_compat.model_fn(state, source, layout, mode, train)

    def _state(self, checkpoint: str | None = None) -> FitState:
        given = self._params["model_dir"] or self.config.model_dir or self._temporary_dir
        if not given and checkpoint is None:
            raise NotFittedError("no model_dir was given, and nothing is fitted yet. Call fit.")
        state = super()._state(checkpoint)
        k, metric = self._params["num_clusters"], self._params["distance_metric"]
        metric = state.metric if metric == _PARAMETERS["distance_metric"].default else metric
        if (len(state.centers), state.metric) != (k, metric):
            sentence = "{} clusters by {} distance"
            found = sentence.format(len(state.centers), state.metric)
            shown = self._model_dir().shown if checkpoint is None else redacted(checkpoint)
            raise ModelMismatchError(shown, found, sentence.format(k, metric))
        return state

    @contextmanager
    def _without_a_trace_of_failure(self) -> Iterator[None]:
        """Leave no temporary folder where nothing is saved in it."""
        try:
            yield
        except BaseException:
            place = self._temporary_dir and Path(self._temporary_dir)
            if place and not any((place / "checkpoints").rglob("*.json")):
                shutil.rmtree(place, ignore_errors=True)
                self._temporary_dir = None
            raise

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn's pipelines what this is; only they call it, so it is there then."""
        from sklearn.utils import Tags, TargetTags, TransformerTags

        return Tags("clusterer", TargetTags(required=False), TransformerTags())

    def __sklearn_is_fitted__(self) -> bool:
        """Tell whether there is a model; makes no directory for one."""
        place = self._params["model_dir"] or self.config.model_dir or self._temporary_dir
        return place is not None and bool(self.checkpoints())

    def __repr__(self) -> str:
        given = (
            f"{name}={value!r}"
            for name, value in self._params.items()
            if value is not _PARAMETERS[name].default
        )
        return redacted(f"{type(self).__name__}({', '.join(given)})")


_PARAMETERS = inspect.signature(KMeansClustering).parameters
