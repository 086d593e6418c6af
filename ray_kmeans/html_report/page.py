"""Put sections of text, each with a figure and a table, together as one HTML file."""

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
"""Name of the template of the page, in this folder."""

Cell: TypeAlias = int | float | str | tuple[Shown, ...]
"""Content of a cell: a number, a text, or texts and images of some rows."""


@dataclass(frozen=True)
class Table:
    """A table of a page; a column whose first cell is a number is aligned as numbers."""

    caption: str
    """Caption of the table; '' for none."""
    columns: tuple[str, ...]
    """Headers of the columns; empty for none."""
    rows: Sequence[Sequence[Cell]]
    """Cells of each row."""


@dataclass(frozen=True)
class Section:
    """A section of a page."""

    name: str
    """Name of the section, unique in a page; links lead to it."""
    title: str
    """Heading of the section."""
    text: str = ""
    """Paragraph below the heading."""
    figure: Figure | None = None
    """Figure below the text."""
    table: Table | None = None
    """Table below the figure."""


def render(title: str, sections: Sequence[Section]) -> str:
    """Return the page as HTML; all texts are escaped."""
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
    """Return a number with thousands separators, and with six digits if it is small and not whole.

    >>> readable(6000), readable(4678.0213), readable(1234567.8), readable(2.5e-7)
    ('6,000', '4,678.02', '1,234,568', '2.5e-07')
    """
    whole = isinstance(number, int) or 1e6 <= abs(number) < 1e15
    return f"{number:,.0f}" if whole else f"{number:,.6g}"
