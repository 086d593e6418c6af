"""The kernel that is easy to believe: NumPy in float64, and whole numbers where that is close."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.kernels import (
    ALIKE,
    COARSE_UNITS,
    Moves,
    column_keys,
)
from ray_kmeans.kernels.moving_sums import HoldsPlainly


class ReferenceKernel(HoldsPlainly):
    """Slow and obvious; every other kernel must give the same bits."""

    def ready(self, rows: int, k: int, d: int) -> str:
        """Return the name; there is nothing to prepare."""
        return "reference"

    def prepare(
        self, centers: NDArray[np.float32], metric: Metric
    ) -> tuple[NDArray[np.float32], Metric]:
        """Keep the centers and the metric."""
        return centers, metric

    def assign(
        self,
        rows: NDArray[np.float32],
        prepared: tuple[NDArray[np.float32], Metric],
        labels: NDArray[np.int32],
    ) -> None:
        """Label each row by NumPy, and by whole numbers where that is close."""
        centers, metric = prepared
        for i, row in enumerate(rows):
            terms = terms_of(row, centers.astype(np.float64), metric)
            score = terms.sum(axis=1)
            # A sum of d terms, each rounded three times at most, is off by less than this.
            error = np.abs(terms).sum(axis=1) * (len(row) + 8) * 2.0**-52
            close = np.flatnonzero(score - error <= (score + error).min())
            labels[i] = (
                close[0] if len(close) == 1 else nearest_over_the_reals(row, centers, close, metric)
            )

    def assign_second(
        self,
        rows: NDArray[np.float32],
        prepared: tuple[NDArray[np.float32], Metric],
        labels: NDArray[np.int32],
        seconds: NDArray[np.int32],
    ) -> None:
        """Label each row among all centers but its nearest."""
        centers, metric = prepared
        found = np.empty(1, np.int32)
        for i, label in enumerate(labels):
            others = np.delete(np.arange(len(centers)), label)
            self.assign(rows[i : i + 1], (centers[others], metric), found)
            seconds[i] = others[found[0]]

    def assign_nearest(
        self,
        rows: NDArray[np.float32],
        prepared: tuple[NDArray[np.float32], Metric],
        found: NDArray[np.int32],
    ) -> None:
        """Put all centers in order by whole numbers, see `Kernel.assign_nearest`."""
        centers, metric = prepared
        for i, row in enumerate(rows):
            scores = terms_of(_whole(row), _whole(centers), metric).sum(axis=1)
            found[i] = np.argsort(scores, kind="stable")[: found.shape[1]]

    def accumulate(
        self,
        rows: NDArray[np.float32],
        labels: NDArray[np.int32],
        scale: NDArray[np.float64],
        sums: NDArray[np.int64],
        weights: NDArray[np.int64] = ALIKE,
    ) -> None:
        """Add rows to sums by NumPy, see `Kernel.accumulate`."""
        units = np.rint(rows.astype(np.float64) * scale).astype(np.int64)
        np.add.at(sums, labels, units * _times(weights))

    def move(
        self,
        blocks: Sequence[NDArray[np.float32]],
        moves: Moves,
        labels: NDArray[np.int32],
        scale: NDArray[np.float64],
        sums: NDArray[np.int64],
        weights: NDArray[np.int64] = ALIKE,
    ) -> None:
        """Subtract moved rows from the old sums and add them to the new ones, see `Kernel.move`."""
        rows = np.concatenate(blocks)[moves.rows]
        times = weights[moves.rows] if len(weights) else np.ones(len(rows), np.int64)
        leave = moves.before >= 0
        self.accumulate(rows[leave], moves.before[leave], -scale, sums, times[leave])
        self.accumulate(rows, labels[moves.rows], scale, sums, times)

    def accumulate_squares(
        self,
        rows: NDArray[np.float32],
        scale: NDArray[np.float64],
        half_bits: int,
        limbs: NDArray[np.int64],
        coarse: NDArray[np.int64],
        weights: NDArray[np.int64] = ALIKE,
    ) -> None:
        """Add squares by NumPy, see `Kernel.accumulate_squares`."""
        units = np.rint(rows.astype(np.float64) * scale).astype(np.int64)
        high = (units + (1 << (half_bits - 1))) >> half_bits
        low = units - (high << half_bits)
        times = _times(weights)
        limbs += [(a * b * times).sum(axis=0) for a, b in ((high, high), (high, low), (low, low))]
        coarse += ((np.abs(units) < COARSE_UNITS) & (rows != 0)).sum(axis=0)

    def fingerprint(self, rows: NDArray[np.float32], weights: NDArray[np.int64] = ALIKE) -> int:
        """Hash rows by NumPy, see `Kernel.fingerprint`."""
        bits = np.ascontiguousarray(rows).view(np.uint32).astype(np.uint64)
        mixed = (bits * column_keys(rows.shape[1])).sum(axis=1, dtype=np.uint64)
        mixed = (mixed ^ (mixed >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
        mixed ^= mixed >> np.uint64(33)
        times = weights.astype(np.uint64) if len(weights) else np.uint64(1)
        return int((mixed * times).sum(dtype=np.uint64))

    def distances(
        self,
        rows: NDArray[np.float32],
        centers: NDArray[np.float32],
        metric: Metric,
        result: NDArray[Any],
    ) -> None:
        """Add up the terms column by column, see `Kernel.distances`."""
        total = np.zeros((len(rows), len(centers)))
        for column in range(rows.shape[1]):  # this order of additions is part of the result
            total += terms_of(rows[:, column, None], centers[:, column].astype(np.float64), metric)
        with np.errstate(over="ignore"):  # a distance beyond float32 is infinite
            result[:] = np.maximum(1 + total, 0) if metric == Metric.COSINE else total

    def distances_to(
        self,
        rows: NDArray[np.float32],
        centers: NDArray[np.float32],
        labels: NDArray[np.int32],
        metric: Metric,
    ) -> NDArray[np.float64]:
        """Pick one distance of each row from all, see `Kernel.distances_to`."""
        result = np.empty((len(rows), len(centers)))
        self.distances(rows, centers, metric, result)
        return np.take_along_axis(result, labels[:, None], axis=1)[:, 0]


def _times(weights: NDArray[np.int64]) -> Any:
    """Return weights as a column to multiply rows by; 1 where all rows count once."""
    return weights[:, None] if len(weights) else 1


def terms_of(x: Any, c: Any, metric: Metric) -> Any:
    """Return the terms that add up to a score; the nearest center has the lowest score."""
    return -(x * c) if metric == Metric.COSINE else (x - c) * (x - c)


def nearest_over_the_reals(
    row: NDArray[np.float32],
    centers: NDArray[np.float32],
    candidates: NDArray[np.int64],
    metric: Metric,
) -> int:
    """Return the candidate with the lowest true score; a tie goes to the lowest index."""
    scores = terms_of(_whole(row), _whole(centers[candidates]), metric).sum(axis=1)
    return int(candidates[scores.argmin()])


def _whole(values: NDArray[np.float32]) -> NDArray[np.object_]:
    """Return values as whole numbers of 2**-149, the least float32 above zero."""
    whole = np.frompyfunc(int, 1, 1)(np.ldexp(values.astype(np.float64), 149))
    return np.asarray(whole, np.object_)
