"""The tree above the clusters of a model: its levels, and how many children each node gets."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import numpy as np
from numpy.typing import NDArray

GROUPS = 16
"""Number of groups of about equal rows in which the nodes of a level are split further."""


@dataclass(frozen=True)
class Tree:
    """The levels above the clusters of a model, from the top down; the clusters are its leaves."""

    centers: tuple[NDArray[np.float32], ...]
    """(k_l, d) Centers of each level above the clusters."""
    parents: tuple[NDArray[np.int32], ...]
    """(k_l,) Number of the parent, in the level above, of each center of every level below the top;
    the last ones are those of the clusters."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of centers of each level, the clusters last."""
        return tuple(map(len, (*self.centers, self.parents[-1])))

    def reordered(self, order: NDArray[np.int64]) -> Tree:
        """Return the tree of clusters that stand in another order, (k,) old numbers."""
        return Tree(self.centers, (*self.parents[:-1], self.parents[-1][order]))

    def ancestors(self, level: int) -> NDArray[np.int32]:
        """Return the number of the ancestor of each cluster in a level, (k,); level 0 is the
        top."""
        found = self.parents[-1]
        for parents in reversed(self.parents[level:-1]):
            found = parents[found]
        return found


def level_sizes(num_clusters: int, levels: int | Sequence[int]) -> tuple[int, ...]:
    """Return the number of centers of each level, of which the last has all clusters.

    `levels` are the mean numbers of children, whose product is the number of clusters; or the
    number of levels. Then a row is compared with about as many centers at each level, but at the
    top, where half as many cost a quarter more in all and lose less (measured).

    >>> level_sizes(1000, (10, 100)), level_sizes(65_536, 2), level_sizes(10**6, 3)
    ((10, 1000), (128, 65536), (50, 7071, 1000000))
    """
    if not isinstance(levels, int):
        return tuple(prod(levels[:depth]) for depth in range(1, len(levels) + 1))
    steps = num_clusters ** (1 / levels)
    uppers = (max(round(steps**depth / 2 ** (1 / depth)), 1) for depth in range(1, levels))
    return (*uppers, num_clusters)


def most_children(wanted: int, nodes: int) -> int:
    """Return the largest number of children of one of some nodes that get `wanted` in all.

    A bound that holds for any data: it is what workers plan their memory for. It is four times the
    mean, or a GROUPS-th of all if that is more.

    >>> most_children(1_000_000, 1000), most_children(100, 5)
    (62500, 80)
    """
    return max(-(-wanted // GROUPS), -(-4 * wanted // nodes))


def most_at_once(num_clusters: int, sizes: Sequence[int], refine_steps: int) -> int:
    """Return the largest number of centers that a worker sums up by at once in a fit.

    `sizes` are those of `level_sizes`, or () for one level. A step over all clusters, as those that
    follow a tree, takes all of them.

    >>> most_at_once(10**6, (1000, 10**6), 0), most_at_once(10**6, (1000, 10**6), 2)
    (62500, 1000000)
    """
    if not sizes or refine_steps:
        return num_clusters
    return max(sizes[-2], *(most_children(b, a) for a, b in pairwise(sizes)))


def quotas(wanted: int, weights: Sequence[int], most: Sequence[int]) -> NDArray[np.int64]:
    """Share `wanted` children out over nodes, in proportion to whole numbers, (m,).

    A node gets at least one child, unless it has no rows (`most` is 0), and `most` of them at most.
    By largest remainders; of equal ones the first node comes first. `wanted` must not be above the
    sum of `most`, nor below the number of nodes with rows.

    >>> quotas(10, [70, 20, 10, 0], [100, 100, 100, 0]).tolist()
    [7, 2, 1, 0]
    >>> quotas(5, [100, 1, 1], [2, 9, 9]).tolist()
    [2, 2, 1]
    """
    total = max(sum(weights), 1)
    found = [
        min(max(wanted * weight // total, 1), limit)
        for weight, limit in zip(weights, most, strict=True)
    ]
    missing = wanted - sum(found)
    step = 1 if missing > 0 else -1

    def remainder(node: int) -> tuple[int, int]:
        """Return what orders the nodes: those that are owed most come first."""
        return step * (found[node] * total - wanted * weights[node]), node

    def may_change(node: int) -> bool:
        """Return whether the node may get one more, or lose one."""
        return found[node] < most[node] if step > 0 else found[node] > 1

    queue = [remainder(node) for node in range(len(found)) if may_change(node)]
    heapq.heapify(queue)
    for _ in range(abs(missing)):
        _, node = heapq.heappop(queue)
        found[node] += step
        if may_change(node):
            heapq.heappush(queue, remainder(node))
    return np.array(found, np.int64)


def groups_of(rows: Sequence[int], children: Sequence[int]) -> Iterator[range]:
    """Cut nodes into runs of a GROUPS-th of all their rows and children at most, or of one node.

    Both are given by node, (m,).

    >>> list(groups_of([1] * 32, [1] * 32))[:2], list(groups_of([5, 100, 5], [1, 1, 1]))
    ([range(0, 2), range(2, 4)], [range(0, 1), range(1, 2), range(2, 3)])
    """
    fair = np.array([sum(rows), sum(children)]) / GROUPS
    cuts, within = [0], np.zeros(2)
    for node, some in enumerate(zip(rows, children, strict=True)):
        if node > cuts[-1] and (within + some > fair).any():
            cuts.append(node)
            within = np.zeros(2)
        within += some
    return (range(*cut) for cut in pairwise([*cuts, len(rows)]))
