"""What a path names: a file or folder as it stands, links followed, and nothing of our own."""

from __future__ import annotations

import io
import json
import logging
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.cli import main
from ray_kmeans.data.opening import open_source
from ray_kmeans.data.own_output import folders_of_ours
from ray_kmeans.errors import ConfigError, DataError, NoDataError
from ray_kmeans.io.remote import Remote
from tests.support.files import as_npy, put_array, put_table, rows_of
from tests.support.stores import store_of

ODD = [
    "a[1]",
    "a[!x]",
    "a*",
    "a?",
    "**",
    "[",
    "]",
    "a[1]b",
    "#x",
    "100%",
    "a b",
    "~x",
    "x::y",
    "a\\b",
]


def value(number, rows=1):
    return np.full((rows, 2), float(number))


@pytest.fixture(params=["local", "memory", "s3"])
def store(request, tmp_path):
    return store_of(request, tmp_path)


def put(store, name, number):
    """Write a file of one row; not through URLs, in which some names would be other ones."""
    remote = Remote(store.root, store.options)
    remote.fs.makedirs(f"{remote.path}/{name}".rpartition("/")[0], exist_ok=True)
    remote.fs.pipe_file(f"{remote.path}/{name}", as_npy(value(number)))


def read(store, *names):
    """Return the first value of each row of what these names name, below the store's root."""
    urls = [f"{store.root}/{name}" for name in names]
    source = open_source(urls, storage_options=store.options)
    return [int(rows[0, 0]) for _, rows in source.read(source.describe().blocks)]


@pytest.mark.parametrize("name", ODD)
def test_a_name_that_exists_as_it_stands_is_that_and_no_pattern(store, name):
    if name == "a\\b" and store.endpoint:
        pytest.skip("this server takes it for a/b")
    put(store, f"{name}.npy", 1)
    put(store, f"{name}/x.npy", 2)
    put(store, "a1.npy", 3)  # what some of the patterns match
    put(store, "a1/x.npy", 4)

    assert read(store, f"{name}.npy") == [1]
    assert read(store, name) == [2]
    assert read(store, f"{name}/x.npy") == [2]
    assert read(store, f"{name}/*.npy") == [2]


def test_what_does_not_exist_as_it_stands_is_a_pattern(store):
    for number, name in enumerate(("a1.npy", "a2.npy", "b1.npy", "c/a1.npy", "c/d/a1.npy")):
        put(store, name, number)

    assert read(store, "a[1].npy") == [0]
    assert read(store, "[!a]?.npy") == [2]
    assert read(store, "*/*.npy") == [3]
    assert read(store, "**/a1.npy") == [0, 3, 4]
    assert read(store, "c/**") == [3, 4]
    with pytest.raises(NoDataError, match="holds no"):
        read(store, "z*.npy")
    with pytest.raises(NoDataError, match="holds no"):
        read(store, "none/*.npy")
    with pytest.raises(ConfigError, match="'\\*\\*' stands for whole folders"):
        read(store, "a**.npy")


def test_below_a_pattern_too_a_name_as_it_stands_comes_first(store):
    for number, name in enumerate(("p/a[1].npy", "p/a1.npy", "q/a1.npy", "[p]/a1.npy")):
        put(store, name, number)

    assert read(store, "[pq]/a[1].npy") == [0, 2]
    assert read(store, "[p]/*.npy") == [3]


def test_a_model_and_an_output_may_have_such_names(store):
    X = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
    remote = Remote(store.root, store.options)
    config = RunConfig(
        num_workers=0, progress=False, storage_options=store.options, keep_checkpoint_max=1
    )
    found = {}
    for name in ("m1", "m[1]", "m*", "m::1"):
        km = KMeansClustering(3, f"{store.root}/{name}", use_mini_batch=False, config=config)
        km.fit(X, max_steps=2)
        km.fit(X, max_steps=5)
        found[name] = km.clusters().tobytes(), len(km.checkpoints())

    assert set(found.values()) == {found["m1"]}
    below = remote.fs.find(remote.path)
    assert {path[len(remote.path) + 1 :].split("/")[0] for path in below} == set(found)


def test_deleting_takes_a_name_as_it_stands(store):
    for name in ("m[1]/x.npy", "m1/x.npy", "m*/x.npy"):
        put(store, name, 1)
    remote = Remote(store.root, store.options)

    remote.fs.rm(f"{remote.path}/m[1]", recursive=True)
    remote.fs.rm(f"{remote.path}/m*", recursive=True)

    assert [path[len(remote.path) :] for path in remote.fs.find(remote.path)] == ["/m1/x.npy"]


