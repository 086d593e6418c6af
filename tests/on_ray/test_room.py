"""A run that Ray can never place is refused in seconds; what may still get room is waited for."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from ray_kmeans.demo import DATA
from ray_kmeans.on_ray import capacity
from tests.support.ray_runs import comes_true
from tests.support.servers import BIN, end, free_port, lasting_ray

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
LONGEST_S = 60
"""Of a refusal here, most of which is the start of processes; 300 s was the wait."""
AUTOSCALED = {
    "cluster_name": "growing",
    "max_workers": 2,
    "provider": {"type": "fake_multinode"},
    "head_node_type": "ray.head.default",
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
        "small": {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 2},
    },
    **{f"{each}_node{'s'[: each == 'worker']}": {} for each in ("head", "worker")},
    **{f"{each}_start_ray_commands": [] for each in ("head", "worker")},
    **{f"{each}setup_commands": [] for each in ("", "head_", "worker_")},
    **{key: [] for key in ("initialization_commands", "cluster_synced_files")},
    **{key: [] for key in ("rsync_exclude", "rsync_filter")},
    **{key: {} for key in ("auth", "docker", "file_mounts")},
    "upscaling_speed": 1.0,
    "idle_timeout_minutes": 5,
    "file_mounts_sync_continuously": False,
}


@pytest.fixture(scope="module")
def address():
    """A cluster of 2 CPUs and no autoscaler."""
    with lasting_ray(2) as (_, where):
        yield where


def command(address, *words):
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", "from ray_kmeans.cli import main; main()", *map(str, words)],
        env={**os.environ, "RAY_ADDRESS": address, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    return done, time.monotonic() - begin


REFUSED = {
    "too many": (
        ["--num-workers=3"],
        "3 workers of 1 CPU .* room for 2 .* at most 2 ",
    ),
    "too large": (["--num-workers=1", "--cpus-per-worker=8"], "1 worker of 8 CPU .* room for 0"),
    "too large by default": (["--cpus-per-worker=4"], "1 worker of 4 CPU .* lower cpus_per_worker"),
    "too many at least": (["--num-workers=9", "--min-workers=4"], "4 workers of 1 CPU"),
    "no GPU": (["--num-workers=1", "--backend=gpu"], "1 worker of 1 CPU and 1 GPU .* 0 GPU in all"),
}


@pytest.mark.long(kind="never placed")
@pytest.mark.parametrize("asked", REFUSED)
def test_what_can_never_be_placed_is_refused_in_seconds(asked, address, tmp_path):
    flags, says = REFUSED[asked]

    done, took = command(address, "fit", DATA, tmp_path / "m", "--num-clusters=3", *flags)

    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith("error: ")

    assert re.search(says, last), last
    assert took < LONGEST_S


@pytest.mark.long
def test_a_run_that_may_begin_with_what_there_is_begins(address, tmp_path):
    flags = [
        "--num-clusters=3",
        "--num-workers=9",
        "--min-workers=2",
        "--max-steps=2",
        "--worker-start-timeout-s=9",
    ]

    done, _ = command(address, "fit", DATA, tmp_path / "m", *flags)

    assert done.returncode == 0, done.stderr
    assert "workers have not started" in done.stderr


@pytest.mark.long
def test_cpus_that_others_use_now_may_become_free(address, tmp_path):
    hold = (
        "import ray, sys; ray.init(sys.argv[1], log_to_driver=False)\n"
        "@ray.remote(num_cpus=2)\n"
        "class Holder:\n"
        "    def hello(self): pass\n"
        "holder = Holder.remote(); ray.get(holder.hello.remote())\n"
        "print('held', flush=True); sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    flags = ["--num-clusters=3", "--num-workers=2", "--max-steps=2", "--worker-start-timeout-s=9"]
    try:
        assert holder.stdout.readline().strip() == "held"
        done, _ = command(address, "fit", DATA, tmp_path / "m", *flags)
    finally:
        holder.stdin.close()
        holder.wait(60)

    assert done.returncode == 1
    assert "2 of 2 workers did not start within worker_start_timeout_s=9" in done.stderr


@pytest.mark.long
def test_files_are_not_waited_for_where_no_cpu_is(tmp_path):
    with lasting_ray(0) as (_, where):
        words = ["--num-rows=9", "--num-features=2", "--num-clusters=1"]
        done, took = command(where, "make-dataset", tmp_path / "x", *words)

    assert done.returncode == 1
    assert "1 worker of 1 CPU can never be placed" in done.stderr
    assert took < LONGEST_S


def grows(address):
    """Return what a driver of this cluster takes for known of an autoscaler."""
    code = (
        "import ray, sys, time; ray.init(sys.argv[1], log_to_driver=False)\n"
        "from ray_kmeans.on_ray import capacity\n"
        "end = time.monotonic() + 60\n"
        "while capacity.can_grow() is None and time.monotonic() < end: time.sleep(0.2)\n"
        "print(capacity.can_grow())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, address],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=150,
        check=True,
    )
    return done.stdout.split()[-1]


@pytest.mark.long
@pytest.mark.parametrize("kind", ["none", "first", "none, second"])
def test_a_cluster_tells_whether_an_autoscaler_may_add_nodes(kind, tmp_path):
    configured = ["--autoscaling-config", str(tmp_path / "c.yaml")] if kind == "first" else []
    (tmp_path / "c.yaml").write_text(json.dumps(AUTOSCALED))
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="rk", dir="/tmp", ignore_cleanup_errors=True) as place:
        head = subprocess.Popen(
            [
                *(BIN / "ray", "start", "--head", "--block", f"--temp-dir={place}"),
                *("--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=1"),
                *("--include-dashboard=false", f"--object-store-memory={100 * 2**20}"),
                *(f"--ray-client-server-port={free_port()}", *configured),
            ],
            env={
                **os.environ,
                "RAY_enable_autoscaler_v2": str(int("second" in kind)),
                "RAY_FAKE_CLUSTER": str(int(kind == "first")),
                "RAY_OVERRIDE_NODE_ID_FOR_TESTING": "f" * 51 + "00000" if kind == "first" else "",
            },
            stdout=(tmp_path / "log").open("w"),
            stderr=subprocess.STDOUT,
        )
        try:
            log = tmp_path / "log"
            assert comes_true(lambda: "Ray runtime started" in log.read_text(), 90)
            assert grows(f"127.0.0.1:{port}") == str(kind == "first"), log.read_text()
        finally:
            end(head)


def test_where_nothing_is_known_of_an_autoscaler_nothing_is_refused(monkeypatch):
    monkeypatch.setattr(capacity, "_rooms", lambda cpus, gpus: [1])
    monkeypatch.setattr(capacity, "can_grow", lambda: None)

    capacity.check(5, 1, unknown_s=0.1)
