"""Nearest centers of centers, by the kernel that labels rows; and the matching of two models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans import kernels
from ray_kmeans.algorithm.center_matching import (
    MOST_ASSIGNED,
    best_partners,
    ids_like,
    mutual_partners,
)
from ray_kmeans.algorithm.metric import Metric, project
from ray_kmeans.algorithm.state import FitState
from ray_kmeans.kernels import Kernel


def nearest(
    rows: NDArray[np.float32], centers: NDArray[np.float32], metric: Metric
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the nearest of the centers (k, d) to each row (n, d), and its distance, (n,) each."""
    kernel = kernels.load("portable")  # it compiles fastest, and this is done once
    labels = labels_of(rows, centers, metric, kernel)
    return labels.astype(np.int64), kernel.distances_to(rows, centers, labels, metric)


def labels_of(
    rows: NDArray[np.float32], centers: NDArray[np.float32], metric: Metric, kernel: Kernel
) -> NDArray[np.int32]:
    """Return the index of the nearest of the centers (k, d) to each row (n, d), (n,)."""
    labels = np.empty(len(rows), np.int32)
    kernel.assign(rows, kernel.prepare(centers, metric), labels)
    return labels


def nearest_others(
    numbers: NDArray[np.int64], centers: NDArray[np.float32], metric: Metric, kernel: Kernel
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return the nearest other center to each of some centers, and its distance, (m,) each.

    `numbers` (m,) are the indices of these centers among all, (k, d), which are two or more.
    """
    own = np.ascontiguousarray(centers[numbers])
    others = np.empty(len(numbers), np.int32)
    if len(numbers):
        prepared = kernel.prepare(centers, metric)
        kernel.assign_second(own, prepared, numbers.astype(np.int32), others)
    return others, kernel.distances_to(own, centers, others, metric)


def gaps(centers: NDArray[np.float32], metric: Metric) -> NDArray[np.float64]:
    """Return the distance of each center to its nearest other one, (k,); infinity for a single
    one."""
    if len(centers) == 1:
        return np.array([np.inf])
    kernel = kernels.load("portable")
    return nearest_others(np.arange(len(centers)), centers, metric, kernel)[1]


def partners_of(
    old: NDArray[np.float32], new: NDArray[np.float32], metric: Metric
) -> NDArray[np.int64]:
    """Return the old center (a, d) that each new one (b, d) is matched with, (b,), or -1 for none.

    The optimal assignment up to MOST_ASSIGNED clusters, and beyond those that are each other's
    nearest.
    """
    if max(len(old), len(new)) <= MOST_ASSIGNED:
        return best_partners(old, new)
    return mutual_partners(nearest(old, new, metric)[0], nearest(new, old, metric)[0])


def seen_by(
    clusters: NDArray[Any], shift: tuple[float, ...], metric: Metric
) -> NDArray[np.float32]:
    """Return centers (k, d) among the rows of a user as those of a model with this shift are."""
    return project(clusters - np.asarray(shift) if shift else clusters, metric)


def renumbered(state: FitState, like: NDArray[Any]) -> FitState:
    """Return the state with the numbers of other centers, (a, d), for the clusters that match them.

    `like` are centers among the rows of the user. The history stays: its names are those of centers
    in the order that they had in their step.
    """
    old = seen_by(like, state.shift, state.metric)
    ids = ids_like(partners_of(old, state.centers, state.metric))
    order = np.argsort(ids)
    if (order == np.arange(len(order))).all():
        return state
    running = state.accumulators
    if running is not None:
        running = replace(running, sums=running.sums[:, order])
    centers, counts = state.centers[order], state.counts[order]
    tree = state.tree.reordered(order) if state.tree else None
    return replace(state, centers=centers, counts=counts, accumulators=running, tree=tree)
