from __future__ import annotations

import numpy as np
import pytest

from ray_kmeans.algorithm.partial_sums import Partials
from tests.conftest import partials_of, summary_of
from tests.support import oracle

KERNELS = pytest.mark.parametrize("kernel", ["cpu", "reference"])


def sweep(X, centers, kernel="reference"):
    """Return (labels, summary, partials) with the oracle's labels."""
    labels = oracle.labels(X, centers)
    summary = summary_of(X)
    return labels, summary, partials_of(X, labels, len(centers), summary.grid, kernel)


@KERNELS
@pytest.mark.parametrize("n_parts", [1, 2, 5, 200])
def test_no_split_and_no_order_of_the_rows_changes_one_bit(gaussian, kernel, n_parts):
    labels, summary, whole = sweep(gaussian, gaussian[:7], kernel)
    order = np.random.default_rng(n_parts).permutation(len(gaussian))

    parts = [
        partials_of(gaussian[part], labels[part], 7, summary.grid, kernel)
        for part in np.array_split(order, n_parts)
    ]

    forward, backward = Partials.zero(7, 5), Partials.zero(7, 5)
    for part in parts:
        forward, backward = forward + part, part + backward
    for total in (forward, backward):
        np.testing.assert_array_equal(total.sums, whole.sums)
        np.testing.assert_array_equal(total.counts, whole.counts)
    assert whole.counts.sum() == len(gaussian)


@KERNELS
def test_means_of_whole_numbers_are_those_of_the_oracle(lattice, kernel):
    labels, summary, seen = sweep(lattice, lattice[:6], kernel)

    means = seen.means(summary, lattice[:6])

    np.testing.assert_array_equal(means, oracle.means(lattice, labels, lattice[:6]))
    assert means.dtype == np.float32


@KERNELS
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_means_are_off_by_at_most_one_float32_step(gaussian, kernel, scale):
    X = gaussian * np.float32(scale)
    labels, summary, seen = sweep(X, X[:9], kernel)

    means = seen.means(summary, X[:9])

    np.testing.assert_array_max_ulp(means, oracle.means(X, labels, X[:9]), maxulp=1)


@KERNELS
def test_a_mean_does_not_drift_with_the_number_of_rows(kernel):
    # Whole numbers cannot show float32 sums: they are exact there as well.
    X = np.full((100_000, 1), 0.1, np.float32)
    summary = summary_of(X)

    seen = partials_of(X, np.zeros(len(X), np.int32), 1, summary.grid, kernel)

    assert seen.means(summary, X[:1])[0, 0] == np.float32(0.1)


def test_an_empty_cluster_keeps_its_center(lattice):
    far = np.array([[1e6, 0.1, -1e-45]], np.float32)
    centers = np.vstack([far, lattice[:2], far])
    _, summary, seen = sweep(lattice, centers)

    means = seen.means(summary, centers)

    assert (seen.counts == 0).tolist() == [True, False, False, True]
    np.testing.assert_array_equal(means[[0, 3]], centers[[0, 3]])
    assert not np.array_equal(means[1:3], centers[1:3])


def test_means_leave_the_previous_centers_alone(lattice):
    centers = lattice[:4].copy()
    _, summary, seen = sweep(lattice, centers)

    seen.means(summary, centers)

    np.testing.assert_array_equal(centers, lattice[:4])


def spread_of_one_step_around_ten_thousand():
    return 1e4 + np.random.default_rng(5).normal(size=(2000, 2)) * 1e-3


def columns_of_very_different_size():
    return np.random.default_rng(6).normal(size=(150, 4)) * [1e-20, 1.0, 1e5, 1e15]


def one_row_rather_far_from_the_others():
    X = np.random.default_rng(7).normal(size=(150, 4))
    X[77] = 1e4
    return X


def one_row_of_small_numbers_among_large_ones():
    X = 1e4 + np.random.default_rng(9).normal(size=(200, 4))
    X[50] = [1.1e-5, -1.3e-5, 1.7e-5, 1.9e-5]  # its digits lie below the 53rd bit of the sums
    return X


def tiny_values():
    return np.random.default_rng(8).normal(size=(150, 4)) * 1e-38


TABLES = [
    spread_of_one_step_around_ten_thousand,
    columns_of_very_different_size,
    one_row_rather_far_from_the_others,
    one_row_of_small_numbers_among_large_ones,
    tiny_values,
]


class TestInertia:
    @pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__)
    def test_it_is_the_sum_of_squared_distances(self, table):
        X = table().astype(np.float32)
        centers = np.nextafter(X[[3, 11, 77]], np.float32(np.inf))
        labels, summary, seen = sweep(X, centers)

        inertia = seen.inertia(summary, centers)

        assert inertia > 0
        assert inertia == pytest.approx(oracle.inertia(X, centers, labels), rel=1e-15, abs=0)

    def test_it_is_exact_for_whole_numbers(self, lattice):
        labels, summary, seen = sweep(lattice, lattice[:5])

        assert seen.inertia(summary, lattice[:5]) == oracle.inertia(lattice, lattice[:5], labels)

    def test_it_would_be_wrong_in_plain_floats(self):
        # The formula cancels: this is what the two-float arithmetic is for.
        X = spread_of_one_step_around_ten_thousand().astype(np.float32)
        labels = oracle.labels(X, X[:5])
        exact = X.astype(np.float64)
        sums = np.array([exact[labels == j].sum(axis=0) for j in range(5)])
        counts = np.bincount(labels, minlength=5)[:, None]

        plain = (exact**2).sum() + (exact[:5] * (counts * exact[:5] - 2 * sums)).sum()

        assert abs(plain / oracle.inertia(X, X[:5], labels) - 1) > 1e-6

    @pytest.mark.parametrize("offset", [0.0, 1e4, 1e30])
    def test_it_is_zero_when_every_row_is_a_center(self, gaussian, offset):
        centers = gaussian[:20] + np.float32(offset)
        X = np.repeat(centers, 3, axis=0)
        _, summary, seen = sweep(X, centers)

        assert seen.inertia(summary, centers) == 0.0

    def test_it_counts_rows_whose_cluster_has_a_center_elsewhere(self, lattice):
        # Any labels will do, not only those of the nearest center.
        labels = (np.arange(len(lattice)) % 3).astype(np.int32)
        summary = summary_of(lattice)
        seen = partials_of(lattice, labels, 3, summary.grid)

        inertia = seen.inertia(summary, lattice[:3])

        assert inertia == oracle.inertia(lattice, lattice[:3], labels)
