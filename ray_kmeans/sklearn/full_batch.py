"""KMeans, with the names and the meaning of ``sklearn.cluster.KMeans``."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from ray_kmeans.algorithm.stopping import StopRule
from ray_kmeans.config import RunConfig
from ray_kmeans.sklearn import arguments, rows
from ray_kmeans.sklearn.base import BaseKMeans, Told
from ray_kmeans.sklearn.stopping import SmallMoves
from ray_kmeans.workflows.fit_in_memory import fit_rows

ALGORITHMS = ("lloyd", "elkan")
"""Names of scikit-learn's two ways to compute the same iterations."""


class KMeans(BaseKMeans):
    """Fit k-means where ``sklearn.cluster.KMeans`` stands: the same arguments and attributes.

    Parameters
    ----------
    n_clusters : int, >= 1, default=8
        Number of clusters k.
    init : {'k-means++', 'random'}, array of shape (n_clusters, d) or callable, \
default='k-means++'
        First centers. 'k-means++': greedy, with 2 + trunc(ln k) candidates for each center.
        'random': rows drawn without replacement, by their weights. A function
        ``f(X, n_clusters, random_state)`` returns them.
    n_init : int or 'auto', default='auto'
        Number of starts, of which the one with the lowest inertia stays. 'auto': 10 for 'random'
        and for a function, else 1. An array has one start.
    max_iter : int, >= 1, default=300
        Largest number of iterations of one start.
    tol : float, >= 0, default=0.0001
        A start ends when the squared moves of all centers in one iteration add up to at most
        `tol` times the mean variance of the columns.
    verbose : int or bool, default=0
        Whether iterations are printed.
    random_state : int, RandomState or None, default=None
        Seed of the first centers: equal numbers give equal bits. None: another one each time.
    copy_x : bool, default=True
        Checked only: X is never written to.
    algorithm : {'lloyd', 'elkan'}, default='lloyd'
        Checked only: both name the same iterations, and here distances are left out where they
        cannot change a label.
    config : RunConfig, default=None
        Machines and memory, which do not change the result. None: this process, without Ray.
        Fields for checkpoints, logs and progress have no use, since nothing is written.

    Attributes
    ----------
    cluster_centers_ : array of shape (n_clusters, d)
        Centers, in the type of the rows. For float64 they carry float32's digits of the distance to
        the middle of each column.
    labels_ : array of shape (n,)
        Cluster of each row, as `predict` gives it.
    inertia_ : float
        Weighted sum of the squared distances of the rows to the nearest center.
    n_iter_ : int
        Number of iterations.
    n_features_in_ : int
        Number of columns d.
    feature_names_in_ : array of shape (d,)
        Names of the columns, where X had them.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
    >>> KMeans(n_clusters=2, random_state=0).fit(X).cluster_centers_.tolist()
    [[1.0, 2.0], [10.0, 2.0]]
    """

    _starts_of_auto: ClassVar[int] = 10

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: Any = "k-means++",
        n_init: int | str = "auto",
        max_iter: int = 300,
        tol: float = 1e-4,
        verbose: int = 0,
        random_state: Any = None,
        copy_x: bool = True,
        algorithm: str = "lloyd",
        config: RunConfig | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.verbose = verbose
        self.random_state = random_state
        self.copy_x = copy_x
        self.algorithm = algorithm
        self.config = config

    def fit(self, X: Any, y: None = None, sample_weight: Any = None) -> KMeans:
        """Find the centers of rows.

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
        KMeans
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
        shift = rows.middle_of(X)
        plan = self._plan(
            self._initial(X, generator, shift),
            seed,
            StopRule(steps=int(self.max_iter)),
            shift,
            n_init=self._starts(),
        )
        verbose = bool(self.verbose)
        tolerance = self.tol * rows.mean_variance(X) if self.tol else 0.0
        monitors = [SmallMoves(tolerance, verbose)] if tolerance else []
        source = rows.source_of(X, weights, shift)
        fitted = fit_rows(plan, source, config, Told(verbose), monitors)
        self._keep(fitted.state.centers, shift, X.dtype)
        self.labels_ = self._labels(X)
        self.inertia_ = fitted.inertia
        self.n_iter_ = fitted.state.iteration
        self._warn_of_missing()
        return self

    def _check_arguments(self) -> None:
        """Raise ConfigError for an argument that cannot be used."""
        self._check_common_arguments()
        arguments.check_flag("copy_x", self.copy_x)
        arguments.check_name("algorithm", self.algorithm, ALGORITHMS)

    def _warn_of_missing(self) -> None:
        """Warn if some clusters have no row."""
        found = len(np.unique(self.labels_))
        if found < self.n_clusters:
            warnings.warn(
                f"Number of distinct clusters ({found}) found smaller than n_clusters "
                f"({self.n_clusters}). Possibly due to duplicate points in X.",
                ConvergenceWarning,
                stacklevel=3,
            )
