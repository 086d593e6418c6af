"""Whoever dies while a mini-batch or a stream trains, the bits are those of the undisturbed fit."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ray_kmeans import RunConfig
from ray_kmeans.algorithm.stopping import StopRule
from ray_kmeans.data.opening import open_source
from ray_kmeans.data.stream import open_batches
from ray_kmeans.engine.fit_loop import run_fit, run_stream
from ray_kmeans.engine.worker import ShardWorker
from ray_kmeans.observe import events as ev
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.workflows import fit as runs
from tests.support.processes import is_alive
from tests.support.ray_runs import (
    WAYS,
    K,
    Killer,
    Memory,
    Way,
    bits,
    comes_true,
    descendants,
    fit_processes,
    ignore,
    loadable,
    nothing_stays,
    open_workers,
    replaced,
    state_of,
    stream_of,
    turn,
    write_real_data,
)

__all__ = ["nothing_stays"]  # a fixture
pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
M3 = {"mini_batch_steps_per_iteration": 3}


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return write_real_data(tmp_path_factory.mktemp("real") / "data")


@pytest.fixture(scope="module")
def events():
    return []


@pytest.fixture(scope="module")
def pool(uri, events, ray_cluster):
    """Three workers for all fits that need no coordinator."""
    pool = open_workers(uri, 3, emit=events.append)
    yield pool
    pool.close()


# --- workers -------------------------------------------------------------------------------------


@pytest.mark.long(kind="kill in training")
@pytest.mark.parametrize(
    ("name", "method", "times", "victims"),
    [
        ("mini-batch, m=1", ShardWorker.sweep_batches, {9}, [1]),
        ("mini-batch, m=3", ShardWorker.sweep_batches, {2, 4}, [0]),
        ("farthest", ShardWorker.farthest, {1}, [2]),
    ],
)
def test_a_worker_that_is_killed_in_a_step_is_replaced_and_the_bits_are_the_same(
    pool, uri, tmp_path, events, name, method, times, victims
):
    turn(pool, open_source(uri), 3)
    events.clear()

    with Killer(pool, method, times, victims):
        state = run_fit(WAYS[name].plan(), pool, Memory(), ignore)

    assert replaced(events) == victims * len(times)
    assert bits(state) == bits(WAYS[name].fit(uri, tmp_path, 0))


@pytest.mark.long(kind="kill in training")
def test_workers_that_are_killed_during_a_stream_are_replaced_and_the_bits_are_the_same(
    pool, uri, tmp_path, events
):
    way = WAYS["stream, m=3"]
    first, *others = [f"{uri}/{number}.parquet" for number in (0, 3, 1, 2)]
    turn(pool, open_source(first), 3)
    events.clear()
    killer = Killer(pool, ShardWorker.sweep_batches, {2}, [1])

    def batches():
        yield loadable(open_source(first), 3)
        for batch in others:
            if batch == others[1]:
                killer.victims = [0, 2]
                killer.kill()  # they die while they hold a batch, and wait for the next one
            yield loadable(open_source(batch), 3)

    with killer:
        state = run_stream(way.plan(), pool, Memory(), ignore, batches())

    assert replaced(events) == [0, 1, 2]
    km = way.estimator(tmp_path, 0).partial_fit(iter([first, *others]), steps=None)
    assert bits(state) == bits(state_of(km.model_dir))


@pytest.mark.long(kind="kill in training")
def test_a_worker_that_dies_idle_is_replaced_when_a_larger_batch_needs_it(
    pool, uri, tmp_path, events
):
    way = WAYS["stream"]
    turn(pool, open_source(uri), 3)
    pool.load()
    events.clear()
    sources = list(open_batches(stream_of(uri), {}))[1:]
    Killer(pool, None, (), [2]).kill()
    turn(pool, sources[0], 3)  # one block, so one worker

    batches = (loadable(source, 3) for source in sources)
    state = run_stream(way.plan(), pool, Memory(), ignore, batches)

    assert len(replaced(events)) == 1
    km = way.estimator(tmp_path, 0).partial_fit(iter(list(stream_of(uri))[1:]), steps=None)
    assert bits(state) == bits(state_of(km.model_dir))


# --- the coordinator -----------------------------------------------------------------------------

LONG = Way(M3, StopRule(steps=300), batch_size=700)


def fit(way, uri, store, num_workers, listener=ignore):
    config = RunConfig(num_workers=num_workers, progress=False)
    plan = replace(way.plan(), checkpoint_steps=2)
    return runs.fit(plan, open_source(uri), store, config, listeners=[listener])


@pytest.mark.long(kind="kill in training")
@pytest.mark.usefixtures("ray_cluster", "nothing_stays")
def test_a_coordinator_that_dies_after_a_worker_goes_on_from_its_checkpoint(uri, tmp_path):
    seen, loaded = [], []

    def kill(event):
        seen.append(type(event))
        if isinstance(event, ev.DataLoaded):
            loaded.append(event)
        if isinstance(event, ev.IterationDone) and len(loaded) == 1:
            if event.line.iteration == 4:
                os.kill(loaded[0].workers[1][1], signal.SIGKILL)
            elif ev.WorkerReplaced in seen:
                os.kill(loaded[0].coordinator[1], signal.SIGKILL)
                loaded.append(None)

    store = ModelDir.at(str(tmp_path / "there"), {}, 5)
    state = fit(LONG, uri, store, 2, kill)

    assert seen.count(ev.WorkerReplaced) == 1
    assert seen.count(ev.CoordinatorReplaced) == 1
    assert seen.count(ev.DataLoaded) == 2
    assert bits(state) == bits(LONG.fit(uri, tmp_path / "here", 0))


@dataclass(frozen=True)
class DeadlyDir(ModelDir):
    """Kills its process once, when it has saved the last checkpoint of a fit."""

    def save(self, state):
        path = super().save(state)
        killed = Path(self.url.removeprefix("file://"), "killed")
        if state.stop and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return path


@pytest.mark.long(kind="kill in training")
@pytest.mark.usefixtures("ray_cluster", "nothing_stays")
@pytest.mark.parametrize("name", ["mini-batch, m=3", "full batch"])
def test_a_coordinator_that_dies_when_all_is_saved_makes_no_step_twice(uri, tmp_path, name):
    store = DeadlyDir.at(str(tmp_path / "there"), {}, 5)

    state = fit(WAYS[name], uri, store, 1)

    assert (tmp_path / "there" / "killed").exists()
    assert bits(state) == bits(WAYS[name].fit(uri, tmp_path / "here", 0))


# --- the driver ----------------------------------------------------------------------------------


def run_job(uri, model_dir, place, *flags):
    command = [sys.executable, "jobs/fit.py", uri, str(model_dir), "--num-clusters", str(K)]
    return subprocess.Popen(
        [*command, "--random-seed", "3", "--save-checkpoints-steps", "2", *flags],
        cwd=ROOT,
        env={**os.environ, "RAY_TMPDIR": place},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def saved_iteration(model_dir):
    """Return the iteration of the newest checkpoint; -1 where there is none."""
    names = [path.stem for path in Path(model_dir, "checkpoints").glob("*.json")]
    return max((int(name.rsplit("-", 1)[1]) for name in names), default=-1)


def kill_job(job, with_all_below):
    """Kill a driver, with its whole machine or alone; return when the fit's processes are gone."""
    below, of_the_fit = descendants(job.pid), fit_processes(job.pid)
    job.kill()
    if not with_all_below:
        assert comes_true(lambda: not any(is_alive(pid) for pid in of_the_fit), 60)
    for pid in below:  # Ray's own agents stay for a while
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert comes_true(lambda: not any(is_alive(pid) for pid in below), 60)
    job.communicate()


