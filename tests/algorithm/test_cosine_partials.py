"""What a sweep by cosine distance learns: directions of exact sums, and the loss made of them."""

from __future__ import annotations

import numpy as np
import pytest

from ray_kmeans.algorithm import minibatch
from ray_kmeans.algorithm.grid import Extent
from ray_kmeans.algorithm.lloyd import update
from ray_kmeans.algorithm.metric import Metric, unit_rows
from ray_kmeans.algorithm.minibatch import BatchPartials
from ray_kmeans.algorithm.partial_sums import Partials
from ray_kmeans.algorithm.state import FitState, digest
from tests.conftest import labels_of, partials_of, summary_of
from tests.support import oracle
from tests.support.cosine_cases import assert_are_directions_of_sums, exact_inertia
from tests.support.unit_rows import (
    assert_are_unit_rows,
    assert_is_direction,
    whole,
)

COSINE = Metric.COSINE

KERNELS = pytest.mark.parametrize("kernel", ["cpu", "reference"])


def sweep(units, centers, kernel="reference", labels=None):
    """Return (labels, summary, partials), by default with the oracle's labels."""
    labels = oracle.product_labels(units, centers) if labels is None else labels
    summary = summary_of(units, metric=COSINE)
    return labels, summary, partials_of(units, labels, len(centers), summary.grid, kernel)


@pytest.fixture
def units(gaussian):
    return unit_rows(gaussian)


@KERNELS
def test_means_are_the_directions_of_the_sums(units, kernel):
    labels, summary, seen = sweep(units, units[:9], kernel)

    centers = seen.means(summary, units[:9])

    assert (centers.shape, centers.dtype) == ((9, 5), np.float32)
    assert_are_directions_of_sums(centers, units, labels, units[:9])


@KERNELS
def test_means_of_rows_on_few_directions_are_those_of_the_oracle(lattice, kernel):
    units = unit_rows(lattice)
    labels, summary, seen = sweep(units, units[:6], kernel)

    centers = seen.means(summary, units[:6])

    assert_are_directions_of_sums(centers, units, labels, units[:6])


@KERNELS
@pytest.mark.parametrize("n_parts", [2, 5, 200])
def test_no_split_and_no_order_of_the_rows_changes_one_bit(units, kernel, n_parts):
    labels, summary, whole_sums = sweep(units, units[:7], kernel)
    order = np.random.default_rng(n_parts).permutation(len(units))

    seen = Partials.zero(7, 5)
    for part in np.array_split(order, n_parts):
        seen += partials_of(units[part], labels[part], 7, summary.grid, kernel)

    assert seen.means(summary, units[:7]).tobytes() == (
        whole_sums.means(summary, units[:7]).tobytes()
    )
    assert seen.inertia(summary, units[:7]) == whole_sums.inertia(summary, units[:7])


def test_a_cluster_that_is_empty_or_cancels_or_has_only_zero_rows_keeps_its_center(units):
    opposite = np.vstack([units[:50], -units[:50]])
    X = np.vstack([opposite, units[50:60], np.zeros((3, 5), np.float32)])
    labels = np.array([1] * 100 + [2] * 10 + [3] * 3, np.int32)
    previous = units[:4]

    _, summary, seen = sweep(X, previous, labels=labels)
    centers = seen.means(summary, previous)

    assert seen.counts.tolist() == [0, 100, 10, 3]
    np.testing.assert_array_equal(centers[[0, 1, 3]], previous[[0, 1, 3]])
    assert_is_direction(centers[2], [sum(c) for c in zip(*map(whole, units[50:60]), strict=True)])


def test_rows_that_nearly_cancel_have_the_direction_of_what_is_left():
    # The sums are 2**-24 of a row: their digits come from the integers, not from float32.
    X = np.array([[0.6, 0.8], [-0.6, np.nextafter(np.float32(-0.8), np.float32(0))]], np.float32)
    _, summary, seen = sweep(X, X[:1], labels=np.zeros(2, np.int32))

    centers = seen.means(summary, np.array([[1, 0]], np.float32))

    np.testing.assert_array_equal(centers, [[0, 1]])


def test_zero_rows_change_no_direction(units):
    zeros = np.zeros((40, 5), np.float32)
    labels = oracle.product_labels(units, units[:4])

    alone, among = (
        sweep(X, units[:4], labels=oracle.product_labels(X, units[:4]))
        for X in (units, np.vstack([zeros, units]))
    )

    counts = np.bincount(labels, minlength=4)
    assert (among[2].counts - counts).tolist() == [40, 0, 0, 0]
    for center, before in zip(
        among[2].means(among[1], units[:4]), alone[2].means(alone[1], units[:4]), strict=True
    ):
        np.testing.assert_array_max_ulp(center, before, maxulp=1)


