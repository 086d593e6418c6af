"""How fast labelled output is written, beside one sweep and a plain write of the same table.

    python benchmarks/labels.py

Rows in Parquet (FixedSizeList of float32, an id beside it) on this machine's disk, in the page
cache; one worker in this process with all threads; the ways take turns.

- sweep: `ShardWorker.sweep` of rows in memory that nothing is known of yet: the first iteration of
  a fit, labels and sums.
- table: `pyarrow.parquet.write_table` of id, row, cluster_idx and distance of all rows to one file,
  synced to the disk.
- predict: `ShardWorker.write_labels` of the same rows in memory: labels, distances, the column id
  read from the data, in parts of some blocks, hashed, each synced to the disk.
- with second: the same with the second-nearest centers.
- by cluster: what `--by-cluster` takes beyond predict.

ratio: seconds over those of sweep and table together, turn by turn. Medians over the turns.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from machine import say_where, threads
from numpy.typing import NDArray

from ray_kmeans.algorithm.grid import Grid
from ray_kmeans.data.opening import open_source
from ray_kmeans.data.source import Source
from ray_kmeans.engine.label_writer import NearestCenters
from ray_kmeans.engine.options import WorkerSetup
from ray_kmeans.engine.worker import ShardWorker
from ray_kmeans.store.labelled_by_cluster import ByCluster
from ray_kmeans.store.labelled_parts import Part, Parts

SIZES = ((400_000, 16, 64), (200_000, 128, 256), (100_000, 384, 1024))
GROUP_ROWS = 8_192


@dataclass(frozen=True)
class Options:
    """Compare predict with a sweep and a write."""

    turns: int = 5
    together: int = 16
    """Blocks of a part: 16 for large data, 1 for small ones."""


def put_data(folder: Path, n: int, d: int, k: int) -> NDArray[np.float32]:
    """Write n rows around k centers, and return the centers."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((k, d), dtype=np.float32)
    rows = centers[rng.integers(0, k, n)] + rng.standard_normal((n, d), dtype=np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), d)
    table = pa.table({"id": [f"id-{i:09d}" for i in range(n)], "vector": vectors})
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "0.parquet", row_group_size=GROUP_ROWS)
    return centers


def timed(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


class Turn:
    """One turn of all ways; a worker of its own for each, so that none knows rows already."""

    def __init__(
        self, folder: Path, source: Source, centers: NDArray[np.float32], together: int
    ) -> None:
        self._out = folder / "out"
        self._together = together
        self._source = source
        self._blocks = source.describe().blocks
        self._centers = centers
        self._parts: list[Part] = []

    def seconds(self) -> dict[str, float]:
        found = {"sweep": self._sweep()}
        found["predict"] = self._predict(second=False)
        found["table"] = self._table()
        found["by cluster"] = self._by_cluster()
        found["with second"] = self._predict(second=True)
        shutil.rmtree(self._out)
        return found

    def _worker(self) -> ShardWorker:
        worker = ShardWorker(WorkerSetup(threads=threads()))
        worker.measure(Grid.of(worker.load(self._source, self._blocks)))
        return worker

    def _sweep(self) -> float:
        worker = self._worker()
        return timed(lambda: worker.sweep(self._centers))

    def _predict(self, second: bool) -> float:
        worker = self._worker()
        parts = Parts(str(self._out / ("second" if second else "parts")))
        begin = time.perf_counter()
        about = self._centers, parts, ("id",), NearestCenters(second), self._together
        self._parts, _ = worker.write_labels(*about)
        return time.perf_counter() - begin

    def _table(self) -> float:
        table = pq.read_table(self._out / "parts").combine_chunks()
        path = self._out / "table.parquet"

        def write() -> None:
            with path.open("wb") as file:
                pq.write_table(table, file)
                file.flush()
                os.fsync(file.fileno())

        return timed(write)

    def _by_cluster(self) -> float:
        place = ByCluster(str(self._out / "by"), {}, Parts(str(self._out / "parts")))
        counts = np.zeros(len(self._centers), np.int64)
        bundles, width = place.plan(self._parts, counts, None)
        return timed(lambda: [place.gather(bundle, width) for bundle in bundles])


def main() -> None:
    options = tyro.cli(Options)
    say_where("numpy", "pyarrow", "numba")
    print("| n | d | k | by | s | rows/s | ratio |")
    print("|---|---|---|---|---|---|---|")
    for n, d, k in SIZES:
        with tempfile.TemporaryDirectory() as place:
            centers = put_data(Path(place) / "data", n, d, k)
            source = open_source(f"{place}/data", ["vector"])
            turn = Turn(Path(place), source, centers, options.together)
            turn.seconds()  # compiles
            turns = [turn.seconds() for _ in range(options.turns)]
        for name in ("sweep", "table", "predict", "by cluster", "with second"):
            seconds = statistics.median(each[name] for each in turns)
            ratio = statistics.median(e[name] / (e["sweep"] + e["table"]) for e in turns)
            print(
                f"| {n:,} | {d} | {k} | {name} | {seconds:.3f} | {n / seconds:,.0f} | {ratio:.2f} |"
            )


if __name__ == "__main__":
    main()
