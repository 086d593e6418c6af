"""Write rows, label them and read all files of the output back."""

from __future__ import annotations

import hashlib

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ray_kmeans import RunConfig, open_source
from ray_kmeans.algorithm.state import FitState
from ray_kmeans.io import publish
from ray_kmeans.store.labelled import MANIFEST, LabelledOutput
from ray_kmeans.store.labelled_names import LEASE, RECORDS
from ray_kmeans.workflows import label
from tests.support.files import in_blocks, put_table
from tests.support.second_oracle import exact_order

N, K = 90, 6


X = np.random.default_rng(6).integers(-8, 8, size=(N, 3)).astype(np.float32)


CENTERS = X[[3, 40, 77, 12, 50, 8]]


STATE = FitState(CENTERS, np.zeros(K, np.int64), iteration=9)


HERE = RunConfig(num_workers=0, progress=False)


ORDER = np.array([exact_order(row, CENTERS, "squared_euclidean")[:2] for row in X])


def put_rows(folder, name, rows, first=0):
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 3)
    ids = [f"row {first + i}" for i in range(len(rows))]
    put_table(folder, name, pa.table({"id": ids, "vector": vectors}), row_group_size=13)


def write(
    x, url, state=STATE, config=HERE, nonfinite="error", filters=None, block_rows=7, **options
):
    source = open_source(in_blocks(x, block_rows), nonfinite=nonfinite, filters=filters)
    return label.write_labels(
        state, source, LabelledOutput.at(url, {}), config, model_dir="m", **options
    ).rows


def files_of(url):
    fs, root = fsspec.core.url_to_fs(url)
    paths = fs.find(root) if fs.exists(root) else []
    return {path[len(root) + 1 :]: fs.cat_file(path) for path in sorted(paths)}


def manifest_of(url):
    return publish.unseal(files_of(url)[MANIFEST])


def read(url):
    """Return all rows of the files that the manifest names, in the order of their numbers."""
    files = files_of(url)
    tables = []
    for part in manifest_of(url)["parts"]:
        content = files[part["name"]]
        assert len(content) == part["size"]
        assert hashlib.sha256(content).hexdigest() == part["sha256"]
        tables.append(pq.ParquetFile(pa.BufferReader(content)).read())
        assert len(tables[-1]) == part["rows"]
    return pa.concat_tables(tables).sort_by("row")


def check_complete(url, rows=N):
    """Hold every row once against the oracle, and the folder against the manifest."""
    table, manifest = read(url), manifest_of(url)
    numbers = table["row"].to_pylist()
    assert numbers == list(range(rows))
    found = table["cluster_idx"].to_numpy()
    expected = np.resize(ORDER[:, 0], rows)
    np.testing.assert_array_equal(found, expected)
    assert manifest["clusters"] == np.bincount(expected, minlength=K).tolist()
    assert manifest["rows"] == rows
    generation = manifest.get("generation", 0)
    records = {f"{RECORDS}/{generation:08d}.json"} if generation and manifest["runs"][1:] else set()
    named = {part["name"] for part in manifest["parts"]}
    assert files_of(url).keys() == {MANIFEST, *records, *named}


class Cut(BaseException):
    """Ends a run as a kill would: nobody catches it."""


def cut_after(monkeypatch, puts):
    """Let so many files be published, and then nothing more; the lease does not count."""
    done = []

    def counting(do):
        def counted(fs, path, content):
            if f"/{LEASE}/" in path:
                return do(fs, path, content)
            if len(done) >= puts:
                raise Cut
            done.append(path)
            return do(fs, path, content)

        return counted

    for name in ("put", "create"):
        monkeypatch.setattr(publish, name, counting(getattr(publish, name)))
    monkeypatch.setattr("ray_kmeans.engine.label_writer.WRITERS", 1)
    return done


OPTIONS = {
    "plain": {},
    "with columns and second": {"keep_columns": ["id"], "second": True},
    "by cluster": {"keep_columns": ["id"], "by_cluster": True},
}
