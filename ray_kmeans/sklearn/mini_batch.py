"""MiniBatchKMeans, with the names and the meaning of ``sklearn.cluster.MiniBatchKMeans``."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.state import FitState
from ray_kmeans.algorithm.stopping import StopRule
from ray_kmeans.config import RunConfig
from ray_kmeans.sklearn import arguments, rows
from ray_kmeans.sklearn.base import BaseKMeans, Told
from ray_kmeans.sklearn.stopping import BatchConvergence
from ray_kmeans.workflows.fit_in_memory import choose_by_sample, fit_rows, inertia_of

SAMPLE_BATCHES = 3
"""Number of batches of rows, or of rows for each cluster, among which first centers are chosen."""
WHOLE = 2**62
"""Rows of a batch that no data have, so that a batch is all rows."""


class MiniBatchKMeans(BaseKMeans):
    """Fit k-means by mini-batches where ``sklearn.cluster.MiniBatchKMeans`` stands.

    Parameters
    ----------
    n_clusters : int, >= 1, default=8
        Number of clusters k.
    init : {'k-means++', 'random'}, array of shape (n_clusters, d) or callable, \
default='k-means++'
        First centers, chosen among `init_size` rows; as for `KMeans`.
    max_iter : int, >= 1, default=100
        Largest number of passes over the rows.
    batch_size : int, >= 1, default=1024
        Rows of a batch. Every row is in one batch of each pass.
    verbose : int or bool, default=0
        Whether steps are printed.
    compute_labels : bool, default=True
        Whether `labels_` and `inertia_` are computed for all rows at the end.
    random_state : int, RandomState or None, default=None
        Seed of first centers and batches: equal numbers give equal bits. None: another one each
        time.
    tol : float, >= 0, default=0.0
        The fit ends when the squared moves of all centers in a step add up to at most `tol` times
        the mean variance of the columns. 0: no such end.
    max_no_improvement : int or None, default=10
        The fit ends after this number of steps without a better smoothed loss. None: no such end.
    init_size : int or None, default=None
        Rows among which first centers are chosen. None: 3 batches, or 3 rows for each cluster where
        that is less than k.
    n_init : int or 'auto', default='auto'
        Number of choices of first centers, of which the one with the lowest inertia on a sample
        stays. 'auto': 3 for 'random' and for a function, else 1.
    reassignment_ratio : float, >= 0, default=0.01
        A cluster with less than this part of the rows of the largest one begins anew at a row that
        is drawn. 0: none does; more than 1 is as 1.
    config : RunConfig, default=None
        Machines and memory, which do not change the result; as for `KMeans`.

    Attributes
    ----------
    cluster_centers_ : array of shape (n_clusters, d)
        Centers, in the type of the rows.
    labels_ : array of shape (n,)
        Cluster of each row, as `predict` gives it; after `partial_fit`, of the rows of that call.
    inertia_ : float
        Weighted sum of the squared distances of these rows to the nearest center; without
        `compute_labels`, the smoothed loss of a row times the weight of all.
    n_iter_ : int
        Number of passes that have begun.
    n_steps_ : int
        Number of batches.
    n_features_in_ : int
        Number of columns d.
    feature_names_in_ : array of shape (d,)
        Names of the columns, where X had them.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
    >>> km = MiniBatchKMeans(n_clusters=2, random_state=0, batch_size=6, max_iter=10).fit(X)
    >>> sorted(km.cluster_centers_[:, 0].round().tolist())
    [1.0, 10.0]
    """

    _starts_of_auto: ClassVar[int] = 3

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: Any = "k-means++",
        max_iter: int = 100,
        batch_size: int = 1024,
        verbose: int = 0,
        compute_labels: bool = True,
        random_state: Any = None,
        tol: float = 0.0,
        max_no_improvement: int | None = 10,
        init_size: int | None = None,
        n_init: int | str = "auto",
        reassignment_ratio: float = 0.01,
        config: RunConfig | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.verbose = verbose
        self.compute_labels = compute_labels
        self.random_state = random_state
        self.tol = tol
        self.max_no_improvement = max_no_improvement
        self.init_size = init_size
        self.n_init = n_init
        self.reassignment_ratio = reassignment_ratio
        self.config = config

    def fit(self, X: Any, y: None = None, sample_weight: Any = None) -> MiniBatchKMeans:
        """Find the centers of rows by mini-batches.

        Parameters
        ----------
        X : array or sparse matrix of shape (n, d)
            Rows, of at least as many as clusters. A sparse matrix is made dense block by block:
            workers hold up to 4 GiB of it, or `config.worker_memory_bytes`.
        y : None, default=None
            Not used.
        sample_weight : array of shape (n,), default=None
            Weight of each row. None: 1.

        Returns
        -------
        MiniBatchKMeans
            This object.

        Raises
        ------
        ConfigError
            If an argument cannot be used; it is a ValueError.
        DataError
            If the rows cannot be clustered as they are; it is a ValueError.
        """
        self._check_arguments()
        X, weights, config = self._taken(X, sample_weight, is_new=True)
        seed, generator = self._draws()
        shift, batch = rows.middle_of(X), min(int(self.batch_size), X.shape[0])
        centers = self._first_centers(X, weights, seed, generator, shift)
        rule = StopRule(steps=max(self.max_iter * X.shape[0] // batch, 1))
        plan = self._plan(
            centers, seed, rule, shift, batch, 1, min(float(self.reassignment_ratio), 1.0)
        )
        tolerance = self.tol * rows.mean_variance(X) if self.tol else 0.0
        watch = BatchConvergence(X.shape[0], tolerance, self.max_no_improvement, bool(self.verbose))
        source = rows.source_of(X, weights, shift)
        fitted = fit_rows(plan, source, config, Told(False), [watch])
        self._take(fitted.state, shift, X.dtype)
        self._seed, self.n_steps_ = seed, fitted.state.iteration
        self.n_iter_ = math.ceil(self.n_steps_ * batch / X.shape[0])
        if self.compute_labels:
            self.labels_, self.inertia_ = self._labels(X), fitted.inertia
        else:
            loss = fitted.state.history[-1].loss_per_row
            total = X.shape[0] if weights is None else float(np.sum(weights))
            self.inertia_ = (loss if watch.smoothed is None else watch.smoothed) * total
        return self

    def partial_fit(self, X: Any, y: None = None, sample_weight: Any = None) -> MiniBatchKMeans:
        """Make one step with a batch of rows, from the centers that are there.

        Parameters
        ----------
        X : array or sparse matrix of shape (n, d)
            Rows of the batch; of the first one as many as clusters at least.
        y : None, default=None
            Not used.
        sample_weight : array of shape (n,), default=None
            Weight of each row. None: 1.

        Returns
        -------
        MiniBatchKMeans
            This object.

        Raises
        ------
        ConfigError
            If an argument cannot be used; it is a ValueError.
        DataError
            If the rows cannot be clustered as they are; it is a ValueError.
        """
        is_first = not hasattr(self, "cluster_centers_")
        self._check_arguments()
        X, weights, config = self._taken(X, sample_weight, is_new=is_first)
        if is_first:
            seed, generator = self._draws()
            shift = rows.middle_of(X)
            initial = self._first_centers(X, weights, seed, generator, shift)
            self._seed, self.n_steps_ = seed, 0
            before, dtype = None, X.dtype
        else:
            shift, dtype = self._shift, self.cluster_centers_.dtype
            before, initial = self._state_before(), self._small_centers()
        ratio = min(float(self.reassignment_ratio), 1.0)
        plan = self._plan(initial, self._seed, StopRule(steps=1), shift, WHOLE, 1, ratio)
        source = rows.source_of(X, weights, shift)
        fitted = fit_rows(plan, source, config, Told(bool(self.verbose)), before=before)
        self._take(fitted.state, shift, dtype)
        if self.compute_labels:
            self.labels_, self.inertia_ = self._labels(X), fitted.inertia
        self.n_steps_ += 1
        return self

    def _take(self, state: FitState, shift: rows.Shift, dtype: Any) -> None:
        """Keep the state of a fit, from which `partial_fit` goes on, without its history."""
        self._keep(state.centers, shift, dtype)
        self._state = replace(state, history=())

    def _state_before(self) -> FitState:
        """Return the state from which the next step goes on.

        Where a user has replaced the centers, it begins anew at these.
        """
        centers = self._small_centers()
        if np.array_equal(centers, self._state.centers):
            return self._state
        before = self._state
        return replace(FitState.initial(centers, origin=before.origin), rows=before.rows)

    def _first_centers(
        self,
        X: Any,
        weights: NDArray[Any] | None,
        seed: int,
        generator: np.random.RandomState,
        shift: rows.Shift,
    ) -> NDArray[np.float32]:
        """Return the best of some choices of first centers (k, d), by the inertia of a sample.

        Each is chosen among `init_size` rows, drawn with replacement among those that count.
        """
        starts, size = self._starts(), self._sample_rows(X.shape[0])
        counting = np.arange(X.shape[0]) if weights is None else np.flatnonzero(weights)
        config = arguments.config_of(None)
        best, lowest = None, math.inf

        def draw() -> tuple[Any, NDArray[Any] | None]:
            """Return a sample of rows, and their weights."""
            if size >= X.shape[0]:
                return X, weights
            some = np.sort(generator.choice(counting, size))
            return X[some], None if weights is None else weights[some]

        judges = rows.source_of(*draw(), shift) if starts > 1 else None
        for start in range(starts):
            sample, its_weights = draw()
            initial = self._initial(sample, generator, shift)
            plan = self._plan(initial, seed + start, StopRule(), shift)
            if isinstance(initial, str):
                source = rows.source_of(sample, its_weights, shift)
                centers = choose_by_sample(plan, source, config, Told(False))
            else:
                given = initial(sample, self.n_clusters) if callable(initial) else initial
                centers = np.asarray(given, np.float32)
            loss = 0.0 if judges is None else inertia_of(centers, plan, judges, config)
            if best is None or loss < lowest:
                best, lowest = centers, loss
        assert best is not None
        return best

    def _sample_rows(self, n_rows: int) -> int:
        """Return among how many rows first centers are chosen."""
        batch = min(int(self.batch_size), n_rows)
        if self.init_size is None:
            size = SAMPLE_BATCHES * batch
            size = SAMPLE_BATCHES * self.n_clusters if size < self.n_clusters else size
        elif self.init_size < self.n_clusters:
            warnings.warn(
                f"init_size={self.init_size} should be larger than n_clusters={self.n_clusters}. "
                "Setting it to min(3*n_clusters, n_samples)",
                RuntimeWarning,
                stacklevel=4,
            )
            size = SAMPLE_BATCHES * self.n_clusters
        else:
            size = int(self.init_size)
        return min(size, n_rows)

    def _check_arguments(self) -> None:
        """Raise ConfigError for an argument that cannot be used."""
        self._check_common_arguments()
        arguments.check_whole("batch_size", self.batch_size, 1)
        arguments.check_flag("compute_labels", self.compute_labels)
        arguments.check_whole("max_no_improvement", self.max_no_improvement, 0, none=True)
        arguments.check_whole("init_size", self.init_size, 1, none=True)
        arguments.check_real("reassignment_ratio", self.reassignment_ratio)
