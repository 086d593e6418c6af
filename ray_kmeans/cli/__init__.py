"""Flags to calls: the `ray-kmeans` command, and the same as jobs/*.py."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tyro
from tyro.conf import OmitArgPrefixes

from ray_kmeans.cli import config_file, ending
from ray_kmeans.cli.demo import Demo, demo
from ray_kmeans.cli.evaluate import Evaluate, evaluate
from ray_kmeans.cli.export import Export, export
from ray_kmeans.cli.fit import Fit, fit
from ray_kmeans.cli.make_dataset import MakeDataset, make_dataset
from ray_kmeans.cli.predict import Predict, predict
from ray_kmeans.cli.report import Report, report


class Command(NamedTuple):
    """A command: its flags, and what is called with them."""

    flags: type[Any]
    call: Callable[[Any], None]


COMMANDS = {
    "make-dataset": Command(MakeDataset, make_dataset),
    "fit": Command(Fit, fit),
    "predict": Command(Predict, predict),
    "evaluate": Command(Evaluate, evaluate),
    "export": Command(Export, export),
    "report": Command(Report, report),
    "demo": Command(Demo, demo),
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
    kind, call = COMMANDS[name]
    words = list(sys.argv[1:] if args is None else args)

    def parse_and_call() -> None:
        defaults = config_file.defaults_in(words, kind)
        call(tyro.cli(kind, prog=prog, args=words, default=defaults, config=(OmitArgPrefixes,)))

    ending.run(parse_and_call)
