"""The sections of a report about a model, in the order of the page.

Each section is a function from the facts to a `Section`, or to None if its facts are not known;
`SECTIONS` has these functions in their order on the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.state import FitState, Iteration
from ray_kmeans.html_report import figures
from ray_kmeans.html_report.facts import LARGEST_SHOWN, SMALLEST_SHOWN, Facts
from ray_kmeans.html_report.page import Cell, Section, Table
from ray_kmeans.html_report.quality_sections import QUALITY_SECTIONS
from ray_kmeans.html_report.run_sections import RUN_SECTIONS

STEPS_SHOWN = 4
"""Number of first steps in the table, and of last ones."""
GAPS_SHOWN = 20
"""Number of centers in the table of gaps; two that are nearest to each other are both in it."""


def title(facts: Facts) -> str:
    """Return the title of the page."""
    return f"{len(facts.state.centers):,} clusters"


def sections_of(facts: Facts, made: date) -> list[Section]:
    """Return all sections whose facts are known; `made`: the date of the report."""
    found = [_model(facts, made), *(section(facts) for section in SECTIONS)]
    return [section for section in found if section is not None]


def _model(facts: Facts, made: date) -> Section:
    """Return the section with the facts of the model and its fit."""
    state = facts.state
    k, d = state.centers.shape
    rows: list[tuple[str, int | float | str]] = [
        ("model", facts.name),
        ("clusters", k),
        ("features", d),
        ("distance", state.metric.replace("_", " ")),
        ("training", _training(state)),
        ("steps", state.iteration),
        ("ended", _why_ended(state)),
    ]
    if state.history:
        last = state.history[-1]
        of_batch = [("loss per row of the last step", last.loss_per_row)]
        if last.smoothed is not None:
            of_batch.append(("the same, smoothed over an epoch", last.smoothed))
        rows += of_batch if state.accumulators else [("inertia of the last step", last.inertia)]
        rows.append(("rows of that step", last.rows))
    if facts.data:
        sample = facts.data.sample
        looked_at = f"{len(sample.numbers):,} of {sample.of_rows:,} rows"
        rows += [("data", facts.data.name), ("sample", looked_at)]
    rows.append(("report made", made.isoformat()))
    return Section("model", "The model", table=Table("", (), rows))


def _why_ended(state: FitState) -> str:
    """Return why the fit ended, in words."""
    if state.stop is not None:
        return state.stop.value
    if not state.iteration and state.origin and not state.origin.is_drawn:
        return "not begun: these are the centers that were given"
    return "not yet: the fit was cut off"


def _training(state: FitState) -> str:
    """Return full batch or mini-batch, in words."""
    if state.accumulators is None:
        return "all rows in each step"
    m = state.accumulators.steps_per_iteration
    return f"mini-batches, {m:,} for each update of the centers" if m > 1 else "mini-batches"


def _loss(facts: Facts) -> Section | None:
    """Return the section about the loss of each step; None for a model without steps."""
    history = facts.state.history
    if not history:
        return None
    text = (
        "How far a row is from its center, on the average over the rows of a step, before that "
        "step moves the centers. Inertia is the sum of these distances."
    )
    smoothed = any(line.smoothed is not None for line in history)
    if smoothed:
        text += " Smoothed, it is that of about one epoch: when it no longer falls, the fit ends."
    columns = ("step", "rows", "inertia", "loss per row", *["smoothed"][: int(smoothed)])
    columns += ("largest move", "empty clusters")
    columns += ("centers moved to rows",) * any(line.relocated for line in history)
    lines = [_line_of(line, smoothed)[: len(columns)] for line in _first_and_last(history)]
    few = len(lines) == len(history)
    caption = "All steps" if few else f"The first and the last {STEPS_SHOWN} steps"
    table = Table(caption, columns, lines)
    return Section("loss", "Loss", text, figures.draw_loss(history, facts.distance), table)


def _line_of(line: Iteration, smoothed: bool) -> tuple[Cell, ...]:
    """Return the row of a step in the table of losses, with all cells that it may have."""
    average: tuple[Cell, ...] = ()
    if smoothed:
        average = ("" if line.smoothed is None else line.smoothed,)
    loss = line.inertia, line.loss_per_row, *average
    return line.iteration, line.rows, *loss, line.shift, line.empty, line.relocated


def _first_and_last(history: Sequence[Iteration]) -> Sequence[Iteration]:
    """Return the first and the last steps; all steps if there are few."""
    if len(history) <= 2 * STEPS_SHOWN:
        return history
    return [*history[:STEPS_SHOWN], *history[-STEPS_SHOWN:]]


def _moves(facts: Facts) -> Section | None:
    """Return the section about moves and empty clusters; None for a model without steps."""
    if not facts.state.history:
        return None
    text = "The largest move of any coordinate of any center, and the clusters without a row."
    text += _zeros(np.array([line.shift for line in facts.state.history]))
    return Section("moves", "Moves", text, figures.draw_moves(facts.state.history))


def _sizes(facts: Facts) -> Section:
    """Return the section about the sizes of the clusters, or why they are not known."""
    name, heading = "sizes", "Sizes of the clusters"
    if facts.sizes is None:
        text = (
            "No step of this model visited all rows, so their clusters are not known. Give data "
            "with the report, and it counts those of a sample."
        )
        return Section(name, heading, text)
    counts = facts.sizes.counts
    figure = figures.draw_histogram(name, counts, "rows of a cluster")
    smallest, largest = int(counts.min()), int(counts.max())
    median, empty = float(np.median(counts)), int((counts == 0).sum())
    row = (int(counts.sum()), smallest, median, largest, empty)
    table = Table("", ("rows", "smallest", "median", "largest", "empty"), [row])
    text = f"Counted are {facts.sizes.of}.{_zeros(counts)}"
    return Section(name, heading, text, figure, table)


def _view(facts: Facts) -> Section:
    """Return the section with the map of the centers."""
    text = (
        "The centers in the two directions in which they differ most, by their principal "
        "components; how much of their variance that shows is said at the axes. "
    )
    if facts.sizes:
        text += "The area of a point is the size of its cluster; the largest have their numbers. "
    if facts.data:
        text += "Grey: sampled rows."
    centers = facts.plane.project(facts.state.centers)
    sizes = facts.sizes.counts if facts.sizes else None
    rows = facts.data.sample.points if facts.data else None
    return Section("view", "Map", text.strip(), figures.draw_map(facts.plane, centers, sizes, rows))


def _gaps(facts: Facts) -> Section | None:
    """Return the section about distances between centers; None for a single one."""
    if facts.gaps is None:
        return None
    text = f"The {facts.distance} of each center to the nearest other one. "
    if facts.state.history:
        last = facts.state.history[-1]
        mean = last.inertia / last.rows
        text += f"In comparison, a row was {mean:,.6g} from its own center in the last step. "
    text += "Clusters whose centers are much closer than that are nearly the same."
    text += _zeros(facts.gaps.distances)
    figure = figures.draw_histogram(
        "gaps", facts.gaps.distances, f"{facts.distance} to the nearest"
    )
    columns = ("cluster", "its nearest other cluster", facts.distance)
    rows = facts.gaps.smallest(GAPS_SHOWN)
    caption = "The smallest gaps: each center with the nearest other one"
    table = Table(caption, columns, rows)
    return Section("gaps", "Gaps between centers", text, figure, table)


def _examples(facts: Facts) -> Section | None:
    """Return the section with rows of the largest and smallest clusters; None without data."""
    if facts.data is None or facts.sizes is None:
        return None
    few = len(facts.examples) == int((facts.sizes.counts > 0).sum())
    which = "All clusters" if few else f"The {LARGEST_SHOWN} largest and {SMALLEST_SHOWN} smallest"
    rows = [
        (cluster, int(facts.sizes.counts[cluster]), examples or "no row of the sample")
        for cluster, examples in facts.examples.items()
    ]
    text = "Of each cluster, the sampled rows that are nearest to its center, the nearest first."
    table = Table(which, ("cluster", "rows", "nearest to the center"), rows)
    return Section("examples", "Rows nearest to their centers", text, table=table)


def _zeros(values: NDArray[Any]) -> str:
    """Return the sentence that a figure leaves out zeros; '' if it does not."""
    left_out = figures.is_skewed(values) and bool((values == 0).any())
    return " The axis is logarithmic, so zeros are left out." if left_out else ""


SECTIONS = (
    *(_loss, _moves, *QUALITY_SECTIONS, _sizes, _view, _gaps, _examples),
    *RUN_SECTIONS,
)
"""The sections below the first one, in their order on the page."""
