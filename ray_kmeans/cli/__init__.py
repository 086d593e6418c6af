"""Flags to calls: the `ray-kmeans` command, and the same as jobs/*.py."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tyro
from tyro.conf import OmitArgPrefixes

from ray_kmeans.cli import (
    config_file,
    demo,
    ending,
    evaluate,
    export,
    fit,
    import_centers,
    make_dataset,
    predict,
    report,
)


class Command(NamedTuple):
    """A command: its flags, and what runs with them."""

    flags: type[Any]
    run: Callable[[Any], None]


COMMANDS = {
    "fit": Command(fit.Fit, fit.run),
    "predict": Command(predict.Predict, predict.run),
    "evaluate": Command(evaluate.Evaluate, evaluate.run),
    "export": Command(export.Export, export.run),
    "import-centers": Command(import_centers.ImportCenters, import_centers.run),
    "report": Command(report.Report, report.run),
    "make-dataset": Command(make_dataset.MakeDataset, make_dataset.run),
    "demo": Command(demo.Demo, demo.run),
}


def main(args: Sequence[str] | None = None) -> None:
    """Run the `ray-kmeans` command."""
    name, *rest = (sys.argv[1:] if args is None else args) or ["--help"]
    if name in COMMANDS:
        job(name, rest, prog=f"ray-kmeans {name}")
    else:
        tyro.extras.subcommand_cli_from_dict(
            {name: command.flags for name, command in COMMANDS.items()},
            prog="ray-kmeans",
            args=[name],
        )


def job(name: str, args: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run one command as a script of its own (jobs/*.py)."""
    kind, run = COMMANDS[name]
    words = list(sys.argv[1:] if args is None else args)

    def parse_and_run() -> None:
        defaults = config_file.defaults_in(words, kind)
        run(tyro.cli(kind, prog=prog, args=words, default=defaults, config=(OmitArgPrefixes,)))

    ending.run(parse_and_run)