def test_means_leave_the_previous_centers_alone(units):
    previous = units[:4].copy()
    previous.flags.writeable = False
    _, summary, seen = sweep(units, previous)

    seen.means(summary, previous)

    np.testing.assert_array_equal(previous, units[:4])


def rows_all_around():
    return np.random.default_rng(5).normal(size=(200, 4))


def rows_within_a_thousandth():
    return [1, 2, -3, 0.5] + np.random.default_rng(6).normal(size=(200, 4)) * 3e-3


def columns_of_very_different_size():
    return np.random.default_rng(7).normal(size=(150, 4)) * [1e-20, 1.0, 1e-3, 1e-8]


def some_zero_rows():
    X = rows_all_around()
    X[::7] = 0
    return X


def a_column_of_zeros():
    return rows_all_around() * [1, 0, 1, 1]


def one_column():
    return np.random.default_rng(8).normal(size=(50, 1))


TABLES = [
    rows_all_around,
    rows_within_a_thousandth,
    columns_of_very_different_size,
    some_zero_rows,
    a_column_of_zeros,
    one_column,
]


def tables_and_centers(table):
    units = unit_rows(table())
    return units, unit_rows(units[[3, 11, 37]] + np.float32(1e-3) * units[[5, 6, 8]])


class TestInertia:
    @pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__)
    @KERNELS
    def test_it_is_the_sum_of_1_minus_cos(self, table, kernel):
        units, centers = tables_and_centers(table)
        labels, summary, seen = sweep(units, centers, kernel)

        inertia = seen.inertia(summary, centers)

        assert inertia > 0
        assert inertia == pytest.approx(exact_inertia(units, centers, labels), rel=1e-12, abs=0)

    def test_it_would_be_wrong_in_plain_floats(self):
        # The rows and the products cancel: this is what the two-float arithmetic is for.
        units, centers = tables_and_centers(rows_within_a_thousandth)
        labels, summary, seen = sweep(units, centers)
        sums = np.array([units[labels == j].astype(np.float64).sum(axis=0) for j in range(3)])

        plain = len(units) - (sums * centers).sum()

        exact = exact_inertia(units, centers, labels)
        assert abs(plain / exact - 1) > 1e-12
        assert seen.inertia(summary, centers) == pytest.approx(exact, rel=1e-12, abs=0)

    def test_one_row_among_many_keeps_its_digits(self):
        # Sums of 57 bits: one float64 would lose the last ones of the only row with a distance.
        X = np.zeros((100_001, 2), np.float32)
        X[:, 0] = 1
        X[77] = 3e-9, 1
        _, summary, seen = sweep(X, X[:1], labels=np.zeros(len(X), np.int32))

        inertia = seen.inertia(summary, X[:1])

        assert inertia == pytest.approx(1 - float(X[77, 0]), rel=1e-12, abs=0)

    def test_it_is_exact_on_the_axes(self):
        axes = np.eye(3, dtype=np.float32)
        X = np.vstack([axes, -axes, np.zeros((2, 3), np.float32)])

        labels, summary, seen = sweep(X, axes[:2])

        assert labels.tolist() == [0, 1, 0, 1, 0, 0, 0, 0]
        assert seen.inertia(summary, axes[:2]) == 6.0

    @pytest.mark.parametrize("copies", [1, 3, 100])
    def test_it_is_never_below_0(self, units, copies):
        # Rows on their centers: those that float32 made longer than 1 have a product above 1.
        for at in range(20):
            X = np.repeat(units[at : at + 1], copies, axis=0)
            labels, summary, seen = sweep(X, X[:1], labels=np.zeros(copies, np.int32))

            inertia = seen.inertia(summary, X[:1])

            assert 0 <= inertia <= copies * 2e-7
            exact = exact_inertia(X, X[:1], labels)
            assert inertia == pytest.approx(exact, rel=1e-12, abs=0)

    def test_it_takes_any_labels(self, units):
        labels = (np.arange(len(units)) % 3).astype(np.int32)
        _, summary, seen = sweep(units, units[:3], labels=labels)

        inertia = seen.inertia(summary, units[:3])

        assert inertia == pytest.approx(exact_inertia(units, units[:3], labels), rel=1e-12)

    def test_a_zero_center_and_a_zero_row_are_1_from_everything(self, units):
        centers = np.vstack([units[:2], np.zeros((1, 5), np.float32)])
        X = np.vstack([units, np.zeros((7, 5), np.float32)])
        labels, summary, seen = sweep(X, centers)
        assert (labels == 2).any()

        inertia = seen.inertia(summary, centers)

        inside = (labels < 2) & X.any(axis=1)
        near = exact_inertia(X[inside], centers, labels[inside])
        assert inertia == pytest.approx((~inside).sum() + near, rel=1e-12)
        assert inertia == pytest.approx(exact_inertia(X, centers, labels), rel=1e-12)


