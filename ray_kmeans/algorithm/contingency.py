"""How many rows two clusterings give each pair of labels, and how well the two agree by that."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.errors import DataError

MOST_VALUES = 2**20
"""Largest number of different labels of another clustering; a key of the rows has more."""
MOST_PAIRS = 2**21
"""Largest number of pairs of labels that rows have."""
MOST_MATCHED = 4096
"""Largest number of clusters on either side for which the best matching of all is found."""


@dataclass(frozen=True)
class Contingency:
    """The weight of the rows of each pair of labels; pairs without a row are left out."""

    labels: NDArray[np.int64]
    """(m,) Label by the model of each pair."""
    codes: NDArray[np.int64]
    """(m,) Place of the other label of each pair in `values`."""
    counts: NDArray[np.int64]
    """(m,) Weight of the rows of each pair, above 0, in units of weight."""
    values: tuple[Hashable, ...]
    """Other labels, each once."""

    @classmethod
    def zero(cls) -> Contingency:
        """Return the pairs of no rows."""
        none = np.zeros(0, np.int64)
        return cls(none, none, none, ())

    @classmethod
    def of_rows(
        cls,
        labels: NDArray[np.int32],
        codes: NDArray[np.int64],
        values: Sequence[Hashable],
        weights: NDArray[np.int64],
    ) -> Contingency:
        """Count the pairs of rows; all arrays are (n,).

        A row with the code -1 has no other label and is left out, as one of weight 0 is. `weights`
        may be (0,) where all rows count once.
        """
        times = weights if len(weights) else np.ones(len(labels), np.int64)
        kept = (codes >= 0) & (times > 0)
        return cls._counted(labels[kept], codes[kept], times[kept], tuple(values))

    @classmethod
    def _counted(
        cls,
        labels: NDArray[np.integer],
        codes: NDArray[np.int64],
        counts: NDArray[np.int64],
        values: tuple[Hashable, ...],
    ) -> Contingency:
        """Add up the counts of equal pairs."""
        width = max(len(values), 1)
        pairs, places = np.unique(labels.astype(np.int64) * width + codes, return_inverse=True)
        totals = np.zeros(len(pairs), np.int64)
        np.add.at(totals, places.ravel(), counts)
        if len(values) > MOST_VALUES or len(pairs) > MOST_PAIRS:
            raise DataError(
                f"the other clustering has {len(values):,} labels, and {len(pairs):,} pairs of "
                f"labels with the model's; it may have {MOST_VALUES:,} and {MOST_PAIRS:,}. "
                "Give a column of labels, not one that names each row."
            )
        return cls(pairs // width, pairs % width, totals, values)

    def __add__(self, other: Contingency) -> Contingency:
        """Return the pairs of both sets of rows."""
        places = {value: place for place, value in enumerate(self.values)}
        moved = [places.setdefault(value, len(places)) for value in other.values]
        codes = np.array(moved, np.int64)[other.codes]
        return self._counted(
            np.concatenate([self.labels, other.labels]),
            np.concatenate([self.codes, codes]),
            np.concatenate([self.counts, other.counts]),
            tuple(places),
        )

    def in_slices(self, count: int, n_clusters: int) -> list[Contingency]:
        """Cut into `count` slices by the labels of a model of `n_clusters` clusters."""
        cuts = np.searchsorted(self.labels, np.arange(count + 1) * n_clusters // count)
        return [
            Contingency(
                self.labels[begin:end], self.codes[begin:end], self.counts[begin:end], self.values
            )
            for begin, end in pairwise(cuts.tolist())
        ]


@dataclass(frozen=True)
class Agreement:
    """How well the clusters of a model agree with another clustering of the same rows."""

    weight: float
    """Weight of the rows that both clusterings label."""
    other_clusters: int
    """Number of labels of the other clustering."""
    adjusted_rand: float
    """Adjusted Rand index (Hubert and Arabie 1985): 1 for equal clusterings, about 0 by chance."""
    normalized_mutual_info: float
    """Mutual information over the arithmetic mean of both entropies, from 0 to 1."""
    moved_share: float
    """Share of the weight that is in other clusters than before, once clusters are matched."""
    matching: str
    """'optimal': clusters are matched so that most weight stays; 'mutual': each with the one that
    it shares most weight with, where that holds both ways."""


def agreement_of(pairs: Contingency, weight_exponent: int) -> Agreement | None:
    """Return how well two clusterings agree; None if no row has both labels.

    A unit of weight is ``2**-weight_exponent``.
    """
    if not len(pairs.counts):
        return None
    rows = _totals(pairs.labels, pairs.counts)
    columns = _totals(pairs.codes, pairs.counts)
    kept, matching = _kept_weight(pairs)
    total = int(pairs.counts.sum())
    return Agreement(
        weight=total / (1 << weight_exponent),
        other_clusters=int((columns > 0).sum()),
        adjusted_rand=_adjusted_rand(pairs.counts, rows, columns, 1 << weight_exponent),
        normalized_mutual_info=_normalized_mutual_info(pairs, rows, columns),
        moved_share=(total - kept) / total,
        matching=matching,
    )


def _totals(places: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the sum of the counts at each place."""
    totals = np.zeros(int(places.max()) + 1, np.int64)
    np.add.at(totals, places, counts)
    return totals


