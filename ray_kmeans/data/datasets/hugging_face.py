"""Data sets of the Hugging Face library `datasets`: Arrow files mapped into memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ray_kmeans.data.datasets.base import TableSource
from ray_kmeans.data.layout import Block
from ray_kmeans.errors import ConfigError

NAME = "the data set"


@dataclass(frozen=True)
class HuggingFace:
    """A datasets.Dataset; its rows are one part, so that blocks do not follow from its shards.

    It travels to the workers as the library pickles it: by the paths of its files where these are
    mapped, which all nodes must see, and with its rows where it is in memory.
    """

    dataset: Any

    name = NAME

    @property
    def schema(self) -> pa.Schema:
        return self.dataset.features.arrow_schema.remove_metadata()

    def parts(self) -> list[tuple[str, tuple[int]]]:
        return [(NAME, (len(self.dataset),))]

    def read(self, blocks: Sequence[Block], names: Sequence[str]) -> Iterator[tuple[Block, Any]]:
        # The library's own slices: they follow the indices that shuffle, select and sort leave.
        chosen = self.dataset.with_format("arrow", columns=list(names))
        for block in blocks:
            yield block, chosen[block.start : block.start + block.rows]


def open_hugging_face(x: Any, columns: Sequence[str] | None) -> TableSource:
    return TableSource.of(HuggingFace(x), columns)


def refuse_splits(x: Any, columns: Sequence[str] | None) -> TableSource:
    """Raise ConfigError: a dictionary of data sets is not one."""
    raise ConfigError(
        f"x is a {type(x).__name__} with the splits {list(x)}. Give one, as in x[{next(iter(x))!r}]"
        ", or datasets.concatenate_datasets(list(x.values()))."
        if x
        else f"x is a {type(x).__name__} without a split."
    )


def refuse_stream(x: Any, columns: Sequence[str] | None) -> TableSource:
    """Raise ConfigError: rows that come one by one have no blocks."""
    raise ConfigError(
        "x is an IterableDataset, which gives single rows. Give its batches, as in "
        "x.with_format('arrow').iter(batch_size=65536), to partial_fit or a mini-batch fit, or "
        "load the data set without streaming=True."
    )
