"""What the documents say is checked like code."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from ray_kmeans.config import RunConfig

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PACKAGE = ROOT / "ray_kmeans"


def tree_of_the_readme():
    block = re.search(r"## The file tree\n\n(.*?)\n\n", README, re.DOTALL)[1]
    inside = re.findall(r"^      (\S+\.py)  ", block, re.MULTILINE)
    return {f"ray_kmeans/{path}" for path in inside}


def test_the_file_tree_in_the_readme_is_the_file_tree():
    empty = {"__init__.py"}
    real = {
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*.py")
        if path.name not in empty or len(path.read_text().splitlines()) > 1
    }

    assert tree_of_the_readme() == real


def test_ci_runs_the_line_of_the_readme():
    [line] = [x.strip() for x in README.splitlines() if x.strip().endswith("&& pytest")]

    assert line in (ROOT / ".ci" / "run").read_text().splitlines()


def test_every_field_of_the_config_stands_in_the_readme():
    table = re.search(r"## Choices\n\n(.*?)\n\n", README, re.DOTALL)[1]

    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == {
        f.name for f in fields(RunConfig)
    }


@pytest.mark.parametrize("job", sorted((ROOT / "jobs").glob("*.py")), ids=lambda path: path.stem)
def test_every_job_stands_in_the_readme_with_its_command(job):
    assert f"python jobs/{job.name} " in README


@pytest.mark.parametrize(
    "path", [p for p in PACKAGE.rglob("*.py") if p.parent.name != "demo"], ids=lambda p: p.stem
)
def test_every_module_says_what_it_is_for(path):
    assert path.read_text().startswith('"""')
