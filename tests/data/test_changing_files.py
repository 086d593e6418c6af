"""A file that is another one than when the run was planned is named; no row of it is believed."""

from __future__ import annotations

import io
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.data.formats.base import FileSource
from ray_kmeans.data.opening import open_source
from ray_kmeans.errors import DataError
from tests.support.files import as_npy
from tests.support.stores import http_files, store_of

X = np.random.default_rng(5).normal(size=(20_000, 3)).astype(np.float32)
CHANGED = r"x\.(npy|parquet) has changed since the run was planned.*Start the run again"
GONE = r"x\.(npy|parquet) is gone since the run was planned"


def as_parquet(rows):
    content = io.BytesIO()
    vectors = pa.array(list(rows), pa.list_(pa.float32(), 3))
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(pa.table({"v": vectors}), content, row_group_size=10_000, **options)
    return content.getvalue()


FORMATS = {"npy": as_npy, "parquet": as_parquet}
CHANGES = {
    "longer": lambda write: write(np.vstack([X, X[:100]])),
    "shorter": lambda write: write(X[:100]),
    "as long": lambda write: write(X[::-1]),
    "empty": lambda write: b"",
}


@pytest.fixture(params=["local", "memory", "s3"])
def store(request, tmp_path):
    return store_of(request, tmp_path)


@pytest.fixture(params=FORMATS)
def planned(request, store):
    """Return the URL of a file, its source and blocks as planned, and what writes its format."""
    write = FORMATS[request.param]
    url = store.put(f"x.{request.param}", write(X))
    source = open_source(url, storage_options=store.options)
    return url, source, source.describe().blocks, write


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_was_changed_before_it_is_read(store, planned, change):
    url, source, blocks, write = planned
    store.put(url.rpartition("/")[2], CHANGES[change](write))

    with pytest.raises(DataError, match=CHANGED):
        next(source.read(blocks))


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_is_changed_while_it_is_read(store, planned, change):
    url, source, blocks, write = planned
    reading = source.read(blocks)
    next(reading)
    store.put(url.rpartition("/")[2], CHANGES[change](write))

    with pytest.raises(DataError, match=CHANGED):
        list(reading)


def test_a_file_that_is_deleted_before_it_is_read(store, planned):
    url, source, blocks, _ = planned
    store.fs().rm_file(url)

    with pytest.raises(DataError, match=GONE):
        next(source.read(blocks))


def test_a_file_that_is_deleted_while_it_is_read(store, planned):
    url, source, blocks, _ = planned
    reading = source.read(blocks)
    next(reading)
    store.fs().rm_file(url)

    with pytest.raises(DataError, match=GONE):
        list(reading)


@pytest.mark.parametrize("change", [*CHANGES, "deleted"])
def test_a_file_that_is_changed_between_listing_and_planning(store, planned, change):
    url, _, _, write = planned
    source = open_source(url, storage_options=store.options)
    if change == "deleted":
        store.fs().rm_file(url)
    else:
        store.put(url.rpartition("/")[2], CHANGES[change](write))

    with pytest.raises(DataError, match=f"{CHANGED}|{GONE}"):
        next(source.read(source.describe().blocks))


def test_columns_to_keep_are_of_the_same_file(store):
    url = store.put("x.parquet", as_parquet(X))
    source = open_source(url, storage_options=store.options)
    [*_, last] = source.describe().blocks
    store.put("x.parquet", as_parquet(X[::-1]))

    with pytest.raises(DataError, match=CHANGED):
        source.columns_of(last, ["v"])


def test_a_file_that_only_its_size_or_mark_tells_of(tmp_path):
    path = tmp_path / "x.npy"
    path.write_bytes(as_npy(X))
    source = open_source(path)
    blocks = source.describe().blocks
    before = path.stat()
    path.write_bytes(as_npy(X[::-1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))

    with pytest.raises(DataError, match=CHANGED):
        list(source.read(blocks))


def test_a_file_behind_http_that_is_changed(tmp_path):
    (tmp_path / "x.npy").write_bytes(as_npy(X))

    with http_files(tmp_path) as place:
        source = open_source(f"{place.root}/x.npy")
        reading = source.read(source.describe().blocks)
        next(reading)
        (tmp_path / "x.npy").write_bytes(as_npy(X[::-1]))

        with pytest.raises(DataError, match=CHANGED):
            list(reading)


def test_a_local_file_that_is_cut_off_in_place_does_not_end_the_process(tmp_path):
    path = tmp_path / "x.npy"
    path.write_bytes(as_npy(X))
    source = open_source(path)
    reading = source.read(source.describe().blocks)
    _, first = next(reading)
    os.truncate(path, 200)

    assert first.tobytes() == X[: len(first)].tobytes()
    with pytest.raises(DataError, match=CHANGED):
        list(reading)


def test_a_fit_on_a_file_that_changes_names_it(store, planned, tmp_path):
    url, source, _, write = planned

    class Changing(FileSource):
        def describe(self):
            layout = super().describe()
            store.put(url.rpartition("/")[2], write(X[::-1]))
            return layout

    changing = Changing(source.remote, source.files, source.format)
    config = RunConfig(num_workers=0, storage_options=store.options)
    km = KMeansClustering(2, str(tmp_path / "model"), use_mini_batch=False, config=config)

    with pytest.raises(DataError, match=CHANGED):
        km.fit(changing, steps=1)


def test_a_file_that_has_not_changed_is_read_twice(planned):
    _, source, blocks, _ = planned

    for _ in range(2):
        rows = np.vstack([rows for _, rows in source.read(blocks)])
        assert rows.tobytes() == X.tobytes()
