"""Whole fits on the processor of one machine, beside the fastest libraries there are for it.

    python benchmarks/cpu.py --shapes issue --json figures.jsonl --chart ratios.svg

Every contender fits the same rows from the same initial centers, in all threads and for the same
number of iterations, in a process of its own (peers.py); they take turns, so that a slow moment of
the machine meets all. Ours is the public class without Ray, with `--ray` also on one worker of a
Ray, and for each of `--without` with units of the processor masked off.

- s/it: the fit of N iterations less the fit of one (the better of two), shared out among N - 1.
  A turn in which noise made that negative does not count.
  On Ray, whose workers start in a time that varies by a second, the mean that the fit itself tells.
- whole s: the fit of N iterations, or the fit to the end where the data set says so (no center
  moves). Ours includes everything: reading, planning, the grid, checkpoints and, on Ray, starting
  the worker.
- With `--processor` seconds are processor time, of one thread on one CPU: other work on
  the machine then changes them by a tenth, and not by a factor. What waits for a disk is not seen.
- ratio, whole ratio: the contender's seconds over ours, turn by turn. Above 1, ours is faster.
- inertia: of the final centers, in float64 from a sample of the rows; the relative difference from
  ours. Libraries differ in what they do with an empty cluster: ours keeps its center.
- wrong: rows of the sample that the contender does not label with the nearest of its own final
  centers, as float64 sees it.
- MB: the most memory at any time in the fits, the data included, over what the process had after a
  small fit (so near 0 for small data). On Ray it is in other processes: not measured.
- of peak: 2 n k d over s/it, as a share of what this machine does per second in products of bytes
  by the same unit and nothing else, at best over the turns. What is pruned or skipped counts as
  done: more than 100 % is possible.

`--json` keeps the figures of every turn, of which `--replay` makes the tables and the chart again.
Other work on the machine's cores costs those who wait for all threads at barriers (OpenMP) more
than others: run it on a quiet machine, whose load stands above the table.

Seconds, MB and shares are medians over the turns; inertia and wrong are of the first. Two are not
quite the same job: superkmeans chooses its initial centers itself and labels approximately while it
trains, so only its s/it compares; "faiss, pruning" is faiss with its own SuperKMeans.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from data_sets import DataSet, chosen, initial_centers
from machine import where
from peers import CONTENDERS, Figures, Job
from tables import (
    SUMMARY_TITLES,
    TITLES,
    Line,
    Row,
    draw,
    heading,
    markdown,
    peers_of,
    summary,
    tables_of,
)

from ray_kmeans.kernels.cpu_units import WITHOUT, units

PACKAGES = {
    "numpy": "numpy",
    "numba": "numba",
    "sklearn": "scikit-learn",
    "sklearnex": "scikit-learn-intelex",
    "faiss": "faiss-cpu",
    "superkmeans": "superkmeans",
}
TO_THE_END = ("ours", "scikit-learn lloyd", "scikit-learn elkan")
BOUNDS_BYTES = 4e9
"""Elkan's bounds, n x k float32, at most."""


@dataclass(frozen=True)
class Options:
    """Compare whole fits on this machine's processor."""

    shapes: Literal["quick", "issue", "few", "all"] = "issue"
    """'quick' is a smoke test, 'few' has few columns or clusters; 'all' takes hours."""
    only: str = ""
    """Regular expression: only data sets whose name, or shape as in '200,000 x 384, k=1,024', has a
    match."""
    by: str = ""
    """Regular expression: only contenders whose name has a match; 'ours' always."""
    iterations: int = 10
    turns: int = 3
    processor: bool = False
    """Pin all to one CPU and take processor seconds: for a machine that other work shares."""
    ray: bool = False
    """Also ours on a Ray with one worker that has all CPUs."""
    without: tuple[str, ...] = ("amx",)
    """Also ours without these units: 'amx', 'amx,vnni'."""
    longest: float = 5.0
    """Seconds of an iteration of scikit-learn in 'all', about: fewer make smaller data sets."""
    json: Path | None = None
    """File to append all figures to."""
    replay: Path | None = None
    """Make the tables from such a file instead, and fit nothing."""
    chart: Path | None = None
    """SVG file for the ratios."""


