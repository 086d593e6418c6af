"""Checkpoints: on every kind of store a reader sees a whole one or none, also after a kill."""

from __future__ import annotations

import errno
import os
import random
import time
import uuid
from contextlib import suppress

import pytest
from fsspec.implementations.local import LocalFileSystem

from ray_kmeans.errors import ConfigError, StoreError
from ray_kmeans.io import publish
from ray_kmeans.store.model_dir import ModelDir
from tests.support.forked import FORKED
from tests.support.servers import free_port, s3_server
from tests.support.store_contract import ModelDirContract, assert_same, state_at


@pytest.fixture(scope="module")
def s3():
    """Serve S3 from this machine; return the storage options of a client."""
    with s3_server() as options:
        yield options


class TestLocalDirectory(ModelDirContract):
    @pytest.fixture
    def place(self, tmp_path):
        return str(tmp_path / "model"), {}


class TestMemory(ModelDirContract):
    @pytest.fixture
    def place(self):
        return f"memory://{uuid.uuid4().hex}/model", {}


class TestS3(ModelDirContract):
    @pytest.fixture
    def place(self, s3):
        return f"s3://bucket/{uuid.uuid4().hex}", s3


def test_only_memory_is_seen_by_this_process_alone(tmp_path, s3):
    assert ModelDir.at("memory://m", {}, 5).only_here
    assert not ModelDir.at(str(tmp_path), {}, 5).only_here
    assert not ModelDir.at("s3://bucket/m", s3, 5).only_here


def test_a_relative_path_and_a_file_url_mean_the_same_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    relative = ModelDir.at("a/model", {}, 5)
    relative.save(state_at(3))
    monkeypatch.chdir("/")

    assert relative.url == str(tmp_path / "a" / "model")
    assert_same(relative.latest(), state_at(3))
    assert_same(ModelDir.at(f"file://{tmp_path}/a/model/", {}, 5).latest(), state_at(3))


def test_a_place_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    store = ModelDir.at(str(tmp_path / "file" / "model"), {}, 5)

    with pytest.raises(StoreError, match=r"file/model.*cannot be written"):
        store.check_writable()
    with pytest.raises(StoreError, match=r"cannot save a checkpoint to .*file/model"):
        store.save(state_at(0))


def test_a_bucket_that_is_not_there_cannot_be_written(s3):
    store = ModelDir.at("s3://no-such-bucket/model", s3, 5)

    with pytest.raises(StoreError, match="no-such-bucket"):
        store.check_writable()
    with pytest.raises(StoreError, match="no-such-bucket"):
        store.save(state_at(0))


def test_a_store_that_does_not_answer_is_a_store_error(impatient):
    nobody = {"endpoint_url": f"http://127.0.0.1:{free_port()}"}
    at_once = {"retries": {"max_attempts": 0}, "connect_timeout": 1}
    options = {"key": "k", "secret": "s", "client_kwargs": nobody, "config_kwargs": at_once}
    store = ModelDir.at("s3://bucket/m", options, 5)

    with pytest.raises(StoreError, match="bucket/m"):
        store.check_writable()


@pytest.mark.parametrize(
    ("url", "problem"),
    [("nosuch://bucket/m", "cannot be opened"), ("dropbox://m", "needs a package")],
)
def test_a_store_that_nobody_serves_is_refused(url, problem):
    with pytest.raises(ConfigError, match=rf"'{url}' {problem}"):
        ModelDir.at(url, {}, 5).check_writable()


def test_a_failed_local_write_leaves_no_half_file_behind(tmp_path, monkeypatch):
    store = ModelDir.at(str(tmp_path), {}, 5)
    store.save(state_at(0))

    def broken(descriptor):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises(StoreError, match="Input/output error"):
            store.save(state_at(1))

    assert_same(store.latest(), state_at(0))
    assert [path.name for path in tmp_path.rglob("*partial*")] == []


@pytest.mark.parametrize("write", [publish.put, publish.create])
def test_what_is_written_survives_a_loss_of_power_with_its_name(tmp_path, monkeypatch, write):
    """The content is on the disk before its name is, and the name before the call returns."""
    synced = []
    fsync = os.fsync

    def watched(descriptor):
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), (tmp_path / "x").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    write(publish.Place(str(tmp_path), {}).fs, str(tmp_path / "x"), b"data")

    (content, visible), folder = synced
    assert content.startswith(str(tmp_path / "x."))
    assert not visible
    assert folder == (str(tmp_path), True)


@pytest.mark.parametrize("write", [publish.put, publish.create])
def test_a_file_system_that_does_not_sync_folders_can_be_written(tmp_path, monkeypatch, write):
    fsync = os.fsync

    def of_files_only(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", of_files_only)
    write(publish.Place(str(tmp_path), {}).fs, str(tmp_path / "x"), b"data")

    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"data"


def test_a_save_whose_old_ones_cannot_be_deleted_is_a_save(tmp_path, monkeypatch, caplog):
    store = ModelDir.at(str(tmp_path), {}, 1)
    store.save(state_at(0))

    def broken(fs, path):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(LocalFileSystem, "rm_file", broken)
        store.save(state_at(1))

    assert_same(store.latest(), state_at(1))
    assert "old checkpoints cannot be deleted" in caplog.text
    store.save(state_at(2))
    assert len(store.checkpoints()) == 1


def write_on(told, place):
    """Save one state after the other, from the newest one on, and tell its number."""
    store = ModelDir.at(place, {}, 2)
    found = store.latest()
    iteration = found.iteration if found else 0
    with store.take_lease("fit") as held:
        while True:
            iteration += 1
            held.save(state_at(iteration))
            told.send(iteration)


def test_a_writer_killed_at_any_moment_leaves_what_it_had_saved(tmp_path):
    store = ModelDir.at(str(tmp_path), {}, 2)
    draw = random.Random(0)
    last = 0

    for _ in range(8):
        heard, tells = FORKED.Pipe(duplex=False)
        writer = FORKED.Process(target=write_on, args=(tells, str(tmp_path)), daemon=True)
        writer.start()
        tells.close()
        told = [heard.recv() for _ in range(draw.randint(2, 4))]
        time.sleep(draw.uniform(0, 0.05))
        writer.kill()
        writer.join()
        with suppress(EOFError, OSError):
            while True:
                told.append(heard.recv())
        found = store.latest()

        assert told[0] == last + 1  # it went on from what was readable
        assert told[-1] <= found.iteration <= told[-1] + 1
        assert_same(found, state_at(found.iteration))
        last = found.iteration

    assert last >= 16
    assert [path.name for path in (tmp_path / "lease").iterdir()] == ["00000008.json"]
