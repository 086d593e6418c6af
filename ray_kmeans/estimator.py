"""KMeansClustering, with the names and the semantics of ``tf.contrib.learn.KMeansClustering``."""

from __future__ import annotations

import copy
import inspect
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, get_args

from ray_kmeans.algorithm.state import FitState
from ray_kmeans.algorithm.stopping import StopRule
from ray_kmeans.config import (
    DistanceMetric,
    EmptyClusters,
    InitialMethod,
    LeafQuota,
    Mode,
    RunConfig,
    Work,
    check_choice,
)
from ray_kmeans.data.model_rows import open_for, said_of
from ray_kmeans.data.sampled import sample_of, sampled
from ray_kmeans.data.source import Source
from ray_kmeans.data.stream import is_stream, open_batches
from ray_kmeans.data.weighted import columns_of_rows
from ray_kmeans.errors import ConfigError, ModelMismatchError, NotFittedError
from ray_kmeans.model import Model
from ray_kmeans.observe import events as ev
from ray_kmeans.observe.monitors import Monitor, check_monitors
from ray_kmeans.store.labelled import LabelledOutput
from ray_kmeans.text import secrets
from ray_kmeans.text.secrets import redacted
from ray_kmeans.workflows import explain as explaining
from ray_kmeans.workflows import fit as fitting
from ray_kmeans.workflows import tf_compat
from ray_kmeans.workflows.label import LabelCounts, OutputColumns
from ray_kmeans.workflows.label_after_fit import LabelAfterFit
from ray_kmeans.workflows.parameters import FitParams, InitialClusters, level_of_caller
from ray_kmeans.workflows.presets import PRESETS, advice_of
from ray_kmeans.workflows.renumber import with_numbers_of
from ray_kmeans.workflows.validation import (
    a_path,
    all_rows,
    check_batch_size,
    check_budget,
    check_max_seconds,
    check_no_batch_size,
    check_no_sample,
    check_no_targets,
    check_parameters,
    check_steps,
    check_unnamed,
    check_weight_of_batches,
    input_data,
    levels_of,
)
from ray_kmeans.workflows.worker_plan import machines_for

log = logging.getLogger("ray_kmeans")


