"""The contenders of cpu.py: each fits in a process of its own and says in a line how that went.

    python benchmarks/peers.py '{"contender": "faiss", ...}'   (the fields of Job; cpu.py does this)

The process fits small data first, so that compilation and threads are ready, then loads the rows,
fits one iteration twice and all iterations once, all with the same initial centers.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from lloyd import Matrix, mixture
from machine import fastest_products, forget_peak, peak, threads
from numpy.typing import NDArray

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.kernels.cpu import CpuKernel
from ray_kmeans.observe.events import IterationDone

WARM_UP = ((400, 2, 4), (10_000, 64, 256))
"""(n, d, k): the second is enough work for products of bytes."""
ENDLESS = 1000
"""Iterations within which a fit to the end has ended."""
SAMPLE = 20_000
CHECKED = 1e11
"""Rows x d x k of the sample at most: 10 seconds in float64."""


@dataclass(frozen=True)
class Job:
    contender: str
    rows: str
    centers: str
    """Paths of .npy files."""
    iterations: int | None
    """None: until no center moves."""
    check: bool
    """Whether to look at the labels too, which takes a while."""
    processor: bool = False
    """Whether to take processor seconds instead of those that pass."""


@dataclass(frozen=True)
class Figures:
    computed_by: str
    whole: float
    """Seconds of the whole fit."""
    seconds: float
    """Per iteration after the first; of a fit to the end, per iteration."""
    iterations: int
    memory: int | None
    """Bytes at the peak, the data included."""
    peak: float | None = None
    """Operations per second of the unit that multiplied, which multiplies and does nothing else."""
    inertia: float | None = None
    """Of the final centers; from the sample."""
    wrong: int | None = None
    sample: int = 0


class Fitted(NamedTuple):
    read: Callable[[], tuple[Matrix, int]]
    """Return the centers and the number of iterations; not timed."""
    label: Callable[[Matrix], NDArray[Any]]
    steps: Sequence[float] = ()
    """Seconds of each iteration, where the fit itself takes them."""


Fit = Callable[[Matrix, Matrix, int | None], Fitted]


def ours(rows: Matrix, centers: Matrix, iterations: int | None, workers: int = 0) -> Fitted:
    """In this process, or with workers on Ray: these start anew, in a time that varies too much."""
    steps: list[float] = []
    model_dir = tempfile.TemporaryDirectory(prefix="ray_kmeans_benchmark_")
    config = RunConfig(num_workers=workers, progress=False)
    km = KMeansClustering(
        len(centers), model_dir.name, centers, use_mini_batch=False, config=config
    )
    if workers:
        km._listeners.append(
            lambda event: steps.append(event.seconds) if isinstance(event, IterationDone) else None
        )
    km.fit(rows, steps=iterations)

    def label(sample: Matrix) -> NDArray[Any]:
        found = km.predict(sample, outputs=("cluster_idx",), as_iterable=False)["cluster_idx"]
        model_dir.cleanup()
        return np.asarray(found)

    return Fitted(lambda: (km.clusters(), len(km.history())), label, steps)


def sklearns(
    rows: Matrix,
    centers: Matrix,
    iterations: int | None,
    algorithm: str = "lloyd",
    patched: bool = False,
) -> Fitted:
    if patched:
        importlib.import_module("sklearnex").patch_sklearn()
    from sklearn.cluster import KMeans

    most = iterations or ENDLESS
    km = KMeans(
        len(centers), init=centers, n_init=1, max_iter=most, tol=0, algorithm=algorithm
    ).fit(rows)
    return Fitted(lambda: (km.cluster_centers_, km.n_iter_), km.predict)


def faiss(rows: Matrix, centers: Matrix, iterations: int | None, prune: bool = False) -> Fitted:
    """All rows, not a sample of 256 per cluster. `prune`: its implementation of SuperKMeans."""
    km = importlib.import_module("faiss").Kmeans(
        rows.shape[1],
        len(centers),
        niter=iterations or ENDLESS,
        max_points_per_centroid=10**9,
        min_points_per_centroid=1,
        use_super_kmeans=prune,
    )
    km.train(rows, init_centroids=centers)
    return Fitted(lambda: (km.centroids, len(km.obj)), lambda sample: km.assign(sample)[1])


def superkmeans(rows: Matrix, centers: Matrix, iterations: int | None) -> Fitted:
    """From centers of its own choice: it takes none."""
    km = importlib.import_module("superkmeans").SuperKMeans(
        len(centers),
        rows.shape[1],
        hierarchical=False,
        iters=iterations or ENDLESS,
        sampling_fraction=1.0,
        max_points_per_cluster=10**9,
        n_threads=threads(),
        tol=0.0,
        early_termination=False,
    )
    found = km.train(rows)
    return Fitted(lambda: (found, iterations or ENDLESS), lambda sample: km.assign(sample, found))


CONTENDERS: Mapping[str, tuple[str, Fit]] = {
    "ours": ("ray_kmeans", ours),
    "ours on Ray": ("ray", partial(ours, workers=1)),
    "scikit-learn lloyd": ("sklearn", sklearns),
    "scikit-learn elkan": ("sklearn", partial(sklearns, algorithm="elkan")),
    "scikit-learn-intelex": ("sklearnex", partial(sklearns, patched=True)),
    "faiss": ("faiss", faiss),
    "faiss, pruning": ("faiss", partial(faiss, prune=True)),
    "superkmeans": ("superkmeans", superkmeans),
}
"""Name: (module that must be there, how it fits)."""


def compare(sample: Matrix, centers: Matrix, labels: NDArray[Any]) -> tuple[float, int]:
    """Return in float64 the inertia of the sample, and how many labels are not of the nearest.

    Centers whose distances float64 cannot tell apart (one part in 1e12) are equally near.
    """
    columns = centers.T.astype(np.float64)
    norms = (columns**2).sum(axis=0)
    total, wrong = 0.0, 0
    for start in range(0, len(sample), 512):
        rows = sample[start : start + 512].astype(np.float64)
        own = (rows**2).sum(axis=1)
        scores = rows @ columns
        scores *= -2
        scores += norms
        nearest = scores.argmin(axis=1)
        line = np.arange(len(rows))
        found = labels[start : start + 512]
        excess = scores[line, found] - scores[line, nearest]
        wrong += int((excess > 1e-12 * (own + norms[nearest])).sum())
        total += float((own + scores[line, nearest]).sum())
    return total, wrong


def run(job: Job) -> Figures:
    """Fit as the job says, and take the time."""
    fit = CONTENDERS[job.contender][1]
    for n, d, k in WARM_UP:
        small = mixture(n, d, k)
        fit(small, small[:k].copy(), 3)
    before = forget_peak()
    rows, centers = np.load(job.rows), np.load(job.centers)
    clock = time.process_time if job.processor else time.perf_counter
    timed = partial(_timed, clock, fit, rows, centers)
    first = min(timed(1)[0] for _ in range(2)) if job.iterations else 0.0
    whole, fitted = timed(job.iterations)
    memory = None if before is None or job.contender == "ours on Ray" else peak() - before
    found, iterations = fitted.read()
    steps = max(iterations - 1 if job.iterations else iterations, 1)
    seconds = fmean(fitted.steps[1:]) if len(fitted.steps) > 1 else (whole - first) / steps
    figures = Figures(job.contender, whole, seconds, iterations, memory)
    if job.contender.startswith("ours"):
        unit = CpuKernel(threads()).ready(len(rows), *centers.shape)
        figures = replace(figures, computed_by=unit, peak=fastest_products(unit, clock))
    if not job.check:
        return figures
    size = min(len(rows), SAMPLE, int(CHECKED / centers.size))
    sample = np.ascontiguousarray(rows[:: len(rows) // size][:size])
    total, wrong = compare(sample, found, fitted.label(sample))
    return replace(figures, inertia=total * len(rows) / size, wrong=wrong, sample=size)


def _timed(
    clock: Callable[[], float], fit: Fit, rows: Matrix, centers: Matrix, iterations: int | None
) -> tuple[float, Fitted]:
    begin = clock()
    fitted = fit(rows, centers, iterations)
    return clock() - begin, fitted


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # not converged, empty clusters
    print("\n" + json.dumps(asdict(run(Job(**json.loads(sys.argv[1]))))), flush=True)
