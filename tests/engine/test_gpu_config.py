"""What a run asks of GPUs, and what it says where there are none."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from ray_kmeans import KMeansClustering, RunConfig, kernels
from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.data.array import ArraySource
from ray_kmeans.data.sharding import cut, split
from ray_kmeans.engine.options import WorkerOptions, Workload
from ray_kmeans.engine.pool import LocalPool
from ray_kmeans.errors import ConfigError, WorkersLostError
from ray_kmeans.on_ray import driver, ray_cluster
from ray_kmeans.workflows.worker_plan import plan_shards, share_gpus, workforce
from tests.conftest import GPU_KERNELS

SQUARED_EUCLIDEAN = Metric.SQUARED_EUCLIDEAN

X = np.random.default_rng(0).normal(size=(900, 6)).astype(np.float32)
BLOCKS = cut("x", [450, 450], 6)
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def fit(tmp_path, config):
    return KMeansClustering(3, str(tmp_path / "m"), use_mini_batch=False, config=config).fit(X)


@without_gpu
def test_without_a_gpu_a_fit_here_is_refused_before_it_reads(tmp_path):
    with pytest.raises(
        ConfigError, match=r"backend='gpu' needs a GPU, and torch .* sees none here"
    ):
        fit(tmp_path, RunConfig(num_workers=0, backend="gpu"))


def test_without_torch_it_names_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)

    with pytest.raises(ConfigError, match=r"needs torch.*pip install '\.\[gpu\]'"):
        fit(tmp_path, RunConfig(num_workers=0, backend="gpu"))


@pytest.mark.parametrize(
    ("nodes", "cpus", "gpus", "expected"),
    [
        ([(16, 1)], None, 1, (1, 16)),
        ([(64, 8), (64, 8)], None, 1, (16, 8)),
        ([(64, 8), (16, 1)], None, 1, (9, 8)),
        ([(16, 1)], None, 0.1, (10, 1)),
        ([(16, 1)], None, 0.3, (3, 5)),
        ([(4, 8)], None, 1, (4, 1)),
        ([(16, 4)], 8, 1, (2, 8)),
    ],
)
def test_there_are_as_many_workers_as_gpus_and_cpus_have_room_for(nodes, cpus, gpus, expected):
    assert share_gpus(nodes, cpus, gpus) == expected


@pytest.mark.parametrize(
    ("nodes", "cpus", "gpus", "said"),
    [
        ([], None, 1, "1 GPU and 1 CPU .* 0 have GPUs, 0 in all"),
        ([(4, 0.5)], None, 1, "1 GPU and 1 CPU .* 1 have GPUs, 0.5 in all"),
        ([(4, 1)], 8, 0.5, "0.5 GPU and 8 CPU .* 1 have GPUs, 1 in all"),
    ],
)
def test_a_cluster_without_room_for_a_gpu_worker_is_refused_with_figures(nodes, cpus, gpus, said):
    with pytest.raises(ConfigError, match=said):
        share_gpus(nodes, cpus, gpus)


def test_what_is_asked_of_workers_follows_from_the_config(monkeypatch):
    monkeypatch.setattr(ray_cluster, "connect", lambda *_: None)
    monkeypatch.setattr(ray_cluster, "nodes_with_gpus", lambda: [(8, 2)])
    monkeypatch.setattr(ray_cluster, "node_cpus", lambda: [8, 8])
    layout = ArraySource.of(X).describe()
    half = RunConfig(backend="gpu", gpus_per_worker=0.5, worker_memory_bytes=2**34)

    assert workforce(half) == (4, 2)
    assert workforce(RunConfig(backend="gpu", num_workers=3)) == (3, 1)
    assert workforce(RunConfig()) == (2, 8)
    options = plan_shards(layout, 3, half)[1]
    assert (options.kernel, options.gpus_per_worker, options.cpus_per_worker) == ("gpu", 0.5, 2)
    options = plan_shards(layout, 3, RunConfig(worker_memory_bytes=2**34))[1]
    assert (options.kernel, options.gpus_per_worker) == ("cpu", 0)


def pool_of(shards, emit=lambda event: None, **asked):
    options = WorkerOptions(0.1, kernel=GPU_KERNELS[0], **asked)
    workload = Workload(ArraySource.of(X), split(BLOCKS, shards), options)
    return driver.open_pool(workload, SQUARED_EUCLIDEAN, emit)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")  # it counts one GPU, whether there is one or not
def test_workers_that_share_a_gpu_have_the_bits_of_one_that_computes_here():
    local = LocalPool(ArraySource.of(X), split(BLOCKS, 1))
    shared = pool_of(2, worker_start_timeout_s=60, gpus_per_worker=0.5)
    try:
        assert shared.summarize().squares.fingerprint == local.summarize().squares.fingerprint
        assert {name for name, *_ in shared.get_ready(7)} == {
            kernels.load(GPU_KERNELS[0]).ready(450, 7, 6)
        }
        for centers in (X[:7], X[7:14]):
            one, other = shared.sweep(centers), local.sweep(centers)
            np.testing.assert_array_equal(one.sums, other.sums)
            np.testing.assert_array_equal(one.counts, other.counts)
    finally:
        shared.close()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_worker_that_waits_for_a_gpu_in_vain_says_how_many_are_free():
    with pytest.raises(WorkersLostError, match=r"each needs 0\.1 CPU .* free, and 0\.6 GPU and"):
        pool_of(2, worker_start_timeout_s=3, gpus_per_worker=0.6).close()
