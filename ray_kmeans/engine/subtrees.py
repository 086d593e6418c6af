"""The rows of a shard by the node of a tree that they belong to; some nodes at a time are split.

A worker puts the rows of a few nodes side by side, and sums each node's rows up by the centers of
its own children alone. So a sweep compares a row with its siblings' centers and no others, rows
stay on their worker, and no process ever has the sums of all clusters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ray_kmeans import kernels
from ray_kmeans.algorithm.cluster_sums import DISTANCES, ClusterSums
from ray_kmeans.algorithm.grid import Grid, Squares
from ray_kmeans.algorithm.partial_sums import Partials
from ray_kmeans.engine.options import WorkerSetup
from ray_kmeans.engine.seeding import weighted_sampling
from ray_kmeans.engine.shard import Rows, Shard
from ray_kmeans.engine.tree_descent import Children
from ray_kmeans.kernels import ALIKE, Held, Kernel
from ray_kmeans.kernels.moving_sums import counts_of
from ray_kmeans.kernels.threads import Threads

SIDE_BY_SIDE = 8
"""An eighth of a shard's rows is copied side by side at most; those beyond it are fetched from
their blocks for each sweep."""


@dataclass(frozen=True)
class NodeSums:
    """The rows of each node of a level, counted; two of them add up."""

    rows: NDArray[np.int64]
    """(m,) Number of rows, also of those that do not count."""
    counting: NDArray[np.int64]
    """(m,) Number of rows of a weight above 0."""
    losses: ClusterSums
    """Distances of the rows to the center of their node."""

    def __add__(self, other: NodeSums) -> NodeSums:
        """Return the sums of both sets of rows."""
        return NodeSums(
            self.rows + other.rows, self.counting + other.counting, self.losses + other.losses
        )


class OpenNode(NamedTuple):
    """A node whose rows are being split."""

    places: NDArray[np.int32]
    """(n,) Places of its rows in the shard, ascending."""
    held: Held | None
    """The rows as a kernel holds them; None where the shard has none of the node."""
    weights: NDArray[np.int64]
    """(n,) Weights of the rows, or ALIKE."""


class Subtrees:
    """The rows of a shard by node, and those nodes that are open."""

    def __init__(self, shard: Shard, setup: WorkerSetup, kernel: Kernel, threads: Threads) -> None:
        """`kernel` uses all `threads`."""
        self._shard = shard
        self._metric = setup.metric
        self._kernel = kernel
        is_gpu = setup.kernel.startswith("gpu")
        self._single = kernel if is_gpu else kernels.load(setup.kernel)
        """The kernel for a thread of its own."""
        self._threads = threads
        self._order = np.empty(0, np.int32)
        """(n,) Places of all rows, by node and then ascending."""
        self._begins = np.zeros(1, np.int64)
        """(m + 1,) Position in the order at which each node begins, and the last one ends."""
        self._open: dict[int, OpenNode] = {}
        """Nodes whose rows are being split, by their number."""

    def place(
        self,
        labelled: Iterable[tuple[int, Rows, NDArray[np.int32]]],
        levels: Sequence[NDArray[np.float32]],
        parents: Sequence[NDArray[np.int32]],
    ) -> NodeSums:
        """Put the rows in the order of the nodes of the lowest level; return the sums of these.

        `labelled` are all blocks (place, rows, labels by the top level), `levels` the centers from
        the top down, (k_l, d), and `parents` those of each level but the top, (k_l,).
        """
        below = [
            Children(centers, of_level, self._kernel, self._metric)
            for centers, of_level in zip(levels[1:], parents, strict=True)
        ]
        labels, centers = np.empty(sum(self._shard.rows.sizes), np.int32), levels[-1]
        for here, rows, nodes in labelled:
            for children in below:
                nodes = children.labels(rows, nodes)
            labels[self._shard.rows_in(here)] = nodes
        return self._in_order(labels, centers)

    def _in_order(self, labels: NDArray[np.int32], centers: NDArray[np.float32]) -> NodeSums:
        """Put the rows, (n,) numbers of nodes, in the order of the nodes, (m, d); return sums."""
        self._order = np.argsort(labels, kind="stable").astype(np.int32)
        rows = counts_of(labels, len(centers))
        self._begins = np.concatenate([[0], np.cumsum(rows)])
        losses, counting = ClusterSums.zero(len(centers), DISTANCES), rows.copy()
        for here, some in enumerate(self._shard.rows):
            own, weights = labels[self._shard.rows_in(here)], self._shard.weights_in(here)
            losses.add(self._kernel.distances_to(some, centers, own, self._metric), own, weights)
            if len(weights):
                counting -= counts_of(own[weights == 0], len(centers))
        return NodeSums(rows, counting, losses)

    def open(self, nodes: Sequence[int], sizes: Sequence[int], grid: Grid) -> list[Squares]:
        """Begin to split some nodes, and no others, into `sizes` (m,) children each.

        Returns the sums of squares of the rows of each node.
        """
        self._open = {}
        places = [self._order[slice(*self._begins[node : node + 2])] for node in nodes]
        ends = np.cumsum([len(each) for each in places])
        beside = int(np.searchsorted(ends, len(self._order) // SIDE_BY_SIDE, side="right"))
        copies = self._copies(places[:beside])
        fetched = [_Chosen(self._shard, each) for each in places[beside:]]
        together: list[Rows | _Chosen] = [*copies, *fetched]
        weights = [
            self._shard.weights[own] if len(self._shard.weights) else ALIKE for own in places
        ]
        work = [(rows, of_node, grid) for rows, of_node in zip(together, weights, strict=True)]
        squares: list[Squares] = self._threads.run(self._squares, work)
        kernel = self._single if self._is_apart(len(nodes)) else self._kernel
        opened = zip(nodes, sizes, places, together, weights, strict=True)
        for node, size, own, rows, of_node in opened:
            held = self._hold(kernel, rows, size, of_node) if len(own) else None
            self._open[node] = OpenNode(own, held, of_node)
        return squares

    def draw(
        self, nodes: Sequence[int], sizes: Sequence[int], key: np.uint64
    ) -> list[tuple[NDArray[np.float64], NDArray[np.int64]]]:
        """Draw rows of open nodes by their weights, up to `sizes` (m,) of them of each.

        Returns the tickets and numbers of the best rows of each node.
        """
        found = []
        for node, size in zip(nodes, sizes, strict=True):
            numbers = self._shard.numbers_at(self._open[node].places)
            found.append(weighted_sampling.winners(numbers, self._open[node].weights, key, size))
        return found

    def sweep(
        self, nodes: Sequence[int], sets: Sequence[NDArray[np.float32]], scale: NDArray[np.float64]
    ) -> tuple[Partials, ...]:
        """Sum the rows of each of these open nodes up by a set of centers of its own, (q, d)."""
        from ray_kmeans.kernels.portable import use_one_blas_thread  # numba: 0.2 s

        pairs = zip(nodes, sets, strict=True)
        work = [(self._open[node], centers, scale) for node, centers in pairs]
        if not self._is_apart(len(self._open)):
            return tuple(_sums(*each) for each in work)
        with use_one_blas_thread():
            return tuple(self._threads.run(_sums, work))

    def _is_apart(self, nodes: int) -> bool:
        """Return whether each thread splits nodes of its own: else all of them share each node."""
        return nodes >= self._threads.count and self._single is not self._kernel

    def _hold(
        self, kernel: Kernel, rows: Rows | _Chosen, size: int, weights: NDArray[np.int64]
    ) -> Held:
        """Return the rows of a node as a kernel holds them, to be split into `size` children."""
        if isinstance(rows, _Chosen):
            return kernel.hold_each(rows, rows.sizes, self._shard.features, self._metric, weights)
        return kernel.hold([rows], self._metric, size, weights)

    def _copies(self, places: Sequence[NDArray[np.int32]]) -> list[Rows]:
        """Return the rows at the places of each node, (n, d), fetched in one pass."""
        if self._shard.rows.stays:
            return self._threads.run(self._shard.rows_at_places, [(each,) for each in places])
        copies = [np.empty((len(each), self._shard.features), np.float32) for each in places]
        for here, rows in enumerate(self._shard.rows):
            for copy, (begin, own) in zip(copies, _within(self._shard, places, here), strict=True):
                copy[begin : begin + len(own)] = rows[own]
        return copies

    def _squares(self, rows: Rows | _Chosen, weights: NDArray[np.int64], grid: Grid) -> Squares:
        """Return the sums of squares of the rows of a node on the grid."""
        total, begin = Squares.zero(self._shard.features), 0
        for some in [rows] if isinstance(rows, np.ndarray) else rows:
            times = weights[begin : begin + len(some)] if len(weights) else weights
            self._kernel.accumulate_squares(
                some, grid.scale, grid.half_bits, total.limbs, total.coarse, times
            )
            begin += len(some)
        return total


class _Chosen(Sequence[Rows]):
    """Some rows of a shard, fetched from their blocks whenever they are wanted."""

    def __init__(self, shard: Shard, places: NDArray[np.int32]) -> None:
        self._shard = shard
        self._own = [next(_within(shard, [places], here))[1] for here in range(len(shard.rows))]
        self._blocks = [here for here, own in enumerate(self._own) if len(own)]
        self.sizes = [len(self._own[here]) for here in self._blocks]
        """Number of chosen rows of each block that holds some."""

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, number: int) -> Rows:  # type: ignore[override]  # one block at a time
        here = self._blocks[number]
        return np.asarray(self._shard.rows.fetch(here)[self._own[here]])

    def __iter__(self) -> Iterator[Rows]:
        for here, rows in zip(self._blocks, self._shard.rows.at(self._blocks), strict=True):
            yield np.asarray(rows[self._own[here]])


def _within(
    shard: Shard, places: Sequence[NDArray[np.int32]], here: int
) -> Iterator[tuple[int, NDArray[np.int32]]]:
    """Yield which of each of some ascending places are in a block: the first one's position, and
    the numbers of their rows in the block."""
    rows = shard.rows_in(here)
    for each in places:
        begin, end = np.searchsorted(each, (rows.start, rows.stop))
        yield int(begin), each[begin:end] - np.int32(rows.start)


def _sums(node: OpenNode, centers: NDArray[np.float32], scale: NDArray[np.float64]) -> Partials:
    """Return the sums of a node's rows by the nearest of these centers, (q, d)."""
    if node.held is None:
        return Partials.zero(*centers.shape)
    return Partials(*node.held.sums(centers, scale))
