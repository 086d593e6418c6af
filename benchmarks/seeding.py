"""How long seeding takes and what it is worth, beside scikit-learn's greedy k-means++.

    python benchmarks/seeding.py

Cost is the loss of all rows with the seeds as centers, and after 10 iterations of Lloyd from there,
as a share of scikit-learn's. Ours run on Ray over all rows; scikit-learn's in one process with all
threads.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from typing import TypeAlias

import numpy as np
from machine import say_where
from numpy.typing import NDArray

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.algorithm.stopping import StopRule
from ray_kmeans.data.opening import open_source
from ray_kmeans.observe import events as ev
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.workflows import fit
from ray_kmeans.workflows.parameters import FitParams

SIZES = ((500_000, 32, 64), (200_000, 128, 256), (100_000, 384, 1024))
METHODS = ("random", "kmeans_plus_plus", "kmc2", "kmeans_parallel")
ITERATIONS = 10

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


def main() -> None:
    threads = say_where("ray", "numpy", "numba", "scikit-learn")
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


if __name__ == "__main__":
    main()
