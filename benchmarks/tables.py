"""The tables and the chart of cpu.py, from what each contender did in each turn."""

from __future__ import annotations

import importlib
import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from peers import Figures

TITLES = ["rows", "by", "s/it", "ratio", "whole s", "whole ratio", "iterations", "inertia"]
TITLES += ["wrong", "MB", "of peak"]
SUMMARY_TITLES = ["rows", "fastest peer, s/it", "ratio", "scikit-learn lloyd"]
SUMMARY_TITLES += ["fastest peer, whole fit", "ratio", "scikit-learn lloyd"]


@dataclass(frozen=True)
class Line:
    """What one contender did in one turn."""

    where: str
    rows: str
    n: int
    d: int
    k: int
    turn: int
    contender: str
    figures: Figures

    @classmethod
    def read(cls, text: str) -> Line:
        fields = json.loads(text)
        return cls(**{**fields, "figures": Figures(**fields["figures"])})


@dataclass(frozen=True)
class Row:
    """What one contender did with one data set."""

    lines: Sequence[Line]
    ours: Sequence[Line]

    def ratio(self, of: Callable[[Figures], float]) -> float:
        pairs = [(a, b) for a in self.lines for b in self.ours if a.turn == b.turn]
        both = [(of(a.figures), of(b.figures)) for a, b in pairs]
        return median([theirs / mine for theirs, mine in both if theirs > 0 and mine > 0])

    def middle(self, of: Callable[[Figures], float]) -> float:
        return median([of(line.figures) for line in self.lines if of(line.figures) > 0])

    def cells(self) -> list[str]:
        first, figures = self.lines[0], [line.figures for line in self.lines]
        by, work = first.contender, 2.0 * first.n * first.k * first.d
        unit = f" ({figures[0].computed_by})" if by.startswith("ours") else ""
        peak = max(f.peak or 0.0 for f in figures)
        shares = [work / f.seconds / peak for f in figures if peak and f.seconds > 0]
        memory = [f.memory / 1e6 for f in figures if f.memory is not None]
        return [
            title(first),
            by + unit,
            f"{self.middle(seconds):.3g}",
            emphasized(self.ratio(seconds)),
            f"{self.middle(whole):.3g}",
            "" if by == "superkmeans" else emphasized(self.ratio(whole)),
            str(figures[0].iterations),
            difference(figures[0].inertia, self.ours[0].figures.inertia),
            "" if figures[0].wrong is None else f"{figures[0].wrong:,} of {figures[0].sample:,}",
            f"{statistics.median(memory):,.0f}" if memory else "",
            f"{statistics.median(shares):.0%}" if shares else "",
        ]


def median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else float("nan")


def seconds(figures: Figures) -> float:
    return figures.seconds


def whole(figures: Figures) -> float:
    return figures.whole


def title(line: Line) -> str:
    name = "" if line.rows == "mixture" else f"{line.rows}: "
    return f"{name}{line.n:,} x {line.d}, k={line.k:,}"


def emphasized(ratio: float) -> str:
    """Return a ratio; in bold where ours is slower, nothing where there is none."""
    if math.isnan(ratio):
        return ""
    return f"**{ratio:.2f}**" if ratio < 1 else f"{ratio:.2f}"


def difference(theirs: float | None, mine: float | None) -> str:
    return "" if theirs is None or mine is None else f"{theirs / mine - 1:+.1e}"


def tables_of(lines: Iterable[Line]) -> list[list[Row]]:
    """Return a table for each data set, with a row for each contender; ours is the first."""
    found: dict[str, dict[str, list[Line]]] = {}
    for line in lines:
        found.setdefault(title(line), {}).setdefault(line.contender, []).append(line)
    return [
        [Row(each, by["ours"]) for each in by.values()] for by in found.values() if "ours" in by
    ]


def heading(titles: Sequence[str]) -> str:
    return f"{markdown(titles)}\n{'|---' * len(titles)}|"


def markdown(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def peers_of(table: Sequence[Row]) -> list[Row]:
    return [row for row in table if not row.lines[0].contender.startswith("ours")]


def summary(table: Sequence[Row]) -> list[str]:
    """Return the ratio of the fastest peer, per iteration and of the whole fit, and lloyd's."""
    peers = peers_of(table)
    fits = [row for row in peers if row.lines[0].contender != "superkmeans"]
    cells = [title(table[0].lines[0])]
    for of, among in ((seconds, peers), (whole, fits)):
        best = min(among, key=lambda row: (math.isnan(row.ratio(of)), row.ratio(of)))
        lloyd = [row for row in among if row.lines[0].contender == "scikit-learn lloyd"]
        cells += [best.lines[0].contender, emphasized(best.ratio(of))]
        cells += [emphasized(row.ratio(of)) for row in lloyd] or [""]
    return cells


def draw(tables: Sequence[Sequence[Row]], path: Path) -> None:
    """Draw the ratios of the summary: a bar for the fastest peer, one for scikit-learn's lloyd."""
    importlib.import_module("matplotlib").use("Agg")
    figure, axes = importlib.import_module("matplotlib.pyplot").subplots(
        figsize=(9, 1 + 0.45 * len(tables)), layout="constrained"
    )
    cells = [summary(table) for table in reversed(tables)]
    at = np.arange(len(cells))
    for shift, column, label in ((-0.2, 2, "the fastest peer"), (0.2, 3, "scikit-learn lloyd")):
        values = [float(each[column].strip("*") or "nan") for each in cells]
        axes.bar_label(axes.barh(at + shift, values, 0.38, label=label), fmt="%.2f", padding=3)
    axes.margins(x=0.1)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(at, [each[0] for each in cells])
    axes.set_xlabel("its time per iteration over ours (above 1, ours is faster)")
    axes.legend()
    figure.savefig(path)
