"""A head that keeps what it knows outside is killed and comes back; a detached fit goes on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.demo import DATA
from ray_kmeans.store.model_dir import ModelDir
from tests.support.ray_runs import bits, comes_true, descendants
from tests.support.servers import BIN, end, free_port, s3_server

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
K = 60
STEPS = 100
PARAMS = {"use_mini_batch": True, "random_seed": 3}
LIMITS = {"steps": STEPS, "batch_size": 1000}


NODE = """
import sys
from ray._private.node import Node
from ray._private.parameter import RayParams
params = RayParams(gcs_address={address!r}, node_ip_address="127.0.0.1", num_cpus=3,
                   temp_dir={place!r}, object_store_memory=100 * 2**20)
node = Node(params, head=False, shutdown_at_exit=True, spawn_reaper=False)
print("Ray runtime started", flush=True)
sys.stdin.read()
"""


class Cluster:
    """A head without workers' room and one other node, each with a folder of its own."""

    def __init__(self, place, storage):
        self.place, self.storage, self.port = Path(place), storage, free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.heads = 0
        self.head = self.start_head()
        self.node = self.start_node()

    def start_node(self):
        """Start the other node; `ray start` makes none on loopback, so by what it calls."""
        with (self.place / "node.log").open("w") as log:
            code = NODE.format(address=self.address, place=str(self.place / "node"))
            node = subprocess.Popen(
                [sys.executable, "-c", code],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.wait_for("node")
        return node

    def wait_for(self, name):
        log = self.place / f"{name}.log"
        assert comes_true(lambda: "Ray runtime started" in log.read_text(), 120), log.read_text()

    def start_head(self):
        self.heads += 1
        ports = [f"--port={self.port}", f"--ray-client-server-port={free_port()}"]
        return self.start(f"head{self.heads}", ["--head", *ports, "--num-cpus=0"], **self.storage)

    def start(self, name, options, **environment):
        folder = self.place / name
        log = self.place / f"{name}.log"
        process = subprocess.Popen(
            [
                *(BIN / "ray", "start", "--block", "--node-ip-address=127.0.0.1"),
                *(f"--temp-dir={folder}", f"--object-store-memory={100 * 2**20}"),
                *(["--include-dashboard=false"] if "--head" in options else []),
                *(f"--dashboard-agent-listen-port={free_port()}", *options),
            ],
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
        )
        self.wait_for(name)
        return process

    def kill_head(self):
        """End all processes of the head's node at once, as where its machine goes."""
        for pid in [*descendants(self.head.pid), self.head.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.head.wait()

    def processes(self):
        titles = ("ray::KMeansWorker", "ray::Coordinator")
        return {
            pid: title
            for pid, title in descendants(self.node.pid).items()
            if title.startswith(titles)
        }


@contextmanager
def redis():
    if not shutil.which("redis-server"):
        pytest.skip("redis-server is not installed")
    port = free_port()
    with tempfile.TemporaryDirectory() as place:
        server = subprocess.Popen(
            ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--dir", place],
            stdout=subprocess.DEVNULL,
        )
        try:
            yield {"RAY_REDIS_ADDRESS": f"127.0.0.1:{port}"}
        finally:
            end(server)


@contextmanager
def rocksdb():
    with tempfile.TemporaryDirectory() as place:
        yield {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": place}


@contextmanager
def cluster(storage):
    with ExitStack() as stack:
        environment = stack.enter_context(storage())
        # Sockets lie there, whose paths are short; what Ray forgets there is not waited for.
        place = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="rk", dir="/tmp", ignore_cleanup_errors=True)
        )
        here = Cluster(place, environment)
        try:
            yield here
        finally:
            end(here.node)
            end(here.head)


def command(url, options, address):
    """Start the detached fit, or follow it."""
    code = (
        "import sys; from ray_kmeans import KMeansClustering, RunConfig\n"
        f"config = RunConfig(num_workers=2, detached=True, cache='source', progress=False,\n"
        f"    ray_address={address!r}, save_checkpoints_steps=1, storage_options={options!r})\n"
        f"km = KMeansClustering({K}, {url!r}, config=config, **{PARAMS!r})\n"
        f"km.fit({str(DATA)!r}, **{LIMITS!r})\n"
        "print('ended', len(km.history()))\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.long
@pytest.mark.parametrize("storage", [pytest.param(rocksdb, marks=pytest.mark.long), redis])
def test_a_detached_fit_outlives_a_head_that_is_killed_and_comes_back(storage, tmp_path):
    here = RunConfig(num_workers=0, progress=False)
    KMeansClustering(K, str(tmp_path / "here"), config=here, **PARAMS).fit(str(DATA), **LIMITS)
    expected = ModelDir.at(str(tmp_path / "here"), {}, 5).latest()
    with s3_server() as options, cluster(storage) as there:
        store = ModelDir.at("s3://bucket/model", options, 5)

        def iteration():
            state = store.latest()
            return -1 if state is None else state.iteration

        first = command("s3://bucket/model", options, there.address)
        try:
            assert comes_true(lambda: iteration() >= 3 or first.poll() is not None, 120)
            # Its title changes with each call, so that one look may miss it.
            assert comes_true(lambda: "Coordinator" in str(there.processes()), 10)
            there.kill_head()
            first.kill()
            seen = iteration()
            assert seen < expected.iteration
            assert comes_true(lambda: iteration() > seen + 1, 60), "it waits for the head"
            there.head = there.start_head()
            follower = command("s3://bucket/model", options, there.address)
            said, _ = follower.communicate(timeout=240)
        finally:
            first.kill()
            first.communicate()

        assert follower.returncode == 0, said
        assert f"ended {expected.iteration}" in said
        assert bits(store.latest()) == bits(expected)
        assert comes_true(lambda: not there.processes())
