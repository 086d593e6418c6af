"""What float32 loses of values: found by spreads and counts, beside a search in all values."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_kmeans.algorithm.precision import (
    FAR,
    Rounding,
    added,
    less,
)

RNG = np.random.default_rng(0)
STAMPS = 1_654_272_000.0
ORDINARY = {
    "normal": RNG.normal(size=(5_000, 3)),
    "embeddings": RNG.random((5_000, 3)),
    "far by a hundred spreads": 100 + RNG.normal(size=(5_000, 2)),
    "one outlier": np.r_[RNG.normal(size=(5_000, 1)), [[1e12]]],
    "a constant that float32 has not": np.full((5_000, 1), 0.1),
    "a constant in most rows": np.r_[np.full((4_000, 1), 0.1), RNG.normal(size=(1_000, 1))],
    "whole numbers up to 10**8": RNG.integers(0, 10**8, (5_000, 1)),
    "sorted": np.sort(RNG.random((50_000, 1)), axis=0) * 1e8,
    "zeros": np.zeros((10, 2)),
    "all missing": np.full((10, 1), np.nan),
    "infinite": np.full((10, 1), np.inf),
    "no row": np.empty((0, 2)),
}
LOSING = {
    "time stamps": STAMPS + RNG.integers(0, 100, (5_000, 1)),
    "time stamps as whole numbers": 1_654_272_000 + RNG.integers(0, 100, (5_000, 1)),
    "unsigned ones": np.uint64(2**63) + RNG.integers(0, 100, (5_000, 1), np.uint64),
    "beyond what float64 holds": 2**60 + RNG.integers(0, 100, (5_000, 1)),
    "some are missing": np.where(
        RNG.random((5_000, 1)) < 0.1, np.nan, STAMPS + RNG.random((5_000, 1))
    ),
    "some are zero": np.where(RNG.random((5_000, 1)) < 0.1, 0, STAMPS + 9 * RNG.random((5_000, 1))),
    "degrees within a street": 52.52 + 1e-5 * RNG.normal(size=(5_000, 1)),
    "most are equal": STAMPS + np.where(RNG.random((5_000, 1)) < 0.9, 0, RNG.random((5_000, 1))),
    "sorted": np.sort(STAMPS + 500 * RNG.random((50_000, 1)), axis=0),
}


def rounding_of(values, block=700):
    """Return what is known of the values when they come in blocks."""
    blocks = [values[start : start + block] for start in range(0, len(values), block)]
    with np.errstate(over="ignore"):
        return reduce(added, (Rounding.of(each, each.astype(np.float32)) for each in blocks), None)


def lost(values, block=700):
    found = rounding_of(values, block)
    return [] if found is None else found.lost.tolist()


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_columns_lose_nothing_that_is_told(name):
    assert lost(ORDINARY[name]) == []


@pytest.mark.parametrize("name", LOSING)
def test_columns_far_from_zero_beside_their_spread_are_found(name):
    assert lost(LOSING[name]) == [0]


@pytest.mark.parametrize("name", ["time stamps", "time stamps as whole numbers", "unsigned ones"])
def test_values_that_became_others_are_counted(name):
    values = LOSING[name]

    count = sum(int(np.float32(value)) != int(value) for value in values[:, 0].tolist())

    assert 0 < count < len(values)
    assert rounding_of(values).changed.tolist() == [count]


@pytest.mark.parametrize("dtype", ["float32", "float16", "int16", "uint8", "bool"])
def test_values_that_float32_holds_are_not_even_looked_at(dtype):
    values = np.ones((9, 2), dtype)

    assert Rounding.of(values, values.astype(np.float32)) is None


@given(
    cuts=st.lists(st.integers(0, 200), max_size=5),
    scale=st.sampled_from([1.0, 1e-6, 100.0]),
    seed=st.integers(0, 9),
)
def test_parts_add_up_to_the_same_in_any_order(cuts, scale, seed):
    values = STAMPS + scale * np.random.default_rng(seed).random((200, 2))
    parts = [part for part in np.split(values, sorted(cuts)) if len(part)]
    noted = [Rounding.of(part, part.astype(np.float32)) for part in parts]

    one, other = reduce(added, noted), reduce(added, noted[::-1])

    for name in ("changed", "low", "high", "spread"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize(("factor", "expected"), [(1.1, [0]), (0.9, [])])
def test_the_limit_is_where_documented(factor, expected):
    values = np.linspace(0, 2, 10_001)[:, None]  # whose middle half spans 1
    values += factor * FAR - values[7_500]

    assert lost(values, block=len(values)) == expected


class TestAShift:
    @pytest.mark.parametrize("values", [LOSING["time stamps"], LOSING["beyond what float64 holds"]])
    def test_differences_are_exact(self, values):
        middle = float(values[0, 0])

        found = less(values, (middle,))

        exact = [int(value) - int(middle) for value in values[:, 0].tolist()]
        assert found[:, 0].tolist() == exact

    @pytest.mark.parametrize("dtype", ["int64", "int32", "float64"])
    def test_types_that_hold_a_value_give_the_same_bits(self, dtype):
        values = 1_654_272_000 + np.arange(-50, 50).reshape(-1, 2)

        found = less(values.astype(dtype), (1_654_272_000.0, 1_654_271_999.5)).astype(np.float32)

        expected = values - np.array([1_654_272_000.0, 1_654_271_999.5])
        np.testing.assert_array_equal(found, expected.astype(np.float32))

    @pytest.mark.parametrize("shift", [(-(2.0**63),), (2.0**63,), (2.0**70,), (-1.0,)])
    def test_what_overflows_whole_numbers_is_done_in_float64(self, shift):
        values = np.array([[2**63 - 1], [-(2**63)]])

        assert less(values, shift)[:, 0].tolist() == [2.0**63 - shift[0], -(2.0**63) - shift[0]]

    def test_unsigned_numbers_below_it_become_negative(self):
        assert less(np.array([[1], [9]], np.uint64), (5.0,))[:, 0].tolist() == [-4, 4]

    def test_no_shift_changes_nothing(self):
        values = np.ones((2, 2))

        assert less(values, ()) is values
