"""Real servers on loopback, started by the tests that need them and ended by pid."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random

BIN = Path(sys.executable).parent


PORTS = itertools.cycle(Random(os.getpid()).sample(range(20_000, 32_000), 12_000))
"""Below those that the system gives to whoever asks for any, in an order of this process's own: a
port stays free until the server that is told it has started."""


def free_port() -> int:
    """Return a port that this process was not given before."""
    for port in PORTS:
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("unreachable")


def wait_for(url: str, process: subprocess.Popen, seconds: float) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(url, timeout=2)
        except urllib.error.HTTPError:
            return  # it answers
        except OSError:
            assert process.poll() is None, f"the server for {url} ended: {process.returncode}"
            assert time.monotonic() < end, f"no answer from {url} in {seconds} s"
            time.sleep(0.05)
        else:
            return


def end(process: subprocess.Popen, seconds: float = 20) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def s3_server():
    """Yield storage options for an S3 server; its bucket is called `bucket`."""
    port = free_port()
    process = subprocess.Popen(
        [BIN / "moto_server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        endpoint = f"http://127.0.0.1:{port}"
        wait_for(endpoint, process, 30)
        options = {
            "key": "testing",
            "secret": "testing",
            "client_kwargs": {"endpoint_url": endpoint, "region_name": "us-east-1"},
        }
        import s3fs

        s3fs.S3FileSystem(**options).call_s3("create_bucket", Bucket="bucket")
        yield options
    finally:
        end(process)


@contextmanager
def ray_head(num_cpus: int, environment: dict[str, str]):
    """Yield the address of the job server of a Ray head with dashboard; jobs see `environment`."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="rk", dir="/tmp") as place:
        process = subprocess.Popen(
            [
                *(BIN / "ray", "start", "--head", "--block", f"--temp-dir={place}"),
                *("--node-ip-address=127.0.0.1", f"--port={free_port()}"),
                *("--dashboard-host=127.0.0.1", f"--dashboard-port={port}"),
                f"--dashboard-agent-listen-port={free_port()}",
                f"--ray-client-server-port={free_port()}",
                *(f"--num-cpus={num_cpus}", f"--object-store-memory={200 * 2**20}"),
            ],
            # A job runs with the head's PATH, so this Python must come first there.
            env={**os.environ, **environment, "PATH": f"{BIN}:{os.environ['PATH']}"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        address = f"http://127.0.0.1:{port}"
        try:
            wait_for(f"{address}/api/version", process, 120)
            yield address
        finally:
            end(process)


@contextmanager
def lasting_ray(num_cpus: int):
    """Yield the process and the address of a Ray that outlives drivers."""
    with tempfile.TemporaryDirectory(prefix="rk", dir="/tmp") as place:
        code = (
            "import ray, sys\n"
            f"ray.init(num_cpus={num_cpus}, include_dashboard=False, _temp_dir={place!r},\n"
            "         object_store_memory=200 * 2**20, log_to_driver=False)\n"
            "print(ray.get_runtime_context().gcs_address, flush=True)\n"
            "sys.stdin.read()\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.stdin.close()
            process.wait(60)
