"""Greedy k-means++ picks what a slow, obvious one picks from the same uniform numbers."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_kmeans import kernels
from ray_kmeans.algorithm import draws
from ray_kmeans.algorithm.metric import project
from ray_kmeans.data.array import ArraySource
from ray_kmeans.data.sharding import cut, split
from ray_kmeans.engine.options import WorkerSetup
from ray_kmeans.engine.pool import LocalPool
from ray_kmeans.engine.seeding import choose
from ray_kmeans.engine.seeding.kmeans_plus_plus import (
    ArrayField,
    PoolField,
    candidates_of,
    plus_plus,
    rows_in_any_order,
)
from ray_kmeans.engine.seeding.potential import Potential
from ray_kmeans.engine.worker import ShardWorker
from tests.support.greedy_oracle import distances, greedy_oracle, small_data

KERNEL = kernels.load()


def pool_of(X, block_rows=8192, n_shards=1, metric="squared_euclidean"):
    """Return a pool that holds X in blocks of so many rows."""
    sizes = [min(block_rows, len(X) - start) for start in range(0, len(X), block_rows)]
    pool = LocalPool(
        ArraySource.of(X), split(cut("x", sizes, X.shape[1]), n_shards), WorkerSetup(metric)
    )
    pool.read()
    return pool


def field_of(pool):
    return PoolField(pool, pool.summarize())


@given(
    X=small_data(),
    k=st.integers(1, 12),
    tries=st.integers(1, 4),
    seed=st.integers(-3, 2**70),
    block_rows=st.integers(1, 12),
    n_shards=st.integers(1, 4),
)
def test_the_picks_are_those_of_the_oracle(X, k, tries, seed, block_rows, n_shards):
    picked = greedy_oracle(X, np.ones(len(X)), k, tries, seed, "test")

    field = field_of(pool_of(X, block_rows, n_shards))
    seeds = plus_plus(field, k, tries, seed, "test")

    np.testing.assert_array_equal(seeds, X[picked])
    assert seeds.dtype == np.float32


@given(
    axes=st.lists(st.sampled_from(range(8)), min_size=1, max_size=25),
    k=st.integers(1, 9),
    tries=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_the_picks_are_those_of_the_oracle_by_cosine(axes, k, tries, seed):
    units = np.vstack([np.eye(4), -np.eye(4)]).astype(np.float32)  # distances 0, 1 and 2
    lengths = np.arange(1, len(axes) + 1, dtype=np.float32)[:, None]
    picked = greedy_oracle(units[axes], np.ones(len(axes)), k, tries, seed, "test", "cosine")

    field = field_of(pool_of(units[axes] * lengths, 6, 2, "cosine"))

    np.testing.assert_array_equal(plus_plus(field, k, tries, seed, "test"), units[axes][picked])


@given(
    X=small_data(),
    times=st.lists(st.integers(0, 5), min_size=30, max_size=30).filter(lambda times: times[0]),
    k=st.integers(1, 8),
    tries=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_a_row_that_counts_several_times_is_as_good_as_so_many_rows(X, times, k, tries, seed):
    times = np.array(times[: len(X)])
    picked = greedy_oracle(X, times, k, tries, seed, "test")

    weighted = ArrayField(X, times, "squared_euclidean", KERNEL)
    repeated = np.repeat(X, times, axis=0)

    seeds = plus_plus(weighted, k, tries, seed, "test")
    np.testing.assert_array_equal(seeds, X[picked])
    one_each = field_of(pool_of(repeated, 7))
    np.testing.assert_array_equal(plus_plus(one_each, k, tries, seed, "test"), seeds)


@pytest.mark.parametrize("retries", [0, 1, 5, -1])
def test_the_method_makes_one_try_and_so_many_retries(lattice, retries):
    pool = pool_of(lattice, 50)
    tries = 1 + retries if retries >= 0 else 1 + 2 + math.floor(math.log(9))
    picked = greedy_oracle(lattice, np.ones(120), 9, tries, 3, "kmeans_plus_plus")

    seeds = choose.choose_centers("kmeans_plus_plus", 9, retries, 3, pool, pool.summarize())

    np.testing.assert_array_equal(seeds, lattice[picked])


@pytest.mark.parametrize(
    ("retries", "k", "tries"),
    [(0, 9, 1), (2, 9, 3), (8, 1, 9)]
    + [(-1, k, tries) for k, tries in [(1, 3), (2, 3), (3, 4), (7, 4), (8, 5), (20, 5), (21, 6)]]
    + [(-7, 1000, 9)],
)
def test_negative_retries_are_two_and_the_logarithm_of_k_without_its_fraction(retries, k, tries):
    assert candidates_of(retries, k) == tries


def test_with_one_candidate_there_is_no_choice():
    class Counted(ArrayField):
        def with_each(self, candidates):
            raise AssertionError("one more look at the data, for nothing")

    X = np.arange(9, dtype=np.float32)[:, None]

    assert len(plus_plus(Counted(X, np.ones(9), "squared_euclidean", KERNEL), 4, 1, 0, "test")) == 4


def test_candidates_that_are_equally_good_are_taken_in_the_order_of_drawing():
    X = np.array([[0], [8]], np.float32)  # either of them leaves the same
    first_drawn = [int(2 * draws.uniforms(seed, "test", 0, size=3)[0]) for seed in range(30)]

    picks = [plus_plus(field_of(pool_of(X)), 2, 3, seed, "test")[0] for seed in range(30)]

    np.testing.assert_array_equal(picks, X[first_drawn])
    assert 5 < sum(first_drawn) < 25


@pytest.mark.parametrize(
    ("retries", "reference"),
    [
        (0, [37, 28, 32, 34, 38, 30, 34, 27, 40]),
        (2, [2, 5, 30, 65, 101, 54, 30, 11, 2]),
        (8, [0, 0, 2, 52, 207, 37, 2, 0, 0]),
    ],
)
def test_retries_draw_the_first_center_to_the_middle(retries, reference):
    """The reference is TensorFlow's histogram over 300 seeds of its own."""
    X = np.arange(9, dtype=np.float32)[:, None]
    pool = pool_of(X)
    summary = pool.summarize()
    counts = np.zeros(9, int)
    for seed in range(300):
        pool.ask(ShardWorker.end_seeding)
        field = PoolField(pool, summary)
        counts[int(plus_plus(field, 1, candidates_of(retries, 1), seed, "test")[0, 0])] += 1

    # The best of the candidates is the one nearest to 4: exact chances by counting.
    tries = 1 + retries
    within = [(2 * ring + 1) / 9 for ring in range(5)]
    none_nearer = [1.0] + [(1 - share) ** tries for share in within]
    ring_chance = -np.diff(none_nearer)
    chances = np.array([ring_chance[abs(x - 4)] / (1 if x == 4 else 2) for x in range(9)])
    for observed in (counts, np.array(reference)):
        assert (np.abs(observed - 300 * chances) < 4.5 * np.sqrt(300 * chances) + 1.5).all()


