"""Every way to train gives the same bits on Ray as in this process, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.algorithm.state import Stop
from ray_kmeans.algorithm.stopping import StopRule
from ray_kmeans.data.layout import split
from ray_kmeans.data.opening import open_source
from ray_kmeans.data.stream import open_batches
from ray_kmeans.demo import DATA
from ray_kmeans.engine.fit_loop import run_fit, run_stream
from ray_kmeans.engine.options import WorkerOptions, Workload
from ray_kmeans.engine.worker import ShardWorker
from ray_kmeans.errors import (
    ConfigError,
    NonFiniteError,
    TooFewRowsError,
    WorkersLostError,
)
from ray_kmeans.observe import events as ev
from ray_kmeans.observe.monitors import EarlyStopping, Monitor, Monitors
from ray_kmeans.on_ray import driver
from ray_kmeans.on_ray.object_store import put
from ray_kmeans.on_ray.pool import RayPool
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.workflows import fit as runs
from ray_kmeans.workflows.parameters import FitParams
from tests.files import put_table, rows_of

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

K = 12
WORKERS = [1, 2, 3, 5]


def write_parquet(folder, rows, files=4, row_group=270):
    """Write rows to small files of uneven row groups, so that many workers have blocks."""
    for number, part in enumerate(np.array_split(rows, files)):
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), rows.shape[1])
        table = pa.table({"v": vectors})
        put_table(folder, f"{number}.parquet", table, row_group_size=row_group)
    return str(folder)


def write_real_data(folder):
    """Write some of the vectors of WordNet: 16 blocks of 4,000 rows."""
    return write_parquet(folder, rows_of(str(DATA))[:4000, :64])


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return write_real_data(tmp_path_factory.mktemp("real") / "data")


def bits(state):
    """Return all of a state that the law of equal bits speaks of."""
    running = state.running
    return (
        state.centers.tobytes(),
        state.counts.tobytes(),
        running and (running.steps_per_iteration, running.done, running.sums.tobytes()),
        state.history,
        (state.iteration, state.began, state.stop, state.data, state.data_since),
    )


def state_of(model_dir):
    return ModelDir.at(str(model_dir), {}, 5).latest()


class Memory:
    """A store that only its maker sees."""

    def __init__(self):
        self.states = []

    def latest(self):
        return self.states[-1] if self.states else None

    def save(self, state):
        self.states.append(state)
        return f"memory {len(self.states)}"


def ignore(event):
    """Listen to nothing."""


def open_workers(uri, number, metric="squared_euclidean", emit=ignore):
    """Open a pool of so many workers that turns from one data set to the next."""
    source = open_source(uri)
    shards = split(source.describe().blocks, number)
    return driver.open_pool(Workload(source, shards, WorkerOptions(0.1, 120)), metric, emit)


def turn(pool, source, number):
    """Let the first so many workers of a pool hold the data."""
    pool.take(*loadable(source, number))


def loadable(source, number):
    """Return a source and its blocks as `RayPool.take` wants them."""
    return put(source), split(source.describe().blocks, number)


def descendants(root):
    """Return the titles of all processes below one, by pid."""
    parents, titles = {}, {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            stat = (process / "stat").read_text()
            titles[int(process.name)] = (process / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        parents[int(process.name)] = int(stat.rpartition(")")[2].split()[1])

    def is_below(pid):
        while pid in parents:
            pid = parents[pid]
            if pid == root:
                return True
        return False

    return {pid: title for pid, title in titles.items() if is_below(pid)}


def fit_processes(root=None):
    """Return the pids of all workers and coordinators of the Ray of this process, or another."""
    names = ("ray::KMeansWorker", "ray::Coordinator")
    below = descendants(os.getpid() if root is None else root)
    return {pid for pid, title in below.items() if title.startswith(names)}


def comes_true(condition, seconds=30):
    """Wait until the condition holds; tell whether it did in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


