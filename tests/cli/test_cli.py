"""The command and the jobs: flags in, a table or one line of error out."""

from __future__ import annotations

import json
import logging
import re
import uuid
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ray_kmeans
from ray_kmeans import KMeansClustering, cli, config
from ray_kmeans.demo import DATA
from tests.support.commands import refused
from tests.support.files import put_array, put_table

HERE = ["--num-workers", "0"]
LLOYD = "--no-use-mini-batch"
X = np.random.default_rng(3).integers(-8, 8, size=(60, 3)).astype(np.float32)


@pytest.fixture(autouse=True)
def _log_level():
    """The command sets the level of our log; put it back."""
    level = logging.getLogger("ray_kmeans").level
    yield
    logging.getLogger("ray_kmeans").setLevel(level)


@pytest.fixture
def glosses(tmp_path):
    """The first file of the demo, shortened."""
    table = pq.read_table(DATA / "part-0.parquet").slice(0, 300)
    put_table(tmp_path / "glosses", "a.parquet", table, row_group_size=100)
    return str(tmp_path / "glosses")


@pytest.fixture
def numbers(tmp_path):
    put_array(tmp_path / "numbers", "x.npy", X)
    return str(tmp_path / "numbers")


def run(*args):
    cli.main([*args, *HERE])


def error_of(*args):
    """Return the one line with which a command ends that cannot do what it should."""
    return refused([*args, *HERE])[1]


def test_fit_then_predict_on_real_data(glosses, tmp_path, capsys):
    model, labelled = str(tmp_path / "model"), str(tmp_path / "labelled")

    run("fit", glosses, model, "--num-clusters", "5", LLOYD, "--max-steps", "4")
    fitted = capsys.readouterr()
    run("predict", glosses, model, labelled, "--keep-columns", "synset", "gloss")
    predicted = capsys.readouterr()

    km = KMeansClustering(5, model)
    table = pq.read_table(labelled)
    assert len(km.history()) == 4
    assert table.column_names == ["synset", "gloss", "row", "cluster_idx", "distance"]
    assert table["cluster_idx"].to_pylist() == list(km.predict_cluster_idx(glosses))
    assert table["gloss"] == pq.read_table(glosses)["gloss"]
    assert fitted.out.startswith("iteration        inertia   largest move   empty\n")
    for line in km.history():
        assert f"{line.iteration:>9}{line.inertia:>15.6g}" in fitted.out
    assert "5 clusters of 300 rows" in fitted.out
    assert "stopped: the number of steps" in fitted.out
    assert model in fitted.out
    assert predicted.out == f"300 rows labelled: {labelled}\n"


def test_the_next_step_that_fit_prints_is_python_that_runs(numbers, tmp_path, capsys):
    run("fit", numbers, str(tmp_path / "model"), "--num-clusters", "4")

    expression = capsys.readouterr().out.strip().splitlines()[-1]

    assert eval(expression, {"ray_kmeans": ray_kmeans}).shape == (4, 3)


@pytest.mark.parametrize("more", [[LLOYD], ["--batch-size", "25"]], ids=["all rows", "mini-batch"])
def test_fit_again_continues(numbers, tmp_path, more):
    model, once = str(tmp_path / "model"), str(tmp_path / "once")
    k = ["--num-clusters", "4", *more]
    run("fit", numbers, model, *k, "--max-steps", "1")
    run("fit", numbers, model, *k, "--max-steps", "3")

    run("fit", numbers, once, *k, "--max-steps", "3")

    assert len(KMeansClustering(4, once).history()) == 3
    assert KMeansClustering(4, model).history() == KMeansClustering(4, once).history()


def flags_of(values):
    """Return the flags that give these parameters."""
    flags = []
    for name, value in values.items():
        flag = name.replace("_", "-")
        flags += [f"--no-{flag}"] if value is False else [f"--{flag}", str(value)]
    return flags


FULL_BATCH = {"use_mini_batch": False, "random_seed": 9, "relative_tolerance": 0.1}
MINI_BATCH = {
    "initial_clusters": "kmeans_plus_plus",
    "distance_metric": "cosine",
    "mini_batch_steps_per_iteration": 2,
    "kmeans_plus_plus_num_retries": 0,
    "random_seed": -3,
}


