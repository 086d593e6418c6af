"""A share of the long tests for each run of the suite, drawn by a seed that is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

SHARES = 6
"""Number of shares: any six seeds in a row run every long test. All of them at once take most of an
hour on two CPUs."""


def share_of(tests: Sequence[T], seed: int) -> list[T]:
    """Return the long tests that a run with this seed takes, in their order.

    Cases of one test stand next to each other, so they fall into different shares.
    """
    return list(tests[seed % SHARES :: SHARES])
