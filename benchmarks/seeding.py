"""How long seeding takes and what it is worth, beside scikit-learn's k-means++ and k-means.

    python benchmarks/seeding.py [time | mixture | fits | large]

- `time`: cost is the loss of all rows with the seeds as centers, and after 10 iterations of Lloyd
  from there, as a share of scikit-learn's. Ours run on Ray over all rows; scikit-learn's in one
  process with all threads.
- `mixture`: the GaussMixture experiment of Bahmani et al., Scalable k-means++, VLDB 2012.
- `fits`: inertia and CPU seconds of whole fits beside the best of ten restarts of scikit-learn's.
- `large`: CPU seconds of the seedings for many clusters beside one labelling of all rows.
"""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
import pyarrow.parquet as pq
from data_sets import COLUMNS, STORED
from machine import say_where
from numpy.typing import NDArray

from ray_kmeans import KMeansClustering, RunConfig, kernels
from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.stopping import StopRule
from ray_kmeans.data.array import ArraySource
from ray_kmeans.data.opening import open_source
from ray_kmeans.data.sharding import split
from ray_kmeans.engine.options import WorkerSetup
from ray_kmeans.engine.pool import LocalPool
from ray_kmeans.engine.seeding.choose import choose_centers
from ray_kmeans.observe import events as ev
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.workflows import fit
from ray_kmeans.workflows.parameters import FitParams

SIZES = ((500_000, 32, 64), (200_000, 128, 256), (100_000, 384, 1024))
METHODS = ("random", "kmeans_plus_plus", "kmc2", "kmeans_parallel")
ITERATIONS = 10
SPREADS, SEEDS = (1, 10, 100), 11
FITS = ((1, 1e-4), (4, 1e-4))
"""Restarts and relative tolerance of our fits."""
ROWS = {10: 20_000, 100: 8_192, 1024: 4_096}
"""Largest number of rows of each data set, by the number of clusters."""
LARGE = ((200_000, 32, 1_000), (200_000, 32, 10_000))

Matrix: TypeAlias = NDArray[np.float32]


def ours(rows: Matrix, k: int, method: str, threads: int) -> tuple[float, float, float]:
    """Return the seconds of seeding, and the loss at first and after some iterations."""
    seconds: list[float] = []

    def listen(event: ev.Event) -> None:
        if isinstance(event, ev.Seeded):
            seconds.append(event.seconds)

    with tempfile.TemporaryDirectory() as model_dir:
        km = KMeansClustering(k, model_dir, method, use_mini_batch=False)
        config = RunConfig(num_workers=threads, progress=False)
        plan = fit.plan_fit(
            FitParams(**km.get_params(deep=False)), config, StopRule(steps=ITERATIONS + 1), None
        )
        store = ModelDir.at(model_dir, {}, 1)
        state = fit.fit(plan, open_source(rows), store, config, listeners=[listen])
    return seconds[0], state.history[0].inertia, state.history[-1].inertia


def sklearns(rows: Matrix, k: int) -> tuple[float, float, float]:
    """Return the same for scikit-learn's k-means++, with its own number of candidates."""
    from sklearn.cluster import KMeans, kmeans_plusplus
    from sklearn.metrics import pairwise_distances_argmin_min

    begin = time.perf_counter()
    centers, _ = kmeans_plusplus(rows, k, random_state=0)
    seconds = time.perf_counter() - begin
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that it has not converged
        km = KMeans(k, init=centers, n_init=1, max_iter=ITERATIONS, tol=0).fit(rows)
    _, distances = pairwise_distances_argmin_min(rows, centers, metric="sqeuclidean")
    return seconds, float(distances.astype(np.float64).sum()), float(km.inertia_)


def mixture(n: int, d: int, k: int) -> Matrix:
    """Return n rows around k separate centers of very different sizes."""
    rng = np.random.default_rng(0)
    centers = 3 * rng.standard_normal((k, d), dtype=np.float32)
    share = 1.0 / np.arange(1, k + 1)
    labels = rng.choice(k, n, p=share / share.sum())
    return centers[labels] + rng.standard_normal((n, d), dtype=np.float32)


def seeds_in_process(rows: Matrix, k: int, method: str, seed: int) -> tuple[Matrix, float]:
    """Return the seeds that a method of ours chooses in this process, and its CPU seconds."""
    source = ArraySource.of(rows)
    shards = split(source.describe().blocks, 1)
    pool = LocalPool(source, shards, WorkerSetup(Metric.SQUARED_EUCLIDEAN))
    summary = pool.summarize()
    begin = time.process_time()
    centers = choose_centers(method, k, 2, seed, pool, summary)
    return centers, time.process_time() - begin


def loss_of(rows: Matrix, centers: Matrix) -> float:
    """Return the sum of the squared distances of the rows to the nearest center."""
    kernel, labels = kernels.load(), np.empty(len(rows), np.int32)
    kernel.assign(rows, kernel.prepare(centers, Metric.SQUARED_EUCLIDEAN), labels)
    return float(kernel.distances_to(rows, centers, labels, Metric.SQUARED_EUCLIDEAN).sum())


def gauss_mixture(spread: int) -> Matrix:
    """Return 10,000 rows x 15 around 50 centers whose variance is `spread` times the rows'."""
    rng = np.random.default_rng(spread)
    centers = rng.normal(size=(50, 15)) * np.sqrt(spread)
    rows = centers[rng.integers(0, 50, 10_000)] + rng.normal(size=(10_000, 15))
    found: Matrix = rows.astype(np.float32)
    return found


