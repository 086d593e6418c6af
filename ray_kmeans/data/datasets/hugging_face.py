"""Read data sets of the Hugging Face library `datasets`: Arrow files mapped into memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ray_kmeans.data.datasets.base import TableSource
from ray_kmeans.data.sharding import Block
from ray_kmeans.errors import ConfigError

NAME = "the data set"
"""Name of every such data set, for messages."""


@dataclass(frozen=True)
class HuggingFace:
    """A datasets.Dataset, whose rows count as one row group: its shards do not change blocks.

    The library pickles it for the workers: by the paths of its files, which all nodes must see, or
    with its rows if it is in memory.
    """

    dataset: Any
    """The datasets.Dataset."""

    name = NAME
    """Name of the data set, for messages."""

    @property
    def schema(self) -> pa.Schema:
        """All columns."""
        return self.dataset.features.arrow_schema.remove_metadata()

    def parts(self) -> list[tuple[str, tuple[int]]]:
        return [(NAME, (len(self.dataset),))]

    def read(self, blocks: Sequence[Block], names: Sequence[str]) -> Iterator[tuple[Block, Any]]:
        """Yield blocks with the rows that the data set shows after shuffle, select and sort."""
        # The library's own slices: they follow the indices that shuffle, select and sort leave.
        chosen = self.dataset.with_format("arrow", columns=list(names))
        for block in blocks:
            yield block, chosen[block.start : block.start + block.rows]


def open_hugging_face(x: Any, columns: Sequence[str] | None) -> TableSource:
    """Return the source of a datasets.Dataset."""
    return TableSource.of(HuggingFace(x), columns)


def refuse_splits(x: Any, columns: Sequence[str] | None) -> TableSource:
    """Raise ConfigError, which says how to choose one of several splits."""
    raise ConfigError(
        f"x is a {type(x).__name__} with the splits {list(x)}. Give one, as in x[{next(iter(x))!r}]"
        ", or datasets.concatenate_datasets(list(x.values()))."
        if x
        else f"x is a {type(x).__name__} without a split."
    )


def refuse_stream(x: Any, columns: Sequence[str] | None) -> TableSource:
    """Raise ConfigError, which says how to give rows that come one by one as batches."""
    raise ConfigError(
        "x is an IterableDataset, which gives single rows. Give its batches, as in "
        "x.with_format('arrow').iter(batch_size=65536), to partial_fit or a mini-batch fit, or "
        "load the data set without streaming=True."
    )