class KMeansClustering(Model):
    """Fit k-means on Ray: the same centers, bit for bit, for any number of workers.

    Parameters
    ----------
    num_clusters : int, >= 1
        Number of clusters k.
    model_dir : str, default=None
        Directory or fsspec URL for checkpoints. A model that is there already is continued, and
        wins over `initial_clusters`. None: `config.model_dir`, else a new temporary directory.
    initial_clusters : str, array of shape (num_clusters, num_features) or callable, \
default='random'
        'random': rows drawn without replacement. 'kmeans_plus_plus': greedy k-means++, best up to
        some thousand clusters. 'kmeans_parallel': k-means||, which sees the data a few times only.
        'kmc2': AFK-MC^2, which sees them once. All look at the whole data set and train on none of
        it. A callable ``f(sample, missing)`` gets rows (s, num_features) and the number of centers
        still missing, and returns at most that many; it is called until there are all.
    distance_metric : {'squared_euclidean', 'cosine'}, default='squared_euclidean'
        'cosine' is spherical k-means: rows and centers on the unit sphere, distance ``1 - cos``.
    random_seed : int, default=0
        Seed of the initial centers and the mini-batches. The same seed on the same data gives the
        same centers.
    use_mini_batch : bool, default=True
        True: a step visits `batch_size` rows. False: all rows (Lloyd's algorithm).
    mini_batch_steps_per_iteration : int, >= 1, default=1
        Steps of mini-batch with the same centers, after which they are updated. 1: running means
        over all steps (Sculley 2010). m > 1: the means of the m batches.
    kmeans_plus_plus_num_retries : int, default=2
        Further candidates for each center of k-means++; negative: 2 + trunc(ln(num_clusters)).
    relative_tolerance : float, default=None
        A fit ends when the loss L of two iterations in a row differs by
        ``|L - L_prev| / (1 + |L_prev|) < relative_tolerance``. None: no such end.
    config : RunConfig, default=None
        Machines, stores and checkpoints; nothing in it changes the result. None: all defaults.
    empty_clusters : {'keep', 'farthest', 'split_largest'}, default='keep'
        What becomes of the center of a cluster without a row in full batch. 'keep': it stays.
        'farthest': it moves to the row that is farthest from its own center. 'split_largest': it
        moves to a row that is drawn from the cluster with the most rows, by the model's seed.
    n_init : int, >= 1, default=1
        Number of fits from the seeds `random_seed`, `random_seed` + 1, ... over one reading of the
        data. The model is the one with the lowest inertia over all rows; of equal ones the first.
        A model that is there already is continued by one fit. Not with `max_seconds`.
    levels : int or sequence of int, default=None
        Levels of a tree, for many clusters: a fit of the top level, and then each of its clusters
        is split on its own rows alone, and so on. 2: two levels, of sizes that make it fast.
        ``(100, 1000)``: 100 clusters, of about 1,000 clusters each. See `tree`. `steps`,
        `max_steps` and `relative_tolerance` are for the fit of each node; `n_init` and
        `initial_clusters` for the top level, below which centers begin at rows drawn at random.
        Needs ``use_mini_batch=False``. None: one level.
    refine_steps : int, >= 0, default=0
        Steps over all clusters, with exact labels, once the tree is there.
    leaf_quota : {'loss', 'rows'}, default='loss'
        What the number of children of a node is in proportion to.
    train_rows : int or float, default=None
        Number of rows that a fit visits, or their share between 0 and 1. They are chosen by the
        hash of their numbers and `random_seed`, the same for any number of workers, and spread
        evenly over the data. All other calls see all rows. None, or as many as there are: all.
    renumber_like : str or Model, default=None
        A model, or its directory or URL, whose numbers the clusters get at the end of a fit.
        Centers are matched as by `drift_from`; those that match none get the numbers that are
        free. None: clusters have the numbers of their first centers.
    reassignment_ratio : float in [0, 1], default=0.0
        For mini-batch: the center of a cluster whose count is below this share of the largest count
        moves to a row of the newest mini-batch, drawn by the model's seed, and its count becomes
        the lowest one of the other clusters, as in scikit-learn's MiniBatchKMeans (0.01 there).
        It mends random first centers, and takes those of clusters that are really that small. Needs
        ``mini_batch_steps_per_iteration=1``. 0: none moves, as in TensorFlow.
    nested_batches : bool, default=False
        For mini-batch: each step is an iteration of Lloyd over a sample of the rows, which doubles
        when half of the centers did not move (Newling and Fleuret 2016, `nested_sample` has what
        differs) up to an eighth of the rows; then it is all of them, and the fit ends as full batch
        does. `batch_size` is about the size of the first sample; None: 100 rows for each cluster,
        8,192 at least.

    Notes
    -----
    The constructor only stores its arguments; `fit` checks them before any worker starts. After a
    failure of any kind, the same call continues from the last checkpoint in `model_dir` and ends
    with the same bits. Every method that answers reads the newest checkpoint.

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

    SQUARED_EUCLIDEAN_DISTANCE: ClassVar[DistanceMetric] = "squared_euclidean"
    """Value of `distance_metric`: the squared Euclidean distance."""
    COSINE_DISTANCE: ClassVar[DistanceMetric] = "cosine"
    """Value of `distance_metric`: 1 - cos."""
    RANDOM_INIT: ClassVar[InitialMethod] = "random"
    """Value of `initial_clusters`: rows drawn without replacement."""
    KMEANS_PLUS_PLUS_INIT: ClassVar[InitialMethod] = "kmeans_plus_plus"
    """Value of `initial_clusters`: greedy k-means++."""
    KMC2_INIT: ClassVar[InitialMethod] = "kmc2"
    """Value of `initial_clusters`: AFK-MC^2."""
    KMEANS_PARALLEL_INIT: ClassVar[InitialMethod] = "kmeans_parallel"
    """Value of `initial_clusters`: k-means||."""
    LOSS_OP_NAME: ClassVar = "kmeans_loss"
    """Name of TensorFlow's loss; kept for code that reads it."""

    def __init__(
        self,
        num_clusters: int,
        model_dir: str | None = None,
        initial_clusters: InitialClusters = RANDOM_INIT,
        distance_metric: DistanceMetric = SQUARED_EUCLIDEAN_DISTANCE,
        random_seed: int = 0,
        use_mini_batch: bool = True,
        mini_batch_steps_per_iteration: int = 1,
        kmeans_plus_plus_num_retries: int = 2,
        relative_tolerance: float | None = None,
        config: RunConfig | None = None,
        *,
        empty_clusters: EmptyClusters = "keep",
        n_init: int = 1,
        levels: int | Sequence[int] | None = None,
        refine_steps: int = 0,
        leaf_quota: LeafQuota = "loss",
        train_rows: int | float | None = None,
        renumber_like: str | Model | None = None,
        reassignment_ratio: float = 0.0,
        nested_batches: bool = False,
    ) -> None:
        self._params = FitParams(
            num_clusters=num_clusters,
            model_dir=model_dir,
            initial_clusters=initial_clusters,
            distance_metric=distance_metric,
            random_seed=random_seed,
            use_mini_batch=use_mini_batch,
            mini_batch_steps_per_iteration=mini_batch_steps_per_iteration,
            kmeans_plus_plus_num_retries=kmeans_plus_plus_num_retries,
            relative_tolerance=relative_tolerance,
            config=config,
            empty_clusters=empty_clusters,
            n_init=n_init,
            levels=levels,
            refine_steps=refine_steps,
            leaf_quota=leaf_quota,
            train_rows=train_rows,
            renumber_like=renumber_like,
            reassignment_ratio=reassignment_ratio,
            nested_batches=nested_batches,
        )
        self._temporary_dir: str | None = None
        self._listeners: list[ev.Emit] = []

    @classmethod
    def recommended(
        cls, num_clusters: int, model_dir: str | None = None, **overrides: Any
    ) -> KMeansClustering:
        """Return an estimator with the settings that give the lowest loss for their time.

        These are k-means||, full batch, a relative tolerance of 1e-4 and four restarts, where the
        constructor has TensorFlow's defaults. The flag ``--preset best`` of the command chooses the
        same.

        Parameters
        ----------
        num_clusters : int, >= 1
            Number of clusters k.
        model_dir : str, default=None
            Directory or fsspec URL for checkpoints, as in the constructor.
        **overrides : object
            Other arguments of the constructor by name; they win.

        Returns
        -------
        KMeansClustering
            A new estimator.

        Examples
        --------
        >>> KMeansClustering.recommended(100, "m", relative_tolerance=None)
        KMeansClustering(num_clusters=100, model_dir='m', initial_clusters='kmeans_parallel', \
use_mini_batch=False, n_init=4)
        """
        return cls(num_clusters, model_dir, **{**PRESETS["best"], **overrides})

    # --- parameters --------------------------------------------------------------------------

    @property
    def config(self) -> RunConfig:
        """A copy of the run configuration: machines, stores and checkpoints."""
        return copy.deepcopy(self._params.config or RunConfig())

    @property
    def model_dir(self) -> str:
        """Path or URL of the directory that the model is in, made where none was given."""
        given, configured = (
            each and a_path("model_dir", each)
            for each in (self._params.model_dir, self.config.model_dir)
        )
        if given and configured and given != configured:
            given, configured = secrets.shown(given), secrets.shown(configured)
            both = f"model_dir={given!r} and config.model_dir={configured!r}"
            raise ConfigError(f"{both} differ. Give one of them.")
        if not (given or configured or self._temporary_dir):
            self._temporary_dir = tempfile.mkdtemp(prefix="ray_kmeans_")
            warnings.warn(
                f"no model_dir was given; the model goes to {self._temporary_dir}.",
                stacklevel=level_of_caller(),
            )
        return str(given or configured or self._temporary_dir)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the constructor's arguments by name, by scikit-learn's rules.

        Parameters
        ----------
        deep : bool, default=True
            Whether the fields of `config` are there too, as 'config__num_workers'.

        Returns
        -------
        dict of str to object
            The arguments as they were given.
        """
        return self._params.as_dict(deep)

    def set_params(self, **params: Any) -> KMeansClustering:
        """Replace arguments of the constructor, by scikit-learn's rules.

        Parameters
        ----------
        **params : object
            Arguments by name; 'config__num_workers' and its like replace fields of `config`.

        Returns
        -------
        KMeansClustering
            This object.

        Raises
        ------
        ConfigError
            If a name does not exist; nothing is replaced then.

        Examples
        --------
        >>> KMeansClustering(2).set_params(num_clusters=3, config__num_workers=0).config.num_workers
        0
        """
        self._params = self._params.replaced(params)
        return self

    # --- training ----------------------------------------------------------------------------

    def fit(
        self,
        x: Any = None,
        y: None = None,
        input_fn: Callable[[], Any] | None = None,
        steps: int | None = None,
        batch_size: int | None = None,
        monitors: Sequence[Monitor] | None = None,
        max_steps: int | None = None,
        *,
        sample_weight: Any = None,
        max_seconds: float | None = None,
    ) -> KMeansClustering:
        """Train, continuing from the model in `model_dir` if there is one.

        With neither `steps` nor `max_steps`, full batch ends when no center moves; mini-batch when
        the smoothed loss has not improved for 10 iterations or after 100 epochs; an iterator with
        its end. Each of them also ends by `relative_tolerance`.

        Parameters
        ----------
        x : array, table, URI, dict of columns, source, or iterator of any of these, default=None
            Rows (n, d); exactly one of `x` and `input_fn`. A URI is a file (Parquet, Arrow, .npy
            and others), a directory or a glob on any fsspec store, or the folder
            of a Delta table, a Lance dataset or a Zarr array, and is read by the workers; so is a
            list of URIs. Also a Dataset of pyarrow, Hugging Face or Ray. An iterator gives batches,
            each of which is one step, seen once. The model keeps the names of the columns, and
            later data with names are read by them.
        y : None, default=None
            Not used: clustering has no targets.
        input_fn : callable, default=None
            Function that returns any of these, or TensorFlow's pair (features, None).
        steps : int, >= 1, default=None
            Largest number of steps of this fit.
        batch_size : int, >= 1, default=None
            Rows of a mini-batch over all workers together. None: 65,536, at most n. Every row is
            visited once per epoch, in an order that `random_seed` decides; for `nested_batches`
            see there.
        monitors : sequence of Monitor, default=None
            Monitors, called at begin, after every step and at the end, with the state.
        max_steps : int, >= 1, default=None
            Largest number of steps over all fits; the call returns at once when they are done.
        sample_weight : str or array of shape (n,), default=None
            How often each row counts: the name of a column of the data, or numbers from 0 on; see
            `open_source`. None: once.
        max_seconds : float, > 0, default=None
            Seconds that this fit may take, from its first row on. It ends with the last iteration
            that has room in them, by the time that the one before took, and with one at least. Its
            model is saved, and the same call goes on, with as much time again, to the same bits as
            without a limit. None: any time.

        Returns
        -------
        KMeansClustering
            This object.

        Raises
        ------
        ConfigError
            If an argument cannot be used. Raised before any worker starts, as are the next two
            where that can be known.
        DataError
            If the data cannot be clustered as they are.
        StoreError
            If a place cannot be read or written, or another run writes to `model_dir`.
        WorkersLostError
            If workers die more often than a fit can bear.
        RunStoppedError
            If the process was asked to end; what the fit has reached is saved.

        Notes
        -----
        A step over b rows costs O(b k d). An iteration moves O(k d) per worker.
        """
        check_steps(steps, max_steps)
        check_max_seconds(max_seconds)
        with self._remove_empty_temporary_dir():
            return self._fit(
                x=x,
                y=y,
                input_fn=input_fn,
                rule=StopRule(steps, max_steps, self._params.relative_tolerance),
                batch_size=batch_size,
                monitors=monitors,
                sample_weight=sample_weight,
                max_seconds=max_seconds,
            )

    def fit_and_label(
        self,
        x: Any,
        output: str,
        *,
        keep_columns: Sequence[str] = (),
        second: bool = False,
        by_cluster: bool = False,
        append: bool = False,
        nearest: int | None = None,
        steps: int | None = None,
        batch_size: int | None = None,
        monitors: Sequence[Monitor] | None = None,
        max_steps: int | None = None,
        max_seconds: float | None = None,
        sample_weight: Any = None,
    ) -> LabelCounts:
        """Train, then write the cluster of every row, over one reading of the data.

        The flag ``--label`` of the command ``fit`` calls this. Whatever is killed, the same call
        again goes on from the last checkpoint and the parts that are written.

        Parameters
        ----------
        x : array, table, URI, dict of columns or source
            Rows (n, d), as in `fit`; not an iterator.
        output : str
            Directory or fsspec URL for the labelled rows, as in `label`.
        keep_columns : sequence of str, default=()
            Columns of the data to pass through, as in `label`.
        second : bool, default=False
            Whether the second-nearest cluster is written too, as in `label`.
        by_cluster : bool, default=False
            Whether the files are in folders by cluster, as in `label`.
        append : bool, default=False
            Whether the rows are added to an output of other data, as in `label`.
        nearest : int, 1 to num_clusters, default=None
            Number of nearest clusters that are listed for each row, as in `label`.
        steps : int, >= 1, default=None
            Largest number of steps of this fit.
        batch_size : int, >= 1, default=None
            Rows of a mini-batch, as in `fit`.
        monitors : sequence of Monitor, default=None
            Monitors, as in `fit`.
        max_steps : int, >= 1, default=None
            Largest number of steps over all fits.
        max_seconds : float, > 0, default=None
            Seconds that the fit may take, as in `fit`; the labelling comes after them.
        sample_weight : str or array of shape (n,), default=None
            How often each row counts, as in `fit`. A row of weight 0 gets no label.

        Returns
        -------
        LabelCounts
            The number of rows, and of those without a cluster.

        Raises
        ------
        ConfigError
            If an argument cannot be used. Raised before any worker starts.
        DataError
            If the data cannot be clustered as they are.
        BusyError
            If another run writes to the same output or model.
        StoreError
            If a place cannot be read or written.

        Examples
        --------
        >>> import numpy as np
        >>> x = np.array([[0, 0], [2, 0], [10, 0], [12, 0]], np.float32)
        >>> with tempfile.TemporaryDirectory() as place:
        ...     here = RunConfig(num_workers=0, progress=False)
        ...     km = KMeansClustering(2, f"{place}/m", x[[0, 2]], use_mini_batch=False, config=here)
        ...     print(km.fit_and_label(x, f"{place}/labelled"))
        4 rows labelled
        """
        check_steps(steps, max_steps)
        check_parameters(self._params)
        config = self.config
        after = LabelAfterFit(
            LabelledOutput.at(a_path("output", output), config.storage_options),
            OutputColumns(tuple(keep_columns), second, by_cluster, nearest),
            config,
            self.model_dir,
            append,
        )
        with self._remove_empty_temporary_dir():
            found = self._model_dir().matching(
                self._params.num_clusters, self._params.distance_metric
            )
            source = open_for(
                found,
                all_rows(x),
                storage_options=config.storage_options,
                sample_weight=sample_weight,
            )
            after.check(source, self._params.num_clusters)
            self._fit(
                x=source,
                y=None,
                input_fn=None,
                rule=StopRule(steps, max_steps, self._params.relative_tolerance),
                batch_size=batch_size,
                monitors=monitors,
                sample_weight=None,
                max_seconds=max_seconds,
                # The workers of a fit on a sample lack the other rows: `finish` reads all.
                after=after if self._sampled(source) is source else None,
            )
        return after.finish(self._state(), source)

    def partial_fit(
        self,
        x: Any = None,
        y: None = None,
        input_fn: Callable[[], Any] | None = None,
        steps: int | None = 1,
        batch_size: int | None = None,
        monitors: Sequence[Monitor] | None = None,
        *,
        sample_weight: Any = None,
    ) -> KMeansClustering:
        """Train some steps, by default one that visits all rows given.

        As `fit`, but a mini-batch is the whole of `x` by default. For an iterator of arrays, of
        which only one is in memory at a time, ``steps=None`` trains until it ends. There is no
        `max_seconds`: a batch of an iterator is gone when it was seen, so that a call that ends
        early could not go on from there; `steps` bounds a call.

        Parameters
        ----------
        x : array, table, URI, dict of columns, source, or iterator of any of these, default=None
            Rows (n, d), as in `fit`; exactly one of `x` and `input_fn`.
        y : None, default=None
            Not used: clustering has no targets.
        input_fn : callable, default=None
            Function that returns the data, as in `fit`.
        steps : int, >= 1, default=1
            Largest number of steps of this call. None: as `fit`.
        batch_size : int, >= 1, default=None
            Rows of a mini-batch. None: all of `x`.
        monitors : sequence of Monitor, default=None
            Monitors, as in `fit`.
        sample_weight : str or array of shape (n,), default=None
            How often each row counts, as in `fit`. None: once.

        Returns
        -------
        KMeansClustering
            This object.

        Raises
        ------
        ConfigError
            If an argument cannot be used.
        DataError
            If the data cannot be clustered as they are.

        Examples
        --------
        >>> import numpy as np
        >>> batches = (np.arange(6, dtype=np.float32).reshape(3, 2) + step for step in range(4))
        >>> with tempfile.TemporaryDirectory() as model_dir:
        ...     here = RunConfig(num_workers=0, progress=False)
        ...     km = KMeansClustering(2, model_dir, config=here).partial_fit(batches, steps=None)
        ...     len(km.history()), km.why_stopped().value
        (4, 'the input ended')
        """
        check_steps(steps, None)
        with self._remove_empty_temporary_dir():
            return self._fit(
                x=x,
                y=y,
                input_fn=input_fn,
                rule=StopRule(steps, None, self._params.relative_tolerance),
                batch_size=batch_size,
                default_batch_size=fitting.WHOLE if batch_size is None else None,
                monitors=monitors,
                sample_weight=sample_weight,
            )

    def _fit(
        self,
        *,
        x: Any,
        y: Any,
        input_fn: Any,
        rule: StopRule,
        batch_size: int | None,
        default_batch_size: int | None = None,
        monitors: Any,
        sample_weight: Any,
        after: LabelAfterFit | None = None,
        max_seconds: float | None = None,
    ) -> KMeansClustering:
        """Check all arguments, then train on a source or on batches as they come."""
        params, config = self._params, self.config
        check_parameters(params)
        check_no_targets(y)
        check_batch_size(batch_size, input_fn, params.use_mini_batch)
        checked_monitors = check_monitors(monitors)
        store = self._model_dir()
        found = store.matching(params.num_clusters, params.distance_metric)
        check_budget(params, max_seconds)
        plan = fitting.plan_fit(params, config, rule, batch_size or default_batch_size)
        plan = replace(with_numbers_of(plan, params.renumber_like, config), max_seconds=max_seconds)
        names = fitting.names_of_centers(params.initial_clusters)
        plan = fitting.order_centers(
            plan, names, found.rows.columns if found and found.rows else ()
        )
        if fitting.is_done(plan, store, found):
            return self
        data = input_data(x, input_fn)
        hearers: dict[str, Any] = {"monitors": checked_monitors, "listeners": self._listeners}
        if not is_stream(data):
            options = config.storage_options
            source = open_for(found, data, storage_options=options, sample_weight=sample_weight)
            if found is None:
                plan = fitting.order_centers(plan, names, columns_of_rows(source))
            sample = self._sampled(source)
            state = fitting.fit(plan, sample, store, config, **hearers, after=after)
            if rule.steps is None and (advice := advice_of(state, found.iteration if found else 0)):
                log.info("%s", advice)
            return self
        check_no_batch_size(batch_size)
        check_no_sample(params.train_rows)
        check_weight_of_batches(sample_weight)
        check_unnamed(() if found else names)
        batches = open_batches(
            data, config.storage_options, sample_weight=sample_weight, state=found
        )
        if params.use_mini_batch:
            fitting.fit_stream(plan, batches, store, config, **hearers)
        else:
            fitting.fit(plan, fitting.join_batches(batches), store, config, **hearers)
        return self

    def _sampled(self, source: Source) -> Source:
        """Return the rows of a source that a fit visits."""
        params = self._params
        return sampled(source, params.train_rows, params.random_seed, params.num_clusters)

    def explain(self, x: Any, work: Work = "fit", *, batch_size: int | None = None) -> str:
        """Return what a run would read, hold and send, from metadata alone; run nothing.

        The flag ``--explain`` of the commands prints this. Joins or starts Ray, to know its nodes,
        unless ``num_workers=0``.

        Parameters
        ----------
        x : array, table, URI or source
            Rows (n, d), as in `fit`; not an iterator.
        work : {'fit', 'label', 'evaluate'}, default='fit'
            The call that is explained; the last two need a fitted model.
        batch_size : int, >= 1, default=None
            Rows of a mini-batch, as in `fit`.

        Returns
        -------
        str
            A line each about data, workers, rows, memory and traffic.

        Raises
        ------
        BudgetError
            If a worker would hold more than it may.
        ConfigError
            If an argument cannot be used.
        DataError
            If the data cannot be read.
        NotFittedError
            If `work` needs a model and there is none.

        Examples
        --------
        >>> import numpy as np
        >>> km = KMeansClustering(2, config=RunConfig(num_workers=0, cpus_per_worker=1))
        >>> print(km.explain(np.zeros((1000, 8), np.float32)).splitlines()[2])
        rows     as float32 in memory; a sweep reads nothing (cache='auto')
        """
        check_choice("work", work, get_args(Work))
        if work != "fit":
            check_batch_size(batch_size, None, use_mini_batch=False)
            return self._explanation(x, work)
        params = self._params
        check_parameters(params)
        check_batch_size(batch_size, None, params.use_mini_batch)
        found = None
        if self._known_place:
            found = self._model_dir().matching(params.num_clusters, params.distance_metric)
        source = open_for(found, all_rows(x), storage_options=self.config.storage_options)
        drawn = (batch_size or fitting.BATCH_SIZE) if params.use_mini_batch else None
        source = self._sampled(source)
        config, sample = machines_for(source, self.config), sample_of(source)
        return explaining.explain(
            source.describe(),
            params.num_clusters,
            config,
            drawn,
            features=said_of(source),
            sample=sample,
            levels=levels_of(params.levels, params.num_clusters),
            refine_steps=params.refine_steps,
        )

    def model_fn(
        self,
        features: Any,
        labels: None = None,
        mode: Mode = "infer",
        config: RunConfig | None = None,
    ) -> tf_compat.ModelFnOps:
        """Return what the model says of one batch in memory, as TensorFlow's model_fn does.

        Parameters
        ----------
        features : array, table or dict of columns
            Rows of the batch (n, d).
        labels : None, default=None
            Not used: clustering has no targets.
        mode : {'infer', 'eval', 'train'}, default='infer'
            'infer': predictions; 'eval': the loss too; 'train': also `train_op`, which trains one
            step on the batch when it is called.
        config : RunConfig, default=None
            Configuration of `train_op`. None: the estimator's own.

        Returns
        -------
        ModelFnOps
            Predictions, and by `mode` the loss and what trains.

        Raises
        ------
        NotFittedError
            If there is no model yet.
        """
        check_no_targets(labels, "labels")
        source, layout = self._open_checked(features, state := self._state())

        def train() -> KMeansClustering:
            params = replace(
                self._params, model_dir=self.model_dir, config=config or self._params.config
            )
            return KMeansClustering(**params.as_dict()).partial_fit(features)

        return tf_compat.model_fn(state, source, layout, mode, train)

    @property
    def _known_place(self) -> str | None:
        """Where the model is, if that is decided already; makes no directory."""
        return self._params.model_dir or self.config.model_dir or self._temporary_dir

    def _state(self, checkpoint: str | None = None) -> FitState:
        """Read the model; raise ModelMismatchError if it is not of this estimator's kind."""
        if not self._known_place and checkpoint is None:
            raise NotFittedError("no model_dir was given, and nothing is fitted yet. Call fit.")
        state = super()._state(checkpoint)
        k, metric = self._params.num_clusters, self._params.distance_metric
        is_default = metric == _PARAMETERS["distance_metric"].default
        wanted = state.metric if is_default else metric
        if (len(state.centers), state.metric) != (k, wanted):
            sentence = "{} clusters by {} distance"
            found = sentence.format(len(state.centers), state.metric)
            shown = self._model_dir().shown if checkpoint is None else redacted(checkpoint)
            raise ModelMismatchError(shown, found, sentence.format(k, wanted))
        return state

    @contextmanager
    def _remove_empty_temporary_dir(self) -> Iterator[None]:
        """Remove the temporary directory after a failure, unless a checkpoint is in it."""
        try:
            yield
        except BaseException:
            place = self._temporary_dir and Path(self._temporary_dir)
            if place and not any((place / "checkpoints").rglob("*.json")):
                shutil.rmtree(place, ignore_errors=True)
                self._temporary_dir = None
            raise

    def __sklearn_tags__(self) -> Any:
        """Return what scikit-learn's pipelines ask for; only they call it, so it is installed."""
        from sklearn.utils import Tags, TargetTags, TransformerTags

        return Tags("clusterer", TargetTags(required=False), TransformerTags())

    def __sklearn_is_fitted__(self) -> bool:
        """Return whether there is a model; makes no directory for one."""
        return self._known_place is not None and bool(self.checkpoints())

    def __repr__(self) -> str:
        """Return the constructor's call with all arguments that are not the default, without
        secrets."""
        given = (
            f"{name}={value!r}"
            for name, value in self._params.as_dict().items()
            if value is not _PARAMETERS[name].default
        )
        return redacted(f"{type(self).__name__}({', '.join(given)})")


_PARAMETERS = inspect.signature(KMeansClustering).parameters
"""The constructor's arguments, for their defaults."""
