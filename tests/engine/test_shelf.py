"""Where rows are kept changes no bit of anything; it changes what a worker holds."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.data import sharding
from ray_kmeans.data.opening import open_source
from ray_kmeans.data.sharding import split
from ray_kmeans.data.worker_memory import WORKER_BASE_BYTES, Footprint
from ray_kmeans.engine.options import WorkerSetup
from ray_kmeans.engine.pool import LocalPool
from ray_kmeans.engine.row_cache import (
    DISK,
    MEMORY,
    SOURCE,
    CacheOptions,
    OnDisk,
)
from ray_kmeans.engine.shard import runs_of
from ray_kmeans.errors import BudgetError, ConfigError, StoreError
from ray_kmeans.kernels import load
from tests.support.files import in_blocks

PLACES = [DISK, SOURCE]


@pytest.fixture
def X():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(420, 5)) + rng.integers(0, 4, (420, 1)) * 3).astype(np.float32)


def fitted(X, tmp_path, place, **params):
    config = RunConfig(num_workers=0, cache=place, cache_dir=str(tmp_path))
    return KMeansClustering(7, str(tmp_path / place), random_seed=3, config=config, **params)


FITS = {
    "full batch": {"use_mini_batch": False},
    "mini-batch": {"use_mini_batch": True, "mini_batch_steps_per_iteration": 3},
    "cosine": {"use_mini_batch": False, "distance_metric": "cosine"},
    "k-means++": {"use_mini_batch": False, "initial_clusters": "kmeans_plus_plus"},
    "k-means||": {"use_mini_batch": False, "initial_clusters": "kmeans_parallel"},
    "farthest": {"use_mini_batch": False, "empty_clusters": "farthest"},
    "split": {"use_mini_batch": False, "empty_clusters": "split_largest"},
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("what", FITS)
def test_a_fit_has_the_same_bits_wherever_the_rows_are(what, place, X, tmp_path):
    size = 100 if FITS[what]["use_mini_batch"] else None
    source = in_blocks(X, 50)
    models = [
        fitted(X, tmp_path, each, **FITS[what]).fit(source, batch_size=size, max_steps=12)
        for each in (MEMORY, place)
    ]

    one, other = ((m.clusters().tobytes(), [line.inertia for line in m.history()]) for m in models)

    assert one == other


@pytest.mark.parametrize("place", PLACES)
def test_labels_have_the_same_bits_wherever_the_rows_are(place, X, tmp_path):
    source = in_blocks(X, 50)
    model = fitted(X, tmp_path, MEMORY, use_mini_batch=False).fit(source, max_steps=3)
    again = fitted(X, tmp_path, MEMORY, use_mini_batch=False)
    again.set_params(config__cache=place)

    assert list(again.predict_cluster_idx(source)) == list(model.predict_cluster_idx(source))
    assert again.score(source) == model.score(source)


@pytest.mark.parametrize("place", [MEMORY, DISK, SOURCE])
def test_any_rows_of_a_shelf_are_those_of_the_data(place, X, tmp_path):
    source = in_blocks(X, 50)
    setup = WorkerSetup(row_cache=CacheOptions(place, str(tmp_path)))
    pool = LocalPool(source, split(source.describe().blocks, 2), setup)
    pool.summarize()

    numbers = np.array([0, 1, 49, 50, 199, 200, 333, 419])

    np.testing.assert_array_equal(pool.rows_at(numbers), X[numbers])


@pytest.mark.parametrize("readers", [1, 2, 3, 7, 50])
def test_runs_for_readers_are_the_shard_and_part_no_row_group(readers):
    blocks = sharding.cut("a", [20_000, 9_000, 5, 5, 30_000], 3)
    blocks += sharding.cut("b", [7] * 10, 3, 59_010, len(blocks))

    runs = runs_of(blocks, readers)

    assert [block for _, run in runs for block in run] == blocks
    assert [first for first, _ in runs] == [run[0].index for _, run in runs]
    assert len(runs) <= readers
    groups = [{(block.file, block.group) for block in run} for _, run in runs]
    assert sum(map(len, groups)) == len(set().union(*groups)) == 15


def test_what_is_on_disk_has_no_name_and_is_gone_with_the_shelf(X, tmp_path):
    shelf = OnDisk([420], 5, str(tmp_path), load().fingerprint)
    shelf.put(0, X)

    np.testing.assert_array_equal(shelf[0], X)
    assert list(tmp_path.iterdir()) == []
    assert any(str(tmp_path) in name for name in open_files())
    del shelf
    assert not any(str(tmp_path) in name for name in open_files())


def open_files():
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return found


def test_a_disk_that_gives_back_other_bytes_is_an_error_that_names_it(X, tmp_path):
    shelf = OnDisk([400, 20], 5, str(tmp_path), load().fingerprint)
    shelf.put(1, X[400:])
    shelf.put(0, X[:400])
    os.pwrite(shelf._file.fileno(), b"\x00", 8003)

    np.testing.assert_array_equal(shelf[0], X[:400])
    with pytest.raises(StoreError, match=r"block 1 .* does not come back as it was written"):
        shelf[1]


def test_a_disk_without_room_says_how_much_there_is():
    with pytest.raises(StoreError, match=r"cannot keep the .* bytes of a shard.* are free there"):
        OnDisk([2**40], 2**10, "/dev/shm", hash)


def test_a_directory_that_is_not_there_is_an_error_that_names_it(X, tmp_path):
    model = fitted(X, tmp_path, DISK, use_mini_batch=False)
    model.set_params(config__cache_dir=str(tmp_path / "nowhere"))

    with pytest.raises(StoreError, match="nowhere"):
        model.fit(X, max_steps=1)


def test_an_unknown_place_is_refused():
    with pytest.raises(ConfigError, match=r"cache='tape' is unknown\. Give one of 'auto', 'mem"):
        RunConfig(cache="tape")


def test_rows_that_do_not_fit_go_to_disk_and_the_log_says_so(X, tmp_path, caplog):
    X = np.tile(X, (400, 1))
    shards = split(open_source(X).describe().blocks, 1)
    allowed = (Footprint(7).of(shards[0]) + Footprint(7, kept=False).of(shards[0])) // 2
    models = {}
    for place in ("auto", MEMORY, DISK):
        models[place] = fitted(X, tmp_path, place, use_mini_batch=False)
        models[place].set_params(config__worker_memory_bytes=allowed)

    with pytest.raises(BudgetError):
        models[MEMORY].fit(X, max_steps=2)
    seen = [models[each].fit(X, max_steps=2).clusters() for each in ("auto", DISK)]

    np.testing.assert_array_equal(*seen)
    assert "the rows are kept on disk, as cache='auto'" in caplog.text


def test_what_does_not_fit_even_without_the_rows_is_refused(X, tmp_path):
    model = fitted(X, tmp_path, "auto", use_mini_batch=False)
    model.set_params(config__worker_memory_bytes=10**6)

    with pytest.raises(BudgetError, match="that are not kept in memory"):
        model.fit(X, max_steps=1)


FIT_TEN_TIMES_THE_BUDGET = """
import json, resource, sys
from ray_kmeans import KMeansClustering, RunConfig
uri, model_dir, place, warm = sys.argv[1:5]

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

