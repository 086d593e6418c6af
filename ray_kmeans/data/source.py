"""Rows of a data set in blocks: the protocol that every format and data set fulfils."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ray_kmeans.data.layout import Block, Layout


@runtime_checkable
class Source(Protocol):
    """Rows in blocks, the same blocks every time. Travels to the workers by pickle.

    Where no format serves, write a source of your own: a class of the three methods below, which
    is given as `x` like any data. It must be importable, and its data readable, on every node; one
    that only this process can read says so by an attribute `only_here = True`. Inherit
    `ray_kmeans.testing.SourceContract` in a test of it. As an example, the squares of the numbers
    up to `rows`:

    >>> import numpy as np
    >>> import pyarrow as pa
    >>> from ray_kmeans import open_source
    >>> from ray_kmeans.data.layout import Layout, cut
    >>> class Squares:
    ...     def __init__(self, rows):
    ...         self.rows = rows
    ...
    ...     def describe(self):
    ...         return Layout(tuple(cut("squares", [self.rows], features=2)), features=2)
    ...
    ...     def read(self, blocks):
    ...         for block in blocks:
    ...             numbers = np.arange(block.start, block.start + block.rows, dtype=np.float32)
    ...             yield block, np.stack([numbers, numbers**2], axis=1)
    ...
    ...     def columns_of(self, block, names):
    ...         numbers = np.arange(block.start, block.start + block.rows)
    ...         return pa.table({"number": numbers}).select(names)

    `cut` makes blocks of at most BLOCK_ROWS rows from the rows of each part of a file (here one).

    >>> source = open_source(Squares(10_000))
    >>> [(block.start, block.rows) for block in source.describe().blocks]
    [(0, 8192), (8192, 1808)]
    >>> [rows[:2].tolist() for _, rows in source.read(source.describe().blocks)]
    [[[0.0, 0.0], [1.0, 1.0]], [[8192.0, 67108864.0], [8193.0, 67125248.0]]]
    """

    def describe(self) -> Layout:
        """Return all blocks, from metadata alone."""

    def read(self, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[np.float32]]]:
        """Read blocks, in the order given: (rows, features), C order."""

    def columns_of(self, block: Block, names: Sequence[str]) -> pa.Table:
        """Read other columns of the same rows, to be passed through to labelled output."""


def is_only_here(source: Any) -> bool:
    """Tell whether no other process can read a source (as with memory:// URLs)."""
    return bool(getattr(source, "only_here", False))
