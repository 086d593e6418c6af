"""The slow, obvious k-means over the reals. Every fast path is compared with it."""

from __future__ import annotations

from fractions import Fraction

import numpy as np


def exact(matrix):
    """Return the rows of a matrix as rationals; a float is one, so nothing is lost."""
    return [[Fraction(value) for value in row] for row in np.asarray(matrix).tolist()]


def squared_distance(row, center):
    return sum(((x - c) ** 2 for x, c in zip(row, center, strict=True)), Fraction(0))


def labels(X, centers):
    """Return the index of the nearest center of each row; `index` finds the lowest one of a tie."""
    exact_centers = exact(centers)
    result = []
    for row in exact(X):
        distances = [squared_distance(row, center) for center in exact_centers]
        result.append(distances.index(min(distances)))
    return np.array(result, np.int32)


def inertia(X, centers, labels):
    """Return the sum of squared distances of the rows to their centers, rounded once."""
    exact_centers = exact(centers)
    pairs = zip(exact(X), labels, strict=True)
    return float(sum((squared_distance(row, exact_centers[j]) for row, j in pairs), Fraction(0)))


def means(X, labels, previous):
    """Return the mean row of each cluster as float32; an empty one keeps its previous center."""
    rows = exact(X)
    result = previous.copy()
    for j in range(len(previous)):
        members = [row for row, label in zip(rows, labels, strict=True) if label == j]
        if members:
            sums = [sum(column, Fraction(0)) for column in zip(*members, strict=True)]
            result[j] = [float32(total / len(members)) for total in sums]
    return result


def float32(value):
    """Round a rational to the nearest float32, a tie to the even one."""
    near = np.float32(float(value))  # rounded twice, so perhaps one step off
    steps = [np.nextafter(near, np.float32(-np.inf)), near, np.nextafter(near, np.float32(np.inf))]
    return min(
        (step for step in steps if np.isfinite(step)),
        key=lambda step: (abs(Fraction(float(step)) - value), int(step.view(np.int32)) & 1),
    )


def lloyd(X, centers, n_iter):
    """Return the centers after `n_iter` iterations, and the inertia before each update."""
    history = []
    for _ in range(n_iter):
        nearest = labels(X, centers)
        history.append(inertia(X, centers, nearest))
        centers = means(X, nearest, centers)
    return centers, history
