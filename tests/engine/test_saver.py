"""A saver: the next iteration goes on while a checkpoint is written, and nothing is left out."""

from __future__ import annotations

import threading
import time
import uuid
from threading import Event

import pytest

from ray_kmeans.engine.checkpoint_saver import Saver
from ray_kmeans.errors import StoreError
from ray_kmeans.observe import events as ev
from ray_kmeans.store.model_dir import ModelDir
from tests.support.store_contract import assert_same, state_at


class Store:
    """Saves when it is let; says what it has begun and what is there."""

    def __init__(self, fails=()):
        self.begun = []
        self.there = []
        self.may_end = Event()
        self._fails = fails

    def save(self, state):
        self.begun.append(state.iteration)
        assert self.may_end.wait(20)
        if state.iteration in self._fails:
            raise StoreError(f"iteration {state.iteration} cannot be saved.")
        self.there.append(state.iteration)
        return f"checkpoint-{state.iteration}"


@pytest.fixture
def events():
    return []


def saved(*iterations):
    return [ev.CheckpointSaved(f"checkpoint-{each}", each) for each in iterations]


def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_a_save_returns_before_the_state_is_saved(events):
    store = Store()
    with Saver(store, events.append) as saver:
        saver.save(state_at(1))
        until(lambda: store.begun == [1])
        saver.tell()
        assert (store.there, events) == ([], [])

        store.may_end.set()
        saver.flush()

    assert (store.there, events) == ([1], saved(1))


def test_a_save_waits_for_the_one_before_and_none_is_left_out(events):
    store = Store()
    with Saver(store, events.append) as saver:
        saver.save(state_at(1))
        until(lambda: store.begun == [1])
        threading.Timer(0.1, store.may_end.set).start()
        saver.save(state_at(2))
        assert store.there[0] == 1
        for iteration in range(3, 20):
            saver.save(state_at(iteration))
        saver.flush()

    assert store.there == list(range(1, 20))
    assert events == saved(*range(1, 20))


def test_the_event_comes_when_the_checkpoint_is_there_and_from_the_callers_thread():
    store = Store()
    seen = []

    def emit(event):
        seen.append((event.iteration in store.there, threading.current_thread()))

    store.may_end.set()
    with Saver(store, emit) as saver:
        for iteration in range(50):
            saver.save(state_at(iteration))
        until(lambda: len(store.there) == 50)
        until(lambda: saver.tell() or len(seen) == 50)

    assert seen == [(True, threading.current_thread())] * 50


@pytest.mark.parametrize("call", ["save", "flush", "tell"])
def test_what_goes_wrong_comes_out_at_the_next_call_and_once(events, call):
    store = Store(fails=[1])
    store.may_end.set()
    calls = {
        "save": lambda: saver.save(state_at(2)),
        "flush": lambda: saver.flush(),
        "tell": lambda: until(lambda: saver.tell()),
    }
    with Saver(store, events.append) as saver:
        saver.save(state_at(1))
        with pytest.raises(StoreError, match="iteration 1 cannot be saved"):
            calls[call]()
        saver.flush()
        assert store.begun == [1]

        saver.save(state_at(3))
        saver.flush()

    assert (store.there, events) == ([3], saved(3))


def test_the_write_under_way_ends_before_the_saver_does(events):
    store = Store()

    def fail():
        with Saver(store, events.append) as saver:
            saver.save(state_at(1))
            threading.Timer(0.1, store.may_end.set).start()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert store.there == [1]
    assert [thread.name for thread in threading.enumerate() if "saver" in thread.name] == []


def test_the_end_of_a_saver_is_a_flush(events):
    store = Store(fails=[2])
    store.may_end.set()

    with Saver(store, events.append) as saver:
        saver.save(state_at(1))
    assert events == saved(1)
    with pytest.raises(StoreError, match="iteration 2"), Saver(store, events.append) as saver:
        saver.save(state_at(2))


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_a_model_directory_has_all_that_was_saved(tmp_path, events, kind):
    url = str(tmp_path) if kind == "local" else f"memory://{uuid.uuid4().hex}"
    store = ModelDir.at(url, {}, 3)
    with store.take_lease("fit") as held, Saver(held, events.append) as saver:
        for iteration in range(5):
            saver.save(state_at(iteration))
        saver.flush()
        assert [event.iteration for event in events] == [0, 1, 2, 3, 4]

    assert_same(store.latest(), state_at(4))
    assert [url.rsplit("/")[-1] for url in store.checkpoints()] == [
        event.path.rsplit("/")[-1] for event in events[-3:]
    ]
