"""The `ray-kmeans` command, which jobs/*.py call, too: it turns flags into calls."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tyro

from ray_kmeans._version import __version__
from ray_kmeans.cli import (
    choose_k,
    command_line,
    compile,
    demo,
    drift,
    evaluate,
    exit_codes,
    export,
    fit,
    import_centers,
    make_dataset,
    predict,
    report,
)
from ray_kmeans.errors import ConfigError

VERSION = "--version"
"""The flag that prints the version, with any command."""


class Command(NamedTuple):
    """A command of `ray-kmeans`."""

    flags: type[Any]
    """The dataclass of its flags."""
    run: Callable[[Any], None]
    """The function that runs the command, given an object of that class."""


COMMANDS = {
    "fit": Command(fit.Fit, fit.run),
    "choose-k": Command(choose_k.ChooseK, choose_k.run),
    "predict": Command(predict.Predict, predict.run),
    "evaluate": Command(evaluate.Evaluate, evaluate.run),
    "drift": Command(drift.Drift, drift.run),
    "export": Command(export.Export, export.run),
    "import-centers": Command(import_centers.ImportCenters, import_centers.run),
    "report": Command(report.Report, report.run),
    "make-dataset": Command(make_dataset.MakeDataset, make_dataset.run),
    "compile": Command(compile.Compile, compile.run),
    "demo": Command(demo.Demo, demo.run),
}
"""All commands by name, in the order of the help."""


def main(args: Sequence[str] | None = None) -> None:
    """Run the `ray-kmeans` command."""
    name, *rest = (sys.argv[1:] if args is None else args) or ["--help"]
    if name in COMMANDS:
        job(name, rest, prog=f"ray-kmeans {name}")
    else:
        exit_codes.run(lambda: _answer(name))


def _answer(name: str) -> None:
    """Print version or help for a first word that is no command; ConfigError for any other."""
    if name == VERSION:
        print(f"ray-kmeans {__version__}")
        return
    if not name.startswith(("-h", "--help", "--tyro")):
        hint = f"Give one of {', '.join(COMMANDS)}, or --help."
        raise ConfigError(f"{name!r} is no command. {hint}")
    kinds: dict[str, Callable[..., Any]] = {
        name: command.flags for name, command in COMMANDS.items()
    }
    tyro.extras.subcommand_cli_from_dict(kinds, prog="ray-kmeans", args=[name])


def job(name: str, args: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run one command as a script of its own (jobs/*.py)."""
    kind, run = COMMANDS[name]
    given = list(sys.argv[1:] if args is None else args)
    if VERSION in given:
        exit_codes.run(lambda: _answer(VERSION))
    else:
        exit_codes.run(lambda: run(command_line.flags_in(given, kind, prog)))