def compare_on_mixtures() -> None:
    """Print the median loss of the seeds of each method on the GaussMixture, over n d."""
    from sklearn.cluster import kmeans_plusplus

    print("| seeding |" + "".join(f" R={spread} |" for spread in SPREADS))
    print("|---" * (1 + len(SPREADS)) + "|")
    data = [gauss_mixture(spread) for spread in SPREADS]

    def sklearns_seeds(rows: Matrix, seed: int) -> Matrix:
        return np.asarray(kmeans_plusplus(rows, 50, random_state=seed)[0])

    def seeds_of(method: str) -> Callable[[Matrix, int], Matrix]:
        return lambda rows, seed: seeds_in_process(rows, 50, method, seed)[0]

    ways = {method: seeds_of(method) for method in METHODS}
    for name, way in {**ways, "scikit-learn's k-means++": sklearns_seeds}.items():
        losses = [
            [loss_of(rows, way(rows, seed)) / rows.size for seed in range(SEEDS)] for rows in data
        ]
        cells = [f"{np.median(some):.3f} ({max(some):.3f})" for some in losses]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def stored() -> Iterator[tuple[str, Matrix]]:
    """Yield the name and the rows, in random order, of each real data set, and of a mixture."""
    for name, column in {"digits": "pixels", **COLUMNS}.items():
        tables = [pq.read_table(path) for path in sorted((STORED / name).glob("*.parquet"))]
        vectors = [np.stack(table[column].to_numpy()) for table in tables]
        rows = np.concatenate(vectors).astype(np.float32)
        yield name, np.random.default_rng(0).permutation(rows)
    yield "200 uneven Gaussians", mixture(50_000, 64, 200)


def fit_ours(rows: Matrix, k: int, n_init: int, tolerance: float) -> tuple[float, float]:
    """Return inertia and CPU seconds of a recommended fit with these settings, in this process."""
    begin = time.process_time()
    with tempfile.TemporaryDirectory() as model_dir:
        here = RunConfig(num_workers=0, progress=False)
        how = {"n_init": n_init, "relative_tolerance": tolerance, "config": here}
        km = KMeansClustering.recommended(k, model_dir, **how).fit(rows)
        centers = km.clusters()
    return loss_of(rows, centers), time.process_time() - begin


def compare_fits() -> None:
    """Print inertia and CPU seconds of whole fits beside scikit-learn with ten restarts."""
    from sklearn.cluster import KMeans

    print("| data | rows | k | scikit-learn inertia | CPU s |", end="")
    print("".join(f" n_init={number}, {tol:g}: inertia | CPU s |" for number, tol in FITS))
    print("|---" * (5 + 2 * len(FITS)) + "|")
    for name, data in stored():
        for k in (200,) if name.endswith("Gaussians") else ROWS:
            rows = data[: ROWS.get(k, len(data))]
            fit_ours(rows[: 4 * k], min(k, len(rows) // 2), 2, 0.1)  # compiles
            begin = time.process_time()
            theirs = loss_of(rows, KMeans(k, n_init=10, random_state=0).fit(rows).cluster_centers_)
            seconds = time.process_time() - begin
            found = [fit_ours(rows, k, *how) for how in FITS]
            cells = [f" {loss / theirs:.4f} | {spent / seconds:.2f} |" for loss, spent in found]
            print(f"| {name} | {len(rows):,} | {k} | {theirs:.5g} | {seconds:.1f} |", end="")
            print("".join(cells), flush=True)


def time_large() -> None:
    """Print the CPU seconds of the seedings for many clusters, and of one labelling."""
    print("| n | d | k | labelling all rows | kmeans_parallel | kmc2 |")
    print("|---" * 6 + "|")
    for n, d, k in LARGE:
        rows = mixture(n, d, k)
        loss_of(rows[: 2 * k], rows[:k])  # compiles
        kernel, labels = kernels.load(), np.empty(n, np.int32)
        begin = time.process_time()
        kernel.assign(rows, kernel.prepare(rows[:k], Metric.SQUARED_EUCLIDEAN), labels)
        once = time.process_time() - begin
        cells = [f"{seeds_in_process(rows, k, each, 0)[1]:.2f}" for each in METHODS[:1:-1]]
        print(f"| {n:,} | {d} | {k:,} | {once:.2f} | {' | '.join(cells)} |", flush=True)


def time_seedings(threads: int) -> None:
    """Print seconds and losses of all methods on Ray beside scikit-learn's."""
    print(
        "| n | d | k | seeding | s | times scikit-learn's | cost at first | after 10 iterations |"
    )
    print("|---" * 8 + "|")
    for n, d, k in SIZES:
        rows = mixture(n, d, k)
        ours(rows[: 20 * k], k, "kmeans_plus_plus", threads)  # starts Ray and compiles
        theirs = sklearns(rows, k)
        print(f"| {n:,} | {d} | {k} | scikit-learn's k-means++ | {theirs[0]:.2f} | 1 | 1 | 1 |")
        for method in METHODS:
            mine = ours(rows, k, method, threads)
            shares = [a / b for a, b in zip(mine, theirs, strict=True)]
            print(
                f"| | | | {method} | {mine[0]:.2f} | {shares[0]:.2f} | {shares[1]:.3f} | "
                f"{shares[2]:.3f} |",
                flush=True,
            )


def main() -> None:
    threads = say_where("ray", "numpy", "numba", "scikit-learn")
    what = sys.argv[1] if len(sys.argv) > 1 else "time"
    {
        "time": lambda: time_seedings(threads),
        "mixture": compare_on_mixtures,
        "fits": compare_fits,
        "large": time_large,
    }[what]()


if __name__ == "__main__":
    main()
