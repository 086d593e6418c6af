"""Choose the number of clusters: fits for several over one reading, compared by their quality."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ray_kmeans.algorithm.state import digest
from ray_kmeans.choosing.recommendation import Candidate, recommend, table_of
from ray_kmeans.config import DistanceMetric, RunConfig
from ray_kmeans.errors import ConfigError
from ray_kmeans.estimator import KMeansClustering
from ray_kmeans.html_report.choice import choice_page
from ray_kmeans.io import publish
from ray_kmeans.loading import load_model
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.workflows.parameters import InitialClusters
from ray_kmeans.workflows.session import Session, open_session
from ray_kmeans.workflows.validation import a_path, check_count

QUALITY = "quality.json"
"""Name of the file beside a model with its figures, so that they are not made again."""


@dataclass(frozen=True)
class KChoice:
    """Models with several numbers of clusters, their figures, and the recommended number.

    Parameters
    ----------
    candidates : tuple of Candidate
        The numbers of clusters that were compared, ascending, with their figures.
    num_clusters : int
        The recommended number of clusters.
    reason : str
        A sentence that says why.
    config : RunConfig
        Machines and stores of the models.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from ray_kmeans import RunConfig, choose_k
    >>> x = np.repeat(np.array([[0.0], [4.0], [20.0]]), 5, axis=0) + np.arange(15)[:, None] % 5 / 9
    >>> here = RunConfig(num_workers=0, progress=False)
    >>> with tempfile.TemporaryDirectory() as place:
    ...     choice = choose_k(x, [2, 3, 4], place, config=here)
    >>> choice.num_clusters, choice.reason.endswith("all figures agree.")
    (3, True)
    """

    candidates: tuple[Candidate, ...]
    """The numbers of clusters that were compared, ascending, with their figures."""
    num_clusters: int
    """The recommended number of clusters."""
    reason: str
    """A sentence that says why."""
    config: RunConfig
    """Machines and stores of the models."""

    def table(self) -> str:
        """Return the figures as text, as the command `choose-k` prints them.

        Returns
        -------
        str
            A line for each number of clusters.
        """
        return table_of(self.candidates, self.num_clusters)

    def model(self, num_clusters: int | None = None) -> KMeansClustering:
        """Return a fitted model.

        Parameters
        ----------
        num_clusters : int, default=None
            One of the numbers that were compared. None: the recommended one.

        Returns
        -------
        KMeansClustering
            The model, as `load_model` returns it.

        Raises
        ------
        ConfigError
            If the number was not compared.
        """
        wanted = self.num_clusters if num_clusters is None else num_clusters
        for each in self.candidates:
            if each.num_clusters == wanted:
                return load_model(each.model_dir, self.config)
        known = ", ".join(str(each.num_clusters) for each in self.candidates)
        raise ConfigError(f"num_clusters={wanted!r} was not compared. Give one of {known}.")

    def report(self, output: str) -> None:
        """Write an HTML page with the figures, drawn over the number of clusters.

        Parameters
        ----------
        output : str
            Path or fsspec URL of the page, as ``choice.html``.

        Raises
        ------
        ConfigError
            If the extra ``[report]`` is not installed.
        StoreError
            If the page cannot be written.
        """
        text = choice_page(
            [each.as_dict() for each in self.candidates], self.num_clusters, self.reason
        )
        options = self.config.storage_options
        place = publish.Place(publish.absolute(a_path("output", output)), options)
        with place.raise_store_errors(f"{place.shown!r} cannot be written"):
            publish.put(place.fs, place.path, text.encode())


def choose_k(
    data: Any,
    ks: Sequence[int],
    model_dir: str,
    *,
    config: RunConfig | None = None,
    distance_metric: DistanceMetric = "squared_euclidean",
    initial_clusters: InitialClusters = "kmeans_parallel",
    random_seed: int = 0,
    use_mini_batch: bool = False,
    batch_size: int | None = None,
    relative_tolerance: float | None = 1e-4,
    max_steps: int | None = None,
    n_init: int = 1,
    sample_weight: Any = None,
) -> KChoice:
    """Fit for several numbers of clusters over one reading of the data, and recommend one.

    The same call again, after a kill or with more numbers, makes only what is missing.

    Parameters
    ----------
    data : array, table, URI, source or Session
        Rows (n, d), as in `KMeansClustering.fit`; not an iterator.
    ks : sequence of int
        The numbers of clusters to compare, at least two of them.
    model_dir : str
        Directory or fsspec URL; each model goes to ``model_dir/k=<number>``.
    config : RunConfig, default=None
        Machines and stores. None: those of the session, else all defaults.
    distance_metric : {'squared_euclidean', 'cosine'}, default='squared_euclidean'
        As in `KMeansClustering`.
    initial_clusters : str or callable, default='kmeans_parallel'
        As in `KMeansClustering`.
    random_seed : int, default=0
        As in `KMeansClustering`.
    use_mini_batch : bool, default=False
        As in `KMeansClustering`.
    batch_size : int, default=None
        Rows of a mini-batch, as in `KMeansClustering.fit`.
    relative_tolerance : float, default=0.0001
        As in `KMeansClustering`.
    max_steps : int, default=None
        Largest number of steps of each fit.
    n_init : int, default=1
        Restarts of each fit, as in `KMeansClustering`.
    sample_weight : str or array of shape (n,), default=None
        As in `KMeansClustering.fit`; not with a session, which has its own.

    Returns
    -------
    KChoice
        The figures, the recommended number, and the models.

    Raises
    ------
    ConfigError
        If an argument cannot be used. Raised before any worker starts.
    DataError
        If the data cannot be clustered as they are, or have fewer rows than the largest k.

    Notes
    -----
    Each model has the bits of a fit alone: no fit begins at the centers of another one. The data
    are read once; then each k costs a fit and two sweeps. The figures are the simplified
    silhouette and the indices of Davies and Bouldin (1979) and of Calinski and Harabasz (1974).

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from ray_kmeans import RunConfig, choose_k
    >>> x = np.array([[0.0], [0.1], [0.2], [9.0], [9.1], [9.2]])
    >>> here = RunConfig(num_workers=0, progress=False)
    >>> with tempfile.TemporaryDirectory() as place:
    ...     choose_k(x, [2, 3], place, config=here).num_clusters
    2
    """
    numbers = _checked(ks)
    place = a_path("model_dir", model_dir).rstrip("/")
    own = config or (data.config if isinstance(data, Session) else RunConfig())
    models = [
        KMeansClustering(
            k,
            f"{place}/k={k}",
            initial_clusters,
            distance_metric,
            random_seed,
            use_mini_batch,
            relative_tolerance=relative_tolerance,
            config=own,
            n_init=n_init,
        )
        for k in numbers
    ]
    with _session(data, own, distance_metric, sample_weight, numbers[-1], batch_size) as session:
        found = [
            _candidate(km.fit(session, batch_size=batch_size, max_steps=max_steps), session)
            for km in models
        ]
    best, reason = recommend(found)
    return KChoice(tuple(found), best, reason, own)


def _checked(ks: Any) -> list[int]:
    """Return the numbers of clusters in order; ConfigError unless they are two or more."""
    if isinstance(ks, str) or not isinstance(ks, Sequence | range):
        raise ConfigError(f"ks={ks!r} must be a list of whole numbers, as [8, 16, 32].")
    for k in ks:
        check_count("each of ks", k)
    numbers = sorted({int(k) for k in ks})
    if len(numbers) < 2:
        raise ConfigError(f"ks={list(ks)!r} names fewer than two numbers. Give some to compare.")
    return numbers


@contextmanager
def _session(
    data: Any,
    config: RunConfig,
    distance_metric: DistanceMetric,
    sample_weight: Any,
    most: int,
    batch_size: int | None,
) -> Iterator[Session]:
    """Give the session that the data are, or open one that ends with the block."""
    if isinstance(data, Session):
        if sample_weight is not None:
            raise ConfigError("sample_weight is given with a session, which has its own weights.")
        yield data
        return
    more = {} if batch_size is None else {"max_batch_size": batch_size}
    with open_session(
        data,
        config=config,
        distance_metric=distance_metric,
        sample_weight=sample_weight,
        max_clusters=most,
        **more,
    ) as session:
        yield session


def _candidate(km: KMeansClustering, session: Session) -> Candidate:
    """Return a fitted model's figures, from the file beside it where they are those of the model.

    A model that is trained on has other centers, and other data have another name: then they are
    made anew.
    """
    state = ModelDir.of(km.model_dir, session.config).fitted()
    name = f"{digest(state.centers)} {state.data_name}"
    place = publish.Place(f"{km.model_dir}/{QUALITY}", session.config.storage_options)
    with place.raise_store_errors(f"{place.shown!r} cannot be read or written"):
        there = publish.unseal(place.fs.cat_file(place.path)) if place.fs.exists(place.path) else {}
        if there and there.get("of") == name:
            return Candidate(**there["figures"])
    quality = session.evaluate(km).quality
    assert quality is not None
    found = Candidate(
        num_clusters=len(state.centers),
        inertia=quality.inertia,
        silhouette=quality.silhouette,
        davies_bouldin=quality.davies_bouldin,
        calinski_harabasz=quality.calinski_harabasz,
        empty=quality.empty,
        iterations=state.iteration,
        model_dir=km.model_dir,
    )
    with place.raise_store_errors(f"{place.shown!r} cannot be read or written"):
        publish.put(place.fs, place.path, publish.seal({"of": name, "figures": found.as_dict()}))
    return found
