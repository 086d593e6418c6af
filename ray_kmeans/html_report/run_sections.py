"""Sections of a report about the runs that made a model: time, plan, failures survived."""

from __future__ import annotations

from ray_kmeans.html_report import figures
from ray_kmeans.html_report.facts import Facts
from ray_kmeans.html_report.page import Cell, Section, Table
from ray_kmeans.observe.run_record import RunRecord

RUNS_SHOWN = 20
"""Number of newest runs in the tables."""
PARTS = ("reading", "seeding", "compute", "wait", "reduce", "saving")
"""Headers of the columns of seconds."""
MIB = 2**20
"""Bytes of a MiB."""


def _time(facts: Facts) -> Section | None:
    """Return the section with the seconds of each step and run; None without a record."""
    spans = [span for run in facts.runs for span in run.spans]
    if not spans:
        return None
    text = (
        "Seconds of a step as the coordinator saw them: until the first worker had its part "
        "(compute), until the last one had (wait), and until the centers were new (reduce)."
    )
    columns = ("began (UTC)", "workers", "steps", *PARTS)
    rows = [_line(run) for run in facts.runs[-RUNS_SHOWN:]]
    caption = (
        "Seconds of the newest runs. Most of saving goes on while the next step computes; the rest "
        "is in no other column."
    )
    table = Table(caption, columns, rows)
    return Section("time", "Time", text, figures.draw_times(spans), table)


def _line(run: RunRecord) -> tuple[Cell, ...]:
    """Return the row of a run in the table of seconds."""
    sums = [
        sum(getattr(span, part) for span in run.spans) for part in ("compute", "wait", "reduce")
    ]
    seconds = run.reading, run.seeding, *sums, run.checkpointing
    steps = sum(span.steps for span in run.spans)
    began = run.began.replace("T", " ").removesuffix("+00:00")
    return began, run.workers, steps, *(round(each, 3) for each in seconds)


def _plan(facts: Facts) -> Section | None:
    """Return the section that compares plan and measurement; None without a plan."""
    runs = [run for run in facts.runs if run.planned_bytes]
    if not runs:
        return None
    run = runs[-1]
    text = (
        "What the newest run planned for a worker from metadata alone, and what was measured. The "
        "peak is that of the whole process: where the run was in the caller's own process "
        "(num_workers=0), with all else that was there."
    )
    # A run that was cut off has no peak.
    peak: Cell = round(run.peak_bytes / MIB) if run.peak_bytes else "not known"
    read: Cell = round(run.rows / run.reading) if run.reading else "not known"
    rows: list[tuple[Cell, ...]] = [
        ("rows of a worker at most", f"{run.planned_rows:,}, in {run.place}"),
        ("planned MiB of a worker at most", round(run.planned_bytes / MIB)),
        ("measured MiB of a worker at most", peak),
        ("rows read for each second", read),
        ("kernels", run.kernels),
    ]
    return Section("plan", "Plan and measurement", text, table=Table("", (), rows))


def _failures(facts: Facts) -> Section | None:
    """Return the section with the failures that the runs survived; None without a record."""
    if not facts.runs:
        return None
    rows = [(run.began[:10], text) for run in facts.runs[-RUNS_SHOWN:] for text in run.survived]
    if not rows:
        text = "No worker and no coordinator was lost, as far as the records of the runs tell."
        return Section("survived", "Failures survived", text)
    text = "None of this has changed a bit of the model."
    table = Table("", ("run began on", "at (UTC), and what happened"), rows)
    return Section("survived", "Failures survived", text, table=table)


RUN_SECTIONS = (_time, _plan, _failures)
"""The sections about runs, in their order on the page."""
