"""A fit on GPUs, and one on GPUs and CPUs, is the fit on CPUs bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from ray_kmeans import KMeansClustering, RunConfig, resources
from ray_kmeans.cluster.pool import LocalPool
from ray_kmeans.cluster.worker import ShardWorker
from ray_kmeans.kernels import gpu
from tests.conftest import GPU_KERNELS, small_tiles
from tests.walks import blobs

X, _ = blobs(300, 7, 6, "squared_euclidean", apart=2)
WEIGHTS = np.random.default_rng(0).integers(0, 4, len(X)).astype(np.float64)
SAMPLES = [X, (X * 20).clip(-128, 127).astype(np.int8)]


class OnDevice(LocalPool):
    """Every worker computes as on a GPU."""

    names: tuple[str, ...]

    def take(self, source, shards):
        super().take(source, shards)
        self._workers = [
            ShardWorker(self.metric, self.names[number % len(self.names)], 1, self._how[2])
            for number in range(len(shards))
        ]


@pytest.fixture
def fitted(tmp_path, monkeypatch):
    """Return a function that fits, and returns all that a fit tells."""
    small_tiles(monkeypatch)
    monkeypatch.setattr(resources.gpu, "check", lambda: None)
    monkeypatch.setattr("ray_kmeans.data.array.BLOCK_ROWS", 64)

    def fit(names, x, workers=3, **arguments):
        pool = type("Pool", (OnDevice,), {"names": names})
        monkeypatch.setattr(resources, "LocalPool", pool)
        monkeypatch.setattr(resources, "share_cpus", lambda *_: (workers, 1))
        where = str(tmp_path / "-".join(map(str, (*names, len(list(tmp_path.iterdir()))))))
        config = RunConfig(num_workers=0, cpus_per_worker=1, cache=arguments.pop("cache", "auto"))
        km = KMeansClustering(6, where, config=config, random_seed=3, **arguments.pop("km", {}))
        weights = arguments.pop("weights", None)
        km.fit(x, **({} if weights is None else {"sample_weight": weights}), **arguments)
        return km.history(), km.clusters().tobytes(), km.predict(x).tolist()

    return fit