@pytest.mark.parametrize("metric", ["squared_euclidean", "cosine"])
def test_a_triple_is_picked_with_the_chance_of_d2_sampling(metric):
    X = {
        "squared_euclidean": np.array([[0], [1], [3], [7]], np.float32),
        "cosine": np.array([[1, 0], [3, 1], [0, 1], [-1, 2]], np.float32),
    }[metric]
    pool, units = pool_of(X, 3, 2, metric), project(X, metric)
    between = np.array([distances(units, center, metric) for center in units])
    np.fill_diagonal(between, 0)
    chances = {}
    for a, b, c in permutations(range(4), 3):
        second, third = between[a], np.minimum(between[a], between[b])
        chances[a, b, c] = second[b] / second.sum() * third[c] / third.sum() / 4
    n_seeds = 3000
    summary = pool.summarize()
    counts = dict.fromkeys(chances, 0)
    for seed in range(n_seeds):
        pool.ask(ShardWorker.end_seeding)
        picks = plus_plus(PoolField(pool, summary), 3, 1, seed, "test")
        counts[tuple(int(np.flatnonzero((units == pick).all(axis=1))[0]) for pick in picks)] += 1

    expected = n_seeds * np.array(list(chances.values()))
    statistic = ((np.array(list(counts.values())) - expected) ** 2 / expected).sum()
    assert statistic < 50  # chi-square, 23 degrees: beyond with a chance of 1 in 1000


class OnPaper:
    """A pool of which only the weights are known."""

    def __init__(self, blocks):
        self._blocks = [np.array(block, np.float64) for block in blocks]

    def remember(self, method, seeds):
        assert method is ShardWorker.weigh
        return [np.array([in_order_sum(block) for block in self._blocks])]

    def ask(self, method, blocks, offsets):
        assert method is ShardWorker.find
        potential = Potential([np.ones((len(each), 1), np.float32) for each in self._blocks], "")
        potential.weights = self._blocks
        firsts = np.cumsum([0] + [len(block) for block in self._blocks])
        pairs = zip(blocks, offsets, strict=True)
        return [np.array([firsts[block] + potential.find(block, at) for block, at in pairs])]


def in_order_sum(values):
    total = 0.0
    for value in values:
        total += float(value)
    return total


def numbers_drawn(blocks, u):
    """Return the rows that PoolField draws where the weights are these."""
    field = PoolField(OnPaper(blocks), None)
    field.add(np.zeros((1, 1), np.float32))
    return field.numbers(np.asarray(u, np.float64)).tolist()


