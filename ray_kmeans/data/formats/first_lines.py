"""Find from the first lines of a text what separates its fields, and whether one line has names."""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ray_kmeans.errors import DataError

log = logging.getLogger("ray_kmeans")

NUMBER = r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"
"""Pattern of a number."""
VALUE = re.compile(rf"{NUMBER}|^(nan|[-+]?inf(inity)?)$", re.IGNORECASE)
"""Pattern of a field that is a value, and hardly the name of a column."""
SEPARATORS = {",": "','", ";": "';'", "\t": "tab", "|": "'|'"}
"""Characters that may separate fields, with their names in messages."""
COMMA = re.compile(r"^[-+]?\d[\d.]*,\d+$")
"""Pattern of a number with a decimal comma."""
LINES = 20
"""Largest number of lines that are looked at."""
QUOTED = re.compile(r'"(?:[^"]|"")*"')
"""Pattern of a field in quotes, in which a separator is none."""


@dataclass(frozen=True)
class Form:
    """The way in which a text is cut into columns with names."""

    separator: str = ","
    """Character between two fields."""
    names: tuple[str, ...] = ()
    """Names of all columns, as '0', '1'; () if the first line has them."""


def form_of(path: str, kind: str, start: str, wanted: Sequence[str], header: bool | None) -> Form:
    """Return the form of a text.

    Parameters
    ----------
    path : str
        Name of the file, for messages.
    kind : str
        Text whose end is the file's ending, as '.tsv.gz'.
    start : str
        First lines of the text.
    wanted : sequence of str
        Names of columns that the user gives; () for none.
    header : bool or None
        Whether the first line has names; None: as it looks.

    Raises
    ------
    DataError
        If the text can be read in two ways.
    """
    separator = _separator(path, kind, start)
    rows = csv.reader(start.splitlines(keepends=True), delimiter=separator)
    lines = [row for row, _ in zip((row for row in rows if row), range(LINES), strict=False)]
    first = lines[0] if lines else []
    if separator == ";" and not wanted:
        _check_points(path, lines)
    if header is None:
        numbered = [str(number) for number in range(len(first))]  # names that no line has
        named = bool(wanted) and set(wanted) <= set(first) and not set(wanted) <= set(numbered)
        header = named or _has_names(path, first, lines[1:])
    return Form(separator, () if header else tuple(map(str, range(len(first)))))


def _check_points(path: str, rows: Sequence[Sequence[str]]) -> None:
    """Raise DataError for numbers with decimal commas, which files with semicolons often have."""
    found = next((field for row in rows for field in row if COMMA.match(field.strip())), None)
    if found:
        raise DataError(
            f"{path} is separated by ';' and holds {found!r}, a number with a comma. Write numbers "
            "with points, or choose columns that have such."
        )


def _has_names(path: str, first: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Tell whether the first line has names; DataError if it has numbers.

    Only the numbers 0, 1, ... are taken for names, with a warning: pandas writes them so.
    """
    numbers = [field.strip() for field in first if VALUE.match(field.strip())]
    if numbers != list(map(str, range(len(numbers)))):
        raise DataError(
            f"{path} begins with {numbers[:3]} where the names of columns belong. Give "
            "header=False (--header False) where it has no names, which are then 0, 1, ...; "
            "header=True where these are the names; or write a first line with names."
        )
    others = (field for row in rows for field in row)
    if numbers and all(field.strip().isdigit() for field in others):
        log.warning(
            "%s: the first line, %s, is taken for the names of columns, as pandas writes them. "
            "Give header=False (--header False) if it is a row.",
            path,
            ",".join(first[:5]),
        )
    return True


def _separator(path: str, kind: str, start: str) -> str:
    """Return the separator: the one of the ending, unless only another fits all first lines."""
    usual = "\t" if kind.removesuffix(".gz").endswith(".tsv") else ","
    lines = [line for line in QUOTED.sub("", start).splitlines() if line.strip()][:LINES]
    counts = {each: [line.count(each) for line in lines] for each in SEPARATORS}
    likely = [each for each, found in counts.items() if any(found) and len(set(found)) == 1]
    if likely in ([usual], []) or len(lines) < 2:
        return likely[0] if len(likely) == 1 else usual
    if len(likely) > 1:
        found = " or ".join(SEPARATORS[each] for each in likely)
        raise DataError(
            f"{path} may be separated by {found}: each of its first lines has as many of them. "
            "Put what holds one in quotes, or write another file."
        )
    return likely[0]