class Killer:
    """Stands before a pool, and kills workers just before some calls of one of their methods."""

    def __init__(self, pool, method, times, victims):
        self.pool, self.method, self.times, self.victims = pool, method, times, victims
        self.asked = 0

    def __enter__(self):
        self.pool.ask, self.pool.total = self.ask, self.total
        self.pool.remember = self.remember
        return self

    def __exit__(self, *error):
        del self.pool.ask, self.pool.total, self.pool.remember

    def ask(self, method, *args):
        self.see(method)
        return RayPool.ask(self.pool, method, *args)

    def total(self, method, *args):
        self.see(method)
        return RayPool.total(self.pool, method, *args)

    def remember(self, method, *args):
        self.see(method)
        return RayPool.remember(self.pool, method, *args)

    def see(self, method):
        if method is self.method:
            self.asked += 1
            if self.asked in self.times:
                self.kill()

    def kill(self):
        workers = RayPool.ask(self.pool, ShardWorker.where)
        for victim in self.victims:
            os.kill(workers[victim][1], signal.SIGKILL)


def replaced(events):
    """Return which workers were replaced, in order."""
    return sorted(event.worker for event in events if isinstance(event, ev.WorkerReplaced))


@pytest.fixture
def nothing_stays():
    """Prove that a test leaves no worker and no coordinator behind, and no CPU taken."""
    before, cpus = fit_processes(), ray.available_resources().get("CPU", 0)
    yield
    assert comes_true(lambda: fit_processes() <= before)
    assert comes_true(lambda: ray.available_resources().get("CPU", 0) >= cpus)


# --- all ways, all numbers of workers ------------------------------------------------------------