@given(
    st.lists(st.lists(st.sampled_from([0, 0, 1, 2, 5]), min_size=1, max_size=4), min_size=1).filter(
        lambda blocks: any(map(any, blocks))
    ),
    st.lists(st.floats(0, 1 - 2**-53), max_size=5),
)
def test_a_number_finds_the_first_row_where_the_sum_over_all_blocks_exceeds_it(blocks, more):
    weights = np.concatenate(blocks)
    sums = np.cumsum(weights)
    borders = [u for u in sums / sums[-1] if u < 1]
    us = [0.0, 1 - 2**-53, *borders, *np.nextafter(borders, 0), *more]
    us = [u for u in us if u >= 0]

    rows = numbers_drawn(blocks, us)

    assert rows == [int(np.flatnonzero(sums > u * sums[-1])[0]) for u in us]
    assert (weights[rows] > 0).all()


@given(
    st.lists(
        st.lists(st.sampled_from([0.0, 1e-30, 0.1, 1 / 3, 7.7, 1e17]), min_size=1, max_size=4),
        min_size=1,
    ).filter(lambda blocks: any(map(any, blocks))),
    st.lists(st.integers(0, 2**53 - 1), max_size=9),
)
@settings(max_examples=300)
def test_whatever_is_rounded_no_row_without_weight_is_drawn(blocks, more):
    sums = np.cumsum([in_order_sum(block) for block in blocks])
    borders = [u for u in sums / sums[-1] if 0 < u < 1]
    us = np.array([0, 1 - 2**-53, *np.array(more) * 2.0**-53, *borders])
    us = np.concatenate([us, np.nextafter(us, 0), np.nextafter(borders, 1)])

    rows = numbers_drawn(blocks, us[us < 1])

    assert (np.concatenate(blocks)[rows] > 0).all()


def test_a_target_that_rounding_puts_before_its_block_draws_no_row_without_weight():
    # Sums 2**53 + 2 and, with a tie, 2**53 + 4; less 1, with a tie again, the block begins at
    # 2**53 + 4, beyond the target 2**53 + 2.
    assert numbers_drawn([[2.0**53 + 2], [0, 1]], [1 - 2**-52]) in ([0], [2])


def test_rows_are_drawn_with_a_chance_like_their_weight():
    blocks = [[4, 0, 1], [0], [2, 2], [0, 7]]
    weights = np.concatenate(blocks)
    u = draws.uniforms(0, "test", size=8000)

    counts = np.bincount(numbers_drawn(blocks, u), minlength=len(weights))

    expected = 8000 * weights / weights.sum()
    assert (counts[weights == 0] == 0).all()
    some = weights > 0
    assert ((counts - expected)[some] ** 2 / expected[some]).sum() < 18  # 4 degrees: 1 in 1000


def test_a_row_of_an_array_is_drawn_with_a_chance_like_its_times():
    X = np.arange(5, dtype=np.float32)[:, None]
    field = ArrayField(X, np.array([0, 1, 0, 2, 1]), "squared_euclidean", KERNEL)
    u = np.array([0, 0.25 - 2**-53, 0.25, 0.75, 1 - 2**-53])

    assert field.draw(u).ravel().tolist() == [1, 1, 3, 4, 4]
    assert field.first(u).ravel().tolist() == [1, 1, 3, 4, 4]

    field.add(X[3:4])  # weights 0, 4, 0, 0, 1

    assert field.draw(np.array([0, 0.8 - 1e-9, 0.8 + 1e-9])).ravel().tolist() == [1, 1, 4]
    assert field.total == 5
    assert field.with_each(X[[0, 4]]).tolist() == [2, 4]


def test_before_there_is_a_seed_every_row_is_as_likely():
    X = np.arange(7, dtype=np.float32)[:, None]
    field = field_of(pool_of(X, 3, 2))

    rows = field.first(np.array([0, 1 / 7 - 1e-9, 1 / 7 + 1e-9, 0.5, 1 - 2**-53]))

    assert rows.ravel().tolist() == [0, 0, 1, 3, 6]


def test_rows_come_in_the_order_asked_for_and_as_often(gaussian):
    pool = pool_of(gaussian, 30, 3)
    numbers = np.array([7, 199, 0, 7, 31, 30, 29, 7])

    np.testing.assert_array_equal(rows_in_any_order(pool, numbers), gaussian[numbers])


def test_seeding_ends_when_no_row_is_left_that_is_none_of_the_seeds():
    X = np.array([[1, 1], [5, 5], [1, 1], [9, 1], [5, 5]], np.float32)

    for tries in (1, 3):
        seeds = plus_plus(field_of(pool_of(X, 2)), 5, tries, 0, "test")

        assert sorted(map(tuple, seeds.tolist())) == [(1, 1), (5, 5), (9, 1)]


@pytest.mark.parametrize("retries", [0, 2])
def test_by_cosine_a_row_without_a_direction_is_no_seed_while_others_remain(retries):
    X = np.zeros((40, 2), np.float32)
    X[[5, 17, 30]] = [[1, 0], [0, 3], [-2, 0]]
    pool = pool_of(X, 8, 2, "cosine")
    summary = pool.summarize()
    for seed in range(10):
        seeds = choose.choose_centers("kmeans_plus_plus", 3, retries, seed, pool, summary)

        assert sorted(map(tuple, seeds.tolist())) == [(-1, 0), (0, 1), (1, 0)]
