"""How far the workers are is told while they are at it, block by block, never backwards."""

from __future__ import annotations

import time

import numpy as np
import pytest
import ray

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.data.opening import open_source
from ray_kmeans.data.sharding import split
from ray_kmeans.engine.options import WorkerOptions, WorkerSetup, Workload
from ray_kmeans.engine.pool import LocalPool
from ray_kmeans.observe import events as ev
from ray_kmeans.on_ray import driver, progress_polls
from ray_kmeans.on_ray.calls import Call
from ray_kmeans.store.labelled import LabelledOutput
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.workflows import label
from tests.support.files import in_blocks

X = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)


class Slow:
    """Rows that take their time, block by block."""

    only_here = False
    files = ()

    def __init__(self, x, seconds):
        self.inner, self.seconds = in_blocks(x, 10), seconds

    def describe(self):
        return self.inner.describe()

    def read(self, blocks):
        for each in self.inner.read(blocks):
            time.sleep(self.seconds)
            yield each


@pytest.mark.parametrize("shards", [1, 4])
def test_a_local_pool_tells_of_each_block(shards):
    source = in_blocks(X, 10)
    pool = LocalPool(source, split(source.describe().blocks, shards), WorkerSetup(threads=2))
    told = []

    pool.read(told.append)

    assert sorted(set(told)) == list(range(10, 301, 10))
    assert told == sorted(told)


class Writer:
    def write(self, number, first_row, columns, tables):
        return number


def test_and_so_it_does_while_labels_are_written():
    source = in_blocks(X, 10)
    pool = LocalPool(source, split(source.describe().blocks, 2))
    pool.read()
    told = []

    pool.write_labels(X[:4], Writer(), (), moved=told.append)

    assert sorted(set(told)) == list(range(10, 301, 10))
    assert told == sorted(told)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_pool_on_ray_is_looked_at_while_its_workers_read():
    source = Slow(X, 0.1)
    shards = split(source.describe().blocks, 2)
    options = WorkerOptions(0.5, worker_start_timeout_s=60)
    pool = driver.open_pool(
        Workload(source, shards, options), "squared_euclidean", lambda event: None
    )
    pool.poll_s = 0.05
    told = []
    try:
        assert pool.read(told.append).rows == 300
    finally:
        pool.close()

    assert told == sorted(told)
    assert told[-1] == 300
    assert len(set(told)) > 5  # two would be told without a look


class Host:
    """Answers a look at once, unless it is to be slow."""

    def __init__(self, rows):
        self._answer = ray.put(rows)
        self.rows_done = self

    def options(self, concurrency_group):
        return self

    def remote(self):
        return self._answer


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_two_hosts_at_the_same_work_count_for_no_more_than_is_left():
    told = []
    found = progress_polls.ProgressPolls(told.append, [100, 100])
    pending = {name: Call(Host(80), (1,), []) for name in ("slow", "helper")}

    for _ in range(2):
        found.poll(pending)
        found.tell({1}, pending)
        time.sleep(0.05)
    found.tell({1}, {})  # the calls were given up: it does not go backwards

    assert told == [100, 200, 200]


def test_the_second_pass_by_cluster_is_a_phase_of_all_rows(tmp_path, monkeypatch):
    here, seen = RunConfig(num_workers=0, progress=False), []
    monkeypatch.setattr(label, "LogLines", lambda: seen.append)
    KMeansClustering(3, str(tmp_path / "m"), use_mini_batch=False, config=here).fit(X, max_steps=2)
    state = ModelDir.at(str(tmp_path / "m"), {}, 5).fitted()
    output = LabelledOutput.at(str(tmp_path / "out"), {})

    label.write_labels(state, open_source(X), output, here, model_dir="m", by_cluster=True)

    assert ev.PhaseBegan(ev.Phase.GATHERING, 300, "rows") in seen
    assert seen[-1] == ev.PhaseMoved(ev.Phase.GATHERING, 300)
