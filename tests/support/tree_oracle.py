"""The obvious way to fit a tree: whole arrays, one node after the other, exact fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from ray_kmeans.algorithm import draws, tree
from ray_kmeans.engine.seeding import weighted_sampling
from ray_kmeans.kernels.reference import ReferenceKernel


def labels_of(x, centers, metric):
    kernel, labels = ReferenceKernel(), np.empty(len(x), np.int32)
    kernel.assign(x, kernel.prepare(centers, metric), labels)
    return labels


def losses_by_node(x, centers, labels, metric, weights):
    """Return the exact loss of each node as a fraction."""
    distances = ReferenceKernel().distances_to(x, centers, labels, metric)
    losses = [Fraction(0)] * len(centers)
    for label, distance, weight in zip(labels, distances, weights, strict=True):
        losses[label] += Fraction(float(distance)) * int(weight)
    return losses


def shared_out(wanted, losses, most):
    """Give one child after the other to whom most of its share is missing, from one each on."""
    total = sum(losses)
    found = [
        min(max(int(wanted * loss // total), 1), limit)
        for loss, limit in zip(losses, most, strict=True)
    ]
    while sum(found) != wanted:
        step = 1 if sum(found) < wanted else -1
        free = [
            n for n, limit in enumerate(most) if (found[n] < limit if step > 0 else found[n] > 1)
        ]
        found[max(free, key=lambda n: (step * (wanted * losses[n] / total - found[n]), -n))] += step
    return found


def mean_of(rows, weights, previous, metric):
    if not weights.sum():
        return previous
    mean = (rows.astype(np.float64) * weights[:, None]).sum(axis=0) / weights.sum()
    if metric == "cosine":
        norm = np.linalg.norm(mean)
        return previous if norm == 0 else (mean / norm).astype(np.float32)
    return mean.astype(np.float32)


def split(x, centers, parents_above, labels, wanted, steps, metric, weights, seed, depth, quota):
    """Return the children of all nodes, their parents, and how many rows each had at last."""
    losses = losses_by_node(x, centers, labels, metric, weights)
    rows = np.bincount(labels[weights > 0], minlength=len(centers)).tolist()
    most = [min(each, tree.most_children(wanted, len(centers))) for each in rows]
    shares = shared_out(wanted, losses if quota == "loss" else [Fraction(n) for n in rows], most)
    key = draws.words(seed, "children", depth, size=1)[0]
    found, parents, counts = [], [], []
    for node, size in enumerate(shares):
        if not size:
            continue
        own = np.flatnonzero(labels == node)
        tickets = weights[own] if (weights != 1).any() else np.empty(0, np.int64)
        _, numbers = weighted_sampling.winners(own, tickets, key, size)
        children = x[np.sort(numbers)]
        for _ in range(steps):
            near = labels_of(x[own], children, metric)
            of_child = [(x[own][near == c], weights[own][near == c]) for c in range(size)]
            moved = np.stack(
                [mean_of(*some, children[c], metric) for c, some in enumerate(of_child)]
            )
            counts_now = [int(some[1].sum()) for some in of_child]
            if (moved == children).all():
                break
            children = moved
        found.append(children)
        parents += [node] * size
        counts += counts_now
    return np.concatenate(found), np.array(parents), counts
