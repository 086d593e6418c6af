"""Every seeding gives the same centers on Ray as in this process, whoever dies meanwhile."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.data.opening import open_source
from ray_kmeans.data.sharding import split
from ray_kmeans.engine.options import WorkerSetup
from ray_kmeans.engine.pool import LocalPool
from ray_kmeans.engine.seeding.choose import choose_centers
from ray_kmeans.engine.worker import ShardWorker
from ray_kmeans.store.model_dir import ModelDir
from tests.support.ray_runs import (
    WORKERS,
    Killer,
    bits,
    nothing_stays,
    open_workers,
    replaced,
    turn,
    write_real_data,
)

__all__ = ["nothing_stays"]  # a fixture
pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

K = 10
RETRIES = 2
METHODS = ("random", "kmeans_plus_plus", "kmc2", "kmeans_parallel")


def three_at_a_time(sample, missing):
    return sample[-min(missing, 3) :]


def scaled(sample, missing, *, factor):
    return sample[:missing] * np.float32(factor)


class Chosen:
    """A function that carries centers with it."""

    def __init__(self, centers):
        self.centers = centers

    def __call__(self, sample, missing):
        return self.centers[:missing]


def a_closure():
    """A function that no other process can import."""
    step = 7
    return lambda sample, missing: sample[::step][:missing] + sample.mean(axis=0)


FUNCTIONS = {
    "a function": three_at_a_time,
    "a partial": functools.partial(scaled, factor=0.5),
    "a closure": a_closure(),
    "a class": Chosen(np.arange(64 * K, dtype=np.float64).reshape(K, 64)),
}
SEEDINGS = {name: name for name in METHODS} | FUNCTIONS


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return write_real_data(tmp_path_factory.mktemp("real") / "data")


def in_this_process(uri, initial, metric="squared_euclidean"):
    source = open_source(uri)
    return seeded(
        LocalPool(source, split(source.describe().blocks, 1), WorkerSetup(metric)), initial
    )


def seeded(pool, initial):
    return choose_centers(initial, K, RETRIES, 5, pool, pool.summarize())


@pytest.fixture(scope="module")
def events():
    return []


@pytest.fixture(scope="module")
def pool(uri, events, ray_cluster):
    """Five workers for all seedings that need no coordinator."""
    pool = open_workers(uri, 5, emit=events.append)
    yield pool
    pool.close()


@pytest.mark.parametrize("number", WORKERS)
@pytest.mark.parametrize("name", SEEDINGS)
def test_any_number_of_workers_gives_the_centers_of_this_process(pool, uri, name, number):
    turn(pool, open_source(uri), number)

    centers = seeded(pool, SEEDINGS[name])

    assert centers.shape == (K, 64)
    assert centers.tobytes() == in_this_process(uri, SEEDINGS[name]).tobytes()


@pytest.mark.parametrize("number", [3, 5])
@pytest.mark.parametrize("name", METHODS)
def test_fewer_different_rows_than_clusters_give_the_same_centers(pool, name, number, tmp_path):
    rows = np.repeat(np.arange(12, dtype=np.float32).reshape(4, 3), 5000, axis=0)
    turn(pool, open_source(rows), number)

    assert seeded(pool, name).tobytes() == in_this_process(rows, name).tobytes()


@pytest.mark.long(kind="kill in seeding")
@pytest.mark.parametrize(
    ("name", "method", "times", "victims"),
    [
        ("kmeans_plus_plus", ShardWorker.weigh, {1}, [0]),
        ("kmeans_plus_plus", ShardWorker.find, {1, 4, 5}, [2]),
        ("kmeans_plus_plus", ShardWorker.potentials, {9}, [0, 1, 2]),
        ("kmc2", ShardWorker.weigh, {1}, [2]),
        ("kmc2", ShardWorker.weights_at, {1}, [1]),
        ("kmeans_parallel", ShardWorker.join, {1}, [0]),
        ("kmeans_parallel", ShardWorker.weigh, {4}, [1]),
        ("kmeans_parallel", ShardWorker.sums_near, {1}, [2]),
    ],
)
def test_a_worker_that_is_killed_while_seeding_leaves_the_centers_as_they_are(
    pool, uri, events, name, method, times, victims
):
    turn(pool, open_source(uri), 3)
    summary = pool.summarize()
    events.clear()

    with Killer(pool, method, times, victims):
        centers = choose_centers(name, K, RETRIES, 5, pool, summary)

    assert centers.tobytes() == in_this_process(uri, name).tobytes()
    assert replaced(events) == sorted(victims * len(times))


@pytest.mark.long(kind="seeding on Ray")
@pytest.mark.usefixtures("nothing_stays")
@pytest.mark.parametrize(
    ("name", "metric", "num_workers"),
    [
        ("kmeans_plus_plus", "cosine", 3),
        ("a closure", "squared_euclidean", 2),
    ],
)
def test_the_estimator_begins_at_the_centers_of_this_process(
    uri, tmp_path, name, metric, num_workers
):
    def fit(num_workers):
        km = KMeansClustering(
            K,
            str(tmp_path / str(num_workers)),
            SEEDINGS[name],
            metric,
            config=RunConfig(num_workers=num_workers, progress=False),
        )
        km.fit(uri, steps=2, batch_size=900)
        store = ModelDir.at(km.model_dir, {}, 5)
        return [bits(store.fitted(path)) for path in km.checkpoints()]  # of the seeds, of the end

    here, there = fit(0), fit(num_workers)

    assert there == here
    assert len(here) == 2
