"""Counts rows of blocks, for all that plan blocks or hold them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class HasRows(Protocol):
    """A block: all that counting rows needs of it."""

    @property
    def rows(self) -> int:
        """Number of rows of the block."""


def rows_of(blocks: Iterable[HasRows]) -> int:
    """Return the number of rows of some blocks, for example of a shard."""
    return sum(block.rows for block in blocks)
