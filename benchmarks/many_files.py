"""What many small files, and many row groups, cost: planned, read, and fitted.

    python benchmarks/many_files.py

Rows of 4 float32 in Parquet, ten in each part: 20,000 files of one row group, and one file of
100,000 row groups, from this machine's disk (in the page cache). Seconds of this process, by the
clock and by its CPUs: on a machine that is shared the second are what can be compared.

- plan: list and describe the files, what a checkpoint says of them, shards for 4 workers, and these
  to bytes and back, as they travel.
- fit: k=8, all rows, 5 steps, in this process, from the listing to the model on the disk.
- pyarrow: `pyarrow.dataset` reads all rows into memory with all its threads.
"""

from __future__ import annotations

import pickle
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import tyro
from machine import say_where

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.data.fingerprint import contents_of
from ray_kmeans.data.opening import open_source
from ray_kmeans.data.sharding import split

FEATURES = 4


@dataclass(frozen=True)
class Options:
    """Plan, read and fit small parts."""

    files: int = 20_000
    groups: int = 100_000
    rows: int = 10
    """Of each part."""


def write(path: Path, groups: int, rows: int) -> None:
    """Write a Parquet file with the given number of row groups."""
    values = np.random.default_rng(0).random((groups * rows, FEATURES), np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(values.ravel(), FEATURES)
    pq.write_table(pa.table({"v": vectors}), path, row_group_size=rows)


def plan(place: str) -> None:
    source = open_source(place)
    layout = source.describe()
    contents_of(source, layout)
    pickle.loads(pickle.dumps((source, split(layout.blocks, 4))))


def fit(place: str) -> None:
    with tempfile.TemporaryDirectory(prefix="ray_kmeans_benchmark_") as model:
        config = RunConfig(num_workers=0, progress=False)
        KMeansClustering(8, model, use_mini_batch=False, config=config).fit(place, max_steps=5)


def by_arrow(place: str) -> None:
    ds.dataset(place, format="parquet").to_table()


CALLS: dict[str, Callable[[str], None]] = {"plan": plan, "fit": fit, "pyarrow": by_arrow}


def main(options: Options) -> None:
    say_where("numpy", "pyarrow", "fsspec")
    print("| data | what | s | CPU s |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="ray_kmeans_benchmark_") as name:
        warm, many, one = (Path(name, each) for each in ("warm", "many", "one"))
        for folder in (warm, many, one):
            folder.mkdir()
        write(warm / "x.parquet", 2, 100)
        fit(str(warm))
        for number in range(options.files):
            write(many / f"{number:06}.parquet", 1, options.rows)
        write(one / "x.parquet", options.groups, options.rows)
        for what, folder in (
            (f"{options.files:,} files", many),
            (f"{options.groups:,} row groups", one),
        ):
            for call in CALLS:
                begin, cpu = time.perf_counter(), time.process_time()
                CALLS[call](str(folder))
                spent = time.perf_counter() - begin, time.process_time() - cpu
                print(f"| {what} | {call} | {spent[0]:.1f} | {spent[1]:.1f} |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options))
