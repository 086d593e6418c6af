"""Figures as SVG inside a page: their text can be searched, and has the color of the page."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from numpy.typing import NDArray

from ray_kmeans.algorithm.state import Iteration
from ray_kmeans.html_report.centers import Plane
from ray_kmeans.observe.run_record import Span

BLUE = "#2f7fd6"
"""Color that can be seen on white and on black, as the two below."""
ORANGE = "#d9730d"
"""Color of what stands beside the blue."""
GREY = "#8a8f98"
"""Color of what stands behind the blue."""
STYLE: Any = {  # every version of matplotlib has another type for it
    "svg.fonttype": "none",
    "svg.hashsalt": "ray_kmeans",  # the same figure has the same bytes
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "black",
    "grid.alpha": 0.15,
    "figure.constrained_layout.use": True,
    "savefig.transparent": True,
    "savefig.dpi": 200,  # for the parts that are drawn as pixels
}
"""Settings of matplotlib for all figures."""
SKEWED = 10
"""Ratio of the largest value to the median from which on an axis is logarithmic."""
MARKED = 60
"""Largest number of steps that have a marker each."""
DRAWN_AS_PIXELS = 2_000
"""Number of points from which on they are drawn as pixels: each takes some hundred bytes else."""
ROOMY = 600
"""Number of points from which on they are drawn smaller."""
NAMED = 12
"""Number of largest clusters whose numbers stand beside their centers."""
METADATA = ("Creator", "Date", "Format", "Type")
"""Metadata that matplotlib would write into a figure, with addresses; they are left out."""


@dataclass(frozen=True)
class Figure:
    """A drawing, with a text for readers who do not see it."""

    name: str
    """Name of the figure, unique in a page."""
    alt: str
    """The figure in a sentence."""
    box: str
    """Attribute viewBox of the svg element."""
    svg: str
    """Content of the svg element."""


def is_skewed(values: NDArray[Any]) -> bool:
    """Return whether the values above 0 need a logarithmic axis."""
    positive = values[values > 0]
    return len(positive) > 0 and bool(positive.max() >= SKEWED * np.median(positive))


@rc_context(STYLE)
def draw_loss(history: Sequence[Iteration], distance: str) -> Figure:
    """Draw the mean distance of a row to its center in each step, and the smoothed one."""
    canvas = Canvas(figsize=(6, 2.8))
    axes = canvas.subplots()
    values = np.array([line.loss_per_row for line in history])
    axes.plot([line.iteration for line in history], values, color=BLUE, marker=_marker(history))
    smoothed = [(x.iteration, x.smoothed) for x in history if x.smoothed is not None]
    if smoothed:
        axes.plot(*zip(*smoothed, strict=True), color=ORANGE, label="smoothed")
        axes.legend(frameon=False)
    if is_skewed(values):
        axes.set_yscale("log", nonpositive="mask")  # a loss may be 0 at the end
    axes.set_ylabel(f"mean {distance}")
    _label_steps(axes)
    alt = f"The mean {distance} went from {values[0]:,.6g} to {values[-1]:,.6g}."
    return _figure(canvas, "loss", alt)


@rc_context(STYLE)
def draw_moves(history: Sequence[Iteration]) -> Figure:
    """Draw the largest move of a center and the number of empty clusters in each step."""
    canvas = Canvas(figsize=(6, 4))
    upper, lower = canvas.subplots(2, sharex=True, height_ratios=(2, 1))
    steps = np.array([line.iteration for line in history])
    shifts = np.array([line.shift for line in history])
    drawn = np.full(len(history), True)
    if is_skewed(shifts):
        upper.set_yscale("log")
        drawn = shifts > 0  # without the zeros, the line joins the steps on both sides of one
    upper.plot(steps[drawn], shifts[drawn], color=BLUE, marker=_marker(history))
    upper.set_ylabel("largest move")
    empty = [line.empty for line in history]
    lower.plot(steps, empty, color=ORANGE, drawstyle="steps-mid", clip_on=False)
    _label_whole(lower.yaxis)
    lower.set_ylim(bottom=0, top=max(1, *empty) * 1.1)
    lower.set_ylabel("empty clusters")
    _label_steps(lower)
    alt = (
        f"The largest move of a coordinate of a center was {shifts[0]:,.6g} in the first step and "
        f"{shifts[-1]:,.6g} in the last; {empty[-1]:,} clusters were empty then."
    )
    return _figure(canvas, "moves", alt)


@rc_context(STYLE)
def draw_times(spans: Sequence[Span]) -> Figure:
    """Draw the seconds of a step, with its parts on top of each other."""
    canvas = Canvas(figsize=(6, 2.8))
    axes = canvas.subplots()
    begins = [span.iteration - span.steps + 0.5 for span in spans]
    widths = [span.steps for span in spans]
    below = np.zeros(len(spans))
    for name, color in (("compute", BLUE), ("wait", GREY), ("reduce", ORANGE)):
        heights = np.array([getattr(span, name) / span.steps for span in spans])
        axes.bar(begins, heights, widths, below, align="edge", color=color, label=name)
        below += heights
    axes.set_ylabel("seconds of a step")
    axes.set_ylim(top=1.25 * max(below.max(), 1e-9))  # room for the legend
    axes.legend(ncols=3, frameon=False, loc="upper right")
    _label_steps(axes)
    alt = f"A step took from {below.min():,.6g} to {below.max():,.6g} seconds."
    return _figure(canvas, "times", alt)


@rc_context(STYLE)
def draw_histogram(name: str, values: NDArray[Any], label: str) -> Figure:
    """Draw a histogram of a value of each cluster (k,); a logarithmic axis leaves out zeros."""
    canvas = Canvas(figsize=(6, 2.6))
    axes = canvas.subplots()
    bins: Any = int(np.clip(2 * np.sqrt(len(values)), 5, 30))
    highest = float(values.max())
    if highest > 2**40 and np.ptp(values.astype(float)) <= bins * np.spacing(highest):
        bins = np.array([0.0, highest])  # floats have no room for edges between these values
    if is_skewed(values):
        values = values[values > 0]
        bins = np.geomspace(values.min(), values.max(), bins + 1)
        axes.set_xscale("log")
    axes.hist(values, bins, color=BLUE)
    if values.dtype.kind == "i":
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    _label_whole(axes.yaxis)
    axes.set_xlabel(label)
    axes.set_ylabel("clusters")
    low, high, middle = values.min(), values.max(), np.median(values)
    alt = f"Histogram of {label}: from {low:,.6g} to {high:,.6g}, the median is {middle:,.6g}."
    return _figure(canvas, name, alt)


@rc_context(STYLE)
def draw_silhouettes(weights: NDArray[Any]) -> Figure:
    """Draw how many rows have which silhouette, from their weight in equal bins from 0 to 1."""
    canvas = Canvas(figsize=(6, 2.6))
    axes = canvas.subplots()
    edges = np.arange(len(weights)) / len(weights)
    axes.bar(edges, weights, 1 / len(weights), align="edge", color=BLUE)
    axes.set_xlim(0, 1)
    axes.set_xlabel("silhouette")
    axes.set_ylabel("rows")
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    most = edges[weights.argmax()]
    alt = f"Histogram of silhouettes: most rows are from {most:g} to {most + 1 / len(weights):g}."
    return _figure(canvas, "quality", alt)


@rc_context(STYLE)
def draw_map(
    plane: Plane,
    centers: NDArray[np.float64],
    sizes: NDArray[np.int64] | None,
    rows: NDArray[np.float64] | None,
) -> Figure:
    """Draw the centers in the plane over some rows of the data.

    Parameters
    ----------
    plane : Plane
    centers : (k, 2)
        The centers as points of the plane.
    sizes : (k,), optional
        Sizes of the clusters, for the areas of the points.
    rows : (n, 2), optional
        Rows as points of the plane.
    """
    canvas = Canvas(figsize=(6, 5))
    axes = canvas.subplots()
    if rows is not None:
        x, y = rows.T
        axes.scatter(x, y, s=3, c=GREY, alpha=0.35, linewidths=0, rasterized=True)
    areas = np.full(len(centers), 30.0) if sizes is None else 6 + 250 * sizes / sizes.max()
    areas = np.maximum(areas * min(1, ROOMY / len(centers)), 1)
    pixels = len(centers) >= DRAWN_AS_PIXELS
    x, y = centers.T
    axes.scatter(x, y, s=areas, c=BLUE, alpha=0.65, linewidths=0, rasterized=pixels)
    named = 0 if sizes is None else NAMED
    for number in np.argsort(-areas, kind="stable")[:named].tolist():
        axes.annotate(str(number), tuple(centers[number]), ha="center", va="center", size=8)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel(f"first component: {plane.shares[0]:.1%} of the variance")
    axes.set_ylabel(f"second component: {plane.shares[1]:.1%}")
    over = "" if rows is None else f" over {len(rows):,} rows of the data"
    alt = f"{len(centers):,} centers{over}, in the plane of their first two principal components."
    return _figure(canvas, "view", alt)


def _marker(history: Sequence[Iteration]) -> str:
    """Return the marker of a step: a point, or none if there are many steps."""
    return "." if len(history) <= MARKED else ""


@rc_context(STYLE)
def draw_choice(
    numbers: Sequence[int], series: Mapping[str, Sequence[float | None]], best: int
) -> Figure:
    """Draw some figures over the number of clusters, and mark the recommended number."""
    canvas = Canvas(figsize=(6, 1.9 * len(series)))
    for axes, (title, values) in zip(
        canvas.subplots(len(series), sharex=True), series.items(), strict=True
    ):
        known = [(k, y) for k, y in zip(numbers, values, strict=True) if y is not None]
        axes.plot(*zip(*known, strict=True) if known else ((), ()), color=BLUE, marker="o")
        axes.axvline(best, color=ORANGE)
        axes.set_title(title, loc="left", fontsize=11)
    if max(numbers) >= SKEWED * min(numbers):
        axes.set_xscale("log")
    axes.set_xlabel("number of clusters; the line marks the recommended one")
    alt = f"{', '.join(series)} for {len(numbers)} numbers of clusters; {best:,} is recommended."
    return _figure(canvas, "choice", alt)


def _label_steps(axes: Any) -> None:
    """Let the horizontal axis be the number of the step."""
    axes.set_xlabel("step")
    _label_whole(axes.xaxis)


def _label_whole(axis: Any) -> None:
    """Label an axis by whole numbers only."""
    axis.set_major_locator(MaxNLocator(integer=True))
    axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _figure(canvas: Canvas, name: str, alt: str) -> Figure:
    """Return the drawing on a canvas as a figure of a page."""
    content = io.StringIO()
    canvas.savefig(content, format="svg", metadata=dict.fromkeys(METADATA))
    found = re.search(r'<svg[^>]* viewBox="([^"]+)"[^>]*>(.*)</svg>', content.getvalue(), re.DOTALL)
    assert found
    # Several figures stand in one page, so each needs ids of its own.
    svg = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", found[2])
    return Figure(name, alt, found[1], svg.replace("#000000", "currentColor"))
