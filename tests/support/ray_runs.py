"""Fit in every way on workers of Ray, kill some, and compare the bits of the models."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.algorithm.stopping import StopRule
from ray_kmeans.data.opening import open_source
from ray_kmeans.data.sharding import split
from ray_kmeans.data.stream import open_batches
from ray_kmeans.demo import DATA
from ray_kmeans.engine.fit_loop import run_fit, run_stream
from ray_kmeans.engine.options import WorkerOptions, Workload
from ray_kmeans.engine.worker import ShardWorker
from ray_kmeans.observe import events as ev
from ray_kmeans.observe.monitors import EarlyStopping, Monitor, Monitors
from ray_kmeans.on_ray import driver
from ray_kmeans.on_ray.object_store import put
from ray_kmeans.on_ray.pool import RayPool
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.workflows import fit as runs
from ray_kmeans.workflows.parameters import FitParams
from tests.support.files import put_table, rows_of

K = 12


WORKERS = [1, 2, 3, 5]


def write_parquet(folder, rows, files=4, row_group=270):
    """Write rows to small files of uneven row groups, so that many workers have blocks."""
    for number, part in enumerate(np.array_split(rows, files)):
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), rows.shape[1])
        table = pa.table({"v": vectors})
        put_table(folder, f"{number}.parquet", table, row_group_size=row_group)
    return str(folder)


def write_real_data(folder):
    """Write some of the vectors of WordNet: 16 blocks of 4,000 rows."""
    return write_parquet(folder, rows_of(str(DATA))[:4000, :64])


def bits(state):
    """Return all of a state that the law of equal bits speaks of."""
    running = state.accumulators
    return (
        state.centers.tobytes(),
        state.counts.tobytes(),
        running and (running.steps_per_iteration, running.done, running.sums.tobytes()),
        state.history,
        (state.iteration, state.began_at, state.stop, state.data_name, state.data_since),
    )


def state_of(model_dir):
    return ModelDir.at(str(model_dir), {}, 5).latest()


class Memory:
    """A store that only its maker sees."""

    def __init__(self):
        self.states = []

    def latest(self):
        return self.states[-1] if self.states else None

    def save(self, state):
        self.states.append(state)
        return f"memory {len(self.states)}"


def ignore(event):
    """Listen to nothing."""


def open_workers(uri, number, metric="squared_euclidean", emit=ignore):
    """Open a pool of so many workers that turns from one data set to the next."""
    source = open_source(uri)
    shards = split(source.describe().blocks, number)
    return driver.open_pool(Workload(source, shards, WorkerOptions(0.1, 120)), metric, emit)


def turn(pool, source, number):
    """Let the first so many workers of a pool hold the data."""
    pool.take(*loadable(source, number))


def loadable(source, number):
    """Return a source and its blocks as `RayPool.take` wants them."""
    return put(source), split(source.describe().blocks, number)


def descendants(root):
    """Return the titles of all processes below one, by pid."""
    parents, titles = {}, {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            stat = (process / "stat").read_text()
            titles[int(process.name)] = (process / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        parents[int(process.name)] = int(stat.rpartition(")")[2].split()[1])

    def is_below(pid):
        while pid in parents:
            pid = parents[pid]
            if pid == root:
                return True
        return False

    return {pid: title for pid, title in titles.items() if is_below(pid)}


def fit_processes(root=None):
    """Return the pids of all workers and coordinators of the Ray of this process, or another."""
    names = ("ray::KMeansWorker", "ray::Coordinator")
    below = descendants(os.getpid() if root is None else root)
    return {pid for pid, title in below.items() if title.startswith(names)}


def comes_true(condition, seconds=30):
    """Wait until the condition holds; tell whether it did in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


class Killer:
    """Stands before a pool, and kills workers just before some calls of one of their methods."""

    def __init__(self, pool, method, times, victims):
        self.pool, self.method, self.times, self.victims = pool, method, times, victims
        self.asked = 0

    def __enter__(self):
        self.pool.ask, self.pool.total = self.ask, self.total
        self.pool.remember = self.remember
        return self

    def __exit__(self, *error):
        del self.pool.ask, self.pool.total, self.pool.remember

    def ask(self, method, *args):
        self.see(method)
        return RayPool.ask(self.pool, method, *args)

    def total(self, method, *args):
        self.see(method)
        return RayPool.total(self.pool, method, *args)

    def remember(self, method, *args):
        self.see(method)
        return RayPool.remember(self.pool, method, *args)

    def see(self, method):
        if method is self.method:
            self.asked += 1
            if self.asked in self.times:
                self.kill()

    def kill(self):
        workers = RayPool.ask(self.pool, ShardWorker.where)
        for victim in self.victims:
            os.kill(workers[victim][1], signal.SIGKILL)