def test_a_name_that_begins_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    put_array(tmp_path, "~$x.npy", value(1))
    put_array(tmp_path, "home/y.npy", value(2))

    assert rows_of("~$x.npy").tolist() == [[1, 1]]
    assert open_source("~$x.npy").files[0].path == f"{tmp_path}/~$x.npy"
    assert rows_of("~/y.npy").tolist() == [[2, 2]]


def test_a_chain_of_stores_is_refused_in_one_sentence(tmp_path):
    put_array(tmp_path, "x.npy", value(1))

    for url in (f"simplecache::file://{tmp_path}/x.npy", f"zip://*.npy::{tmp_path}/x.zip"):
        with pytest.raises(ConfigError, match=r"is a chain of stores \(::\), which is not served"):
            open_source(url)
        with pytest.raises(ConfigError, match="is a chain of stores"):
            KMeansClustering(2, url, config=RunConfig(num_workers=0)).fit(value(1, 5))


def test_a_name_that_is_not_utf8_is_refused_in_one_sentence(tmp_path):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/x\xff.npy")
    np.save(open(name, "wb"), value(1))  # noqa: SIM115

    for uri in (name, tmp_path):
        with pytest.raises((ConfigError, DataError), match=r"udcff.npy' is not UTF-8. Rename it"):
            open_source(uri)
    with pytest.raises(ConfigError, match="is not UTF-8"):
        KMeansClustering(2, f"{name}-model", config=RunConfig(num_workers=0)).fit(value(1, 5))


class TestLinks:
    """Of this machine's files; the layout is that of the Hugging Face cache."""

    @pytest.fixture
    def cache(self, tmp_path):
        put_array(tmp_path, "blobs/3f5a", value(1, 5))
        put_array(tmp_path, "blobs/77aa", value(2, 5))
        folder = tmp_path / "snapshots" / "0c1d"
        folder.mkdir(parents=True)
        for name, blob in (("a.npy", "3f5a"), ("b.npy", "77aa")):
            (folder / name).symlink_to(f"../../blobs/{blob}")
        for blob in (tmp_path / "blobs").iterdir():
            os.utime(blob, (1, 1))  # older than the links
        return tmp_path

    def test_linked_files_are_read_however_they_are_named(self, cache):
        folder = cache / "snapshots" / "0c1d"

        for x in (
            folder,
            f"{folder}/*.npy",
            f"{cache}/snap*/*/*.npy",
            [folder / "a.npy", folder / "b.npy"],
        ):
            assert rows_of(x)[:, 0].tolist() == [1] * 5 + [2] * 5

    def test_a_linked_file_that_changes_is_seen(self, cache):
        source = open_source(cache / "snapshots" / "0c1d")
        blocks = source.describe().blocks
        put_array(cache, "blobs/77aa", value(9, 5))

        with pytest.raises(DataError, match=r"b\.npy has changed since"):
            list(source.read(blocks))

    def test_a_link_that_names_another_file_now_is_seen(self, cache):
        source = open_source(cache / "snapshots" / "0c1d" / "a.npy")
        blocks = source.describe().blocks
        put_array(cache, "blobs/new", value(9, 5))
        (cache / "snapshots" / "0c1d" / "a.npy").unlink()
        (cache / "snapshots" / "0c1d" / "a.npy").symlink_to("../../blobs/new")

        with pytest.raises(DataError, match=r"a\.npy has changed since"):
            list(source.read(blocks))

    def test_linked_folders_are_read(self, tmp_path):
        put_array(tmp_path, "real/sub/1.npy", value(1))
        put_array(tmp_path, "data/0.npy", value(0))
        (tmp_path / "data" / "more").symlink_to("../real")
        (tmp_path / "way").symlink_to("data")

        for x in ("data", "way", "way/**/*.npy", "data/**"):
            assert rows_of(tmp_path / x)[:, 0].tolist() == [0, 1]
        assert rows_of(tmp_path / "data/*/sub/*.npy")[:, 0].tolist() == [1]

    def test_links_in_a_circle_are_walked_once(self, tmp_path):
        put_array(tmp_path, "a/1.npy", value(1))
        put_array(tmp_path, "b/2.npy", value(2))
        for link, target in (("a/b", "../b"), ("b/a", "../a"), ("a/self", "."), ("b/up", "..")):
            (tmp_path / link).symlink_to(target)

        found = [os.path.realpath(file.path) for file in open_source(tmp_path / "a").files]

        assert {path[-5:] for path in found} == {"1.npy", "2.npy"}
        assert len(found) < 10

    @pytest.mark.parametrize("x", ["", "gone.npy", "*", "sub"])
    def test_a_broken_link_is_named_with_its_target(self, tmp_path, x):
        put_array(tmp_path, "1.npy", value(1))
        (tmp_path / "gone.npy").symlink_to("../nowhere/x.npy")
        (tmp_path / "sub").symlink_to("nothing")
        (tmp_path / ".hidden").symlink_to("nothing")

        with pytest.raises(DataError, match=r"is a link to '(\.\./nowhere/x\.npy|nothing)', which"):
            open_source(tmp_path / x)

    def test_a_link_to_itself_is_named(self, tmp_path):
        (tmp_path / "x.npy").symlink_to("x.npy")

        with pytest.raises(DataError, match=r"is a link to 'x\.npy', which cannot be reached"):
            open_source(tmp_path)

    def test_a_pipe_is_no_file_and_is_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "x.npy")

        for x in (tmp_path, tmp_path / "x.npy"):
            with pytest.raises(DataError, match="is a pipe, a socket or a device"):
                open_source(x)


