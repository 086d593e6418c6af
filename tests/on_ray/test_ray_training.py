"""Every way to train gives the same bits on Ray as in this process, and leaves nothing behind."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.algorithm.state import Stop
from ray_kmeans.algorithm.stopping import StopRule
from ray_kmeans.data.opening import open_source
from ray_kmeans.errors import (
    ConfigError,
    NonFiniteError,
    TooFewRowsError,
    WorkersLostError,
)
from ray_kmeans.observe import events as ev
from ray_kmeans.observe.monitors import Monitor
from ray_kmeans.on_ray import ray_cluster
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.workflows import fit as runs
from tests.support.files import rows_of
from tests.support.ray_runs import (
    WAYS,
    WORKERS,
    K,
    Way,
    bits,
    comes_true,
    fit_processes,
    nothing_stays,
    open_workers,
    state_of,
    stream_of,
    write_parquet,
    write_real_data,
)

__all__ = ["nothing_stays"]  # a fixture
pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return write_real_data(tmp_path_factory.mktemp("real") / "data")


# --- all ways, all numbers of workers ------------------------------------------------------------


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
    assert in_this_process["mini-batch, m=3"].accumulators.done == 1
    assert len({state.centers.tobytes() for state in in_this_process.values()}) == len(WAYS)


@pytest.mark.parametrize("number", WORKERS)
@pytest.mark.parametrize("name", WAYS)
def test_any_number_of_workers_gives_the_bits_of_this_process(
    pools, uri, in_this_process, name, number
):
    metric = WAYS[name].params.get("distance_metric", "squared_euclidean")

    state = WAYS[name].fit_with(pools[metric], uri, number)

    assert bits(state) == bits(in_this_process[name])


@pytest.mark.long(kind="training on Ray")
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
    monkeypatch.setattr(ray_cluster, "node_cpus", lambda: nodes)

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


@pytest.mark.long(kind="error on Ray")
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
    assert (cut_off.iteration, cut_off.stop, cut_off.accumulators.done) == (5, None, 2)
    expected = in_this_process["mini-batch, m=3"]
    assert cut_off.history == expected.history[:5]
    assert bits(WAYS["mini-batch, m=3"].fit(uri, tmp_path, 0)) == bits(expected)


# --- what a worker takes -------------------------------------------------------------------------


@pytest.mark.long(kind="training on Ray")
@pytest.mark.usefixtures("nothing_stays")
def test_as_many_workers_as_the_cluster_has_room_for_hold_their_cpus(uri, tmp_path, monkeypatch):
    free = ray.available_resources()["CPU"]
    monkeypatch.setattr(ray_cluster, "node_cpus", lambda: [4])  # of the larger one of all tests
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


@pytest.mark.long(kind="training on Ray")
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


@pytest.mark.long(kind="error on Ray")
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


def test_a_sample_and_the_labels_of_all_rows_are_the_same_bits_on_ray(uri, tmp_path):
    found = {}
    for workers in (0, 3):
        here = RunConfig(num_workers=workers, cpus_per_worker=1, progress=False)
        place = tmp_path / str(workers)
        km = KMeansClustering(
            K, str(place / "m"), train_rows=0.3, use_mini_batch=False, config=here
        )
        labelled = km.fit_and_label(uri, str(place / "out"), max_steps=3, nearest=3)
        table = pq.read_table(place / "out").sort_by("row")
        found[workers] = km.clusters().tobytes(), km.counts().sum(), labelled, table

    assert found[0][:3] == found[3][:3]
    assert found[0][3].equals(found[3][3])
    assert found[0][1] < found[0][2].rows == len(found[0][3])
