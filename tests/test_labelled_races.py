"""Two runs into one output, one of which sleeps anywhere: what is complete is right, for ever."""

from __future__ import annotations

import hashlib
import io
import itertools
import re
import uuid

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_kmeans.errors import BusyError, LeaseLostError, StoreError
from ray_kmeans.store import publish
from ray_kmeans.store.output_names import MANIFEST
from tests import oracle
from tests.sleepers import BLOCK_ROWS, Sleeper, set_up, write

ROWS = np.random.default_rng(8).integers(-9, 9, (3 * BLOCK_ROWS, 3)).astype(np.float32)
OTHER_ROWS = ROWS[::-1][: 2 * BLOCK_ROWS].copy()
MORE = ROWS[::2][:BLOCK_ROWS].copy()
CENTERS, OTHER = ROWS[:4].copy(), ROWS[7:12].copy()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    set_up(monkeypatch.setattr)


@pytest.fixture(scope="module")
def sleeper():
    with Sleeper() as running:
        yield running


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


def clear(url):
    """Delete what a refusal says that may be deleted: the markers and parts of a run."""
    fs, root = fsspec.core.url_to_fs(url)
    named = publish.unseal(files_of(url)[MANIFEST])["parts"] if MANIFEST in files_of(url) else []
    keep = {part["name"] for part in named}
    for name in files_of(url):
        part = name.endswith(".parquet") and name not in keep
        if part or name.startswith(("_unfinished", "_by_cluster")):
            fs.rm_file(f"{root}/{name}")


def follow(url, *args, **flags):
    """Write here after a holder that sleeps; clear the place first where that is asked for."""
    try:
        write(url, *args, **flags)
    except StoreError as error:
        if "unfinished output" not in str(error):
            raise
        clear(url)
        write(url, *args, **flags)


def sweep(sleeper, tmp_path, told, before, then, step=1, first=1):
    """Let the sleeper write, and sleep at each of its calls while `then` is done.

    Yields the place and what the sleeper answered, each time.
    """
    for at in itertools.count(first, step):
        url = str(tmp_path / str(at))
        before(url)
        sleeper.tell(url, at=at, **told)
        if not sleeper.falls_asleep():
            assert "rows" in sleeper.hear()
            assert at > 20
            return
        then(url)
        sleeper.wake()
        yield url, sleeper.hear()


def nothing(url):
    pass


# --- a sleeper at every call ---------------------------------------------------------------------


@pytest.mark.parametrize("by_cluster", [False, True])
def test_who_sleeps_anywhere_leaves_nothing_beside_the_output_of_another_model(
    sleeper, tmp_path, by_cluster
):
    told = {"rows": ROWS, "centers": CENTERS, "by_cluster": by_cluster}
    step = 3 if by_cluster else 1

    def then(url):
        if MANIFEST not in files_of(url):
            follow(url, ROWS, OTHER, by_cluster=by_cluster)

    lost = 0
    for url, answer in sweep(sleeper, tmp_path, told, nothing, then, step):
        found = publish.unseal(files_of(url)[MANIFEST])
        is_first = len(found["clusters"]) == len(CENTERS)
        centers = CENTERS if is_first else OTHER
        assert ("rows" in answer) == is_first, answer
        lost += not is_first
        check(url, ROWS, centers)
        assert write(url, ROWS, centers, by_cluster=by_cluster) == len(ROWS)
        assert check(url, ROWS, centers) == set()
    assert lost > 10
