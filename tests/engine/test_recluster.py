"""Many candidates of k-means|| are seeded in groups, as well as if all were one."""

from __future__ import annotations

from itertools import permutations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ray_kmeans import kernels
from ray_kmeans.algorithm import draws
from ray_kmeans.algorithm.grid import Summary
from ray_kmeans.algorithm.partial_sums import Partials
from ray_kmeans.data.array import ArraySource
from ray_kmeans.data.sharding import split
from ray_kmeans.engine.pool import LocalPool
from ray_kmeans.engine.seeding import recluster
from ray_kmeans.engine.seeding.kmeans_plus_plus import ArrayField, plus_plus
from ray_kmeans.engine.seeding.recluster import GroupedField
from tests.support.greedy_oracle import distances

EUCLIDEAN = "squared_euclidean"
KERNEL = kernels.load()


def summary_of(X) -> Summary:
    source = ArraySource.of(X)
    return LocalPool(source, split(source.describe().blocks, 1)).summarize()


@given(data=st.data())
def test_after_each_of_the_first_seeds_all_groups_weigh_what_one_would(data):
    row = st.tuples(st.integers(-9, 9), st.integers(-9, 9))
    X = np.array(data.draw(st.lists(row, min_size=2, max_size=20)), np.float32)
    times = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(X), max_size=len(X))))
    groups = data.draw(st.lists(st.integers(0, 4), min_size=len(X), max_size=len(X)))
    one = ArrayField(X, times, EUCLIDEAN, KERNEL)
    field = GroupedField(X, times, np.array(groups, np.int32), EUCLIDEAN, KERNEL)
    for step in range(6):
        assert field.total == one.total  # of whole numbers: exact
        if field.total == 0:
            break
        candidates = field.draw(draws.uniforms(0, "test", step, size=3))
        left = field.with_each(candidates)
        assert (left >= one.with_each(candidates)).all() or step == 0
        field.add(candidates[1:2])
        one.add(candidates[1:2])


def test_a_seed_changes_its_own_group_at_once_and_the_others_soon():
    X = np.array([[0], [1], [2], [3], [4], [5]], np.float32)
    field = GroupedField(
        X, np.ones(6, np.int64), np.array([0, 0, 0, 1, 1, 1], np.int32), EUCLIDEAN, KERNEL
    )
    field.draw(np.array([0.0]))
    field.add(X[:1])
    assert field.total == 0 + 1 + 4 + 9 + 16 + 25
    field._seeds = 16  # as if there were so many

    field.add(field.draw(np.array([0.2])))  # 11 of 55: the row 3
    assert field.total == 0 + 1 + 4 + 0 + 1 + 4  # the row 2 knows of the seed 0 alone

    field.add(field.draw(np.array([0.99])))  # the row 5
    assert field.total == 0 + 1 + 1 + 0 + 1 + 0


def test_groups_keep_the_chances_of_d2_sampling():
    X = np.array([[0], [1], [3], [7]], np.float32)
    between = np.array([distances(X, center, EUCLIDEAN) for center in X])
    chances = {}
    for a, b, c in permutations(range(4), 3):
        second, third = between[a], np.minimum(between[a], between[b])
        chances[a, b, c] = second[b] / second.sum() * third[c] / third.sum() / 4
    n_seeds = 3000
    counts = dict.fromkeys(chances, 0)
    for seed in range(n_seeds):
        groups = np.array([1, 0, 1, 0], np.int32)
        field = GroupedField(X, np.ones(4, np.int64), groups, EUCLIDEAN, KERNEL)
        picks = plus_plus(field, 3, 1, seed, "test").ravel()
        counts[tuple(np.searchsorted(X.ravel(), picks).tolist())] += 1

    expected = n_seeds * np.array(list(chances.values()))
    statistic = ((np.array(list(counts.values())) - expected) ** 2 / expected).sum()
    assert statistic < 50  # chi-square, 23 degrees: beyond with a chance of 1 in 1000


def test_seeds_of_groups_are_about_as_good_as_those_of_one(monkeypatch):
    rng = np.random.default_rng(0)
    middles = 3 * rng.standard_normal((150, 12))
    X = (middles[rng.integers(0, 150, 4200)] + rng.standard_normal((4200, 12))).astype(np.float32)
    summary = summary_of(X)
    units = np.rint(X.astype(np.float64) * summary.grid.scale).astype(np.int64)
    near = Partials(units, np.ones(len(X), np.int64))  # each row is a candidate
    medians = {}
    for many in (1000, 4200):
        monkeypatch.setattr(recluster, "MANY", many)
        losses = []
        for seed in range(7):
            centers = recluster.recluster(X, near, summary, 150, seed)
            result = np.empty((len(X), 150))
            KERNEL.distances(X, centers, EUCLIDEAN, result)
            losses.append(result.min(axis=1).sum() / X.size)
        medians[many] = np.median(losses)

    assert medians[1000] != medians[4200]
    assert medians[1000] < 1.06 * medians[4200]
    assert medians[1000] < 1.1  # the middles themselves have 1
