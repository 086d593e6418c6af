"""Define what a source of rows is: the protocol that every format and data set fulfils."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ray_kmeans.data.sharding import Block, Layout


@runtime_checkable
class Source(Protocol):
    """Data whose rows are read in blocks, the same blocks every time.

    Where no format serves, write a source of your own: a class with the three methods below, which
    is given as `x` like any data. It travels to the workers by pickle, so it must be importable,
    and its data readable, on every node. If only this process can read the data, set the attribute
    `only_here = True`. Test it by a class that inherits `ray_kmeans.testing.SourceContract`.

    Examples
    --------
    The squares of the numbers below `rows`:

    >>> import numpy as np
    >>> import pyarrow as pa
    >>> from ray_kmeans import open_source
    >>> from ray_kmeans.data.sharding import Layout, cut
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

    `cut` makes blocks of at most BLOCK_ROWS rows. It takes the number of rows of each part of a
    file that is read together; here the file has one part.

    >>> source = open_source(Squares(10_000))
    >>> [(block.start, block.rows) for block in source.describe().blocks]
    [(0, 8192), (8192, 1808)]
    >>> [rows[:2].tolist() for _, rows in source.read(source.describe().blocks)]
    [[[0.0, 0.0], [1.0, 1.0]], [[8192.0, 67108864.0], [8193.0, 67125248.0]]]
    """

    def describe(self) -> Layout:
        """Return all blocks and the number of features, without reading the rows.

        Returns
        -------
        Layout
            The same at every call, and in every process.
        """

    def read(self, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[np.float32]]]:
        """Yield the rows of some blocks, in the order given.

        Parameters
        ----------
        blocks : sequence of Block
            Any of the blocks of the layout, in any order.

        Returns
        -------
        iterator of (Block, ndarray of shape (block.rows, features))
            The rows are float32 in C order.
        """

    def columns_of(self, block: Block, names: Sequence[str]) -> pa.Table:
        """Return other columns of the rows of one block.

        Labelled output keeps such columns, weights and filters are made of them, and a report
        shows them.

        Parameters
        ----------
        block : Block
            One of the blocks of the layout, or the first rows of one.
        names : sequence of str
            Names of columns.

        Returns
        -------
        pyarrow.Table
            `block.rows` rows of exactly these columns, in this order.

        Raises
        ------
        ConfigError, DataError
            If there is no such column. The text names columns and place; the caller adds which
            argument asked for them.
        """


def is_only_here(source: Any) -> bool:
    """Tell whether no other process can read a source (as with memory:// URLs)."""
    return bool(getattr(source, "only_here", False))
