"""What becomes of the center of a cluster without a row."""

from __future__ import annotations

import warnings
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.algorithm.metric import project
from ray_kmeans.algorithm.splitting import key_of, new_parts
from ray_kmeans.algorithm.state import FitState, Origin, Stop
from ray_kmeans.algorithm.stopping import StopRule
from ray_kmeans.data import sharding
from ray_kmeans.data.array import ArraySource
from ray_kmeans.data.sharding import cut
from ray_kmeans.engine.options import WorkerSetup
from ray_kmeans.engine.pool import LocalPool
from ray_kmeans.engine.seeding import weighted_sampling
from ray_kmeans.engine.trainers import FullBatch
from ray_kmeans.errors import ConfigError
from ray_kmeans.kernels import ALIKE
from tests.support import oracle

METRICS = ("squared_euclidean", "cosine")
FAR = np.float32(1e6)


def pool_of(X, block_rows=8192, n_shards=1, metric="squared_euclidean"):
    """Return a pool of X in blocks of so many rows, and what a fit knows of it."""
    sizes = [min(block_rows, len(X) - start) for start in range(0, len(X), block_rows)]
    pool = LocalPool(
        ArraySource.of(X),
        sharding.split(cut("x", sizes, X.shape[1]), n_shards),
        WorkerSetup(metric),
    )
    return pool, pool.summarize()


def stepped(X, centers, policy="farthest", *, metric="squared_euclidean", cuts=(8192, 1)):
    """Return the state after one step from these centers."""
    pool, summary = pool_of(X, *cuts, metric)
    centers = project(np.array(centers, np.float32), metric)
    trainer = FullBatch(pool, summary, StopRule(), policy)
    return trainer.advance(FitState.initial(centers, metric))


def model(k, model_dir, initial, policy="farthest", **params):
    params = {"use_mini_batch": False, "config": RunConfig(num_workers=0, progress=False), **params}
    return KMeansClustering(k, str(model_dir), initial, empty_clusters=policy, **params)


def relocated(X, centers):
    """Return the centers after one step, worked out over the reals for rows of whole numbers."""
    labels = oracle.labels(X, centers)
    distances = ((X.astype(np.float64) - centers[labels]) ** 2).sum(axis=1)
    expected = oracle.means(X, labels, centers)
    empty = [j for j in range(len(centers)) if j not in labels]
    farthest = sorted(range(len(X)), key=lambda row: (-distances[row], row))
    for j, row in zip(empty, farthest, strict=False):  # there may be fewer rows than centers
        if distances[row] > 0:
            expected[j] = X[row]
    return expected


@st.composite
def rows_and_centers(draw):
    """Rows and centers of small integers: many ties, equal rows and empty clusters."""
    row = st.tuples(st.integers(-4, 4), st.integers(-4, 4))
    X = draw(st.lists(row, min_size=1, max_size=20))
    centers = draw(st.lists(st.one_of(row, st.tuples(st.just(99), st.just(0))), min_size=1))
    return np.array(X, np.float32), np.array(centers, np.float32)


@given(rows_and_centers(), st.integers(1, 9), st.integers(1, 4))
def test_empty_clusters_move_to_the_rows_farthest_from_their_centers(case, block_rows, n_shards):
    X, centers = case

    state = stepped(X, centers, cuts=(block_rows, n_shards))

    np.testing.assert_array_equal(state.centers, relocated(X, centers))


@given(rows_and_centers())
def test_a_kept_center_keeps_every_bit(case):
    X, centers = case

    state = stepped(X, centers, "keep")

    labels = oracle.labels(X, centers)
    np.testing.assert_array_equal(state.centers, oracle.means(X, labels, centers))


def test_the_first_of_rows_that_are_equally_far_is_taken_first():
    X = np.array([[0], [5], [-5], [5], [1]], np.float32)

    for cuts in ((8192, 1), (1, 5), (2, 3)):
        one = stepped(X, [[0], [FAR]], cuts=cuts)
        three = stepped(X, [[0], [FAR], [-FAR], [FAR]], cuts=cuts)

        assert one.centers[1:].ravel().tolist() == [5]
        assert three.centers[1:].ravel().tolist() == [5, -5, 5]
        assert three.history[-1].empty == three.history[-1].relocated == 3


def test_the_distance_is_that_to_the_center_before_the_step():
    X = np.array([[0], [10], [30], [32]], np.float32)  # the new centers are 5 and 31

    assert stepped(X, [[-1], [40], [FAR]]).centers.ravel().tolist() == [5, 31, 10]


