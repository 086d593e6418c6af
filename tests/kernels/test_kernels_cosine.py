"""The second metric of the kernels, and the distances of both: all bits are those of the oracle."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from ray_kmeans import kernels
from ray_kmeans.kernels import compiled
from tests.support import oracle
from tests.support.cases import CASES, gaussian, near_ties, whole_numbers

BOTH = pytest.mark.parametrize("kernel", ["cpu", "reference"])
METRICS = pytest.mark.parametrize("metric", ["squared_euclidean", "cosine"])


def unit(matrix):
    """Return the rows at length 1, rounded to float32; a zero row stays one."""
    exact = np.asarray(matrix, np.float64)
    norms = np.sqrt((exact * exact).sum(axis=1, keepdims=True))
    return (exact / np.where(norms > 0, norms, 1)).astype(np.float32)


def units(X, centers):
    return unit(X), unit(centers)


def unit_near_ties(d, spread=1.0, seed=0):
    """Rows whose two largest products are equal, but for the rounding of the row; around a point.

    The closer the centers, the more their own rounding decides, as it makes some of them longer.
    """
    rng = np.random.default_rng([d, seed])
    point = rng.normal(size=d) / spread if spread < 1 else np.zeros(d)
    centers = unit(point + rng.normal(size=(9, d)))
    X = np.asarray(unit(point + rng.normal(size=(60, d))), np.float64)
    for row in X:
        for _ in range(3):  # then the two largest are most often the two of the last time
            a, b = centers[np.argsort(centers @ row)[-2:]].astype(np.float64)
            row -= (a - b) * (row @ (a - b)) / max((a - b) @ (a - b), 1e-30)
    return unit(X), centers


def some_zero(X, centers):
    X, centers = units(X, centers)
    X[::3] = 0
    centers[1::4] = 0
    return X, centers


def all_products_negative():
    centers = unit(-np.abs(gaussian()[1]))
    centers[5] = centers[8] = 0
    return unit(np.abs(gaussian()[0])), centers


def permuted_coordinates(d):
    """From a row of equal values, all centers are as near; a sum in floats depends on the order."""
    rng = np.random.default_rng(d)
    center = unit(rng.normal(size=(1, d)) * 10.0 ** rng.uniform(-5, 0, d))[0]
    return unit(np.ones((3, d))), np.array([rng.permutation(center) for _ in range(12)])


def rows_at_the_mean_of_the_centers(seed):
    """There r is next to nothing, and the rounding of the constants of the scores decides."""
    rng = np.random.default_rng(seed)
    i, j = ((rng.integers(2**20) + rng.choice(9, 2, replace=False)) * 2.0**-23).tolist()
    centers = np.array([[1.5 + i, 1], [1.5 + j, -1], [0, 0]], np.float32)
    X = np.repeat(centers.mean(axis=0, dtype=np.float64)[None], 80, axis=0)
    X[:, 1] = -X[:, 0].astype(np.float32) * (i - j) / 2 * (1 + rng.uniform(-2e-3, 2e-3, 80))
    return X.astype(np.float32), centers


def constants_that_cancel(d=32):
    """All products tie: m has equal values, and the centers are the shifts of one with that mean.

    So the constant of each score is 0 but for the order of the additions in float64.
    """
    values = (np.random.default_rng(13).normal(size=d - 2) * np.logspace(-5, 0, d - 2)).astype("f4")
    total = float(np.float32(0.7)) * d
    missing = total - sum(values.tolist())
    high = np.float32(missing)
    center = np.array([*values, high, missing - float(high)], np.float32)
    assert sum(map(oracle.Fraction, center.tolist())) == oracle.Fraction(total)
    return np.full((2, d), 0.7, np.float32), np.array([np.roll(center, j) for j in range(d)])


UNIT_CASES = {
    **{f"{d} columns": units(*gaussian(d=d, k=5)) for d in (1, 2, 33, 130)},
    "one center": units(*gaussian(k=1)),
    "whole numbers": units(*whole_numbers()),
    "equal centers": units(gaussian()[0], gaussian()[1][[2, 0, 2, 1, 0, 3, 2]]),
    "all centers equal": units(gaussian()[0], np.repeat(gaussian()[1][:1], 5, axis=0)),
    "far from 0": units(*gaussian(offset=1e4, spread=1e-2)),
    **{f"near ties, {d} columns": unit_near_ties(d) for d in (2, 7, 33, 130)},
    **{f"near ties within {s}": unit_near_ties(7, s) for s in (1e-2, 1e-4, 1e-6)},
    "near ties around 4096": units(*near_ties(offset=4096.0)),
    "zero rows and centers": some_zero(*gaussian()),
    "zero rows and centers far from 0": some_zero(*gaussian(offset=1e4, spread=1e-2)),
    "zero centers alone": (unit(gaussian()[0]), np.zeros((3, 7), np.float32)),
    "a zero center is the nearest": all_products_negative(),
    **{f"ties of {d} coordinates": permuted_coordinates(d) for d in (3, 5, 33)},
}
ANY_CASES = {
    **UNIT_CASES,
    **{f"rows at the mean {i}": rows_at_the_mean_of_the_centers(i) for i in range(8)},
    "constants that cancel": constants_that_cancel(),
    **{f"{case}, any length": CASES[case] for case in CASES},
}
for X_and_centers in ANY_CASES.values():
    for array in X_and_centers:
        array.flags.writeable = False


def labels_of(X, centers, kernel):
    labels = np.full(len(X), -1, np.int32)
    loaded = kernels.load(kernel)
    loaded.assign(X, loaded.prepare(centers, "cosine"), labels)
    return labels


def distances_of(X, centers, metric, kernel, dtype=np.float64):
    distances = np.full((len(X), len(centers)), np.nan, dtype)
    kernels.load(kernel).distances(X, centers, metric, distances)
    return distances


def plain_distances(row, center, metric):
    """Return one distance in Python floats, one column after the other."""
    total = 0.0
    for x, c in zip(row.tolist(), center.tolist(), strict=True):
        total += x * c if metric == "cosine" else (x - c) * (x - c)
    return max(0.0, 1.0 - total) if metric == "cosine" else total


def assert_same_bits(one, other):
    assert one.dtype == other.dtype
    np.testing.assert_array_equal(one.view(np.uint8), other.view(np.uint8))


@pytest.mark.parametrize("case", ANY_CASES)
def test_labels_are_the_largest_products_over_the_reals(case, kernel):
    X, centers = ANY_CASES[case]

    labels = labels_of(X, centers, kernel)

    np.testing.assert_array_equal(labels, oracle.product_labels(X, centers))


@pytest.mark.parametrize("case", ["near ties, 33 columns", "near ties within 0.01"])
def test_the_planted_rows_are_hard_for_plain_and_for_centered_float32(case):
    X, centers = UNIT_CASES[case]
    truth = oracle.product_labels(X, centers)
    mean = centers.mean(axis=0, dtype=np.float64).astype(np.float32)
    e = centers - mean

    assert (np.argmax(X @ centers.T, axis=1) != truth).sum() >= 5
    assert (np.argmax((X - mean) @ e.T + e @ mean, axis=1) != truth).any()


pool = st.sampled_from([0.0, 1.0, -1.0, 3.0, 2.0**-30, 1 + 2.0**-23, -1e30, 1e-45, 3e38])
values = st.one_of(pool, pool, st.floats(allow_nan=False, allow_infinity=False, width=32))


@given(st.data(), st.integers(1, 6), st.integers(1, 5), st.integers(1, 4), st.booleans())
def test_labels_of_any_small_table_are_the_largest_products(data, n, k, d, scaled):
    X = data.draw(hnp.arrays(np.float32, (n, d), elements=values))
    centers = data.draw(hnp.arrays(np.float32, (k, d), elements=values))
    if scaled:
        X, centers = units(X, centers)

    expected = oracle.product_labels(X, centers).tolist()

    assert labels_of(X, centers, "cpu").tolist() == expected
    assert labels_of(X, centers, "reference").tolist() == expected


@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.floats(-7, 0))
def test_rows_between_the_two_nearest_centers_are_labelled_over_the_reals(seed, d, power):
    X, centers = unit_near_ties(d, 10.0**power, seed)

    assert labels_of(X, centers, "cpu").tolist() == oracle.product_labels(X, centers).tolist()


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_both_kernels_label_thousands_of_unit_rows_alike(offset):
    X, centers = gaussian(n=3000, d=16, k=64, offset=offset)
    X[:1000] = (centers[np.arange(1000) % 64] + centers[np.arange(1000) % 63]) / 2
    X, centers = units(X, centers)
    X[1000:1100] = 0

    labels = labels_of(X, centers, "cpu")

    np.testing.assert_array_equal(labels, labels_of(X, centers, "reference"))
    assert len(np.unique(labels)) > 50


def test_a_row_that_is_clearly_nearest_to_one_center_is_not_worked_out_in_float64(monkeypatch):
    X, centers = units(*gaussian(n=500, d=16, k=8))
    refined = []
    monkeypatch.setattr(compiled, "refine", lambda rows, *_: refined.extend(rows))

    labels_of(X, centers, "cpu")

    assert len(refined) <= 2


@BOTH
def test_a_zero_row_has_label_0_and_distance_1_to_all(kernel):
    centers = unit(gaussian(d=5, k=6)[1])
    centers[3] = 0
    zero = np.zeros((3, 5), np.float32)
    zero[1] = -0.0

    assert labels_of(zero, centers, kernel).tolist() == [0, 0, 0]
    assert (distances_of(zero, centers, "cosine", kernel) == 1.0).all()
    assert (distances_of(centers, centers[3:4], "cosine", kernel) == 1.0).all()


@BOTH
def test_a_cosine_distance_lies_between_0_and_2(kernel):
    X = unit(gaussian(n=200, d=3)[0])

    own, opposite = (distances_of(X, sign * X, "cosine", kernel).diagonal() for sign in (1, -1))

    assert (own >= 0).all()
    assert (own == 0).any()  # some would be below, as float32 made them longer than 1
    np.testing.assert_allclose(own, 0, atol=1e-6)
    np.testing.assert_allclose(opposite, 2, atol=1e-6)


@METRICS
@pytest.mark.parametrize("case", ANY_CASES)
def test_both_kernels_give_the_same_bits_of_distances(case, metric):
    X, centers = ANY_CASES[case]

    distances = distances_of(X, centers, metric, "cpu")

    assert_same_bits(distances, distances_of(X, centers, metric, "reference"))


@METRICS
@BOTH
@pytest.mark.parametrize("n", [0, 1, 7, 63, 64, 65, 200])
@pytest.mark.parametrize(("d", "k"), [(1, 1), (2, 3), (5, 64), (31, 65), (33, 2), (66, 130)])
def test_distances_are_added_up_column_by_column_whatever_the_shape(n, d, k, kernel, metric):
    rng = np.random.default_rng(d)
    X, centers = (rng.normal(size=(rows, d)).astype(np.float32) for rows in (n, k))
    if metric == "cosine":
        X, centers = units(X, centers)
    expected = [[plain_distances(row, center, metric) for center in centers] for row in X]

    distances = distances_of(X, centers, metric, kernel)

    assert_same_bits(distances, np.array(expected, np.float64).reshape(n, k))


@METRICS
@BOTH
@pytest.mark.parametrize("case", ["gaussian", "the whole range of float32", "denormals"])
def test_distances_in_float32_are_those_of_float64_rounded(case, kernel, metric):
    X, centers = CASES[case]
    with np.errstate(over="ignore"):
        rounded = distances_of(X, centers, metric, kernel).astype(np.float32)

    assert_same_bits(distances_of(X, centers, metric, kernel, np.float32), rounded)


@METRICS
@BOTH
@pytest.mark.parametrize("n", [0, 1, 3, 4, 61])
def test_the_distance_to_one_center_is_that_of_the_table(n, kernel, metric):
    X, centers = units(*gaussian(n=61, d=33, k=10))
    centers[4] = X[9] = 0
    labels = (np.arange(n) * 7 % 10).astype(np.int32)

    distances = kernels.load(kernel).distances_to(X[:n], centers, labels, metric)

    assert_same_bits(distances, distances_of(X[:n], centers, metric, kernel)[range(n), labels])


@METRICS
def test_distances_of_rows_and_centers_that_are_not_contiguous_are_the_same(metric):
    X, centers = gaussian(n=70, d=10, k=5)

    distances = distances_of(X[::2, 1:8], centers[:, 1:8], metric, "cpu")

    copies = X[::2, 1:8].copy(), centers[:, 1:8].copy()
    assert_same_bits(distances, distances_of(*copies, metric, "cpu"))
