"""The pages of the jobs and the help of the command are checked like code."""

from __future__ import annotations

import ast
import inspect
import re
import runpy
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from ray_kmeans import cli, config

ROOT = Path(__file__).parents[1]
JOBS = {"fit": cli.Fit, "predict": cli.Predict, "report": cli.Report}
PLACES = ("uri", "model_dir", "output")


@pytest.fixture(scope="module")
def help_of():
    """Return what a job prints for --help, by its name."""
    shown = {}
    for name in JOBS:
        job = [sys.executable, str(ROOT / "jobs" / f"{name}.py"), "--help"]
        shown[name] = subprocess.run(job, capture_output=True, text=True, check=True).stdout
    return shown


@pytest.mark.parametrize("name", JOBS)
def test_help_of_a_job_shows_every_flag(help_of, name):
    flags = {field.name for field in fields(JOBS[name])} - set(PLACES)
    if "run" in flags:
        flags = flags - {"run"} | {field.name for field in fields(config.RunOptions)}

    words = re.split(r"[\s,]+", help_of[name])
    missing = {flag for flag in flags if f"--{flag.replace('_', '-')}" not in words}

    assert missing == set()


@pytest.mark.parametrize("name", JOBS)
def test_help_of_a_job_names_the_places_it_takes(help_of, name):
    places = set(PLACES) & {field.name for field in fields(JOBS[name])}
    usage = help_of[name].splitlines()[0].lower().replace("-", "_")

    assert {place for place in places if place not in usage.split()} == set()


@pytest.mark.parametrize("name", JOBS)
def test_the_command_in_the_docstring_of_a_job_is_understood(name):
    page = runpy.run_path(str(ROOT / "jobs" / f"{name}.py"), run_name="not main")
    command = page["__doc__"].split(f"{name}.py ")[1].split("\n\n")[0].replace("\\\n", " ").split()
    seen = []

    cli.job(JOBS[name], seen.append, command)

    (flags,) = seen
    places = [getattr(flags, place) for place in PLACES if hasattr(flags, place)]
    assert places == command[: len(places)]
    given = [word[2:].replace("-", "_") for word in command if word.startswith("--")]
    assert given
    known = set(vars(flags)) | set(vars(flags.run) if hasattr(flags, "run") else ())
    assert set(given) <= known


@pytest.mark.parametrize("kind", [*JOBS.values(), cli.Demo, config.RunOptions])
def test_every_flag_has_a_help_text(kind):
    body = ast.parse(inspect.getsource(kind)).body[0].body
    texts = {
        line.target.id: body[index + 1]
        for index, line in enumerate(body[:-1])
        if isinstance(line, ast.AnnAssign)
    }

    for field in fields(kind):
        if field.name != "run":  # its own fields are the flags
            assert ast.literal_eval(texts[field.name].value).strip().endswith((".", ")"))


def test_the_jobs_are_the_commands_of_the_same_names():
    for name in JOBS:
        text = (ROOT / "jobs" / f"{name}.py").read_text()
        assert f"cli.job(cli.{name.title()}, cli.{name})" in text
