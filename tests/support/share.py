"""A share of the long tests for each run of the suite, drawn by a seed that is told."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

T = TypeVar("T")

SHARES = 7
"""Number of shares: any seven seeds in a row run every long test. All of them at once take most of
an hour on two CPUs. It is prime, so that each share has cases of every metric and every unit."""


def share_of(tests: Sequence[T], seed: int, kind: Callable[[T], Hashable]) -> list[T]:
    """Return the long tests that a run with this seed takes, in their order.

    Of each kind it takes one at least. Cases of one test stand next to each other, so they fall
    into different shares.
    """
    kinds: dict[Hashable, list[int]] = {}
    for number, test in enumerate(tests):
        kinds.setdefault(kind(test), []).append(number)
    taken = []
    for numbers in kinds.values():
        shares = min(SHARES, len(numbers))
        taken += numbers[seed % shares :: shares]
    return [tests[number] for number in sorted(taken)]
