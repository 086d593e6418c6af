"""Calls as Ray tasks: how many there are at once, and what an error ends."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ray_kmeans.on_ray import tasks

pytestmark = pytest.mark.ray


def leave_a_mark(place: Path, number: int) -> int:
    (place / str(number)).touch()
    time.sleep(0.02)
    if number == 0:
        raise ValueError("the first")
    return number


def test_each_call_is_made_once_and_no_more_than_allowed_are_ahead(tmp_path, ray_cluster):
    calls = ((tmp_path, number) for number in range(10, 22))

    came = []
    for number in tasks.outcomes(leave_a_mark, calls, at_once=2):
        came.append(number)
        assert len(list(tmp_path.iterdir())) <= len(came) + 2

    assert sorted(came) == list(range(10, 22))


@pytest.mark.parametrize("at_once", [1, 4, None])
def test_an_error_is_raised_as_it_is_and_ends_the_making_of_calls(at_once, tmp_path, ray_cluster):
    calls = ((tmp_path, number) for number in range(3_000))

    with pytest.raises(ValueError, match="the first"):
        list(tasks.outcomes(leave_a_mark, calls, at_once))

    before, made = -1, 0
    while made > before:  # those that Ray knows of end by themselves
        time.sleep(1)
        before, made = made, len(list(tmp_path.iterdir()))
    assert 1 <= made < 3_000
