"""Rows on a device that are labelled again and again, with sums and counts that follow them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ray_kmeans.kernels import ALIKE
from ray_kmeans.kernels.gpu.chunks import Chunks
from ray_kmeans.kernels.gpu.device import Device
from ray_kmeans.kernels.gpu.summing import Sums
from ray_kmeans.kernels.moving_sums import IncrementalSums


class Labeller(Protocol):
    """Centers that label rows on a device."""

    def label(self, rows: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """Return the labels (n,) int32 of rows (n, d), given those from before, -1 for none."""


class HeldOnDevice(IncrementalSums):
    """Labels, sums and counts stay on the device; the rows do as far as there is room for them."""

    def __init__(
        self,
        chunks: Chunks,
        labeller_of: Callable[[NDArray[np.float32]], Labeller],
        device: Device,
        weights: NDArray[np.int64] = ALIKE,
    ) -> None:
        super().__init__()
        self._chunks = chunks
        self._labeller_of = labeller_of
        self._device = device
        self._weights: Sequence[Any] = [None] * len(chunks.sizes)
        if len(weights):
            self._weights = device.put(weights).split(chunks.sizes)

    def _all_labels(self) -> NDArray[np.int32]:
        """Copy the labels of all chunks to the host."""
        return np.concatenate([labels.cpu().numpy() for labels in self._labels])

    def _forget(self) -> None:
        """Give every row the label -1, on the device."""
        empty = torch.full((sum(self._chunks.sizes),), -1, dtype=torch.int32)
        self._labels = empty.to(self._device.handle).split(self._chunks.sizes)

    def _new_sums(self, k: int, scale: NDArray[np.float64]) -> Sums:
        """Return sums on the device."""
        return Sums(k, scale, self._device)

    def _sweep(self, centers: NDArray[np.float32]) -> None:
        """Label the rows chunk by chunk, and move those with a new label in the sums."""
        labeller = self._labeller_of(centers)
        for rows, before, weights in zip(self._chunks, self._labels, self._weights, strict=True):
            after = labeller.label(rows, before)
            # Both sets of labels are needed to move rows, so those of before are replaced last.
            if self._sums is not None:
                self._sums.move(rows, before, after, weights)
            before.copy_(after)
