"""A lease: one run at a time writes to a place, whoever dies, sleeps or has a wrong clock."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import time
import uuid
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from threading import Event, current_thread

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from ray_kmeans.errors import BusyError, LeaseLostError
from ray_kmeans.io import publish
from ray_kmeans.store import lease_holder
from ray_kmeans.store.lease import Lease, Times
from ray_kmeans.store.lease_holder import Holder, has_ended, this_machine
from ray_kmeans.store.model_dir import ModelDir
from tests.support.faults import ONWARD, Proxy
from tests.support.forked import FORKED
from tests.support.leases import beating, epochs, held_elsewhere
from tests.support.servers import s3_server
from tests.support.store_contract import assert_same, state_at
from tests.support.stores import s3_at, serving

QUICK = Times(beat_s=0.05, lease_s=0.5, poll_s=0.05)
NEVER = Times(beat_s=1000, lease_s=1000, poll_s=1000)
STORES = ["local", "memory", "s3", "gcs", "azure"]
SHARED = [name for name in STORES if name != "memory"]


def a_place_of(request, name, tmp_path):
    if name == "local":
        return publish.Place(str(tmp_path / "model"), {})
    if name == "memory":
        return publish.Place(f"memory://{uuid.uuid4().hex}/model", {})
    store = request.getfixturevalue(name)
    return publish.Place(f"{store.root}/{uuid.uuid4().hex}", store.options)


@pytest.fixture(params=STORES)
def place(request, tmp_path):
    return a_place_of(request, request.param, tmp_path)


@pytest.fixture
def local(tmp_path):
    return publish.Place(str(tmp_path / "model"), {})


def lease_on(place, owner=None, times=QUICK):
    return Lease(place, owner or uuid.uuid4().hex, "fit", times)


def content(place, name):
    return json.loads(place.fs.cat_file(f"{place.path}/lease/{name}"))


def test_a_place_that_is_held_is_refused_with_who_holds_it_and_for_how_long(place):
    with beating(place), pytest.raises(BusyError) as caught:
        lease_on(place).take()

    assert caught.value.holder == "fit of process 12 on node-3"
    assert caught.value.runs_for == "0:01:40"
    assert place.url in str(caught.value)
    assert epochs(place) == ["00000001.json"]


def test_two_leases_of_this_process_are_two(place):
    with lease_on(place) as first, pytest.raises(BusyError, match=rf"process {os.getpid()} on"):
        lease_on(place).take()
    first.check()


def test_a_lease_that_was_released_is_free_at_once_and_leaves_nothing(place):
    for _ in range(3):
        with lease_on(place, times=NEVER) as lease:
            lease.check()
            assert epochs(place) == ["00000001.json"]
        assert epochs(place) == []


def test_a_holder_that_lets_go_between_two_looks_is_not_alive(place, monkeypatch):
    held_elsewhere(place)
    lease = lease_on(place)
    read, looks = lease._read, []

    def let_go_before_the_second(epoch):
        looks.append(epoch)
        if len(looks) == 2:
            place.fs.rm_file(f"{place.path}/lease/00000001.json")
        return read(epoch)

    monkeypatch.setattr(lease, "_read", let_go_before_the_second)

    with lease:
        lease.check()
        assert epochs(place) == ["00000001.json"]


def test_after_a_holder_that_may_only_sleep_the_file_stays(place):
    held_elsewhere(place)
    with lease_on(place):
        pass
    assert epochs(place) == ["00000002.json"]
    assert content(place, "00000002.json")["released"]

    with lease_on(place, times=NEVER) as lease:
        lease.check()
        assert epochs(place) == ["00000003.json"]


def test_a_lease_is_released_though_the_run_fails(local):
    with pytest.raises(ZeroDivisionError), lease_on(local):
        1 / 0

    assert epochs(local) == []


def test_no_sign_of_life_comes_after_the_release(local, monkeypatch):
    put_ = publish.put
    begun = Event()

    def slow(fs, path, data):
        if current_thread().name == "lease":
            begun.set()
            time.sleep(0.2)
        put_(fs, path, data)

    monkeypatch.setattr(publish, "put", slow)
    with lease_on(local):
        assert begun.wait(20)
    time.sleep(0.3)

    assert epochs(local) == []


def test_a_holder_on_another_machine_that_gives_no_sign_is_followed_after_some_time(place):
    held_elsewhere(place)
    began = time.monotonic()

    with lease_on(place) as lease:
        assert time.monotonic() - began >= QUICK.lease_s
        lease.check()
        assert epochs(place) == ["00000002.json"]


def test_a_holder_gives_signs_of_life(local):
    with lease_on(local):
        beats = []
        while len(set(beats)) < 4:
            time.sleep(0.02)
            beats.append(content(local, "00000001.json")["beat"])
    assert beats == sorted(beats)


@pytest.mark.parametrize("ahead_s", [-1e9, 1e9])
def test_no_clock_counts_but_the_watchers_own(local, monkeypatch, ahead_s):
    """The clock of day is wrong by decades, on either side: nothing changes."""
    wrong = time.time() + ahead_s
    monkeypatch.setattr(time, "time", lambda: wrong)
    held_elsewhere(local)
    for path in Path(local.path, "lease").iterdir():
        os.utime(path, (wrong, wrong))

    with lease_on(local) as lease:
        with pytest.raises(BusyError):
            lease_on(local).take()
        lease.check()


def test_the_same_run_goes_on_at_once(place):
    """As a coordinator that is started again by its driver, while the first may still be there."""
    first = lease_on(place, "run-7", NEVER)
    first.take()

    with lease_on(place, "run-7", NEVER) as second:
        second.check()
        with pytest.raises(LeaseLostError, match=rf"taken over by a fit of process {os.getpid()}"):
            first.check()
    first.release()
    assert epochs(place) == ["00000002.json"]
    assert content(place, "00000002.json")["released"]


def test_a_file_that_is_no_json_is_a_holder_like_any_other(local):
    local.put("lease/00000001.json", b'{"owner": "cut off')

    with lease_on(local) as lease:
        lease.check()
    assert epochs(local) == ["00000001.json", "00000002.json"]


def test_a_file_that_is_deleted_under_a_run_comes_back(local):
    with lease_on(local) as lease:
        Path(local.path, "lease", "00000001.json").unlink()
        lease.check()
        while not epochs(local):
            time.sleep(0.02)


def test_neither_beats_nor_the_end_touch_the_file_of_a_run_that_began_anew(local):
    """All was deleted under a run, and another one has taken the same epoch."""
    with lease_on(local, times=replace(QUICK, beat_s=0.1)):
        held_elsewhere(local)
        of_the_other = content(local, "00000001.json")

        time.sleep(0.5)
        assert content(local, "00000001.json") == of_the_other

    assert content(local, "00000001.json") == of_the_other


def test_who_slept_over_an_epoch_does_not_take_it_again(local, monkeypatch):
    """One that found epoch 1 free sleeps while others take 2 and 3; then it creates 2."""
    late = lease_on(local)
    wait = late._wait_until_free
    second, third = lease_on(local, "run-7", NEVER), lease_on(local, "run-7")

    def sleepy(refused):
        monkeypatch.setattr(late, "_wait_until_free", wait)
        second.take()
        third.take()
        assert epochs(local) == ["00000003.json"]
        return 1

    held_elsewhere(local, released=True)
    monkeypatch.setattr(late, "_wait_until_free", sleepy)

    with pytest.raises(BusyError):
        late.take()
    third.check()
    third.release()
    second.release()
    assert content(local, "00000003.json")["released"]


def test_a_holder_that_cannot_write_says_so_once_and_goes_on(local, monkeypatch, caplog):
    put_ = publish.put
    failed = []

    def broken(fs, path, data):
        if len(failed) < 4 and current_thread().name == "lease":
            failed.append(path)
            raise OSError(5, "Input/output error")
        put_(fs, path, data)

    monkeypatch.setattr(publish, "put", broken)
    with lease_on(local):
        while content(local, "00000001.json")["beat"] < 6:
            time.sleep(0.02)

    assert len(failed) == 4
    assert caplog.text.count("cannot give a sign of life") == 1


def test_a_process_is_known_by_its_number_and_its_start():
    here = Holder("o", "n", "fit")
    child = subprocess.Popen(["sleep", "60"])
    try:
        its = replace(here, pid=child.pid, started=lease_holder._stat_of(child.pid)[1])
        assert not here.is_gone
        assert not its.is_gone
        assert replace(its, started=its.started - 1).is_gone  # its number was given again
        assert not replace(its, machine="another", pid=2**22 + 1).is_gone
        assert not replace(its, machine="", pid=2**22 + 1).is_gone
    finally:
        child.kill()
    while lease_holder._stat_of(child.pid)[0] != "Z":
        time.sleep(0.01)
    assert its.is_gone  # before anybody has asked how it ended
    child.wait()
    assert its.is_gone


def test_a_process_that_the_system_hides_has_not_ended(tmp_path):
    assert not has_ended(os.getpid(), 1, tmp_path)
    assert this_machine(tmp_path) == ""
    assert not Holder("o", "n", "fit", machine="").is_gone


def test_a_holder_comes_back_from_its_file():
    held = Holder("o", "n", "fit").at(3, 7384.6, released=True)

    assert Holder.parse(bytes(held)) == held
    assert held.runs_for == "2:03:05"
    assert str(Holder.parse(b"")) == "run of process 0 on a host that its file does not tell"


def obey(orders, options, times):
    """Take a lease, save and release, one after the other as told."""
    held = ExitStack()
    while True:
        word, value = orders.recv()
        try:
            if word == "take":
                model = held.enter_context(ModelDir.at(value, options, 5).take_lease("fit", times))
            elif word == "save":
                model.save(state_at(value))
            else:
                held.close()
        except (BusyError, LeaseLostError) as error:
            orders.send(f"{type(error).__name__} {error}")
        else:
            orders.send(word)


class Run:
    """Another process that takes a lease, saves and releases, one after the other as told."""

    def __init__(self, place, times=QUICK):
        self._orders, theirs = FORKED.Pipe()
        about = theirs, dict(place.storage_options), times
        self._process = FORKED.Process(target=obey, args=about, daemon=True)
        self._process.start()
        self.pid = self._process.pid

    def tell(self, word, value=None):
        self._orders.send((word, value))

    def hear(self):
        return self._orders.recv()

    def ask(self, word, value=None):
        self.tell(word, value)
        return self.hear()

    def kill(self):
        self._process.kill()
        self._process.join()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


@pytest.fixture(params=SHARED)
def shared(request, tmp_path):
    """Give a place that other processes see."""
    return a_place_of(request, request.param, tmp_path)


def race(runs, urls):
    """Let all take each place at once; return how often each one won."""
    wins = [0] * len(runs)
    for url in urls:
        for run in runs:
            run.tell("take", url)
        heard = [run.hear() for run in runs]
        assert sorted(text.split()[0] for text in heard) == ["BusyError", "take"], url
        winner = heard.index("take")
        assert f"process {runs[winner].pid} on" in heard[1 - winner]
        assert runs[winner].ask("save", 1) == "save"
        assert runs[winner].ask("release") == "release"
        wins[winner] += 1
    return wins


def test_of_two_processes_at_once_exactly_one_wins(local):
    """At new places, at places that were released, and at those of a dead holder."""
    places = [publish.Place(f"{local.path}/{number}", {}) for number in range(20)]
    for number, place in enumerate(places):
        if number % 5 < 2:
            held_elsewhere(place, released=number % 5 == 1)
    times = Times(beat_s=0.02, lease_s=0.4, poll_s=0.05)

    with Run(local, times) as first, Run(local, times) as second:
        wins = race([first, second], [place.path for place in places])

    assert sum(wins) == 20


@pytest.mark.parametrize("shared", ["s3", "gcs", "azure"], indirect=True)
def test_so_it_is_on_every_store(shared):
    times = Times(beat_s=0.2, lease_s=2, poll_s=0.2)
    urls = [f"{shared.url}/{number}" for number in range(2)]

    with Run(shared, times) as first, Run(shared, times) as second:
        assert sum(race([first, second], urls)) == len(urls)


def test_a_killed_holder_on_this_machine_is_followed_at_once(shared):
    with Run(shared, NEVER) as run:
        assert run.ask("take", shared.url) == "take"
        run.kill()

        with lease_on(shared, times=NEVER) as lease:
            lease.check()
    assert epochs(shared) == ["00000002.json"]


def test_a_holder_that_was_paused_finds_itself_followed_and_saves_nothing(shared):
    store = ModelDir.at(shared.url, shared.storage_options, 5)
    with Run(shared) as run:
        assert run.ask("take", shared.url) == "take"
        assert run.ask("save", 1) == "save"
        os.kill(run.pid, signal.SIGSTOP)

        with store.take_lease("fit", QUICK) as held:
            held.save(state_at(2))
            os.kill(run.pid, signal.SIGCONT)
            answer = run.ask("save", 3)
            assert answer.startswith("LeaseLostError")
            assert f"process {os.getpid()} on" in answer
            held.save(state_at(4))
        assert run.ask("release") == "release"

    assert_same(store.latest(), state_at(4))
    assert len(store.checkpoints()) == 3
    with lease_on(shared, times=NEVER) as lease:  # the release that counts was the last one's
        lease.check()


def test_a_directory_that_went_to_another_process_is_of_the_same_run(local):
    store = ModelDir.at(local.path, {}, 5)
    elsewhere = pickle.loads(pickle.dumps(store))

    with store.take_lease("fit", NEVER) as first, elsewhere.take_lease("fit", NEVER) as second:
        second.save(state_at(1))
        with pytest.raises(LeaseLostError):
            first.save(state_at(1))
        assert second.checkpoints() == store.checkpoints()
        assert_same(second.latest(), state_at(1))
    assert ModelDir.at(local.path, {}, 5) == store
    assert ModelDir.at(local.path, {}, 5).owner != store.owner


def last_writer_has(place, caplog, monkeypatch):
    """Check what holds where two can create the same file."""
    with lease_on(place) as lease:
        lease.check()
    assert caplog.text.count("lets two processes create the same file") == 1
    create = publish.create

    with ExitStack() as other, monkeypatch.context() as patch:

        def overwritten(fs, path, data):
            created = create(fs, path, data)
            if place.fs.cat_file(path) == data:
                other.enter_context(beating(place, every_s=0.01))
            return created

        patch.setattr(publish, "create", overwritten)
        with pytest.raises(BusyError, match="node-3"):
            lease_on(place, times=Times(beat_s=0.05, lease_s=3, poll_s=0.3)).take()


def without_links(*_):
    raise PermissionError(1, "Operation not permitted")


def test_on_a_file_system_without_links_the_last_writer_has_it(local, monkeypatch, caplog):
    monkeypatch.setattr(os, "link", without_links)

    last_writer_has(local, caplog, monkeypatch)


class Ignoring(Proxy):
    """A server of S3 that ignores the condition that nothing is there yet."""

    fate = staticmethod(lambda request: ONWARD)

    def ask(self, body):
        del self.headers["If-None-Match"]
        return super().ask(body)


def test_on_a_server_that_ignores_the_condition_the_last_writer_has_it(monkeypatch, caplog):
    with s3_server() as options:  # which checks no signature
        monkeypatch.setattr(
            Ignoring, "upstream", options["client_kwargs"]["endpoint_url"][7:], raising=False
        )
        with serving(Ignoring) as endpoint:
            store = s3_at(endpoint)
            place = publish.Place(f"{store.root}/model", store.options)

            last_writer_has(place, caplog, monkeypatch)


class Plain(MemoryFileSystem):
    """A store whose client knows no condition, as that of HDFS."""

    protocol = "plain"
    cachable = False


def test_on_a_store_whose_client_knows_no_condition_the_last_writer_has_it(monkeypatch, caplog):
    fsspec.register_implementation("plain", Plain, clobber=True)

    last_writer_has(publish.Place(f"plain://{uuid.uuid4().hex}", {}), caplog, monkeypatch)