@pytest.mark.long(kind="resume")
def test_a_driver_that_is_killed_and_run_again_equals_the_undisturbed_one(uri, tmp_path):
    way = Way(M3, StopRule(max_steps=200), batch_size=700)
    flags = ["--batch-size=700", "--mini-batch-steps-per-iteration=3", "--max-steps=200"]
    expected = way.fit(uri, tmp_path / "here", 0)
    there = tmp_path / "there"
    with tempfile.TemporaryDirectory(prefix="rk", dir="/tmp") as place:
        first = run_job(uri, there, place, *flags, "--num-workers=1")
        assert comes_true(lambda: first.poll() is not None or saved_iteration(there) >= 10, 90)
        assert first.poll() is None, first.communicate()[0]
        kill_job(first, with_all_below=True)
    cut_off = state_of(there)

    with tempfile.TemporaryDirectory(prefix="rk", dir="/tmp") as place:
        second = run_job(uri, there, place, *flags, "--num-workers=2", "--cpus-per-worker=1.5")
        output, _ = second.communicate(timeout=120)

    assert second.returncode == 0, output
    assert cut_off.stop is None
    assert 10 <= cut_off.iteration < expected.iteration
    assert cut_off.accumulators.done == cut_off.accumulators.steps_per_iteration - 1  # within one
    assert bits(state_of(there)) == bits(expected)
