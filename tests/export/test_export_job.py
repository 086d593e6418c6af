"""The job that writes a model for others, and the first line of all jobs."""

from __future__ import annotations

import uuid
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from ray_kmeans import KMeansClustering, RunConfig, cli
from ray_kmeans.cli.flags import announce
from ray_kmeans.model import FittedModel
from ray_kmeans.on_ray import ray_cluster
from ray_kmeans.workflows import export

HERE = RunConfig(num_workers=0, progress=False)
X = np.random.default_rng(2).normal(size=(90, 3)).astype(np.float32)


@pytest.fixture
def km(tmp_path):
    """A model whose last cluster is empty."""
    centers = np.concatenate([X[:4], [[99, 99, 99]]]).astype(np.float32)
    km = KMeansClustering(5, str(tmp_path / "m"), centers, use_mini_batch=False, config=HERE)
    return km.fit(X, max_steps=2)


def exported(km, capsys, output, *more):
    cli.main(["export", km.model_dir, str(output), *more])
    return capsys.readouterr().out


def test_parquet_has_center_and_count_of_each_cluster(km, tmp_path, capsys):
    said = exported(km, capsys, tmp_path / "c.parquet", "--format", "parquet")

    table = pq.read_table(tmp_path / "c.parquet")
    assert said == f"export: {tmp_path / 'c.parquet'}\n"
    assert table.column_names == ["cluster", "center", "count"]
    assert table["cluster"].to_pylist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(np.stack(table["center"].to_numpy()), km.clusters())
    assert table["count"].to_pylist() == km.counts().tolist()
    assert table["count"][4].as_py() == 0


def test_counts_that_are_not_whole_are_exported_as_they_are(km, tmp_path, capsys):
    weighted = KMeansClustering(
        2, str(tmp_path / "w"), X[:2], use_mini_batch=False, config=HERE
    ).fit(X, max_steps=1, sample_weight=np.full(90, 0.5))

    exported(weighted, capsys, tmp_path / "c.parquet", "--format", "parquet")

    counts = pq.read_table(tmp_path / "c.parquet")["count"].to_pylist()
    assert counts == weighted.counts().tolist()
    assert sum(counts) == 45


def test_npy_is_the_centers_as_an_array_on_any_store(km, capsys):
    url = f"memory://{uuid.uuid4().hex}/c.npy"

    said = exported(km, capsys, url, "--format", "npy")

    with fsspec.open(url) as file:
        np.testing.assert_array_equal(np.load(file), km.clusters())
    assert said == f"export: {url}\n"


def test_a_graph_goes_to_a_directory_of_its_own_which_is_printed(km, tmp_path, capsys):
    paths = [exported(km, capsys, tmp_path / "out").removeprefix("export: ") for _ in range(2)]

    assert len(set(paths)) == 2
    for path in paths:
        assert Path(path.strip(), "model.onnx").exists()


def test_a_saved_model_without_tensorflow_is_an_error_that_says_what_to_install(
    km, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(export, "tensorflow_installed", lambda: False)

    with pytest.raises(SystemExit, match="2"):
        cli.main(["export", km.model_dir, str(tmp_path / "out"), "--format", "savedmodel"])

    assert "pip install '.[tensorflow]'" in capsys.readouterr().err

    assert not (tmp_path / "out").exists()


def test_a_saved_model_is_asked_of_the_class(km, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export, "tensorflow_installed", lambda: True)
    monkeypatch.setattr(FittedModel, "export_savedmodel", lambda self, url: f"{url}/17")

    said = exported(km, capsys, tmp_path / "out", "--format", "savedmodel")

    assert said == f"export: {tmp_path / 'out'}/17\n"


@pytest.mark.parametrize(
    ("config", "where"),
    [
        (RunConfig(num_workers=0), "in this process"),
        (RunConfig(), "on Ray at RAY_ADDRESS, else this machine, one worker per node"),
        (RunConfig(num_workers=3, ray_address="h:1"), "on Ray at h:1, 3 workers of 1 CPU"),
        (RunConfig(num_workers=3, cpus_per_worker=2), "3 workers of 2 CPUs"),
        (RunConfig(cpus_per_worker=0.5), "all workers of 0.5 CPUs"),
        (RunConfig(backend="gpu", gpus_per_worker=0.5), "all workers of 0.5 GPU"),
    ],
)
def test_the_first_line_tells_the_workers(config, where, capsys):
    announce("fit", "s3://user:hush@bucket/x", "m", config)

    said = capsys.readouterr().err
    assert said.endswith(f"{where}\n")
    assert said.startswith("fit: s3://***@bucket/x -> m, ")


@pytest.mark.parametrize("given", ["argument", "environment", "nothing"])
def test_a_ray_is_joined_where_one_is_named_and_else_our_own_is_started(given, monkeypatch):
    seen, probed = [], []
    monkeypatch.setattr(
        ray_cluster.head_check, "check", lambda address, said: probed.append(address)
    )
    monkeypatch.setattr(ray_cluster.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_cluster.ray, "init", lambda address=None, **more: seen.append(address))
    if given == "environment":
        monkeypatch.setenv("RAY_ADDRESS", "h:1")

    ray_cluster.connect("h:2" if given == "argument" else None, 2, None)

    # "local": it does not look for one on this machine
    assert seen == [{"argument": "h:2", "environment": "h:1", "nothing": "local"}[given]]
    assert probed == [address for address in seen if address != "local"]
