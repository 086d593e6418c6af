"""The last word on which of two centers is nearer: its sign must be that of the rational result."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given

from ray_kmeans.kernels import exact
from tests import oracle

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

    assert np.sign(exact.difference_of_distances(x, a, b)) == sign_over_the_reals(x, a, b)


@given(st.lists(near_tie_columns(), min_size=1, max_size=8))
@example([(0, 2.0**-40, 0), (2, 3, 1)])  # the tie in the last column must not hide the first
@example([(2, 3, 1), (0, 2.0**-40, 0)])
@example([(2, 3, 1)] * 6 + [(1, 3, 0)] + [(2, 3, 1)] * 6)
@example([(2, 3, 1)] * 12 + [(1, 3, 0)])
def test_the_sign_is_right_for_rows_near_the_bisector(columns):
    x, a, b = columns_as_rows(columns)

    sign = sign_over_the_reals(x, a, b)

    assert np.sign(exact.difference_of_distances(x, a, b)) == sign
    assert np.sign(exact.difference_of_distances(x, b, a)) == -sign


@given(st.lists(near_tie_columns(), min_size=1, max_size=8))
def test_nearer_means_strictly_nearer(columns):
    x, a, b = columns_as_rows(columns)
    squared = exact.squared_distance(x, a), exact.squared_distance(x, b)

    sign = sign_over_the_reals(x, a, b)

    assert exact.is_nearer(x, a, squared[0], b, squared[1]) == (sign < 0)
    assert exact.is_nearer(x, b, squared[1], a, squared[0]) == (sign > 0)


@pytest.mark.parametrize("d", [3, 5, 7, 33])
def test_rounding_does_not_break_a_tie(d):
    rng = np.random.default_rng(d)
    x = np.zeros(d, np.float32)
    n_rounded = 0
    for _ in range(300):
        a = (rng.normal(size=d) * 10.0 ** rng.uniform(-5, 0, d)).astype(np.float32)
        b = rng.permutation(a)  # as far from 0 as a is, but for the order of the additions
        squared = exact.squared_distance(x, a), exact.squared_distance(x, b)

        assert not exact.is_nearer(x, a, squared[0], b, squared[1])
        assert not exact.is_nearer(x, b, squared[1], a, squared[0])

        n_rounded += squared[0] != squared[1]
    assert n_rounded > 10


@given(st.lists(st.tuples(finite, finite, finite), min_size=1, max_size=6))
def test_a_squared_distance_is_off_by_the_share_it_promises(columns):
    x, a, _ = columns_as_rows(columns)
    true = oracle.squared_distance(*oracle.exact([x, a]))

    seen = exact.squared_distance(x, a)

    assert abs(oracle.Fraction(seen) - true) <= true * (len(x) + 4) / 2**53


@pytest.mark.parametrize("step", [2, 3])
def test_the_exact_sum_has_room_for_every_magnitude(step, monkeypatch):
    # Compiled code writes past the end of an array in silence; plain Python raises IndexError.
    monkeypatch.setattr(exact, "_grow", exact._grow.py_func)
    a = (np.ldexp(2.0, np.arange(-100, 126, step)) * (1 - 2.0**-24)).astype(np.float32)
    x = np.nextafter(a, np.float32(0))

    assert exact.difference_of_distances.py_func(x, a, x) > 0
    assert exact.difference_of_distances.py_func(x, x, a) < 0
