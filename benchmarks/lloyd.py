"""How long one Lloyd iteration takes, beside scikit-learn's, in one run on one machine.

    python benchmarks/lloyd.py

Same rows, same initial centers, same number of threads; the two take turns, so that a slow moment
of the machine meets both. Ours is a whole fit on Ray: centers out, sweep, partials back, update and
inertia, as the coordinator sees it. Ray's share is measured beside it as the time of a sweep over
one row per worker with the same centers.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import warnings
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from machine import say_where
from numpy.typing import NDArray

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.algorithm.grid import Extent, Grid
from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.stopping import StopRule
from ray_kmeans.data.opening import open_source
from ray_kmeans.data.sharding import Block
from ray_kmeans.engine.options import WorkerOptions, Workload
from ray_kmeans.engine.worker import ShardWorker
from ray_kmeans.observe import events as ev
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.workflows import fit as runs
from ray_kmeans.workflows.parameters import FitParams

SIZES = ((1_000_000, 16, 64), (500_000, 128, 256), (200_000, 384, 1024))
ITERATIONS = 10
TURNS = 5

Matrix: TypeAlias = NDArray[np.float32]


@dataclass
class Timing:
    seconds: float
    inertia: float


def mixture(n: int, d: int, k: int) -> Matrix:
    """Return n rows around k overlapping centers."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((k, d), dtype=np.float32)
    return centers[rng.integers(0, k, n)] + rng.standard_normal((n, d), dtype=np.float32)


def ours(rows: Matrix, centers: Matrix, threads: int) -> Timing:
    """Return the median time of an iteration after the first, and the last inertia."""
    times: list[float] = []

    def listen(event: ev.Event) -> None:
        if isinstance(event, ev.IterationDone):
            times.append(event.seconds)

    with tempfile.TemporaryDirectory() as model_dir:
        km = KMeansClustering(len(centers), model_dir, centers, use_mini_batch=False)
        config = RunConfig(num_workers=threads, progress=False)
        plan = runs.plan_fit(
            FitParams(**km.get_params(deep=False)), config, StopRule(steps=ITERATIONS), None
        )
        store = ModelDir.at(model_dir, {}, 1)
        state = runs.fit(plan, open_source(rows), store, config, listeners=[listen])
    return Timing(statistics.median(times[1:]), state.history[-1].inertia)


def sklearns(rows: Matrix, centers: Matrix) -> Timing:
    """Return the time of an iteration: a fit of several less a fit of one, shared out."""
    from sklearn.cluster import KMeans

    def fit(iterations: int) -> tuple[float, Any]:
        km = KMeans(len(centers), init=centers, n_init=1, max_iter=iterations, tol=0)
        begin = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns that it has not converged
            km.fit(rows)
        return time.perf_counter() - begin, km

    one, _ = fit(1)
    many, _ = fit(ITERATIONS)
    _, before_last = fit(ITERATIONS - 1)  # its inertia is that of the centers it returns
    return Timing((many - one) / (ITERATIONS - 1), float(before_last.inertia_))


def rays_share(centers: Matrix, threads: int) -> float:
    """Return the time of a sweep over one row per worker: what Ray takes of every iteration."""
    from ray_kmeans.on_ray import driver, ray_cluster

    ray_cluster.connect(None, threads, 1)
    rows = centers[:threads]
    shards = [(Block(i, i, 1, rows.shape[1], "x", i),) for i in range(threads)]
    options = WorkerOptions(cpus_per_worker=1, worker_start_timeout_s=60)
    source = open_source(rows)
    pool = driver.open_pool(
        Workload(source, shards, options), Metric.SQUARED_EUCLIDEAN, lambda event: None
    )
    try:
        pool.load()
        pool.ask(ShardWorker.measure, Grid.of(Extent.of_rows(rows)))
        times = []
        for _ in range(30):
            begin = time.perf_counter()
            pool.sweep(centers)
            times.append(time.perf_counter() - begin)
    finally:
        pool.close()
    return statistics.median(times)


def main() -> None:
    threads = say_where("ray", "numpy", "numba", "scikit-learn")
    print("| n | d | k | scikit-learn s/it | ours s/it | ratio | Ray's share s/it | inertia |")
    print("|---|---|---|---|---|---|---|---|")
    for n, d, k in SIZES:
        rows = mixture(n, d, k)
        centers = rows[:: n // k][:k].copy()
        ours(rows[: 4 * k], centers, threads)  # starts Ray and compiles
        turns = [(sklearns(rows, centers), ours(rows, centers, threads)) for _ in range(TURNS)]
        theirs, mine = (statistics.median(t[i].seconds for t in turns) for i in (0, 1))
        ratio = statistics.median(a.seconds / b.seconds for a, b in turns)
        difference = turns[0][1].inertia / turns[0][0].inertia - 1
        print(
            f"| {n:,} | {d} | {k} | {theirs:.4f} | {mine:.4f} | {ratio:.2f} | "
            f"{rays_share(centers, threads):.4f} | {difference:+.1e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
