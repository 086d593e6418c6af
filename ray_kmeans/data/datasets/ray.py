"""Read a ray.data.Dataset: the blocks of rows that Ray's object store holds."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import pyarrow as pa

from ray_kmeans.data.datasets.base import TableSource
from ray_kmeans.data.schema_promotion import filled
from ray_kmeans.data.sharding import Block
from ray_kmeans.errors import DataError, NoDataError
from ray_kmeans.process import forks

NAME = "the Ray dataset"
"""Name of every such data set, for messages."""


@dataclass(frozen=True)
class RayBlocks:
    """The blocks of a Ray dataset, of which a worker fetches those that hold its rows.

    All rows count as one row group, in the order of Ray's blocks. How a Ray dataset was made (its
    files, the number of blocks, preserve_order) may change that order, and with it the rows that
    random draws find. One materialized dataset gives the same result every time, whatever the
    workers; it is also the result of an array of its rows.
    """

    refs: tuple[Any, ...]
    """ObjectRef of each Ray block."""
    rows: tuple[int, ...]
    """Number of rows of each Ray block."""
    schema: pa.Schema
    """All columns."""

    name = NAME
    """Name of the data set, for messages."""

    def parts(self) -> list[tuple[str, tuple[int]]]:
        return [(NAME, (sum(self.rows),))]

    def read(self, blocks: Sequence[Block], names: Sequence[str]) -> Iterator[tuple[Block, Any]]:
        """Yield blocks with their tables, joined from pieces of the Ray blocks that they span."""
        ends = list(accumulate(self.rows))
        last_read: tuple[int, Any] = (-1, None)  # neighbouring blocks often share a Ray block
        for block in blocks:
            pieces = []
            at, last = block.start, block.start + block.rows
            while at < last:
                number = bisect_right(ends, at)
                if last_read[0] != number:
                    last_read = number, _table(self.refs[number])
                skip = at - (ends[number] - self.rows[number])
                pieces.append(last_read[1].select(list(names)).slice(skip, last - at))
                at = min(ends[number], last)
            yield block, pa.concat_tables(pieces, promote_options="permissive")


def open_ray_dataset(x: Any, columns: Sequence[str] | None) -> TableSource:
    """Materialize a Ray dataset, and return the source of its blocks."""
    forks.check("ray")
    bundles = list(x.materialize().iter_internal_ref_bundles())
    pairs = [
        (ref, block.num_rows)
        for bundle in bundles
        for ref, block in zip(bundle.block_refs, bundle.metadata, strict=True)
        if block.num_rows
    ]
    if not pairs:
        raise NoDataError("x is a Ray dataset without a row.")
    refs, rows = zip(*pairs, strict=True)
    others = [bundle.schema for bundle in bundles if isinstance(bundle.schema, pa.Schema)]
    schema = filled(_table(refs[0]).schema, others)
    return TableSource.of(RayBlocks(refs, rows, schema), columns)


def _table(ref: Any) -> pa.Table:
    """Return a Ray block as a table; DataError if it is lost."""
    import ray
    from ray.data.block import BlockAccessor

    try:
        block = ray.get(ref)
    except ray.exceptions.RayError as error:
        cause = str(error).strip().splitlines()[0]
        raise DataError(f"a block of {NAME} is lost: {cause} Make the dataset anew.") from None
    return BlockAccessor.for_block(block).to_arrow()
