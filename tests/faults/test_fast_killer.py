"""A killer that goes round and leaves time for an iteration now and then changes no bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.demo import DATA
from ray_kmeans.on_ray import death_counts
from ray_kmeans.on_ray.death_counts import CoordinatorLosses, ShardLosses
from tests.support.ray_runs import bits, descendants, state_of
from tests.support.servers import lasting_ray

ROOT = Path(__file__).parents[2]
K = 60
STEPS = 20
PARAMS = {"use_mini_batch": False, "initial_clusters": "kmeans_plus_plus"}
BETWEEN_S = 1.5, 4.0
TITLES = "ray::KMeansWorker", "ray::Coordinator"
LONGEST_S = 280


def victims(head):
    """Return the pids of all workers and coordinators below a head."""
    below = descendants(head.pid).items()
    return sorted(pid for pid, title in below if title.startswith(TITLES))


def kill_around(process, head, draw):
    """Kill a random worker or coordinator every few seconds until the process ends; count them."""
    killed, end = 0, time.monotonic() + LONGEST_S
    while process.poll() is None and time.monotonic() < end:
        try:
            process.wait(draw.uniform(*BETWEEN_S))
        except subprocess.TimeoutExpired:
            there = victims(head)
            if there:
                os.kill(draw.choice(there), signal.SIGKILL)
                killed += 1
    return killed


@pytest.mark.ray
@pytest.mark.long
def test_a_fit_under_a_killer_of_random_processes_ends_with_the_same_bits(tmp_path):
    here = RunConfig(num_workers=0, progress=False)
    KMeansClustering(K, str(tmp_path / "here"), config=here, **PARAMS).fit(
        str(DATA), max_steps=STEPS
    )

    with lasting_ray(4) as (head, address):
        flags = ["--no-use-mini-batch", "--initial-clusters=kmeans_plus_plus", "--cache=source"]
        flags += [f"--max-steps={STEPS}", "--num-workers=3", "--log-step-count-steps=1"]
        command = [sys.executable, "jobs/fit.py", str(DATA), str(tmp_path / "there")]
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(
                [*command, f"--num-clusters={K}", *flags],
                cwd=ROOT,
                env={**os.environ, "RAY_ADDRESS": address, "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
            )
            killed = kill_around(process, head, Random(0))
            process.kill()

    said = (tmp_path / "log").read_text()
    assert process.returncode == 0, said
    assert killed, "it ended before anything was killed"
    assert bits(state_of(tmp_path / "there")) == bits(state_of(tmp_path / "here"))


def test_deaths_of_a_coordinator_are_counted_from_the_last_checkpoint_on():
    now = [0.0]
    deaths = CoordinatorLosses([], lambda: now[0])

    for number in range(50):  # each one gets on
        deaths.add([f"checkpoint {number}"])
        assert deaths.count == 1
        now[0] += death_counts.STILL_S
        assert not deaths.is_hopeless(True)

    for count in range(2, death_counts.MOST + 3):
        deaths.add(["checkpoint 49"])
        assert deaths.count == count
        assert deaths.is_hopeless(True) == (count > death_counts.MOST)
        assert deaths.is_hopeless(False) == (count > death_counts.MOST)
    deaths.add(["checkpoint 50"])
    for _ in range(50):  # one after the other in no time
        deaths.add(["checkpoint 50"])
        assert not deaths.is_hopeless(False)
    now[0] += death_counts.STILL_S
    assert deaths.is_hopeless(False)


def test_a_shard_that_kills_whoever_reads_it_ends_a_run_and_a_killer_that_goes_round_does_not():
    now = [0.0]

    deaths = ShardLosses()
    for number in range(1, death_counts.MOST_LOST + 2):  # the others live
        deaths.add([1])
        assert deaths.is_hopeless(1, False) == (number > death_counts.MOST_LOST)
        assert deaths.is_hopeless(1, True) == (number > death_counts.MOST)

    deaths = ShardLosses(lambda: now[0])
    for number in range(200):
        deaths.add([number % 3])
        assert not deaths.is_hopeless(number % 3, False)
    for _ in range(death_counts.MOST_LOST - 1):  # one of two that are there is hit again and again
        deaths.add([1])
        assert not deaths.is_hopeless(1, False)
    deaths.add([0])
    now[0] += death_counts.STILL_S  # and nobody has answered since
    assert deaths.is_hopeless(0, False)
    deaths.answer([2])
    assert not deaths.is_hopeless(0, False)
