"""Label rows by going down a tree: each level compares a row with the children of a few nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.exact_float_sum import exact_total
from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.recall import RecallSums
from ray_kmeans.algorithm.tree import Tree
from ray_kmeans.engine.shard import Shard
from ray_kmeans.kernels import Kernel


class Children:
    """The centers of a level by their parents, as a kernel labels by them."""

    def __init__(
        self,
        centers: NDArray[np.float32],
        parents: NDArray[np.int32],
        kernel: Kernel,
        metric: Metric,
    ) -> None:
        """Take the centers of a level, (k, d), and the number of each one's parent, (k,)."""
        self.centers = centers
        """(k, d)"""
        self._kernel = kernel
        self._metric = metric
        self._order = np.argsort(parents, kind="stable").astype(np.int32)
        self._begins = np.searchsorted(parents[self._order], np.arange(parents.max() + 2))
        self._prepared: dict[int, Any] = {}
        """Centers of the children of a node as the kernel has prepared them, by the node."""

    def labels(self, rows: NDArray[np.float32], nodes: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the nearest child of each row's node, (n,); a tie goes to the lowest number.

        `rows` are (n, d), and `nodes` (n,) must have children.
        """
        return self.nearest(rows, nodes, 1)[:, 0]

    def nearest(
        self, rows: NDArray[np.float32], nodes: NDArray[np.int32], count: int
    ) -> NDArray[np.int32]:
        """Return the nearest `count` children of each row's node, (n, count), nearest first.

        Where a node has fewer, its nearest one fills the rest.
        """
        found = np.empty((len(rows), count), np.int32)
        order = np.argsort(nodes, kind="stable")
        names, begins = np.unique(nodes[order], return_index=True)
        for node, own in zip(names.tolist(), np.split(order, begins[1:]), strict=True):
            begin, size = self._begins[node], self._begins[node + 1] - self._begins[node]
            some = self._of(node, rows[own], min(count, int(size)))
            found[own, : some.shape[1]] = self._order[begin + some]
            found[own, some.shape[1] :] = found[own, :1]
        return found

    def _of(self, node: int, rows: NDArray[np.float32], count: int) -> NDArray[np.int32]:
        """Return the nearest children of a node by their places among them, (n, count)."""
        if node not in self._prepared:
            own = self._order[self._begins[node] : self._begins[node + 1]]
            self._prepared[node] = self._kernel.prepare(self.centers[own], self._metric)
        found = np.empty((len(rows), count), np.int32)
        if count > 1:
            self._kernel.assign_nearest(rows, self._prepared[node], found)
            return found
        labels = np.empty(len(rows), np.int32)
        self._kernel.assign(rows, self._prepared[node], labels)
        found[:, 0] = labels
        return found


@dataclass(frozen=True)
class Beam:
    """A beam labels a row by what it finds below the nodes of each level nearest to the row."""

    tree: Tree
    """The levels above the clusters."""
    width: int
    """Number of nodes of each level whose children a row is compared with."""


class BeamLabels:
    """Labels rows by a beam, which finds the nearest center of most rows and not of all.

    The nodes of a level, and the children of each, are compared over the reals, and those of
    several nodes by their distances in float64. So labels are the same on all machines.
    """

    def __init__(
        self, tree: Tree, clusters: NDArray[np.float32], kernel: Kernel, metric: Metric
    ) -> None:
        """Take a tree, and the centers of the clusters, (k, d)."""
        self.kernel = kernel
        """Compares rows with centers."""
        self.metric = metric
        """Distance metric: 'squared_euclidean' or 'cosine'."""
        top, *inner = tree.centers
        self._top = Children(top, np.zeros(len(top), np.int32), kernel, metric)
        levels = zip([*inner, clusters], tree.parents, strict=True)
        self._below = [Children(*level, kernel, metric) for level in levels]

    def labels(self, rows: NDArray[np.float32], width: int) -> NDArray[np.int32]:
        """Return the label of each row (n, d) by a beam of this width, (n,)."""
        most = min(width, len(self._top.centers))
        nodes = self._top.nearest(rows, np.zeros(len(rows), np.int32), most)
        for children in self._below[:-1]:
            nodes = self._best(rows, nodes, children, width)
        return self._best(rows, nodes, self._below[-1], 1)[:, 0]

    def _best(
        self, rows: NDArray[np.float32], nodes: NDArray[np.int32], children: Children, count: int
    ) -> NDArray[np.int32]:
        """Return the nearest `count` children of several nodes (n, b) of each row, (n, count).

        A child that stands for a missing one of its node is kept once, and repeated at the end.
        """
        found = [children.nearest(rows, each, count) for each in nodes.T]
        candidates = np.concatenate(found, axis=1)
        distances = np.empty(candidates.shape)
        for place, labels in enumerate(candidates.T):
            own = np.ascontiguousarray(labels)
            distances[:, place] = self.kernel.distances_to(rows, children.centers, own, self.metric)
        order = np.lexsort((candidates, distances), axis=1)
        ranked = np.take_along_axis(candidates, order, axis=1)
        if count == 1:
            return ranked[:, :1]
        is_again = np.zeros(ranked.shape, np.bool_)
        is_again[:, 1:] = ranked[:, 1:] == ranked[:, :-1]
        kept = np.take_along_axis(ranked, np.argsort(is_again, axis=1, kind="stable"), axis=1)
        return np.ascontiguousarray(kept[:, :count])


def sums_of_beams(
    shard: Shard,
    centers: NDArray[np.float32],
    beams: BeamLabels,
    widths: Sequence[int],
    numbers: NDArray[np.int64],
) -> RecallSums:
    """Label the rows of a shard with these ascending numbers exactly, and by beams of some widths.

    Rows that do not count are left out. Returns the sums of both.
    """
    found = []
    for here, at in shard.inside(numbers):
        found.append(shard.rows.take(here, at[~shard.left_out_in(here)[at]]))
    rows = np.concatenate([np.empty((0, shard.features), np.float32), *found])
    exact, right, losses = 0, [0] * len(widths), [0] * len(widths)
    if len(rows):
        labels = np.empty(len(rows), np.int32)
        kernel, metric = beams.kernel, beams.metric
        kernel.assign(rows, kernel.prepare(centers, metric), labels)
        exact = exact_total(kernel.distances_to(rows, centers, labels, metric))
        for place, width in enumerate(widths):
            by_beam = beams.labels(rows, width)
            right[place] = int((by_beam == labels).sum())
            losses[place] = exact_total(kernel.distances_to(rows, centers, by_beam, metric))
    return RecallSums(len(rows), exact, tuple(right), tuple(losses))