def pairs_of_rows(sample, missing):
    """Centers of which every other one is a copy, so that half of the clusters are empty."""
    return np.repeat(sample[: missing // 2 + 1], 2, axis=0)[:missing]


@dataclass(frozen=True)
class Way:
    """A way to train."""

    params: dict[str, Any]
    rule: StopRule = field(default_factory=StopRule)
    batch_size: int | None = None
    monitors: tuple[Monitor, ...] = ()
    is_stream: bool = False

    def estimator(self, model_dir, num_workers):
        config = RunConfig(num_workers=num_workers, progress=False)
        return KMeansClustering(K, str(model_dir), random_seed=3, config=config, **self.params)

    def fit(self, uri, model_dir, num_workers):
        """Fit by the front door; return the last checkpoint."""
        km = self.estimator(model_dir, num_workers)
        if self.is_stream:
            km.partial_fit(stream_of(uri), steps=None)
        else:
            rule = self.rule
            km.fit(uri, None, None, rule.steps, self.batch_size, self.monitors, rule.max_steps)
        return state_of(model_dir)

    def plan(self):
        params = FitParams(**self.estimator("nowhere", 0).get_params(deep=False))
        rule = replace(self.rule, relative_tolerance=params.relative_tolerance)
        size = runs.WHOLE if self.is_stream else self.batch_size
        return runs.plan_fit(params, RunConfig(), rule, size)

    def fit_with(self, pool, uri, number):
        """Fit with the first so many workers of a pool; return the last checkpoint."""
        store = Memory()
        if not self.is_stream:
            turn(pool, open_source(uri), number)
            return run_fit(self.plan(), pool, store, ignore, Monitors(self.monitors))
        sources = list(open_batches(stream_of(uri), {}))
        turn(pool, open_source(np.concatenate([rows_of(each) for each in sources[:2]])), number)
        batches = (loadable(source, number) for source in sources)
        return run_stream(self.plan(), pool, store, ignore, batches)


def stream_of(uri):
    """Yield batches of all sorts; the first one has fewer rows than there are clusters."""
    rows = rows_of(f"{uri}/0.parquet")
    yield rows[:5]
    yield rows[5:900]
    yield f"{uri}/1.parquet"
    yield rows[900:], None
    yield f"{uri}/[23].parquet"


COSINE = {"distance_metric": "cosine"}
FULL = {"use_mini_batch": False}
WAYS = {
    "full batch": Way(FULL, StopRule(steps=6)),
    "farthest": Way(
        FULL | {"empty_clusters": "farthest", "initial_clusters": pairs_of_rows}, StopRule(steps=6)
    ),
    # 6 batches per epoch, the last one smaller; an open end puts the smoothed loss to the test
    "mini-batch, m=1": Way({}, batch_size=700),
    "mini-batch, m=3": Way(
        {"mini_batch_steps_per_iteration": 3}, StopRule(steps=10), batch_size=700
    ),
    "stream": Way({}, is_stream=True),
    "stream, m=3": Way({"mini_batch_steps_per_iteration": 3}, is_stream=True),
    "monitors": Way(
        {"mini_batch_steps_per_iteration": 3},
        batch_size=700,
        monitors=(Monitor(), EarlyStopping(2, min_delta=0.05)),
    ),
    "cosine": Way(FULL | COSINE, StopRule(steps=5)),
    "cosine, mini-batch": Way(COSINE | {"relative_tolerance": 0.02}, batch_size=700),
    "cosine, stream": Way(COSINE, is_stream=True),
}


@pytest.fixture(scope="module")
def in_this_process(uri, tmp_path_factory):
    """The specification: every way to train with num_workers=0."""
    return {name: way.fit(uri, tmp_path_factory.mktemp("m"), 0) for name, way in WAYS.items()}


@pytest.fixture(scope="module")
def pools(uri, ray_cluster):
    """Five workers for each metric, for all fits of this module that need no coordinator."""
    pools = {metric: open_workers(uri, 5, metric) for metric in ("squared_euclidean", "cosine")}
    yield pools
    for pool in pools.values():
        pool.close()


def test_the_ways_to_train_do_what_their_names_say(in_this_process):
    stops = {name: state.stop for name, state in in_this_process.items()}

    assert stops["mini-batch, m=1"] == Stop.NO_IMPROVEMENT
    assert stops["monitors"] == Stop.MONITOR
    assert stops["cosine, mini-batch"] == Stop.TOLERANCE
    assert {stops["stream"], stops["stream, m=3"], stops["cosine, stream"]} == {Stop.END_OF_INPUT}
    assert in_this_process["farthest"].history[0].empty == K // 2
    assert in_this_process["farthest"].history[-1].empty < K // 2
    assert in_this_process["mini-batch, m=3"].running.done == 1
    assert len({state.centers.tobytes() for state in in_this_process.values()}) == len(WAYS)


@pytest.mark.parametrize("number", WORKERS)
@pytest.mark.parametrize("name", WAYS)
def test_any_number_of_workers_gives_the_bits_of_this_process(
    pools, uri, in_this_process, name, number
):
    metric = WAYS[name].params.get("distance_metric", "squared_euclidean")

    state = WAYS[name].fit_with(pools[metric], uri, number)

    assert bits(state) == bits(in_this_process[name])


@pytest.mark.usefixtures("nothing_stays")
@pytest.mark.parametrize(
    ("name", "num_workers"),
    [
        ("mini-batch, m=3", 5),
        ("farthest", 2),
        ("stream", 3),
        ("monitors", 2),
    ],
)
def test_the_estimator_gives_the_bits_of_this_process(
    uri, tmp_path, in_this_process, name, num_workers
):
    state = WAYS[name].fit(uri, tmp_path, num_workers)

    assert bits(state) == bits(in_this_process[name])


@pytest.mark.usefixtures("nothing_stays")
def test_a_cluster_that_grows_while_a_stream_runs_changes_nothing(uri, tmp_path, monkeypatch):
    nodes = [1, 1]
    monkeypatch.setattr(driver, "node_cpus", lambda: nodes)

    def batches():
        yield f"{uri}/0.parquet"
        nodes.append(1)  # a node joins
        yield f"{uri}/1.parquet"

    def fit(num_workers):
        config = RunConfig(num_workers=num_workers, progress=False)
        km = KMeansClustering(K, str(tmp_path / str(num_workers)), config=config)
        km.partial_fit(batches(), steps=None)
        return state_of(km.model_dir)

    assert bits(fit(None)) == bits(fit(0))


# --- monitors ------------------------------------------------------------------------------------


class Witness(Monitor):
    """Writes down who is called where, and which fit processes live then."""

    def __init__(self, fails_at=None, error=ArithmeticError):
        self.calls, self.processes, self.fails_at, self.error = [], set(), fails_at, error

    def _called(self, what, state):
        self.calls.append((what, state.iteration, os.getpid()))
        self.processes |= fit_processes()

    def begin(self, state):
        self._called("begin", state)

    def after_step(self, state):
        self._called("after_step", state)
        if state.iteration == self.fails_at:
            raise self.error("the monitor has had enough")

    def end(self, state):
        self._called("end", state)


@pytest.mark.usefixtures("nothing_stays")
def test_monitors_are_called_in_the_process_of_the_driver(uri, tmp_path):
    witness = Witness()
    way = replace(WAYS["mini-batch, m=3"], rule=StopRule(steps=4), monitors=(witness,))

    way.fit(uri, tmp_path, 2)

    here = os.getpid()
    steps = [("after_step", step, here) for step in (1, 2, 3, 4)]
    assert witness.calls == [("begin", 0, here), *steps, ("end", 4, here)]
    assert len(witness.processes) >= 2


@pytest.mark.usefixtures("nothing_stays")
@pytest.mark.parametrize("error", [ArithmeticError, KeyboardInterrupt])
def test_the_error_of_a_monitor_comes_out_unchanged_and_no_step_is_lost(
    uri, tmp_path, in_this_process, error
):
    before = fit_processes()
    witness = Witness(fails_at=5, error=error)
    way = replace(WAYS["mini-batch, m=3"], monitors=(witness,))

    with pytest.raises(error) as caught:
        way.fit(uri, tmp_path, 2)

    assert type(caught.value) is error
    assert caught.value.args == ("the monitor has had enough",)
    assert witness.calls[-1][:2] == ("end", 5)
    assert comes_true(
        lambda: fit_processes() <= before
    )  # though the error is held, as in a notebook
    cut_off = state_of(tmp_path)
    assert (cut_off.iteration, cut_off.stop, cut_off.running.done) == (5, None, 2)
    expected = in_this_process["mini-batch, m=3"]
    assert cut_off.history == expected.history[:5]
    assert bits(WAYS["mini-batch, m=3"].fit(uri, tmp_path, 0)) == bits(expected)


# --- what a worker takes -------------------------------------------------------------------------


@pytest.mark.usefixtures("nothing_stays")
def test_as_many_workers_as_the_cluster_has_room_for_hold_their_cpus(uri, tmp_path, monkeypatch):
    free = ray.available_resources()["CPU"]
    monkeypatch.setattr(driver, "node_cpus", lambda: [4])  # of the larger one of all tests
    taken, seen = [], []
    config = RunConfig(num_workers=None, cpus_per_worker=2, progress=False)

    def watch(event):
        if isinstance(event, ev.DataLoaded):
            comes_true(lambda: free - ray.available_resources()["CPU"] >= 4, seconds=10)
            taken.append(free - ray.available_resources()["CPU"])
            seen.append(len(event.workers))

    runs.fit(
        WAYS["full batch"].plan(),
        open_source(uri),
        ModelDir.at(str(tmp_path), {}, 5),
        config,
        listeners=[watch],
    )

    assert seen == [2]
    assert taken == [pytest.approx(4)]


# --- answers -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("nothing_stays")
def test_losses_of_the_first_batches_are_those_of_this_process(uri, tmp_path):
    WAYS["cosine"].fit(uri, tmp_path, 0)
    here = WAYS["cosine"].estimator(tmp_path, 0)
    there = WAYS["cosine"].estimator(tmp_path, 2)

    # 1,050 rows end within a row group
    expected = here.evaluate(uri, batch_size=350, steps=3)
    assert there.evaluate(uri, batch_size=350, steps=3) == expected
    assert there.score(uri, steps=2, batch_size=1300) == here.score(uri, steps=2, batch_size=1300)
    assert there.score(uri) == here.score(uri) > expected["scores"]
    assert there.evaluate(stream_of(uri), steps=4) == here.evaluate(stream_of(uri), steps=4)


# --- errors --------------------------------------------------------------------------------------


def error_of(fit, *args):
    with pytest.raises(Exception, match=r"\w") as caught:
        fit(*args)
    return caught.value


def wide(sample, missing):
    return sample[:missing, :3]


def nan(sample, missing):
    return sample[:missing] * np.nan


def nothing(sample, missing):
    return []


def own_error(sample, missing):
    raise LookupError(f"{sample.shape} and {missing}")


@pytest.mark.usefixtures("nothing_stays")
@pytest.mark.parametrize(
    ("function", "kind"),
    [(wide, ConfigError), (nan, ConfigError), (nothing, ConfigError), (own_error, LookupError)],
)
def test_the_error_of_a_function_of_the_user_is_that_of_this_process(uri, tmp_path, function, kind):
    way = Way({"initial_clusters": function}, StopRule(steps=1))

    errors = [error_of(way.fit, uri, tmp_path / str(n), n) for n in (0, 1)]

    assert [type(error) for error in errors] == [kind, kind]
    assert str(errors[0]) == str(errors[1])


@pytest.mark.usefixtures("nothing_stays")
@pytest.mark.parametrize("stream", [False, True])
def test_too_few_rows_are_refused_as_in_this_process(tmp_path, stream):
    rows = np.ones((K - 1, 3), np.float32)
    way = Way({}, is_stream=stream)

    def fit(num_workers):
        data = iter([rows[:3], rows[3:]]) if stream else rows
        way.estimator(tmp_path / str(num_workers), num_workers).fit(data)

    errors = [error_of(fit, n) for n in (0, 2)]

    assert [type(error) for error in errors] == [TooFewRowsError] * 2
    assert str(errors[0]) == str(errors[1])


@pytest.mark.usefixtures("nothing_stays")
def test_rows_of_a_stream_that_are_not_finite_are_named_and_the_step_before_is_kept(uri, tmp_path):
    damaged = rows_of(f"{uri}/1.parquet").copy()
    damaged[[3, 500, 501, 999]] = np.nan
    damaged = write_parquet(tmp_path / "damaged", damaged, files=2, row_group=300)

    def fit(num_workers):
        km = Way({}).estimator(tmp_path / str(num_workers), num_workers)
        km.partial_fit(iter([f"{uri}/0.parquet", damaged, f"{uri}/2.parquet"]), steps=None)

    errors = [error_of(fit, n) for n in (0, 2)]

    assert [type(error) for error in errors] == [NonFiniteError] * 2
    assert str(errors[0]) == str(errors[1])
    assert errors[0].places == errors[1].places != ()
    states = [state_of(tmp_path / str(n)) for n in (0, 2)]
    assert bits(states[0]) == bits(states[1])
    assert (states[0].iteration, states[0].stop) == (1, None)


@pytest.mark.usefixtures("nothing_stays")
def test_workers_that_cannot_start_leave_no_others_behind(uri, tmp_path):
    before = fit_processes()
    half = ray.available_resources()["CPU"] // 2
    config = RunConfig(
        num_workers=2, cpus_per_worker=half + 1, worker_start_timeout_s=4, progress=False
    )

    with pytest.raises(WorkersLostError, match="1 of 2 workers did not start") as caught:
        KMeansClustering(K, str(tmp_path), config=config).fit(uri, monitors=[Monitor()])

    ended = comes_true(lambda: fit_processes() <= before, seconds=5)
    del caught  # held until here, as a notebook holds the last error
    assert ended
