"""Which unit of this processor is fastest, and labels right: it is measured and checked before use.

Before a unit is used for a kind of work, it does such work on small sets with near ties, once on
each type of machine; one that fails is left out.
"""

from __future__ import annotations

import logging
from enum import Enum
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.kernels import cpu_units, passed_checks
from ray_kmeans.kernels.int8.held_rows import PREFIX_COLUMNS, HeldRows
from ray_kmeans.kernels.int8.second_nearest import SecondNearest
from ray_kmeans.kernels.int8.types import ScratchPool
from ray_kmeans.kernels.portable import PortableKernel
from ray_kmeans.kernels.self_check import QUADS, near_ties, products_per_second
from ray_kmeans.kernels.threads import Threads

log = logging.getLogger("ray_kmeans")


class Work(Enum):
    """A kind of work that a unit is compiled and checked for by itself, when it is first needed.

    Compiling for all of them takes about twice the time of what most fits need.
    """

    MANY_COLUMNS = "many columns"
    """Labels by bytes from the first sweep on."""
    FEW_COLUMNS = "few columns"
    """Labels by float32 where there are few columns and centers, and by bytes later."""
    SECOND = "the second-nearest center"
    """Second-nearest centers."""


CHECKED = {
    Work.MANY_COLUMNS: ((300, 70), (20, 70), (600, 8)),
    Work.FEW_COLUMNS: ((300, 8), (20, 8), (300, 2)),
    Work.SECOND: ((300, 70), (20, 8)),
}
"""Numbers of centers and of columns with which a unit is checked, by kind of work."""


@cache
def fastest(work: Work, anew: bool = False) -> tuple[cpu_units.NamedUnit | None, str]:
    """Return the fastest unit that passes its check for this work, and a remark on failed ones.

    Which one is fastest is measured by each process, in milliseconds: it depends on the processor's
    ports, and on what its hypervisor lets through. Only the fastest is compiled as a whole and
    checked, and that only where `passed_checks` knows of no check on a machine like this one, or
    where it is to be done `anew`.
    """
    failed = ""
    for unit in sorted(cpu_units.units().values(), key=_speed, reverse=True):
        if not anew and passed_checks.has_passed(unit.name, work.value):
            return cpu_units.NamedUnit(unit.name + failed, unit.of), failed
        if _is_right(unit, work):
            passed_checks.note(unit.name, work.value)
            return cpu_units.NamedUnit(unit.name + failed, unit.of), failed
        failed += f", as {unit.name} failed its self-check"
        log.warning("%s failed its self-check on this processor and is not used", unit.name)
    return None, failed


def _speed(unit: cpu_units.NamedUnit) -> float:
    """Return how many products of bytes a unit makes per second."""
    return products_per_second(unit.of(QUADS))


def _is_right(unit: cpu_units.NamedUnit, work: Work) -> bool:
    """Tell whether this unit does its work on small sets as the portable kernel does.

    All loops that the unit needs for this work are compiled by this.
    """
    rng = np.random.default_rng(0)
    check = _are_seconds_right if work is Work.SECOND else _are_labels_right
    return all(
        [  # each of them, also after one that fails
            check(unit, metric, *near_ties(rng, k, d))
            for metric, (k, d) in product(Metric, CHECKED[work])
        ]
    )


def _are_labels_right(
    unit: cpu_units.NamedUnit,
    metric: Metric,
    rows: NDArray[np.float32],
    centers: NDArray[np.float32],
) -> bool:
    """Tell whether this unit labels right while centers move; it also sums up and regroups."""
    portable = PortableKernel(1)
    held = HeldRows([rows], metric, unit.of, Threads(1))
    right = True
    for moved in (centers, centers * np.float32(0.98), centers[::-1].copy()):
        expected = np.empty(len(rows), np.int32)
        portable.assign(rows, portable.prepare(moved, metric), expected)
        right &= bool((held.assign(moved) == expected).all())
        held.sums(moved, np.ones(rows.shape[1]))
        held.regroup()
    if rows.shape[1] >= PREFIX_COLUMNS:
        held.shorten()
        right &= bool((held.assign(moved) == expected).all())
    return right


def _are_seconds_right(
    unit: cpu_units.NamedUnit,
    metric: Metric,
    rows: NDArray[np.float32],
    centers: NDArray[np.float32],
) -> bool:
    """Tell whether this unit finds the second-nearest centers that the portable kernel does."""
    portable = PortableKernel(1)
    prepared = portable.prepare(centers, metric)
    labels, expected, found = np.empty((3, len(rows)), np.int32)
    portable.assign(rows, prepared, labels)
    portable.assign_second(rows, prepared, labels, expected)
    second = SecondNearest(centers, metric, unit.of, Threads(1), ScratchPool())
    left = second.label(rows, labels, found)
    found[left] = expected[left]
    return bool((found == expected).all())
