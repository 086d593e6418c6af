"""Choose the beam by which rows are labelled, and measure how many of its labels are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from numbers import Real
from operator import add
from typing import Any

import numpy as np

from ray_kmeans.algorithm import draws
from ray_kmeans.algorithm.recall import Recall, RecallSums
from ray_kmeans.algorithm.state import FitState, digest
from ray_kmeans.algorithm.tree import Tree
from ray_kmeans.config import RunConfig
from ray_kmeans.data.sharding import Layout
from ray_kmeans.data.source import Source
from ray_kmeans.engine.worker import ShardWorker
from ray_kmeans.errors import ConfigError
from ray_kmeans.workflows.validation import check_count
from ray_kmeans.workflows.worker_plan import open_pool

SAMPLE_ROWS = 10_000
"""Number of rows that are labelled exactly as well, to measure a beam."""


def check_beam(state: FitState, beam: Any, recall: Any, *, others: bool) -> None:
    """Raise ConfigError for a beam or a recall that cannot be.

    `others` tells whether other centers than the nearest are wanted, which are exact.
    """
    if beam is None and recall is None:
        return
    asked = f"beam={beam!r}" if beam is not None else f"recall={recall!r}"
    if beam is not None and recall is not None:
        raise ConfigError(f"beam={beam!r} and recall={recall!r}: the recall chooses the beam.")
    if state.tree is None:
        raise ConfigError(
            f"{asked}: the model has one level of clusters, and a beam goes down a tree. Leave it "
            "out, or fit the model with levels=2."
        )
    if others:
        raise ConfigError(
            f"{asked} with second or nearest: these are exact, and a beam is not. Leave one out."
        )
    if beam is not None:
        check_count("beam", beam)
    elif isinstance(recall, bool) or not isinstance(recall, Real) or not 0 < float(recall) < 1:
        raise ConfigError(f"recall={recall!r} must be a number between 0 and 1, both left out.")


def choose_beam(
    state: FitState,
    source: Source,
    layout: Layout,
    config: RunConfig,
    beam: int | None,
    recall: float | None,
) -> Recall:
    """Measure a beam, or the narrowest one of which at least this share of labels is right.

    The lower end of the interval counts. Widths are powers of two; the widest takes all nodes.
    """
    assert state.tree is not None
    if beam is not None:
        return measure(state, source, layout, config, [beam])[0]
    widths = widths_of(state.tree)
    found = measure(state, source, layout, config, widths)
    return next((each for each in found if each.interval[0] >= (recall or 0)), found[-1])


def widths_of(tree: Tree) -> list[int]:
    """Return the widths to choose from: powers of two, and one that takes all nodes of a level."""
    most = max(map(len, tree.centers))
    return [*(2**power for power in range((most - 1).bit_length())), most]


def measure(
    state: FitState, source: Source, layout: Layout, config: RunConfig, widths: Sequence[int]
) -> list[Recall]:
    """Label a sample of the rows exactly and by beams of these widths; return what they are worth.

    The sample follows from the number of rows and the model, and only its blocks are read.
    """
    assert state.tree is not None
    key = int(digest(state.centers), 16)
    size = min(SAMPLE_ROWS, layout.rows)
    numbers = draws.distinct_rows(layout.rows, size, key, "recall")
    firsts = np.array([block.first for block in layout.blocks])
    chosen = np.unique(np.searchsorted(firsts, numbers, side="right") - 1).tolist()
    some = replace(layout, blocks=tuple(layout.blocks[place] for place in chosen))
    with open_pool(source, some, len(state.centers), state.metric, config) as pool:
        pool.read()
        asked = state.centers, state.tree, tuple(widths), numbers
        answers = pool.ask(ShardWorker.measure_beams, *asked)
    sums: RecallSums = reduce(add, answers)
    return sums.recalls(widths)
