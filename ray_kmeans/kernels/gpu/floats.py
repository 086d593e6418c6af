"""Labels by one float32 matrix product per tile, on any device of torch; float64 for the rest.

The scores, their bounds and the certificate are those of `portable`. What is assumed of the
device's product: each of its operations is off by a share of 2^-23 at most, in any order, which
leaves room for one that truncates; TF32, which is off by 2^-11, is switched off meanwhile.
"""

from __future__ import annotations

from functools import cached_property

import torch

from ray_kmeans.kernels.gpu.device import Device, steps, whole_floats
from ray_kmeans.kernels.gpu.settling import settle
from ray_kmeans.kernels.loops import FAR_AWAY
from ray_kmeans.kernels.portable import PreparedCenters

ROUNDOFF = 2.0**-23


class ByFloats:
    """Centers that label rows."""

    def __init__(self, prepared: PreparedCenters, device: Device) -> None:
        self._prepared = prepared
        self._device = device
        self.cosine = prepared.cosine
        self.scale = float(prepared.scale)

    def label(self, rows: torch.Tensor, before: torch.Tensor | None = None) -> torch.Tensor:
        """Return the labels (n,) int32 of rows (n, d); those they had before do not matter here."""
        labels = torch.empty(len(rows), dtype=torch.int32, device=self._device.handle)
        k, width = self._prepared.factors.shape
        for part in steps(len(rows), 16 * k + 8 * width, self._device.piece):
            labels[part] = self._label(rows[part])
        return labels

    def _label(self, rows: torch.Tensor) -> torch.Tensor:
        residuals = self._residuals(rows)
        with whole_floats():
            lows = residuals @ self._factors.T
        norms = residuals[:, -1]
        lowest, labels = lows.min(dim=1)
        lows.scatter_(1, labels[:, None], torch.inf)
        second = lows.amin(dim=1)
        lows.scatter_(1, labels[:, None], lowest[:, None])
        bound_a, bound_b = self._bounds
        upper = lowest + 2 * (bound_a[labels] + bound_b[labels] * norms)
        upper.masked_fill_(~(norms < FAR_AWAY), torch.inf)  # also where it is not a number
        is_open = ~(second > upper)
        if self.cosine:
            zero = ~rows.any(dim=1)  # as near to all
            labels[zero], is_open[zero] = 0, False
        if is_open.any():
            candidates = ~(lows[is_open] > upper[is_open, None])
            about = self._centers, candidates, self.cosine, self._device.piece
            labels[is_open] = settle(rows[is_open], *about)
        return labels.int()

    def _residuals(self, rows: torch.Tensor) -> torch.Tensor:
        """Return (t, d + 2): r, 1, |r|, the last rounded up as in `loops.center`."""
        n, d = rows.shape
        residuals = torch.ones(n, d + 2, device=self._device.handle)
        r = residuals[:, :d]
        torch.sub(rows.float() * self.scale, self._mean, out=r)
        residuals[:, -1] = r.square().sum(dim=1).sqrt() * 1.01 + 2.0**-60
        return residuals

    @cached_property
    def _factors(self) -> torch.Tensor:
        return self._device.put(self._prepared.factors)

    @cached_property
    def _centers(self) -> torch.Tensor:
        return self._device.put(self._prepared.centers)

    @cached_property
    def _mean(self) -> torch.Tensor:
        return self._device.put(self._prepared.scaled_mean)

    @cached_property
    def _bounds(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self._device.put(self._prepared.bound_a), self._device.put(self._prepared.bound_b)
