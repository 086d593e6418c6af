"""A page of sections, each of text, a figure and a table, as HTML that holds all it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ray_kmeans.html_report.figures import Figure
from ray_kmeans.html_report.sample import Shown
from ray_kmeans.text.one_line import in_one_line

TEMPLATE = "report.html.jinja"

Cell: TypeAlias = int | float | str | tuple[Shown, ...]
"""A number, a text, or what to show of some rows."""


@dataclass(frozen=True)
class Table:
    """Rows of cells under their headers; a column of numbers is told by its first cell."""

    caption: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Section:
    """What the page says of one thing."""

    name: str
    """Names its place in the page."""
    title: str
    text: str = ""
    figure: Figure | None = None
    table: Table | None = None


def render(title: str, sections: Sequence[Section]) -> str:
    """Return the page as HTML; whatever the texts hold is text there."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda given: in_one_line(given) if type(given) is str else given,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["readable"] = readable
    return environment.get_template(TEMPLATE).render(title=title, sections=sections)


def readable(number: float) -> str:
    """Return a number with thousands separators, and with six digits if it is no whole one.

    >>> readable(6000), readable(4678.0213), readable(1234567.8), readable(2.5e-7)
    ('6,000', '4,678.02', '1,234,568', '2.5e-07')
    """
    whole = isinstance(number, int) or 1e6 <= abs(number) < 1e15
    return f"{number:,.0f}" if whole else f"{number:,.6g}"
