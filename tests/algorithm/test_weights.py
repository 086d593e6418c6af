"""Weights are whole numbers of a power of two: a row counts as so many equal rows, exactly."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_kmeans import kernels
from ray_kmeans.algorithm.exact_float_sum import UNIT_BITS
from ray_kmeans.algorithm.grid import Extent, Grid
from ray_kmeans.algorithm.weights import TOTAL_BITS, Span, in_units
from ray_kmeans.engine.seeding import weighted_sampling
from ray_kmeans.kernels.moving_sums import Moves
from tests.support.walks import cut

ANY = st.lists(st.floats(0, 1e12, allow_subnormal=True), min_size=1, max_size=20).map(np.array)
WHOLE = st.lists(st.integers(0, 2**30), min_size=1, max_size=20).map(
    lambda values: np.array(values, np.float64)
)


def total(weights):
    return sum((Fraction(weight) for weight in weights.tolist()), Fraction(0))


@given(ANY)
def test_a_span_knows_the_exact_sum_and_the_finest_bit(weights):
    span = Span.of(weights)

    assert span.rows == (weights > 0).sum()
    assert Fraction(span.total, 2**UNIT_BITS) == total(weights)
    unit = Fraction(2) ** span.finest
    assert all((Fraction(weight) / unit).denominator == 1 for weight in weights.tolist())
    assert span.finest == 0 or any((Fraction(w) / unit).numerator % 2 for w in weights.tolist())


@given(ANY, ANY)
def test_spans_of_parts_add_up(a, b):
    assert Span.of(a) + Span.of(b) == Span.of(np.concatenate([a, b]))


@given(WHOLE)
def test_whole_weights_are_their_own_units(weights):
    span = Span.of(weights)

    assert span.exponent == 0
    assert span.units == weights.sum()
    np.testing.assert_array_equal(in_units(weights, 0), weights)


@given(ANY)
def test_other_weights_are_rounded_to_units_that_add_up_to_what_the_grid_holds(weights):
    span = Span.of(weights)
    if span.is_too_large:
        assert total(weights) >= 2 ** (TOTAL_BITS - 1)
        return

    units = in_units(weights, span.exponent)

    assert units.sum() <= span.units < 2 ** (TOTAL_BITS + 1)
    unit = Fraction(1, 2**span.exponent)
    errors = [abs(Fraction(w) - int(u) * unit) for w, u in zip(weights, units, strict=True)]
    assert max(errors) <= unit / 2
    if span.exponent == -span.finest:
        assert max(errors) == 0
        assert units.sum() == span.units


def test_the_grid_of_weights_is_that_of_so_many_rows():
    rows = np.array([[3.0, 0.5], [1.0, -7.0]], np.float32)
    times = np.array([70_000, 5])

    weighted = Grid.of(
        Extent(2, np.abs(rows).max(axis=0), weights=Span.of(times.astype(np.float64)))
    )
    repeated = Grid.of(Extent.of_rows(np.repeat(rows, times, axis=0)))

    assert weighted.exponent.tolist() == repeated.exponent.tolist()
    assert (weighted.bits, weighted.weight_exponent) == (repeated.bits, 0)


def rows_and_times(n=150, d=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)).astype(np.float32), rng.integers(0, 4, n)


@pytest.mark.parametrize("name", ["cpu", "portable", "reference"])
def test_a_kernel_counts_a_row_as_so_many_rows(name):
    X, times = rows_and_times()
    labels = np.random.default_rng(1).integers(0, 3, len(X)).astype(np.int32)
    scale, half_bits = np.full(5, 2.0**20), 12
    answers = []
    for rows, marks, weights in (
        (X, labels, times),
        (np.repeat(X, times, axis=0), np.repeat(labels, times), kernels.ALIKE),
    ):
        kernel = kernels.load(name)
        sums, limbs, coarse = (np.zeros(shape, np.int64) for shape in ((3, 5), (3, 5), 5))
        kernel.accumulate(rows, marks, scale, sums, weights)
        kernel.accumulate_squares(rows, scale, half_bits, limbs, coarse, weights)
        answers.append((sums.tolist(), limbs.tolist(), kernel.fingerprint(rows, weights)))

    assert answers[0] == answers[1]


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_a_row_moves_as_often_as_it_counts(name):
    X, times = rows_and_times()
    before, after = np.random.default_rng(2).integers(0, 3, (2, len(X))).astype(np.int32)
    scale, kernel = np.full(5, 2.0**20), kernels.load(name)
    moved, again = np.zeros((2, 3, 5), np.int64)
    kernel.accumulate(X, before, scale, moved, times)

    rows = np.flatnonzero(before != after)
    kernel.move([X[:70], X[70:]], Moves(rows, before[rows]), after, scale, moved, times)

    kernel.accumulate(X, after, scale, again, times)
    np.testing.assert_array_equal(moved, again)


@pytest.mark.parametrize("threads", [1, 3])
def test_rows_that_are_held_count_as_so_many_rows(kernel, threads):
    X, times = rows_and_times(n=700, d=7, seed=3)
    repeated = np.repeat(X, times, axis=0)
    loaded = kernels.load(kernel, threads)
    weighted = loaded.hold(cut(X, [100]), "squared_euclidean", 6, times)
    plain = kernels.load("reference").hold(cut(repeated, [100]), "squared_euclidean", 6)
    scale, centers = np.full(7, 2.0**20), X[:6].copy()

    for _ in range(4):
        sums, counts = weighted.sums(centers, scale)
        expected, rows = plain.sums(centers, scale)
        np.testing.assert_array_equal(sums, expected)
        np.testing.assert_array_equal(counts, rows)
        centers = (sums / np.maximum(counts, 1)[:, None] / scale).astype(np.float32)


# --- draws by weight ------------------------------------------------------------------------------


def test_the_logarithm_is_right_to_the_last_bits():
    rng = np.random.default_rng(0)
    u = np.concatenate(
        [rng.uniform(size=10_000), 2.0 ** -np.arange(1.0, 54), 1 - 2.0**-53 * np.arange(1.0, 9)]
    )

    ours, theirs = weighted_sampling.minus_log(u), -np.log(u)

    np.testing.assert_allclose(ours, theirs, rtol=2**-49, atol=2**-60)


def test_a_draw_takes_no_row_twice_and_none_of_weight_zero():
    numbers, weights = np.arange(50), np.arange(50) % 3

    tickets, won = weighted_sampling.winners(numbers, weights, np.uint64(7), 20)

    assert len(set(won.tolist())) == 20
    assert (weights[won] > 0).all()
    assert (np.diff(tickets) >= 0).all()
    assert (
        len(weighted_sampling.winners(numbers, weights, np.uint64(7), 99)[1]) == (weights > 0).sum()
    )


def test_the_best_of_all_parts_are_the_best_of_the_whole():
    numbers, weights = np.arange(90), np.random.default_rng(0).integers(0, 9, 90)
    whole = weighted_sampling.winners(numbers, weights, np.uint64(3), 11)

    parts = [
        weighted_sampling.winners(numbers[i : i + 30], weights[i : i + 30], np.uint64(3), 11)
        for i in (0, 30, 60)
    ]

    tickets, won = (np.concatenate(each) for each in zip(*parts, strict=True))
    for ours, theirs in zip(weighted_sampling.lowest(tickets, won, 11), whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_row_is_drawn_as_often_as_it_weighs():
    weights = np.array([1, 2, 4, 8, 0, 1])
    draws = 4000

    first = [
        int(
            weighted_sampling.winners(np.arange(6), weights, np.uint64(key * 2654435761 + 1), 1)[1][
                0
            ]
        )
        for key in range(draws)
    ]

    share = np.bincount(first, minlength=6) / draws
    np.testing.assert_allclose(share, weights / weights.sum(), atol=4 * 0.5 / draws**0.5)
