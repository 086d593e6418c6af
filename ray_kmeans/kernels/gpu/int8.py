"""Labels by products of bytes, which tensor cores compute; float32 labels the deferred rows."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch

from ray_kmeans.kernels.gpu.centers_int8 import (
    MOST_CANDIDATES,
    CenterPanels,
    ScaledCenters,
    rough_distances,
)
from ray_kmeans.kernels.gpu.device import Device, cut_slices
from ray_kmeans.kernels.gpu.float32 import Float32Labeller
from ray_kmeans.kernels.gpu.packing import Tile
from ray_kmeans.kernels.gpu.refine import refine_pairs

GROUP_ROWS = 4096
"""Rows for which a reference of their own pays."""
REFINEMENTS = 3
"""Iterations of Lloyd on the centers; more of them change the references by little."""


class Int8Labeller:
    """Centers (k, d) that label rows by byte products; `float32` labels those that are deferred."""

    def __init__(self, float32: Float32Labeller, rows: int, device: Device, tile: Tile) -> None:
        self._float32 = float32
        self._device = device
        self._tile = tile
        self._scaled = ScaledCenters(
            centers=float32.centers * float32.scale, scale=float32.scale, cosine=float32.cosine
        )
        k, d = float32.centers.shape
        self._groups = min(max(rows // GROUP_ROWS, 1), max(device.piece // (k * (d + 32)), 1), k)

    @np.errstate(over="ignore", invalid="ignore")  # NumPy computes in Triton's interpreter
    def label(self, rows: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """Return the labels (n,) of rows (n, d), given those from before, -1 for none."""
        labels = torch.empty_like(before)
        for part in cut_slices(len(rows), 2 * rows.shape[1] + 64, self._device.piece):
            labels[part] = self._label(rows[part], before[part])
        return labels

    def _label(self, rows: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """Return the labels of rows whose bytes fit one piece of memory."""
        if self._groups > 1 and (before < 0).any():
            # A label that is found around the mean may be wrong; it only chooses the group.
            placed = self._around_mean.place_rows(rows, torch.full_like(before, -1))
            before, _, _ = self._around_mean.find_nearest(placed, len(rows))
        panels = self._around_references
        labels, uppers, certified = panels.find_nearest(panels.place_rows(rows, before), len(rows))
        undecided = (~certified).nonzero().flatten()
        if len(undecided):
            labels[undecided] = self._refine_undecided(
                rows[undecided], before[undecided], uppers[undecided]
            )
        return labels

    def _refine_undecided(
        self, rows: torch.Tensor, before: torch.Tensor, uppers: torch.Tensor
    ) -> torch.Tensor:
        """Return the labels (m,) of undecided rows, given where their lowest scores end (m,)."""
        panels = self._around_references
        found, counts = panels.list_candidates(panels.place_rows(rows, before), uppers)
        # More candidates than there are places, or a bound that is no number: float32 knows how.
        is_refined = (counts > 0) & (counts <= MOST_CANDIDATES) & uppers.isfinite()
        labels = torch.empty(len(rows), dtype=torch.int32, device=rows.device)
        candidates = found[is_refined].sort(dim=1).values
        numbers, places = (candidates < len(self._float32.centers)).nonzero(as_tuple=True)
        labels[is_refined] = refine_pairs(
            rows[is_refined],
            self._float32.centers,
            numbers=numbers,
            candidates=candidates[numbers, places].long(),
            cosine=self._float32.cosine,
            budget=self._device.piece,
        ).int()
        if not is_refined.all():  # the other rows are deferred
            labels[~is_refined] = self._float32.label(rows[~is_refined])
        return labels

    @cached_property
    def _around_mean(self) -> CenterPanels:
        """All centers, quantized around their mean: for rows without a label."""
        centers = self._scaled.centers
        alone = torch.zeros(len(centers), dtype=torch.int64, device=centers.device)
        return CenterPanels(self._scaled, self._tile, centers.mean(dim=0, keepdim=True), alone)

    @cached_property
    def _around_references(self) -> CenterPanels:
        """All centers, quantized around references near them: for rows with a label."""
        references, group_of = choose_references(self._scaled.centers, self._groups)
        return CenterPanels(self._scaled, self._tile, references, group_of)


def choose_references(centers: torch.Tensor, groups: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return up to `groups` references, and the group of each center (k,).

    The centers themselves or means of some that are near to each other, by Lloyd's algorithm. Only
    speed depends on them, so that sums in any order will do.
    """
    k = len(centers)
    if groups >= k:
        return centers, torch.arange(k, device=centers.device)
    references = centers[:: -(-k // groups)].clone()
    for _ in range(REFINEMENTS):
        nearest = rough_distances(references, centers).argmin(dim=0)
        counts = torch.bincount(nearest, minlength=len(references))
        sums = torch.zeros_like(references).index_add_(0, nearest, centers)
        used = counts > 0
        references[used] = sums[used] / counts[used, None]
    return references, nearest
