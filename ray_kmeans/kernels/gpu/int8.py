"""Labels by products of bytes around references, made by tensor cores; `ByFloats` for the rest."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch

from ray_kmeans.kernels.gpu.centers_int8 import (
    MOST_CANDIDATES,
    Around,
    Scaled,
    distances,
)
from ray_kmeans.kernels.gpu.device import Device, steps
from ray_kmeans.kernels.gpu.float32 import ByFloats
from ray_kmeans.kernels.gpu.packing import Tile
from ray_kmeans.kernels.gpu.refine import settle

GROUP_ROWS = 4096
"""Rows for which a reference of their own pays."""
REFINEMENTS = 3
"""Iterations of Lloyd on the centers; more of them change the references by little."""


class ByBytes:
    """Centers (k, d) that label rows by byte products; `rest` labels what these leave undecided."""

    def __init__(self, rest: ByFloats, rows: int, device: Device, tile: Tile) -> None:
        self._rest = rest
        self._device = device
        self._tile = tile
        self._scaled = Scaled(rest.centers * rest.scale, rest.scale, rest.cosine)
        k, d = rest.centers.shape
        self._groups = min(max(rows // GROUP_ROWS, 1), max(device.piece // (k * (d + 32)), 1), k)

    @np.errstate(over="ignore", invalid="ignore")  # NumPy computes in Triton's interpreter
    def label(self, rows: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """Return the labels (n,) of rows (n, d), given those from before, -1 for none."""
        labels = torch.empty_like(before)
        for part in steps(len(rows), 2 * rows.shape[1] + 64, self._device.piece):
            labels[part] = self._label(rows[part], before[part])
        return labels

    def _label(self, rows: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """Return the labels of rows whose bytes fit one piece of memory."""
        if self._groups > 1 and (before < 0).any():
            # What is found around the mean is a guess, and tells the group.
            far = self._far.place(rows, torch.full_like(before, -1))
            before, _, _ = self._far.nearest(far, len(rows))
        labels, uppers, certain = self._near.nearest(self._near.place(rows, before), len(rows))
        some = (~certain).nonzero().flatten()
        if len(some):
            labels[some] = self._settle(rows[some], before[some], uppers[some])
        return labels

    def _settle(
        self, rows: torch.Tensor, before: torch.Tensor, uppers: torch.Tensor
    ) -> torch.Tensor:
        """Return the labels (m,) of undecided rows, given where their lowest scores end (m,)."""
        found, counts = self._near.candidates(self._near.place(rows, before), uppers)
        is_settled = (counts > 0) & (counts <= MOST_CANDIDATES) & uppers.isfinite()
        labels = torch.empty(len(rows), dtype=torch.int32, device=rows.device)
        pairs = found[is_settled].sort(dim=1).values
        numbers, places = (pairs < len(self._rest.centers)).nonzero(as_tuple=True)
        about = self._rest.centers, numbers, pairs[numbers, places].long(), self._rest.cosine
        labels[is_settled] = settle(rows[is_settled], *about, self._device.piece).int()
        if not is_settled.all():
            labels[~is_settled] = self._rest.label(rows[~is_settled])
        return labels

    @cached_property
    def _far(self) -> Around:
        """All centers around one reference, their mean: for rows without a label."""
        centers = self._scaled.centers
        alone = torch.zeros(len(centers), dtype=torch.int64, device=centers.device)
        return Around(self._scaled, self._tile, centers.mean(dim=0, keepdim=True), alone)

    @cached_property
    def _near(self) -> Around:
        """All centers around references near them: for rows with a label."""
        groups = references_for(self._scaled.centers, self._groups)
        return Around(self._scaled, self._tile, *groups)


def references_for(centers: torch.Tensor, groups: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return up to `groups` references, and the group of each center (k,).

    The centers themselves or means of some that are near to each other, by Lloyd's algorithm. Only
    speed depends on them, so that sums in any order will do.
    """
    k = len(centers)
    if groups >= k:
        return centers, torch.arange(k, device=centers.device)
    references = centers[:: -(-k // groups)].clone()
    for _ in range(REFINEMENTS):
        nearest = distances(references, centers).argmin(dim=0)
        counts = torch.bincount(nearest, minlength=len(references))
        sums = torch.zeros_like(references).index_add_(0, nearest, centers)
        used = counts > 0
        references[used] = sums[used] / counts[used, None]
    return references, nearest
