"""A share of the long tests for each run of the suite, drawn by a seed that is told."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")

SHARE = 4
"""Long tests of one run; a run of all takes most of an hour on two CPUs."""


def share_of(tests: Sequence[T], seed: int) -> list[T]:
    """Return the long tests that a run with this seed takes, in their order."""
    chosen = set(Random(seed).sample(range(len(tests)), min(SHARE, len(tests))))
    return [test for number, test in enumerate(tests) if number in chosen]
