"""The kernel for GPUs: labels, and sums of rows that are held, on the device; the rest on the CPU.

Triton's programs label rows where they run and pass a check in this process, else torch alone does;
the kernel's name says which. Both give the bits of the CPU's kernels.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.kernels import ALIKE, Held
from ray_kmeans.kernels.cpu import CpuKernel, Prepared
from ray_kmeans.kernels.gpu.chunks import Chunks
from ray_kmeans.kernels.gpu.device import Device, cut_slices
from ray_kmeans.kernels.gpu.float32 import Float32Labeller
from ray_kmeans.kernels.gpu.held import HeldOnDevice, Labeller
from ray_kmeans.kernels.portable import PortableKernel
from ray_kmeans.kernels.self_check import near_ties

log = logging.getLogger("ray_kmeans")

BYTES = "int8 tensor cores (Triton)"
"""What logs call labelling by Triton's programs."""
FLOATS = "float32 (torch)"
"""What logs call labelling by torch alone."""
CHECKS = [
    *product(Metric, (300, 20), (200, 70, 8), (1.0,)),
    (Metric.SQUARED_EUCLIDEAN, 20, 8, 2.0**-140),
]
"""Metric, centers, columns and size of the values of the self-check. Those below 2^-126 must not be
taken for zero."""


class GpuKernel(PortableKernel):
    """Labels and sums on a device.

    `by_bytes`: whether Triton labels rows that are held; None: where it is right. Rows that pass by
    are labelled by float32 products: they have no labels from before, which bytes gain by.
    """

    def __init__(self, threads: int, device: Device, by_bytes: bool | None = None) -> None:
        super().__init__(threads)
        self._cpu = CpuKernel(threads)
        self._device = device
        self._by_bytes = by_bytes
        self._remark = ""

    def ready(self, rows: int, k: int, d: int) -> str:
        """Compile and check what labels; return its name and the share of the rows that fit."""
        how = BYTES if self._uses_bytes() else FLOATS + self._remark
        room = min(self._device.room(0) / max(4 * rows * d, 1), 1.0)
        return f"{how} on {self._device.name}, with room for {room:.0%} of the rows as float32"

    def hold_each(
        self,
        blocks: Sequence[NDArray[np.float32]],
        sizes: Sequence[int],
        d: int,
        metric: Metric,
        weights: NDArray[np.int64] = ALIKE,
    ) -> Held:
        """Hold rows on the device as far as they fit, see `Kernel.hold_each`."""
        chunks = Chunks(blocks, sizes, d, self._device)

        def labeller_of(centers: NDArray[np.float32]) -> Labeller:
            float32 = Float32Labeller(centers, metric, self._device)
            if not self._uses_bytes():
                return float32
            from ray_kmeans.kernels.gpu.int8 import Int8Labeller  # Triton may be missing
            from ray_kmeans.kernels.gpu.packing import Tile

            return Int8Labeller(float32, max(chunks.sizes), self._device, Tile.of(d))

        return HeldOnDevice(chunks, labeller_of, self._device, weights)

    def prepare(self, centers: NDArray[np.float32], metric: Metric) -> Any:
        """Prepare the centers for the device and for the kernel of the CPU."""
        float32 = Float32Labeller(centers, metric, self._device)
        return PreparedOnDevice(float32, self._cpu.prepare(centers, metric))

    def assign(
        self,
        rows: NDArray[np.float32],
        prepared: Any,
        labels: NDArray[np.int32],
    ) -> None:
        """Label rows by float32 products on the device, see `Kernel.assign`."""
        for part in cut_slices(len(rows), 4 * rows.shape[1], self._device.piece):
            labels[part] = prepared.float32.label(self._device.put(rows[part])).cpu().numpy()

    def assign_second(
        self,
        rows: NDArray[np.float32],
        prepared: Any,
        labels: NDArray[np.int32],
        seconds: NDArray[np.int32],
    ) -> None:
        """Let the CPU find the second-nearest centers."""
        self._cpu.assign_second(rows, prepared.on_host, labels, seconds)

    def assign_nearest(
        self, rows: NDArray[np.float32], prepared: Any, found: NDArray[np.int32]
    ) -> None:
        """Let the CPU find the m nearest centers."""
        self._cpu.assign_nearest(rows, prepared.on_host, found)

    def _uses_bytes(self) -> bool:
        """Tell whether Triton labels held rows; the first call checks it."""
        if self._by_bytes is None:
            self._by_bytes, self._remark = bytes_are_right(self._device)
        return self._by_bytes


def load(name: str, threads: int, share: float) -> GpuKernel:
    """Return 'gpu'; for tests 'gpu-torch' or 'gpu-triton', on the CPU where there is no GPU."""
    if name == "gpu":
        return GpuKernel(threads, Device.of_gpu(share))
    device = Device.of_gpu(share) if torch.cuda.is_available() else Device.of_cpu()
    return GpuKernel(threads, device, by_bytes=name == "gpu-triton")


@dataclass
class PreparedOnDevice:
    """Centers as the device and the kernel of the CPU take them."""

    float32: Float32Labeller
    """For the device."""
    on_host: Prepared
    """For the kernel of the CPU, which finds second-nearest centers."""


@cache
def bytes_are_right(device: Device) -> tuple[bool, str]:
    """Return whether Triton labels a small set right on a device, and what to say if not."""
    try:
        wrong = _wrong_labels(device)
    except Exception as error:  # a compiler has many, and torch can do the work
        log.warning("Triton does not run on %s, so torch labels: %s", device.name, error)
        return False, ", as Triton does not run here"
    if wrong:
        log.warning("Triton failed its self-check on %s, so torch labels", device.name)
        return False, ", as Triton failed its self-check"
    return True, ""


def _wrong_labels(device: Device) -> int:
    """Label rows with near ties by bytes and on the CPU; return how many labels differ."""
    rng = np.random.default_rng(0)
    portable, wrong = PortableKernel(1), 0
    for metric, k, d, size in CHECKS:
        rows, centers = (each * np.float32(size) for each in near_ties(rng, k, d))
        held = GpuKernel(1, device, by_bytes=True).hold([rows], metric, k)
        for moved in (centers, centers[::-1].copy()):
            expected = np.empty(len(rows), np.int32)
            portable.assign(rows, portable.prepare(moved, metric), expected)
            wrong += int((held.assign(moved) != expected).sum())
    return wrong
