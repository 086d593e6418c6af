"""A process is killed at a point of each phase; bits and files are those of a run in peace."""

from __future__ import annotations

import hashlib
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray
from ray.exceptions import ActorUnavailableError

from ray_kmeans.engine.worker import ShardWorker
from ray_kmeans.errors import RunStoppedError
from ray_kmeans.observe import events as ev
from ray_kmeans.on_ray import driver
from ray_kmeans.on_ray.worker_group import WorkerGroup
from ray_kmeans.process import interrupt
from ray_kmeans.store.labelled import MANIFEST
from ray_kmeans.store.model_dir import ModelDir
from tests.support.ray_runs import (
    bits,
    comes_true,
    fit_processes,
    nothing_stays,
    open_workers,
    write_real_data,
)
from tests.support.servers import lasting_ray
from tests.support.traps import Job, Trap

__all__ = ["nothing_stays"]

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
DRAWN = {"mini_batch": True}
PLUS_PLUS = {"initial": "kmeans_plus_plus"}
PARALLEL = {"initial": "kmeans_parallel"}


def long(*cases):
    """Mark cases as long tests, of which a run of the suite takes a share."""
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else [case]),
            marks=pytest.mark.long(kind="kill point"),
        )
        for case in cases
    ]


# --- points --------------------------------------------------------------------------------------

ENGINE, ON_RAY, STORE = "ray_kmeans.engine", "ray_kmeans.on_ray", "ray_kmeans.store"
POINTS = {
    "planning": ("tests.support.traps:TrappedSource.describe", 1, {}),
    "waiting for workers": (f"{ON_RAY}.worker_group:WorkerGroup.welcome", 1, {}),
    "reading": (f"{ENGINE}.shard:Shard._admit", 2, {}),
    "measuring": (f"{ENGINE}.worker:ShardWorker.measure", 1, {}),
    "seeding, k-means++": (f"{ENGINE}.worker:ShardWorker.potentials", 4, PLUS_PLUS),
    "seeding, k-means||": (f"{ENGINE}.worker:ShardWorker.join", 2, PARALLEL),
    "sweeping": (f"{ENGINE}.worker:ShardWorker.sweep", 4, {}),
    "drawing batches": (f"{ENGINE}.worker:ShardWorker.sweep_batches", 4, DRAWN),
    "adding up in slices": ("ray_kmeans.algorithm.partial_sums:Partials.__add__", 5, {}),
    "saving, in a data file": ("ray_kmeans.io.publish:os.replace", 8, {}),
    "saving, before the manifest": ("ray_kmeans.io.publish:seal", 4, {}),
    "saving, in the manifest": ("ray_kmeans.io.publish:os.link", 8, {}),
    "saving, after the manifest": (f"{STORE}.model_dir:ModelDir._delete_old", 4, {}),
    "saving, old manifests gone": ("fsspec.implementations.local:LocalFileSystem.rm", 1, {}),
    "writing labels": ("ray_kmeans.io.publish:os.replace", 3, {}),
}


def trapped(job, point, victim, place):
    """Return a job with a trap in it."""
    place.mkdir()
    where, call, how = POINTS[point]
    trap = Trap(str(place), where, victim, call, slices="slices" in point)
    return replace(job, trap=trap, **how)


# --- what a run in peace leaves ------------------------------------------------------------------


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return write_real_data(tmp_path_factory.mktemp("real") / "data")


@pytest.fixture(scope="module")
def peace(uri, tmp_path_factory):
    """Return what a job in this process gives, for each way to seed and to train."""
    found = {}

    def state_of(point):
        how = POINTS[point][2]
        if str(how) not in found:
            model = str(tmp_path_factory.mktemp("m"))
            found[str(how)] = Job(uri, model, workers=0, **how).run()
        return found[str(how)]

    return state_of