@pytest.mark.parametrize(
    ("params", "fit_params"),
    [
        (FULL_BATCH, {}),
        ({**FULL_BATCH, "empty_clusters": "farthest"}, {"max_steps": 2}),
        (MINI_BATCH, {"batch_size": 25, "max_steps": 7}),
        ({**MINI_BATCH, "initial_clusters": "kmeans_parallel"}, {}),
    ],
)
def test_the_flags_reach_the_model(numbers, tmp_path, params, fit_params):
    here = config.RunConfig(num_workers=0, progress=False)
    km = KMeansClustering(4, str(tmp_path / "a"), **params, config=here)
    km.fit(numbers, **fit_params)
    flags = ["--num-clusters", "4", *flags_of({**params, **fit_params})]

    run("fit", numbers, str(tmp_path / "b"), *flags, "--keep-checkpoint-max", "1")

    assert KMeansClustering(4, str(tmp_path / "b")).history() == km.history()
    assert len(list((tmp_path / "b" / "checkpoints").glob("*.json"))) == 1
    assert len(list((tmp_path / "a" / "checkpoints").glob("*.json"))) == 2


def test_mini_batch_shows_sizes_and_loss_of_all_rows_not_those_of_many_steps(
    numbers, tmp_path, capsys
):
    """And the loss of a step for each of its rows, so that a short batch looks like the others."""
    flags = ["--num-clusters", "4", "--max-steps", "3", "--batch-size", "40"]
    run("fit", numbers, str(tmp_path / "model"), *flags)

    shown = capsys.readouterr().out
    here = config.RunConfig(num_workers=0, progress=False)
    km = KMeansClustering(4, str(tmp_path / "model"), config=here)
    labels = np.array([*km.predict_cluster_idx(x=X)])
    sizes = sorted(np.bincount(labels, minlength=4).tolist(), reverse=True)
    [line] = re.findall(r"all 60 rows by the last centers: .*", shown)
    assert line.endswith(f" 4 clusters of {', '.join(map(str, sizes))}")
    assert float(re.search(r"loss per row ([\d.e-]+),", line)[1]) == pytest.approx(
        km.score(x=X) / 60, rel=1e-5
    )
    rows = [line.split() for line in shown.splitlines() if re.match(r" +[123] ", line)]
    assert [row[1:3] for row in rows] == [
        [f"{each.inertia / each.rows:.6g}", f"{each.smoothed:.6g}"] for each in km.history()
    ]


def test_columns_chooses_and_their_order_counts(tmp_path):
    put_table(tmp_path, "a.parquet", pa.table({"a": X[:, 0], "b": X[:, 1], "id": range(60)}))
    model = str(tmp_path / "model")

    flags = ["--num-clusters", "60", "--columns", "b", "a"]
    with pytest.warns(UserWarning, match="are copies"):
        run("fit", str(tmp_path / "a.parquet"), model, LLOYD, *flags)
    run("predict", str(tmp_path / "a.parquet"), model, str(tmp_path / "out"), "--columns", "b", "a")

    np.testing.assert_array_equal(KMeansClustering(60, model).clusters(), X[:, 1::-1])
    assert set(pq.read_table(tmp_path / "out")["distance"].to_pylist()) == {0}


def test_memory_urls_work_in_this_process(capsys):
    root = f"memory://{uuid.uuid4().hex}"
    put_array(root, "data/x.npy", X)

    run("fit", f"{root}/data", f"{root}/model", "--num-clusters", "4")
    run("predict", f"{root}/data", f"{root}/model", f"{root}/labelled")

    assert f"60 rows labelled: {root}/labelled" in capsys.readouterr().out


def test_an_error_is_one_line(numbers, tmp_path):
    model, out = str(tmp_path / "model"), str(tmp_path / "out")
    k = ["--num-clusters", "4"]

    assert "nowhere' does not exist" in error_of("fit", "nowhere", model, *k)
    assert "num_clusters=61" in error_of("fit", numbers, model, "--num-clusters", "61")
    assert "num_clusters=0" in error_of("fit", numbers, model, "--num-clusters", "0")
    assert "max_steps=0" in error_of("fit", numbers, model, *k, "--max-steps", "0")
    assert "batch_size=0" in error_of("fit", numbers, model, *k, "--batch-size", "0")
    assert "batch_size=5" in error_of("fit", numbers, model, *k, LLOYD, "--batch-size", "5")
    assert "='farthest'" in error_of("fit", numbers, model, *k, "--empty-clusters", "farthest")
    assert "columns=['a']" in error_of("fit", numbers, model, *k, "--columns", "a")
    assert "no model in" in error_of("predict", numbers, model, out)
    assert not (tmp_path / "model").exists()
    assert not (tmp_path / "out").exists()


