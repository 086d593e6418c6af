"""Centers that move in many ways, and rows that are held meanwhile."""

from __future__ import annotations

import numpy as np

from ray_kmeans import kernels
from ray_kmeans.kernels.int8 import held_rows as held


def read_only(array):
    array = array.view()
    array.flags.writeable = False
    return array


def cut(X, sizes):
    """Return blocks of these sizes, again and again, each in memory of its own."""
    blocks, first, i = [], 0, 0
    while first < len(X):
        size = sizes[i % len(sizes)]
        blocks.append(read_only(X[first : first + size].copy()))
        first, i = first + size, i + 1
    return blocks


def hold(X, metric, k, kernel, threads=1, sizes=(100,)):
    return kernels.load(kernel, threads).hold(cut(X, sizes), metric, k)


def unit_rows(matrix):
    exact = np.asarray(matrix, np.float64)
    norms = np.sqrt((exact * exact).sum(axis=1, keepdims=True))
    return (exact / np.where(norms > 0, norms, 1)).astype(np.float32)


def lloyd(X, centers, metric):
    labels = hold(X, metric, len(centers), "portable").assign(centers)
    means = centers.astype(np.float64)
    for j in np.unique(labels):
        means[j] = X[labels == j].mean(axis=0, dtype=np.float64)
    return unit_rows(means) if metric == "cosine" else means.astype(np.float32)


def creep(X, centers, metric):
    return centers + np.float32(1e-3) * np.roll(centers, 1, axis=0)


def jump(X, centers, metric):
    return -np.float32(20) * centers - np.float32(7)


def one_jumps(X, centers, metric):
    return np.vstack([centers[:1] + np.float32(1e6), centers[1:]])


def one_moves_to_a_row(X, centers, metric):
    return np.vstack([centers[:-1], X[len(X) // 2][None]])


def some_equal(X, centers, metric):
    return centers[np.arange(len(centers)) // 2 * 2]


def one_zero(X, centers, metric):
    return np.vstack([centers[:-1], 0 * centers[-1:]])


STEPS = {
    "lloyd": lloyd,
    "stay": lambda X, centers, metric: centers,
    "creep": creep,
    "shrink": lambda X, centers, metric: centers * np.float32(1e-6),
    "shrink a little": lambda X, centers, metric: centers * np.float32(0.1),
    "jump": jump,
    "grow": lambda X, centers, metric: centers * np.float32(1e6),
    "grow a little": lambda X, centers, metric: centers * np.float32(30),
    "one jumps": one_jumps,
    "one moves to a row": one_moves_to_a_row,
    "unit": lambda X, centers, metric: unit_rows(centers),
    "some equal": some_equal,
    "one zero": one_zero,
    "the rows": lambda X, centers, metric: X[: len(centers)] if len(X) >= len(centers) else centers,
    "one less": lambda X, centers, metric: centers[1:] if len(centers) > 1 else centers,
    "one more": lambda X, centers, metric: np.vstack([centers, X[:1]]),
    "back": None,
    "regroup": None,
}


def walk(X, centers, metric, steps):
    """Yield the centers after each step; all must be finite."""
    path = [centers]
    yield "", centers
    for step in steps:
        if step == "back":
            path.append(path[len(path) // 2])
        elif step != "regroup":
            new = np.asarray(STEPS[step](X, path[-1], metric), np.float32)
            path.append(new if np.abs(new).max() < 1e15 else centers)
        yield step, path[-1]


def assert_follows(held_rows, X, path, metric, truth="portable", scale=2.0**10):
    """Compare labels, sums and counts after each step with those of rows that are held anew."""
    scale = np.full(X.shape[1], scale)
    for number, (step, centers) in enumerate(path):
        if step == "regroup" and isinstance(held_rows, held.HeldRows):
            held_rows.regroup()
        fresh = hold(X, metric, len(centers), truth)
        # Every third time labels alone, so that the sums have to catch up.
        if number % 3 == 1:
            labels = held_rows.assign(read_only(centers))
            np.testing.assert_array_equal(labels, fresh.assign(centers), step)
            continue
        sums, counts = held_rows.sums(read_only(centers), scale)
        expected_sums, expected_counts = fresh.sums(centers, scale)
        np.testing.assert_array_equal(held_rows._all_labels(), fresh._all_labels(), step)
        np.testing.assert_array_equal(sums, expected_sums, step)
        np.testing.assert_array_equal(counts, expected_counts, step)


def table(n, d, k, metric, seed=0):
    rng = np.random.default_rng([n, d, k, seed])
    X = rng.normal(size=(max(n, k), d)).astype(np.float32)
    X[n // 2 :: 7] = X[0]
    if metric == "cosine":
        X = unit_rows(X)
        X[::11] = 0
    return X, X[rng.permutation(len(X))[:k]].copy()


EVERYTHING = [
    *[
        "lloyd",
        "lloyd",
        "lloyd",
        "stay",
        "regroup",
        "lloyd",
        "creep",
        "creep",
        "one moves to a row",
    ],
    *["regroup", "creep", "one jumps", "back", "shrink a little", "grow a little", "back", "jump"],
    *["regroup", "stay", "shrink", "grow", "the rows", "one more", "lloyd", "one less"],
    *["some equal", "regroup", "lloyd", "one zero", "unit", "lloyd", "back"],
]


def blobs(n, d, k, metric, apart=10):
    rng = np.random.default_rng(5)
    middles = rng.normal(size=(k, d)) * apart
    X = middles[np.concatenate([np.arange(k), rng.integers(0, k, n - k)])] + rng.normal(size=(n, d))
    X = unit_rows(X) if metric == "cosine" else X.astype(np.float32)
    return X, X[:k].copy()
