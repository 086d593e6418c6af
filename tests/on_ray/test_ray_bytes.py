"""A fit whose workers multiply in different ways is one fit: the same bits whatever they have."""

from __future__ import annotations

import numpy as np
import pytest

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.kernels import cpu, fastest_unit
from tests.conftest import skip_without

ROWS, FEATURES, CLUSTERS = 6_000, 64, 96
pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(3)
    centers = rng.standard_normal((CLUSTERS // 2, FEATURES))
    noise = rng.standard_normal((ROWS, FEATURES))
    return (centers[rng.integers(0, CLUSTERS // 2, ROWS)] + noise).astype(np.float32)


def history(rows, model_dir, metric="squared_euclidean", **config):
    """Return all that a fit leaves behind: what each iteration saw, and the centers."""
    config = RunConfig(progress=False, **config)
    km = KMeansClustering(
        CLUSTERS, str(model_dir), rows[:CLUSTERS], metric, use_mini_batch=False, config=config
    )
    km.fit(rows, steps=8)
    return [(line.inertia, line.digest) for line in km.history()], km.clusters().tobytes()


@pytest.mark.long(kind="bytes on Ray")
def test_one_worker_that_multiplies_bytes_and_three_that_do_not_give_the_same_bits(
    rows, tmp_path, ray_cluster, monkeypatch
):
    metric = "cosine"
    work = cpu.SWEEPS * ROWS * CLUSTERS * (FEATURES + cpu.SCAN)
    assert work >= cpu.WORTH > work / 3 * 1.1
    one = history(rows, tmp_path / "one", metric, num_workers=1)
    three = history(rows, tmp_path / "three", metric, num_workers=3, cpus_per_worker=1)
    monkeypatch.setattr(cpu, "WORTH", np.inf)
    here = history(rows, tmp_path / "here", metric, num_workers=0)

    assert one == three == here


@pytest.mark.long(kind="bytes on Ray")
@pytest.mark.parametrize("unit", ["amx", "plain"])
def test_a_masked_unit_changes_no_bit(rows, unit, tmp_path, monkeypatch):
    skip_without(unit)
    with_it = history(rows, tmp_path / "with", num_workers=0)
    monkeypatch.setenv("RAY_KMEANS_WITHOUT", unit)
    fastest_unit.fastest.cache_clear()
    without = history(rows, tmp_path / "without", num_workers=0)
    fastest_unit.fastest.cache_clear()

    assert with_it == without
