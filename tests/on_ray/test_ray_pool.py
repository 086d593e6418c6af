"""The pool on Ray equals the local one bit for bit, and says clearly what it cannot do."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.algorithm.stopping import StopRule
from ray_kmeans.data.opening import open_source
from ray_kmeans.data.sharding import split
from ray_kmeans.data.worker_memory import Footprint
from ray_kmeans.demo import DATA
from ray_kmeans.errors import (
    BudgetError,
    DataError,
    NonFiniteError,
    WorkersLostError,
)
from ray_kmeans.observe import events as ev
from ray_kmeans.store.labelled import LabelledOutput
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.workflows import fit, label
from ray_kmeans.workflows.parameters import FitParams

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def fitted(x, model_dir, num_workers, k=12, steps=8, **config):
    km = KMeansClustering(
        k,
        str(model_dir),
        use_mini_batch=False,
        random_seed=3,
        config=RunConfig(num_workers=num_workers, progress=False, **config),
    )
    return km.fit(x, steps=steps)


def fit_and_watch(source, model_dir, k, rule, listener, **params):
    config = RunConfig(num_workers=2, progress=False)
    params = FitParams(
        **KMeansClustering(k, **{"use_mini_batch": False, **params}).get_params(deep=False)
    )
    plan = fit.plan_fit(params, config, rule, None)
    store = ModelDir.at(str(model_dir), {}, 5)
    return fit.fit(plan, source, store, config, listeners=[listener])


def write_parquet(folder: Path, rows: np.ndarray, files: int, row_group: int) -> str:
    folder = folder / "data"
    folder.mkdir()
    for number, part in enumerate(np.array_split(rows, files)):
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), rows.shape[1])
        table = pa.table({"v": vectors})
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=row_group)
    return str(folder)


@pytest.fixture(scope="module")
def on_real_data(tmp_path_factory):
    return fitted(str(DATA), tmp_path_factory.mktemp("local"), num_workers=0)


@pytest.mark.long(kind="bits of a pool")
@pytest.mark.parametrize("num_workers", [1, 5])
def test_any_number_of_workers_gives_the_bits_of_the_local_pool(
    on_real_data, tmp_path, num_workers
):
    km = fitted(str(DATA), tmp_path, num_workers)

    np.testing.assert_array_equal(km.clusters(), on_real_data.clusters())
    np.testing.assert_array_equal(km.counts(), on_real_data.counts())
    assert km.history() == on_real_data.history()


@pytest.mark.long(kind="bits of a pool")
def test_random_data_of_many_scales_gives_the_same_bits_too(tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3000, 9)) * 10.0 ** rng.integers(-6, 6, 9) + rng.integers(0, 3, 9)
    uri = write_parquet(tmp_path, rows.astype(np.float32), files=3, row_group=400)

    local = fitted(uri, tmp_path / "m0", 0, k=20)
    spread = fitted(uri, tmp_path / "m4", 4, k=20)

    np.testing.assert_array_equal(spread.clusters(), local.clusters())
    assert spread.history() == local.history()


@pytest.mark.long(kind="bits of a pool")
def test_an_array_in_memory_gives_the_same_bits_as_its_files(tmp_path):
    rows = np.random.default_rng(5).normal(size=(9_000, 6)).astype(np.float32)
    uri = write_parquet(tmp_path, rows, files=2, row_group=1_500)

    from_files = fitted(uri, tmp_path / "files", 2)
    from_array = fitted(rows, tmp_path / "array", 3)

    np.testing.assert_array_equal(from_array.clusters(), from_files.clusters())
    assert from_array.score(rows) == from_files.score(uri)


@pytest.mark.long(kind="bits of a pool")
def test_labelled_output_by_workers_equals_that_of_this_process(on_real_data, tmp_path):
    state = ModelDir.at(on_real_data.model_dir, {}, 5).latest()
    tables = []
    for num_workers in (0, 3):
        output = LabelledOutput.at(str(tmp_path / str(num_workers)), {})

        found = label.write_labels(
            state,
            open_source(str(DATA)),
            output,
            RunConfig(num_workers=num_workers),
            model_dir=on_real_data.model_dir,
            keep_columns=["synset"],
        )

        assert found.rows == 6000
        tables.append(pq.read_table(output.url))
    assert tables[0].equals(tables[1])
    expected = list(on_real_data.predict_cluster_idx(str(DATA)))
    assert tables[0]["cluster_idx"].to_pylist() == expected


@pytest.mark.long(kind="errors of a pool")
def test_rows_that_are_not_finite_are_named_by_file_and_row_group(tmp_path):
    rows = np.ones((1000, 3), np.float32)
    rows[[10, 700, 701]] = np.nan
    uri = write_parquet(tmp_path, rows, files=2, row_group=150)

    with pytest.raises(NonFiniteError) as caught:
        fitted(uri, tmp_path / "m", 3)

    assert caught.value.places == (
        (f"row group 0 of {uri}/0.parquet", 1, 10),
        (f"row group 1 of {uri}/1.parquet", 2, 200),
    )


def test_a_file_that_is_cut_off_is_named_and_never_retried(tmp_path):
    uri = write_parquet(tmp_path, np.ones((4000, 8), np.float32), files=1, row_group=500)
    source = open_source(uri)
    source.describe()
    content = Path(uri, "0.parquet").read_bytes()
    Path(uri, "0.parquet").write_bytes(content[:100] + b"\x00" * 500 + content[600:])
    replaced = []

    with pytest.raises(DataError, match=re.escape("0.parquet")):
        fit_and_watch(
            source,
            tmp_path / "m",
            3,
            StopRule(),
            lambda e: replaced.append(e) if isinstance(e, ev.WorkerReplaced) else None,
        )

    assert not replaced


@pytest.mark.long(kind="errors of a pool")
def test_workers_that_cannot_start_end_the_fit_with_the_numbers(tmp_path):
    uri = write_parquet(tmp_path, np.ones((2000, 2), np.float32), files=1, row_group=100)

    with pytest.raises(WorkersLostError, match=r"of 12 workers did not start within .*=3"):
        fitted(uri, tmp_path / "m", 12, worker_start_timeout_s=3.0)


def test_a_plan_that_does_not_fit_is_refused_before_any_worker_starts(tmp_path):
    with pytest.raises(BudgetError, match=r"may hold 1,000,000") as caught:
        fitted(str(DATA), tmp_path, 2, worker_memory_bytes=1_000_000)

    assert caught.value.needed_bytes > 1_000_000


class DeadlySource:
    """Kills every process that reads it."""

    only_here = False

    def __init__(self, rows: np.ndarray) -> None:
        self._inner = open_source(rows)

    def describe(self):
        return self._inner.describe()

    def read(self, blocks):
        os._exit(9)

    def columns_of(self, block, names):
        raise NotImplementedError


@pytest.mark.long(kind="errors of a pool")
def test_a_shard_that_kills_every_worker_ends_the_fit_and_does_not_hang(tmp_path):
    with pytest.raises(WorkersLostError, match="worker 0 died 13 times in a row"):
        fitted(DeadlySource(np.ones((50, 2), np.float32)), tmp_path, 1, k=2)


@pytest.mark.long(kind="promised bytes")
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"use_mini_batch": True, "initial_clusters": "kmeans_parallel"},
        {"initial_clusters": "kmeans_plus_plus", "distance_metric": "cosine"},
    ],
    ids=["Lloyd", "mini-batch after k-means||", "cosine after k-means++"],
)
def test_a_worker_stays_within_the_bytes_that_the_plan_promised(tmp_path, params):
    rows = np.random.default_rng(0).normal(size=(300_000, 128)).astype(np.float32)
    uri = write_parquet(tmp_path, rows, files=2, row_group=50_000)
    workers: list[int] = []
    peaks: list[int] = []

    def watch(event):
        if isinstance(event, ev.DataLoaded):
            workers.extend(pid for _, pid in event.workers)
        if isinstance(event, ev.IterationDone):
            peaks.extend(peak_bytes(pid) for pid in workers)

    source = open_source(uri)
    fit_and_watch(source, tmp_path / "m", 100, StopRule(steps=6), watch, **params)

    shards = split(source.describe().blocks, 2)
    promised = Footprint(100).most(shards)
    assert peaks
    # Most of what is promised before any row is for compiling, which a warm cache spares.
    assert 0.45 * promised < max(peaks) <= promised


def peak_bytes(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0  # a process that has just ended has no memory
