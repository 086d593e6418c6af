"""Labelled output: every row once, with what belongs to it; complete when the manifest is there."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import uuid

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_kmeans import RunConfig, open_source
from ray_kmeans.algorithm.state import FitState
from ray_kmeans.errors import (
    ConfigError,
    DataError,
    NonFiniteError,
    StoreError,
)
from ray_kmeans.io import publish
from ray_kmeans.on_ray import ray_cluster
from ray_kmeans.store.labelled import MANIFEST, LabelledOutput
from ray_kmeans.store.labelled_names import marker_of
from ray_kmeans.store.labelled_parts import Parts
from ray_kmeans.store.labelled_writer import lease_output
from ray_kmeans.workflows import label
from tests.support import oracle
from tests.support.files import in_blocks, put_array, put_table

N = 90
X = np.random.default_rng(5).integers(-8, 8, size=(N, 3)).astype(np.float32)
IDS = [f"row {i}" for i in range(N)]
STATE = FitState(X[[3, 40, 77, 12]], np.zeros(4, np.int64), iteration=9)
HERE = RunConfig(num_workers=0, progress=False)


def table_of(rows):
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(X[rows].ravel()), 3)
    columns = {"id": IDS[rows], "vector": vectors, "distance": np.arange(N)[rows], "row": IDS[rows]}
    return pa.table(columns)


@pytest.fixture
def data(tmp_path):
    """Three files of row groups of 13 rows."""
    for part, rows in enumerate((slice(0, 30), slice(30, 31), slice(31, N))):
        put_table(tmp_path / "data", f"{part}.parquet", table_of(rows), row_group_size=13)
    return str(tmp_path / "data")


@pytest.fixture(params=["directory", "memory"])
def url(tmp_path, request):
    return str(tmp_path / "out") if request.param == "directory" else f"memory://{uuid.uuid4().hex}"


def write(data, url, **options):
    output = LabelledOutput.at(url, {})
    model_dir = "the/model"
    found = label.write_labels(
        STATE, in_blocks(data, 7), output, HERE, model_dir=model_dir, **options
    )
    return found.rows


def files_of(url):
    fs, root = fsspec.core.url_to_fs(url)
    paths = fs.find(root) if fs.exists(root) else []
    return {path.rsplit("/", 1)[-1]: fs.cat_file(path) for path in sorted(paths)}


def manifest_of(url):
    return json.loads(files_of(url)[MANIFEST])


def read(url):
    """Return all rows of the parts that the manifest names, in its order."""
    files = files_of(url)
    parts = [files[part["name"]] for part in manifest_of(url)["parts"]]
    return pa.concat_tables([pq.read_table(pa.BufferReader(part)) for part in parts])


def test_every_row_is_there_once_with_its_label_and_squared_distance(data, url):
    assert write(data, url, keep_columns=["id"]) == N

    table = read(url)
    labels = oracle.labels(X, STATE.centers)
    assert table.column_names == ["id", "row", "cluster_idx", "distance"]
    assert table["id"].to_pylist() == IDS
    np.testing.assert_array_equal(table["cluster_idx"], labels)
    np.testing.assert_array_equal(table["distance"], ((X - STATE.centers[labels]) ** 2).sum(axis=1))


@pytest.mark.parametrize("kind", ["parquet", "npy", "array"])
def test_the_row_number_is_that_in_the_whole_data_set(data, url, tmp_path, kind):
    put_array(tmp_path / "npy", "a.npy", X[:40])
    put_array(tmp_path / "npy", "b.npy", X[40:])

    write({"parquet": data, "npy": str(tmp_path / "npy"), "array": X}[kind], url)

    assert read(url)["row"].to_pylist() == list(range(N))


@pytest.mark.parametrize("kind", ["parquet", "table"])
def test_kept_columns_belong_to_their_rows(data, url, kind):
    x = {"parquet": data, "table": table_of(slice(0, N))}[kind]

    write(x, url, keep_columns=["vector", "id"])

    table = read(url)
    assert table.column_names[:2] == ["vector", "id"]
    np.testing.assert_array_equal(np.stack(table["vector"].to_numpy()), X)
    assert table["id"].to_pylist() == IDS


@pytest.mark.parametrize("name", ["row", "cluster_idx", "distance"])
def test_a_kept_column_is_never_replaced_by_one_of_ours(data, url, tmp_path, name):
    table = table_of(slice(0, N)).append_column("cluster_idx", pa.array(IDS))
    put_table(tmp_path / "named", "a.parquet", table)

    with pytest.raises(ConfigError, match=name):
        write(str(tmp_path / "named"), url, keep_columns=[name])

    assert files_of(url) == {}


def test_the_manifest_tells_the_truth(data, url):
    write(data, url)

    manifest, files = manifest_of(url), files_of(url)
    parts = {part["name"]: part for part in manifest["parts"]}
    assert publish.unseal(files.pop(MANIFEST)) is not None
    assert manifest["rows"] == N
    assert manifest["model"] == {"model_dir": "the/model", "iteration": 9}
    assert manifest["clusters"] == np.bincount(oracle.labels(X, STATE.centers)).tolist()
    assert sorted(files) == list(parts)
    assert [part["rows"] for part in parts.values()] == [
        block.rows for block in in_blocks(data, 7).describe().blocks
    ]
    for name, content in files.items():
        assert parts[name]["size"] == len(content)
        assert parts[name]["sha256"] == hashlib.sha256(content).hexdigest()
        assert parts[name]["rows"] == pq.read_metadata(pa.BufferReader(content)).num_rows


@pytest.mark.parametrize("at", [0, 5])
def test_an_output_that_failed_has_no_manifest_and_can_be_written_again(data, url, at, monkeypatch):
    write_part = Parts.write

    def fail(self, index, *rest):
        if index == at:
            raise StoreError("injected.")
        return write_part(self, index, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Parts, "write", fail)
        with pytest.raises(StoreError, match="injected"):
            write(data, url, keep_columns=["id"])
    assert MANIFEST not in files_of(url)

    write(data, url, keep_columns=["id"])

    assert read(url)["id"].to_pylist() == IDS


def test_the_manifest_is_written_last(data, url, monkeypatch):
    written = []
    for name in ("put", "create"):
        before = getattr(publish, name)
        monkeypatch.setattr(
            publish,
            name,
            lambda fs, path, data, do=before: written.append(path) or do(fs, path, data),
        )

    write(data, url)

    written = [path for path in written if "/_unfinished" not in path and "/_lease/" not in path]
    names = [path.rsplit("/", 1)[-1] for path in written]
    assert names.index(MANIFEST) == len(names) - 1 == len(manifest_of(url)["parts"])


def test_a_finished_output_is_never_written_over(data, url):
    write(data, url)
    before = files_of(url)

    with pytest.raises(StoreError, match=r"already holds a finished output.*another place"):
        write(X[:20], url)

    assert files_of(url) == before


@pytest.mark.parametrize("kind", ["parquet", "array", "table", "npy"])
def test_an_unknown_column_is_refused_before_anything_is_written(data, url, tmp_path, kind):
    put_array(tmp_path / "npy", "a.npy", X)
    npy, table = str(tmp_path / "npy"), table_of(slice(0, N)).drop_columns(["distance"])
    x = {"parquet": data, "array": X, "table": table, "npy": npy}[kind]

    with pytest.raises((ConfigError, DataError), match="nonsense"):
        write(x, url, keep_columns=["nonsense"])

    assert files_of(url) == {}


def test_data_of_another_width_than_the_model_are_refused(url):
    with pytest.raises(DataError, match=r"2 features.* 3"):
        write(X[:, :2], url)

    assert files_of(url) == {}


def test_rows_that_are_not_finite_are_refused(url):
    x = X.copy()
    x[4, 1] = np.inf

    with pytest.raises(NonFiniteError, match="1 rows"):
        write(x, url)

    [marker] = files_of(url)
    assert re.fullmatch(r"_unfinished-[0-9a-f]{12}\.json", marker)


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(StoreError, match=r"file/out.*cannot be written"):
        write(X, str(tmp_path / "file" / "out"))


def test_a_store_that_nobody_serves_is_a_store_error():
    with pytest.raises(ConfigError, match="nosuch://bucket/out"):
        write(X, "nosuch://bucket/out")


def test_memory_output_needs_this_process_alone(monkeypatch):
    output = LabelledOutput.at(f"memory://{uuid.uuid4().hex}", {})
    monkeypatch.setattr(ray_cluster, "connect", lambda *_: pytest.fail("Ray was asked for workers"))

    with pytest.raises(ConfigError, match=r"no worker can reach it.*num_workers=0"):
        label.write_labels(STATE, open_source(X), output, RunConfig(num_workers=2), model_dir="m")


def test_an_output_survives_pickling(url):
    with lease_output(LabelledOutput.at(url, {})) as held:
        parts = held.begin({}).parts
        parts.list_names()  # from now on it is open

        again = pickle.loads(pickle.dumps(parts))

        part = again.write(0, 0, {"cluster_idx": np.array([1], np.int32)}, [])
    assert files_of(url).keys() == {part.name, marker_of(parts.stamp)}
