"""Read a sample of the rows of a source: as many of each block as its share, chosen by a hash.

Block b of a source gives the rows from ``first * m // n`` to ``end * m // n`` of a sample of m of n
rows: m in all, spread evenly over the data. Within the block these are the rows with the lowest
hash of their number and the seed. So the sample is a function of the data's blocks and the seed
alone, whoever reads which block; and a row group of which no block gives a row is not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Integral
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ray_kmeans.algorithm.draws import mix, words
from ray_kmeans.algorithm.precision import Rounding, less
from ray_kmeans.data.float32_rounding import RoundedSource
from ray_kmeans.data.session_source import SessionSource
from ray_kmeans.data.sharding import Block, Layout
from ray_kmeans.data.source import Source
from ray_kmeans.data.weighted import Floats, WeightedSource, as_weighted
from ray_kmeans.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class SampledBlock(Block):
    """The rows that a block gives to a sample; its place and numbers count the sample's rows."""

    whole: Block
    """The block of the source."""
    chosen: int
    """Number of its rows that are in the sample; `rows` are the first of them, mostly all."""

    @property
    def place(self) -> str:
        """The row group and file, for messages."""
        return f"the sampled rows of row group {self.group} of {self.file}"


@dataclass(frozen=True)
class SampledSource(WeightedSource):
    """A sample of the rows of a source, with their weights."""

    sample_rows: int = 0
    """Number of rows of the sample, m."""
    of_rows: int = 0
    """Number of rows of the source, n."""
    seed: int = 0
    """Seed of the hash that chooses rows."""

    def describe(self) -> Layout:
        """Return the blocks of the sample; blocks that give no row are left out."""
        layout = self._unsampled.describe()
        return replace(layout, blocks=tuple(self._sample(layout)))

    def _sample(self, layout: Layout) -> Iterator[SampledBlock]:
        """Yield the part of each block that is in the sample, if any row is."""
        total, index, first = self.of_rows, 0, 0
        in_file: dict[str, int] = {}
        in_group: dict[tuple[str, int], int] = {}
        for whole in layout.blocks:
            ends = (whole.first * self.sample_rows, (whole.first + whole.rows) * self.sample_rows)
            rows = ends[1] // total - ends[0] // total
            if not rows:
                continue
            of_whole = {field.name: getattr(whole, field.name) for field in fields(Block)}
            group = (whole.file, whole.group)
            numbers = {
                "index": index,
                "first": first,
                "rows": rows,
                "start": in_file.get(whole.file, 0),
                "skip": in_group.get(group, 0),
            }
            yield SampledBlock(**{**of_whole, **numbers}, whole=whole, chosen=rows)
            index, first = index + 1, first + rows
            in_file[whole.file] = numbers["start"] + rows
            in_group[group] = numbers["skip"] + rows

    def read(self, blocks: Sequence[Any]) -> Iterator[tuple[Any, NDArray[Any]]]:
        """Yield the rows of some blocks of the sample, in the order given."""
        for block, (_, rows) in self._with_wholes(blocks, self.source.read):
            yield block, rows[self._chosen(block)]

    def read_noted(
        self, blocks: Sequence[Any]
    ) -> Iterator[tuple[Any, NDArray[np.float32], Rounding | None]]:
        """Yield each block of the sample, its rows and their rounding error, if it is known."""
        inner = self.source
        if not isinstance(inner, RoundedSource):
            yield from ((*each, None) for each in self.read(blocks))
            return
        for block, (_, wide) in self._with_wholes(blocks, inner.read_wide):
            values = less(wide[self._chosen(block)], inner.shift)
            rows = inner.rounded(block, values)
            yield block, rows, Rounding.of(values, rows)

    def weights_of(self, blocks: Sequence[Any]) -> Iterator[Floats | None]:
        """Yield the weights of each block of the sample, in order; None if all are 1."""
        for block, weights in self._with_wholes(blocks, self._unsampled.weights_of):
            yield None if weights is None else weights[self._chosen(block)]

    def columns_of(self, block: Any, names: Sequence[str]) -> pa.Table:
        """Return other columns of the rows of a block of the sample, or of its first rows."""
        return self.source.columns_of(block.whole, names).take(self._chosen(block))

    @property
    def _unsampled(self) -> WeightedSource:
        """All rows of the source, with their weights."""
        return WeightedSource(self.source, self.weights, self.filters, self.drop_nonfinite)

    def _with_wholes(self, blocks: Sequence[Any], read: Any) -> Iterator[tuple[Any, Any]]:
        """Yield each block with what a function of the source's blocks yields for its whole."""
        return zip(blocks, read([block.whole for block in blocks]), strict=True)

    def _chosen(self, block: Any) -> NDArray[np.int64]:
        """Return which rows of the whole block are in the sample, in ascending order."""
        whole, count = block.whole, block.chosen
        numbers = np.arange(whole.first, whole.first + whole.rows, dtype=np.uint64)
        [key] = words(self.seed, "sample", size=1)
        lowest = np.argpartition(mix(numbers, key), count - 1)[:count]
        return np.sort(lowest)[: block.rows]


def check_train_rows(train_rows: Any) -> None:
    """Raise ConfigError unless it is None, a number of rows from 1 on, or a share below 1."""
    if train_rows is None:
        return
    is_bool = isinstance(train_rows, bool | np.bool_)
    is_count = isinstance(train_rows, Integral) and not is_bool and int(train_rows) >= 1
    is_share = isinstance(train_rows, float | np.floating) and 0 < train_rows < 1
    if not (is_count or is_share):
        raise ConfigError(
            f"train_rows={train_rows!r} must be None, a whole number of rows from 1 on, or a share "
            "of the rows between 0 and 1."
        )


def sampled(source: Source, train_rows: float | None, seed: int, num_clusters: int) -> Source:
    """Return the sample of a source that a fit trains on; the same source if that is all rows.

    Raises ConfigError for a sample with fewer rows than clusters, and for the rows of a session.
    """
    if train_rows is None:
        return source
    if isinstance(source, SessionSource):
        raise ConfigError(
            f"train_rows={train_rows} with a session, whose workers hold all rows already. Leave "
            "it out, or fit with the data."
        )
    total = source.describe().rows
    rows = min(int(train_rows), total) if train_rows >= 1 else max(round(train_rows * total), 1)
    if rows == total:
        return source
    if rows < num_clusters:
        raise ConfigError(
            f"train_rows={train_rows}: {rows:,} of {total:,} rows, and "
            f"num_clusters={num_clusters}. Give at least one row for each cluster."
        )
    weighted = as_weighted(source)
    of_source = {field.name: getattr(weighted, field.name) for field in fields(WeightedSource)}
    return SampledSource(**of_source, sample_rows=rows, of_rows=total, seed=seed)


def sample_of(source: Source) -> tuple[int, ...]:
    """Return the numbers of rows of a sample and of all; () where the source is no sample."""
    if not isinstance(source, SampledSource):
        return ()
    return source.sample_rows, source.of_rows
