"""Sums of rows in whole units of the grid, on a device: integers, so that no order matters."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ray_kmeans.kernels.gpu.device import Device, cut_slices


class Sums:
    """The sums and counts of clusters, which rows enter and leave."""

    def __init__(self, k: int, scale: NDArray[np.float64], device: Device) -> None:
        self._scale = device.put(scale)
        self._budget = device.piece
        self._sums = torch.zeros(k, len(scale), dtype=torch.int64, device=device.handle)
        self._counts = torch.zeros(k, dtype=torch.int64, device=device.handle)

    def move(
        self,
        rows: torch.Tensor,  # (n, d)  IN
        before: torch.Tensor,  # (n,)  IN, -1 where there was none
        after: torch.Tensor,  # (n,)  IN
        weights: torch.Tensor | None,  # (n,)  IN, or all rows count once
    ) -> None:
        """Take rows whose label is new from one cluster to another."""
        moved = (before != after).nonzero().flatten()
        for part in cut_slices(len(moved), 3 * 8 * rows.shape[1], self._budget):
            some = moved[part]
            times = torch.ones_like(some) if weights is None else weights[some]
            # torch.round takes halves to even, as `vectors.whole` does.
            units = torch.round(rows[some].double() * self._scale).long() * times[:, None]
            self._add(after[some], units, times)
            left = before[some] >= 0
            self._add(before[some][left], -units[left], -times[left])

    def values(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return copies of the sums (k, d) and counts (k,)."""
        return self._sums.cpu().numpy().copy(), self._counts.cpu().numpy().copy()

    def _add(self, labels: torch.Tensor, units: torch.Tensor, times: torch.Tensor) -> None:
        """Add whole units (m, d) and counts (m,) to the clusters of some labels (m,)."""
        self._sums.index_add_(0, labels, units)
        self._counts.index_add_(0, labels, times)
