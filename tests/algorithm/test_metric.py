"""The unit sphere: what a row becomes for 'cosine', and which row of norm 1 a mean stands for."""

from __future__ import annotations

import json
import pickle

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from ray_kmeans.algorithm import metric
from ray_kmeans.algorithm.metric import (
    Metric,
    new_centers,
    project,
    unit_rows,
)
from tests.support.unit_rows import assert_are_unit_rows

SQUARED_EUCLIDEAN, COSINE = Metric

COLUMNS = [1, 2, 3, 5, 31, 33, 100, 1000, 2999, 3000]


def same_bits(one, other):
    return (
        one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    )


def gaussian(d, n=4):
    return np.random.default_rng(d).normal(size=(n, d)).astype(np.float32)


def signs(rng, d):
    return rng.choice([-1.0, 1.0], (4, d))


def huge(rng, d):
    return signs(rng, d) * rng.uniform(1e38, 3.4e38, (4, d))


def denormal(rng, d):
    return signs(rng, d) * rng.integers(1, 9, (4, d)) * 2.0**-149


def of_all_sizes(rng, d):
    return signs(rng, d) * 10.0 ** rng.uniform(-45, 38.5, (4, d))


def with_one_large_value(rng, d):
    rows = rng.normal(size=(4, d))
    rows[:, d // 2] = 1e7
    return rows


def equal_values(rng, d):
    return np.repeat(rng.normal(size=(4, 1)), d, axis=1)


class TestUnitRows:
    @pytest.mark.parametrize("d", COLUMNS)
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_they_are_the_exact_directions_within_a_step_of_float32(self, d, dtype):
        rows = np.random.default_rng(d).normal(size=(4, d)).astype(dtype)

        assert_are_unit_rows(unit_rows(rows), rows)

    @pytest.mark.parametrize("d", [1, 2, 3, 33, 3000])
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize(
        "make", [huge, denormal, of_all_sizes, with_one_large_value, equal_values]
    )
    def test_no_size_of_float32_spoils_them(self, make, d, dtype):
        rows = make(np.random.default_rng(d), d).astype(dtype)

        assert_are_unit_rows(unit_rows(rows), rows)

    @given(
        hnp.arrays(
            np.float32,
            st.tuples(st.integers(1, 4), st.integers(1, 9)),
            elements=st.floats(allow_nan=False, allow_infinity=False, width=32),
        )
    )
    def test_any_finite_float32_rows_have_them(self, rows):
        assert_are_unit_rows(unit_rows(rows), rows)

    @pytest.mark.parametrize("size", [1e300, 1e160, 1e-160, 1e-300, 5e-324])
    def test_any_finite_float64_rows_have_them(self, size):
        # Beyond float32 and beyond the root of the largest and of the smallest float64.
        rows = np.array([[3, -4, 0], [1, 0, 0], [1, 1, 1]]) * size

        assert_are_unit_rows(unit_rows(rows), rows)

    def test_a_zero_row_stays_zero(self):
        rows = gaussian(5)
        rows[[0, 2]] = 0
        rows[2, 1] = -0.0

        units = unit_rows(rows)

        assert units.any(axis=1).tolist() == [False, True, False, True]
        np.testing.assert_array_equal(units[[0, 2]], 0)

    @pytest.mark.parametrize("d", [1, 3, 33, 300])
    @pytest.mark.parametrize("chunk_values", [1, 100, 2**17])
    def test_a_row_has_the_same_bits_alone_and_in_any_block(self, d, chunk_values):
        rows = gaussian(d, n=301) * np.float32(1e20)
        alone = np.concatenate([unit_rows(row[None]) for row in rows])

        assert same_bits(unit_rows(rows, chunk_values), alone)
        assert same_bits(unit_rows(rows[::-1], chunk_values)[::-1].copy(), alone)
        assert same_bits(unit_rows(rows[7:90], chunk_values), alone[7:90])

    def test_more_rows_than_a_chunk_are_all_made(self):
        rows = gaussian(33, n=9000)
        alone = np.concatenate([unit_rows(rows[i : i + 100]) for i in range(0, 9000, 100)])

        assert rows.size > 2 * metric.CHUNK_VALUES
        assert same_bits(unit_rows(rows), alone)

    def test_the_order_of_the_memory_does_not_matter(self):
        rows = gaussian(33, n=50)
        wide = np.zeros((100, 66), np.float32)
        wide[::2, ::2] = rows

        units = unit_rows(rows)

        assert unit_rows(np.asfortranarray(rows)).flags.c_contiguous  # as the kernels need it
        assert same_bits(unit_rows(np.asfortranarray(rows)), units)
        assert same_bits(unit_rows(wide[::2, ::2]), units)

    @given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(-100, 100))
    def test_a_power_of_two_changes_no_bit(self, seed, d, power):
        rows = np.random.default_rng(seed).normal(size=(3, d)).astype(np.float32)

        scaled = np.ldexp(rows, power)

        assert scaled.dtype == np.float32
        assert same_bits(unit_rows(scaled), unit_rows(rows))

    def test_the_opposite_row_has_the_opposite_bits(self):
        rows = gaussian(33)

        assert same_bits(unit_rows(-rows), -unit_rows(rows))

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_a_row_that_is_not_finite_stays_so_and_no_other_one_becomes_it(self, bad, dtype):
        rows = gaussian(5, n=6).astype(dtype)
        expected = unit_rows(rows)
        rows[2, 3] = rows[4, 0] = rows[4, 1] = bad

        units = unit_rows(rows)

        assert np.isfinite(units).all(axis=1).tolist() == [True, True, False, True, False, True]
        assert same_bits(units[[0, 1, 3, 5]], expected[[0, 1, 3, 5]])

    @pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
    def test_the_rows_given_are_not_changed(self, dtype):
        rows = gaussian(5).astype(dtype)
        before = rows.copy()
        rows.flags.writeable = False

        units = unit_rows(rows)

        assert not np.shares_memory(units, rows)
        assert same_bits(rows, before)

    def test_no_rows_have_none(self):
        assert unit_rows(np.empty((0, 3), np.float32)).shape == (0, 3)


