"""The kernel for CPUs: products of bytes where a processor has them and the work is worth it.

Which unit multiplies is a matter of speed alone: `fastest_unit` chooses it, and the kernel's name
says which one it is, and which ones failed their checks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.kernels import ALIKE, Held, cpu_units
from ray_kmeans.kernels.fastest_unit import Work, fastest
from ray_kmeans.kernels.int8.held_rows import HeldRows
from ray_kmeans.kernels.int8.second_nearest import SecondNearest
from ray_kmeans.kernels.int8.sweep_few_columns import MOST_VALUES
from ray_kmeans.kernels.int8.types import PACKED_COLUMNS, ScratchPool
from ray_kmeans.kernels.llvm.float_vectors import FLOAT_COLUMNS
from ray_kmeans.kernels.portable import PortableKernel, PreparedCenters

WORTH = 2**27
"""Work, rows * k * (d + SCAN), from which byte products pay: BLAS does less in milliseconds."""
SWEEPS = 4
"""Rows that are held are swept this often at least: bytes pay from a quarter of that work on."""
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
        remark = fastest(_work_with(k, d))[1] if self._is_worth(rows, k, d) else ""
        return super().ready(rows, k, d) + remark

    def hold(
        self,
        blocks: Sequence[NDArray[np.float32]],
        metric: Metric,
        k: int,
        weights: NDArray[np.int64] = ALIKE,
    ) -> Held:
        """Hold rows as bytes where a unit is worth it, see `Kernel.hold`."""
        unit = self._unit_for(SWEEPS * sum(map(len, blocks)), k, blocks[0].shape[1])
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
        k, d = prepared.centers.shape
        unit = self._unit_for(len(rows), k, d, Work.SECOND)
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

    def assign_nearest(
        self, rows: NDArray[np.float32], prepared: Any, found: NDArray[np.int32]
    ) -> None:
        """Find the m nearest centers by BLAS, see `Kernel.assign_nearest`."""
        super().assign_nearest(rows, self._portable(prepared), found)

    def _portable(self, prepared: Prepared) -> PreparedCenters:
        """Return the centers as BLAS takes them, made once."""
        with prepared.lock:
            if prepared.portable is None:
                prepared.portable = super().prepare(prepared.centers, prepared.metric)
        return prepared.portable

    def _unit_for(
        self, rows: int, k: int, d: int, work: Work | None = None
    ) -> cpu_units.NamedUnit | None:
        """Return the unit that labels this many rows; None where BLAS does.

        `work` None: to find the nearest center.
        """
        if self._unit is not None:
            return cpu_units.units()[self._unit]
        return fastest(work or _work_with(k, d))[0] if self._is_worth(rows, k, d) else None

    def _is_worth(self, rows: int, k: int, d: int) -> bool:
        """Tell whether the work is enough for byte products to pay."""
        return rows * k * (d + SCAN) >= WORTH


def _work_with(k: int, d: int) -> Work:
    """Return the kind of work of labelling by k centers of d columns."""
    # At least all that `HeldRows` does by float32: twice that is compiled for nothing is no harm.
    few = d <= PACKED_COLUMNS or (d <= FLOAT_COLUMNS and k * d <= 2 * MOST_VALUES)
    return Work.FEW_COLUMNS if few else Work.MANY_COLUMNS
