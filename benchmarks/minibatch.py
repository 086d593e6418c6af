"""Mini-batch training beside scikit-learn's MiniBatchKMeans, in one run on one machine.

    python benchmarks/minibatch.py

Same rows, same initial centers, same batch size and number of steps. Ours is a whole fit on Ray,
m = 1 (centers updated after each step) and m = 8 (after every eighth); the time of a step leaves
out reading and seeding, as scikit-learn's does. The losses are those of all rows at the end, each
by the same function.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import warnings
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from lloyd import mixture
from machine import say_where
from numpy.typing import NDArray

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.algorithm.stopping import StopRule
from ray_kmeans.data.opening import open_source
from ray_kmeans.observe import events as ev
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.workflows import fit
from ray_kmeans.workflows.parameters import FitParams

SIZES = ((1_000_000, 16, 64, 16_384), (500_000, 128, 256, 65_536), (200_000, 384, 1024, 65_536))
STEPS = 24
TURNS = 3

Matrix: TypeAlias = NDArray[np.float32]


@dataclass
class Run:
    seconds: float
    """Of one step."""
    centers: Matrix


def ours(rows: Matrix, centers: Matrix, batch: int, m: int, threads: int) -> Run:
    """Train on Ray; the time is the mean over the steps after the first iteration."""
    times: list[float] = []

    def listen(event: ev.Event) -> None:
        if isinstance(event, ev.IterationDone):
            times.append(event.seconds)

    with tempfile.TemporaryDirectory() as model_dir:
        km = KMeansClustering(len(centers), model_dir, centers, mini_batch_steps_per_iteration=m)
        config = RunConfig(num_workers=threads, progress=False)
        plan = fit.plan_fit(
            FitParams(**km.get_params(deep=False)), config, StopRule(steps=STEPS), batch
        )
        store = ModelDir.at(model_dir, {}, 1)
        state = fit.fit(plan, open_source(rows), store, config, listeners=[listen])
    return Run(statistics.mean(times[m:]), state.centers)


def sklearns(rows: Matrix, centers: Matrix, batch: int) -> Run:
    """Train by partial_fit on random batches, which are drawn outside of the time."""
    from sklearn.cluster import MiniBatchKMeans

    km = MiniBatchKMeans(len(centers), init=centers, n_init=1, reassignment_ratio=0)
    order = np.random.default_rng(0)
    seconds = []
    for _ in range(STEPS):
        chosen = rows[order.choice(len(rows), batch, replace=False)]
        begin = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            km.partial_fit(chosen)
        seconds.append(time.perf_counter() - begin)
    return Run(statistics.mean(seconds[1:]), km.cluster_centers_.astype(np.float32))


def loss(rows: Matrix, centers: Matrix) -> float:
    """Return the mean squared distance of all rows to their nearest centers."""
    from sklearn.metrics import pairwise_distances_argmin_min

    _, distances = pairwise_distances_argmin_min(rows, centers, metric="sqeuclidean")
    return float(distances.astype(np.float64).mean())


def main() -> None:
    threads = say_where("ray", "numpy", "numba", "scikit-learn")
    print(
        "| n | d | k | batch | scikit-learn s/step | ours, m=1 | ratio | ours, m=8 | ratio |",
        end="",
    )
    print(" loss: scikit-learn | m=1 | m=8 |\n" + "|---" * 12 + "|")
    for n, d, k, batch in SIZES:
        rows = mixture(n, d, k)
        centers = rows[:: n // k][:k].copy()
        ours(rows[: 4 * k], centers, 4 * k, 1, threads)  # starts Ray and compiles
        turns = [
            (
                sklearns(rows, centers, batch),
                ours(rows, centers, batch, 1, threads),
                ours(rows, centers, batch, 8, threads),
            )
            for _ in range(TURNS)
        ]
        seconds = [statistics.median(turn[i].seconds for turn in turns) for i in range(3)]
        ratios = [
            statistics.median(turn[0].seconds / turn[i].seconds for turn in turns) for i in (1, 2)
        ]
        losses = [loss(rows, run.centers) for run in turns[0]]
        print(
            f"| {n:,} | {d} | {k} | {batch:,} | {seconds[0]:.4f} | {seconds[1]:.4f} | "
            f"{ratios[0]:.2f} | {seconds[2]:.4f} | {ratios[1]:.2f} | "
            + " | ".join(f"{each:.4f}" for each in losses)
            + " |",
            flush=True,
        )


if __name__ == "__main__":
    main()
