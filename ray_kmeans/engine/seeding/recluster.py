"""Clusters the candidates of k-means|| in one process, by the sums of the rows nearest to each.

A candidate stands for the rows that are nearest to it, by their exact sum and by how often they
count. So the loss of centers over all rows is at most the one over the candidates' means plus a
constant, and an iteration of Lloyd over the candidates gives means of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ray_kmeans import kernels
from ray_kmeans.algorithm.grid import Summary
from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.partial_sums import Partials
from ray_kmeans.engine.center_neighbours import labels_of
from ray_kmeans.engine.seeding.kmeans_plus_plus import (
    ArrayField,
    Field,
    candidates_of,
    plus_plus,
)
from ray_kmeans.engine.seeding.potential import SEEDING_METRIC, in_order
from ray_kmeans.kernels import Kernel

MANY = 2**11
"""Largest number of candidates that are seeded as one group; of more, each candidate would be
visited too often. Groups cost up to 4 % of loss where they are hardly needed, and next to nothing
beyond."""
GROUP = 512
"""Number of candidates of a group on average."""
GROUPINGS = 3
"""Number of iterations of Lloyd that make the groups."""
RECLUSTERINGS = 5
"""Number of times that candidates are clustered where there are few pairs."""
FEW_PAIRS = 2**21
"""Largest number of pairs of a candidate and a center for which candidates are clustered several
times: of more clusters, the losses were equal to some thousandths."""
UNTOLD = 16
"""Number of seeds that all groups know for each one that only its own group may know."""
POLISHES = 5
"""Largest number of iterations of Lloyd over the candidates."""


class _Clustered(NamedTuple):
    """Centers of the candidates."""

    centers: NDArray[np.float32]
    """(k, d) Centers."""
    loss: float
    """Sum over the candidates of the distance to the nearest center, times their rows."""


def recluster(
    candidates: NDArray[np.float32], near: Partials, summary: Summary, k: int, seed: int
) -> NDArray[np.float32]:
    """Return up to k centers, (k, d), of the candidates, (c, d).

    `near` are the sums over the rows nearest to each candidate. Greedy k-means++ over the means of
    these rows, then some iterations of Lloyd. For few clusters this is done five times, and the
    lowest loss wins. More than 2,048 are seeded in groups, see `GroupedField`, which takes
    O(512 d log k) for each seed instead of O(c d log k), and O(c k d) by a kernel in all.
    """
    kernel = kernels.load()
    means = near.means(summary, candidates)
    new_field = _fields_of(means, near.counts, summary.metric, seed, kernel)
    found = []
    for number in range(RECLUSTERINGS if len(means) * k <= FEW_PAIRS else 1):
        purpose = f"kmeans_parallel recluster {number}"
        centers = plus_plus(new_field(), k, candidates_of(-1, k), seed, purpose)
        found.append(_polish(means, near, centers, summary, kernel))
    return min(found, key=lambda each: each.loss).centers


def _fields_of(
    means: NDArray[np.float32],
    times: NDArray[np.int64],
    metric: Metric,
    seed: int,
    kernel: Kernel,
) -> Callable[[], Field]:
    """Return a function that makes a field of these rows without a seed, in groups if there are
    many."""
    if len(means) <= MANY:
        return lambda: ArrayField(means, times, metric, kernel)
    groups = _groups_of(means, len(means) // GROUP, seed, kernel)
    return lambda: GroupedField(means, times, groups, metric, kernel)


def _polish(
    means: NDArray[np.float32],
    near: Partials,
    centers: NDArray[np.float32],
    summary: Summary,
    kernel: Kernel,
) -> _Clustered:
    """Move centers by up to five iterations of Lloyd; return them and their loss."""
    labels = labels_of(means, centers, SEEDING_METRIC, kernel)
    for _ in range(POLISHES):
        seen = Partials.zero(*centers.shape)
        np.add.at(seen.sums, labels, near.sums)
        np.add.at(seen.counts, labels, near.counts)
        centers, before = seen.means(summary, centers), labels
        labels = labels_of(means, centers, SEEDING_METRIC, kernel)
        if np.array_equal(labels, before):
            break
    distances = kernel.distances_to(means, centers, labels, SEEDING_METRIC)
    return _Clustered(centers, float(in_order(distances * near.counts)))


def _groups_of(
    rows: NDArray[np.float32], count: int, seed: int, kernel: Kernel
) -> NDArray[np.int32]:
    """Put rows (n, d) into up to `count` groups of near ones; return the group of each, (n,)."""
    field = ArrayField(rows, np.ones(len(rows), np.int64), SEEDING_METRIC, kernel)
    centers = plus_plus(field, count, 1, seed, "kmeans_parallel groups")
    labels = labels_of(rows, centers, SEEDING_METRIC, kernel)
    for _ in range(GROUPINGS):
        sums = np.zeros(centers.shape)
        np.add.at(sums, labels, rows)  # one row after the other: the same bits everywhere
        sizes = np.bincount(labels, minlength=len(centers))
        some = sizes > 0
        centers[some] = sums[some] / sizes[some, None]
        labels = labels_of(rows, centers, SEEDING_METRIC, kernel)
    return labels


class GroupedField:
    """Rows of this process in groups, as a field in which most work concerns one group alone.

    A new seed changes the weights of its group at once. Those of the other groups hear of it when
    the seeds have become a sixteenth more, all new ones together: until then a row of another group
    may weigh too much. A candidate is rated by what it would take off its own group.
    """

    def __init__(
        self,
        rows: NDArray[np.float32],
        times: NDArray[np.int64],
        groups: NDArray[np.int32],
        metric: Metric,
        kernel: Kernel,
    ) -> None:
        """Take rows (n, d) that count `times` (n,) each, and the group of each, (n,)."""
        order = np.argsort(groups, kind="stable")
        self._rows = rows[order]
        self._kernel = kernel
        ends = np.cumsum(np.bincount(groups))
        self._slices = [slice(*ends) for ends in pairwise([0, *ends.tolist()]) if ends[0] < ends[1]]
        """Place of the rows of each group."""
        times = times[order]
        self._fields = [
            ArrayField(self._rows[here], times[here], metric, kernel) for here in self._slices
        ]
        self._totals = np.empty(0)
        """(groups,) Total of each group."""
        self._note_totals()
        self._seeds = 0
        """Number of seeds that all groups know."""
        self._new = np.empty((0, rows.shape[1]), np.float32)
        """(s, d) Seeds that only their own groups know."""
        self._drawn = self._new
        """(c, d) Candidates of the newest draw."""
        self._homes = np.empty(0, np.int64)
        """(c,) Index of the group of each of them."""

    @property
    def total(self) -> float:
        return float(in_order(self._totals))

    def first(self, u: NDArray[np.float64]) -> NDArray[np.float32]:
        return self.draw(u)

    def draw(self, u: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return a row for each u from [0, 1): u draws a group, and the rest of u a row in it."""
        sums, last = np.cumsum(self._totals), np.flatnonzero(self._totals)[-1]
        self._homes = np.minimum(np.searchsorted(sums, u * sums[-1], side="right"), last)
        totals = self._totals[self._homes]
        left = np.clip((u * sums[-1] - (sums[self._homes] - totals)) / totals, 0.0, 1.0)
        self._drawn = np.empty((len(u), self._rows.shape[1]), np.float32)
        for home, here in self._by_group():
            self._drawn[here] = self._fields[home].draw(left[here])
        return self._drawn

    def with_each(self, candidates: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the total that each candidate of the newest draw would leave, (candidates,), if
        only its own group had changed."""
        result = np.zeros(len(candidates))
        if self._seeds == 0:  # one group says little of the first seed of all: any will do
            return result
        for home, here in self._by_group():
            found = self._fields[home].with_each(candidates[here])
            result[here] = self.total - self._totals[home] + found
        return result

    def add(self, seeds: NDArray[np.float32]) -> None:
        """Make one candidate of the newest draw, (1, d), a seed."""
        home = int(self._homes[(self._drawn == seeds).all(axis=1).argmax()])
        self._fields[home].add(seeds)
        self._totals[home] = self._fields[home].total
        self._new = np.concatenate([self._new, seeds])
        if len(self._new) > self._seeds // UNTOLD:
            self._tell_all()

    def _by_group(self) -> Iterator[tuple[int, NDArray[np.bool_]]]:
        """Yield each group of which the newest draw has rows, and which ones these are, (c,)."""
        for home in np.unique(self._homes).tolist():
            yield home, self._homes == home

    def _tell_all(self) -> None:
        """Let all groups know all seeds."""
        labels = labels_of(self._rows, self._new, SEEDING_METRIC, self._kernel)
        distances = self._kernel.distances_to(self._rows, self._new, labels, SEEDING_METRIC)
        for field, here in zip(self._fields, self._slices, strict=True):
            field.lower(distances[here])
        self._note_totals()
        self._seeds, self._new = self._seeds + len(self._new), self._new[:0]

    def _note_totals(self) -> None:
        """Note the total of each group."""
        self._totals = np.array([field.total for field in self._fields])