config = RunConfig(num_workers=0, cache=place, cache_dir=model_dir, cpus_per_worker=1)
def fit(uri, to):
    km = KMeansClustering(20, f"{model_dir}/{to}", use_mini_batch=False, config=config)
    return km.fit(uri, max_steps=3)
fit(warm, "warm")  # compiles
before = peak()
print(json.dumps([peak() - before, fit(uri, place).clusters().tolist(), peak() - before]))
"""


@pytest.fixture(scope="module")
def much(tmp_path_factory):
    """Write many rows, and some to warm up by; return their folder, the rows and their centers."""
    folder = tmp_path_factory.mktemp("much")
    X = np.random.default_rng(1).standard_normal((600_000, 256), np.float32)
    np.save(folder / "x.npy", X)
    np.save(folder / "warm.npy", X[:50_000])
    expected = fitted(X, folder, MEMORY, use_mini_batch=False)
    expected.set_params(num_clusters=20, random_seed=0).fit(X, max_steps=3)
    yield folder, X, expected.clusters()
    shutil.rmtree(folder)


@pytest.mark.long(kind="more than memory")
@pytest.mark.parametrize("place", PLACES)
def test_ten_times_the_memory_fits_through_disk_and_through_reading_again(place, much, tmp_path):
    folder, X, expected = much
    shard = split(open_source(f"{folder}/x.npy").describe().blocks, 1)[0]
    promised = Footprint(20, kept=False).of(shard) - WORKER_BASE_BYTES
    assert X.nbytes > 10 * promised

    arguments = [f"{folder}/x.npy", str(tmp_path), place, f"{folder}/warm.npy"]
    out = subprocess.run(
        [sys.executable, "-c", FIT_TEN_TIMES_THE_BUDGET, *arguments],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    _, centers, grown = json.loads(out.splitlines()[-1])

    np.testing.assert_array_equal(expected, np.float32(centers))
    assert grown < promised
