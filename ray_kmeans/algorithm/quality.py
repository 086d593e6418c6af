"""The quality of a clustering: figures of how tight, even and separate its clusters are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.contingency import Agreement, agreement_of
from ray_kmeans.algorithm.grid import Summary
from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.partial_sums import Partials
from ray_kmeans.algorithm.quality_sums import QualitySums

ARRAYS = {
    "cluster_inertia": np.float64,
    "cluster_silhouette": np.float64,
    "silhouette_histogram": None,
    "sizes": None,
    "gaps": np.float64,
    "nearest": np.int64,
}
"""Fields of `Quality` that are arrays, with their types; None: whole numbers or floats."""


@dataclass(frozen=True)
class CenterGaps:
    """How far some centers are from the others."""

    numbers: NDArray[np.int64]
    """(m,) Numbers of the centers."""
    nearest: NDArray[np.int64]
    """(m,) Number of the nearest other center; of equally near ones the lowest."""
    distances: NDArray[np.float64]
    """(m,) Distance to it, by the metric."""
    ratios: NDArray[np.float64]
    """(m,) Largest ratio of Davies and Bouldin with another cluster; NaN for an empty cluster."""

    @classmethod
    def joined(cls, parts: Sequence[CenterGaps]) -> CenterGaps:
        """Put the gaps of all centers together, in the order of their numbers."""
        names = [each.name for each in fields(cls)]
        whole = [np.concatenate([getattr(part, name) for part in parts]) for name in names]
        order = np.argsort(whole[0], kind="stable")
        return cls(*(each[order] for each in whole))


@dataclass(frozen=True)
class Quality:
    """Figures of how tight, even and separate the clusters of a model are, over all rows.

    Distances are those of the model's metric: squared Euclidean, or 1 minus the cosine. All sums
    over rows are exact, and a row counts as often as its weight says. A figure that is not defined
    is None, and NaN inside an array.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from ray_kmeans import RunConfig, import_centers
    >>> here = RunConfig(num_workers=0, progress=False)
    >>> with tempfile.TemporaryDirectory() as model_dir:
    ...     km = import_centers(np.array([[0.0], [8.0]]), model_dir, config=here)
    ...     quality = km.evaluation(np.array([[0.0], [2.0], [8.0]])).quality
    >>> quality.cluster_inertia.tolist(), quality.cluster_silhouette.round(3).tolist()
    ([4.0, 0.0], [0.833, 1.0])
    """

    inertia: float
    """Sum of the distances to the nearest center, each as often as its row counts."""
    cluster_inertia: NDArray[np.float64] = field(repr=False, compare=False)
    """Part of the inertia that is of the rows of each cluster, (k,)."""
    sizes: NDArray[Any] = field(repr=False, compare=False)
    """Weight of the rows of each cluster, (k,): int64, or float64 if weights are not whole."""
    size_variation: float
    """Coefficient of variation of the sizes: their standard deviation over their mean."""
    size_p50: float
    """Median size over the mean size."""
    size_p99: float
    """The 99th percentile of the sizes over the mean size."""
    size_max: float
    """Largest size over the mean size."""
    empty: int
    """Number of clusters without a row that counts."""
    silhouette: float | None
    """Mean simplified silhouette of the rows: (b - a) / b for the distances a to the nearest center
    and b to the second-nearest, as Euclidean or cosine distances. None for a single center."""
    cluster_silhouette: NDArray[np.float64] | None = field(repr=False, compare=False)
    """Mean silhouette of the rows of each cluster, (k,); NaN for an empty one. None for a single
    center."""
    silhouette_histogram: NDArray[Any] | None = field(repr=False, compare=False)
    """Weight of the rows by silhouette, in equal bins from 0 to 1, (20,). None for a single
    center."""
    davies_bouldin: float | None
    """Index of Davies and Bouldin (1979): the lower, the better; None for less than two clusters
    with rows."""
    calinski_harabasz: float | None
    """Index of Calinski and Harabasz (1974): the higher, the better; None for less than two
    clusters with rows, or where all rows of each cluster are equal."""
    gaps: NDArray[np.float64] | None = field(repr=False, compare=False)
    """Distance of each center to the nearest other one, by the metric, (k,). None for a single
    center."""
    nearest: NDArray[np.int64] | None = field(repr=False, compare=False)
    """Number of the nearest other center, (k,). None for a single center."""
    near_border: Mapping[float, float] | None
    """Share of the weight that is within each percentage x of a border, from 0 to 1: rows whose
    silhouette is at most x / 100. None for a single center."""
    agreement: Agreement | None = None
    """Agreement with another clustering; None where nothing was compared."""

    def figures(self) -> dict[str, Any]:
        """Return all figures by name, as the command `evaluate` writes them.

        Returns
        -------
        dict
            Values that JSON can hold: arrays are lists, and None stands for NaN.
        """
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        found |= {name: _listed(found[name]) for name in ARRAYS}
        found["near_border"] = self.near_border and {
            f"{percent:g}": share for percent, share in self.near_border.items()
        }
        found["agreement"] = self.agreement and asdict(self.agreement)
        return found

    @classmethod
    def parse(cls, figures: Mapping[str, Any]) -> Quality:
        """Return the record whose `figures` these are, also after they were JSON.

        Parameters
        ----------
        figures : mapping
            The result of `figures`.

        Returns
        -------
        Quality
            A record that is equal in all figures.

        Raises
        ------
        KeyError, TypeError, ValueError
            If these are no figures of this version.
        """
        found = {each.name: figures[each.name] for each in fields(cls)}
        for name, kind in ARRAYS.items():
            found[name] = None if found[name] is None else _array(found[name], kind)
        if found["near_border"] is not None:
            found["near_border"] = {float(x): share for x, share in found["near_border"].items()}
        if found["agreement"] is not None:
            found["agreement"] = Agreement(**found["agreement"])
        return cls(**found)

    def by_loss(self, most: int) -> NDArray[np.int64]:
        """Return the clusters with the largest part of the inertia, the largest first.

        Parameters
        ----------
        most : int
            Largest number of clusters.

        Returns
        -------
        ndarray of shape (clusters,)
            Their numbers; of equal parts, the lower number comes first.
        """
        return np.argsort(-self.cluster_inertia, kind="stable")[:most]


def _listed(values: NDArray[Any] | None) -> list[Any] | None:
    """Return an array as a list with None in place of NaN."""
    if values is None:
        return None
    return [None if each != each else each for each in values.tolist()]


def _array(values: Sequence[Any], kind: Any) -> NDArray[Any]:
    """Return a list as an array, with NaN in place of None."""
    return np.array([math.nan if each is None else each for each in values], kind)


def spreads_of(sums: QualitySums) -> NDArray[np.float64]:
    """Return the mean Euclidean distance of the rows of each cluster to its center, (k,).

    NaN for an empty cluster.
    """
    return sums.lengths.divided_by(sums.partials.counts.tolist())


def quality_of(
    sums: QualitySums,
    summary: Summary,
    inertia: float,
    gaps: CenterGaps | None,
    borders: Sequence[float],
) -> Quality:
    """Return the figures that follow from the sums over all rows of `summary`.

    `inertia` is that of `partials` for the centers; `gaps` are those of all centers, None for a
    single one; `borders` are the percentages that the sums were made for.
    """
    counts, grid = sums.partials.counts, summary.grid
    mean = float(counts.sum()) / len(counts)
    median, high, largest = (np.quantile(counts, [0.5, 0.99, 1.0]) / mean).tolist()
    total = int(counts.sum())
    of_rows = counts.tolist()
    several = gaps is not None
    near = zip(borders, sums.near_border.tolist(), strict=True)
    return Quality(
        inertia=inertia,
        cluster_inertia=sums.distances.divided_by([1 << grid.weight_exponent] * len(counts)),
        sizes=grid.weights_of(counts),
        size_variation=float(np.std(counts.astype(np.float64))) / mean,
        size_p50=median,
        size_p99=high,
        size_max=largest,
        empty=int((counts == 0).sum()),
        silhouette=sums.silhouettes.mean(total) if several else None,
        cluster_silhouette=sums.silhouettes.divided_by(of_rows) if several else None,
        silhouette_histogram=grid.weights_of(sums.histogram) if several else None,
        davies_bouldin=_davies_bouldin(gaps) if gaps else None,
        calinski_harabasz=_calinski_harabasz(sums.partials, summary),
        gaps=gaps.distances if gaps else None,
        nearest=gaps.nearest if gaps else None,
        near_border={percent: weight / total for percent, weight in near} if several else None,
        agreement=agreement_of(sums.pairs, grid.weight_exponent),
    )


def _davies_bouldin(gaps: CenterGaps) -> float | None:
    """Return the mean of the largest ratios; None for less than two clusters with rows."""
    ratios = gaps.ratios[~np.isnan(gaps.ratios)].tolist()
    return math.fsum(ratios) / len(ratios) if len(ratios) > 1 else None


def _calinski_harabasz(partials: Partials, summary: Summary) -> float | None:
    """Return (B / (k - 1)) / (W / (n - k)) for the k clusters with rows and the weight n.

    W and B are the sums of squares within the clusters, about the means of their rows, and between
    them. None for less than two clusters, or without spread or freedom within them.
    """
    clusters = int((partials.counts > 0).sum())
    weight = float(partials.counts.sum()) * 2.0**-summary.grid.weight_exponent
    whole = Partials(
        partials.sums.sum(axis=0, keepdims=True), partials.counts.sum(axis=0, keepdims=True)
    )
    within = _squares_about_means(partials, summary)
    between = max(_squares_about_means(whole, summary) - within, 0.0)
    if clusters < 2 or within <= 0 or weight <= clusters:
        return None
    return between * (weight - clusters) / (within * (clusters - 1))


def _squares_about_means(partials: Partials, summary: Summary) -> float:
    """Return the sum of squared distances of rows to the mean of their cluster.

    `Partials.inertia` gives those to the means as float32, without rounding; the rest, by which the
    true means are nearer, is small and its square smaller.
    """
    plain = replace(summary, metric=Metric.SQUARED_EUCLIDEAN)
    means = partials.means(plain, np.zeros(partials.sums.shape, np.float32))
    occupied = partials.counts > 0
    counts = partials.counts[occupied, None].astype(np.float64)
    # In whole units of the grid, because a mean as float64 is off by more than its rest may be.
    units = means[occupied] * summary.grid.scale
    whole = np.rint(units).astype(np.int64)
    rest = (partials.sums[occupied] - whole * partials.counts[occupied, None]) / counts
    rest = (rest - (units - whole)) / summary.grid.scale
    nearer = math.fsum((rest * rest * counts).sum(axis=1).tolist())
    nearer *= 2.0**-summary.grid.weight_exponent
    return max(partials.inertia(plain, means) - nearer, 0.0)