def check_readers(model_dir, expected):
    """Every checkpoint that a reader can see is whole, and one of the run in peace."""
    store = ModelDir.at(str(model_dir), {}, 2)
    for path in store.checkpoints():
        state = store.fitted(path)
        assert state.history == expected.history[: state.iteration]


def check_files(model_dir):
    """Nothing is there but checkpoints, what they are made of, and the end of a lease."""
    files = {
        str(path.relative_to(model_dir)) for path in Path(model_dir).rglob("*") if path.is_file()
    }
    named = r"\d{8}-\d{8}-"
    manifests = sorted(
        name for name in files if re.fullmatch(rf"checkpoints/{named}.*\.json", name)
    )
    numbers = {Path(name).name[:17] for name in manifests}
    rest = files - set(manifests)
    parts = {name for name in rest if re.fullmatch(rf"checkpoints/data/{named}[\w/.]+", name)}
    assert len(manifests) == 2
    assert {Path(name).relative_to("checkpoints/data").parts[0][:17] for name in parts} >= numbers
    assert {name for name in files if "partial" in name} == set()
    others = r"lease/\d{8}\.json|runs/\d{8}T\d{6}-[0-9a-f]{8}\.json|events\.out\.tfevents\..*"
    assert [name for name in rest - parts if not re.fullmatch(others, name)] == []