class TestProject:
    def test_for_cosine_rows_are_scaled_to_norm_1(self):
        rows = gaussian(5)

        assert same_bits(project(rows, COSINE), unit_rows(rows))

    def test_for_squared_euclidean_rows_stay_what_they_are(self):
        rows = gaussian(5)

        assert same_bits(project(rows, SQUARED_EUCLIDEAN), rows)
        assert same_bits(project(rows.astype(np.float64), SQUARED_EUCLIDEAN), rows)
        assert np.shares_memory(project(rows, SQUARED_EUCLIDEAN), rows)  # a block is not copied


class TestNewCenters:
    MEANS = np.array([[3.0, -4.0], [0.0, 0.0], [1e-25, 0.0], [0.1, 0.2]])
    PREVIOUS = np.array([[1, 0], [0.6, 0.8], [0, 1], [0, 0]], np.float32)

    def test_for_cosine_they_are_the_directions_of_the_means(self):
        centers = new_centers(self.MEANS, self.PREVIOUS, COSINE)

        np.testing.assert_array_equal(centers[[0, 2]], np.array([[0.6, -0.8], [1, 0]], np.float32))
        assert_are_unit_rows(centers[[3]], self.MEANS[[3]])

    def test_for_cosine_a_mean_of_zero_keeps_the_previous_center(self):
        centers = new_centers(self.MEANS, self.PREVIOUS, COSINE)

        np.testing.assert_array_equal(centers[1], self.PREVIOUS[1])

    def test_for_squared_euclidean_they_are_the_means(self):
        centers = new_centers(self.MEANS, self.PREVIOUS, SQUARED_EUCLIDEAN)

        assert same_bits(centers, self.MEANS.astype(np.float32))

    @pytest.mark.parametrize("which", [COSINE, SQUARED_EUCLIDEAN])
    def test_means_and_previous_centers_are_not_changed(self, which):
        means, previous = self.MEANS.copy(), self.PREVIOUS.copy()
        means.flags.writeable = previous.flags.writeable = False

        centers = new_centers(means, previous, which)

        assert not np.shares_memory(centers, previous)
        np.testing.assert_array_equal(means, self.MEANS)
        np.testing.assert_array_equal(previous, self.PREVIOUS)


@pytest.mark.parametrize("text", ["squared_euclidean", "cosine"])
def test_a_metric_is_its_plain_text_wherever_one_is_written(text):
    member = metric.Metric(text)

    assert member == text
    assert f"{member}, {member!r}, {(member,)}" == f"{text}, {text!r}, {(text,)}"
    assert json.dumps([member]) == json.dumps([text])
    assert {text: 1}[member] == 1
    assert pickle.loads(pickle.dumps(member)) is member
