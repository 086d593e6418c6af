"""Label rows by going down a tree: each level compares a row with the children of its node."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.metric import Metric
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
        self._centers = centers
        self._kernel = kernel
        self._metric = metric
        self._order = np.argsort(parents, kind="stable")
        self._begins = np.searchsorted(parents[self._order], np.arange(parents.max() + 2))
        self._prepared: dict[int, Any] = {}
        """Centers of the children of a node as the kernel has prepared them, by the node."""

    def labels(self, rows: NDArray[np.float32], nodes: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the nearest child of each row's node, (n,); a tie goes to the lowest number.

        `rows` are (n, d), and `nodes` (n,) must have children.
        """
        found = np.empty(len(rows), np.int32)
        order = np.argsort(nodes, kind="stable")
        names, begins = np.unique(nodes[order], return_index=True)
        for node, own in zip(names.tolist(), np.split(order, begins[1:]), strict=True):
            labels = np.empty(len(own), np.int32)
            self._kernel.assign(rows[own], self._of(node), labels)
            found[own] = self._order[self._begins[node] + labels]
        return found

    def _of(self, node: int) -> Any:
        """Return the prepared centers of the children of a node."""
        if node not in self._prepared:
            own = self._order[self._begins[node] : self._begins[node + 1]]
            self._prepared[node] = self._kernel.prepare(self._centers[own], self._metric)
        return self._prepared[node]
