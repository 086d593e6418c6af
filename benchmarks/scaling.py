"""What an iteration costs besides computing: centers out, sums in, for more and more workers.

    python benchmarks/scaling.py

Every worker holds two rows, so that a sweep is calls and bytes and nothing else. Centers go out
through the object store, once for each node; sums come back

- star: from each worker to the coordinator, which adds them up;
- slices: in runs of clusters, each added up by one of the workers, and one sum of each to the
  coordinator.

All workers are on one machine here: bytes move through its memory, and the processes share its
cores. So the seconds say what calls, copies and additions cost; the bytes say what a network would
carry. The model at the end is fitted to these seconds (least squares, non-negative) and adds the
time of the bytes on a network of a named speed; it predicts, it was not measured.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import tyro
from machine import forget_peak, peak, say_where
from numpy.typing import NDArray
from scipy.optimize import nnls  # type: ignore[import-untyped]

from ray_kmeans.cluster import on_ray, ray_pool
from ray_kmeans.cluster.options import WorkerOptions
from ray_kmeans.clustering.metric import SQUARED_EUCLIDEAN
from ray_kmeans.data.plan import Block
from ray_kmeans.data.source import open_source

D = 256
REPEATS = 5
STORE_BYTES = 6 * 2**30
STAR, SLICES = 2**62, 0
"""Values of SLICE_FROM that make all sums go one way."""


@dataclass(frozen=True)
class Options:
    """Measure the cost of calls and sums."""

    workers: tuple[int, ...] = (2, 8, 32, 64)
    values: tuple[int, ...] = (10**4, 10**5, 10**6, 10**7)
    """k times d."""
    most_bytes: float = 12e9
    """Of all workers' sums, with what they keep of them: larger pairs are left out."""


@dataclass(frozen=True)
class Line:
    """One measurement."""

    workers: int
    values: int
    way: str
    seconds: float
    coordinator_mb: float
    """What this process, which coordinates, holds more than before."""

    @property
    def received(self) -> int:
        """Bytes of sums that reach the coordinator."""
        return 8 * self.values * (self.workers if self.way == "star" else 1)

    @property
    def busiest(self) -> int:
        """Bytes of sums that reach the process which gets most."""
        slices = min(self.workers, ray_pool.MOST_SLICES)
        of_reducer = 8 * self.values * (self.workers - 1) // slices
        return self.received if self.way == "star" else max(self.received, of_reducer)


def measure(pool: Any, workers: int, values: int) -> list[Line]:
    """Time sweeps with so many values of centers, both ways."""
    rng = np.random.default_rng(0)
    centers: NDArray[np.float32] = rng.normal(size=(max(values // D, 2), D)).astype(np.float32)
    lines = []
    for way, slice_from in (("star", STAR), ("slices", SLICES)):
        ray_pool.SLICE_FROM = slice_from
        pool.sweep(centers)
        before, times = forget_peak() or 0, []
        for _ in range(REPEATS):
            begin = time.perf_counter()
            pool.sweep(centers)
            times.append(time.perf_counter() - begin)
        more = (peak() - before) / 2**20
        lines.append(Line(workers, centers.size, way, statistics.median(times), more))
    return lines


def lines_of(options: Options) -> list[Line]:
    """Measure all pairs that fit, and print them."""
    lines = []
    for workers in options.workers:
        rows = np.random.default_rng(1).normal(size=(2 * workers, D)).astype(np.float32)
        shards = [(Block(i, 2 * i, 2, D, "x", 2 * i),) for i in range(workers)]
        about = SQUARED_EUCLIDEAN, WorkerOptions(cpus=0.01, start_timeout_s=300)
        pool = on_ray.open_pool(open_source(rows), shards, *about, lambda event: None)
        try:
            pool.summarize()
            for values in options.values:
                if 24 * values * workers > options.most_bytes:
                    continue
                for line in measure(pool, workers, values):
                    lines.append(line)
                    print(
                        f"| {line.workers} | {line.values:,} | {line.way} | "
                        f"{line.seconds * 1e3:,.1f} | {line.received / 1e6:,.1f} | "
                        f"{line.busiest / 1e6:,.1f} | {line.coordinator_mb:,.0f} |",
                        flush=True,
                    )
        finally:
            pool.close()
    return lines


def fitted(lines: list[Line], way: str) -> tuple[float, float, float]:
    """Return seconds a call, a worker, and a byte of all workers' sums, fitted to a way's lines."""
    chosen = [line for line in lines if line.way == way]
    weights = np.array([1 / line.seconds for line in chosen])  # relative errors count alike
    design = np.array([[1.0, line.workers, 8.0 * line.values * line.workers] for line in chosen])
    found, _ = nnls(design * weights[:, None], np.ones(len(chosen)))
    return tuple(found.tolist())


def main(options: Options) -> None:
    say_where("ray", "numpy")
    ray.init(
        num_cpus=8, include_dashboard=False, object_store_memory=STORE_BYTES, log_to_driver=False
    )
    print("| workers | k d | way | ms | MB to the coordinator | MB to the busiest | MB it holds |")
    print("|---|---|---|---|---|---|---|")
    lines = lines_of(options)
    for way in ("star", "slices"):
        call, worker, byte = fitted(lines, way)
        print(
            f"\n{way}: {call * 1e3:.2f} ms + {worker * 1e3:.2f} ms a worker + "
            f"{byte * 1e9:.2f} ns a byte of all sums"
        )


if __name__ == "__main__":
    main(tyro.cli(Options))
