from __future__ import annotations

from fractions import Fraction

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from ray_kmeans import kernels
from ray_kmeans.algorithm.grid import Extent, Grid, Squares
from tests.conftest import summary_of

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
tables = hnp.arrays(np.float32, st.tuples(st.integers(1, 12), st.integers(1, 4)), elements=finite)


def same_extent(a, b):
    return (
        (a.rows, a.zeros) == (b.rows, b.zeros)
        and sorted(a.nonfinite) == sorted(b.nonfinite)
        and np.array_equal(a.column_max, b.column_max, equal_nan=True)
    )


@given(tables, st.integers(0, 12), st.integers(0, 12))
def test_extents_of_parts_add_up_to_that_of_the_whole_in_any_grouping(X, i, j):
    i, j = sorted((i, j))
    a, b, c = (Extent.of_rows(part) for part in (X[:i], X[i:j], X[j:]))

    assert same_extent((a + b) + c, Extent.of_rows(X))
    assert same_extent(a + (b + c), Extent.of_rows(X))
    assert same_extent(c + (a + b), Extent.of_rows(X))


def test_the_largest_magnitude_counts_whatever_its_sign():
    X = np.array([[1, -5, 0], [-2, 3, -0.0]], np.float32)

    assert Extent.of_rows(X).column_max.tolist() == [2, 5, 0]


def test_rows_that_are_not_finite_are_counted_by_place():
    X = np.zeros((6, 2), np.float32)
    X[1] = np.nan  # both columns, one row
    X[3, 0] = np.inf
    X[4, 1] = -np.inf
    clean = Extent.of_rows(np.ones((3, 2), np.float32), "c")

    a, b, a_again = (Extent.of_rows(X, *where) for where in (("a", 60), ("b", 0), ("a", 30)))

    assert a.nonfinite == (("a", 3, 61, "column 0"),)
    assert clean.nonfinite == ()
    whole = a + clean + b + a_again
    assert whole.nonfinite == (("a", 6, 31, "column 0"), ("b", 3, 1, "column 0"))
    assert whole.rows == 21
    assert same_extent((a + clean) + (b + a_again), whole)


def test_rows_that_are_zero_everywhere_are_counted():
    X = np.array([[0, 0], [0, 1], [-0.0, 0], [1e-45, 0], [np.nan, 0], [0, -1]], np.float32)

    assert Extent.of_rows(X).zeros == 2
    assert Extent.of_rows(X[:0]).zeros == 0
    assert (Extent.of_rows(X) + Extent.of_rows(X[:1])).zeros == 3
    assert summary_of(np.vstack([X[:4], X[:1]])).zeros == 3


@given(st.integers(1, 2**38), st.lists(finite, min_size=1, max_size=5))
def test_no_sum_on_the_grid_can_overflow(n_rows, largest):
    extent = Extent(n_rows, np.abs(np.array(largest, np.float32)))

    grid = Grid.of(extent)

    top = 2**63 - 1
    pairs = zip(largest, grid.exponent.tolist(), strict=True)
    units = [abs(Fraction(x)) * Fraction(2) ** e for x, e in pairs]
    assert max(units) <= 2**grid.bits
    assert n_rows * 2**grid.bits <= top
    t = grid.half_bits
    low = 2 ** (t - 1)
    high = (2**grid.bits + low) >> t
    assert n_rows * max(high * high, high * low, low * low) <= top
    # ... and the grid is no coarser than that asks for, but for powers of two
    assert n_rows * 2**grid.bits > top // 8
    assert all(2 * unit >= 2**grid.bits for unit, x in zip(units, largest, strict=True) if x)


@given(tables)
def test_values_at_the_limit_are_summed_without_wrapping(X):
    X = np.where(X < 0, -np.abs(X).max(axis=0), np.abs(X).max(axis=0)).astype(np.float32)
    summary = summary_of(X)
    units = quantized(X, summary.grid)

    limbs = summary.squares.limbs.T.tolist()

    t = summary.grid.half_bits
    for column, (hh, hl, ll) in zip(zip(*units, strict=True), limbs, strict=True):
        assert (hh << 2 * t) + (hl << (t + 1)) + ll == sum(q * q for q in column)


def test_scale_is_the_power_of_two_of_the_exponent():
    grid = Grid.of(Extent(1000, np.array([3e38, 1, 0.1, 1e-45, 0], np.float32)))

    assert [Fraction(s) for s in grid.scale.tolist()] == [
        Fraction(2) ** e for e in grid.exponent.tolist()
    ]


