"""Rows and centers that are hard to label: every kernel must agree with the oracle on all."""

from __future__ import annotations

import numpy as np


def gaussian(n=60, d=7, k=10, offset=0.0, spread=1.0):
    rng = np.random.default_rng(d * 1000 + k)
    X = offset + rng.normal(size=(n, d)) * spread
    return X.astype(np.float32), X[:k].astype(np.float32)


def whole_numbers():
    X = np.random.default_rng(0).integers(-2, 3, size=(90, 3)).astype(np.float32)
    return X, X[:14]  # some of them equal, and many rows as near to one as to another


def equal_centers():
    X, centers = gaussian(d=3, k=4)
    return X, centers[[2, 0, 2, 1, 0, 3, 2]]


def near_ties(d=7, offset=8.0):
    """Rows in the middle of two centers, but for the rounding of the row and one last bit."""
    rng = np.random.default_rng(d)
    centers = (offset + rng.normal(size=(9, d))).astype(np.float32)
    pairs = np.array([rng.choice(9, 2, replace=False) for _ in range(80)])
    X = centers[pairs].astype(np.float64).mean(axis=1).astype(np.float32)
    X[::2, 0] = np.nextafter(X[::2, 0], np.float32(np.inf))
    return X, centers


def one_last_bit_beside_the_bisector():
    y = np.random.default_rng(1).normal(size=40).astype(np.float32) + np.float32(5000)
    x = np.nextafter(np.float32(4096), np.where(np.arange(40) % 2, np.inf, 0).astype(np.float32))
    return np.stack([x, y], axis=1), np.array([[4095, 5000], [4097, 5000]], np.float32)


def huge_norms_with_tiny_differences():
    X, _ = gaussian(d=4, k=1)
    X = np.float32(1e38) + X * np.spacing(np.float32(1e38))
    return X, X[:8].copy()


def rows_far_beside_the_bisector(far=1e4):
    """All centers are near 0 and two by two on either side of a plane; rows lie far along it."""
    rng = np.random.default_rng(6)
    turn, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    X = rng.normal(size=(60, 5)) * far
    X[:, 0] = 0
    halves = np.eye(5)[0] + rng.normal(size=(4, 5)) * [0, 1e-3, 1e-3, 1e-3, 1e-3]
    centers = np.vstack([halves, halves * [-1, 1, 1, 1, 1]])
    return (X @ turn).astype(np.float32), (centers @ turn).astype(np.float32)


def the_whole_range_of_float32():
    rng = np.random.default_rng(2)
    X = (rng.choice([-1, 1], (60, 4)) * 10.0 ** rng.uniform(-44, 38.5, (60, 4))).astype(np.float32)
    X[:20] = np.where(np.abs(X[:20]) < 1, np.float32(3e38), -X[:20])
    return X, X[::6].copy()


def denormals():
    X = np.random.default_rng(3).integers(-9, 10, (60, 3)) * 2.0**-149
    return X.astype(np.float32), X[:9].astype(np.float32)


def denormals_beside_ones():
    X, centers = denormals()
    X[::3, 0], centers[::2, 0] = 1, 1
    return X, centers


def constant_columns():
    X, centers = gaussian(d=5)
    X[:, 0] = centers[:, 0] = 7e7  # adds nothing, but much to every norm
    X[:, 1] = 3
    return X, centers


def a_huge_constant_column_beside_small_differences():
    X, centers = gaussian(d=3, offset=1.0, spread=1e-5)
    X[:, 1] = centers[:, 1] = 1e38
    return X, centers


def tiny_values_among_centers_of_size_one():
    """Their scores are so small that float32 rounds them like whole numbers."""
    X = np.random.default_rng(4).normal(size=(60, 3)) * 2.0**-74
    centers = np.vstack([np.eye(3), -np.eye(3), X[:6], -X[:6]])  # around 0
    return X.astype(np.float32), centers.astype(np.float32)


def ties_in_another_order_of_the_coordinates(d=5):
    """From 0, all centers are equally far; a sum in floats depends on the order of its terms."""
    rng = np.random.default_rng(9)
    center = (rng.normal(size=d) * 10.0 ** rng.uniform(-5, 0, d)).astype(np.float32)
    centers = np.array([rng.permutation(center) for _ in range(12)])
    return np.zeros((3, d), np.float32), centers


def one_far_outlier(far=1e30):
    X, centers = gaussian(offset=5.0, spread=1e-3)
    X[11], X[12] = far, -far
    return X, centers


def one_center_far_from_the_others():
    X, centers = gaussian()
    centers[4] = 1e30
    X[5] = 1e30
    return X, centers


def decided_far_below_float64():
    # The last coordinate is a tie; the first tells two centers apart by 2**-80 of the distance.
    X = np.array([[0, 2], [0, 2], [2, 0]], np.float32)
    near, far = [0, 1], [2.0**-40, 3]
    return X, np.array([far, near, far[::-1], near[::-1]], np.float32)


CASES = {
    "gaussian": gaussian(),
    **{f"{d} columns": gaussian(d=d, k=5) for d in (1, 2, 33)},
    "one center": gaussian(k=1),
    "every row a center": gaussian(n=40, k=40),
    "few rows, many centers": (gaussian(n=2)[0], gaussian(k=30)[1]),
    "whole numbers": whole_numbers(),
    "equal centers": equal_centers(),
    "all centers equal": (gaussian()[0], np.repeat(gaussian()[1][:1], 5, axis=0)),
    **{f"near ties, {d} columns": near_ties(d) for d in (1, 2, 7, 33)},
    "near ties around 0": near_ties(offset=0.0),
    "near ties around 4096": near_ties(offset=4096.0),
    "near ties around 1e30": near_ties(offset=1e30),
    "one last bit beside the bisector": one_last_bit_beside_the_bisector(),
    "far from 0": gaussian(offset=1e4, spread=1e-2),
    "huge norms, tiny differences": huge_norms_with_tiny_differences(),
    "far rows beside the bisector": rows_far_beside_the_bisector(),
    "the whole range of float32": the_whole_range_of_float32(),
    "denormals": denormals(),
    "denormals beside ones": denormals_beside_ones(),
    "constant columns": constant_columns(),
    "a huge constant column": a_huge_constant_column_beside_small_differences(),
    "tiny values among centers of size one": tiny_values_among_centers_of_size_one(),
    **{f"ties of {d} coordinates": ties_in_another_order_of_the_coordinates(d) for d in (3, 5, 33)},
    "one far outlier": one_far_outlier(),
    "the farthest outlier": one_far_outlier(3.4e38),
    "one center far from the others": one_center_far_from_the_others(),
    "decided far below float64": decided_far_below_float64(),
}
for X_and_centers in CASES.values():
    for array in X_and_centers:
        array.flags.writeable = False  # a kernel that changes its input fails
