"""How labelled output comes about: what is there already, what is missing, and who writes it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ray_kmeans.cluster.pool import rows_of
from ray_kmeans.cluster.tally import Moved
from ray_kmeans.clustering.state import FitState, digest
from ray_kmeans.config import RunConfig
from ray_kmeans.data.plan import Block, Layout, Shard, pieces_of
from ray_kmeans.data.source import Source
from ray_kmeans.data.versions import contents_of
from ray_kmeans.errors import ConfigError
from ray_kmeans.observe import events as ev
from ray_kmeans.resources import open_pool
from ray_kmeans.store.by_cluster import ByCluster
from ray_kmeans.store.labelled import Content, LabelledOutput, Run, Written
from ray_kmeans.store.parts import Part

OWN_COLUMNS = ("row", "cluster_idx", "distance")
SECOND_COLUMNS = ("second_cluster_idx", "second_distance")


FEW_FILES = 256
"""Up to twice as many files it may be, of a block each."""
MOST_BLOCKS = 16
"""Of a file."""


@dataclass(frozen=True)
class How:
    """What is to be written of each row, and where."""

    keep_columns: tuple[str, ...]
    second: bool
    by_cluster: bool

    def content(self, state: FitState, source: Source, layout: Layout) -> Content:
        """Return what the output is of; raises ConfigError for columns that it cannot have."""
        return {
            "model": [digest(state.centers), state.metric, *state.shift],
            **contents_of(source, layout),
            "columns": self._types(source, layout),
            "second": self.second,
            "by_cluster": self.by_cluster,
        }

    def _types(self, source: Source, layout: Layout) -> list[tuple[str, str]]:
        """Return the columns kept with their types; a name that is not there raises."""
        own = OWN_COLUMNS + (SECOND_COLUMNS if self.second else ())
        taken = [name for name in self.keep_columns if name in own]
        if taken:
            raise ConfigError(
                f"keep_columns={taken}: the output has columns of these names itself."
            )
        if not self.keep_columns:
            return []
        first = replace(layout.blocks[0], rows=1)
        return [(f.name, str(f.type)) for f in source.columns_of(first, self.keep_columns).schema]


@dataclass(frozen=True)
class Labelling:
    """The rows of some data, to be labelled under a model."""

    state: FitState
    source: Source
    layout: Layout
    config: RunConfig
    how: How
    emit: ev.Emit

    def write(self, output: LabelledOutput, run: Run) -> tuple[Written, int]:
        """Write all that is missing; also return how many parts have a number."""
        together = blocks_of_a_part(len(self.layout.blocks))
        runs = pieces_of(self.layout.blocks, together)
        written = self._write_parts(run, runs, together)
        if self.how.by_cluster:
            written = self._gather(output, run, written, [blocks[0] for blocks in runs])
        return written, len(runs)

    def _write_parts(self, run: Run, runs: list[Shard], together: int) -> Written:
        """Write the parts that are not there; the blocks of the others are not even read."""
        parts: dict[int, Part] = {}
        counts = np.zeros(len(self.state.centers), np.int64)
        for index, part, (labels, rows) in run.parts.there(runs):
            parts[index] = part
            counts[labels[labels >= 0]] += rows[labels >= 0]
        missing = [index for index in range(len(runs)) if index not in parts]
        if missing:
            blocks = [block for index in missing for block in runs[index]]
            with self._pool(blocks, together) as pool:
                pool.read(self._moved(ev.Phase.READING, blocks))
                how = run.parts, self.how.keep_columns, self.how.second, together
                moved = self._moved(ev.Phase.WRITING, blocks)
                new, more = pool.write_labels(self.state.centers, *how, moved)
            parts |= dict(zip(missing, new, strict=True))
            counts += more
        return Written([parts[index] for index in range(len(runs))], counts)

    def _gather(
        self, output: LabelledOutput, run: Run, written: Written, firsts: list[Block]
    ) -> Written:
        """Put the rows of all parts in order of their clusters, bundle by bundle."""
        place = ByCluster(output.url, output.storage_options, run.parts)
        bundles, width = place.plan(written.parts, written.counts, run.before.get("width"))
        files = place.done(bundles)
        missing = [bundle for bundle in bundles if bundle[0] not in files]
        if missing:
            # The workers have let go of the rows, and hold for each bundle its first block alone.
            blocks = [replace(firsts[bundle[0]], index=bundle[0]) for bundle in missing]
            with self._pool(blocks) as pool:
                pool.load()
                rows = sum(written.parts[part].rows for bundle in missing for part in bundle)
                moved = ev.begin(self.emit, ev.Phase.GATHERING, rows, "rows")
                files |= pool.gather(place, missing, width, _scaled(moved, rows_of(blocks), rows))
        parts = [part for bundle in bundles for part in files[bundle[0]]]
        return Written(parts, written.counts, width)

    def _pool(self, blocks: list[Block], together: int = 1) -> Any:
        layout = replace(self.layout, blocks=tuple(blocks))
        about = self.source, layout, len(self.state.centers), self.state.metric, self.config
        return open_pool(*about, self.emit, together=together)

    def _moved(self, phase: ev.Phase, blocks: list[Block]) -> Moved:
        return ev.begin(self.emit, phase, rows_of(blocks), "rows")


def _scaled(moved: Moved, of: int, rows: int) -> Moved:
    """Return what hears how many of some rows are done, and tells it as a share of others."""
    return lambda done: moved(done * rows // of)


def blocks_of_a_part(blocks: int) -> int:
    """Return how many blocks become one file, by their number alone.

    Few data have a file for each block, so that all workers write; many have files of 131,072 rows.

    >>> [blocks_of_a_part(n) for n in (1, 511, 512, 122_071)]
    [1, 1, 2, 16]
    """
    return min(max(blocks // FEW_FILES, 1), MOST_BLOCKS)
