"""A fit on GPUs, and one on GPUs and CPUs, is the fit on CPUs bit for bit."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import cycle

import numpy as np
import pytest
import torch

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.engine.pool import LocalPool
from ray_kmeans.engine.row_cache import AtSource, OnDisk
from ray_kmeans.engine.worker import ShardWorker
from ray_kmeans.workflows import worker_plan
from tests.conftest import GPU_KERNELS, small_tiles
from tests.support.files import in_blocks
from tests.support.walks import blobs

X, _ = blobs(300, 7, 6, "squared_euclidean", apart=2)
WEIGHTS = np.random.default_rng(0).integers(0, 4, len(X)).astype(np.float64)


class OnDevice(LocalPool):
    """A pool here whose workers compute by kernels of these names, in turn."""

    names: tuple[str, ...]

    def take(self, source, shards):
        super().take(source, shards)
        shards_and_names = zip(shards, cycle(self.names), strict=False)
        self._workers = [
            ShardWorker(replace(self._setup, kernel=name, threads=1, gpus_per_worker=1.0))
            for _, name in shards_and_names
        ]


@pytest.fixture
def fit(tmp_path, monkeypatch):
    """Return a function that fits with three workers here, and returns all that a fit tells."""
    small_tiles(monkeypatch)
    monkeypatch.setattr(worker_plan, "workforce", lambda config: (3, 1))

    def fitted(names, x, cache="auto", **model):
        monkeypatch.setattr(worker_plan, "LocalPool", type("Pool", (OnDevice,), {"names": names}))
        where = tmp_path / str(len(list(tmp_path.iterdir())))
        config = RunConfig(num_workers=0, cache=cache)
        km = KMeansClustering(6, str(where), random_seed=3, config=config, **model)
        size = 100 if model["use_mini_batch"] else None
        km.fit(in_blocks(x, 64), sample_weight=WEIGHTS, batch_size=size, steps=4)
        return km.history(), km.clusters().tobytes()

    return fitted


METRICS = pytest.mark.parametrize("metric", ["squared_euclidean", "cosine"])


@METRICS
@pytest.mark.parametrize("mini_batch", [False, True])
@pytest.mark.parametrize("names", [GPU_KERNELS[:1], GPU_KERNELS[1:], ("cpu", *GPU_KERNELS)])
def test_a_fit_on_gpus_or_on_some_has_the_bits_of_one_on_cpus(names, mini_batch, metric, fit):
    model = {"use_mini_batch": mini_batch, "distance_metric": metric}

    assert fit(names, X, **model) == fit(("cpu",), X, **model)


@pytest.mark.parametrize("cache", ["disk", "source"])
def test_rows_that_memory_has_no_room_for_stay_on_the_gpu(cache, fit, monkeypatch):
    fetched = Counter()
    fetch = OnDisk.fetch if cache == "disk" else AtSource.fetch

    def counted(shelf, here):
        fetched[id(shelf), here] += 1
        return fetch(shelf, here)

    monkeypatch.setattr(OnDisk if cache == "disk" else AtSource, "fetch", counted)
    x = (X * 20).clip(-128, 127).astype(np.int8)

    on_gpu = fit(GPU_KERNELS[:1], x, cache, use_mini_batch=False)
    times_on_gpu = fetched.total()
    fetched.clear()

    assert on_gpu == fit(("cpu",), x, cache, use_mini_batch=False)
    # For each of four sweeps the CPU fetches five blocks; the GPU does for the first one alone.
    assert fetched.total() - times_on_gpu == 3 * 5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU on this machine")
def test_a_fit_on_the_gpu_of_this_machine_has_the_bits_of_one_on_its_cpus(tmp_path):
    x, _ = blobs(200_000, 96, 500, "squared_euclidean", apart=1)
    fits = []
    for backend in ("cpu", "gpu"):
        config = RunConfig(num_workers=0, backend=backend)
        km = KMeansClustering(500, str(tmp_path / backend), use_mini_batch=False, config=config)
        fits.append((km.fit(x, steps=5).history(), km.clusters().tobytes()))

    assert fits[0] == fits[1]
