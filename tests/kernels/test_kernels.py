from __future__ import annotations

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from ray_kmeans import kernels
from ray_kmeans.kernels.moving_sums import Moves
from tests.conftest import labels_of, partials_of, summary_of
from tests.support import oracle
from tests.support.cases import CASES, gaussian, near_ties

BOTH = pytest.mark.parametrize("kernel", ["cpu", "reference"])


@pytest.mark.parametrize("case", CASES)
def test_labels_are_those_of_the_oracle(case, kernel):
    X, centers = CASES[case]

    labels = labels_of(X, centers, kernel)

    np.testing.assert_array_equal(labels, oracle.labels(X, centers))


def naive_labels(X, centers):
    with np.errstate(over="ignore", invalid="ignore"):
        return np.argmin((centers * centers).sum(axis=1) - 2 * X @ centers.T, axis=1)


@pytest.mark.parametrize(
    "case", ["one last bit beside the bisector", "near ties around 4096", "far from 0"]
)
def test_the_planted_rows_are_hard_for_plain_float32(case):
    X, centers = CASES[case]

    assert (naive_labels(X, centers) != oracle.labels(X, centers)).sum() >= 5


@pytest.mark.parametrize("d", [2, 7, 33])
def test_the_near_ties_are_hard_for_centered_float32_as_well(d):
    # Taking the mean away first, as the CPU kernel does, is not enough without its error bound.
    X, centers = near_ties(d)
    mean = centers.astype(np.float64).mean(axis=0)
    residuals = [(part - mean).astype(np.float32) for part in (X, centers)]

    assert (naive_labels(*residuals) != oracle.labels(X, centers)).any()


pool = st.sampled_from([0.0, 1.0, -1.0, 3.0, 2.0**-30, 1 + 2.0**-23, -1e30, 1e-45, 3e38])
values = st.one_of(pool, pool, st.floats(allow_nan=False, allow_infinity=False, width=32))


@given(st.data(), st.integers(1, 6), st.integers(1, 5), st.integers(1, 4))
def test_labels_of_any_small_table_are_those_of_the_oracle(data, n, k, d):
    X = data.draw(hnp.arrays(np.float32, (n, d), elements=values))
    centers = data.draw(hnp.arrays(np.float32, (k, d), elements=values))

    expected = oracle.labels(X, centers).tolist()

    assert labels_of(X, centers, "cpu").tolist() == expected
    assert labels_of(X, centers, "reference").tolist() == expected


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_both_kernels_label_thousands_of_rows_alike(offset):
    X, centers = gaussian(n=3000, d=16, k=64, offset=offset)
    X[:1000] = (centers[np.arange(1000) % 64] + centers[np.arange(1000) % 63]) / 2

    labels = labels_of(X, centers, "cpu")

    np.testing.assert_array_equal(labels, labels_of(X, centers, "reference"))
    assert len(np.unique(labels)) > 50


@BOTH
def test_no_rows_have_no_labels(kernel):
    assert labels_of(np.empty((0, 3), np.float32), np.ones((2, 3), np.float32), kernel).size == 0


def distances_of(X, centers, kernel, dtype=np.float64):
    distances = np.full((len(X), len(centers)), np.nan, dtype)
    kernels.load(kernel).distances(X, centers, "squared_euclidean", distances)
    return distances


@pytest.mark.parametrize("case", CASES)
def test_both_kernels_give_the_same_sums_squares_and_distances(case):
    X, centers = CASES[case]
    labels = oracle.labels(X, centers)
    labels.flags.writeable = False

    one, other = (summary_of(X, kernel) for kernel in ("cpu", "reference"))
    sums, other_sums = (
        partials_of(X, labels, len(centers), one.grid, kernel) for kernel in ("cpu", "reference")
    )
    near, other_near = (distances_of(X, centers, name) for name in ("cpu", "reference"))

    np.testing.assert_array_equal(one.squares.limbs, other.squares.limbs)
    np.testing.assert_array_equal(one.squares.coarse, other.squares.coarse)
    np.testing.assert_array_equal(sums.sums, other_sums.sums)
    np.testing.assert_array_equal(sums.counts, other_sums.counts)
    np.testing.assert_array_equal(near.view(np.int64), other_near.view(np.int64))


@BOTH
def test_sums_are_in_whole_units_and_are_added_to_what_is_there(kernel):
    X = np.array([[1.5, -2.0], [0.25, 8.0], [1.0, 1.0]], np.float32)
    sums, scale = np.array([[100, 0], [0, 0]]), np.array([4.0, 0.5])

    kernels.load(kernel).accumulate(X, np.array([0, 1, 0], np.int32), scale, sums)

    assert sums.tolist() == [[110, -1], [1, 4]]  # half a unit goes to the even one


@BOTH
def test_a_negative_scale_takes_away_what_a_positive_one_added(kernel):
    X, centers = gaussian()
    labels, scale = oracle.labels(X, centers), np.full(X.shape[1], 100 / 3)  # most are rounded
    sums = np.zeros(centers.shape, np.int64)

    kernels.load(kernel).accumulate(X, labels, scale, sums)
    kernels.load(kernel).accumulate(X[::-1].copy(), labels[::-1].copy(), -scale, sums)

    assert not sums.any()


@BOTH
def test_distances_are_right_where_the_expansion_would_cancel(kernel):
    X, centers = near_ties(offset=1e4)

    distances = distances_of(X, centers, kernel)

    exact = ((X[:, None].astype(np.float64) - centers.astype(np.float64)) ** 2).sum(axis=2)
    np.testing.assert_allclose(distances, exact, rtol=2**-48, atol=0)


@pytest.mark.parametrize("kernel", ["cpu", "reference"])
def test_moving_rows_between_clusters_equals_adding_up_again(kernel):
    rng = np.random.default_rng(8)
    X = rng.normal(size=(300, 7)).astype(np.float32)
    before, after = rng.integers(0, 5, (2, 300)).astype(np.int32)
    scale = np.full(7, 2.0**40)
    loaded = kernels.load(kernel)
    moved, again = np.zeros((2, 5, 7), np.int64)
    loaded.accumulate(X, before, scale, moved)

    rows = np.flatnonzero(before != after)
    loaded.move([X[:100], X[100:]], Moves(rows, before[rows]), after, scale, moved)

    loaded.accumulate(X, after, scale, again)
    np.testing.assert_array_equal(moved, again)
