"""What both estimators share: checks, first centers, predictions, and the bridge to a fit."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    ClusterMixin,
    TransformerMixin,
)
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.row_spec import RowSpec
from ray_kmeans.algorithm.state import Stop
from ray_kmeans.algorithm.stopping import StopRule
from ray_kmeans.config import RunConfig
from ray_kmeans.engine.fit_plan import FitPlan
from ray_kmeans.engine.seeding.choose import KMEANS_PLUS_PLUS, RANDOM, Initial
from ray_kmeans.errors import ConfigError
from ray_kmeans.observe import events as ev
from ray_kmeans.sklearn import arguments, rows
from ray_kmeans.workflows.fit_in_memory import inertia_of, label_rows

METHODS = {"k-means++": KMEANS_PLUS_PLUS, "random": RANDOM}
"""Names of the engine for scikit-learn's methods of choosing first centers."""
LARGEST_SEED = 2**31 - 1
"""Largest seed that is drawn from a generator."""
FOREVER_S = 1e18
"""Seconds between two checkpoints, of which a fit in memory has none."""


class Told:
    """Hears the events of a fit: raises its warnings, and prints its steps if that is wanted.

    Equal first centers are not warned of: the estimator warns when clusters are missing at the end.
    """

    def __init__(self, verbose: bool) -> None:
        self._verbose = verbose
        self._is_seeded = False

    def __call__(self, event: ev.Event) -> None:
        """Raise or print what the event tells."""
        match event:
            case ev.Warned(message) if not self._is_seeded:
                warnings.warn(message, UserWarning, stacklevel=2)
            case ev.Seeded():
                self._is_seeded = True
                self._say("Initialization complete")
            case ev.IterationDone(line):
                self._say(f"Iteration {line.iteration}, inertia {line.inertia}.")
            case ev.FitEnded(stop, iteration):
                is_strict = stop is Stop.CONVERGED
                end = "strict convergence" if is_strict else stop.value
                self._say(
                    f"{'Converged' if is_strict else 'Ended'} at iteration {iteration}: {end}."
                )
            case _:
                pass

    def _say(self, text: str) -> None:
        """Print a line, if that is wanted."""
        if self._verbose:
            print(text)


