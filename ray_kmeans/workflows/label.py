"""Write labelled output: find the parts that are there, and let the workers write the rest."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.recall import Recall
from ray_kmeans.algorithm.row_counts import rows_of
from ray_kmeans.algorithm.state import FitState
from ray_kmeans.config import RunConfig
from ray_kmeans.data.fingerprint import contents_of
from ray_kmeans.data.schema_promotion import held_by, kept_schema
from ray_kmeans.data.sharding import (
    BLOCK_ROWS,
    Block,
    Layout,
    Shard,
    pieces_of,
)
from ray_kmeans.data.source import Source
from ray_kmeans.data.weighted import columns_of_rows
from ray_kmeans.engine.label_writer import LISTS, NearestCenters
from ray_kmeans.engine.options import threads_of
from ray_kmeans.engine.progress import Moved
from ray_kmeans.engine.tree_descent import Beam
from ray_kmeans.errors import ConfigError, DataError
from ray_kmeans.observe import events as ev
from ray_kmeans.observe.log import LogLines, tell_all
from ray_kmeans.observe.progress import Progress
from ray_kmeans.store.labelled import LabelledOutput, LabelRun, RowCounts
from ray_kmeans.store.labelled_by_cluster import (
    USUAL_SIZES,
    Bundle,
    ByCluster,
    FileSizes,
    bundles_of,
)
from ray_kmeans.store.labelled_parts import Part
from ray_kmeans.store.labelled_spec import OutputSpec
from ray_kmeans.store.labelled_writer import LeasedOutput, WrittenParts, lease_output
from ray_kmeans.store.lease import Times
from ray_kmeans.text import secrets
from ray_kmeans.workflows.beam_labels import check_beam, choose_beam
from ray_kmeans.workflows.validation import check_features, check_nearest
from ray_kmeans.workflows.worker_plan import check_reachable, machines_for, open_pool, workforce

log = logging.getLogger("ray_kmeans")

OWN_COLUMNS = ("row", "cluster_idx", "distance")
"""Columns of every labelled output, after those that are passed through."""
SECOND_COLUMNS = ("second_cluster_idx", "second_distance")
"""Columns that an output with the second-nearest clusters has besides."""


@dataclass(frozen=True)
class OutputColumns:
    """The columns that are written for each row, and the files in which they are written."""

    keep_columns: tuple[str, ...]
    """Columns of the data that are passed through."""
    second: bool
    """Whether the second-nearest cluster and its distance are written too."""
    by_cluster: bool
    """Whether the files are in folders by cluster."""
    nearest: int | None = None
    """Number of nearest clusters that are listed for each row; None for no list."""
    kept: Any = None
    """Arrow schema of the columns that are passed through, the same in all parts."""

    def of(self, source: Source, before: LabelledOutput | None) -> OutputColumns:
        """Return the same with the types of the columns that are passed through.

        They are those of the output `before` where rows are added to it. Raises ConfigError or
        DataError for columns that no output can have.
        """
        own = OWN_COLUMNS + (SECOND_COLUMNS if self.second else ())
        own += LISTS if self.nearest is not None else ()
        taken = [name for name in self.keep_columns if name in own]
        if taken:
            raise ConfigError(
                f"keep_columns={taken}: the output has columns of these names itself."
            )
        if not self.keep_columns:
            return self
        kept = kept_schema(source, self.keep_columns)
        there = before.kept_schema(self.keep_columns) if before else None
        return replace(self, kept=kept if there is None else held_by(there, kept))

    def check(self, num_clusters: int) -> None:
        """Raise ConfigError for more nearest clusters than there are."""
        if self.second and num_clusters < 2:
            raise ConfigError(
                "second=True: the model has one cluster, so there is no second. Omit it."
            )
        if self.nearest is not None:
            check_nearest(self.nearest, num_clusters)

    @property
    def centers(self) -> NearestCenters:
        """The centers that are written for each row."""
        return NearestCenters(self.second, self.nearest)

    def bytes_beside(self, layout: Layout, config: RunConfig) -> int:
        """Return the bytes that a worker takes for lists of nearest clusters, at most."""
        if self.nearest is None:
            return 0
        largest = max((block.rows for block in layout.blocks), default=0)
        return self.centers.bytes_beside(largest, threads_of(workforce(config)[1]))

    def content(self, state: FitState, source: Source, layout: Layout) -> OutputSpec:
        """Return what decides the rows of the output; equal contents give equal outputs."""
        return {
            "model": state.model_name,
            **contents_of(source, layout),
            "columns": [(each.name, str(each.type)) for each in self.kept or ()],
            "features": list(columns_of_rows(source)),
            "second": self.second,
            **({} if self.nearest is None else {"nearest": self.nearest}),
            "by_cluster": self.by_cluster,
        }


@dataclass(frozen=True)
class Labelling:
    """One call that labels the rows of some data by a model."""

    state: FitState
    """The model."""
    source: Source
    """The data."""
    layout: Layout
    """All blocks of the data."""
    config: RunConfig
    """Machines and stores."""
    columns: OutputColumns
    """What is written of each row."""
    emit: ev.Emit
    """Hears the events of the run."""
    sizes: FileSizes = USUAL_SIZES
    """How large the files are."""
    recall: Recall | None = None
    """The beam by which rows are labelled, as it was measured; None for exact labels."""

    def write(self, output: LabelledOutput, run: LabelRun) -> tuple[WrittenParts, int]:
        """Write all parts that are missing; also return the number of parts before grouping."""
        runs = self._runs
        written = self._write_parts(run, runs)
        if self.columns.by_cluster:
            place = ByCluster(output.url, output.storage_options, run.parts)
            before = run.before.get("width")
            bundles, width = place.plan(written.parts, written.counts, before, self.sizes)
            files = place.find_done(bundles)
            files |= self._gather(place, [b for b in bundles if b[0] not in files], width, runs)
            parts = [part for bundle in bundles for part in files[bundle[0]]]
            written = WrittenParts(parts, written.counts, width)
        return written, len(runs)

    def mend(self, output: LabelledOutput, run: LabelRun) -> list[Part]:
        """Write the damaged parts of a complete run again, with the bundles they belong to."""
        runs = self._runs
        if not self.columns.by_cluster:
            return self._label(run, runs, [run.parts.index_of(part.name) for part in run.damaged])[
                0
            ]
        place = ByCluster(output.url, output.storage_options, run.parts)
        names = [part["name"] for part in run.before["parts"]]
        mine = [run.parts.index_of(name) for name in names if run.parts.prefix in name]
        bad = {run.parts.index_of(part.name) for part in run.damaged}
        bundles = [b for b in bundles_of(mine, len(runs)) if b[0] in bad]
        self._label(run, runs, [index for bundle in bundles for index in bundle])
        files = self._gather(place, bundles, run.before["width"], runs)
        return [part for bundle in bundles for part in files[bundle[0]]]

    @property
    def _together(self) -> int:
        """Number of blocks that make a part."""
        most = blocks_of_a_part(len(self.layout.blocks), self.sizes)
        return self.columns.centers.blocks_within(most, BLOCK_ROWS)

    @property
    def _runs(self) -> list[Shard]:
        """The blocks of each part."""
        return pieces_of(self.layout.blocks, self._together)

    def _write_parts(self, run: LabelRun, runs: list[Shard]) -> WrittenParts:
        """Write the parts that are missing; the blocks of the others are not read."""
        found: dict[int, Part] = {}
        counts = np.zeros(len(self.state.centers), np.int64)
        for index, part, (labels, rows) in run.parts.read_back(runs):
            found[index] = part
            counts[labels[labels >= 0]] += rows[labels >= 0]
        missing = [index for index in range(len(runs)) if index not in found]
        if missing:
            new, more = self._label(run, runs, missing)
            found |= dict(zip(missing, new, strict=True))
            counts += more
        return WrittenParts([found[index] for index in range(len(runs))], counts)

    def _label(
        self, run: LabelRun, runs: list[Shard], missing: list[int]
    ) -> tuple[list[Part], NDArray[np.int64]]:
        """Write these parts; return them, and the number of rows of each label (k,)."""
        blocks = [block for index in missing for block in runs[index]]
        together = self._together
        with self._pool(blocks, together) as pool:
            pool.read(self._moved(ev.Phase.READING, blocks))
            found: tuple[list[Part], NDArray[np.int64]]
            found = pool.write_labels(
                self.state.centers,
                replace(run.parts, kept=self.columns.kept),
                self.columns.keep_columns,
                nearest=self.columns.centers,
                together=together,
                parts=missing,
                beam=self._beam,
                moved=_scaled(
                    self._moved(ev.Phase.WRITING, blocks), pool.num_rows, rows_of(blocks)
                ),
            )
        return found

    @property
    def _beam(self) -> Beam | None:
        """The beam by which rows are labelled; None for exact labels."""
        if self.recall is None or self.state.tree is None:
            return None
        return Beam(self.state.tree, self.recall.beam)

    def _gather(
        self, place: ByCluster, bundles: Sequence[Bundle], width: int, runs: list[Shard]
    ) -> dict[int, list[Part]]:
        """Write the rows of some parts in order of their clusters; return the files by bundle."""
        if not bundles:
            return {}
        # This pass reads the parts and not the data. A bundle is one block to the pool, its first,
        # so that the pool deals bundles out to workers as it deals blocks out.
        blocks = [runs[bundle[0]][0] for bundle in bundles]
        with self._pool(blocks) as pool:
            pool.load()
            rows = rows_of([block for b in bundles for part in b for block in runs[part]])
            moved = ev.begin(self.emit, ev.Phase.GATHERING, rows, "rows")
            found: dict[int, list[Part]]
            scaled = _scaled(moved, pool.num_rows, rows)
            found = pool.gather(place, bundles, width, self._together, scaled)
        return found

    def _pool(self, blocks: list[Block], together: int = 1) -> Any:
        """Open a pool of workers that hold these blocks only."""
        layout = replace(self.layout, blocks=tuple(blocks))
        return open_pool(
            self.source,
            layout,
            len(self.state.centers),
            self.state.metric,
            self.config,
            self.emit,
            together=together,
            other_bytes=self.columns.bytes_beside(layout, self.config),
        )

    def _moved(self, phase: ev.Phase, blocks: list[Block]) -> Moved:
        return ev.begin(self.emit, phase, rows_of(blocks), "rows")


def write_labels(
    state: FitState,
    source: Source,
    output: LabelledOutput,
    config: RunConfig,
    *,
    model_dir: str,
    keep_columns: Sequence[str] = (),
    second: bool = False,
    nearest: int | None = None,
    by_cluster: bool = False,
    append: bool = False,
    beam: int | None = None,
    recall: float | None = None,
    sizes: FileSizes = USUAL_SIZES,
    times: Times | None = None,
    emit: ev.Emit | None = None,
) -> LabelCounts:
    """Write label and distance of every row, by the workers; return the number of rows.

    The parts that a run before has written stay, and only the rest is written. `second`: also the
    second-nearest center. `nearest`: also a list of so many nearest ones. `by_cluster`: in folders
    by cluster. `append`: add to an output of other data. `beam` or `recall`: label by the tree, and
    measure how well. `times`: those of the lease, in seconds.
    `emit` hears the events; None: log and progress. Raises BusyError if another run writes to the
    same place.
    """
    config, layout = machines_for(source, config), source.describe()
    if not layout.blocks:
        raise DataError("the data have no rows. Give at least one.")
    check_features(layout.features, state, model_dir)
    columns = OutputColumns(tuple(keep_columns), second, by_cluster, nearest)
    columns.check(len(state.centers))
    check_reachable(config, {f"the output {output.shown!r}": output, "the data": source})
    columns = columns.of(source, output if append else None)
    check_beam(state, beam, recall, others=columns.centers.count > 1)
    found = None
    if beam is not None or recall is not None:
        found = choose_beam(state, source, layout, config, beam, recall)
    content = columns.content(state, source, layout)
    if found is not None:
        content = {**content, "beam": found.beam}
    done = output.find_complete(content, append)
    if done is None:
        with lease_output(output, times) as held, closing(Progress(config.progress)) as progress:
            told = emit or tell_all([LogLines(), progress])
            labelling = Labelling(state, source, layout, config, columns, told, sizes, found)
            run = held.begin(content, append)
            if run.there is None or run.damaged:
                about = {"model_dir": secrets.shown(model_dir), "iteration": state.iteration}
                about |= {"recall": asdict(found)} if found else {}
                return LabelCounts.of(_write_missing(labelling, output, held, run, about), found)
            done = run.there
    log.info("%r is complete already: nothing is written", output.shown)
    return LabelCounts.of(done, found)


def _write_missing(
    labelling: Labelling,
    output: LabelledOutput,
    held: LeasedOutput,
    run: LabelRun,
    model: Mapping[str, Any],
) -> RowCounts:
    """Write the missing parts of an output, and last the manifest that makes it complete."""
    if run.there is None:
        written, numbers = labelling.write(output, run)
        return held.finish(run, written, model, numbers)
    log.warning(
        "%r is complete, but %d of its parts are missing or not as they were written (%s): "
        "they are written again",
        output.shown,
        len(run.damaged),
        run.damaged[0].name,
    )
    return held.mend(run, labelling.mend(output, run))


def _scaled(moved: Moved, of: int, rows: int) -> Moved:
    """Return a listener that scales a number of `of` rows to a number of `rows` rows."""
    return lambda done: moved(done * rows // of)


def blocks_of_a_part(blocks: int, sizes: FileSizes = USUAL_SIZES) -> int:
    """Return the number of blocks that become one file; the number of all blocks decides.

    Small data get a file for each block, so that all workers write; large ones get files of 131,072
    rows.

    >>> [blocks_of_a_part(n) for n in (1, 511, 512, 122_071)]
    [1, 1, 2, 16]
    """
    return min(max(blocks // sizes.few_files, 1), sizes.most_blocks)


@dataclass(frozen=True)
class LabelCounts:
    """The rows of a labelled output, counted."""

    rows: int
    """Number of rows of the data."""
    left_out: int | None
    """Number of rows that have no cluster (-1); None if several runs wrote the output."""
    recall: Recall | None = None
    """How right the labels are, where a beam made them; None for exact labels."""

    @classmethod
    def of(cls, counts: RowCounts, recall: Recall | None) -> LabelCounts:
        """Return the counts of an output, whose labels a beam may have made."""
        return cls(counts.rows, counts.left_out, recall)

    def __str__(self) -> str:
        """Return the counts as the command `predict` prints them.

        >>> print(LabelCounts(1000, 0))
        1,000 rows labelled
        >>> print(LabelCounts(1000, 3))
        997 rows labelled, 3 left out (cluster -1)
        """
        how = "" if self.recall is None else f"; {self.recall}"
        if not self.left_out:
            return f"{self.rows:,} rows labelled{how}"
        labelled = self.rows - self.left_out
        return f"{labelled:,} rows labelled, {self.left_out:,} left out (cluster -1){how}"
