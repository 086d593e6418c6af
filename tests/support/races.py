"""Rows, models and checks of labelling runs that race into one output."""

from __future__ import annotations

import hashlib
import re

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ray_kmeans.io import publish
from ray_kmeans.store.labelled_names import MANIFEST
from tests.support import oracle
from tests.support.sleepers import BLOCK_ROWS

ROWS = np.random.default_rng(8).integers(-9, 9, (3 * BLOCK_ROWS, 3)).astype(np.float32)


OTHER_ROWS = ROWS[::-1][: 2 * BLOCK_ROWS].copy()


MORE = ROWS[::2][:BLOCK_ROWS].copy()


CENTERS, OTHER = ROWS[:4].copy(), ROWS[7:12].copy()


def files_of(url, options=None):
    fs, root = fsspec.core.url_to_fs(url, **(options or {}), use_listings_cache=False)
    fs.invalidate_cache()
    return {path[len(root) + 1 :]: fs.cat_file(path) for path in fs.find(root)}


def check(url, rows, centers, options=None, also=()):
    """Hold what every reader sees against the data: by the manifest, and by all that is there."""
    files = files_of(url, options)
    manifest = publish.unseal(files[MANIFEST])
    tables = []
    for part in manifest["parts"]:
        assert hashlib.sha256(files[part["name"]]).hexdigest() == part["sha256"]
        tables.append(pq.ParquetFile(pa.BufferReader(files[part["name"]])).read())
    table = pa.concat_tables(tables).sort_by("row")
    assert table["row"].to_pylist() == list(range(len(rows)))
    np.testing.assert_array_equal(table["cluster_idx"], oracle.labels(rows, centers))
    named = {part["name"] for part in manifest["parts"]}
    visible = {name for name in files if not name.startswith("_")}
    assert visible - set(also) == named
    hidden = r"_manifest\.json|_manifests/\d{8}\.json|_lease/\d{8}\.json"
    return {n for n in files if n.startswith("_") and not re.fullmatch(hidden, n)}