class BaseKMeans(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """Base of the estimators, which checks what they are given and asks their centers."""

    _starts_of_auto: ClassVar[int]
    """Number of starts of ``n_init='auto'`` where the first centers are random, or a function's."""

    def fit_predict(self, X: Any, y: None = None, sample_weight: Any = None) -> NDArray[np.int32]:
        """Fit the rows and return the cluster of each.

        Parameters
        ----------
        X : array or sparse matrix of shape (n, d)
            Rows.
        y : None, default=None
            Not used.
        sample_weight : array of shape (n,), default=None
            Weight of each row. None: 1.

        Returns
        -------
        array of shape (n,)
            `labels_`.
        """
        labels: NDArray[np.int32] = self.fit(X, sample_weight=sample_weight).labels_
        return labels

    def fit_transform(self, X: Any, y: None = None, sample_weight: Any = None) -> Any:
        """Fit the rows and return the distance of each to every center.

        Parameters
        ----------
        X : array or sparse matrix of shape (n, d)
            Rows.
        y : None, default=None
            Not used.
        sample_weight : array of shape (n,), default=None
            Weight of each row. None: 1.

        Returns
        -------
        array of shape (n, n_clusters)
            Euclidean distances; a frame after ``set_output(transform="pandas")``.
        """
        self.fit(X, sample_weight=sample_weight)
        return rows.distances(self._checked(X), self.cluster_centers_)

    def predict(self, X: Any) -> NDArray[np.int32]:
        """Return the nearest center of each row; a tie goes to the lowest number.

        Parameters
        ----------
        X : array or sparse matrix of shape (n, d)
            Rows.

        Returns
        -------
        array of shape (n,)
            Number of the nearest center.
        """
        check_is_fitted(self)
        return self._labels(self._checked(X))

    def transform(self, X: Any) -> Any:
        """Return the Euclidean distance of each row to every center.

        Parameters
        ----------
        X : array or sparse matrix of shape (n, d)
            Rows.

        Returns
        -------
        array of shape (n, n_clusters)
            Distances, not squared; a frame after ``set_output(transform="pandas")``.
        """
        check_is_fitted(self)
        return rows.distances(self._checked(X), self.cluster_centers_)

    def score(self, X: Any, y: None = None, sample_weight: Any = None) -> float:
        """Return minus the inertia of rows: the larger, the better.

        Parameters
        ----------
        X : array or sparse matrix of shape (n, d)
            Rows.
        y : None, default=None
            Not used.
        sample_weight : array of shape (n,), default=None
            Weight of each row. None: 1.

        Returns
        -------
        float
            Minus the weighted sum of the squared distances of all rows to the nearest center.
        """
        check_is_fitted(self)
        X, weights, config = self._taken(X, sample_weight)
        source = rows.source_of(X, weights, self._shift)
        plan = self._plan(self._small_centers(), 0, StopRule(), self._shift)
        return -inertia_of(self._small_centers(), plan, source, config)

    # --- data and arguments ------------------------------------------------------------------

    def _checked(self, X: Any, is_new: bool = False) -> Any:
        """Return rows as an array or a CSR matrix of float64 or float32, (n, d).

        `is_new`: the estimator takes the number and the names of the columns from them.
        """
        return validate_data(
            self,
            X,
            accept_sparse="csr",
            dtype=[np.float64, np.float32],
            order="C",
            accept_large_sparse=False,
            reset=is_new,
        )

    def _taken(
        self, X: Any, sample_weight: Any, is_new: bool = False
    ) -> tuple[Any, NDArray[Any] | None, RunConfig]:
        """Return checked rows, their weights and the machines that are to visit them.

        `is_new`: the estimator begins with these rows, which must be as many as clusters.
        """
        X = self._checked(X, is_new)
        if is_new:
            self._check_rows(X)
        config = arguments.config_of(self.config)
        rows.check_dense_size(X, config)
        return X, self._weights(sample_weight, X), config

    def _weights(self, sample_weight: Any, X: Any) -> NDArray[Any] | None:
        """Return the weights (n,) of rows; None if none are given."""
        if sample_weight is None:
            return None
        weights: NDArray[Any] = _check_sample_weight(sample_weight, X, dtype=X.dtype)
        return weights

    def _check_common_arguments(self) -> None:
        """Raise ConfigError for an argument that neither estimator can use."""
        arguments.check_whole("n_clusters", self.n_clusters, 1)
        arguments.check_init(self.init)
        arguments.check_n_init(self.n_init)
        arguments.check_whole("max_iter", self.max_iter, 1)
        arguments.check_real("tol", self.tol)
        arguments.check_verbose(self.verbose)

    def _check_rows(self, X: Any) -> None:
        """Raise ConfigError unless there are as many rows as clusters."""
        if X.shape[0] < self.n_clusters:
            raise ConfigError(
                f"n_samples={X.shape[0]} should be >= n_clusters={self.n_clusters}. Give more rows."
            )

    def _is_named(self) -> bool:
        """Tell whether `init` is the name of a method."""
        return isinstance(self.init, str)

    def _starts(self) -> int:
        """Return how many times first centers are chosen."""
        is_drawn = callable(self.init) or (self._is_named() and self.init == "random")
        if self._is_named() or callable(self.init):
            auto = self._starts_of_auto if is_drawn else 1
            return auto if isinstance(self.n_init, str) else int(self.n_init)
        if self.n_init not in ("auto", 1):
            warnings.warn(
                "Explicit initial center position passed: performing only one init in "
                f"{type(self).__name__} instead of n_init={self.n_init}.",
                RuntimeWarning,
                stacklevel=3,
            )
        return 1

    def _draws(self) -> tuple[int, np.random.RandomState]:
        """Return the seed of the engine, and the generator for what scikit-learn draws itself.

        A whole number is its own seed; a generator, or None, draws one.
        """
        generator = check_random_state(self.random_state)
        is_drawn = self.random_state is None or hasattr(self.random_state, "randint")
        seed = generator.randint(LARGEST_SEED) if is_drawn else self.random_state
        return int(seed), generator

    def _initial(self, X: Any, generator: np.random.RandomState, shift: rows.Shift) -> Initial:
        """Return what the engine takes for `init`, with centers among rows that are shifted."""
        if self._is_named():
            return METHODS[str(self.init)]
        if callable(self.init):
            return self._function(X, generator, shift)
        centers = arguments.checked_centers(self.init, self.n_clusters, X.shape[1])
        return rows.less(centers, shift)

    def _function(
        self, X: Any, generator: np.random.RandomState, shift: rows.Shift
    ) -> Callable[[Any, int], NDArray[np.float32]]:
        """Return the user's function of (X, n_clusters, random_state) as the engine calls it.

        The engine calls it once for each start; the generator goes on from one to the next.
        """

        def choose(sample: Any, missing: int) -> NDArray[np.float32]:
            answer = self.init(X, self.n_clusters, random_state=generator)
            centers = arguments.checked_centers(answer, self.n_clusters, X.shape[1])
            return rows.less(centers, shift)

        return choose

    def _plan(
        self,
        initial: Initial,
        seed: int,
        rule: StopRule,
        shift: rows.Shift,
        batch_size: int | None = None,
        n_init: int = 1,
        reassignment_ratio: float = 0.0,
    ) -> FitPlan:
        """Return the plan of a fit."""
        return FitPlan(
            num_clusters=int(self.n_clusters),
            initial=initial,
            metric=Metric.SQUARED_EUCLIDEAN,
            random_seed=seed,
            retries=1 + int(np.log(self.n_clusters)),
            rule=rule,
            batch_size=batch_size,
            steps_per_iteration=1,
            empty_clusters="farthest",
            checkpoint_steps=None,
            checkpoint_secs=FOREVER_S,
            n_init=n_init,
            rows=RowSpec(shift=shift),
            reassignment_ratio=reassignment_ratio,
        )

    # --- the fitted model --------------------------------------------------------------------

    def _keep(self, centers: NDArray[np.float32], shift: rows.Shift, dtype: Any) -> None:
        """Make centers (k, d) of shifted rows those of the estimator, in the type of its rows."""
        moved = centers + np.asarray(shift) if shift else centers
        self.cluster_centers_ = np.array(moved, dtype)
        self._shift = shift
        self._n_features_out = len(centers)

    def _small_centers(self) -> NDArray[np.float32]:
        """Return the centers (k, d) among shifted rows, as the engine takes them.

        They follow from `cluster_centers_`, which a user may replace.
        """
        return rows.less(self.cluster_centers_, self._shift)

    def _labels(self, X: Any) -> NDArray[np.int32]:
        """Return the nearest center of each validated row, (n,)."""
        return label_rows(self._small_centers(), rows.source_of(X, None, self._shift))

    def __sklearn_tags__(self) -> Any:
        """Return what scikit-learn is to know of the estimator: it takes sparse rows, too."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags
