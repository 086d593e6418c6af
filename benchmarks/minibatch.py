"""Mini-batch training beside scikit-learn's MiniBatchKMeans, in one run on one machine.

    python benchmarks/minibatch.py --only '^1,000,000'

Same rows, same initial centers, same batch size and number of steps, in turns. Ours is a whole fit
by the public class: in one process without Ray, on one Ray worker that has all CPUs and so makes
several steps in a call, and on a Ray worker for each CPU; each with m = 1 (centers updated after
each step) and m = 8 (after every eighth). The time of a step leaves out reading and seeding, as
scikit-learn's does, and the first steps of both. The losses are those of all rows at the end, each
by the same function.
"""

from __future__ import annotations

import re
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import tyro
from lloyd import mixture
from machine import say_where
from numpy.typing import NDArray

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.observe import events as ev

SIZES = (
    (1_000_000, 16, 64, 1_024),
    (1_000_000, 16, 64, 16_384),
    (500_000, 128, 256, 65_536),
    (200_000, 384, 1024, 65_536),
)
WARM_UP = 16
"""Steps at the begin that do not count: about as many as one call makes."""
COUNTED = 48

Matrix: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class Options:
    """Compare steps of mini-batch on this machine."""

    only: str = ""
    """Regular expression: only sizes as in '1,000,000 16 64 16,384' that have a match."""
    by: str = ""
    """Regular expression: only contenders whose name has a match; scikit-learn always."""
    turns: int = 3


@dataclass
class Run:
    seconds: float
    """Of one step."""
    centers: Matrix


def ours(rows: Matrix, centers: Matrix, batch: int, m: int, config: RunConfig) -> Run:
    """Train by the public class; the time is the mean over the steps after the first ones."""
    times: list[float] = []

    def listen(event: ev.Event) -> None:
        if isinstance(event, ev.IterationDone):
            times.append(event.seconds)

    with tempfile.TemporaryDirectory() as model_dir:
        km = KMeansClustering(
            len(centers),
            model_dir,
            centers,
            use_mini_batch=True,
            mini_batch_steps_per_iteration=m,
            config=config,
        )
        km._listeners.append(listen)
        km.fit(rows, steps=WARM_UP + COUNTED, batch_size=batch)
        return Run(statistics.mean(times[WARM_UP:]), km.clusters())


def sklearns(rows: Matrix, centers: Matrix, batch: int) -> Run:
    """Train by partial_fit on random batches, which are drawn outside of the time."""
    from sklearn.cluster import MiniBatchKMeans

    km = MiniBatchKMeans(len(centers), init=centers, n_init=1, reassignment_ratio=0)
    order = np.random.default_rng(0)
    seconds = []
    for _ in range(WARM_UP + COUNTED):
        chosen = rows[order.choice(len(rows), batch, replace=False)]
        begin = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            km.partial_fit(chosen)
        seconds.append(time.perf_counter() - begin)
    return Run(statistics.mean(seconds[WARM_UP:]), km.cluster_centers_.astype(np.float32))


def contenders(threads: int, by: str) -> dict[str, Callable[[Matrix, Matrix, int], Run]]:
    """Return how each contender trains, scikit-learn first; `by`: as in `Options`."""
    places = {
        "one process": RunConfig(num_workers=0, progress=False),
        "one Ray worker": RunConfig(num_workers=1, cpus_per_worker=threads, progress=False),
        f"{threads} Ray workers": RunConfig(num_workers=threads, progress=False),
    }
    mine = {
        f"{place}, m={m}": partial(ours, m=m, config=config)
        for place, config in places.items()
        for m in (1, 8)
        if re.search(by, f"{place}, m={m}")
    }
    return {"scikit-learn": sklearns, **mine}


def loss(rows: Matrix, centers: Matrix) -> float:
    """Return the mean squared distance of all rows to their nearest centers."""
    from sklearn.metrics import pairwise_distances_argmin_min

    _, distances = pairwise_distances_argmin_min(rows, centers, metric="sqeuclidean")
    return float(distances.astype(np.float64).mean())


def compare(n: int, d: int, k: int, batch: int, options: Options, threads: int) -> None:
    """Let the contenders take turns on one size; print a line for each."""
    rows = mixture(n, d, k)
    centers = rows[:: n // k][:k].copy()
    train = contenders(threads, options.by)
    for each in train.values():  # starts Ray and compiles
        each(rows[: 4 * k], centers, 4 * k)
    runs: dict[str, list[Run]] = {name: [] for name in train}
    for _ in range(options.turns):
        for name, each in train.items():
            runs[name].append(each(rows, centers, batch))
    theirs = [run.seconds for run in runs["scikit-learn"]]
    for name, mine in runs.items():
        seconds = [run.seconds for run in mine]
        ratio = statistics.median(a / b for a, b in zip(theirs, seconds, strict=True))
        print(
            f"| {n:,} x {d}, k={k} | {batch:,} | {name} | {statistics.median(seconds):.5f} | "
            f"{ratio:.2f} | {loss(rows, mine[0].centers):.4f} |",
            flush=True,
        )


def main(options: Options) -> None:
    threads = say_where("ray", "numpy", "numba", "scikit-learn")
    print("| rows | batch | by | s/step | ratio | loss |\n" + "|---" * 6 + "|")
    for n, d, k, batch in SIZES:
        if re.search(options.only, f"{n:,} {d} {k} {batch:,}"):
            compare(n, d, k, batch, options, threads)


if __name__ == "__main__":
    main(tyro.cli(Options))
