from __future__ import annotations

import numpy as np
import pytest

from ray_kmeans.algorithm.draws import (
    distinct_rows,
    fractions,
    mix,
    uniforms,
    words,
)

SHAPES = [(1, 1), (2, 1), (7, 3), (10, 5), (10, 6), (100, 99), (100, 100), (10**12, 1000)]


@pytest.mark.parametrize(("n_rows", "size"), SHAPES)
@pytest.mark.parametrize("seed", [0, 1, -1, 2**80])
def test_rows_are_distinct_ascending_and_in_range(n_rows, size, seed):
    rows = distinct_rows(n_rows, size, seed, "random")

    assert rows.dtype == np.int64
    assert rows.shape == (size,)
    assert (np.diff(rows) > 0).all()
    assert rows[0] >= 0
    assert rows[-1] < n_rows


@pytest.mark.parametrize("n_rows", [1, 2, 3, 1000])
def test_as_many_as_there_are_gives_every_row(n_rows):
    rows = distinct_rows(n_rows, n_rows, 7, "random")

    np.testing.assert_array_equal(rows, np.arange(n_rows))


@pytest.mark.parametrize("size", [20, 980])  # rows that are taken, rows that are left out
def test_a_draw_belongs_to_its_seed_and_purpose(size):
    first = distinct_rows(1000, size, 3, "random").tolist()

    assert distinct_rows(1000, size, 3, "random").tolist() == first
    assert distinct_rows(1000, size, 4, "random").tolist() != first
    assert distinct_rows(1000, size, -3, "random").tolist() != first
    assert distinct_rows(1000, size, 3, "kmeans||").tolist() != first


def test_words_belong_to_their_address():
    addresses = [(0, "a"), (0, "b"), (1, "a"), (-1, "a"), (0, "a", 1), (0, "a", 0, 1), (0, "a", 2)]

    seen = {words(*address, size=4).tobytes() for address in addresses}

    assert len(seen) == len(addresses)


def test_an_address_and_the_same_with_a_zero_behind_it_differ():
    assert words(0, "a", size=4).tolist() != words(0, "a", 0, size=4).tolist()


def test_more_words_begin_with_the_same_words():
    assert words(5, "random", 2, size=100)[:9].tolist() == words(5, "random", 2, size=9).tolist()


def test_uniforms_are_the_words_of_their_address_as_fractions():
    drawn = uniforms(5, "chain", 2, size=4000)

    np.testing.assert_array_equal(drawn, fractions(words(5, "chain", 2, size=4000)))
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert (np.histogram(drawn, 20, (0, 1))[0] > 130).all()  # 200 expected, 13.8 the deviation


def test_a_fraction_is_the_upper_53_bits_of_a_word():
    bits = np.array([0, 2**11 - 1, 2**11, 2**63, 2**64 - 1], np.uint64)

    assert fractions(bits).tolist() == [0, 0, 2.0**-53, 0.5, 1 - 2.0**-53]


@pytest.mark.parametrize("key", words(0, "test", size=3))
def test_a_hash_of_a_number_belongs_to_it_and_to_the_key(key):
    numbers = np.arange(10_000, dtype=np.uint64)

    seen = mix(numbers, key)

    assert len(np.unique(seen)) == len(numbers)
    np.testing.assert_array_equal(mix(numbers[::-3], key), seen[::-3])
    assert not (mix(numbers, key ^ np.uint64(2)) == seen).any()
    assert (np.histogram(fractions(seen), 20, (0, 1))[0] > 390).all()  # 500, 21.8 the deviation


def test_the_hash_is_that_of_the_formula_in_whole_numbers():
    def by_the_formula(value, key):
        x = ((value + 1) * (key | 1) + (key >> 32)) % 2**64
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    values, [key] = words(1, "test", size=50), words(2, "test", size=1)

    expected = [by_the_formula(value, int(key)) for value in values.tolist()]

    assert mix(values, key).tolist() == expected


@pytest.mark.parametrize(("n_rows", "size"), [(20, 5), (20, 15)])
def test_every_row_is_drawn_about_equally_often(n_rows, size):
    n_seeds = 2000
    counts = np.zeros(n_rows)
    for seed in range(n_seeds):
        counts[distinct_rows(n_rows, size, seed, "random")] += 1

    share = size / n_rows
    variance = n_seeds * share * (1 - share) * n_rows / (n_rows - 1)
    statistic = ((counts - n_seeds * share) ** 2).sum() / variance

    assert 7 < statistic < 42  # chi-square, 19 degrees: outside with a chance below 1 %


def test_every_pair_of_rows_is_drawn_about_equally_often():
    drawn = [tuple(distinct_rows(5, 2, seed, "random").tolist()) for seed in range(2000)]

    counts = {pair: drawn.count(pair) for pair in set(drawn)}

    assert len(counts) == 10
    assert all(140 < count < 260 for count in counts.values())  # 200 expected, 13.4 the deviation


def test_the_draws_of_this_version_are_those_of_every_version():
    # A change here changes every seeded fit of every user.
    assert words(0, "random", size=3).tolist() == [
        0xA806B05C1E2F1683,
        0x713EE25EAD9507F2,
        0x7E8D2DBCB0D54600,
    ]
    assert mix(np.arange(2, dtype=np.uint64), np.uint64(0xC0FFEE)).tolist() == [
        0x35185EF3C91068F2,
        0xFF0107A3A770B351,
    ]
    assert uniforms(0, "random", size=2).tolist() == [0.6563520645997267, 0.4423657876155467]
    assert distinct_rows(1000, 6, 0, "random").tolist() == [104, 360, 427, 707, 710, 906]
    assert distinct_rows(1000, 6, -1, "random").tolist() == [35, 40, 190, 462, 598, 773]
    assert distinct_rows(8, 6, 42, "random").tolist() == [0, 1, 2, 4, 6, 7]
