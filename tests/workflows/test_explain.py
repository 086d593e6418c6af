"""What --explain says is what the fit does."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ray_kmeans.cli import main
from ray_kmeans.config import RunConfig
from ray_kmeans.data.files import list_files
from ray_kmeans.data.formats.base import FileSource
from ray_kmeans.data.formats.parquet import Parquet
from ray_kmeans.data.opening import open_source
from ray_kmeans.data.sharding import split
from ray_kmeans.data.worker_memory import WORKER_BASE_BYTES, Footprint
from ray_kmeans.errors import BudgetError
from ray_kmeans.text.quantities import format_bytes
from ray_kmeans.workflows.explain import explain
from tests.support.files import put_array, put_table

HERE = {"num_workers": 0, "cpus_per_worker": 1}


@pytest.fixture
def numbers(tmp_path):
    X = np.random.default_rng(0).normal(size=(20_000, 6)).astype(np.float32)
    put_array(tmp_path / "x", "a.npy", X[:9_000])
    put_array(tmp_path / "x", "b.npy", X[9_000:])
    return str(tmp_path / "x")


def test_a_plan_tells_files_rows_bytes_and_traffic(numbers):
    text = explain(open_source(numbers).describe(), 50, RunConfig(**HERE), None)

    assert "20,000 rows x 6 features, 468.8 KiB as float32; 2 files, 4 blocks" in text
    assert "1 in this process, with 1 thread and at most 20,000 rows each" in text
    assert "in memory; a sweep reads nothing (cache='auto')" in text
    assert "sends 1.2 KiB of centers to each worker and gets 2.7 KiB of sums and counts" in text


def test_a_plan_tells_the_bytes_that_are_promised(numbers):
    layout = open_source(numbers).describe()
    config = RunConfig(**HERE, worker_memory_bytes=10 * 2**30)

    text = explain(layout, 50, config, None)

    promised = Footprint(50).of(split(layout.blocks, 1)[0])
    assert f"{format_bytes(promised)} in a worker at most" in text
    assert f"{format_bytes(WORKER_BASE_BYTES)} of it before any row; it may hold 10.0 GiB" in text


@pytest.mark.parametrize(
    ("place", "words"), [("disk", "on a disk of their node"), ("source", "where they come from")]
)
def test_a_plan_tells_where_rows_are_kept(place, words, numbers):
    text = explain(open_source(numbers).describe(), 5, RunConfig(**HERE, cache=place), None)

    assert f"{words}; a sweep reads them from there once (cache={place!r})" in text


def test_a_plan_that_does_not_fit_is_refused_as_the_fit_is(numbers):
    with pytest.raises(BudgetError):
        explain(open_source(numbers).describe(), 5, RunConfig(**HERE, worker_memory_bytes=9), None)


def test_the_flag_prints_the_plan_and_runs_nothing(numbers, tmp_path, capsys):
    flags = ["--num-clusters", "5", "--num-workers", "0", "--cpus-per-worker", "1"]

    main(["fit", numbers, str(tmp_path / "model"), *flags, "--explain"])

    expected = explain(open_source(numbers).describe(), 5, RunConfig(**HERE), 65_536)
    assert capsys.readouterr().out.strip() == expected
    assert not (tmp_path / "model").exists()


def test_a_plan_reads_metadata_alone(tmp_path):
    class Unread(FileSource):
        read = read_noted = None

    vectors = pa.FixedSizeListArray.from_arrays(np.zeros(40, np.float32), 4)
    put_table(tmp_path / "x", "a.parquet", pa.table({"v": vectors}))
    source = Unread.of(Parquet.of, *list_files([str(tmp_path / "x")], {}, (".parquet",)), None)

    assert "10 rows x 4 features" in explain(source.describe(), 2, RunConfig(**HERE), None)
