"""A few runs of the suite take every long test."""

from __future__ import annotations

from tests.support.share import SHARE, share_of

TESTS = [f"test {number}" for number in range(35)]


def test_a_seed_always_draws_the_same_share_in_its_order():
    share = share_of(TESTS, 7)

    assert share == share_of(TESTS, 7)
    assert len(share) == SHARE
    assert share == sorted(share, key=TESTS.index)
    assert share_of(TESTS[:2], 7) == TESTS[:2]


def test_all_tests_are_drawn_by_some_seed():
    drawn = {test for seed in range(60) for test in share_of(TESTS, seed)}

    assert drawn == set(TESTS)
