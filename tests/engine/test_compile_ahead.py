"""A worker compiles while it reads; what goes wrong meanwhile is heard of, and nothing is left."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from ray_kmeans.data.array import ArraySource
from ray_kmeans.data.sharding import split
from ray_kmeans.engine.options import WorkerSetup
from ray_kmeans.engine.pool import LocalPool
from ray_kmeans.engine.worker import ShardWorker
from ray_kmeans.kernels.cpu import CpuKernel
from ray_kmeans.process import jit

LIMIT_S = 60
X = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
SOURCE = ArraySource.of(X)
BLOCKS = SOURCE.describe().blocks
SETUP = WorkerSetup(num_clusters=3)


class Broken:
    """A source that fails as soon as it is read."""

    def read(self, blocks):
        raise OSError("no such store")


def compiling():
    return [each for each in threading.enumerate() if each.name == "compile ahead"]


@pytest.fixture(autouse=True)
def _nothing_is_left():
    yield
    end = time.monotonic() + LIMIT_S
    while compiling() and time.monotonic() < end:
        time.sleep(0.01)
    assert compiling() == []


@pytest.fixture
def loop(monkeypatch):
    """Let `ready` call a loop again and again that is compiled anew each time, until stopped."""

    def compile_for_ever(self, rows, k, d):
        while True:
            assert jit.njit(nogil=True)(lambda x: x + 1)(1) == 2

    monkeypatch.setattr(CpuKernel, "ready", compile_for_ever)


def test_rows_are_read_while_the_kernel_is_compiled(monkeypatch):
    read, asked = threading.Event(), []

    def ready(self, rows, k, d):
        asked.append((rows, k, d))
        assert read.wait(LIMIT_S) or len(asked) > 1
        return "ready"

    monkeypatch.setattr(CpuKernel, "ready", ready)
    worker = ShardWorker(SETUP)
    worker.on_rows = lambda rows: read.set()

    worker.load(SOURCE, BLOCKS)

    assert worker.get_ready(3)[0] == "ready"
    assert asked == [(50, 3, 4)] * 2


def test_without_a_number_of_clusters_nothing_is_compiled_ahead(monkeypatch):
    monkeypatch.setattr(CpuKernel, "ready", lambda *_: pytest.fail("it was compiled"))

    ShardWorker().load(SOURCE, BLOCKS)


def test_what_goes_wrong_while_rows_are_read_is_raised_by_get_ready(monkeypatch):
    def ready(self, rows, k, d):
        raise RuntimeError("LLVM has no such instruction")

    monkeypatch.setattr(CpuKernel, "ready", ready)
    worker = ShardWorker(SETUP)
    worker.load(SOURCE, BLOCKS)

    with pytest.raises(RuntimeError, match="no such instruction"):
        worker.get_ready(3)


@pytest.mark.usefixtures("loop")
def test_a_worker_that_cannot_read_does_not_go_on_compiling():
    blocks = BLOCKS

    with pytest.raises(OSError, match="no such store"):
        ShardWorker(SETUP).load(Broken(), blocks)


@pytest.mark.usefixtures("loop")
def test_a_worker_that_is_dropped_does_not_go_on_compiling():
    pool = LocalPool(SOURCE, split(BLOCKS, 1), SETUP)
    pool.load()
    assert compiling()

    pool.close()


@pytest.mark.usefixtures("loop")
def test_a_worker_that_turns_to_other_data_compiles_for_these_alone():
    pool = LocalPool(SOURCE, split(BLOCKS, 1), SETUP)
    pool.load()
    first = compiling()

    pool.take(SOURCE, split(BLOCKS, 1))

    for each in first:
        each.join(LIMIT_S)
        assert not each.is_alive()


def test_a_loop_whose_compilation_was_stopped_can_be_compiled_again():
    inner = jit.njit(nogil=True)(lambda x: x + 1)
    outer = jit.njit(nogil=True)(lambda x: inner(x) * 2)
    begun = threading.Event()

    def call():
        begun.wait(LIMIT_S)
        outer(1)

    ahead = jit.Ahead(call)
    ahead.stop()
    begun.set()
    ahead.join()

    assert outer.signatures == inner.signatures == []
    assert outer(1) == 4