@KERNELS
def test_one_update_of_lloyd_says_what_it_did(units, kernel):
    positive = np.abs(units)
    start = np.vstack([positive[:3], -positive[3:4]])
    labels, summary, seen = sweep(positive, start, kernel)
    np.testing.assert_array_equal(labels_of(positive, start, kernel, COSINE), labels)

    state = update(FitState.initial(start, COSINE), seen, summary)

    [line] = state.history
    assert (state.iteration, line.iteration, line.rows, line.empty) == (1, 1, 200, 1)
    assert (state.metric, state.accumulators) == (COSINE, None)
    assert state.counts.tolist() == np.bincount(labels, minlength=4).tolist()
    assert line.inertia == pytest.approx(exact_inertia(positive, start, labels), rel=1e-12)
    assert line.shift == np.abs(state.centers.astype(np.float64) - start).max() > 0
    assert line.digest == digest(state.centers)
    assert_are_directions_of_sums(state.centers, positive, labels, start)


class TestMiniBatch:
    def advance(self, state, units, m=1):
        labels, summary, seen = sweep(units, state.centers)
        seen = BatchPartials(seen, (0,))
        return labels, minibatch.advance(state, seen, [len(units)], summary.grid)

    def test_the_centers_are_the_directions_of_the_running_sums(self, units):
        state = minibatch.prepare(FitState.initial(units[:3], COSINE), 1)
        rows, all_labels = [units[:3]], [np.arange(3)]
        for start in range(0, 200, 40):
            before = state.centers
            labels, state = self.advance(state, units[start : start + 40])
            rows.append(units[start : start + 40])
            all_labels.append(labels)
            seen = np.concatenate(rows), np.concatenate(all_labels)
            assert_are_directions_of_sums(state.centers, *seen, before)

        assert state.counts.tolist() == np.bincount(seen[1]).tolist()
        means = [seen[0][seen[1] == j].mean(axis=0, dtype=np.float64) for j in range(3)]
        np.testing.assert_allclose(minibatch.running_means(state), means, rtol=1e-6)

    def test_several_steps_have_the_directions_of_their_rows_alone(self, units):
        state = minibatch.prepare(FitState.initial(units[:3], COSINE), 2)
        before = state.centers
        first, state = self.advance(state, units[:70])
        np.testing.assert_array_equal(state.centers, before)
        more = units[70:][oracle.product_labels(units[70:], before) == 1]  # a batch for one cluster
        second, state = self.advance(state, more)

        seen = np.vstack([units[:70], more]), np.concatenate([first, second])
        assert set(first) == {0, 1, 2}
        assert_are_directions_of_sums(state.centers, *seen, before)
        assert_are_unit_rows(state.centers, state.centers)
        assert state.counts.tolist() == [0, 0, 0]

    @pytest.mark.parametrize("m", [1, 2])
    def test_a_running_mean_of_zero_keeps_the_center(self, m):
        start = np.eye(2, dtype=np.float32)
        state = minibatch.prepare(FitState.initial(start, COSINE), m)
        batches = {1: [-start[:1]], 2: [start[:1], -start[:1]]}[m]
        for batch in batches:
            summary = summary_of(batch, metric=COSINE)
            seen = partials_of(batch, np.zeros(1, np.int32), 2, summary.grid)
            state = minibatch.advance(state, BatchPartials(seen, (0,)), [1], summary.grid)

        np.testing.assert_array_equal(state.centers, start)
        assert state.history[-1].shift == 0
        if m == 1:
            np.testing.assert_array_equal(minibatch.running_means(state), [[0, 0], [0, 1]])


def test_rows_without_a_direction_are_counted():
    X = np.array([[0, 0], [-0.0, 0], [1, 0], [0, -1e-45], [np.nan, 0]], np.float32)

    parts = Extent.of_rows(X[:1], "a") + Extent.of_rows(X[1:4], "b")

    assert [Extent.of_rows(X).zeros, parts.zeros, Extent.of_rows(X[2:]).zeros] == [2, 2, 0]
    assert Extent.of_rows(X[:0]).zeros == 0
