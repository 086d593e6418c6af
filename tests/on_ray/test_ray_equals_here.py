"""On Ray: what was asked of one process only so far has the same bits, also where workers die."""

from __future__ import annotations

import os
import signal
import threading

import numpy as np
import pytest

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.algorithm.state import Stop
from ray_kmeans.engine.worker import ShardWorker
from ray_kmeans.on_ray.calls import LagRule
from ray_kmeans.on_ray.pool import RayPool
from tests.support.ray_runs import bits, nothing_stays, pairs_of_rows, state_of, write_parquet

__all__ = ["nothing_stays"]

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster", "nothing_stays")]

HERE = RunConfig(num_workers=0, progress=False)
ON_RAY = RunConfig(2, cpus_per_worker=1, progress=False, save_checkpoints_steps=1)
FULL = {"use_mini_batch": False, "initial_clusters": pairs_of_rows}
WAYS = {
    "split_largest": (FULL | {"empty_clusters": "split_largest"}, {"steps": 6}),
    "reassigned": (
        {"initial_clusters": pairs_of_rows, "reassignment_ratio": 0.3},
        {"steps": 8, "batch_size": 500},
    ),
    "nested": ({"nested_batches": True, "initial_clusters": pairs_of_rows}, {"batch_size": 100}),
}


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    rng = np.random.default_rng(3)
    rows = (rng.normal(size=(3_000, 4)) + rng.integers(0, 5, (3_000, 1))).astype(np.float32)
    return write_parquet(tmp_path_factory.mktemp("rows") / "data", rows)


@pytest.fixture
def nobody_lags(monkeypatch):
    """Let no worker take the rows of another one that lives, however busy this machine is."""
    monkeypatch.setattr(RayPool, "lag_rule", LagRule(least_s=1000.0))


def fitted(uri, model_dir, config, params, **how):
    km = KMeansClustering(10, str(model_dir), random_seed=3, config=config, **params)
    return km.fit(uri, **how)


@pytest.mark.parametrize("way", WAYS)
def test_a_fit_that_moves_centers_or_grows_has_the_bits_of_one_process(uri, tmp_path, way):
    params, how = WAYS[way]
    here = fitted(uri, tmp_path / "here", HERE, params, **how)

    fitted(uri, tmp_path / "there", ON_RAY, params, **how)

    assert bits(state_of(tmp_path / "there")) == bits(state_of(tmp_path / "here"))
    moved = [line.relocated for line in here.history()]
    assert any(moved) == (way != "nested")
    assert len({line.rows for line in here.history()}) > (way == "nested")


def test_a_fit_that_ends_by_the_clock_goes_on_to_the_bits_of_one_without(uri, tmp_path):
    whole = fitted(uri, tmp_path / "whole", HERE, FULL, steps=5)
    first = fitted(uri, tmp_path / "m", ON_RAY, FULL, steps=5, max_seconds=1e-3)
    assert first.why_stopped() is Stop.SECONDS
    assert len(first.history()) == 1

    km = fitted(uri, tmp_path / "m", ON_RAY, FULL, steps=5, max_seconds=1e3)

    assert np.array_equal(km.clusters(), whole.clusters())
    assert len(km.history()) == 5
    assert km.why_stopped() is whole.why_stopped()


def test_drift_is_that_of_one_process(uri, tmp_path):
    old = fitted(uri, tmp_path / "old", HERE, FULL, steps=1)
    new = fitted(uri, tmp_path / "new", HERE, FULL, steps=9)
    there = KMeansClustering(10, str(tmp_path / "new"), config=ON_RAY)

    assert there.drift_from(old, uri).to_json() == new.drift_from(old, uri).to_json()


@pytest.mark.parametrize("method", [ShardWorker.measure_quality, ShardWorker.measure_gaps])
@pytest.mark.usefixtures("nobody_lags")
def test_a_worker_that_dies_while_quality_is_measured_changes_no_figure(
    uri, tmp_path, monkeypatch, method
):
    fitted(uri, tmp_path, HERE, FULL, steps=3)
    expected = KMeansClustering(10, str(tmp_path), config=HERE).evaluation(uri)
    ask, total, killed = RayPool.ask_watched, RayPool.total, []

    def kill(pool):
        """Stop the second worker now, and kill it while the call waits for it."""
        killed.append(ask(pool, None, ShardWorker.where)[1][1])
        os.kill(killed[0], signal.SIGSTOP)
        threading.Timer(0.5, os.kill, (killed[0], signal.SIGKILL)).start()

    def killing(call, place):
        def watched(pool, *args, **kwargs):
            if args[place] is method and not killed:
                kill(pool)
            return call(pool, *args, **kwargs)

        return watched

    monkeypatch.setattr(RayPool, "ask_watched", killing(ask, 1))
    monkeypatch.setattr(RayPool, "total", killing(total, 0))
    found = KMeansClustering(10, str(tmp_path), config=ON_RAY).evaluation(uri)

    assert killed
    assert found == expected
    assert found.quality is not None
