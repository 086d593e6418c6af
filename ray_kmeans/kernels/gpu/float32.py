"""Labels by one float32 matrix product per tile, on any device of torch; float64 for the rest.

The scores, their bounds and the certificate are those of `portable`, and so are the names. What is
assumed of the device's product stands in docs/internals/exactness.md; TF32 is switched off for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.kernels.compiled import FAR_AWAY
from ray_kmeans.kernels.gpu.device import Device, cut_slices, use_full_float32
from ray_kmeans.kernels.gpu.refine import refine_pairs
from ray_kmeans.kernels.portable import scale_for

ROUNDOFF = 2.0**-23
"""Largest relative error of one operation of the device on float32, also where it truncates."""


class Factors(NamedTuple):
    """The matrix that rows are multiplied by, and the bounds of the scores."""

    factors: torch.Tensor
    """(k, d + 2): -2 e_j, |e_j|^2 - a_j or q_j - a_j, -b_j."""
    bound_a: torch.Tensor
    """(k,) a_j: the part of the bound of a score that does not depend on the row."""
    bound_b: torch.Tensor
    """(k,) b_j: what the bound grows by for each unit of |r|."""


class Float32Labeller:
    """Centers (k, d) that label rows by float32 products."""

    def __init__(self, centers: NDArray[np.float32], metric: Metric, device: Device) -> None:
        self._device = device
        self.cosine = metric == Metric.COSINE
        self.centers = device.put(centers)
        mean, spread = self._mean_and_spread()
        self.scale = scale_for(spread)
        self._mean = (mean * self.scale).float()

    def label(self, rows: torch.Tensor, before: torch.Tensor | None = None) -> torch.Tensor:
        """Return the labels (n,) int32 of rows (n, d); those they had before do not matter here."""
        labels = torch.empty(len(rows), dtype=torch.int32, device=self._device.handle)
        k, d = self.centers.shape
        for part in cut_slices(len(rows), 16 * k + 8 * d, self._device.piece):
            labels[part] = self._label(rows[part])
        return labels

    def _label(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the labels of rows that fit one tile of scores."""
        residuals = self._center_rows(rows)
        factors, bound_a, bound_b = self._factors
        with use_full_float32():
            lows = residuals @ factors.T
        norms = residuals[:, -1]
        lowest, labels = lows.min(dim=1)
        # Without the lowest score, the second-lowest is a minimum as well: cheaper than a sort.
        lows.scatter_(1, labels[:, None], torch.inf)
        second = lows.amin(dim=1)
        lows.scatter_(1, labels[:, None], lowest[:, None])
        upper = lowest + 2 * (bound_a[labels] + bound_b[labels] * norms)
        upper.masked_fill_(~(norms < FAR_AWAY), torch.inf)  # also where it is not a number
        is_undecided = ~(second > upper)
        if self.cosine:
            zero = ~rows.any(dim=1)  # as near to all
            labels[zero], is_undecided[zero] = 0, False
        undecided = is_undecided.nonzero().flatten()
        if len(undecided):
            is_candidate = ~(lows[undecided] > upper[undecided, None])
            numbers, candidates = is_candidate.nonzero(as_tuple=True)
            labels[undecided] = refine_pairs(
                rows[undecided],
                self.centers,
                numbers=numbers,
                candidates=candidates,
                cosine=self.cosine,
                budget=self._device.piece,
            )
        return labels.int()

    def _center_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Return (t, d + 2): r, 1, |r|, the last rounded up as in `compiled.center_rows`."""
        n, d = rows.shape
        residuals = torch.ones(n, d + 2, device=self._device.handle)
        r = residuals[:, :d]
        torch.sub(rows.float() * self.scale, self._mean, out=r)
        residuals[:, -1] = r.square().sum(dim=1).sqrt() * 1.01 + 2.0**-60
        return residuals

    def _mean_and_spread(self) -> tuple[torch.Tensor, float]:
        """Return the mean of the centers (d,), and how far one is from it in a column at most."""
        sums = torch.stack([centers.sum(dim=0) for _, centers in self._centers_in_float64()])
        mean = sums.sum(dim=0) / len(self.centers)
        return mean, max(float((c - mean).abs().max()) for _, c in self._centers_in_float64())

    @cached_property
    def _factors(self) -> Factors:
        """The matrix and bounds for the product, made when it is first needed."""
        k, d = self.centers.shape
        factors = torch.empty(k, d + 2, device=self._device.handle)
        bounds = torch.empty(2, k, device=self._device.handle)
        g, tiny = (d + 16) * ROUNDOFF * 1.01, (d + 1) * 2.0**-120
        mean = self._mean.double()
        for part, centers in self._centers_in_float64():
            # For 'cosine' q is made of e before it is rounded, as |m| may be large beside |e|.
            unrounded = centers * self.scale - mean
            e = unrounded.float().double()
            squares = e.square().sum(dim=1)
            constant, in_float64 = squares, torch.zeros_like(squares)
            if self.cosine:
                products = -2 * (unrounded * mean)
                constant = products.sum(dim=1)
                in_float64 = (d + 8) * 2.0**-53 * products.abs().sum(dim=1)
            bound_a = g * constant.abs() + in_float64 + tiny
            bound_b = 2 * g * squares.sqrt() + tiny
            factors[part, :d] = -2 * e.float()
            factors[part, d] = (constant - bound_a).float()
            factors[part, d + 1] = -bound_b.float()
            bounds[0, part], bounds[1, part] = bound_a.float(), bound_b.float()
        return Factors(factors, *bounds)

    def _centers_in_float64(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield slices of the centers and these in float64, as many at once as memory allows."""
        k, d = self.centers.shape
        for part in cut_slices(k, 32 * d, self._device.piece):
            yield part, self.centers[part].double()
