"""A worker computes in as many threads as it was given CPUs, and there are as many CPUs."""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from ray_kmeans.engine.options import threads_of
from ray_kmeans.kernels.threads import Threads
from ray_kmeans.workflows.worker_plan import share_cpus
from tests.conftest import UNITS, skip_without

SWEEPS = """
import sys, time
import numpy as np
from ray_kmeans import kernels

name, threads = sys.argv[1], int(sys.argv[2])
rng = np.random.default_rng(0)
X = rng.normal(size=(20_000, 96)).astype(np.float32)
centers = X[:600].copy()
held = kernels.load(name, threads).hold([X], "squared_euclidean", 600)
scale = np.full(96, 2.0**20)


def sweep():
    for moved in (centers, centers[::-1].copy(), centers * np.float32(1.01)):
        held.sums(moved, scale)
        if name != "portable":
            held.regroup()  # as often as may be, for it multiplies matrices itself


sweep()  # compiles
print("ready", flush=True)
begin = time.monotonic()
while time.monotonic() - begin < 1.5:
    sweep()
"""


def running(process):
    """Return which threads of a process run or wait for a CPU, and go on doing so for a moment.

    What is asked is asked of one thread after the other, so that a baton that is passed on would be
    seen twice. Whoever computes is seen again.
    """
    seen = []
    for _ in range(3):
        states = {}
        for file in Path(f"/proc/{process}/task").glob("*/stat"):
            try:
                states[int(file.parent.name)] = file.read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue  # this thread has ended
        seen.append({thread for thread, state in states.items() if state == "R"})
        time.sleep(0.0005)
    return set.intersection(*seen)


@pytest.mark.long(kind="threads")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kernel", ["portable", *UNITS])
def test_no_more_threads_compute_than_were_given(kernel, threads):
    if kernel in UNITS:
        skip_without(kernel)
    arguments = [sys.executable, "-c", SWEEPS, kernel, str(threads)]
    samples = []
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        end = time.monotonic() + 1.2
        while time.monotonic() < end:
            samples.append(running(process.pid))
            time.sleep(0.005)
        assert process.wait() == 0

    # With one thread, it is the caller; more are handed their work by the caller, which wakes up
    # when one of them has done a piece and may have to wait for a CPU.
    others = [len(sample - {process.pid}) for sample in samples]
    together = [len(sample) for sample in samples]
    assert len(samples) > 30
    assert max(others) <= (threads if threads > 1 else 0)
    assert statistics.quantiles(together, n=20)[-2] <= threads
    assert max(together) >= 1


@pytest.mark.parametrize("count", [1, 2, 5])
def test_results_come_in_the_order_of_the_arguments(count):
    pauses = [0.02, 0.0, 0.01, 0.0, 0.005, 0.0]

    def work(number, pause):
        time.sleep(pause)
        return number

    results = Threads(count).run(work, enumerate(pauses))

    assert results == [0, 1, 2, 3, 4, 5]
    assert Threads(count).run(work, []) == []


@pytest.mark.parametrize("count", [1, 2, 5])
def test_what_a_thread_raises_is_raised_where_it_was_called(count):
    def work(number):
        if number == 3:
            raise KeyError(number)
        return number

    with pytest.raises(KeyError, match="3"):
        Threads(count).run(work, [(number,) for number in range(8)])

    assert Threads(count).run(work, [(1,), (2,)]) == [1, 2]  # and goes on working


@pytest.mark.parametrize("count", [2, 3])
def test_so_many_threads_work_at_once(count):
    together = threading.Barrier(count)  # breaks unless so many meet

    Threads(count).run(lambda _: together.wait(timeout=30), [(i,) for i in range(4 * count)])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_no_more_threads_work_at_once_than_were_given(count):
    at_work, most, lock = 0, 0, threading.Lock()

    def work():
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        time.sleep(0.002)
        with lock:
            at_work -= 1

    Threads(count).run(work, [()] * 12)

    assert most <= count


def test_one_thread_is_the_caller():
    assert Threads(1).run(threading.get_ident, [(), ()]) == [threading.get_ident()] * 2


def fits(nodes, workers, cpus):
    """Return whether nodes have so many CPUs for each of so many workers, none on two nodes."""
    return sum(node // Fraction(cpus) for node in nodes) >= workers


clusters = st.lists(st.integers(1, 200), min_size=1, max_size=6)
given_workers = st.integers(1, 300)
given_cpus = st.one_of(st.integers(1, 64), st.sampled_from([0.25, 0.5, 1.5, 2.5]))


@given(clusters)
def test_workers_fit_on_the_nodes(nodes):
    workers, cpus = share_cpus(nodes, None, None)

    assert workers >= 1
    assert fits(nodes, workers, cpus)
    assert workers * cpus <= sum(nodes)


@given(st.integers(1, 200), st.integers(1, 8))
def test_nodes_that_are_alike_get_one_worker_each(cpus, nodes):
    assert share_cpus([cpus] * nodes, None, None) == (nodes, cpus)


@given(clusters, given_workers)
def test_so_many_workers_as_were_asked_for_get_one_cpu_each(nodes, asked):
    assert share_cpus(nodes, asked, None) == (asked, 1)


@given(clusters, given_cpus)
def test_workers_of_a_given_size_are_as_many_as_fit(nodes, asked):
    workers, cpus = share_cpus(nodes, None, asked)

    assert cpus == asked
    assert workers == 1 or fits(nodes, workers, cpus)
    assert not fits(nodes, workers + 1, cpus)


@given(clusters, given_workers, given_cpus)
def test_what_was_given_is_kept(nodes, workers, cpus):
    assert share_cpus(nodes, workers, cpus) == (workers, cpus)


@given(st.floats(0.01, 500))
def test_a_worker_has_at_least_one_thread_and_not_more_than_its_cpus(cpus):
    threads = threads_of(cpus)

    assert threads == 1 or 1 < threads <= cpus < threads + 1