def test_a_flag_that_no_run_can_use_is_refused_by_name(numbers, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        run("fit", numbers, str(tmp_path), "--num-clusters", "4", "--keep-checkpoint-max", "0")

    assert caught.value.code == 2
    assert "keep_checkpoint_max=0 must be" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["key=1", "{", "", "[1]", "3", "null", '"x"'])
def test_storage_options_that_are_no_json_object_are_refused(numbers, tmp_path, text):
    flags = ["--num-clusters", "4", "--storage-options", text]

    assert "storage_options" in error_of("fit", numbers, str(tmp_path / "model"), *flags)


def test_storage_options_reach_every_store(monkeypatch):
    root, open_place, seen = f"memory://{uuid.uuid4().hex}", fsspec.core.url_to_fs, []
    put_array(root, "data/x.npy", X)
    monkeypatch.setattr(
        fsspec.core,
        "url_to_fs",
        lambda url, **options: seen.append((url, options.get("k"))) or open_place(url, **options),
    )
    flags = ["--storage-options", '{"k": 1}']

    run("fit", f"{root}/data", f"{root}/model", "--num-clusters", "4", *flags)
    run("predict", f"{root}/data", f"{root}/model", f"{root}/out", *flags)

    assert set(seen) == {(f"{root}/{place}", 1) for place in ("data", "model", "out")}


@pytest.mark.parametrize("what", ["data", "model", "output"])
@pytest.mark.parametrize("url", ["nosuch://bucket/x", "s3://bucket/x"])
def test_a_store_that_cannot_be_reached_is_one_line(numbers, tmp_path, what, url, impatient):
    model = str(tmp_path / "model")
    run("fit", numbers, model, "--num-clusters", "4", "--max-steps", "1")
    places = {"data": numbers, "model": model, "output": str(tmp_path / "out"), what: url}
    options = {
        "key": "k",
        "secret": "s",
        "client_kwargs": {"endpoint_url": "http://127.0.0.1:9", "region_name": "eu-west-1"},
        "config_kwargs": {"retries": {"max_attempts": 0}, "connect_timeout": 1},
    }
    flags = ["--storage-options", json.dumps(options)] if url.startswith("s3") else []

    assert url in error_of("predict", *places.values(), *flags)


def test_the_data_of_another_model_are_one_line(numbers, glosses, tmp_path):
    model = str(tmp_path / "model")
    run("fit", numbers, model, "--num-clusters", "4", "--max-steps", "1")

    assert "384" in error_of("predict", glosses, model, str(tmp_path / "out"))


def test_the_demo_runs_and_a_second_one_does_not_overwrite_the_first(tmp_path, capsys):
    output = str(tmp_path / "demo")
    run("demo", "--output", output, "--num-clusters", "6")
    shown = capsys.readouterr().out
    first = {path: path.stat().st_mtime_ns for path in Path(output).rglob("*")}

    run("demo", "--output", output, "--num-clusters", "3")

    assert "6 clusters of 6,000 rows" in shown
    assert "the largest clusters, by the words nearest to their centers" in shown
    assert len(pq.read_table(f"{output}/labelled")) == 6000
    assert {path: path.stat().st_mtime_ns for path in Path(output).rglob("*")} == first
    assert len(KMeansClustering(3, f"{output}-2/model").clusters()) == 3
    assert f"{output}-2/model" in capsys.readouterr().out


def test_predict_counts_rows_without_a_cluster_apart_and_adding_twice_is_done(
    numbers, tmp_path, capsys
):
    model, out = str(tmp_path / "m"), str(tmp_path / "out")
    run("fit", numbers, model, "--num-clusters", "4", LLOYD, "--max-steps", "3")
    holes = X[:50].copy()
    holes[[3, 7, 40], 1] = np.nan
    put_array(tmp_path / "holes", "x.npy", holes)
    capsys.readouterr()
    flags = ["--nonfinite", "drop"]

    for _ in range(2):
        run("predict", str(tmp_path / "holes"), model, out, *flags)
        assert capsys.readouterr().out == f"47 rows labelled, 3 left out (cluster -1): {out}\n"
    for _ in range(2):
        run("predict", numbers, model, out, *flags, "--append")
        assert capsys.readouterr().out == f"60 rows labelled: {out}\n"

    table = pq.read_table(out)
    assert table.num_rows == 110
    assert (table["cluster_idx"].to_numpy() == -1).sum() == 3
