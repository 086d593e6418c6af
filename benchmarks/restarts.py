"""Compare `n_init=10` with ten fits, each of which reads the data: in this process, and on Ray.

    python benchmarks/restarts.py [--rows 200000]

Both end at the same best model; the ratio of their seconds is what one reading spares.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from machine import say_where

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.config import Cache

RESTARTS = 10
"""Number of restarts, and of fits that they are compared with."""


def write_rows(folder: Path, rows: int) -> str:
    """Write rows of 64 columns around 100 centers to Parquet; return the folder."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(100, 64)) * 2
    x = (centers[rng.integers(0, 100, rows)] + rng.normal(size=(rows, 64))).astype(np.float32)
    for number, part in enumerate(np.array_split(x, 8)):
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), 64)
        pq.write_table(pa.table({"v": vectors}), folder / f"{number}.parquet")
    return str(folder)


def estimator(place: Path, seed: int, n_init: int, config: RunConfig) -> KMeansClustering:
    """Return an estimator of 100 clusters, in full batch with a tolerance."""
    return KMeansClustering(
        100,
        str(place),
        random_seed=seed,
        use_mini_batch=False,
        relative_tolerance=1e-3,
        config=config,
        n_init=n_init,
    )


def compare(uri: str, place: Path, config: RunConfig) -> tuple[float, float]:
    """Return the seconds of `n_init` and of as many fits; raise unless both have the same best."""
    estimator(place / "warm", 0, 1, config).fit(uri, steps=1)  # compiles, and starts Ray
    begin = time.perf_counter()
    km = estimator(place / "restarts", 0, RESTARTS, config).fit(uri)
    together = time.perf_counter() - begin
    begin = time.perf_counter()
    fits = [estimator(place / f"{n}", n, 1, config).fit(uri) for n in range(RESTARTS)]
    alone = time.perf_counter() - begin
    best = min(range(RESTARTS), key=lambda n: km.restarts()[n].inertia)
    assert np.array_equal(km.clusters(), fits[best].clusters())
    return together, alone


def main() -> None:
    """Print a row for each place of the rows, here and on Ray."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    rows = parser.parse_args().rows
    say_where("ray-kmeans", "numpy")
    print("| where | rows kept | n_init=10, s | ten fits, s | ratio |\n|---|---|---|---|---|")
    places: tuple[tuple[int, Cache], ...] = (
        (0, "memory"),
        (0, "disk"),
        (0, "source"),
        (1, "memory"),
        (1, "source"),
    )
    for workers, cache in places:
        with tempfile.TemporaryDirectory() as folder:
            (data := Path(folder) / "data").mkdir()
            uri = write_rows(data, rows)
            config = RunConfig(num_workers=workers, cache=cache, progress=False)
            together, alone = compare(uri, Path(folder), config)
        here = "Ray, 1 worker" if workers else "this process"
        print(f"| {here} | {cache} | {together:.1f} | {alone:.1f} | {together / alone:.2f} |")


if __name__ == "__main__":
    main()
