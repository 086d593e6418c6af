"""On Ray: a tree is that of one process, whoever is killed while it grows."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.observe import events as ev
from tests.support.ray_runs import write_parquet

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

X = np.random.default_rng(3).normal(size=(4_000, 4)).astype(np.float32)


def estimator(model_dir, num_workers):
    config = RunConfig(num_workers, progress=False)
    how = {"use_mini_batch": False, "levels": (8, 8), "refine_steps": 2, "config": config}
    return KMeansClustering(64, str(model_dir), **how)


@pytest.mark.parametrize("victim", ["coordinator", "worker"])
def test_a_tree_is_that_of_one_process(tmp_path, victim):
    uri = write_parquet(tmp_path / "data", X)
    alone = estimator(tmp_path / "alone", 0).fit(uri, steps=5)
    km, pids, split = estimator(tmp_path / "m", 2), {}, []

    def kill(event):
        if isinstance(event, ev.DataLoaded):
            pids.update(coordinator=event.coordinator[1], worker=event.workers[0][1])
        if isinstance(event, ev.NodesSplit):
            split.append(event.done)
            if len(split) == 3:
                os.kill(pids[victim], signal.SIGKILL)

    km._listeners.append(kill)
    km.fit(uri, steps=5)

    assert len(split) >= 8
    assert np.array_equal(km.clusters(), alone.clusters())
    assert np.array_equal(km.counts(), alone.counts())
    assert km.history() == alone.history()
    assert all(map(np.array_equal, km.tree().parents, alone.tree().parents))
    assert not list((tmp_path / "m/restarts").glob("*"))
