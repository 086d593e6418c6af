"""What an iteration costs besides computing: centers out, sums in, for more and more workers.

    python benchmarks/scaling.py

Every worker holds two rows, so that a sweep is calls and bytes and nothing else. Centers go out
through the object store, once for each node; sums come back

- star: from each worker to the coordinator, which adds them up;
- slices: in runs of clusters, each added up by one of the workers, and one sum of each to the
  coordinator.

All workers are on one machine here: bytes move through its memory, and the processes share its
cores. So `ms` says what all calls, copies and additions cost together, which on a cluster are done
side by side; `own ms` is the processor time of the coordinator alone, which is not. The bytes say
what a network would carry. The model at the end is fitted to the own times (least squares,
non-negative), takes the part of a worker from the lines with the fewest workers, and adds the time
of the bytes on a network of a named speed; it predicts, it was not measured.
"""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import ray
import tyro
from machine import forget_peak, peak, say_where
from numpy.typing import NDArray
from scipy.optimize import nnls

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.data.opening import open_source
from ray_kmeans.data.sharding import Block
from ray_kmeans.engine.options import WorkerOptions, Workload
from ray_kmeans.on_ray import driver
from ray_kmeans.on_ray import pool as ray_pool

D = 256
REPEATS = 5
STORE_BYTES = 6 * 2**30
STAR, SLICES = 2**62, 0
"""Values of SLICE_FROM that make all sums go one way."""
NODES, VALUES, GBITS = (16, 64, 256, 1000), (10**6, 10**7, 10**8), (10, 100)
"""For which the model predicts."""


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
    own: float
    """Seconds of processor time of this process, which coordinates."""
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
        pool.slice_from = slice_from
        pool.sweep(centers)
        before, times, own = forget_peak() or 0, [], []
        for _ in range(REPEATS):
            begin, begin_own = time.perf_counter(), time.process_time()
            pool.sweep(centers)
            times.append(time.perf_counter() - begin)
            own.append(time.process_time() - begin_own)
        more = (peak() - before) / 2**20
        seconds = statistics.median(times), statistics.median(own)
        lines.append(Line(workers, centers.size, way, *seconds, more))
    return lines


def lines_of(options: Options) -> list[Line]:
    """Measure all pairs that fit, and print them."""
    lines = []
    for workers in options.workers:
        rows = np.random.default_rng(1).normal(size=(2 * workers, D)).astype(np.float32)
        shards = [(Block(i, 2 * i, 2, D, "x", 2 * i),) for i in range(workers)]
        takes = WorkerOptions(cpus_per_worker=0.01, worker_start_timeout_s=300)
        workload = Workload(open_source(rows), shards, takes)
        pool = driver.open_pool(workload, Metric.SQUARED_EUCLIDEAN, lambda event: None)
        try:
            pool.summarize()
            for values in options.values:
                if 24 * values * workers > options.most_bytes:
                    continue
                for line in measure(pool, workers, values):
                    lines.append(line)
                    print(
                        f"| {line.workers} | {line.values:,} | {line.way} | "
                        f"{line.seconds * 1e3:,.1f} | {line.own * 1e3:,.1f} | "
                        f"{line.received / 1e6:,.1f} | {line.busiest / 1e6:,.1f} | "
                        f"{line.coordinator_mb:,.0f} |",
                        flush=True,
                    )
        finally:
            pool.close()
    return lines


def fitted(lines: list[Line], way: str) -> tuple[float, float, float]:
    """Return own seconds a call, a worker, and a byte received, fitted to a way's lines."""
    chosen = [line for line in lines if line.way == way]
    weights = np.array([1 / line.own for line in chosen])  # relative errors count alike
    design = np.array([[1.0, line.workers, line.received] for line in chosen])
    found, _ = nnls(design * weights[:, None], np.ones(len(chosen)))
    return tuple(found.tolist())


def of_a_worker(lines: list[Line], way: str) -> float:
    """Return the seconds that a worker takes for each value of k times d, beside the others."""
    fewest = min(line.workers for line in lines)
    alone = [line for line in lines if line.way == way and line.workers == fewest]
    largest = max(alone, key=lambda line: line.values)
    return max(largest.seconds - largest.own, 0.0) / largest.values


def seconds_to_add() -> float:
    """Return the seconds that adding up takes for each byte that comes in, in one thread."""
    total, more = np.zeros(10**7, np.int64), np.ones(10**7, np.int64)
    begin = time.perf_counter()
    for _ in range(REPEATS):
        total += more
    return (time.perf_counter() - begin) / REPEATS / more.nbytes


def predicted(
    line: Line, cost: tuple[float, float, float], worker_s: float, add_s: float, gbit: float
) -> float:
    """Return the seconds of an iteration besides computing, with a worker on each node.

    Centers go out as a tree of copies from node to node. Sums come in at the speed of the network
    of who gets most; in slices, each of some workers adds up what it gets in one thread.
    """
    call, of_call, byte = cost
    out = 4 * line.values * math.ceil(math.log2(line.workers + 1))
    moved = 8e-9 / gbit * (out + line.busiest)
    added = add_s * line.busiest if line.way == "slices" else 0.0
    own = call + of_call * line.workers + byte * line.received
    return own + worker_s * line.values + added + moved


def main(options: Options) -> None:
    say_where("ray", "numpy")
    about: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False}
    ray.init("local", num_cpus=8, object_store_memory=STORE_BYTES, **about)
    print("| workers | k d | way | ms | own ms | MB to coordinator | MB to busiest | MB it holds |")
    print("|---|---|---|---|---|---|---|---|")
    lines = lines_of(options)
    add_s = seconds_to_add()
    costs = {way: (fitted(lines, way), of_a_worker(lines, way)) for way in ("star", "slices")}
    for way, ((call, of_call, byte), worker_s) in costs.items():
        print(
            f"\n{way}: {call * 1e3:.2f} ms + {of_call * 1e3:.2f} ms a worker + {byte * 1e9:.2f} ns "
            f"a byte that the coordinator gets; in a worker {worker_s * 1e9:.2f} ns a value"
        )
    print(f"\nadding up: {add_s * 1e9:.2f} ns a byte")
    print("\n| nodes | k d | network | star s | slices s |\n|---|---|---|---|---|")
    for nodes, values, gbit in product(NODES, VALUES, GBITS):
        star, slices = (
            predicted(Line(nodes, values, way, 0.0, 0.0, 0.0), *costs[way], add_s, gbit)
            for way in costs
        )
        print(f"| {nodes:,} | {values:,} | {gbit} Gbit/s | {star:,.2f} | {slices:,.2f} |")


if __name__ == "__main__":
    main(tyro.cli(Options))
