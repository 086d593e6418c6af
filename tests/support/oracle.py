"""The slow, obvious k-means over the reals. Every fast path is compared with it."""

from __future__ import annotations

from fractions import Fraction

import numpy as np


def exact(matrix):
    """Return the rows of a matrix as rationals; a float is one, so nothing is lost."""
    return [[Fraction(value) for value in row] for row in np.asarray(matrix).tolist()]


def whole(*matrices):
    """Return matrices as whole numbers (dtype object) of one unit, and how many are 1."""
    matrices = [np.asarray(matrix, np.float64) for matrix in matrices]
    ratios = [[value.as_integer_ratio() for value in each.ravel().tolist()] for each in matrices]
    one = max((divisor for each in ratios for _, divisor in each), default=1)
    numbers = [
        np.array([n * (one // divisor) for n, divisor in each] + [0], object)[:-1]
        for each in ratios
    ]
    return *(n.reshape(m.shape) for n, m in zip(numbers, matrices, strict=True)), one


def squared_distance(row, center):
    return sum(((x - c) ** 2 for x, c in zip(row, center, strict=True)), Fraction(0))


def labels(X, centers):
    """Return the index of the nearest center of each row; `argmin` takes the lowest of a tie."""
    rows, centers, _ = whole(X, centers)
    return np.array([((row - centers) ** 2).sum(axis=1).argmin() for row in rows], np.int32)


def product_labels(X, centers):
    """Return the center that has the largest product with each row; the lowest of a tie."""
    rows, centers, _ = whole(X, centers)
    return np.array([centers.dot(row).argmax() for row in rows], np.int32)


def inertia(X, centers, labels):
    """Return the sum of squared distances of the rows to their centers, rounded once."""
    rows, centers, one = whole(X, centers)
    return int(((rows - centers[labels]) ** 2).sum()) / one**2


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
