"""Weighted sampling without replacement, the same wherever the rows are.

Each row gets a ticket, an exponential variate over its weight; the lowest tickets win. So a worker
knows its best rows alone, and the best of all are among these (Efraimidis, Spirakis, Weighted
random sampling with a reservoir, Information Processing Letters 97, 2006).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm import draws

LN_2 = 0.6931471805599453
"""Natural logarithm of 2."""
TERMS = 11
"""Number of terms of the logarithm's series; those left out add up to less than 2**-55."""


def winners(
    numbers: NDArray[np.int64], weights: NDArray[np.int64], key: np.uint64, size: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return up to `size` lowest tickets of some rows, and the numbers of these rows.

    `weights` are (n,), or empty if all rows count alike. Rows of weight 0 have no ticket.
    """
    if len(weights):
        numbers, weights = numbers[weights > 0], weights[weights > 0]
    bits = draws.mix(numbers.astype(np.uint64), key)
    u = ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    tickets = minus_log(u) / (weights if len(weights) else 1.0)
    return lowest(tickets, numbers, size)


def winners_by_cluster(
    numbers: NDArray[np.int64],
    labels: NDArray[np.int32],
    weights: NDArray[np.int64],
    sizes: NDArray[np.int64],
    key: np.uint64,
) -> list[tuple[NDArray[np.float64], NDArray[np.int64]]]:
    """Return what `winners` does for the rows of each cluster of which some are wanted.

    `sizes` are the numbers of rows wanted of each cluster, (k,), and `labels` (n,) the clusters of
    the rows.
    """
    found = []
    order = np.argsort(labels, kind="stable")
    wanted = np.flatnonzero(sizes)
    begins = np.searchsorted(labels[order], wanted, "left")
    ends = np.searchsorted(labels[order], wanted, "right")
    for cluster, begin, end in zip(wanted, begins, ends, strict=True):
        rows = order[begin:end]
        times = weights[rows] if len(weights) else weights
        found.append(winners(numbers[rows], times, key, int(sizes[cluster])))
    return found


def lowest(
    tickets: NDArray[np.float64], numbers: NDArray[np.int64], size: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the `size` lowest tickets in order; of equal ones the lower number wins."""
    order = np.lexsort((numbers, tickets))[:size]
    return tickets[order], numbers[order]


def best_of(
    draws_of: Sequence[tuple[NDArray[np.float64], NDArray[np.int64]]], size: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the `size` lowest of the tickets that several have drawn, with their numbers."""
    tickets, numbers = zip(*draws_of, strict=True)
    return lowest(np.concatenate(tickets), np.concatenate(numbers), size)


def minus_log(u: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return -ln(u) of numbers u in (0, 1), (n,), off by some units of 2**-52.

    The logarithms of the libraries differ between processors in the last bit. This one is a fixed
    sequence of IEEE operations: ln(m) = 2 artanh((m - 1) / (m + 1)).
    """
    mantissas, exponents = np.frexp(u)
    low = mantissas < 0.7071067811865476
    m = np.where(low, 2 * mantissas, mantissas)
    s = (m - 1) / (m + 1)
    squared = s * s
    series = np.zeros(len(u))
    for term in reversed(range(TERMS)):
        series = series * squared + 1 / (2 * term + 1)
    return np.asarray(-((exponents - low) * LN_2 + 2 * s * series))
