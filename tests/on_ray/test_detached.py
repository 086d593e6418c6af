"""A fit is stopped, left alone, found again and followed; its bits are those of a fit in peace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.demo import DATA
from ray_kmeans.errors import ConfigError
from ray_kmeans.store.model_dir import ModelDir
from tests.support.ray_runs import comes_true, descendants
from tests.support.servers import lasting_ray

pytestmark = pytest.mark.ray

K = 40
STEPS = 60
ROOT = Path(__file__).parents[2]
HERE = {"num_workers": 0, "progress": False}
SLOW = {"cache": "source"}
"""Reads the rows again for each step, so that a fit takes some seconds."""


class Address(str):
    """Of a head, whose process has a number."""

    pid = 0


@pytest.fixture(scope="module")
def address():
    """A head of its own, which outlives drivers."""
    with lasting_ray(4) as (head, where):
        here = Address(where)
        here.pid = head.pid
        yield here


def config(address, **more):
    return RunConfig(num_workers=2, ray_address=address, progress=False, **SLOW, **more)


FULL = ("--no-use-mini-batch", f"--max-steps={STEPS}")
LONG = ("--batch-size=200", "--max-steps=100000")


def command(model_dir, address, *more, train=FULL):
    """Start the job that fits; its lines of log tell how far it is."""
    args = [str(DATA), str(model_dir), f"--num-clusters={K}", *train]
    flags = ["--num-workers=2", "--log-step-count-steps=1", "--cache=source"]
    return subprocess.Popen(
        [sys.executable, "jobs/fit.py", *args, *flags, *more],
        cwd=ROOT,
        env={**os.environ, "RAY_ADDRESS": address, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_iteration(process, number):
    """Read the log until an iteration is told of; return all that was read."""
    text = ""
    for line in process.stdout:
        text += line
        if f"iteration={number} " in line:
            return text
    raise AssertionError(f"it ended before iteration {number}:\n{text}")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    km = KMeansClustering(
        K,
        str(tmp_path_factory.mktemp("local") / "model"),
        use_mini_batch=False,
        config=RunConfig(**HERE),
    )
    return km.fit(str(DATA), max_steps=STEPS)


def state_in(model_dir):
    return ModelDir.at(str(model_dir), {}, 5).latest()


def check_same(model_dir, undisturbed):
    state = state_in(model_dir)
    np.testing.assert_array_equal(state.centers, undisturbed.clusters())
    assert state.history == undisturbed.history()


def workers_of(address):
    """Return the pids of all workers and coordinators below a head."""
    names = ("ray::KMeansWorker", "ray::Coordinator")
    return {pid for pid, title in descendants(address.pid).items() if title.startswith(names)}


@pytest.mark.long(kind="resume")
def test_sigterm_saves_the_iterations_made_and_the_same_command_goes_on(
    address, tmp_path, undisturbed
):
    process = command(tmp_path / "m", address)
    wait_for_iteration(process, 5)
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=30)

    assert process.returncode == 143
    assert "stopped by SIGTERM" in text
    assert 5 <= state_in(tmp_path / "m").iteration < STEPS

    again = command(tmp_path / "m", address)
    again.communicate(timeout=120)
    assert again.returncode == 0
    check_same(tmp_path / "m", undisturbed)


def test_sigterm_without_ray_does_the_same(tmp_path, undisturbed):
    process = command(tmp_path / "m", "", "--num-workers=0")
    wait_for_iteration(process, 5)
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=30)

    assert process.returncode == 143
    assert "stopped by SIGTERM" in text
    assert state_in(tmp_path / "m").iteration >= 5
    command(tmp_path / "m", "", "--num-workers=0").communicate(timeout=120)
    check_same(tmp_path / "m", undisturbed)


@pytest.mark.long(kind="detached")
def test_a_detached_fit_outlives_its_driver_and_the_same_command_follows_it(
    address, tmp_path, undisturbed
):
    process = command(tmp_path / "m", address, "--detached", "--save-checkpoints-steps=1")
    wait_for_iteration(process, 5)
    process.kill()
    process.communicate()
    seen = state_in(tmp_path / "m").iteration

    assert comes_true(lambda: state_in(tmp_path / "m").iteration > seen + 2)
    follower = command(tmp_path / "m", address, "--detached")
    text, _ = follower.communicate(timeout=120)

    assert follower.returncode == 0
    assert "iteration=1 " in text  # it is told all, from the begin
    check_same(tmp_path / "m", undisturbed)


UNPLACED = """
import sys
from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.on_ray import driver
from ray_kmeans.store.model_dir import ModelDir

lasting, nodes = driver._lasting_node, ["01" * 28]
driver._lasting_node = lambda here: nodes.pop() if nodes else lasting(here)
ModelDir.is_local = False
address, data, model_dir = sys.argv[1:]
config = RunConfig(num_workers=2, ray_address=address, progress=False, detached=True)
KMeansClustering(4, model_dir, use_mini_batch=False, config=config).fit(data, max_steps=3)
print("nodes left:", len(nodes))
"""


@pytest.mark.long(kind="detached")
def test_a_coordinator_for_a_node_that_ray_does_not_know_yet_is_placed_anew(address, tmp_path):
    """Ray's nodes hear of each other late, and a detached fit must not live on the head's."""
    done = subprocess.run(
        [sys.executable, "-c", UNPLACED, address, str(DATA), str(tmp_path / "m")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "nodes left: 0" in done.stdout
    assert "not schedulable" in done.stderr
    assert state_in(tmp_path / "m").iteration == 3


@pytest.mark.long(kind="detached")
def test_a_second_fit_on_the_same_directory_is_refused_with_its_owners_name(address, tmp_path):
    process = command(tmp_path / "m", address, train=LONG)
    wait_for_iteration(process, 3)
    second = command(tmp_path / "m", address, train=LONG)
    text, _ = second.communicate(timeout=90)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)

    assert second.returncode == 1
    assert f"fit of {K} clusters" in text


@pytest.mark.long(kind="detached")
def test_who_follows_a_detached_fit_must_ask_for_the_same(address, tmp_path):
    process = command(tmp_path / "m", address, "--detached", train=LONG)
    wait_for_iteration(process, 3)
    other = command(tmp_path / "m", address, "--detached", "--random-seed=9", train=LONG)
    text, _ = other.communicate(timeout=90)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)

    assert other.returncode == 2
    assert "with other parameters" in text
    assert process.returncode == 143
    assert comes_true(lambda: not workers_of(address))


def test_what_cannot_be_detached_is_refused(tmp_path):
    X = np.zeros((50, 2), np.float32)
    with pytest.raises(ConfigError, match="needs Ray"):
        RunConfig(num_workers=0, detached=True)
    km = KMeansClustering(2, str(tmp_path), config=RunConfig(num_workers=1, detached=True))
    with pytest.raises(ConfigError, match="iterator"):
        km.fit(iter([X]))
    with pytest.raises(ConfigError, match="monitors"):
        km.fit(X, monitors=[_Looker()])


class _Looker:
    def begin(self, state):
        """Look on."""

    def after_step(self, state):
        return False

    def end(self, state):
        """Look on."""