def replaced(events):
    """Return which workers were replaced, in order."""
    return sorted(event.worker for event in events if isinstance(event, ev.WorkerReplaced))


@pytest.fixture
def nothing_stays():
    """Prove that a test leaves no worker and no coordinator behind, and no CPU taken."""
    before, cpus = fit_processes(), ray.available_resources().get("CPU", 0)
    yield
    assert comes_true(lambda: fit_processes() <= before)
    assert comes_true(lambda: ray.available_resources().get("CPU", 0) >= cpus)


def pairs_of_rows(sample, missing):
    """Centers of which every other one is a copy, so that half of the clusters are empty."""
    return np.repeat(sample[: missing // 2 + 1], 2, axis=0)[:missing]


@dataclass(frozen=True)
class Way:
    """A way to train."""

    params: dict[str, Any]
    rule: StopRule = field(default_factory=StopRule)
    batch_size: int | None = None
    monitors: tuple[Monitor, ...] = ()
    is_stream: bool = False

    def estimator(self, model_dir, num_workers):
        config = RunConfig(num_workers=num_workers, progress=False)
        return KMeansClustering(K, str(model_dir), random_seed=3, config=config, **self.params)

    def fit(self, uri, model_dir, num_workers):
        """Fit by the front door; return the last checkpoint."""
        km = self.estimator(model_dir, num_workers)
        if self.is_stream:
            km.partial_fit(stream_of(uri), steps=None)
        else:
            rule = self.rule
            km.fit(uri, None, None, rule.steps, self.batch_size, self.monitors, rule.max_steps)
        return state_of(model_dir)

    def plan(self):
        params = FitParams(**self.estimator("nowhere", 0).get_params(deep=False))
        rule = replace(self.rule, relative_tolerance=params.relative_tolerance)
        size = runs.WHOLE if self.is_stream else self.batch_size
        return runs.plan_fit(params, RunConfig(), rule, size)

    def fit_with(self, pool, uri, number):
        """Fit with the first so many workers of a pool; return the last checkpoint."""
        store = Memory()
        if not self.is_stream:
            turn(pool, open_source(uri), number)
            return run_fit(self.plan(), pool, store, ignore, Monitors(self.monitors))
        sources = list(open_batches(stream_of(uri), {}))
        turn(pool, open_source(np.concatenate([rows_of(each) for each in sources[:2]])), number)
        batches = (loadable(source, number) for source in sources)
        return run_stream(self.plan(), pool, store, ignore, batches)


def stream_of(uri):
    """Yield batches of all sorts; the first one has fewer rows than there are clusters."""
    rows = rows_of(f"{uri}/0.parquet")
    yield rows[:5]
    yield rows[5:900]
    yield f"{uri}/1.parquet"
    yield rows[900:], None
    yield f"{uri}/[23].parquet"


COSINE = {"distance_metric": "cosine"}


FULL = {"use_mini_batch": False}


WAYS = {
    "full batch": Way(FULL, StopRule(steps=6)),
    "farthest": Way(
        FULL | {"empty_clusters": "farthest", "initial_clusters": pairs_of_rows}, StopRule(steps=6)
    ),
    # 6 batches per epoch, the last one smaller; an open end puts the smoothed loss to the test
    "mini-batch, m=1": Way({}, batch_size=700),
    "mini-batch, m=3": Way(
        {"mini_batch_steps_per_iteration": 3}, StopRule(steps=10), batch_size=700
    ),
    "stream": Way({}, is_stream=True),
    "stream, m=3": Way({"mini_batch_steps_per_iteration": 3}, is_stream=True),
    "monitors": Way(
        {"mini_batch_steps_per_iteration": 3},
        batch_size=700,
        monitors=(Monitor(), EarlyStopping(2, min_delta=0.05)),
    ),
    "cosine": Way(FULL | COSINE, StopRule(steps=5)),
    "cosine, mini-batch": Way(COSINE | {"relative_tolerance": 0.02}, batch_size=700),
    "cosine, stream": Way(COSINE, is_stream=True),
}
