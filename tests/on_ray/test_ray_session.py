"""A session on Ray: bytes are read once, workers may die or join, and no bit differs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ray_kmeans import KMeansClustering, RunConfig, open_session, open_source
from ray_kmeans.data.formats.npy import HEADER_BYTES
from ray_kmeans.engine.worker import ShardWorker
from ray_kmeans.on_ray.calls import LagRule
from ray_kmeans.on_ray.pool import RayPool
from tests.support.faults import ONWARD, faulty
from tests.support.files import as_npy
from tests.support.labelled_files import files_of
from tests.support.processes import is_alive
from tests.support.ray_runs import (
    bits,
    comes_true,
    descendants,
    fit_processes,
    nothing_stays,
    state_of,
    write_real_data,
)
from tests.support.stores import s3_at

__all__ = ["nothing_stays"]

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
HERE = RunConfig(num_workers=0, progress=False)
FULL = {"use_mini_batch": False}
WAYS = {
    "Lloyd": (12, FULL | {"initial_clusters": "kmeans_plus_plus"}, {"steps": 4}),
    "k-means||": (5, FULL | {"initial_clusters": "kmeans_parallel"}, {"steps": 3}),
    "mini-batch": (9, {"initial_clusters": "random"}, {"steps": 5, "batch_size": 700}),
}


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return write_real_data(tmp_path_factory.mktemp("real") / "data")


@pytest.fixture
def nobody_lags(monkeypatch):
    """Let no worker take the rows of another one that lives, however busy this machine is."""
    monkeypatch.setattr(RayPool, "lag_rule", LagRule(least_s=1000.0))


def on_ray(workers, **options):
    return RunConfig(num_workers=workers, cpus_per_worker=1, progress=False, **options)


def fit(way, x, model_dir):
    """Fit in a way; return the model and its bits. The machines are those of a session, or here."""
    k, params, arguments = WAYS[way]
    km = KMeansClustering(k, str(model_dir), random_seed=3, config=HERE, **params)
    km.fit(x, **arguments)
    return km, bits(state_of(model_dir))


def labelled(km, x, output):
    """Label the rows; return all files."""
    km.label(x, str(output))
    found = files_of(str(output))
    return {name: found[name] for name in found if not name.startswith("_lease/")}


@pytest.mark.usefixtures("ray_cluster", "nobody_lags", "nothing_stays")
def test_five_fits_and_labels_read_every_byte_of_the_rows_once(s3, tmp_path):
    rows = np.random.default_rng(4).normal(size=(20_000, 8)).astype(np.float32)
    folder, asked = uuid.uuid4().hex, []
    for number, part in enumerate(np.array_split(rows, 3)):
        s3.put(f"{folder}/{number}.npy", as_npy(part))

    def note(request):
        asked.append(request)
        return ONWARD

    with faulty(note, s3.endpoint) as endpoint:
        data = open_source(f"s3://bucket/{folder}", storage_options=s3_at(endpoint).options)
        with open_session(data, config=on_ray(2)) as session:
            for k in (6, 3, 9, 2, 5):
                km = KMeansClustering(k, str(tmp_path / str(k)), config=HERE, **FULL)
                session.evaluate(session.fit(km, steps=3))
            session.label(km, str(tmp_path / "out"))

    for number, part in enumerate(np.array_split(rows, 3)):
        read = np.zeros(len(as_npy(part)), int)
        for request in asked:
            method, path, *span = request.split()
            if method == "GET" and f"{folder}/{number}.npy" in path:
                first, last = map(int, span[0].removeprefix("bytes=").split("-"))
                read[first : last + 1] += last + 1 != HEADER_BYTES  # a look at the header
        assert set(read[128:]) == {1}  # where the rows begin


class Noted:
    """Rows that note in a folder how often each block is read, by whichever process."""

    only_here = False

    def __init__(self, uri, notes):
        self.inner, self.notes = open_source(uri), str(notes)
        self.files, self.columns = self.inner.files, self.inner.columns

    def describe(self):
        return self.inner.describe()

    def read(self, blocks):
        for block, rows in self.inner.read(blocks):
            Path(self.notes, f"{block.index}-{uuid.uuid4().hex}").touch()
            yield block, rows

    def columns_of(self, block, names):
        return self.inner.columns_of(block, names)

    def times_read(self):
        return Counter(int(name.split("-")[0]) for name in os.listdir(self.notes))


class Deaths:
    """Stops a worker of a session just before some call, and kills it while the call waits."""

    def __init__(self, session, method, victim, call=1):
        self.pool, self.method, self.victim, self.call = session._shared.pool, method, victim, call
        self.asked = 0
        self.lost: list[int] = []

    def __enter__(self):
        for name in ("ask_watched", "total", "remember"):
            setattr(self.pool, name, self.watched(name))
        return self

    def __exit__(self, *error):
        for name in ("ask_watched", "total", "remember"):
            delattr(self.pool, name)
        if error[0] is None:
            assert self.lost, f"{self.method.__name__} was not called"

    def watched(self, name):
        real = getattr(self.pool, name)

        def call(*args, **kwargs):
            self.asked += (args[1] if name == "ask_watched" else args[0]) is self.method
            if self.asked == self.call and not self.lost:
                self.lost = kill_within(self.pool, self.victim)
            return real(*args, **kwargs)

        return call


def kill_within(pool, victim, seconds=0.5):
    """Stop the worker of a shard, and kill it somewhat later; return the blocks that it holds."""
    found = RayPool.ask_watched(pool, None, ShardWorker.where)
    pid = found[victim][1]
    os.kill(pid, signal.SIGSTOP)
    threading.Timer(seconds, os.kill, (pid, signal.SIGKILL)).start()
    mine = [shard for shard, (_, of) in enumerate(found) if of == pid]
    return [block.index for shard in mine for block in pool._shards[shard]]


@pytest.mark.long
@pytest.mark.usefixtures("ray_cluster", "nobody_lags", "nothing_stays")
def test_workers_killed_between_and_within_calls_cost_their_rows_and_no_bit(uri, tmp_path):
    alone = {way: fit(way, uri, tmp_path / "alone" / way)[1] for way in WAYS}
    km, _ = fit("Lloyd", uri, tmp_path / "alone" / "Lloyd")
    files = labelled(km, uri, tmp_path / "files")
    (tmp_path / "notes").mkdir()
    source = Noted(uri, tmp_path / "notes")
    expected = Counter(block.index for block in source.describe().blocks)
    points = [
        ("Lloyd", ShardWorker.begin_task, 1, 0),  # between two calls
        ("Lloyd", ShardWorker.weigh, 3, 1),
        ("k-means||", ShardWorker.join, 1, 2),
        ("Lloyd", ShardWorker.sweep, 2, 0),
        ("mini-batch", ShardWorker.sweep_batches, 3, 1),
    ]

    with open_session(source, config=on_ray(3)) as session:
        fit("k-means||", session, tmp_path / "first")
        for number, (way, method, call, victim) in enumerate(points):
            with Deaths(session, method, victim, call) as deaths:
                assert fit(way, session, tmp_path / str(number))[1][:3] == alone[way][:3]
            expected.update(deaths.lost)
            assert source.times_read() == expected
        with Deaths(session, ShardWorker.write_labels, 2) as deaths:
            km.label(session, str(tmp_path / "out"))
        expected.update(deaths.lost)
        assert session.evaluate(km) == km.evaluation(uri)
    assert source.times_read() == expected
    names = [name for name in files if name.startswith("part-")]
    found = files_of(str(tmp_path / "out"))
    assert {name.split("-")[-1]: found[name] for name in found if "part-" in name} == {
        name.split("-")[-1]: files[name] for name in names
    }


@pytest.mark.usefixtures("ray_cluster", "nothing_stays")
def test_workers_that_join_are_used_by_the_next_calls(uri, tmp_path):
    expected = {way: fit(way, uri, tmp_path / "alone" / way)[1] for way in WAYS}
    config = on_ray(1, max_workers=3)

    with open_session(uri, config=config) as session:
        seen, fits = set(), 0

        def all_work():
            nonlocal fits
            way = list(WAYS)[fits % len(WAYS)]
            fits += 1
            assert fit(way, session, tmp_path / f"{fits}")[1] == expected[way]
            seen.add(len(set(session._shared.pool.ask(ShardWorker.where))))
            return 3 in seen

        assert comes_true(all_work, 90)


DRIVER = """
import sys, time
from ray_kmeans import KMeansClustering, RunConfig, open_session

config = RunConfig(num_workers=2, cpus_per_worker=1, progress=False)
with open_session(sys.argv[1], config=config) as session:
    km = KMeansClustering(3, sys.argv[2], use_mini_batch=False, config=config)
    session.fit(km, steps=2)
    print("fitted", flush=True)
    time.sleep(600)
"""


@pytest.mark.long
def test_a_killed_driver_leaves_no_worker_behind(uri, tmp_path):
    with tempfile.TemporaryDirectory(prefix="rk", dir="/tmp") as place:
        driver = subprocess.Popen(
            [sys.executable, "-c", DRIVER, uri, str(tmp_path / "model")],
            cwd=ROOT,
            env={**os.environ, "RAY_TMPDIR": place, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert driver.stdout.readline() == "fitted\n"
        below, workers = descendants(driver.pid), fit_processes(driver.pid)
        assert len(workers) == 2
        driver.kill()
        gone = comes_true(lambda: not any(is_alive(pid) for pid in workers), 60)
        for pid in below:  # Ray's own agents stay for a while
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        driver.communicate()
        assert comes_true(lambda: not any(is_alive(pid) for pid in below), 60)
    assert gone
