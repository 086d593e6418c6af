"""A lease on a store that lies, and between files of others: taken or refused, in bounded time."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from ray_kmeans.errors import BusyError, StoreError
from ray_kmeans.io import publish
from ray_kmeans.store.lease import Lease, Times
from ray_kmeans.store.lease_holder import Holder
from tests.support.leases import beating, epochs, held_elsewhere

QUICK = Times(beat_s=0.05, lease_s=0.5, poll_s=0.05)
LONGEST_S = 10
UNKNOWN = "a host that its file does not tell"


@pytest.fixture
def local(tmp_path):
    return publish.Place(str(tmp_path / "model"), {})


def take(place, times=QUICK, **more):
    began = time.monotonic()
    lease = Lease(place, uuid.uuid4().hex, "fit", times, **more)
    try:
        lease.take()
        return lease
    finally:
        assert time.monotonic() - began < LONGEST_S


class Lying(MemoryFileSystem):
    """A store whose lists are those that `shown` makes of the true ones."""

    protocol = "lying"
    cachable = False
    shown = staticmethod(lambda names: names)
    unreadable = ""

    def ls(self, path, detail=True, **kwargs):
        try:
            found = super().ls(path, detail=True, **kwargs)
        except FileNotFoundError:
            found = []
        found = self.shown(found)
        return found if detail else [each["name"] for each in found]

    def cat_file(self, path, *args, **kwargs):
        if self.unreadable and path.endswith(self.unreadable):
            raise PermissionError(13, "Permission denied", path)
        return super().cat_file(path, *args, **kwargs)


@pytest.fixture
def lying(monkeypatch):
    """Give a place on a store that lies as a function of the list says."""
    fsspec.register_implementation("lying", Lying, clobber=True)

    def place(shown=lambda names: names, unreadable=""):
        monkeypatch.setattr(Lying, "shown", staticmethod(shown))
        monkeypatch.setattr(Lying, "unreadable", unreadable)
        return publish.Place(f"lying://{uuid.uuid4().hex}", {})

    return place


def hidden(names):
    return []


@pytest.mark.parametrize("released", [False, True])
def test_lists_that_never_show_what_was_written_are_an_error(lying, released):
    place = lying()
    held_elsewhere(place, released=released)
    Lying.shown = staticmethod(hidden)

    with pytest.raises(StoreError, match=r"lease/0000000\d.json was written and no list shows it"):
        take(place)


def test_lists_that_stand_still_are_an_error(lying):
    place = lying(lambda names: [each for each in names if each["name"].endswith("00000001.json")])
    held_elsewhere(place, released=True)

    with pytest.raises(StoreError, match="Give a store whose lists show what was written before"):
        take(place)
    Lying.shown = staticmethod(lambda names: names)
    assert epochs(place) == ["00000001.json"]  # and nothing is left there


def test_a_holder_that_no_list_shows_is_found_alive(lying):
    place = lying(hidden)
    with beating(place), pytest.raises(BusyError, match="node-3"):
        take(place)


def test_lists_that_are_late_are_waited_for(lying):
    looks = []

    def late(names):
        looks.append(1)
        return names if len(looks) % 5 == 0 else []

    with_lease = take(lying(late))
    assert with_lease.epoch == 1
    with_lease.release()


def test_a_list_that_shows_what_is_gone_is_a_holder_that_gives_no_sign(lying):
    ghost = {"name": "/x/lease/00000007.json", "type": "file", "size": 1}
    lease = take(lying(lambda names: [ghost, *names]))

    assert lease.epoch == 8
    lease.release()


def test_lists_that_always_show_another_holder_are_an_error(lying):
    numbers = iter(range(1, 10**6))

    def another(names):
        return [{"name": f"/x/lease/{next(numbers):08d}.json", "type": "file", "size": 1}]

    with pytest.raises(StoreError, match="holders came one after the other, or the lists"):
        take(lying(another))


def test_a_store_where_another_one_is_always_quicker_is_an_error(local, monkeypatch):
    monkeypatch.setattr(publish, "create", lambda *_: False)

    with pytest.raises(StoreError, match="in 20 attempts another run was always quicker"):
        take(local)


def test_a_file_that_cannot_be_read_is_an_error_that_says_what_to_do(lying):
    place = lying(unreadable="00000001.json")
    publish.put(place.fs, f"{place.path}/lease/00000001.json", b"{}")

    with pytest.raises(StoreError, match=r"lease/00000001.json cannot be read .*delete it\."):
        take(place)


JUNK = {
    "empty": b"",
    "no JSON": b"\x00\xff",
    "a list": b"[]",
    "a number": b"7",
    "deep": b"[" * 100_000,
    "a huge number": b"9" * 10_000,
    "other keys": b'{"a": 1}',
    **{
        f"{name}={value}": json.dumps(
            {**vars(Holder("o", "n", "fit", "h", 5, "m", 7)), name: value}
        ).encode()
        for name, value in [
            ("pid", "x"),
            ("pid", -1),
            ("pid", 0),
            ("pid", 2**80),
            ("pid", 1.5),
            ("pid", True),
            ("host", None),
            ("host", "a\nWARNING forged"),
            ("what", ["fit"]),
            ("machine", 3),
            ("beat", "1"),
            ("started", -3),
            ("runs_for_s", 1e300),
            ("runs_for_s", float("nan")),
            ("runs_for_s", "long"),
            ("released", "no"),
        ]
    },
}


@pytest.mark.long(kind="file of junk")
@pytest.mark.parametrize("content", JUNK.values(), ids=JUNK)
@pytest.mark.parametrize("epoch", [1, 99_999_999, 123_456_789_012])
def test_a_file_of_junk_is_a_holder_that_gives_no_sign(local, content, epoch):
    publish.put(local.fs, f"{local.path}/lease/{epoch:08d}.json", content)
    assert Holder.parse(content).host == UNKNOWN

    lease = take(local, Times(beat_s=1, lease_s=0.1, poll_s=0.02))

    assert lease.epoch == epoch + 1
    lease.check()
    lease.release()
    assert {*epochs(local)} == {f"{n:08d}.json" for n in (epoch, epoch + 1)}  # it may be another's


def test_a_number_beyond_all_is_an_error_that_says_what_to_delete(local):
    publish.put(local.fs, f"{local.path}/lease/{10**15 - 1}.json", b"{}")

    with pytest.raises(StoreError, match="has the number 999999999999999, which no run gives"):
        take(local)


OTHERS = [
    ".DS_Store",
    ".nfs000000000001",
    "._00000003.json",
    "notes.json",
    "1.json",
    "0000001.json",
    "000000003.json",
    "00000003.json.bak",
    "00000003.json.1a2b3c4d.partial",
    f"{10**16}.json",
]


def test_files_of_others_in_the_folder_of_the_lease_stay(local):
    folder = Path(local.path, "lease")
    (folder / "00000001.json").mkdir(parents=True)
    (folder / "00000002.json").write_text("{}")
    (folder / "٠٠٠٠٠٠٠٩.json").write_text("theirs")
    (folder / "folder").mkdir()
    for name in OTHERS:
        (folder / name).write_text("theirs")

    lease = take(local)
    lease.check()
    assert lease.epoch == 3
    lease.release()

    names = {path.name for path in folder.iterdir()}
    theirs = {"folder", "00000001.json", "00000002.json", "٠٠٠٠٠٠٠٩.json"}
    assert names == {*OTHERS, *theirs, "00000003.json"}


def test_a_folder_by_the_name_of_the_next_epoch_is_passed_over(local):
    Path(local.path, "lease", "00000001.json", "x").mkdir(parents=True)

    lease = take(local)

    assert lease.epoch == 2
    lease.release()
    assert Path(local.path, "lease", "00000001.json", "x").is_dir()


def test_a_lease_may_have_a_folder_of_another_name(local):
    with Lease(local, "run-1", "predict", QUICK, folder="writing") as lease:
        lease.check()
        assert [path.name for path in Path(local.path).iterdir()] == ["writing"]
        with pytest.raises(BusyError):
            take(local, folder="writing")
        take(local).release()
