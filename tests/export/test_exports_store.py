"""Exports: on every kind of store a reader sees a whole one or none, and nobody loses another's."""

from __future__ import annotations

import json
import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import fsspec
import numpy as np
import pytest

from ray_kmeans.errors import ConfigError, NoDataError, StoreError
from ray_kmeans.export import directory
from ray_kmeans.export.directory import MANIFEST, ExportDir, assets
from ray_kmeans.io import publish
from ray_kmeans.store.labelled import LabelledOutput
from ray_kmeans.store.labelled_writer import WrittenParts, lease_output
from tests.support.servers import s3_server

FILES = {"saved_model.pb": b"graph", "variables/data-0": b"\x00\xff" * 9, "assets.extra/a/b": b""}
NOW = 1_780_000_000


@pytest.fixture(scope="module")
def s3():
    with s3_server() as options:
        yield options


class Clock:
    """Stands still; set `now` to move it."""

    now = NOW + 0.9

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def after(calls, error, function=None):
    """Return a function that works for so many calls and then fails."""
    left = iter(range(calls))

    def call(*args, **kwargs):
        if next(left, None) is None:
            raise error
        return function(*args, **kwargs)

    return call


class ExportContract:
    """Subclass it and give `place`; inherit what every store must keep."""

    @pytest.fixture
    def place(self):
        """Return a URL where nothing is yet, and its storage options."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, place, clock):
        return ExportDir.at(*place, clock)

    @pytest.fixture
    def seen(self, place):
        """Return what tells all files, by their names in the export directory."""
        fs, root = fsspec.core.url_to_fs(place[0], **place[1], use_listings_cache=False)

        def find():
            fs.invalidate_cache()
            found = fs.find(root) if fs.exists(root) else []
            return {path.removeprefix(root).lstrip("/"): fs.cat_file(path) for path in found}

        return find

    @pytest.fixture
    def numbers(self, seen):
        """Return what tells the numbers of all complete exports."""
        return lambda: sorted(int(n.split("/")[0]) for n in seen() if n.endswith(f"/{MANIFEST}"))

    def test_every_file_and_a_manifest_of_them_are_below_the_second(self, store, place, seen):
        url = store.publish(FILES)

        assert url == f"{place[0]}/{NOW}"
        found = {name.removeprefix(f"{NOW}/"): data for name, data in seen().items()}
        manifest = publish.unseal(found.pop(MANIFEST))
        assert found == FILES
        assert manifest["files"] == {
            name: {"size": len(data), "sha256": publish.sha256(data)}
            for name, data in FILES.items()
        }

    def test_a_second_that_is_taken_gives_the_next_free_number(self, store, seen, numbers):
        publish.put(store.fs, f"{store.path}/{NOW}/foreign", b"mine")
        publish.put(store.fs, f"{store.path}/{NOW + 1}", b"a file")
        publish.put(store.fs, f"{store.path}/{NOW + 3}/foreign", b"mine")

        urls = [store.publish({"a": str(i).encode()}) for i in range(2)]

        assert [int(url.rsplit("/", 1)[-1]) for url in urls] == [NOW + 2, NOW + 4]
        assert numbers() == [NOW + 2, NOW + 4]
        assert (seen()[f"{NOW + 2}/a"], seen()[f"{NOW + 4}/a"]) == (b"0", b"1")
        assert seen()[f"{NOW}/foreign"] == seen()[f"{NOW + 3}/foreign"] == b"mine"
        assert seen()[f"{NOW + 1}"] == b"a file"

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("no space left")])
    @pytest.mark.parametrize("calls", range(len(FILES) + 1))
    def test_a_publisher_that_fails_leaves_nothing(self, store, seen, calls, error, monkeypatch):
        store.publish({"a": b"before"})
        before = seen()
        with monkeypatch.context() as patch:
            patch.setattr(publish, "put", after(calls, error, publish.put))
            with pytest.raises((KeyboardInterrupt, StoreError)):
                store.publish(FILES)

        assert seen() == before

    def test_the_error_of_a_store_names_the_place(self, store, place, monkeypatch):
        monkeypatch.setattr(publish, "put", after(1, OSError("no space left"), publish.put))

        with pytest.raises(
            StoreError, match=r"cannot export to .*OSError: no space left"
        ) as caught:
            store.publish(FILES)

        assert place[0] in str(caught.value)

    def test_the_manifest_is_written_last(self, store, monkeypatch):
        names, put = [], publish.put
        monkeypatch.setattr(
            publish, "put", lambda fs, path, data: (names.append(path), put(fs, path, data))
        )
        store.publish(FILES)

        assert names[-1].endswith(f"/{MANIFEST}")
        assert sum(name.endswith(MANIFEST) for name in names) == 1

    def test_publishers_at_once_do_not_mix(self, place, seen, numbers, clock):
        n = 4
        together = Barrier(n)

        def run(i):
            store = ExportDir.at(*place, clock)
            together.wait(60)
            return store.publish({"a": b"%d" % i, "b": b"%d" % i})

        with ThreadPoolExecutor(n) as pool:
            urls = list(pool.map(run, range(n)))

        found = seen()
        assert len(set(urls)) == n
        assert sorted(int(url.rsplit("/", 1)[-1]) for url in urls) == numbers()
        for i, url in enumerate(urls):
            name = url.rsplit("/", 1)[-1]
            assert found.pop(f"{name}/a") == found.pop(f"{name}/b") == b"%d" % i
            assert set(publish.unseal(found.pop(f"{name}/{MANIFEST}"))["files"]) == {"a", "b"}
        assert found == {}

    @pytest.mark.parametrize("call", range(3))
    def test_a_publisher_in_the_middle_of_another_takes_another_number(
        self, store, place, seen, call, clock, monkeypatch
    ):
        put, other = publish.put, ExportDir.at(*place, clock)
        calls = iter(range(99))

        def meanwhile(fs, path, data):
            if next(calls) == call:
                monkeypatch.setattr(publish, "put", put)
                other.publish({"a": b"other", "b": b"other"})
                monkeypatch.setattr(publish, "put", meanwhile)
            put(fs, path, data)

        monkeypatch.setattr(publish, "put", meanwhile)
        url = store.publish({"a": b"mine", "b": b"mine"})
        monkeypatch.setattr(publish, "put", put)

        found = seen()
        name = url.rsplit("/", 1)[-1]
        assert found[f"{name}/a"] == found[f"{name}/b"] == b"mine"
        assert sorted(found.values()).count(b"other") == 2
        assert sum(path.endswith(MANIFEST) for path in found) == 2
        assert len(found) == 6

    def test_keep_deletes_the_older_exports(self, store, numbers, seen, clock):
        for second in range(5):
            clock.now = NOW + second
            store.publish(FILES, keep=None if second < 4 else 2)

        assert numbers() == [NOW + 3, NOW + 4]
        assert {name.split("/")[0] for name in seen()} == {str(NOW + 3), str(NOW + 4)}

    @pytest.mark.parametrize(
        ("keep", "left"), [(1, [11]), (2, [10, 11]), (3, [9, 10, 11]), (9, [9, 10, 11])]
    )
    def test_exports_are_ordered_as_numbers(self, store, numbers, clock, keep, left):
        for clock.now in (9, 10, 11):
            url = store.publish(FILES, keep=keep)

        assert url.endswith("/11")
        assert numbers() == left

    def test_a_clock_that_went_back_does_not_cost_the_new_export(self, store, numbers, clock):
        for clock.now in (NOW, NOW + 1, NOW - 5):
            url = store.publish(FILES, keep=2)

        assert url.endswith(f"/{NOW - 5}")
        assert numbers() == [NOW - 5, NOW + 1]

    def test_keep_deletes_only_exports(self, store, place, seen, clock):
        clock.now = 100
        store.publish(FILES)
        foreign = {
            "7/model": b"no manifest",
            "8": b"a file",
            f"best/{MANIFEST}": directory._manifest({}),
            f"11/{MANIFEST}": b"{}",
            f"12/{MANIFEST}": b"not JSON",
            "readme": b"",
        }
        for name, data in foreign.items():
            publish.put(store.fs, f"{store.path}/{name}", data)
        output = LabelledOutput.at(f"{place[0]}/13", place[1])
        with lease_output(output) as held:
            held.finish(held.begin({}), WrittenParts([], np.zeros(2, np.int64)), {}, 0)

        clock.now = 101
        store.publish(FILES, keep=1)

        found = seen()
        assert found.pop(f"13/{MANIFEST}")
        assert {n: found.pop(n) for n in foreign} == foreign
        assert {name.split("/")[0] for name in found} == {"101"}

    def test_a_file_of_others_in_an_old_export_stays(self, store, place, seen, numbers, clock):
        store.publish(FILES)
        names = [f"{NOW}/notes.txt", f"{NOW}/assets.extra/mine", f"{NOW}/x.abc.partial"]
        for name in names:
            publish.put(store.fs, f"{store.path}/{name}", b"mine")
        clock.now += 1

        store.publish(FILES, keep=1)

        assert numbers() == [NOW + 1]
        assert {n for n in seen() if n.startswith(f"{NOW}/")} == set(names)

    def test_old_exports_go_after_the_new_one_is_there(self, store, numbers, clock, monkeypatch):
        store.publish(FILES)
        clock.now += 1
        with monkeypatch.context() as patch:
            patch.setattr(ExportDir, "_remove", after(0, OSError("no permission")))
            with pytest.raises(StoreError, match=r"is exported, but older .* cannot be deleted"):
                store.publish(FILES, keep=1)

        assert numbers() == [NOW, NOW + 1]
        clock.now += 1
        store.publish(FILES, keep=1)
        assert numbers() == [NOW + 2]

    @pytest.mark.parametrize("keep", [0, -1])
    def test_keep_is_at_least_one(self, store, seen, keep):
        with pytest.raises(ConfigError, match=f"keep={keep} must be at least 1"):
            store.publish(FILES, keep=keep)

        assert seen() == {}

    @pytest.mark.parametrize(
        "name", ["/etc/a", "../a", "a/../b", "a/..", "", ".", "a//b", "a/", MANIFEST]
    )
    def test_a_name_that_leads_elsewhere_is_refused(self, store, seen, name):
        with pytest.raises(ConfigError, match="cannot be the name of a file") as caught:
            store.publish({"a": b"", name: b""})

        assert repr(name) in str(caught.value)
        assert seen() == {}


class TestLocalDirectory(ExportContract):
    @pytest.fixture
    def place(self, tmp_path):
        return str(tmp_path / "exports"), {}

    @pytest.mark.parametrize("error", [KeyboardInterrupt, PermissionError])
    def test_a_rename_that_fails_leaves_nothing(self, store, place, error, monkeypatch):
        monkeypatch.setattr(os, "rename", after(0, error))

        with pytest.raises((KeyboardInterrupt, StoreError)):
            store.publish(FILES)

        assert os.listdir(place[0]) == []

    def test_a_name_that_is_taken_at_the_last_moment_gives_the_next(
        self, store, place, monkeypatch
    ):
        rename = os.rename

        def late(source, target):
            monkeypatch.setattr(os, "rename", rename)
            os.makedirs(f"{target}/theirs")
            rename(source, target)

        monkeypatch.setattr(os, "rename", late)

        assert store.publish(FILES) == f"{place[0]}/{NOW + 1}"
        assert sorted(os.listdir(place[0])) == [str(NOW), str(NOW + 1)]
        assert os.listdir(f"{place[0]}/{NOW}") == ["theirs"]

    def test_an_empty_directory_of_another_is_not_replaced(self, store, place):
        os.makedirs(f"{place[0]}/{NOW}")

        assert store.publish(FILES) == f"{place[0]}/{NOW + 1}"
        assert os.listdir(f"{place[0]}/{NOW}") == []

    def test_nothing_is_visible_before_all_is(self, store, place, monkeypatch):
        visible, put = [], publish.put
        monkeypatch.setattr(
            publish, "put", lambda *a: (put(*a), visible.extend(os.listdir(place[0])))
        )
        store.publish(FILES)

        assert len(visible) == len(FILES) + 1
        assert all(name.startswith(".") for name in visible)

    def test_an_export_that_is_deleted_vanishes_at_once(self, store, place, clock, monkeypatch):
        store.publish(FILES)
        clock.now += 1
        monkeypatch.setattr(directory.shutil, "rmtree", after(0, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            store.publish(FILES, keep=1)

        assert [n for n in os.listdir(place[0]) if not n.startswith(".")] == [str(NOW + 1)]

    def test_a_relative_path_becomes_absolute_and_a_url_stays_one(
        self, tmp_path, clock, monkeypatch
    ):
        monkeypatch.chdir(tmp_path)

        assert ExportDir.at("a/b", {}, clock).publish(FILES) == f"{tmp_path}/a/b/{NOW}"
        url = f"file://{tmp_path}/a/b"
        assert ExportDir.at(f"{url}/", {}, clock).publish(FILES) == f"{url}/{NOW + 1}"
        assert sorted(os.listdir("a/b")) == [str(NOW), str(NOW + 1)]

    def test_a_place_below_a_file_cannot_be_written(self, tmp_path):
        (tmp_path / "file").write_text("in the way")

        with pytest.raises(StoreError, match=r"cannot export to .*file/exports"):
            ExportDir.at(str(tmp_path / "file" / "exports"), {}).publish(FILES)


class ObjectStoreContract(ExportContract):
    """Where there is no rename."""

    def test_a_killed_publisher_leaves_no_export_and_does_not_block(
        self, store, seen, numbers, monkeypatch
    ):
        with monkeypatch.context() as patch:
            patch.setattr(publish, "put", after(2, KeyboardInterrupt(), publish.put))
            patch.setattr(ExportDir, "_remove_files", after(0, OSError()))
            with pytest.raises(KeyboardInterrupt):
                store.publish(FILES)
        left = seen()
        assert len(left) == 2
        assert numbers() == []

        assert store.publish(FILES, keep=1).endswith(f"/{NOW + 1}")
        assert left.items() <= seen().items()

    def test_an_old_export_loses_its_manifest_first(self, store, seen, numbers, clock, monkeypatch):
        store.publish(FILES)
        clock.now += 1
        gone = after(2, OSError("gone away"), store.fs.rm_file)  # the claim and the manifest go
        monkeypatch.setattr(store.fs, "rm_file", gone)
        with pytest.raises(StoreError, match="gone away"):
            store.publish(FILES, keep=1)

        assert numbers() == [NOW + 1]
        assert {n for n in seen() if n.startswith(f"{NOW}/")} == {f"{NOW}/{name}" for name in FILES}


class TestMemory(ObjectStoreContract):
    @pytest.fixture
    def place(self):
        return f"memory://{uuid.uuid4().hex}/exports", {}


class TestS3(ObjectStoreContract):
    @pytest.fixture
    def place(self, s3):
        return f"s3://bucket/{uuid.uuid4().hex}", s3


def test_assets_are_read_from_any_store(tmp_path):
    (tmp_path / "words.txt").write_bytes(b"a\nb\n")
    url = f"memory://{uuid.uuid4().hex}/units.json"
    fsspec.filesystem("memory").pipe_file(url, b"{}")

    found = assets({"words.txt": str(tmp_path / "words.txt"), "deep/units.json": url}, {})

    assert found == {"assets.extra/words.txt": b"a\nb\n", "assets.extra/deep/units.json": b"{}"}


@pytest.mark.parametrize("none", [None, {}])
def test_no_assets_are_no_files(none):
    assert assets(none, {}) == {}


@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_an_asset_that_is_not_there_is_named(tmp_path, scheme):
    source = f"{scheme}{tmp_path}/words.txt"

    with pytest.raises(NoDataError) as caught:
        assets({"vocabulary": source}, {})

    assert f"assets_extra['vocabulary']={source!r} does not exist" in str(caught.value)


@pytest.mark.parametrize(
    ("source", "error"), [("nosuchscheme://a", ConfigError), (".", StoreError)]
)
def test_an_asset_that_cannot_be_read_is_named(source, error):
    with pytest.raises(error) as caught:
        assets({"vocabulary": source}, {})

    assert f"{source!r} cannot be" in str(caught.value)


def test_an_asset_cannot_leave_its_directory(tmp_path):
    (tmp_path / "a").write_bytes(b"")

    with pytest.raises(ConfigError, match=r"'\.\./a' cannot be the name"):
        assets({"../a": str(tmp_path / "a")}, {})


def test_the_manifest_is_json_that_verifies_itself(tmp_path):
    url = ExportDir.at(str(tmp_path), {}).publish(FILES)

    with open(f"{url}/{MANIFEST}", "rb") as file:
        data = file.read()

    assert json.loads(data)["files"]["saved_model.pb"]["size"] == len(FILES["saved_model.pb"])
    assert publish.unseal(data) is not None
    assert publish.unseal(data.replace(b"saved_model", b"other_model")) is None
