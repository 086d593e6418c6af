"""Recall of a faiss index with our centers, beside one that faiss trains itself on the same rows.

    python benchmarks/faiss_recall.py [--clusters 256] [--seeds 3] [--iterations 10]

From Parquet to answers: fit, export as an IVF index, add the rows, search. Queries are rows that
are kept aside. "rows compared" is the share of all rows that a query is compared with: of two
indexes with the same recall, the one with the smaller share is faster. "CPU s" is the processor
time of the training alone: of ours with reading the file and saving the model.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from data_sets import COLUMNS, stored
from lloyd import Matrix
from machine import say_where
from numpy.typing import NDArray

from ray_kmeans import KMeansClustering, RunConfig, export_centers
from ray_kmeans.algorithm.metric import Metric, project
from ray_kmeans.config import DistanceMetric, InitialMethod

QUERIES = 1000
"""Number of rows that are kept aside as queries."""
NEAREST = 10
"""Number of neighbours that are looked for."""
PROBES = (1, 4, 16)
"""Numbers of lists that a search looks at."""
METRICS = {"wordnet_minilm": Metric.COSINE}
"""Metric of a data set; squared Euclidean of all others."""


@dataclass(frozen=True)
class Task:
    """Rows to index, queries and their true neighbours."""

    rows: Matrix
    """(n, d) Rows; of norm 1 for cosine."""
    queries: Matrix
    """(QUERIES, d) Rows that are not in the index."""
    nearest: NDArray[np.int64]
    """(QUERIES, NEAREST) Numbers of the true neighbours."""
    metric: Metric
    """Distance metric."""
    uri: str
    """Path of the rows as Parquet."""


def prepare(folder: Path, name: str) -> Task:
    """Return the task of a data set, whose rows are written to Parquet."""
    metric = METRICS.get(name, Metric.SQUARED_EUCLIDEAN)
    whole = project(stored(name), metric)
    order = np.random.default_rng(0).permutation(len(whole))
    queries, rows = whole[order[:QUERIES]], whole[order[QUERIES:]]
    values = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
    uri = folder / f"{name}.parquet"
    pq.write_table(pa.table({"v": values}), uri, row_group_size=8192)
    exact = flat_index(rows.shape[1], metric)
    exact.add(rows)
    return Task(rows, queries, exact.search(queries, NEAREST)[1], metric, str(uri))


def flat_index(d: int, metric: Metric) -> Any:
    """Return a flat index of faiss."""
    return faiss.IndexFlatIP(d) if metric == Metric.COSINE else faiss.IndexFlatL2(d)


def by_faiss(task: Task, k: int, iterations: int, seed: int, folder: Path) -> Any:
    """Return an index that faiss has trained, on all rows and not on a sample of these."""
    d = task.rows.shape[1]
    kind = faiss.METRIC_INNER_PRODUCT if task.metric == Metric.COSINE else faiss.METRIC_L2
    index = faiss.IndexIVFFlat(flat_index(d, task.metric), d, k, kind)
    index.cp.niter, index.cp.seed = iterations, seed
    index.cp.max_points_per_centroid = len(task.rows)
    index.cp.spherical = task.metric == Metric.COSINE
    index.train(task.rows)
    return index


def by_us(
    initial: InitialMethod, task: Task, k: int, iterations: int, seed: int, folder: Path
) -> Any:
    """Return an index with the centers of a fit of ours from Parquet."""
    km = KMeansClustering(
        k,
        str(folder / "model"),
        initial,
        distance_metric=cast(DistanceMetric, str(task.metric)),
        use_mini_batch=False,
        random_seed=seed,
        config=RunConfig(num_workers=0, progress=False),
    )
    km.fit(task.uri, max_steps=iterations)
    return faiss.read_index(export_centers(km.model_dir, str(folder / "index.faiss"), "faiss"))


Train = Callable[[Task, int, int, int, Path], Any]
CONTENDERS: dict[str, Train] = {
    "faiss": by_faiss,
    "ours, from random rows": partial(by_us, "random"),
    "ours, from k-means&#124;&#124;": partial(by_us, "kmeans_parallel"),
}


def measure(task: Task, train: Train, k: int, iterations: int, seed: int) -> list[float]:
    """Return CPU s, loss a row, and recall and share of rows for each of `PROBES`."""
    with tempfile.TemporaryDirectory() as folder:
        begin = time.process_time()
        index = train(task, k, iterations, seed, Path(folder))
        figures = [time.process_time() - begin]
    quantizer = faiss.downcast_index(index.quantizer)
    to_center, _ = quantizer.search(task.rows, 1)
    mean = float(to_center.mean(dtype=np.float64))
    figures.append(1 - mean if task.metric == Metric.COSINE else mean)
    index.add(task.rows)
    sizes = np.array([index.invlists.list_size(number) for number in range(k)])
    for probes in PROBES:
        index.nprobe = probes
        found = index.search(task.queries, NEAREST)[1]
        hits = sum(len(set(one) & set(true)) for one, true in zip(found, task.nearest, strict=True))
        looked_at = sizes[quantizer.search(task.queries, probes)[1]].sum(axis=1).mean()
        figures += [hits / found.size, float(looked_at) / len(task.rows)]
    return figures


def main() -> None:
    """Print a row for each data set and contender: means over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clusters", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=10)
    given = parser.parse_args()
    say_where("ray-kmeans", "numpy", "faiss-cpu")
    titles = ["rows", "centers by", "CPU s", "loss a row"]
    for probes in PROBES:
        titles += [f"recall, nprobe={probes}", "rows compared"]
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    with tempfile.TemporaryDirectory() as folder:
        for name in COLUMNS:
            task = prepare(Path(folder), name)
            n, d = task.rows.shape
            shown = f"{name}: {n:,} x {d}, k={given.clusters:,}, {task.metric}"
            for by, train in CONTENDERS.items():
                train(task, given.clusters, 1, 0, Path(tempfile.mkdtemp(dir=folder)))  # compiles
                of_seeds = [
                    measure(task, train, given.clusters, given.iterations, seed)
                    for seed in range(given.seeds)
                ]
                seconds, loss, *rest = np.mean(of_seeds, axis=0)
                cells = [f"{seconds:.1f}", f"{loss:.5g}"]
                for recall, share in zip(rest[::2], rest[1::2], strict=True):
                    cells += [f"{recall:.4f}", f"{share:.2%}"]
                print(f"| {shown} | {by} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