def _adjusted_rand(
    counts: NDArray[np.int64], rows: NDArray[np.int64], columns: NDArray[np.int64], one: int
) -> float:
    """Return the adjusted Rand index, a ratio of whole numbers that is rounded once.

    `one` is the number of units that a row counts which counts once.
    """
    squares, of_rows, of_columns = (
        sum(each * each for each in some.tolist()) for some in (counts, rows, columns)
    )
    total = sum(counts.tolist())
    together = squares - total * one  # pairs of rows that are together in both
    only_there, only_here = of_columns - squares, of_rows - squares
    apart = total * total - only_there - only_here - squares
    if not only_there and not only_here:
        return 1.0
    expected = (together + only_here) * (only_here + apart)
    expected += (together + only_there) * (only_there + apart)
    return 2 * (together * apart - only_here * only_there) / expected if expected else 0.0


def _normalized_mutual_info(
    pairs: Contingency, rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> float:
    """Return the mutual information over the mean of the entropies; 1 where both are 0."""
    total = int(pairs.counts.sum())
    entropies = [_entropy(some, total) for some in (rows, columns)]
    if not any(entropies):
        return 1.0
    a, b = rows[pairs.labels].tolist(), columns[pairs.codes].tolist()
    terms = (
        count / total * math.log(count * total / (in_row * in_column))
        for count, in_row, in_column in zip(pairs.counts.tolist(), a, b, strict=True)
    )
    # fsum rounds once, so the order of the pairs does not matter. Independent labels give a sum
    # that is 0 but for the rounding of its terms.
    return min(max(math.fsum(terms), 0.0) / (sum(entropies) / 2), 1.0)


def _entropy(counts: NDArray[np.int64], total: int) -> float:
    """Return the entropy of a clustering in nats."""
    some = counts[counts > 0].tolist()
    return -math.fsum(count / total * math.log(count / total) for count in some) + 0.0


def _kept_weight(pairs: Contingency) -> tuple[int, str]:
    """Return the weight of the rows in matched clusters, and how these were matched."""
    labels, here = np.unique(pairs.labels, return_inverse=True)
    codes, there = np.unique(pairs.codes, return_inverse=True)
    if max(len(labels), len(codes)) > MOST_MATCHED:
        return _mutual(here.ravel(), _in_order(pairs)[there.ravel()], pairs.counts), "mutual"
    from ray_kmeans.algorithm import compiled  # numba: 0.2 s, and may be missing

    table = np.zeros((len(labels), len(codes)), np.int64)
    table[here.ravel(), there.ravel()] = pairs.counts
    table = table if len(labels) <= len(codes) else np.ascontiguousarray(table.T)
    partner = np.zeros(len(table), np.int64)
    compiled.match(-table, partner)
    return int(table[np.arange(len(table)), partner].sum()), "optimal"


def _in_order(pairs: Contingency) -> NDArray[np.int64]:
    """Return the rank of each other label that has rows, in an order that no worker changes."""
    values = [pairs.values[code] for code in np.unique(pairs.codes).tolist()]
    order = sorted(range(len(values)), key=lambda at: (str(type(values[at])), values[at]))
    ranks = np.empty(len(values), np.int64)
    ranks[order] = np.arange(len(values))
    return ranks


def _mutual(labels: NDArray[np.int64], codes: NDArray[np.int64], counts: NDArray[np.int64]) -> int:
    """Return the weight of the pairs that are the largest of both of their clusters.

    Of equally large ones the one with the lower number counts.
    """
    of_label = np.lexsort((codes, -counts, labels))
    of_code = np.lexsort((labels, -counts, codes))
    best = np.zeros((2, len(counts)), np.bool_)
    for number, (order, places) in enumerate(((of_label, labels), (of_code, codes))):
        sorted_places = places[order]
        first = np.append(True, sorted_places[1:] != sorted_places[:-1])
        best[number, order[first]] = True
    return int(counts[best.all(axis=0)].sum())
