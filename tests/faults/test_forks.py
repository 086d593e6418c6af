"""What is forked from a process that computed can compute too, or says at once why not."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.errors import ConfigError, StoreError
from ray_kmeans.io.publish import Place
from ray_kmeans.process import forks
from ray_kmeans.store.lease import Lease, Times
from tests.support.servers import s3_server

X = np.random.default_rng(4).normal(size=(40_000, 8)).astype(np.float32)
LIMIT_S = 60.0


def forked(call):
    """Call it in a forked child; return what it returned, or the name and text of its error."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            told = call()
        except BaseException as error:
            told = [type(error).__name__, str(error)]
        os.write(writing, json.dumps(told).encode())
        os._exit(0)
    os.close(writing)
    end = time.monotonic() + LIMIT_S
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        if time.monotonic() > end:
            os.kill(child, 9)
            os.waitpid(child, 0)
            pytest.fail("the child hangs")
        time.sleep(0.01)
    with open(reading) as told:
        return json.load(told)


def clustering(model_dir, **more):
    config = RunConfig(num_workers=0, cpus_per_worker=2, progress=False, **more)
    return KMeansClustering(5, str(model_dir), X[:5], use_mini_batch=False, config=config)


def found(model_dir, **more):
    """Fit and label; return centers and labels."""
    km = clustering(model_dir, **more).fit(X, steps=3)
    labels = km.predict(X, as_iterable=False)["cluster_idx"]
    return [digest(km.clusters()), digest(labels)]


def digest(values):
    """Name an array by its bytes: a pipe holds little."""
    return hashlib.sha256(values.tobytes()).hexdigest()


def test_a_child_fits_and_labels_as_its_parent_did(tmp_path):
    expected = found(tmp_path / "parent")

    assert forked(lambda: found(tmp_path / "child")) == expected
    assert forked(lambda: forked(lambda: found(tmp_path / "grandchild"))) == expected
    assert not list(tmp_path.glob("*/lease/*"))


def test_a_pool_of_forked_processes_fits_as_its_parent_did(tmp_path):
    expected = found(tmp_path / "parent")

    with multiprocessing.get_context("fork").Pool(2) as pool:
        some = pool.map_async(found, [tmp_path / name for name in "abc"]).get(LIMIT_S)

    assert some == [expected] * 3


def test_an_object_that_its_parent_used_is_of_use_in_a_child(tmp_path):
    km = clustering(tmp_path).fit(X, steps=2)
    expected = digest(km.predict(X, as_iterable=False)["cluster_idx"])

    assert forked(lambda: digest(km.predict(X, as_iterable=False)["cluster_idx"])) == expected
    assert forked(lambda: km.fit(X, steps=1).history()[-1].iteration) == 3


def test_a_child_reads_and_writes_the_store_that_its_parent_did():
    with s3_server() as options:
        place = Place("s3://bucket/model", options)
        expected = found(place.url, storage_options=options)
        assert place.fs.exists(place.path)

        assert forked(lambda: found("s3://bucket/child", storage_options=options)) == expected
        assert forked(lambda: place.fs.exists(place.path))
        assert place.fs.exists(place.path)


def test_a_child_of_a_process_that_is_in_the_middle_of_a_fit_fits(tmp_path):
    """Pools work, a lease is held and loops are compiled while the child is forked."""
    expected = found(tmp_path / "before")
    ended = threading.Event()

    def fit_on():
        number = 0
        while not ended.is_set():
            found(tmp_path / f"in a thread {number}")
            number += 1

    thread = threading.Thread(target=fit_on)
    thread.start()
    try:
        for number in range(6):
            assert forked(lambda n=number: found(tmp_path / f"child {n}")) == expected
    finally:
        ended.set()
        thread.join()


COMPILING = """
import os, sys, threading, time
import numpy as np
from numba.core import event
from ray_kmeans import KMeansClustering, RunConfig

def fit(place):
    x = np.random.default_rng(0).normal(size=(5_000, 4)).astype(np.float32)
    config = RunConfig(num_workers=0, cpus_per_worker=2, progress=False)
    KMeansClustering(3, f"{sys.argv[1]}/{place}", x[:3], use_mini_batch=False, config=config).fit(x)

compiling = threading.Event()

class Heard(event.Listener):
    def on_start(self, told):
        compiling.set()
    def on_end(self, told):
        pass

event.register("numba:compile", Heard())
thread = threading.Thread(target=fit, args=("parent",))
thread.start()
compiling.wait()
child = os.fork()
if child == 0:
    fit("child")
    os._exit(0)
print(os.waitpid(child, 0)[1])
thread.join()
"""


def test_a_child_that_is_forked_while_loops_are_compiled_fits(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-c", COMPILING, str(tmp_path)]

    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=5 * LIMIT_S
    )

    assert (done.stdout, done.returncode) == ("0\n", 0), done.stderr


def test_a_child_does_not_save_by_the_lease_of_its_parent(tmp_path):
    lease = Lease(Place(str(tmp_path), {}), "me", "fit")
    with lease:
        files = [path.read_bytes() for path in tmp_path.glob("lease/*")]

        name, text = forked(lease.check)
        forked(lease.release)

        assert name == StoreError.__name__
        assert f"is written to by process {os.getpid()}, from which this one was forked" in text
        assert [path.read_bytes() for path in tmp_path.glob("lease/*")] == files
        lease.check()


def test_a_child_that_fits_where_its_parent_does_is_told_so(tmp_path):
    with Lease(Place(str(tmp_path), {}), "me", "fit", Times(beat_s=0.1)):
        name, text = forked(lambda: found(tmp_path))

    assert name == "BusyError"
    assert f"fit of process {os.getpid()}" in text


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_child_of_a_process_that_uses_ray_says_so_at_once(tmp_path):
    expected = found(tmp_path / "parent")

    def on_ray():
        clustering(tmp_path / "child").set_params(config=RunConfig(num_workers=1)).fit(X)

    began = time.monotonic()
    name, text = forked(on_ray)
    assert time.monotonic() - began < 10
    assert forked(lambda: forked(on_ray))[0] == ConfigError.__name__
    assert name == ConfigError.__name__
    assert f"forked from process {os.getpid()}, whose connection to Ray it cannot use" in text
    assert forked(lambda: found(tmp_path / "without")) == expected


def test_a_child_of_a_process_that_used_a_gpu_says_so(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)

    name, text = forked(lambda: forks.check("cuda"))

    assert name == ConfigError.__name__
    assert "which used the GPU" in text
    forks.check("cuda")


def test_a_child_of_a_process_that_read_a_delta_table_says_so(tmp_path):
    deltalake = pytest.importorskip("deltalake")
    import pyarrow as pa

    from ray_kmeans import open_source

    place = str(Path(tmp_path) / "table")
    deltalake.write_deltalake(place, pa.table({"v": X[:9, 0]}))

    name, text = forked(lambda: open_source(place).describe())

    assert name == ConfigError.__name__
    assert "Forked process detected" in text
    assert "\n" not in text
