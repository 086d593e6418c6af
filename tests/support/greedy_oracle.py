"""Greedy k-means++ as a slow, obvious function, and small data to compare by."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import strategies as st

from ray_kmeans.algorithm import draws


def distances(rows, center, metric):
    """Return the distance of each row to one center; exact for the data of these tests."""
    x, c = rows.astype(np.float64), center.astype(np.float64)
    return ((x - c) ** 2).sum(axis=1) if metric != "cosine" else 1 - (x * c).sum(axis=1)


def greedy_oracle(X, times, k, tries, seed, purpose, metric="squared_euclidean"):
    """Return the numbers of the rows that are picked, X being as the metric sees it."""
    picked = []
    nearest = np.full(len(X), np.inf)
    weights = times.astype(np.float64)
    while len(picked) < k and weights.sum() > 0:
        candidates, totals = [], []
        for u in draws.uniforms(seed, purpose, len(picked), size=tries):
            running, row = Fraction(0), -1
            while running <= Fraction(float(u * in_order(weights))):
                row += 1
                running += Fraction(float(weights[row]))
            candidates.append(row)
            left = np.minimum(nearest, distances(X, X[row], metric))
            totals.append(in_order(left * times))
        best = candidates[totals.index(min(totals))]  # `index` finds the first that was drawn
        picked.append(best)
        nearest = np.minimum(nearest, distances(X, X[best], metric))
        weights = nearest * times
    return picked


def in_order(values):
    """Return the float64 sum of the values, added one after the other."""
    total = 0.0
    for value in values.tolist():
        total += value
    return total


@st.composite
def small_data(draw):
    """Rows of small integers, many of them equal: every distance and every sum is exact."""
    d = draw(st.integers(1, 3))
    row = st.lists(st.integers(-4, 4), min_size=d, max_size=d)
    return np.array(draw(st.lists(row, min_size=1, max_size=30)), np.float32)
