"""Measure the quality of a clustering by workers: one sweep over the rows, one over the centers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from ray_kmeans.algorithm.contingency import MOST_PAIRS
from ray_kmeans.algorithm.grid import Summary
from ray_kmeans.algorithm.partial_sums import Partials
from ray_kmeans.algorithm.quality import CenterGaps, Quality, quality_of, spreads_of
from ray_kmeans.algorithm.quality_sums import BORDERS
from ray_kmeans.algorithm.state import FitState
from ray_kmeans.data.label_column import LabelColumn
from ray_kmeans.data.sharding import Layout
from ray_kmeans.data.source import Source
from ray_kmeans.data.worker_memory import quality_bytes
from ray_kmeans.engine.center_gaps import Separation
from ray_kmeans.engine.pool import Pool
from ray_kmeans.engine.quality_sweep import OtherLabels, QualityAsked
from ray_kmeans.engine.worker import ShardWorker
from ray_kmeans.errors import ConfigError
from ray_kmeans.store.labelled_rows import LabelledRows
from ray_kmeans.text import secrets

MOST_BORDERS = 100
"""Largest number of percentages."""


@dataclass(frozen=True)
class QualityOptions:
    """The figures of quality that a user asks for, besides those that are always made."""

    borders: tuple[float, ...] = BORDERS
    """Percentages: the share of rows within each of them of a border is told."""
    against_column: str | None = None
    """Column of the data with the labels of another clustering."""
    against_output: str | None = None
    """Path or URL of a labelled output of the same rows, to compare with."""

    def asked(
        self, source: Source, layout: Layout, storage_options: Mapping[str, Any]
    ) -> QualityAsked:
        """Return what workers are asked for; ConfigError for labels that these data do not have."""
        others: OtherLabels | None = None
        if self.against_column is not None:
            column = LabelColumn(source, self.against_column)
            column.check(layout)
            others = column
        elif self.against_output is not None:
            others = LabelledRows.at(self.against_output, storage_options, layout.rows)
        return QualityAsked(self.borders, others)


def quality_options(
    quality: bool,
    borders: Sequence[float],
    against_column: str | None,
    against_output: str | None,
) -> QualityOptions | None:
    """Return the options that a user's arguments make; None where no figures are wanted.

    Raises ConfigError for arguments that cannot be used, whatever the data are.
    """
    against = {"against_column": against_column, "against_output": against_output}
    given = {name: value for name, value in against.items() if value is not None}
    for name, value in given.items():
        if not isinstance(value, str | PathLike) or not quality:
            shown = secrets.shown(str(value))
            problem = "has no meaning without quality" if not quality else "must be a text"
            raise ConfigError(f"{name}={shown!r} {problem}.")
    if len(given) > 1:
        raise ConfigError(
            "against_column and against_output are two clusterings to compare with. Give one."
        )
    output = None if against_output is None else str(against_output)
    return QualityOptions(_checked_borders(borders), against_column, output) if quality else None


def _checked_borders(borders: Sequence[float]) -> tuple[float, ...]:
    """Return percentages as floats; ConfigError unless they are a few different ones."""
    try:
        found = tuple(map(float, borders))
    except (TypeError, ValueError):
        found = (-1.0,)
    in_range = all(0 <= each <= 100 for each in found)
    if not in_range or len({*found}) < len(found) or len(found) > MOST_BORDERS:
        raise ConfigError(
            f"borders={borders!r} must be at most {MOST_BORDERS} different numbers from 0 to 100: "
            "percentages."
        )
    return found


def bytes_of(asked: QualityAsked, layout: Layout, num_clusters: int) -> int:
    """Return an upper bound of the bytes that these figures take in a worker."""
    return quality_bytes(layout, num_clusters, MOST_PAIRS if asked.others else 0)


def measure_quality(
    pool: Pool, summary: Summary, state: FitState, asked: QualityAsked, layout: Layout
) -> tuple[Quality, Partials]:
    """Return the quality of a model for the rows of a pool, and their partial sums.

    The rows are visited once. Then the workers share the centers, to compare each with all others:
    time O(k^2 d), without a row.
    """
    sums = pool.total(ShardWorker.measure_quality, state.centers, asked)
    gaps = None
    if len(state.centers) > 1:
        separation = Separation(state.centers, spreads_of(sums), summary.metric)
        gaps = CenterGaps.joined(pool.ask(ShardWorker.measure_gaps, separation, len(layout.blocks)))
    inertia = sums.partials.inertia(summary, state.centers)
    return quality_of(sums, summary, inertia, gaps, asked.borders), sums.partials
