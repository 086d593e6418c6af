"""Processes are killed with SIGKILL; the result is that of the run that was not disturbed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.algorithm.stopping import StopRule
from ray_kmeans.data.opening import open_source
from ray_kmeans.demo import DATA
from ray_kmeans.observe import events as ev
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.workflows import fit
from ray_kmeans.workflows.parameters import FitParams
from tests.support.killing import processes_in, wait_until
from tests.support.ray_runs import descendants
from tests.support.servers import lasting_ray

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
K = 80


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The state after a fit in this process; the Ray ones must equal it bit for bit."""
    return fit_with(tmp_path_factory.mktemp("undisturbed"), num_workers=0)


def fit_with(model_dir, num_workers, listener=lambda event: None, rule=None):
    config = RunConfig(num_workers=num_workers, save_checkpoints_steps=3, progress=False)
    params = FitParams(**KMeansClustering(K, use_mini_batch=False).get_params(deep=False))
    return fit.fit(
        fit.plan_fit(params, config, rule or StopRule(), None),
        open_source(str(DATA)),
        ModelDir.at(str(model_dir), {}, 5),
        config,
        listeners=[listener],
    )


def assert_same(state, expected):
    np.testing.assert_array_equal(state.centers, expected.centers)
    np.testing.assert_array_equal(state.counts, expected.counts)
    assert state.history == expected.history
    assert (state.iteration, state.stop) == (expected.iteration, expected.stop)


class Killer:
    """Kills a process of the fit when an iteration is done, once for each iteration named."""

    def __init__(self, iterations, choose):
        self.left = set(iterations)
        self.choose = choose
        self.seen = []
        self.loaded = None

    def __call__(self, event):
        self.seen.append(type(event))
        if isinstance(event, ev.DataLoaded):
            self.loaded = event
        if isinstance(event, ev.IterationDone) and event.line.iteration in self.left:
            self.left.remove(event.line.iteration)
            os.kill(self.choose(self.loaded), signal.SIGKILL)


def slowed(killer):
    """Leave the coordinator time to meet the kill: its events reach the driver a little later."""

    def listener(event):
        killer(event)
        if isinstance(event, ev.IterationDone):
            time.sleep(0.02)

    return listener


@pytest.mark.usefixtures("ray_cluster")
def test_a_killed_worker_is_replaced_and_the_result_is_the_same(tmp_path, undisturbed):
    draw = random.Random(1)
    iteration = draw.randint(1, 6)
    killer = Killer([iteration], lambda loaded: draw.choice(loaded.workers)[1])

    state = fit_with(tmp_path, num_workers=3, listener=slowed(killer))

    assert not killer.left, f"iteration {iteration} was never reached"
    assert killer.seen.count(ev.WorkerReplaced) == 1
    assert_same(state, undisturbed)


@pytest.mark.usefixtures("ray_cluster")
def test_a_killed_coordinator_is_replaced_and_goes_on_from_its_checkpoint(tmp_path, undisturbed):
    killer = Killer([5], lambda loaded: loaded.coordinator[1])

    state = fit_with(tmp_path, num_workers=2, listener=slowed(killer))

    assert killer.seen.count(ev.CoordinatorReplaced) == 1
    assert_same(state, undisturbed)


def run_job(model_dir, place, workers="2", **environment):
    environment = {**os.environ, "RAY_TMPDIR": place, **environment}
    command = [sys.executable, "jobs/fit.py", str(DATA), str(model_dir), "--num-clusters", str(K)]
    return subprocess.Popen(
        [
            *command,
            *("--no-use-mini-batch", "--num-workers", workers, "--save-checkpoints-steps", "1"),
        ],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.long(kind="resume")
def test_a_killed_driver_that_is_run_again_equals_the_undisturbed_one(tmp_path, undisturbed):
    iteration = random.Random(0).randint(1, undisturbed.iteration // 2)
    with tempfile.TemporaryDirectory(prefix="rk", dir="/tmp") as place:
        first = run_job(tmp_path, place)
        commits = tmp_path / "checkpoints"
        wait_until(
            lambda: first.poll() is not None or list(commits.glob(f"*-iteration-{iteration}.json"))
        )
        first.kill()
        first.communicate()
        wait_until(lambda: not processes_in(place), seconds=60)
    cut_off = ModelDir.at(str(tmp_path), {}, 5).latest()

    with tempfile.TemporaryDirectory(prefix="rk", dir="/tmp") as place:
        second = run_job(tmp_path, place, workers="3")
        output, _ = second.communicate(timeout=120)

    assert second.returncode == 0, output
    assert iteration <= cut_off.iteration < undisturbed.iteration
    assert cut_off.stop is None
    assert_same(ModelDir.at(str(tmp_path), {}, 5).latest(), undisturbed)


IMPATIENT = {"RAY_gcs_rpc_server_reconnect_timeout_s": "5"}
"""So long Ray waits for a head that is gone; 60 s by default."""


@pytest.mark.long
def test_a_cluster_whose_head_is_killed_costs_no_more_than_since_the_last_checkpoint(
    tmp_path, undisturbed, monkeypatch
):
    for name, value in IMPATIENT.items():
        monkeypatch.setenv(name, value)
    checkpoints = tmp_path / "checkpoints"
    with lasting_ray(3) as (head, address):
        first = run_job(tmp_path, tempfile.gettempdir(), RAY_ADDRESS=address)
        wait_until(lambda: first.poll() is not None or list(checkpoints.glob("*-iteration-3.json")))
        for pid in descendants(head.pid):
            os.kill(pid, signal.SIGKILL)
        output, _ = first.communicate(timeout=120)
    cut_off = ModelDir.at(str(tmp_path), {}, 5).latest()
    with lasting_ray(2) as (_, address):
        second = run_job(tmp_path, tempfile.gettempdir(), "1", RAY_ADDRESS=address)
        second_output, _ = second.communicate(timeout=120)

    assert first.returncode not in (0, None), output
    assert 3 <= cut_off.iteration < undisturbed.iteration
    assert second.returncode == 0, second_output
    assert_same(ModelDir.at(str(tmp_path), {}, 5).latest(), undisturbed)
