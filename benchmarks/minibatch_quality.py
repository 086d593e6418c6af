"""What each way to train is worth: inertia over all rows against CPU seconds of a whole fit.

    python benchmarks/minibatch_quality.py [NAME ...]

Mini-batch as TensorFlow has it, by 65,536 rows and by scikit-learn's 1,024; the same with starved
clusters reassigned; nested; full batch with a tolerance; and scikit-learn's MiniBatchKMeans with
its defaults. Ours begin at random rows and at the seeds of k-means||, three random seeds each, in
this process with one thread per CPU. Names are those of the data sets: digits, wordnet_minilm,
mnist, gaussians.
"""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from data_sets import stored
from machine import say_where
from numpy.typing import NDArray
from seeding import loss_of, mixture

from ray_kmeans import KMeansClustering, RunConfig

Matrix: TypeAlias = NDArray[np.float32]

SEEDS = 3
WAYS: Mapping[str, Mapping[str, Any]] = {
    "mini-batch, 65,536 rows": {},
    "mini-batch, 1,024 rows": {"batch_size": 1_024},
    "1,024 rows, reassigned": {"batch_size": 1_024, "reassignment_ratio": 0.01},
    "nested": {"nested_batches": True, "relative_tolerance": 1e-4},
    "full batch": {"use_mini_batch": False, "relative_tolerance": 1e-4},
}
"""Arguments of the constructor, and of `fit`, by the way to train."""


def digits() -> Matrix:
    """Return scikit-learn's 1,797 digits."""
    from sklearn.datasets import load_digits

    return np.asarray(load_digits().data, np.float32)


SETS: Mapping[str, tuple[Callable[[], Matrix], int]] = {
    "digits": (digits, 10),
    "wordnet_minilm": (lambda: stored("wordnet_minilm"), 100),
    "mnist": (lambda: stored("mnist"), 50),
    "gaussians": (lambda: mixture(200_000, 128, 200), 200),
}
"""Rows and number of clusters of each data set."""


def fit_ours(
    rows: Matrix, k: int, initial: str, seed: int, how: Mapping[str, Any]
) -> tuple[float, float]:
    """Return the inertia over all rows, and the CPU seconds, of a fit in this process."""
    own = {name: value for name, value in how.items() if name != "batch_size"}
    begin = time.process_time()
    with tempfile.TemporaryDirectory() as model_dir:
        here = RunConfig(num_workers=0, progress=False)
        km = KMeansClustering(k, model_dir, initial, random_seed=seed, config=here, **own)
        centers = km.fit(rows, batch_size=how.get("batch_size")).clusters()
        seconds = time.process_time() - begin
    return loss_of(rows, centers), seconds


def fit_theirs(rows: Matrix, k: int, seed: int) -> tuple[float, float]:
    """Return the same for scikit-learn's MiniBatchKMeans with its defaults."""
    from sklearn.cluster import MiniBatchKMeans

    begin = time.process_time()
    centers = MiniBatchKMeans(k, random_state=seed).fit(rows).cluster_centers_
    return loss_of(rows, centers.astype(np.float32)), time.process_time() - begin


def compare(name: str) -> None:
    """Print a line for each way to train on one data set."""
    make, k = SETS[name]
    rows = make()
    rows = rows[np.random.default_rng(0).permutation(len(rows))]
    ways: dict[tuple[str, str], Callable[[int], tuple[float, float]]] = {}
    for initial in ("random", "kmeans_parallel"):
        for way, how in WAYS.items():
            ways[initial, way] = lambda seed, initial=initial, how=how: fit_ours(  # type: ignore[misc]
                rows, k, initial, seed, how
            )
    ways["k-means++", "scikit-learn's MiniBatchKMeans"] = lambda seed: fit_theirs(rows, k, seed)
    for fit in ways.values():
        fit(0)  # compiles
    for (initial, way), fit in ways.items():
        found = [fit(seed) for seed in range(SEEDS)]
        losses = ", ".join(f"{loss:.5g}" for loss, _ in found)
        seconds = np.median([spent for _, spent in found])
        print(
            f"| {name} {len(rows):,} x {rows.shape[1]}, k={k} | {initial} | {way} | "
            f"{losses} | {seconds:.2f} |",
            flush=True,
        )


def main() -> None:
    say_where("numpy", "numba", "scikit-learn")
    warnings.simplefilter("ignore")
    print("| data | first centers | way | inertia of three seeds | CPU s |")
    print("|---" * 5 + "|")
    for name in sys.argv[1:] or SETS:
        compare(name)


if __name__ == "__main__":
    main()
