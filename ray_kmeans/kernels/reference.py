"""The kernel that is easy to believe: NumPy in float64, and exact rationals where that is close."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.kernels import COARSE_UNITS, column_keys


class ReferenceKernel:
    """Slow and obvious; every other kernel must give the same bits."""

    def prepare(self, centers: NDArray[np.float32]) -> NDArray[np.float32]:
        return centers

    def assign(
        self,
        rows: NDArray[np.float32],
        prepared: NDArray[np.float32],
        labels: NDArray[np.int32],
    ) -> None:
        for i, row in enumerate(rows):
            difference = row.astype(np.float64) - prepared.astype(np.float64)
            distance = (difference * difference).sum(axis=1)
            # A sum of d rounded squares of rounded differences is off by less than this share.
            close = np.flatnonzero(distance <= distance.min() * (1 + (len(row) + 8) * 2.0**-51))
            labels[i] = (
                close[0] if len(close) == 1 else nearest_over_the_reals(row, prepared, close)
            )

    def accumulate(
        self,
        rows: NDArray[np.float32],
        labels: NDArray[np.int32],
        scale: NDArray[np.float64],
        sums: NDArray[np.int64],
    ) -> None:
        np.add.at(sums, labels, np.rint(rows.astype(np.float64) * scale).astype(np.int64))

    def move(
        self,
        rows: NDArray[np.float32],
        before: NDArray[np.int32],
        labels: NDArray[np.int32],
        scale: NDArray[np.float64],
        sums: NDArray[np.int64],
    ) -> None:
        self.accumulate(rows, before, -scale, sums)
        self.accumulate(rows, labels, scale, sums)

    def accumulate_squares(
        self,
        rows: NDArray[np.float32],
        scale: NDArray[np.float64],
        half_bits: int,
        limbs: NDArray[np.int64],
        coarse: NDArray[np.int64],
    ) -> None:
        units = np.rint(rows.astype(np.float64) * scale).astype(np.int64)
        high = (units + (1 << (half_bits - 1))) >> half_bits
        low = units - (high << half_bits)
        limbs += [(high * high).sum(axis=0), (high * low).sum(axis=0), (low * low).sum(axis=0)]
        coarse += ((np.abs(units) < COARSE_UNITS) & (rows != 0)).sum(axis=0)

    def fingerprint(self, rows: NDArray[np.float32]) -> int:
        bits = np.ascontiguousarray(rows).view(np.uint32).astype(np.uint64)
        mixed = (bits * column_keys(rows.shape[1])).sum(axis=1, dtype=np.uint64)
        mixed = (mixed ^ (mixed >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
        return int((mixed ^ (mixed >> np.uint64(33))).sum(dtype=np.uint64))

    def distances(
        self, rows: NDArray[np.float32], centers: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        result = np.zeros((len(rows), len(centers)))
        for column in range(rows.shape[1]):  # this order of additions is part of the result
            x = rows[:, column, None].astype(np.float64)
            difference = x - centers[:, column].astype(np.float64)
            result += difference * difference
        with np.errstate(over="ignore"):  # a distance beyond float32 is infinite
            return result.astype(np.float32)

    def distances_to(
        self,
        rows: NDArray[np.float32],
        centers: NDArray[np.float32],
        labels: NDArray[np.int32],
    ) -> NDArray[np.float32]:
        return np.take_along_axis(self.distances(rows, centers), labels[:, None], axis=1)[:, 0]


def nearest_over_the_reals(
    row: NDArray[np.float32], centers: NDArray[np.float32], candidates: NDArray[np.int64]
) -> int:
    """Return the candidate with the smallest true distance; a tie goes to the lowest index."""
    exact_row = [Fraction(x) for x in row.tolist()]

    def distance(j: int) -> Fraction:
        pairs = zip(exact_row, centers[j].tolist(), strict=True)
        return sum(((x - Fraction(c)) ** 2 for x, c in pairs), Fraction(0))

    return min((int(j) for j in candidates), key=lambda j: (distance(j), j))