def test_other_centers_are_those_that_they_would_be_anyway(gaussian):
    centers = [*gaussian[:3], [FAR] * 5, gaussian[0]]

    moved, kept = (stepped(gaussian, centers, policy) for policy in ("farthest", "keep"))

    assert moved.centers[:3].tobytes() == kept.centers[:3].tobytes()
    assert kept.centers[3:].tobytes() == np.array(centers, np.float32)[3:].tobytes()
    assert moved.counts.tolist() == kept.counts.tolist()
    assert moved.history[-1].inertia == kept.history[-1].inertia
    assert len(np.unique(np.vstack([moved.centers[3:], gaussian]), axis=0)) == 200  # they are rows


@pytest.mark.parametrize("metric", METRICS)
def test_with_fewer_rows_off_their_centers_than_empty_clusters_the_rest_stay(metric):
    X = np.array([[3, 4], [3, 4], [1, 0], [1, 1e-3], [-2, 7], [5, 1]], np.float32)
    centers = [[3, 4], [1, 0], [-2, 7], [5, 1], [-9, -9], [-1, -9], [-9, 0]]

    state = stepped(X, centers, metric=metric)

    before = project(np.array(centers, np.float32), metric)
    assert state.history[-1].empty == 3
    np.testing.assert_array_equal(state.centers[4], project(X[3:4], metric)[0])
    np.testing.assert_array_equal(state.centers[5:], before[5:])


def test_by_cosine_a_center_moves_to_a_row_that_has_a_direction():
    X = np.array([[0, 0], [1, 0], [4, 1], [2, 1], [0, 0], [0, 0]], np.float32)

    state = stepped(X, [[1, 0], [-1, 0.1]], metric="cosine")

    np.testing.assert_array_equal(state.centers[1], project(X[3:4], "cosine")[0])


@pytest.mark.parametrize("metric", METRICS)
def test_any_number_of_workers_gives_the_same_bits(metric):
    X = np.random.default_rng(5).normal(size=(300, 4)).astype(np.float32)
    X[100:150] = X[:50]  # ties
    centers = np.vstack([X[:4], [[0, 0, 0, 1e6]] * 9, X[:2]])
    here = stepped(X, centers, metric=metric, cuts=(16, 1))

    for n_shards in (2, 3, 5):
        there = stepped(X, centers, metric=metric, cuts=(16, n_shards))

        assert there.centers.tobytes() == here.centers.tobytes()
        assert there.history == here.history


@given(rows_and_centers(), st.sampled_from(METRICS))
def test_the_loss_never_rises_and_the_fit_ends(case, metric):
    X, centers = case
    pool, summary = pool_of(X, 6, 2, metric)
    trainer = FullBatch(pool, summary, StopRule(), "farthest")
    state = FitState.initial(project(centers, metric), metric).begin("x")

    while (stop := trainer.why_stop(state)) is None:
        state = trainer.advance(state)
        assert state.iteration < 60

    assert stop in (Stop.CONVERGED, Stop.CYCLE)
    losses = [line.inertia for line in state.history]
    for before, after in pairwise(losses):
        assert after <= before + 1e-6 * (1 + before)


@pytest.mark.parametrize("metric", METRICS)
def test_a_fit_fills_clusters_while_rows_are_off_their_centers(tmp_path, gaussian, metric):
    X = np.abs(gaussian)
    initial = np.vstack([X[:5], -100 * X[:8]])
    losses = {}
    for policy in ("keep", "farthest"):
        km = model(13, tmp_path / policy, initial, policy, distance_metric=metric).fit(X)
        losses[policy] = km.history()[-1].inertia

        assert km.history()[-1].shift == 0
        assert km.history()[-1].empty == (8 if policy == "keep" else 0)
        kept = (km.clusters()[5:] == project(initial[5:].astype(np.float32), metric)).all(axis=1)
        assert kept.tolist() == [policy == "keep"] * 8

    assert losses["farthest"] < 0.9 * losses["keep"]


def test_more_clusters_than_different_rows_end_with_a_loss_of_0(tmp_path):
    X = np.repeat(np.array([[0, 0], [4, 4], [9, 1]], np.float32), 4, axis=0)
    initial = np.array([[0, 0], [-50, 0], [-60, 0], [-70, 0], [-80, 0]])

    km = model(5, tmp_path, initial).fit(X)

    assert km.history()[-1].inertia == 0
    assert km.history()[-1].empty == 2
    assert km.history()[-1].iteration < 8


def test_mini_batch_keeps_its_centers(tmp_path, lattice):
    km = model(3, tmp_path / "m", lattice[:3], use_mini_batch=True)

    with pytest.raises(ConfigError, match=r"'farthest' has no meaning for mini-batch"):
        km.fit(lattice)

    assert not (tmp_path / "m").exists()


# --- split_largest -----------------------------------------------------------------------------