def output_of(folder):
    """Return the content of labelled output, by file name, without who has held it."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).iterdir())
        if path.name != "_lease"
    }


# --- workers and the coordinator -----------------------------------------------------------------


@pytest.mark.usefixtures("ray_cluster", "nothing_stays")
@pytest.mark.parametrize(
    ("point", "victim"),
    [
        ("sweeping", "coordinator"),
        *long(
            ("waiting for workers", "coordinator"),
            ("reading", "worker"),
            ("reading", "coordinator"),
            ("measuring", "worker"),
            ("seeding, k-means++", "coordinator"),
            ("seeding, k-means||", "coordinator"),
            ("drawing batches", "coordinator"),
            ("adding up in slices", "worker"),
            ("adding up in slices", "coordinator"),
            ("saving, in a data file", "coordinator"),
            ("saving, before the manifest", "coordinator"),
            ("saving, before the manifest", "worker"),
            ("saving, in the manifest", "coordinator"),
            ("saving, after the manifest", "coordinator"),
            ("saving, old manifests gone", "coordinator"),
        ),
    ],
)
def test_who_dies_at_a_point_of_a_fit_is_replaced_and_nothing_differs(
    uri, peace, tmp_path, point, victim
):
    model, cache = tmp_path / "model", tmp_path / "cache"
    cache.mkdir()
    expected, seen = peace(point), []
    job = trapped(Job(uri, str(model), cache_dir=str(cache)), point, victim, tmp_path / "trap")

    def watch(event):
        seen.append(type(event))
        if isinstance(event, ev.CoordinatorReplaced):  # nobody writes at this moment
            check_readers(model, expected)

    state = job.run([watch])

    assert job.trap.has_sprung
    kind = ev.CoordinatorReplaced if victim == "coordinator" else ev.WorkerReplaced
    assert seen.count(kind) == 1
    assert bits(state) == bits(expected)
    check_readers(model, expected)
    check_files(model)
    assert list(cache.iterdir()) == []


@pytest.mark.usefixtures("ray_cluster", "nothing_stays")
def test_a_worker_that_dies_before_its_first_answer_is_replaced(uri, monkeypatch):
    before, killed, welcome = fit_processes(), [], WorkerGroup.welcome

    def kill_then_welcome(group, count, timeout):
        if not killed:
            assert comes_true(lambda: fit_processes() - before)
            killed.extend(fit_processes() - before)
            for pid in killed:
                os.kill(pid, signal.SIGKILL)
        return welcome(group, count, timeout)

    monkeypatch.setattr(WorkerGroup, "welcome", kill_then_welcome)
    pool = open_workers(uri, 2)
    try:
        assert pool.summarize().rows == 4000
        assert not set(killed) & {pid for _, pid in pool.ask(ShardWorker.where)}
    finally:
        pool.close()


@pytest.mark.usefixtures("ray_cluster")
def test_a_coordinator_out_of_reach_for_a_moment_is_asked_again_and_not_replaced():
    asked = []

    def ask():
        asked.append(None)
        if len(asked) < 3:
            raise ActorUnavailableError("out of reach", None)
        return ray.put("here")

    assert driver._answer(ask) == "here"
    assert len(asked) == 3


@pytest.mark.usefixtures("ray_cluster")
def test_one_that_stays_out_of_reach_is_lost():
    def ask():
        raise ActorUnavailableError("out of reach", None)

    with pytest.raises(ActorUnavailableError):
        driver._answer(ask, doubt_s=0.2)


def test_who_is_asked_to_end_does_not_wait_for_one_out_of_reach():
    def ask():
        interrupt.request_stop()
        raise ActorUnavailableError("out of reach", None)

    with pytest.raises(RunStoppedError), interrupt.listening():
        driver._answer(ask)


# --- labelled output -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def labelled(uri, peace, tmp_path_factory):
    """Return a model, and the labelled output that this process writes with it."""
    place = tmp_path_factory.mktemp("labelled")
    Job(uri, str(place / "model"), workers=0).run()
    Job(uri, str(place / "model"), str(place / "output"), workers=0).run()
    return str(place / "model"), output_of(place / "output")


@pytest.mark.long(kind="kill point")
@pytest.mark.usefixtures("ray_cluster", "nothing_stays")
def test_a_worker_that_dies_while_it_writes_labels_leaves_the_same_output(uri, labelled, tmp_path):
    model, expected = labelled
    output = tmp_path / "output"
    job = Job(uri, model, str(output))
    job = trapped(job, "writing labels", "worker", tmp_path / "trap")

    job.run()

    assert job.trap.has_sprung
    assert output_of(output) == expected
    assert pq.read_table(output).num_rows == 4000


# --- the driver ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def head():
    """Give a Ray of its own, which outlives drivers: its process and its address."""
    with lasting_ray(4) as started:
        yield started


def none_left(head):
    """Tell whether no process of a fit stays below the head."""
    return comes_true(lambda: not fit_processes(head.pid), 60)


@pytest.mark.parametrize(
    "point",
    [
        "reading",
        *long(
            "planning",
            "seeding, k-means++",
            "seeding, k-means||",
            "adding up in slices",
            "saving, before the manifest",
            "saving, old manifests gone",
        ),
    ],
)
def test_a_driver_that_dies_at_a_point_of_a_fit_is_run_again_and_nothing_differs(
    head, uri, peace, tmp_path, point
):
    process, address = head
    model, expected = tmp_path / "model", peace(point)
    job = trapped(Job(uri, str(model), address=address), point, "driver", tmp_path / "trap")

    first = job.as_driver()
    assert first.returncode == -signal.SIGKILL, first.stdout
    assert none_left(process)
    check_readers(model, expected)
    second = job.as_driver()

    assert second.returncode == 0, second.stdout
    assert bits(ModelDir.at(str(model), {}, 2).latest()) == bits(expected)
    check_files(model)
    assert none_left(process)


@pytest.mark.long(kind="kill point")
def test_a_driver_that_dies_while_labels_are_written_is_run_again_and_the_output_is_the_same(
    head, uri, labelled, tmp_path
):
    process, address = head
    model, expected = labelled
    output = tmp_path / "output"
    job = Job(uri, model, str(output), address=address)
    job = trapped(job, "writing labels", "driver", tmp_path / "trap")

    first = job.as_driver()
    assert first.returncode == -signal.SIGKILL, first.stdout
    assert none_left(process)
    assert not (output / MANIFEST).exists()
    second = job.as_driver()

    assert second.returncode == 0, second.stdout
    assert output_of(output) == expected
    assert none_left(process)
