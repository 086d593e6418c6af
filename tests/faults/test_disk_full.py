"""A disk that is full: the error says what to do, nothing is lost, and the same call goes on."""

from __future__ import annotations

import os
import re
import subprocess
import time

import numpy as np
import pytest

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.algorithm.state import FitState
from ray_kmeans.algorithm.stopping import StopRule
from ray_kmeans.data.opening import open_source
from ray_kmeans.engine.row_cache import OnDisk
from ray_kmeans.errors import DiskFullError, StoreError
from ray_kmeans.observe import events as ev
from ray_kmeans.store.lease import Lease
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.workflows import fit
from ray_kmeans.workflows.parameters import FitParams
from tests.support.store_contract import assert_same

X = np.random.default_rng(5).normal(size=(600, 256)).astype(np.float32)
SIZE = 2**20


@pytest.fixture
def disk(tmp_path):
    """Give a file system of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount, which gives a small file system")
    if done.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk, leave=8192):
    """Write a file until so few bytes are free; return it."""
    filler = disk / "filler"
    filler.write_bytes(bytes(free(disk) - leave))
    return filler


def free(disk):
    found = os.statvfs(disk)
    return found.f_bavail * found.f_bsize


def files(disk):
    return {path.relative_to(disk) for path in disk.rglob("*") if path.is_file()}


def large_state(iteration):
    return FitState(
        centers=np.full((100, 256), iteration, np.float32),
        counts=np.arange(100),
        iteration=iteration,
    )


@pytest.mark.parametrize(
    ("leave", "name", "needed"), [(40_000, "centers", 102_528), (27 * 4096, "counts", 928)]
)
def test_a_checkpoint_without_room_leaves_the_one_before_and_nothing_of_its_own(
    disk, leave, name, needed
):
    store = ModelDir.at(str(disk / "model"), {}, 5)
    store.save(large_state(1))
    filler = fill(disk, leave)
    before, room = files(disk), free(disk)

    with pytest.raises(DiskFullError) as caught:
        store.save(large_state(2))

    assert re.fullmatch(rf"{store.url}/checkpoints/data/\S*/{name}\.npy", caught.value.path)
    assert caught.value.needed_bytes == needed
    assert caught.value.free_bytes < room
    assert [path.name for path in files(disk) - before] == ["00000000-00000001-claim"]
    assert_same(store.latest(), large_state(1))

    filler.unlink()
    store.save(large_state(2))
    assert_same(store.latest(), large_state(2))
    assert len(store.checkpoints()) == 2


def test_a_disk_without_a_single_byte_is_said_before_the_run(disk):
    filler = fill(disk, leave=0)

    store = ModelDir.at(str(disk / "model"), {}, 5)
    with pytest.raises(DiskFullError, match=r"/model/checkpoints/probe-\S+': it needs 17 bytes"):
        store.check_writable()
    with pytest.raises(DiskFullError, match=r"/model/lease/00000001\.json': it needs \d+ bytes"):
        Lease(store, "run-1", "fit").take()

    assert files(disk) == {filler.relative_to(disk)}


def test_a_file_system_that_takes_no_more_files_is_said(disk):
    mount = ["mount", "-o", "remount,nr_inodes=1", str(disk)]
    subprocess.run(mount, check=True)

    with pytest.raises(DiskFullError, match=r"/model/checkpoints/probe-\S+': it needs 17 bytes"):
        ModelDir.at(str(disk / "model"), {}, 5).check_writable()


def fit_with(model_dir, listener=lambda event: None, **config):
    config = RunConfig(num_workers=0, save_checkpoints_steps=1, progress=False, **config)
    params = FitParams(**KMeansClustering(100, use_mini_batch=False).get_params(deep=False))
    return fit.fit(
        fit.plan_fit(params, config, StopRule(steps=5), None),
        open_source(X),
        ModelDir.at(str(model_dir), {}, 2),
        config,
        listeners=[listener],
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return fit_with(tmp_path_factory.mktemp("undisturbed"))


def has_saved(model, iteration):
    """Tell whether a checkpoint is there and the one too many gone: a thread does both."""
    folders = os.walk(model / "checkpoints" / "data")  # which may vanish meanwhile
    kept = [names for _, _, names in folders if any(name.endswith(".npy") for name in names)]
    return ModelDir.at(str(model), {}, 2).latest().iteration == iteration and len(kept) == 2


@pytest.mark.parametrize("leave", [0, 8192, 110_000])
def test_a_fit_whose_model_dir_gets_full_goes_on_once_there_is_room(disk, undisturbed, leave):
    def full(event):
        if isinstance(event, ev.IterationDone) and event.line.iteration == 3:
            while not has_saved(disk / "model", 2):
                time.sleep(0.01)
            fill(disk, leave)

    with pytest.raises(DiskFullError, match=re.escape(str(disk / "model"))):
        fit_with(disk / "model", full)
    cut_off = ModelDir.at(str(disk / "model"), {}, 2).latest()
    assert (cut_off.iteration, cut_off.stop) == (2, None)

    (disk / "filler").unlink()
    assert_same(fit_with(disk / "model"), undisturbed)


def test_rows_without_room_on_the_disk_of_the_cache_are_said_with_place_and_bytes(
    disk, undisturbed, tmp_path
):
    filler = fill(disk, leave=100_000)
    room = free(disk)
    message = (
        rf"cache_dir='{disk}' .* {X.nbytes:,} bytes .*; {room:,} are free there\. Give another"
    )

    with pytest.raises(StoreError, match=message):
        fit_with(tmp_path / "model", cache="disk", cache_dir=str(disk))
    assert files(disk) == {filler.relative_to(disk)}
    assert free(disk) == room

    filler.unlink()
    state = fit_with(tmp_path / "model", cache="disk", cache_dir=str(disk))
    assert_same(state, undisturbed)


def test_the_room_of_a_shelf_is_taken_at_once_so_that_no_later_write_lacks_it(disk):
    shelf = OnDisk([300, 300], 256, str(disk), hash_of=lambda rows: hash(rows.tobytes()))
    fill(disk, leave=0)

    for here, rows in enumerate((X[:300], X[300:])):
        shelf.put(here, rows)

    assert np.vstack([shelf.fetch(0), shelf.fetch(1)]).tobytes() == X.tobytes()