def split(X, centers, state):
    """Return the centers after one step, worked out over the reals for rows of whole numbers.

    Every row has a ticket; the row of a cluster with the lowest ones are its new centers.
    """
    labels = oracle.labels(X, centers)
    expected = oracle.means(X, labels, centers)
    off = [row for row in range(len(X)) if (X[row] != centers[labels[row]]).any()]
    of = {j: [row for row in off if labels[row] == j] for j in range(len(centers))}
    given = dict.fromkeys(of, 0)
    empty = [j for j in range(len(centers)) if j not in labels]
    for _ in empty:
        largest = max(of, key=lambda j: (Fraction(len(of[j]), given[j] + 1), -j))
        given[largest] += len(of[largest]) > 0
    tickets, _ = weighted_sampling.winners(np.arange(len(X)), ALIKE, key_of(state), len(X))
    order = weighted_sampling.winners(np.arange(len(X)), ALIKE, key_of(state), len(X))[1].tolist()
    assert sorted(tickets) == list(tickets)
    chosen = [
        row for j, count in given.items() for row in sorted(of[j], key=order.index)[: int(count)]
    ]
    for j, row in zip(empty, sorted(chosen), strict=False):
        expected[j] = X[row]
    return expected


@given(rows_and_centers(), st.integers(1, 9), st.integers(1, 4), st.integers(0, 3))
def test_empty_clusters_split_the_largest(case, block_rows, n_shards, seed):
    X, centers = case
    state = FitState.initial(centers, origin=Origin(random_seed=seed))
    pool, summary = pool_of(X, block_rows, n_shards)

    after = FullBatch(pool, summary, StopRule(), "split_largest").advance(state)

    np.testing.assert_array_equal(after.centers, split(X, centers, state))


def test_each_step_and_each_seed_of_a_model_draws_other_rows():
    states = [
        replace(FitState.initial(np.zeros((1, 1), "f4"), origin=origin), iteration=step)
        for origin in (None, Origin(random_seed=1), Origin(random_seed=-1))
        for step in (0, 1)
    ]

    assert len({int(key_of(state)) for state in states}) == 6
    assert key_of(states[0]) == key_of(replace(states[0], origin=Origin(random_seed=0)))


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.integers(0, 12))
def test_splits_go_where_most_rows_share_a_center(sizes, count):
    more = [0] * len(sizes)
    for _ in range(count if any(sizes) else 0):
        largest = max(range(len(sizes)), key=lambda j: (Fraction(sizes[j], more[j] + 1), -j))
        more[largest] += 1

    assert new_parts(np.array(sizes), count).tolist() == more


def test_a_heap_of_equal_rows_is_never_split_and_a_row_of_weight_0_is_never_taken(tmp_path):
    X = np.array([[0]] * 90 + [[5], [6], [7]] + [[40]] * 20, np.float32)
    initial = np.array([[0], [6], [40], [FAR]])
    weights = np.array([1] * 90 + [0, 1, 1] + [1] * 20)

    km = model(4, tmp_path, initial, "split_largest").fit(X, sample_weight=weights)

    assert sorted(km.clusters().ravel().tolist()) == [0, 6, 7, 40]
    assert km.history()[-1].inertia == 0


@pytest.mark.parametrize("metric", METRICS)
def test_a_split_has_the_same_bits_for_any_workers_and_after_a_kill(tmp_path, metric):
    X = np.random.default_rng(5).normal(size=(300, 4)).astype(np.float32)
    initial = project(np.vstack([X[:4], [[0, 0, 0, 1e6]] * 9, -X[:2]]).astype("f4"), metric)
    begun = FitState.initial(initial, metric, Origin(random_seed=7))
    found = []
    for n_shards in (1, 2, 5):
        pool, summary = pool_of(X, 16, n_shards, metric)
        trainer = FullBatch(pool, summary, StopRule(), "split_largest")
        state = begun
        for _ in range(4):
            state = trainer.advance(state)
        found.append((state.centers.tobytes(), state.history))
    params = {"distance_metric": metric, "random_seed": 7}
    km = model(15, tmp_path / "m", initial, "split_largest", **params)
    for _ in range(4):
        km.set_params(random_seed=len(km.checkpoints()) + 7 if km.checkpoints() else 7)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the other seed
            km.fit(X, steps=1)

    assert found[1:] == found[:1] * 2
    assert (km.clusters().tobytes(), km.history()) == found[0]
    assert km.history()[0].empty >= 8 > km.history()[-1].empty


@given(rows_and_centers(), st.sampled_from(METRICS))
def test_the_loss_never_rises_by_splits_and_the_fit_ends(case, metric):
    X, centers = case
    pool, summary = pool_of(X, 6, 2, metric)
    trainer = FullBatch(pool, summary, StopRule(), "split_largest")
    state = FitState.initial(project(centers, metric), metric).begin("x")

    while (stop := trainer.why_stop(state)) is None:
        state = trainer.advance(state)
        assert state.iteration < 80

    assert stop in (Stop.CONVERGED, Stop.CYCLE)
    losses = [line.inertia for line in state.history]
    for before, after in pairwise(losses):
        assert after <= before + 1e-6 * (1 + before)
