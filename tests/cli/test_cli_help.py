"""The pages of the jobs and the help of the command are checked like code."""

from __future__ import annotations

import ast
import inspect
import re
import runpy
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import pytest

from ray_kmeans import KMeansClustering, cli, config
from ray_kmeans.cli.config_file import flags_of

ROOT = Path(__file__).parents[2]
JOBS = {
    name.replace("-", "_"): command.flags
    for name, command in cli.COMMANDS.items()
    if name not in ("compile", "demo")
}
"""The class of flags of each job, by the name of its page."""
GUIDE = (ROOT / "docs" / "guides" / "jobs.md").read_text()
CONFIGURATION = (ROOT / "docs" / "reference" / "configuration.md").read_text()


def places_of(kind):
    """Return the names of the places that a job takes without a flag."""
    names = ("uri", "model_dir", "old_model", "new_model", "output")
    return [name for name in names if is_required(kind, name)]


def is_required(kind, name):
    return any(f.name == name and f.default is MISSING for f in fields(kind))


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
    places = {*places_of(JOBS[name]), *(["data"] if name == "drift" else [])}  # may be left out
    flags = set(flags_of(JOBS[name])) - places | {"config"}

    words = re.split(r"[\s,]+", help_of[name])
    missing = {flag for flag in flags if f"--{flag.replace('_', '-')}" not in words}

    assert missing == set()


@pytest.mark.parametrize("name", JOBS)
def test_help_of_a_job_names_the_places_it_takes(help_of, name):
    usage = help_of[name].partition("\n\n")[0].lower().replace("-", "_")

    assert {place for place in places_of(JOBS[name]) if place not in usage.split()} == set()


@pytest.mark.parametrize("name", JOBS)
def test_the_command_in_the_docstring_of_a_job_is_that_of_the_guide_and_understood(
    name, monkeypatch
):
    page = runpy.run_path(str(ROOT / "jobs" / f"{name}.py"), run_name="not main")
    command = page["__doc__"].split(f"{name}.py ")[1].split("\n\n")[0].replace("\\\n", " ").split()
    seen, kind = [], JOBS[name]
    command_name = name.replace("_", "-")
    monkeypatch.setitem(cli.COMMANDS, command_name, cli.Command(kind, seen.append))

    cli.job(command_name, command)

    (flags,) = seen
    places = [getattr(flags, place) for place in places_of(kind)]
    assert places == command[: len(places)]
    given = [word[2:].replace("-", "_") for word in command if word.startswith("--")]
    assert given
    assert set(given) <= set(flags_of(kind))
    assert f"| {name} | `python jobs/{name}.py {' '.join(command)}` |" in GUIDE


@pytest.mark.parametrize(
    "kind", [*JOBS.values(), cli.compile.Compile, cli.demo.Demo, config.RunOptions]
)
def test_every_flag_has_a_help_text(kind):
    texts = {}
    for each in kind.__mro__[:-1]:
        body = ast.parse(inspect.getsource(each)).body[0].body
        texts |= {
            line.target.id: body[index + 1]
            for index, line in enumerate(body[:-1])
            if isinstance(line, ast.AnnAssign)
        }

    for field in fields(kind):
        if field.name != "run":  # its own fields are the flags
            assert ast.literal_eval(texts[field.name].value).strip().endswith((".", ")"))


def test_the_jobs_are_the_commands_of_the_same_names():
    pages = {path.stem: path.read_text() for path in (ROOT / "jobs").glob("*.py")}

    assert set(pages) == set(JOBS)
    for name, text in pages.items():
        assert f'cli.job("{name.replace("_", "-")}")\n' in text
        assert len(text.splitlines()) <= 15


def defaults_of(kind):
    return {f.name: f.default for f in fields(kind)}


@pytest.mark.parametrize("name", JOBS)
def test_a_flag_that_is_a_field_of_the_config_has_its_type_and_default(name):
    ours, theirs = flags_of(JOBS[name]), get_type_hints(config.RunConfig)
    shared = set(ours) & set(theirs) - {"model_dir", "storage_options"}
    nested = {f.name: f.type for f in fields(JOBS[name])}.get("run")

    assert {f: ours[f] for f in shared} == {f: theirs[f] for f in shared}
    default = defaults_of(config.RunConfig)
    given = defaults_of(JOBS[name]) | (defaults_of(getattr(config, nested)) if nested else {})
    assert {f: given[f] for f in shared} == {f: default[f] for f in shared}
    assert shared or name in ("export", "import_centers", "report")


def test_a_fit_has_all_parameters_of_the_estimator_and_fields_of_the_config_as_flags():
    flags = flags_of(cli.fit.Fit)
    parameters = inspect.signature(KMeansClustering).parameters
    own = {p.name: p.default for p in parameters.values() if p.name != "config"}
    default = defaults_of(cli.fit.Fit)
    of_config = set(defaults_of(config.RunConfig))

    assert set(own) | of_config == (set(flags) & set(own)) | (set(flags) & of_config)
    for name in set(own) - {"num_clusters", "model_dir"}:
        assert default[name] == own[name], name
    choices = {name: set(get_args(flags[name])) for name in own if get_origin(flags[name])}
    assert choices["distance_metric"] == set(get_args(config.DistanceMetric))
    assert choices["empty_clusters"] == set(get_args(config.EmptyClusters))


def test_the_defaults_in_the_table_are_those_of_the_config():
    rows = dict(re.findall(r"^\| `(\w+)`[^|]*\| `?([^|`:,]+)", CONFIGURATION, re.MULTILINE))

    assert set(rows) == set(defaults_of(config.RunConfig))
    for name, default in defaults_of(config.RunConfig).items():
        if default is not None and default is not MISSING:
            shown = f"{default:g}" if type(default) is float else str(default).lower()
            assert rows[name].strip() == shown, name
