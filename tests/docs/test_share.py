"""Which long tests a run of the suite takes."""

from __future__ import annotations

import pytest

from tests.support.share import SHARES, share_of

TESTS = [f"test_{number}" for number in range(31)]


def kind_of(test):
    """Of one kind are two tests, of another one, and of a third all others."""
    return {"test_3": "rare", "test_9": "rare", "test_20": "single"}.get(test)


def test_a_seed_draws_the_same_share_each_time_in_the_order_of_the_tests():
    share = share_of(TESTS, 8, kind_of)

    assert share == share_of(TESTS, 8, kind_of)
    assert share == [test for test in TESTS if test in share]
    assert 28 // SHARES + 2 <= len(share) <= -(-28 // SHARES) + 2


@pytest.mark.parametrize("seed", range(SHARES))
def test_each_share_has_tests_of_each_kind(seed):
    assert set(map(kind_of, share_of(TESTS, seed, kind_of))) == {None, "rare", "single"}


@pytest.mark.parametrize("first", [0, 40])
def test_as_many_seeds_in_a_row_as_there_are_shares_run_every_test(first):
    drawn = {test for n in range(SHARES) for test in share_of(TESTS, first + n, kind_of)}

    assert drawn == set(TESTS)
