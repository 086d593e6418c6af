"""Every command that the guide shows for a job, run as it stands there, on real data."""

from __future__ import annotations

import io
import json
import re
import runpy
import shlex
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from ray_kmeans import KMeansClustering, RunConfig, cli
from ray_kmeans.cli.config_file import flags_of
from ray_kmeans.demo import DATA
from tests.support.files import put_table

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "guides" / "jobs.md").read_text()
COMMANDS = dict(re.findall(r"^\| (\w+) \| `(python jobs/.*?)` \|", GUIDE, re.MULTILINE))
SMALLER = {"--num-rows 1000000": "--num-rows 20000", "--num-clusters 1000": "--num-clusters 50"}
ROWS = 1200


def run_all(bucket, *more):
    """Run all commands on this bucket; return what each printed, and its first line of log."""
    table = pq.read_table(DATA).slice(0, ROWS).rename_columns(["id", "lemmas", "text", "embedding"])
    put_table(bucket / "vectors", "a.parquet", table, row_group_size=400)
    printed = {}
    for name, command in COMMANDS.items():
        for long, short in SMALLER.items():
            command = command.replace(long, short)
        words = shlex.split(command.replace("s3://bucket", str(bucket)))[1:]
        has_workers = "num_workers" in flags_of(cli.COMMANDS[name.replace("_", "-")].flags)
        printed[name] = run_page(words + list(more if has_workers else ()))
    return SimpleNamespace(bucket=bucket, printed=printed)


def run_page(words):
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", words)
        runpy.run_path(str(ROOT / words[0]), run_name="__main__")
    return out.getvalue(), err.getvalue().splitlines()[0]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    return run_all(tmp_path_factory.mktemp("here"), "--num-workers", "0")


@pytest.fixture(scope="module")
def on_ray(tmp_path_factory, ray_cluster):
    return run_all(tmp_path_factory.mktemp("ray"))


@pytest.fixture
def ran(request):
    return request.getfixturevalue(request.param)


both_ways = pytest.mark.parametrize(
    "ran", ["here", pytest.param("on_ray", marks=pytest.mark.ray)], indirect=True
)


def km_of(ran):
    model_dir = str(ran.bucket / "model")
    return KMeansClustering(50, model_dir, config=RunConfig(num_workers=0, progress=False))


def test_every_job_has_a_command_in_the_readme():
    assert set(COMMANDS) == {path.stem for path in (ROOT / "jobs").glob("*.py")}


@both_ways
def test_the_first_line_of_a_job_says_what_runs_where(ran):
    anywhere = {"export", "import_centers", "report"}
    for name, (_, first) in ran.printed.items():
        assert first.startswith(f"{name.replace('_', '-')}: ")
        assert str(ran.bucket) in first
        here = name in anywhere or "here" in ran.bucket.name
        assert first.endswith("in this process") is here
        assert ("on Ray at" in first) is not here


@both_ways
def test_fit_makes_a_model_and_predict_its_labels(ran):
    labelled = pq.read_table(ran.bucket / "labelled")
    data = str(ran.bucket / "vectors")

    assert labelled.column_names == ["id", "row", "cluster_idx", "distance"]
    assert labelled["cluster_idx"].to_pylist() == list(km_of(ran).predict_cluster_idx(data))
    assert "stopped: " in ran.printed["fit"][0]
    assert f"{ROWS:,} rows labelled" in ran.printed["predict"][0]


@both_ways
def test_evaluate_writes_the_loss_that_the_class_gives(ran):
    figures = json.loads((ran.bucket / "evaluation.json").read_text())
    told = km_of(ran).evaluate(str(ran.bucket / "vectors"), log_progress=False)

    assert (figures["loss"], figures["global_step"]) == (told["loss"], told["global_step"])
    assert figures["rows"] == ROWS
    assert re.search(rf"^loss +{figures['loss']:,.6g}$", ran.printed["evaluate"][0], re.MULTILINE)


@both_ways
def test_export_writes_the_centers_with_their_counts(ran):
    table = pq.read_table(ran.bucket / "centers.parquet")

    assert ran.printed["export"][0] == f"export: {ran.bucket / 'centers.parquet'}\n"
    assert table["cluster"].to_pylist() == list(range(50))
    np.testing.assert_array_equal(np.stack(table["center"].to_numpy()), km_of(ran).clusters())
    assert table["count"].to_pylist() == km_of(ran).counts().tolist()


@both_ways
def test_report_makes_a_page_with_texts_of_the_data(ran):
    page = (ran.bucket / "report.html").read_text()
    texts = pq.read_table(ran.bucket / "vectors")["text"].to_pylist()

    assert sum(text in page for text in texts) > 10


@both_ways
def test_make_dataset_makes_the_rows_that_it_was_asked_for(ran):
    table = pq.read_table(ran.bucket / "synthetic")

    assert ran.printed["make_dataset"][0] == f"20,000 rows in 1 file: {ran.bucket / 'synthetic'}\n"
    assert table["id"].to_pylist() == list(range(20_000))
    assert set(table["label"].to_pylist()) == set(range(50))


@pytest.mark.ray
def test_all_results_are_the_same_bits_here_and_on_ray(here, on_ray):
    for name in ("evaluation.json", "centers.parquet"):
        assert (here.bucket / name).read_bytes() == (on_ray.bucket / name).read_bytes()
    for name in ("labelled", "synthetic"):
        assert pq.read_table(here.bucket / name) == pq.read_table(on_ray.bucket / name)
