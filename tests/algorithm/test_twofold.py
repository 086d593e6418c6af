from __future__ import annotations

from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from ray_kmeans.algorithm import compiled, double_double


def floats(largest, smallest=0.0):
    """Draw zeros and floats of either sign between two magnitudes."""
    positive = st.floats(max(smallest, 5e-324), largest)
    return st.one_of(st.just(0.0), positive, positive.map(lambda x: -x))


def column(values):
    return np.array(values, np.float64)


def exact(x):
    """Return the rational that an unevaluated sum stands for."""
    parts = np.concatenate([np.ravel(x[0]), np.ravel(x[1])]).tolist()
    return sum(map(Fraction, parts), Fraction(0))


@given(floats(1e300), floats(1e300))
def test_a_sum_and_its_error_are_exact(a, b):
    s, e = double_double.exact_sum(column([a]), column([b]))

    assert exact((s, e)) == Fraction(a) + Fraction(b)
    assert s[0] == a + b


@given(floats(1e140, 1e-140), floats(1e140, 1e-140))
def test_a_product_and_its_error_are_exact(a, b):
    p, e = compiled.exact_product(a, b)

    assert exact((p, e)) == Fraction(a) * Fraction(b)
    assert p == a * b


@given(*[floats(1e100, 1e-100)] * 2, *[floats(1.0, 1e-20)] * 2)
def test_adding_is_off_by_a_few_units_of_the_104th_bit(a, b, share_a, share_b):
    x = double_double.exact_sum(column([a]), column([a * share_a * 2.0**-53]))
    y = double_double.exact_sum(column([b]), column([b * share_b * 2.0**-53]))

    seen = exact(double_double.add(x, y))

    assert abs(seen - exact(x) - exact(y)) <= (abs(exact(x)) + abs(exact(y))) * 4 / 2**104


@given(st.integers(1, 70), st.integers(0, 2**32))
def test_a_total_is_right_also_where_nearly_everything_cancels(n, seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=n) * 10.0 ** rng.integers(-12, 12, n)
    high = rng.permutation(np.concatenate([values, -values, rng.normal(size=3)]))
    x = (high, high * rng.normal(size=len(high)) * 2.0**-60)

    seen = double_double.total(x)

    magnitude = sum(abs(Fraction(v)) for v in high.tolist())
    assert seen[0].shape == seen[1].shape == (1,)
    assert abs(exact(seen) - exact(x)) <= magnitude * 8 * 4 / 2**104  # at most eight levels


def test_a_total_takes_in_every_entry_of_any_size():
    for n in range(1, 40):
        numbers = np.arange(n, dtype=np.float64)

        seen = double_double.total((numbers, numbers * 2.0**-70))

        assert exact(seen) == Fraction(n * (n - 1), 2) * (1 + Fraction(1, 2**70))


@pytest.mark.parametrize("shape", [(30,), (5, 6), (2, 3, 5)])
def test_the_order_of_a_total_depends_on_the_size_alone(shape):
    rng = np.random.default_rng(0)
    high = rng.normal(size=30) * 10.0 ** rng.integers(-20, 20, 30)
    low = high * 2.0**-54
    spread = np.zeros((2, 61))
    spread[:, 1::2] = high, low

    plain = double_double.total((high, low))
    shaped = double_double.total((high.reshape(shape), low.reshape(shape)))
    strided = double_double.total((spread[0, 1::2], spread[1, 1::2]))

    assert plain == shaped == strided
