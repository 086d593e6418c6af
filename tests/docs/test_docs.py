"""What the documents say is checked like code."""

from __future__ import annotations

import re
import subprocess
from dataclasses import fields
from inspect import signature
from pathlib import Path

import pytest

from ray_kmeans import KMeansClustering
from ray_kmeans.config import RunConfig
from ray_kmeans.errors import install_hint

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCS = ROOT / "docs"
ARCHITECTURE = (DOCS / "internals" / "architecture.md").read_text()
CONFIGURATION = (DOCS / "reference" / "configuration.md").read_text()
JOBS = (DOCS / "guides" / "jobs.md").read_text()
FROM_TENSORFLOW = (DOCS / "migrating" / "tensorflow.md").read_text()
WHAT_DIES = (DOCS / "guides" / "what-dies.md").read_text()
PACKAGE = ROOT / "ray_kmeans"


def file_tree():
    return re.search(r"## The file tree\n\n```text\n(.*?)```\n", ARCHITECTURE, re.DOTALL)[1]


def test_every_package_stands_in_the_file_tree():
    real = {f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")}

    assert set(re.findall(r"^  (\w+/)  ", file_tree(), re.MULTILINE)) == real


def test_what_stands_beside_the_package_in_the_file_tree_is_there():
    named = re.findall(r"^([\w./]+)", file_tree(), re.MULTILINE)

    assert {"cluster_configs/", "docs/"} <= set(named)
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_ci_runs_the_line_of_the_readme():
    [line] = [
        x.strip() for x in README.splitlines() if x.strip().startswith("pip install '.[test]' &&")
    ]

    assert line in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("bad", ["pip", "laws", "ray", "ruff", "mypy", "sphinx-build", ""])
def test_ci_fails_where_any_of_its_commands_fails(tmp_path, bad):
    script = '[ "$(basename "$0")" != "$BAD" ] || exit 1\n'
    of_pytest = 'case "$*" in *not*) kind=laws;; *) kind=ray;; esac; [ "$kind" != "$BAD" ]\n'
    of_python = 'mkdir -p "$3/bin" && touch "$3/bin/activate"\n'
    special = {"pytest": of_pytest, "python3": of_python}
    for name in ("pip", "pytest", "ruff", "mypy", "sphinx-build", "chromium", "python3"):
        (tmp_path / name).write_text(f"#!/bin/bash\n{special.get(name, script)}")
        (tmp_path / name).chmod(0o755)

    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "BAD": bad}
    done = subprocess.run([ROOT / ".ci" / "run"], env=environment, check=False)

    assert (done.returncode == 0) == (bad == "")


def test_every_field_of_the_config_stands_in_the_table():
    named = re.findall(r"^\| `(\w+)`", CONFIGURATION, re.MULTILINE)

    assert set(named) == {f.name for f in fields(RunConfig)}


def test_no_line_to_install_from_an_index_that_does_not_have_the_package():
    asked = ["git", "ls-files", "-z", "*.py", "*.md", "*.yaml", "*.sh", "*Dockerfile", ".ci/*"]
    listed = subprocess.run(asked, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    from_an_index = re.compile(
        r"ray-kmeans\[[^\]]*\](?! @ )|ray_kmeans\[[a-z]|pip install ['\"]?ray[-_]kmeans"
    )
    found = [
        (name, line)
        for name in listed.split("\0")
        if name and (ROOT / name) != Path(__file__) and (ROOT / name).exists()
        for line in (ROOT / name).read_text().splitlines()
        if from_an_index.search(line)
    ]

    assert found == []
    assert from_an_index.search("pip install 'ray-kmeans[s3]'")
    assert install_hint("s3").endswith("pip install '.[s3]'.")


@pytest.mark.parametrize("job", sorted((ROOT / "jobs").glob("*.py")), ids=lambda path: path.stem)
def test_every_job_stands_in_the_guide_with_its_command(job):
    assert f"python jobs/{job.name} " in JOBS


@pytest.mark.parametrize(
    "path", [p for p in PACKAGE.rglob("*.py") if p.parent.name != "demo"], ids=lambda p: p.stem
)
def test_every_module_says_what_it_is_for(path):
    assert path.read_text().startswith('"""')


def rows_of_the_seed():
    """Return (names, file, test) of every row of the table that compares with the seed."""
    table = re.search(r"## Every parameter.*?\n\| in TensorFlow(.*)", FROM_TENSORFLOW, re.DOTALL)[1]
    rows = re.findall(r"^\| `(.+?)` \| .* \| \[(.+)\]\((.+)\) \|$", table, re.MULTILINE)
    return [(names, path, f"test_{law.replace(' ', '_')}") for names, law, path in rows]


@pytest.mark.parametrize(("names", "path", "test"), rows_of_the_seed())
def test_every_row_about_the_seed_names_a_test_that_is_there(names, path, test):
    assert f"\ndef {test}(" in (DOCS / "migrating" / path).read_text()


def rows_of_deaths():
    """Return (file, test) of every link in the table of what dies."""
    links = re.findall(r"\[([^\]]+)\]\((\S+/tests/[\w/]+\.py)\)", WHAT_DIES)
    return [(path, f"test_{law.replace(' ', '_')}") for law, path in links]


@pytest.mark.parametrize(("path", "test"), rows_of_deaths())
def test_what_is_said_of_a_death_names_a_test_that_is_there(path, test):
    assert f"\ndef {test}(" in (DOCS / "guides" / path).read_text()


OUR_PARAMETERS = {
    *("empty_clusters", "n_init", "renumber_like", "reassignment_ratio", "nested_batches"),
    *("levels", "refine_steps", "leaf_quota", "train_rows"),
}
"""Parameters of its constructor that TensorFlow's class does not have."""
OUR_METHODS = (
    *("history", "history_table", "counts", "why_stopped", "checkpoints"),
    *("drift_from", "evaluation", "explain", "fit_and_label", "label", "recommended", "restarts"),
    "tree",
    "predict_nearest",
)
"""Methods of KMeansClustering that TensorFlow's class does not have."""


def test_every_parameter_method_and_constant_of_the_seed_has_a_row():
    public = {name for name in dir(KMeansClustering) if not name.startswith("_")}
    methods = public - {*OUR_METHODS}
    wanted = methods | (set(signature(KMeansClustering).parameters) - OUR_PARAMETERS)
    for method in ("fit", "evaluate", "predict", "export", "export_savedmodel"):
        parameters = list(signature(getattr(KMeansClustering, method)).parameters)
        wanted |= {f"{method}: {name}" for name in parameters[1:]}
    ours = {"export_savedmodel: exports_to_keep"}
    wanted -= (
        ours | {"fit: max_seconds"} | {f"{method}: sample_weight" for method in ("fit", "evaluate")}
    )
    # what says where data come from and go to is the method's own row
    own_of = {
        "fit": ("x", "input_fn"),
        "evaluate": ("x", "y", "input_fn", "batch_size"),
        "predict": ("x", "input_fn"),
        "export": ("export_dir",),
        "export_savedmodel": ("export_dir_base", "checkpoint_path"),
    }
    wanted -= {f"{method}: {name}" for method, names in own_of.items() for name in names}

    found = set()
    for names, _, _ in rows_of_the_seed():
        method, _, several = names.removesuffix(" (properties)").rpartition(": ")
        found |= {f"{method}: {each}" if method else each for each in several.split(", ")}

    assert wanted - found == set()