def quantized(X, grid):
    """Return the rows as whole units of the grid; `round` takes a tie to the even one."""
    scale = [Fraction(2) ** e for e in grid.exponent.tolist()]
    return [[round(Fraction(x) * s) for x, s in zip(r, scale, strict=True)] for r in X.tolist()]


@pytest.mark.parametrize("n_rows", [1, 2, 3, 1024, 1025, 2**20])
@pytest.mark.parametrize("largest", [1.0, 1.5, 2.0**-149, 3e38])
def test_a_value_is_off_by_a_known_share_of_the_largest_and_large_ones_not_at_all(n_rows, largest):
    largest = Fraction(float(np.float32(largest)))
    bits = 62 - (n_rows - 1).bit_length()
    grid = Grid.of(Extent(n_rows, np.array([largest], np.float32)))

    step = 1 / Fraction(float(grid.scale[0]))
    assert step / 2 <= largest / 2**bits
    odd = np.nextafter(np.float32(largest * 2 ** (25 - bits)), np.float32(np.inf))
    assert (Fraction(float(odd)) / step).denominator == 1


@given(tables, st.sampled_from(["cpu", "reference"]))
def test_the_total_of_squares_is_the_rational_sum(X, kernel):
    summary = summary_of(X, kernel)

    high, low = summary.squares.total(summary.grid)

    steps = [Fraction(2) ** -e for e in summary.grid.exponent.tolist()]
    rows = quantized(X, summary.grid)
    expected = sum((q * s) ** 2 for row in rows for q, s in zip(row, steps, strict=True))
    seen = Fraction(float(high[0])) + Fraction(float(low[0]))
    assert abs(seen - expected) <= expected / 2**105  # two floats hold no more


def test_the_total_of_squares_of_whole_numbers_is_exact(lattice):
    summary = summary_of(lattice)

    high, low = summary.squares.total(summary.grid)

    assert (high[0], low[0]) == ((lattice.astype(np.int64) ** 2).sum(), 0)


@pytest.mark.parametrize("kernel", ["cpu", "reference"])
def test_squares_of_parts_add_up_to_those_of_the_whole(gaussian, kernel):
    whole = summary_of(gaussian, kernel)
    parts = [Squares.zero(gaussian.shape[1]) for _ in range(3)]

    for rows, part in zip(np.array_split(gaussian[::-1].copy(), 3), parts, strict=True):
        kernels.load(kernel).accumulate_squares(
            rows, whole.grid.scale, whole.grid.half_bits, part.limbs, part.coarse
        )

    total = parts[2] + (parts[0] + parts[1])
    np.testing.assert_array_equal(total.limbs, whole.squares.limbs)
    np.testing.assert_array_equal(total.coarse, whole.squares.coarse)


@pytest.mark.parametrize("kernel", ["cpu", "reference"])
def test_coarse_counts_the_values_below_256_units_that_are_not_zero(kernel):
    step = 2.0**-58  # eight rows leave 59 bits, and 1.0 needs 2**59 > 1.0 / step
    column = [1.0, 256 * step, -256 * step, 255 * step, -255 * step, step / 4, 0.0, 2.0**-149]
    X = np.array([column, [1.0] * 8], np.float64).T.astype(np.float32).copy()

    summary = summary_of(X, kernel)

    assert summary.grid.exponent.tolist() == [58, 58]
    assert summary.squares.coarse.tolist() == [4, 0]


class TestDigest:
    def test_it_does_not_depend_on_the_order_of_the_rows(self, gaussian):
        order = np.random.default_rng(2).permutation(len(gaussian))

        assert summary_of(gaussian[order]).digest == summary_of(gaussian).digest

    def test_it_changes_with_one_bit_of_one_value(self, gaussian):
        changed = gaussian.copy()
        changed[17, 2] = np.nextafter(changed[17, 2], np.float32(9))

        assert summary_of(changed).digest != summary_of(gaussian).digest

    def test_it_changes_when_a_row_is_missing_or_twice(self, gaussian):
        seen = {summary_of(X).digest for X in (gaussian, gaussian[1:], gaussian[[0, *range(200)]])}

        assert len(seen) == 3

    def test_it_changes_when_a_row_of_zeros_is_added(self, gaussian):
        longer = np.vstack([gaussian[:190], np.zeros((1, 5), np.float32)])  # the same grid

        assert summary_of(longer).digest != summary_of(gaussian[:190]).digest

    def test_it_changes_with_the_signs(self, lattice):
        assert summary_of(-lattice).digest != summary_of(lattice).digest

    def test_it_changes_when_two_rows_exchange_a_value(self, gaussian):
        changed = gaussian.copy()
        changed[[3, 4], 0] = changed[[4, 3], 0]

        assert summary_of(changed).digest != summary_of(gaussian).digest