def contenders(data_set: DataSet, n: int, options: Options) -> dict[str, tuple[str, str]]:
    """Return (contender, masked units) by the name to print, in the order of their turns."""
    found = {}
    for name, (module, _) in CONTENDERS.items():
        if importlib.util.find_spec(module) is None or (name == "ours on Ray" and not options.ray):
            continue
        if name == "scikit-learn elkan" and 4.0 * n * data_set.k >= BOUNDS_BYTES:
            continue
        if data_set.to_the_end and name not in TO_THE_END:
            continue
        if name != "ours" and not re.search(options.by, name):
            continue
        found[name] = name, ""
        if name == "ours":
            masks = [each for each in options.without if set(each.split(",")) & set(units())]
            found.update({f"ours without {mask}": (name, mask) for mask in masks})
    return found


def fit(job: Job, masked: str) -> Figures | None:
    """Return what a process of its own says of this job; None where it failed."""
    command = [sys.executable, str(Path(__file__).with_name("peers.py")), json.dumps(asdict(job))]
    environment = {**os.environ, WITHOUT: masked}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode == 0:
        answers = [line for line in done.stdout.splitlines() if line.startswith('{"')]
        return Figures(**json.loads(answers[-1]))
    reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
    print(f"{job.contender} failed: {reason}", file=sys.stderr)
    return None


def measure(data_set: DataSet, place: str, options: Options) -> list[Line]:
    """Let the contenders take turns on a data set."""
    lines = []
    with tempfile.TemporaryDirectory(prefix="ray_kmeans_benchmark_") as folder:
        paths = [f"{folder}/{name}.npy" for name in ("rows", "centers")]
        rows = data_set.make()
        (n, d), k = rows.shape, data_set.k
        for path, array in zip(paths, (rows, initial_centers(rows, k)), strict=True):
            np.save(path, array)
        del rows, array
        iterations = None if data_set.to_the_end else options.iterations
        for turn in range(options.turns):
            for name, (contender, masked) in contenders(data_set, n, options).items():
                job = Job(contender, paths[0], paths[1], iterations, turn == 0, options.processor)
                figures = fit(job, masked)
                if figures is not None:
                    lines.append(Line(place, data_set.name, n, d, k, turn, name, figures))
    return lines


def lines_of(options: Options) -> Iterator[list[Line]]:
    """Return the lines of each data set: from a file, or measured, and then kept in one."""
    if options.replay is not None:
        stored = [Line.read(text) for text in options.replay.read_text().splitlines()]
        print(f"{stored[-1].where}\n")
        yield stored
        return
    missing = [name for module, name in PACKAGES.items() if not importlib.util.find_spec(module)]
    place = where(*(name for name in PACKAGES.values() if name not in missing))
    place += ", processor seconds" if options.processor else ""
    place += f", load {os.getloadavg()[0]:.1f} before the first fit"
    print(place + "".join(f"\nnot installed: {name}" for name in missing) + "\n", flush=True)
    for data_set in chosen(options.shapes, options.longest):
        if not re.search(options.only, f"{data_set.name} {data_set.shape}"):
            continue
        lines = measure(data_set, place, options)
        if options.json is not None:
            with options.json.open("a") as file:
                file.writelines(json.dumps(asdict(line)) + "\n" for line in lines)
        yield lines


def main(options: Options) -> None:
    if options.processor:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # all that it starts, too
    tables: list[list[Row]] = []
    for lines in lines_of(options):
        for table in tables_of(lines):
            if not tables:
                print(heading(TITLES))
            print("\n".join(markdown(row.cells()) for row in table), flush=True)
            tables.append(table)
    print(f"\n{heading(SUMMARY_TITLES)}")
    compared = [table for table in tables if peers_of(table)]
    print("\n".join(markdown(summary(table)) for table in compared), flush=True)
    if options.chart is not None:
        draw(compared, options.chart)


if __name__ == "__main__":
    main(tyro.cli(Options))
