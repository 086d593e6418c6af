"""Label the rows of a fit as soon as it ends, by the workers that hold them already."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from ray_kmeans.algorithm.state import FitState
from ray_kmeans.config import RunConfig
from ray_kmeans.data.session_source import SessionSource
from ray_kmeans.data.sharding import Layout
from ray_kmeans.data.source import Source
from ray_kmeans.engine.pool import Pool
from ray_kmeans.engine.shared_pool import SharedPool
from ray_kmeans.observe import events as ev
from ray_kmeans.store.labelled import LabelledOutput
from ray_kmeans.workflows.label import LabelCounts, OutputColumns, write_labels
from ray_kmeans.workflows.worker_plan import check_reachable


@dataclass(frozen=True)
class LabelAfterFit:
    """The labelled output that a fit writes at its end; it travels to the coordinator."""

    output: LabelledOutput
    """Place of the labelled rows."""
    columns: OutputColumns
    """What is written of each row."""
    config: RunConfig
    """Machines and stores."""
    model_dir: str
    """Path or URL of the model, which the manifest of the output names."""
    append: bool = False
    """Whether the rows are added to an output of other data."""

    def check(self, source: Source, num_clusters: int) -> None:
        """Raise what would end the labelling, before the fit begins."""
        self.columns.check(num_clusters)
        check_reachable(self.config, {f"the output {self.output.shown!r}": self.output})
        self.columns.of(source, self.output if self.append else None)

    def bytes_beside(self, layout: Layout) -> int:
        """Return the bytes that the labelling takes in a worker beside the fit, at most."""
        return self.columns.bytes_beside(layout, self.config)

    def __call__(self, state: FitState, shared: SharedPool, source: Source, emit: ev.Emit) -> None:
        """Write the output with a pool that holds the rows of the source."""

        @contextmanager
        def lend(*_: Any) -> Iterator[Pool]:
            """Give the pool to the labelling."""
            with closing(shared.lend()) as pool:
                yield pool

        self._write(
            state,
            SessionSource.of(source, config=replace(self.config, detached=False), lend=lend),
            emit,
        )

    def finish(self, state: FitState, source: Source) -> LabelCounts:
        """Write the missing parts of the output, by new workers, and count its rows.

        Where the fit has written all of it, that only reads the manifest.
        """
        return self._write(state, source)

    def _write(self, state: FitState, source: Source, emit: ev.Emit | None = None) -> LabelCounts:
        """Write the output; return its rows."""
        return write_labels(
            state,
            source,
            self.output,
            replace(self.config, detached=False),
            model_dir=self.model_dir,
            keep_columns=self.columns.keep_columns,
            second=self.columns.second,
            nearest=self.columns.nearest,
            by_cluster=self.columns.by_cluster,
            append=self.append,
            emit=emit,
        )
