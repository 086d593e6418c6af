"""Many clusters: trees and flat fits beside faiss and SuperKMeans, flat and of two levels.

    python benchmarks/large_k.py                     (all sets; some minutes each)
    python benchmarks/large_k.py --sets mnist words --without "faiss, flat"
    python benchmarks/large_k.py --beams             (labels by a beam beside exact ones)

Each contender fits in a process of its own, all rows and no sample, and gives its centers. All of
them are judged by the same exact labels, which ray_kmeans makes afterwards: `loss` is the sum of
squared distances to the nearest center, divided by the same sum for our flat Lloyd's after as many
iterations. CV, p99 and max describe the sizes of clusters by these labels, divided by their mean.
"labels s" is the time of labelling all rows exactly. "CPU s" is the processor time of the process
that fits, without its imports.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from data_sets import stored
from lloyd import Matrix
from machine import say_where, threads
from tables import heading, markdown

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.engine.tree_descent import BeamLabels
from ray_kmeans.kernels import load

HERE = RunConfig(num_workers=0, progress=False)


class Set(NamedTuple):
    make: Callable[[], Matrix]
    k: int


def words(n: int, d: int) -> Matrix:
    """Rows like word vectors: 3,000 centers of uneven weight in 20 dimensions, and noise in all."""
    random = np.random.default_rng(1)
    inner = min(20, d)
    turn = random.standard_normal((inner, d))
    centers, own = random.standard_normal((3000, inner)), random.zipf(1.3, n) % 3000
    rows = np.empty((n, d), np.float32)
    for start in range(0, n, 100_000):
        some = centers[own[start : start + 100_000]]
        near = some + 0.5 * random.standard_normal(some.shape)
        rows[start : start + 100_000] = 0.3 * (near @ turn + random.standard_normal((len(some), d)))
    return rows


SETS: Mapping[str, Set] = {
    "wordnet_minilm": Set(lambda: stored("wordnet_minilm"), 1_024),
    "mnist": Set(lambda: stored("mnist"), 4_096),
    "words": Set(partial(words, 200_000, 50), 8_192),
    "large": Set(partial(words, 1_000_000, 96), 16_384),
    "largest": Set(partial(words, 1_000_000, 96), 65_536),
}
"""Rows and clusters by the name of a set."""


def ours(rows: Matrix, k: int, iterations: int, **more: Any) -> Matrix:
    with tempfile.TemporaryDirectory(prefix="ray_kmeans_benchmark_") as place:
        km = KMeansClustering(k, place, use_mini_batch=False, config=HERE, **more)
        return np.asarray(km.fit(rows, steps=iterations).clusters())


def faiss(rows: Matrix, k: int, iterations: int) -> Matrix:
    km = importlib.import_module("faiss").Kmeans(
        rows.shape[1], k, niter=iterations, max_points_per_centroid=10**9, min_points_per_centroid=1
    )
    km.train(rows)
    return np.asarray(km.centroids)


def faiss_levels(rows: Matrix, k: int, iterations: int) -> Matrix:
    """Its own 25 iterations below the top level: they cannot be given."""
    clustering = importlib.import_module("faiss.contrib.clustering")
    found, _ = clustering.two_level_clustering(
        rows, round(k**0.5), k, clustering_niter=iterations,
        min_points_per_centroid=1,
    )  # fmt: skip
    return np.asarray(found)


def superkmeans(
    rows: Matrix, k: int, iterations: int, levels: bool = False, own: bool = False
) -> Matrix:
    """`own`: its own numbers of iterations (3 and 5) where it has levels."""
    more: dict[str, Any] = {} if own else {"tol": 0.0, "early_termination": False}
    if levels and not own:
        more |= {"iters_mesoclustering": iterations, "iters_fineclustering": iterations}
    km = importlib.import_module("superkmeans").SuperKMeans(
        k, rows.shape[1], hierarchical=levels, iters=iterations, sampling_fraction=1.0,
        max_points_per_cluster=10**9, n_threads=threads(), **more,
    )  # fmt: skip
    return np.asarray(km.train(rows))


CONTENDERS: Mapping[str, Callable[..., Matrix]] = {
    "ours, flat": ours,
    "ours, tree": partial(ours, levels=2),
    "ours, tree and 2 steps": partial(ours, levels=2, refine_steps=2),
    "faiss, flat": faiss,
    "faiss, two levels": faiss_levels,
    "superkmeans, flat": superkmeans,
    "superkmeans, two levels": partial(superkmeans, levels=True),
    "superkmeans, two levels, its own iterations": partial(superkmeans, levels=True, own=True),
}
"""How each contender makes its centers from rows, the number of clusters and of iterations."""


def fit(name: str, place: Path, k: int, iterations: int) -> None:
    """Fit small data first, so that all is compiled and loaded; then fit, and say how it went."""
    rows = np.load(place / "rows.npy")
    CONTENDERS[name](np.ascontiguousarray(rows[:20_000]), 400, 2)
    begin, used = time.perf_counter(), time.process_time()
    centers = CONTENDERS[name](rows, k, iterations)
    print(json.dumps([time.perf_counter() - begin, time.process_time() - used]))
    np.save(place / "centers.npy", np.ascontiguousarray(centers, np.float32))


def judge(rows: Matrix, centers: Matrix) -> tuple[float, float, list[float]]:
    """Return the loss, the seconds of exact labels, and (CV, p99, max) of the sizes."""
    kernel, labels = load("cpu", threads()), np.empty(len(rows), np.int32)
    begin = time.perf_counter()
    kernel.assign(rows, kernel.prepare(centers, Metric.SQUARED_EUCLIDEAN), labels)
    seconds = time.perf_counter() - begin
    loss = kernel.distances_to(rows, centers, labels, Metric.SQUARED_EUCLIDEAN).sum()
    sizes = np.bincount(labels, minlength=len(centers)) / len(rows) * len(centers)
    return float(loss), seconds, [sizes.std(), float(np.quantile(sizes, 0.99)), sizes.max()]


def compare(name: str, left_out: list[str], iterations: int, limit_s: float) -> list[list[str]]:
    """Return a line of the table for each contender of a set."""
    rows, k = SETS[name].make(), SETS[name].k
    shape, lines, least = f"{name}: {len(rows):,} x {rows.shape[1]}, k={k:,}", [], None
    with tempfile.TemporaryDirectory(prefix="ray_kmeans_benchmark_") as place:
        np.save(f"{place}/rows.npy", rows)
        for contender in CONTENDERS:
            if any(contender.startswith(each) for each in left_out):
                lines.append([shape, contender, "not run"])
                continue
            command = [sys.executable, __file__, "--fit", contender, place, str(k), str(iterations)]
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=limit_s, check=True
                )
            except subprocess.TimeoutExpired:
                lines.append([shape, contender, f"over {limit_s:.0f}"])
                continue
            except subprocess.CalledProcessError as error:
                lines.append([shape, contender, f"failed: {error.stderr.splitlines()[-1]}"])
                print(lines[-1], file=sys.stderr, flush=True)
                continue
            seconds, used = json.loads(done.stdout.splitlines()[-1])
            loss, labelling, sizes = judge(rows, np.load(f"{place}/centers.npy"))
            least = least or loss
            figures = f"{seconds:.2f}", f"{used:.2f}", f"{loss / least:.4f}", f"{labelling:.2f}"
            lines.append([shape, contender, *figures, *(f"{each:.2f}" for each in sizes)])
            print(lines[-1], file=sys.stderr, flush=True)
    return lines


def beams(name: str, iterations: int) -> list[list[str]]:
    """Return a line for labels by each of some beams: seconds for all rows, recall, loss."""
    rows, k = SETS[name].make(), SETS[name].k
    kernel, metric = load("cpu", threads()), Metric.SQUARED_EUCLIDEAN
    exact = np.empty(len(rows), np.int32)
    with tempfile.TemporaryDirectory(prefix="ray_kmeans_benchmark_") as place:
        km = KMeansClustering(k, place, use_mini_batch=False, levels=2, config=HERE)
        km.fit(rows, steps=iterations)
        centers, tree = km.clusters(), km.tree()
    assert tree is not None
    begin = time.perf_counter()
    kernel.assign(rows, kernel.prepare(centers, metric), exact)
    seconds = time.perf_counter() - begin
    least = kernel.distances_to(rows, centers, exact, metric).sum()
    shape = f"{name}: {len(rows):,} x {rows.shape[1]}, k={k:,}, top {tree.sizes[0]:,}"
    lines = [[shape, "exact", f"{seconds:.2f}", "1", "1"]]
    for width in (1, 2, 4, 8):
        labeller = BeamLabels(tree, centers, kernel, metric)
        begin = time.perf_counter()
        found = np.concatenate([labeller.labels(each, width) for each in np.array_split(rows, 20)])
        seconds = time.perf_counter() - begin
        loss = kernel.distances_to(rows, centers, found, metric).sum() / least
        recall = f"{(found == exact).mean():.4f}"
        lines.append([shape, f"beam {width}", f"{seconds:.2f}", recall, f"{loss:.4f}"])
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--without", nargs="*", default=[], help="beginnings of contenders' names")
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--limit", type=float, default=900.0, help="seconds of a contender at most")
    parser.add_argument("--beams", action="store_true", help="labels by a beam instead of fits")
    parser.add_argument("--fit", nargs=4, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.fit:
        contender, place, k, iterations = flags.fit
        fit(contender, Path(place), int(k), int(iterations))
        return
    say_where("numpy", "numba", "faiss-cpu", "superkmeans")
    if flags.beams:
        print(heading(["rows", "labels", "seconds", "recall", "loss"]))
        for line in [line for name in flags.sets for line in beams(name, flags.iterations)]:
            print(markdown(line))
        return
    lines = [
        line
        for name in flags.sets
        for line in compare(name, flags.without, flags.iterations, flags.limit)
    ]
    columns = ["rows", "by", "fit s", "CPU s", "loss", "labels s", "CV", "p99", "max"]
    print(heading(columns))
    for line in lines:
        print(markdown([*line, *[""] * (len(columns) - len(line))]))


if __name__ == "__main__":
    main()
