from __future__ import annotations

import numpy as np
import pytest

from ray_kmeans.clustering.draws import distinct_rows, words

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
    assert distinct_rows(1000, 6, 0, "random").tolist() == [104, 360, 427, 707, 710, 906]
    assert distinct_rows(1000, 6, -1, "random").tolist() == [35, 40, 190, 462, 598, 773]
    assert distinct_rows(8, 6, 42, "random").tolist() == [0, 1, 2, 4, 6, 7]
