"""The kernel for CPUs: products of bytes where a processor has them and the work is worth it.

Which unit multiplies is a matter of speed alone. Each labels a small set with near ties in every
process before it is used; one that fails is left out, and the kernel's name says so.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.kernels import ALIKE, Held, cpu_features
from ray_kmeans.kernels.int8.held_rows import HeldRows
from ray_kmeans.kernels.int8.second_nearest import SecondNearest
from ray_kmeans.kernels.int8.types import ScratchPool
from ray_kmeans.kernels.portable import PortableKernel, PreparedCenters
from ray_kmeans.kernels.self_check import QUADS, near_ties, products_per_second
from ray_kmeans.kernels.threads import Threads

log = logging.getLogger("ray_kmeans")

WORTH = 2**27
"""Work, rows * k * (d + SCAN), from which byte products pay: BLAS does less in milliseconds."""
SCAN = 16
"""Cost of looking at one score, in columns of its product."""
AT_ONCE = 2**16
"""Rows that are labelled at once where they are not held: bounds the memory for their bytes."""


@dataclass
class Prepared:
    """Centers, and what labelling by them needs, made when it is first needed."""

    centers: NDArray[np.float32]
    """(k, d)"""
    metric: Metric
    """The distance to them."""
    portable: PreparedCenters | None = None
    """The centers as BLAS takes them."""
    second: SecondNearest | None = None
    """The centers as the search for the second-nearest takes them."""
    lock: Lock = field(default_factory=Lock)
    """Held while `portable` is made: several threads may label by the same centers."""


class CpuKernel(PortableKernel):
    """Labels by products of bytes, or by BLAS; everything else as the portable kernel does it.

    `unit`: the one to use, whatever the size of the work; None: the fastest, where it is worth it.
    """

    def __init__(self, threads: int, unit: str | None = None) -> None:
        super().__init__(threads)
        self._unit = unit
        self._scratch_pool = ScratchPool()

    def ready(self, rows: int, k: int, d: int) -> str:
        """Compile and check the unit for this work; return its name, see `Kernel.ready`."""
        unit = self._unit_for(rows, k, d)
        if unit is not None:
            return unit.name
        remark = _fastest()[1] if self._is_worth(rows, k, d) else ""
        return super().ready(rows, k, d) + remark

    def hold(
        self,
        blocks: Sequence[NDArray[np.float32]],
        metric: Metric,
        k: int,
        weights: NDArray[np.int64] = ALIKE,
    ) -> Held:
        """Hold rows as bytes where a unit is worth it, see `Kernel.hold`."""
        unit = self._unit_for(sum(map(len, blocks)), k, blocks[0].shape[1])
        if unit is None:
            return super().hold(blocks, metric, k, weights)
        return HeldRows(blocks, metric, unit.of, self._threads, weights, self._scratch_pool)

    def prepare(self, centers: NDArray[np.float32], metric: Metric) -> Any:
        """Keep the centers; what a way to label makes of them is made when it is needed."""
        return Prepared(centers, metric)

    def assign(self, rows: NDArray[np.float32], prepared: Any, labels: NDArray[np.int32]) -> None:
        """Label rows by byte products where these pay, else by BLAS, see `Kernel.assign`."""
        unit = self._unit_for(len(rows), *prepared.centers.shape)
        if unit is None:
            super().assign(rows, self._portable(prepared), labels)
            return
        for start in range(0, len(rows), AT_ONCE):
            part = np.ascontiguousarray(rows[start : start + AT_ONCE])
            held = HeldRows(
                [part],
                prepared.metric,
                unit.of,
                self._threads,
                scratch_pool=self._scratch_pool,
            )
            labels[start : start + AT_ONCE] = held.assign(prepared.centers)

    def assign_second(
        self,
        rows: NDArray[np.float32],
        prepared: Any,
        labels: NDArray[np.int32],
        seconds: NDArray[np.int32],
    ) -> None:
        """Find the second-nearest centers in the same way, see `Kernel.assign_second`."""
        unit = self._unit_for(len(rows), *prepared.centers.shape)
        if unit is None:
            super().assign_second(rows, self._portable(prepared), labels, seconds)
            return
        if prepared.second is None:
            prepared.second = SecondNearest(
                prepared.centers, prepared.metric, unit.of, self._threads, self._scratch_pool
            )
        left = prepared.second.label(np.ascontiguousarray(rows), labels, seconds)
        if len(left):
            found = np.empty(len(left), np.int32)
            super().assign_second(rows[left], self._portable(prepared), labels[left], found)
            seconds[left] = found

    def _portable(self, prepared: Prepared) -> PreparedCenters:
        """Return the centers as BLAS takes them, made once."""
        with prepared.lock:
            if prepared.portable is None:
                prepared.portable = super().prepare(prepared.centers, prepared.metric)
        return prepared.portable

    def _unit_for(self, rows: int, k: int, d: int) -> cpu_features.Unit | None:
        """Return the unit that labels this many rows; None where BLAS does."""
        if self._unit is not None:
            return cpu_features.units()[self._unit]
        return _fastest()[0] if self._is_worth(rows, k, d) else None

    def _is_worth(self, rows: int, k: int, d: int) -> bool:
        """Tell whether the work is enough for byte products to pay."""
        return rows * k * (d + SCAN) >= WORTH


@cache
def _fastest() -> tuple[cpu_features.Unit | None, str]:
    """Return the fastest unit that passes its check, and a remark on those that did not.

    Which one is fastest is measured: it depends on the processor's ports, and on what its
    hypervisor lets through. Only the fastest is compiled as a whole and checked.
    """
    failed = ""
    for unit in sorted(cpu_features.units().values(), key=_speed, reverse=True):
        if _is_right(unit):
            return cpu_features.Unit(unit.name + failed, unit.of), failed
        failed += f", as {unit.name} failed its self-check"
        log.warning("%s failed its self-check on this processor and is not used", unit.name)
    return None, failed


def _speed(unit: cpu_features.Unit) -> float:
    """Return how many products of bytes a unit makes per second."""
    return products_per_second(unit.of(QUADS))


def _is_right(unit: cpu_features.Unit) -> bool:
    """Tell whether this unit labels a small set as the portable kernel does.

    It labels, sums up and regroups, so that all loops that the unit needs are compiled by this.
    """
    rng = np.random.default_rng(0)
    portable = PortableKernel(1)
    right = True
    for metric, k, d in product(Metric, (300, 20), (70, 8)):
        rows, centers = near_ties(rng, k, d)
        held = HeldRows([rows], metric, unit.of, Threads(1))
        for moved in (centers, centers * np.float32(0.98), centers[::-1].copy()):
            expected = np.empty(len(rows), np.int32)
            portable.assign(rows, portable.prepare(moved, metric), expected)
            right &= bool((held.assign(moved) == expected).all())
            held.sums(moved, np.ones(rows.shape[1]))
            held.regroup()
        right &= _is_second_right(rows, moved, metric, expected, unit)
    return right


def _is_second_right(
    rows: NDArray[np.float32],
    centers: NDArray[np.float32],
    metric: Metric,
    labels: NDArray[np.int32],
    unit: cpu_features.Unit,
) -> bool:
    """Tell whether this unit finds the second-nearest centers that the portable kernel does."""
    expected, found = np.empty((2, len(rows)), np.int32)
    portable = PortableKernel(1)
    portable.assign_second(rows, portable.prepare(centers, metric), labels, expected)
    second = SecondNearest(centers, metric, unit.of, Threads(1), ScratchPool())
    left = second.label(rows, labels, found)
    found[left] = expected[left]
    return bool((found == expected).all())
