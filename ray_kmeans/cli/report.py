"""The command `report`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from ray_kmeans.cli import exit_codes
from ray_kmeans.cli.flags import Configured, announce, run_config
from ray_kmeans.config import MachineOptions
from ray_kmeans.html_report import report


@dataclass(frozen=True)
class Report(Configured):
    """Make one HTML page of a fitted model: loss, sizes, a map, gaps, and rows of each cluster."""

    model_dir: Positional[Annotated[str, arg(metavar="MODEL_DIR")]]
    """Directory or fsspec URL of a fitted model."""
    output: Positional[Annotated[str, arg(metavar="OUTPUT")]]
    """Path or fsspec URL of the page, as report.html."""
    data: tuple[str, ...] = ()
    """URI, or several, of data as for `fit`: some of their rows are shown, too."""
    columns: tuple[str, ...] = ()
    """The column of vectors, or the columns of numbers. Needed where there is a choice."""
    show: str | None = None
    """Column of the data that says what a row is: text, or PNG or JPEG files."""
    evaluation: str | None = None
    """Path or fsspec URL of the JSON that `evaluate --output` wrote of this model: its figures of
    quality are shown."""
    storage_options: str = "{}"
    """JSON for fsspec, for the data, MODEL_DIR, EVALUATION and OUTPUT."""


def run(flags: Report) -> None:
    """Write the page, and print where it is."""
    config = run_config(MachineOptions(num_workers=0), flags.storage_options)
    announce("report", flags.model_dir, flags.output, config)
    report(
        flags.model_dir,
        flags.output,
        data=flags.data,
        columns=flags.columns,
        show=flags.show,
        evaluation=flags.evaluation,
        config=config,
    )
    exit_codes.print_result("report", flags.output)
