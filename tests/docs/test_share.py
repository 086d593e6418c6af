"""Which long tests a run of the suite takes."""

from __future__ import annotations

from tests.support.share import SHARES, share_of

TESTS = [f"test_{number}" for number in range(31)]


def test_a_seed_draws_the_same_share_each_time_in_the_order_of_the_tests():
    share = share_of(TESTS, 7)

    assert share == share_of(TESTS, 7)
    assert share == [test for test in TESTS if test in share]
    assert len(TESTS) // SHARES <= len(share) <= -(-len(TESTS) // SHARES)


def test_as_many_seeds_in_a_row_as_there_are_shares_run_every_test_once():
    drawn = [test for seed in range(40, 40 + SHARES) for test in share_of(TESTS, seed)]

    assert sorted(drawn) == sorted(TESTS)
