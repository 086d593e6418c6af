"""The weights of seeding: distances to the nearest seed, their sums, and what is drawn by them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_kmeans import kernels
from ray_kmeans.algorithm import draws
from ray_kmeans.algorithm.metric import project
from ray_kmeans.engine.seeding.potential import FEW, Potential, in_order

KERNEL = kernels.load()
METRICS = ("squared_euclidean", "cosine")


def distances(rows, seeds, metric="squared_euclidean"):
    """Return all distances, (n, seeds), in the most obvious way."""
    x, c = rows.astype(np.float64)[:, None], seeds.astype(np.float64)[None]
    # By cosine, weights are twice the distance: the chances are the same.
    return ((x - c) ** 2).sum(axis=2) if metric != "cosine" else 2 - 2 * (x * c).sum(axis=2)


def counts_in(potential, n_seeds):
    """Return how many rows are nearest to each seed, by its partial sums."""
    columns = potential._blocks[0].shape[1]
    return potential.sums_near(0, n_seeds, np.ones(columns), KERNEL).counts


def cut(X, sizes):
    """Return X in blocks of these sizes."""
    return np.split(X, np.cumsum(sizes)[:-1])


def weighted(*squares):
    """Return the potential of one block whose rows have these weights, all squares of integers."""
    rows = np.sqrt(np.array(squares, np.float32))[:, None]
    potential = Potential([rows], "squared_euclidean")
    potential.add(np.zeros((1, 1), np.float32), KERNEL)
    assert potential.weights[0].tolist() == list(squares)
    return potential


@st.composite
def rows_and_seeds(draw):
    """Rows of small integers in blocks, and seeds in portions: every distance and sum is exact."""
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    d = draw(st.integers(1, 3))
    row = st.lists(st.integers(-3, 3), min_size=d, max_size=d)
    X = draw(st.lists(row, min_size=sum(sizes), max_size=sum(sizes)))
    portion = st.lists(row, min_size=1, max_size=2 * FEW)
    portions = draw(st.lists(portion, min_size=1, max_size=4))
    return np.array(X, np.float32), sizes, [np.array(each, np.float32) for each in portions]


@given(rows_and_seeds())
def test_a_weight_is_the_distance_to_the_nearest_seed_however_many_come_at_once(case):
    X, sizes, portions = case
    potential = Potential(cut(X, sizes), "squared_euclidean")

    for number, seeds in enumerate(portions, start=1):
        sums = potential.add(seeds, KERNEL)

        so_far = np.concatenate(portions[:number])
        nearest = distances(X, so_far).min(axis=1)
        np.testing.assert_array_equal(np.concatenate(potential.weights), nearest)
        assert sums.tolist() == [part.sum() for part in cut(nearest, sizes)]


@given(rows_and_seeds())
def test_every_row_counts_for_the_first_of_its_nearest_seeds(case):
    X, sizes, portions = case
    seeds = np.concatenate(portions)
    potential = Potential(cut(X, sizes), "squared_euclidean")
    for portion in portions:
        potential.add(portion, KERNEL)

    counts = counts_in(potential, len(seeds))

    expected = np.bincount(distances(X, seeds).argmin(axis=1), minlength=len(seeds))
    assert counts.tolist() == expected.tolist()
    assert counts.sum() == len(X)


@pytest.mark.parametrize("metric", METRICS)
def test_few_and_many_seeds_at_once_give_the_same_weights_and_counts(gaussian, metric):
    X = project(gaussian, metric)
    seeds = X[::7]
    assert len(seeds) > FEW
    one_by_one, at_once = Potential(cut(X, [50, 150]), metric), Potential(cut(X, [50, 150]), metric)

    for seed in seeds:
        sums = one_by_one.add(seed[None], KERNEL)

    np.testing.assert_allclose(at_once.add(seeds, KERNEL), sums, rtol=1e-14)
    for few, many in zip(one_by_one.weights, at_once.weights, strict=True):
        np.testing.assert_allclose(many, few, rtol=1e-12, atol=1e-15)
    oracle = distances(X, seeds, metric)
    np.testing.assert_allclose(np.concatenate(at_once.weights), oracle.min(axis=1), atol=1e-6)
    expected = np.bincount(oracle.argmin(axis=1)).tolist()
    assert counts_in(one_by_one, len(seeds)).tolist() == expected
    assert counts_in(at_once, len(seeds)).tolist() == expected


@pytest.mark.parametrize("metric", METRICS)
def test_the_same_calls_give_the_same_bits(gaussian, metric):
    def replay():
        potential = Potential(cut(X, [120, 80]), metric)
        sums = [potential.add(X[a:b], KERNEL).tobytes() for a, b in [(0, 1), (1, 30), (30, 36)]]
        return sums, [weights.tobytes() for weights in potential.weights]

    X = project(gaussian, metric)

    assert replay() == replay()


@pytest.mark.parametrize("metric", METRICS)
def test_what_a_candidate_would_leave_is_what_it_leaves(gaussian, metric):
    X = project(gaussian, metric)
    for candidate in range(3):
        potential = Potential(cut(X, [30, 170]), metric)
        potential.add(X[:2], KERNEL)

        would = potential.with_each(X[50:53], KERNEL)

        sums = potential.add(X[50 + candidate : 51 + candidate], KERNEL)
        assert would[:, candidate].tobytes() == sums.tobytes()


def test_asking_for_what_a_candidate_would_leave_changes_nothing(gaussian):
    asked, other = (Potential([gaussian], "squared_euclidean") for _ in range(2))
    for potential in (asked, other):
        potential.add(gaussian[:2], KERNEL)

    asked.with_each(gaussian[50:53], KERNEL)

    np.testing.assert_array_equal(asked.weights[0], other.weights[0])


@pytest.mark.parametrize("columns", [None, 1, 5])
def test_sums_are_added_one_after_the_other(columns):
    shape = (1000,) if columns is None else (1000, columns)
    values = np.random.default_rng(0).random(shape) ** 9

    total = values[0]
    for value in values[1:]:
        total = total + value

    assert in_order(values).tobytes() == np.asarray(total).tobytes()


def test_a_row_without_a_direction_has_no_weight_and_counts_for_the_first_seed():
    X = project(np.array([[0, 0], [3, 0], [0, 2], [0, 0]], np.float32), "cosine")
    potential = Potential(cut(X, [2, 2]), "cosine")

    assert potential.add(X[1:2], KERNEL).tolist() == [0, 2]
    assert [weights.tolist() for weights in potential.weights] == [[0, 0], [2, 0]]
    assert potential.with_each(X[2:3], KERNEL).tolist() == [[0], [0]]
    assert counts_in(potential, 1).tolist() == [4]


@given(
    st.lists(st.sampled_from([0, 0, 1, 4, 9]), min_size=1, max_size=9).filter(any),
    st.floats(0, 1),
    st.booleans(),
)
def test_an_offset_finds_the_first_row_where_the_sum_exceeds_it(squares, share, at_a_border):
    offset = float(int(share * sum(squares))) if at_a_border else share * sum(squares)
    beyond = [row for row, total in enumerate(np.cumsum(squares)) if total > offset]
    expected = beyond[0] if beyond else np.flatnonzero(squares)[-1]

    assert weighted(*squares).find(0, offset) == expected


@pytest.mark.parametrize(
    ("offset", "row"),
    [(0.0, 1), (0.999, 1), (1.0, 3), (4.999, 3), (np.nextafter(5, 0), 3), (5.0, 3), (6.0, 3)],
)
def test_rows_without_weight_are_never_found(offset, row):
    assert weighted(0, 1, 0, 4, 0).find(0, offset) == row


def test_a_row_is_looked_for_in_its_own_block():
    potential = Potential([np.full((3, 1), 2, np.float32), np.ones((3, 1), np.float32)], "cosine")
    potential.weights[0][:], potential.weights[1][:] = 0, [0, 1, 2]

    assert [potential.find(1, offset) for offset in (0, 1, 2.5)] == [1, 2, 2]


def test_rows_join_with_a_chance_like_their_weight_each_on_its_own():
    squares = [0, 1, 4, 9, 16, 25, 36, 4, 9, 0, 1, 16] * 3
    share = 1 / 30  # the weight 36 joins always
    chance = np.minimum(np.array(squares) * share, 1)
    potential = weighted(*squares)
    keys = draws.words(0, "test", size=4000)

    joined = np.array([potential.joins(0, 1000, key, share) for key in keys])

    deviation = np.sqrt(chance * (1 - chance) / len(keys))
    assert (np.abs(joined.mean(axis=0) - chance) <= 4 * deviation).all()
    assert not joined[:, chance == 0].any()
    assert joined[:, chance == 1].all()
    # Rows on their own: the variance of how many join is the sum of theirs; keys on their own.
    totals = joined.sum(axis=1)
    assert totals.var() == pytest.approx((chance * (1 - chance)).sum(), rel=0.1)
    assert abs(np.corrcoef(totals[:-1], totals[1:])[0, 1]) < 0.07
    free = (chance > 0) & (chance < 1)
    between = np.corrcoef(joined[:, free].T) - np.eye(free.sum())
    assert np.abs(between).max() < 5 / np.sqrt(len(keys))


def test_who_joins_does_not_depend_on_the_blocks(gaussian):
    def joined(sizes):
        potential = Potential(cut(gaussian, sizes), "squared_euclidean")
        potential.add(gaussian[:1], KERNEL)
        firsts = np.cumsum([0, *sizes[:-1]])
        return [
            join
            for block, first in enumerate(firsts)
            for join in potential.joins(block, int(first), np.uint64(77), 0.05).tolist()
        ]

    assert joined([200]) == joined([1, 99, 60, 40])
    assert 20 < sum(joined([200])) < 180
