"""The documented way: `ray job submit` to a running head, data and model on an S3 server."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.demo import DATA
from ray_kmeans.store.model_dir import ModelDir
from tests.support.servers import BIN, ray_head, s3_server

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]


def submit(address, *command):
    return subprocess.run(
        [BIN / "ray", "job", "submit", "--address", address, "--working-dir", ".", "--", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


SECRETS = {"AWS_ACCESS_KEY_ID": "id-of-key", "AWS_SECRET_ACCESS_KEY": "very-secret"}
LONG = ("--num-clusters", "12", "--batch-size", "200", "--max-steps", "1500", "--num-workers", "2")


def ray_job(address, *command, **options):
    """Run `ray job ...` against a head."""
    return subprocess.run(
        [BIN / "ray", "job", command[0], "--address", address, *command[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


def logs_of(address, job):
    """Return what a job has printed, as `ray job logs` does, which takes a second to start."""
    try:
        with urllib.request.urlopen(f"{address}/api/jobs/{job}/logs", timeout=60) as answer:
            return json.load(answer)["logs"]
    except urllib.error.HTTPError:
        return ""  # its driver has not started yet


@pytest.fixture(scope="module")
def address():
    with ray_head(num_cpus=3, environment=SECRETS) as address:
        yield address


@pytest.mark.long(kind="resume")
def test_a_job_that_is_stopped_saves_its_iterations_and_goes_on_when_it_is_submitted_again(
    tmp_path, address
):
    model, undisturbed = tmp_path / "model", tmp_path / "undisturbed"
    local = KMeansClustering(12, str(undisturbed), config=RunConfig(num_workers=0))
    local.fit(str(DATA), batch_size=200, max_steps=1500)
    command = ("python", "jobs/fit.py", str(DATA), str(model), *LONG, "--log-step-count-steps", "1")

    job = ("--submission-id", "first", "--no-wait", "--working-dir", ".", "--", *command)
    assert ray_job(address, "submit", *job).returncode == 0
    end = time.monotonic() + 240
    while "iteration=20 " not in logs_of(address, "first"):
        assert time.monotonic() < end
        time.sleep(0.2)

    stopped = ray_job(address, "stop", "first")
    state = ModelDir.at(str(model), {}, 5).latest()
    again = submit(address, *command)

    assert "was stopped" in stopped.stdout + stopped.stderr
    assert 20 <= state.iteration < 1500
    assert again.returncode == 0, again.stdout + again.stderr
    km = KMeansClustering(12, str(model), config=RunConfig(num_workers=0))
    np.testing.assert_array_equal(km.clusters(), local.clusters())
    assert km.history() == local.history()


def test_fit_and_predict_run_as_submitted_jobs_on_s3(tmp_path, address):
    local = KMeansClustering(
        12, str(tmp_path), use_mini_batch=False, config=RunConfig(num_workers=0)
    ).fit(str(DATA), max_steps=6)

    with s3_server() as options:
        import s3fs

        store = s3fs.S3FileSystem(**options)
        store.put(str(DATA), "bucket/vectors", recursive=True)
        flags = ["--storage-options", json.dumps({"client_kwargs": options["client_kwargs"]})]

        fit = submit(
            address,
            *("python", "jobs/fit.py", "s3://bucket/vectors", "s3://bucket/model"),
            *("--num-clusters", "12", "--no-use-mini-batch", "--max-steps", "6", *flags),
        )
        predict = submit(
            address,
            *("python", "jobs/predict.py", "s3://bucket/vectors", "s3://bucket/model"),
            *("s3://bucket/labelled", "--keep-columns", "synset", *flags),
        )
        wrong = submit(
            address,
            *("python", "jobs/fit.py", "s3://bucket/nothing", "s3://bucket/model2"),
            *("--num-clusters", "12", *flags),
        )

        config = RunConfig(num_workers=0, storage_options=options)
        remote = KMeansClustering(12, "s3://bucket/model", use_mini_batch=False, config=config)
        assert fit.returncode == 0, fit.stdout + fit.stderr
        assert "12 clusters of 6,000 rows" in fit.stdout
        np.testing.assert_array_equal(remote.clusters(), local.clusters())
        assert remote.history() == local.history()
        assert predict.returncode == 0, predict.stdout + predict.stderr
        labelled = pq.read_table("bucket/labelled", filesystem=store)
        assert labelled["cluster_idx"].to_pylist() == list(local.predict_cluster_idx(str(DATA)))
        assert wrong.returncode == 1
        assert "error: 's3://bucket/nothing' does not exist" in wrong.stdout
        assert "very-secret" not in fit.stdout + predict.stdout + wrong.stdout