class TestOwn:
    """What this product wrote below the data is not read as data the next time."""

    @pytest.fixture
    def data(self, store):
        content = io.BytesIO()
        pq.write_table(pa.table({"v": np.random.default_rng(0).random(60)}), content)
        store.put("a.parquet", content.getvalue())
        return store

    def run(self, store, *flags):
        here = () if flags[0] == "export" else ("--num-workers", "0")
        main([*flags, "--storage-options", json.dumps(store.options), *here])

    def test_the_same_commands_give_the_same_a_second_time(self, data, caplog, capsys):
        root = data.root
        fit = ("fit", root, f"{root}/model", "--num-clusters", "3", "--columns", "v")
        predict = ("predict", root, f"{root}/model", f"{root}/out", "--columns", "v")
        for flags in (fit, predict, ("export", f"{root}/model", f"{root}/export")):
            self.run(data, *flags)
        before = open_source(root, ["v"], data.options).describe()

        with caplog.at_level(logging.WARNING, "ray_kmeans"):
            for flags in (predict, fit):
                self.run(data, *flags)

        assert before.rows == 60
        assert "60 rows labelled" in capsys.readouterr().out
        said = " ".join(record.getMessage() for record in caplog.records)
        assert "passed over as data, as ray_kmeans wrote it: " in said
        assert "/model/checkpoints, " in said
        assert "/out" in said

    def test_an_output_that_is_named_is_data(self, data):
        root = data.root
        self.run(data, "fit", root, f"{root}/m", "--num-clusters", "3", "--columns", "v")
        self.run(data, "predict", root, f"{root}/m", f"{root}/out", "--columns", "v")

        for x in (f"{root}/out", f"{root}/out/*.parquet"):
            assert open_source(x, ["row"], data.options).describe().rows == 60
        assert open_source(f"{root}/**/*.parquet", ["v"], data.options).describe().rows == 60

    def test_a_run_that_died_before_its_first_checkpoint(self, data):
        blob = as_npy(value(1))
        data.put("m/checkpoints/data/00000001-0a1b/centers.npy", blob)

        assert open_source(data.root, ["v"], data.options).describe().rows == 60

    def test_a_folder_of_the_users_that_looks_alike_is_data(self, store):
        for name in ("checkpoints/1.npy", "x/checkpoints/best.npy", "y/1.npy", "z/1.npy"):
            put(store, name, 1)
        store.put("y/_manifest.json", b'{"parts": [], "sha256": "x"}')
        store.put("z/_manifest.json", b"[" * 10_000)

        assert len(read(store, "")) == 4


def test_which_folders_are_ours_follows_from_their_names_and_manifests():
    manifests = {
        "out/_manifest.json": b'{"format": 2, "of": {}, "parts": [], "clusters": [], "sha256": ""}',
        "half/_unfinished.json": b'{"of": {}, "after": "", "sha256": ""}',
        "e/1/_manifest.json": b'{"kind": "ray_kmeans export", "files": {}, "sha256": ""}',
        "theirs/_manifest.json": b"{}",
        "_manifest.json": b'{"of": {}, "after": "", "sha256": ""}',
    }

    assert folders_of_ours(manifests, manifests.__getitem__) == {"out", "half", "e/1"}


def test_a_table_of_one_row_in_each_folder_keeps_its_order(tmp_path):
    for number, name in enumerate(("a", "a b", "a-b", "a/b")):
        put_table(tmp_path, f"{name}.parquet", pa.table({"v": [float(number)]}))

    assert rows_of(tmp_path)[:, 0].tolist() == [1, 2, 0, 3]
