"""Which rows make up a mini-batch: every row once per epoch, and nothing that the seed favours."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, permutations
from math import comb, factorial, isqrt, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_kmeans.algorithm import draws
from ray_kmeans.algorithm.batch_rows import ROUNDS, Batches, permuted

SEEDS = st.integers(-(2**40), 2**40)


def keys_of(seed):
    return draws.words(seed, "epoch", 0, size=ROUNDS)


def whole_permutation(n, seed):
    return [int(Batches(n, 1, seed).numbers(step)[0]) for step in range(n)]


def excess(counts, cells, trials):
    """How many standard deviations chi-square lies above its mean, if all cells are as likely."""
    expected = trials / cells
    chi_square = sum((counts[cell] - expected) ** 2 for cell in counts) / expected
    chi_square += (cells - len(counts)) * expected
    return (chi_square - (cells - 1)) / sqrt(2 * (cells - 1))


@given(n=st.integers(1, 300), size=st.integers(1, 310), seed=SEEDS, epoch=st.integers(0, 10**9))
def test_every_row_comes_exactly_once_per_epoch(n, size, seed, epoch):
    batches = Batches(n, size, seed)
    first = epoch * batches.per_epoch

    drawn = [batches.numbers(step) for step in range(first, first + batches.per_epoch)]

    assert sorted(np.concatenate(drawn).tolist()) == list(range(n))
    assert all((np.diff(numbers) > 0).all() for numbers in drawn)
    assert {numbers.dtype for numbers in drawn} == {np.dtype(np.int64)}


@given(n=st.integers(1, 300), size=st.integers(1, 310), epoch=st.integers(0, 5))
def test_the_last_batch_of_an_epoch_holds_the_rest(n, size, epoch):
    batches = Batches(n, size, seed=1)
    first = epoch * batches.per_epoch

    rows = [batches.rows_in(first + number) for number in range(batches.per_epoch)]

    assert rows[:-1] == [size] * (len(rows) - 1)
    assert 0 < rows[-1] <= size
    assert sum(rows) == n
    assert rows == [len(batches.numbers(first + number)) for number in range(len(rows))]


@pytest.mark.parametrize(("size", "is_whole"), [(1, False), (9, False), (10, True), (11, True)])
def test_a_batch_of_at_least_all_rows_is_all_rows(size, is_whole):
    batches = Batches(10, size, seed=3)

    assert batches.is_whole == is_whole
    assert (batches.per_epoch == 1) == is_whole
    if is_whole:
        assert batches.numbers(7).tolist() == list(range(10))


def test_epochs_and_seeds_differ_and_an_address_has_always_the_same_rows():
    drawn = {
        (seed, step): tuple(Batches(1000, 100, seed).numbers(step).tolist())
        for seed in (0, 1, -1, 2**70)
        for step in range(40)
    }

    assert len(set(drawn.values())) == len(drawn)
    for (seed, step), rows in drawn.items():
        assert tuple(Batches(1000, 100, seed).numbers(step).tolist()) == rows


def test_a_batch_of_a_huge_data_set_takes_no_more_than_its_own_size():
    batches = Batches(10**15, 1000, seed=5)

    first, second = batches.numbers(10**11), batches.numbers(10**11 + 1)

    assert len(np.union1d(first, second)) == 2000
    assert min(first[0], second[0]) >= 0
    assert max(first[-1], second[-1]) < 10**15
    assert 4.5e14 < np.concatenate([first, second]).mean() < 5.5e14


@pytest.mark.parametrize("seed", [0, 1])
def test_the_permutation_is_one_for_every_small_n(seed):
    for n in range(1, 60):
        assert sorted(whole_permutation(n, seed)) == list(range(n))
    for n in range(1, 400):
        where = permuted(np.arange(n, dtype=np.uint64), n, keys_of(seed))
        np.testing.assert_array_equal(np.sort(where), np.arange(n))


@pytest.mark.parametrize("n", [10**5, 99_856, 99_857, 99_855])  # 99,856 is a square
def test_the_permutation_is_one_for_large_n(n):
    where = permuted(np.arange(n, dtype=np.uint64), n, keys_of(2))

    np.testing.assert_array_equal(np.sort(where), np.arange(n))


@pytest.mark.parametrize("n", [10**9 + 7, 10**12, 2**40, 10**15])
def test_the_permutation_takes_different_places_of_a_huge_n_to_different_ones(n):
    places = np.unique(draws.words(3, "places", size=100_000) % np.uint64(n))

    where = permuted(places, n, keys_of(4))

    assert len(np.unique(where)) == len(places)
    assert where.max() < n


def plainly_permuted(place, n, keys):
    """Where the network takes one place, by whole numbers of any size."""
    a = isqrt(n - 1) + 1
    b = -(-n // a)
    while True:
        high, low = divmod(place, a)
        for number, key in enumerate(keys):
            given = np.array([low if number % 2 else high], np.uint64)
            move = int(draws.mix(given, key)[0])
            if number % 2:
                high = (high + move) % b
            else:
                low = (low + move) % a
        place = high * a + low
        if place < n:
            return place


@given(n=st.integers(1, 200) | st.integers(1, 2**62), seed=SEEDS, of=st.integers(0, 2**62))
def test_the_compiled_network_is_the_one_of_whole_numbers(n, seed, of):
    keys = keys_of(seed)
    places = [of % n, 0, n - 1]

    where = permuted(np.array(places, np.uint64), n, keys)

    assert where.tolist() == [plainly_permuted(place, n, keys) for place in places]


def test_places_may_be_asked_for_one_by_one_and_are_not_changed():
    places = np.arange(50, dtype=np.uint64)[::-1].copy()

    where = permuted(places, 77, keys_of(6))

    assert places.tolist() == list(range(49, -1, -1))
    assert where.tolist() == [int(permuted(places[[i]], 77, keys_of(6))[0]) for i in range(50)]


@pytest.mark.parametrize("n", [6, 12, 30, 81])  # whole rectangles: nothing falls outside of them
def test_a_hash_at_the_end_of_its_range_takes_no_two_places_to_one(n):
    key = np.uint64(0xCF9A04AF2AD1A911)
    assert draws.mix(np.zeros(1, np.uint64), key).tolist() == [2**64 - 1]

    for number in range(ROUNDS):
        keys = np.zeros(ROUNDS, np.uint64)
        keys[number] = key
        where = permuted(np.arange(n, dtype=np.uint64), n, keys)

        assert sorted(where.tolist()) == list(range(n))


@pytest.mark.parametrize(("n", "size"), [(20, 5), (50, 7), (101, 50)])
def test_every_row_is_about_equally_often_in_the_first_batch(n, size):
    n_seeds = 2000
    counts = np.zeros(n)
    for seed in range(n_seeds):
        counts[Batches(n, size, seed).numbers(0)] += 1

    share = size / n
    variance = n_seeds * share * (1 - share) * n / (n - 1)
    statistic = ((counts - n_seeds * share) ** 2).sum() / variance

    assert abs(statistic - (n - 1)) < 4 * sqrt(2 * (n - 1))


@pytest.mark.parametrize("n", [2, 3, 5, 6, 7, 8])
def test_every_set_of_rows_is_about_equally_often_the_first_batch(n):
    size, n_seeds = n // 2, 2000
    drawn = Counter(tuple(Batches(n, size, seed).numbers(0).tolist()) for seed in range(n_seeds))

    assert set(drawn) == set(combinations(range(n), size))
    assert excess(drawn, comb(n, size), n_seeds) < 4


def test_every_pair_of_rows_is_about_equally_often_in_one_batch():
    n_epochs = 3000
    batches = Batches(12, 2, seed=0)

    drawn = Counter(
        tuple(batches.numbers(epoch * batches.per_epoch).tolist()) for epoch in range(n_epochs)
    )

    assert len(drawn) == comb(12, 2)
    assert excess(drawn, comb(12, 2), n_epochs) < 4


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 7])
def test_every_order_of_a_few_rows_comes_about_equally_often(n):
    n_seeds = 4000
    drawn = Counter(tuple(whole_permutation(n, seed)) for seed in range(n_seeds))

    assert set(drawn) <= set(permutations(range(n)))
    assert len(drawn) == factorial(n) or n_seeds < 10 * factorial(n)
    assert excess(drawn, factorial(n), n_seeds) < 4
