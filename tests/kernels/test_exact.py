"""The last word on which of two centers is nearer: its sign must be that of the rational result."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given

from ray_kmeans.kernels import exact_order
from tests.support import oracle

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


def columns_as_rows(columns):
    """Return (x, a, b) of a list of columns, as float32."""
    return tuple(np.array(columns, np.float32).T.copy())


def sign_over_the_reals(x, a, b):
    [x], [a], [b] = (oracle.exact([row]) for row in (x, a, b))
    difference = oracle.squared_distance(x, a) - oracle.squared_distance(x, b)
    return (difference > 0) - (difference < 0)


@st.composite
def near_tie_columns(draw):
    """Draw a column (x, a, b) of some magnitude with x in the middle, or one last bit off it."""
    power = 2.0 ** draw(st.integers(-149, 100))
    middle, half = draw(st.integers(-(2**20), 2**20)), draw(st.integers(-(2**20), 2**20))
    off = draw(st.sampled_from([0, 0, 0, 1, -1]))
    return (middle + off) * power, (middle + half) * power, (middle - half) * power


@given(st.lists(st.tuples(finite, finite, finite), min_size=1, max_size=6))
def test_the_sign_is_right_for_any_rows(columns):
    x, a, b = columns_as_rows(columns)

    assert np.sign(exact_order.difference_of_scores(x, a, b, False)) == sign_over_the_reals(x, a, b)


@given(st.lists(near_tie_columns(), min_size=1, max_size=8))
@example([(0, 2.0**-40, 0), (2, 3, 1)])  # the tie in the last column must not hide the first
@example([(2, 3, 1), (0, 2.0**-40, 0)])
@example([(2, 3, 1)] * 6 + [(1, 3, 0)] + [(2, 3, 1)] * 6)
@example([(2, 3, 1)] * 12 + [(1, 3, 0)])
def test_the_sign_is_right_for_rows_near_the_bisector(columns):
    x, a, b = columns_as_rows(columns)

    sign = sign_over_the_reals(x, a, b)

    assert np.sign(exact_order.difference_of_scores(x, a, b, False)) == sign
    assert np.sign(exact_order.difference_of_scores(x, b, a, False)) == -sign


def is_nearer(x, a, b, cosine):
    return exact_order.is_nearer(
        x, a, exact_order.score(x, a, cosine), b, exact_order.score(x, b, cosine), cosine
    )


@given(st.lists(near_tie_columns(), min_size=1, max_size=8))
def test_nearer_means_strictly_nearer(columns):
    x, a, b = columns_as_rows(columns)

    sign = sign_over_the_reals(x, a, b)

    assert is_nearer(x, a, b, False) == (sign < 0)
    assert is_nearer(x, b, a, False) == (sign > 0)


def inner_product(x, c):
    return sum((one * other for one, other in zip(x, c, strict=True)), oracle.Fraction(0))


def sign_of_products(x, a, b):
    """Return that of x.b - x.a, which is below 0 where a is the nearer one for 'cosine'."""
    [x], [a], [b] = (oracle.exact([row]) for row in (x, a, b))
    difference = inner_product(x, b) - inner_product(x, a)
    return (difference > 0) - (difference < 0)


@st.composite
def canceling_columns(draw):
    """Draw two columns (x, a, b) whose parts in x.b - x.a cancel, but perhaps for a last bit."""
    power = 2.0 ** draw(st.integers(-120, 60))
    x, a, b = (draw(st.integers(-(2**20), 2**20)) * power for _ in range(3))
    off = draw(st.sampled_from([0, 0, 0, 1, -1])) * power
    return [(x, a, b), (x, b, a + off)]


@given(st.lists(st.tuples(finite, finite, finite), min_size=1, max_size=6))
def test_the_sign_of_products_is_right_for_any_rows(columns):
    x, a, b = columns_as_rows(columns)

    sign = sign_of_products(x, a, b)

    assert np.sign(exact_order.difference_of_scores(x, a, b, True)) == sign
    assert is_nearer(x, a, b, True) == (sign < 0)
    assert is_nearer(x, b, a, True) == (sign > 0)


@given(st.lists(canceling_columns(), min_size=1, max_size=5))
@example([[(1, 1, 0), (2.0**-40, 2.0**-40, 0)], [(1, 0, 1), (1, 0, 0)]])  # 2**-80 of the sum
@example([[(1, 0, 1), (2.0**-40, 0, 2.0**-40)], [(1, 1, 0), (1, 0, 0)]])
def test_the_larger_product_is_nearer_however_much_cancels(pairs):
    x, a, b = columns_as_rows([column for pair in pairs for column in pair])

    sign = sign_of_products(x, a, b)

    assert np.sign(exact_order.difference_of_scores(x, a, b, True)) == sign
    assert is_nearer(x, a, b, True) == (sign < 0)
    assert is_nearer(x, b, a, True) == (sign > 0)


@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=6))
def test_a_product_is_off_by_the_share_of_the_sizes_it_promises(columns):
    x, c = columns_as_rows(columns)
    true = inner_product(*oracle.exact([x, c]))
    size = inner_product(*oracle.exact(np.abs([x, c])))

    found, error = exact_order.score(x, c, True)

    assert abs(oracle.Fraction(found) + true) <= size * (len(x) + 4) / 2**53
    assert size * (len(x) + 4) / 2**53 <= error


@pytest.mark.parametrize("d", [3, 5, 7, 33])
def test_rounding_does_not_break_a_tie(d):
    rng = np.random.default_rng(d)
    x = np.zeros(d, np.float32)
    n_rounded = 0
    for _ in range(300):
        a = (rng.normal(size=d) * 10.0 ** rng.uniform(-5, 0, d)).astype(np.float32)
        b = rng.permutation(a)  # as far from 0 as a is, but for the order of the additions

        assert not is_nearer(x, a, b, False)
        assert not is_nearer(x, b, a, False)

        n_rounded += exact_order.squared_distance(x, a) != exact_order.squared_distance(x, b)
    assert n_rounded > 10


@given(st.lists(st.tuples(finite, finite, finite), min_size=1, max_size=6))
def test_a_squared_distance_is_off_by_the_share_it_promises(columns):
    x, a, _ = columns_as_rows(columns)
    true = oracle.squared_distance(*oracle.exact([x, a]))

    seen = exact_order.squared_distance(x, a)

    assert abs(oracle.Fraction(seen) - true) <= true * (len(x) + 4) / 2**53


@pytest.mark.parametrize("step", [2, 3])
def test_the_exact_sum_has_room_for_every_magnitude(step, monkeypatch):
    # Compiled code writes past the end of an array in silence; plain Python raises IndexError.
    monkeypatch.setattr(exact_order, "_grow", exact_order._grow.py_func)
    a = (np.ldexp(2.0, np.arange(-100, 126, step)) * (1 - 2.0**-24)).astype(np.float32)
    x = np.nextafter(a, np.float32(0))

    assert exact_order.difference_of_scores.py_func(x, a, x, False) > 0
    assert exact_order.difference_of_scores.py_func(x, x, a, False) < 0
    assert exact_order.difference_of_scores.py_func(x, a, x, True) < 0
    assert exact_order.difference_of_scores.py_func(x, x, a, True) > 0
