"""What `fit` promises: the true centers, when it stops, and that a later fit goes on."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq
import pytest

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.algorithm.state import Stop
from ray_kmeans.algorithm.stopping import StopRule
from ray_kmeans.data import sharding
from ray_kmeans.data.opening import open_source
from ray_kmeans.demo import DATA
from ray_kmeans.errors import StoreError
from ray_kmeans.observe import events as ev
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.workflows import fit
from ray_kmeans.workflows import worker_plan as resources
from ray_kmeans.workflows.parameters import FitParams
from tests.conftest import shared_data
from tests.support import oracle
from tests.support.files import in_blocks

HERE = RunConfig(num_workers=0, progress=False)


@pytest.fixture
def new(tmp_path):
    """Return a maker of models in this process, each in a fresh directory if none is named."""
    made = []

    def make(initial, name=None, num_clusters=None, **params):
        made.append(name)
        params = {"use_mini_batch": False, "config": HERE, **params}
        k = num_clusters or len(initial)
        return KMeansClustering(k, str(tmp_path / (name or f"m{len(made)}")), initial, **params)

    return make


def numpy_lloyd(x, centers, steps):
    """Lloyd in float64, for data that are too many for the oracle. No cluster may be empty."""
    x, centers, history = x.astype(np.float64), centers.astype(np.float64), []
    for _ in range(steps):
        squared = np.stack([((x - c) ** 2).sum(axis=1) for c in centers])
        history.append(squared.min(axis=0).sum())
        centers = np.stack(
            [x[squared.argmin(axis=0) == j].mean(axis=0) for j in range(len(squared))]
        )
    return centers, history


def inertias(km):
    return [line.inertia for line in km.history()]


def state_of(km):
    return km.clusters().tobytes(), km.counts().tolist(), km.history(), km.why_stopped()


@pytest.mark.parametrize("steps", [1, 2, 3, 30])
@pytest.mark.parametrize("k", [1, 2, 7])
def test_fit_from_given_centers_equals_the_oracle_bit_for_bit(new, lattice, k, steps):
    km = new(lattice[:k]).fit(lattice, steps=steps)

    centers, history = oracle.lloyd(lattice, lattice[:k], len(km.history()))
    np.testing.assert_array_equal(km.clusters(), centers)
    assert inertias(km) == history
    assert len(history) == steps or km.why_stopped() is Stop.CONVERGED


@pytest.mark.parametrize("name", ["digits", "wordnet"])
def test_fit_on_real_data_equals_lloyd_in_float64(new, name):
    folder, column = (DATA, "embedding") if name == "wordnet" else (shared_data("digits"), "pixels")
    x = np.stack(pq.read_table(folder)[column].to_numpy()).astype(np.float32)
    initial = x[:: len(x) // 11][:11]

    km = new(initial).fit(str(folder), steps=8)

    centers, history = numpy_lloyd(x, initial, steps=8)
    np.testing.assert_allclose(km.clusters(), centers, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(inertias(km), history, rtol=1e-6)


def test_labels_counts_and_score_belong_to_the_centers_returned(new, gaussian):
    km = new(gaussian[:6]).fit(gaussian)

    labels = np.array(list(km.predict_cluster_idx(gaussian)))

    assert km.why_stopped() is Stop.CONVERGED
    np.testing.assert_array_equal(labels, oracle.labels(gaussian, km.clusters()))
    np.testing.assert_array_equal(km.counts(), np.bincount(labels, minlength=6))
    assert km.score(gaussian) == km.history()[-1].inertia
    assert km.score(gaussian) == oracle.inertia(gaussian, km.clusters(), labels)


def test_the_history_has_one_line_per_iteration_and_inertia_never_rises(new, gaussian):
    km = new(gaussian[:6]).fit(gaussian)

    lines = km.history()

    assert [line.iteration for line in lines] == list(range(1, len(lines) + 1))
    assert inertias(km) == sorted(inertias(km), reverse=True)
    assert [line.shift == 0 for line in lines] == [False] * (len(lines) - 1) + [True]


def test_an_empty_cluster_keeps_its_center_and_is_counted(new, lattice):
    far = np.full((2, 3), 1000, np.float32)

    km = new(np.vstack([lattice[:2], far])).fit(lattice, steps=2)

    np.testing.assert_array_equal(km.clusters()[2:], far)
    assert [line.empty for line in km.history()] == [2, 2]
    assert km.counts()[2:].tolist() == [0, 0]


def test_blocks_and_shards_do_not_change_one_bit(new, gaussian, monkeypatch):
    whole = new(gaussian[:6]).fit(gaussian)

    source = in_blocks(gaussian, 7)
    blocks = new(gaussian[:6]).fit(source)
    monkeypatch.setattr(resources, "split", lambda blocks, *_: sharding.split(blocks, 5))
    shards = new(gaussian[:6]).fit(source)

    assert len(source.describe().blocks) == 29
    assert state_of(blocks) == state_of(whole)
    assert state_of(shards) == state_of(whole)


def test_the_inputs_are_not_changed(new, gaussian):
    x, initial = gaussian.copy(), gaussian[:6].copy()
    x.flags.writeable = initial.flags.writeable = False

    km = new(initial).fit(x)
    list(km.predict(x))
    km.transform(x)

    np.testing.assert_array_equal(x, gaussian)
    np.testing.assert_array_equal(initial, gaussian[:6])


def test_steps_add_up(new, gaussian):
    km = new(gaussian[:6]).fit(gaussian, steps=2)
    km.fit(gaussian, steps=3)

    once = new(gaussian[:6]).fit(gaussian, steps=5)

    assert km.history() == once.history()
    np.testing.assert_array_equal(km.clusters(), once.clusters())


def test_max_steps_counts_all_fits(new, gaussian):
    km = new(gaussian[:6]).fit(gaussian, max_steps=2)
    km.fit(gaussian, max_steps=3)
    before = state_of(km)

    km.fit(gaussian, max_steps=3)
    km.fit(gaussian, max_steps=1)

    assert len(km.history()) == 3
    assert state_of(km) == before


def test_why_a_fit_stopped_is_told(new, gaussian):
    by_steps = new(gaussian[:6]).fit(gaussian, steps=2)
    by_max_steps = new(gaussian[:6]).fit(gaussian, max_steps=2)
    by_tolerance = new(gaussian[:6], relative_tolerance=10).fit(gaussian)
    settled = new(gaussian[:6], relative_tolerance=0).fit(gaussian)

    assert [by_steps.why_stopped(), by_max_steps.why_stopped()] == [Stop.STEPS, Stop.STEPS]
    assert by_tolerance.why_stopped() is Stop.TOLERANCE
    assert settled.why_stopped() is Stop.CONVERGED  # 0 is never above a change


def test_relative_tolerance_stops_at_the_first_change_strictly_below_it(new, gaussian):
    losses = inertias(new(gaussian[:6]).fit(gaussian))
    changes = [abs(b - a) / (1 + abs(a)) for a, b in pairwise(losses)]
    tolerance = changes[1]  # reached exactly at the third iteration: not below it
    assert changes[0] > changes[1] > changes[2]

    at_it = new(gaussian[:6], relative_tolerance=tolerance).fit(gaussian)
    above_it = new(gaussian[:6], relative_tolerance=np.nextafter(tolerance, 1)).fit(gaussian)

    assert (inertias(at_it), at_it.why_stopped()) == (losses[:4], Stop.TOLERANCE)
    assert (inertias(above_it), above_it.why_stopped()) == (losses[:3], Stop.TOLERANCE)


def test_relative_tolerance_compares_iterations_of_one_fit_only(new, gaussian):
    km = new(gaussian[:6], relative_tolerance=10).fit(gaussian)
    assert len(km.history()) == 2

    km.fit(gaussian[:150])  # other data

    assert len(km.history()) == 4
    assert km.why_stopped() is Stop.TOLERANCE


def test_a_converged_fit_does_nothing_on_the_same_data_and_goes_on_with_others(new, gaussian):
    km = new(gaussian[:6]).fit(gaussian)
    converged = state_of(km)

    km.fit(gaussian)
    km.fit(gaussian, steps=3)
    assert state_of(km) == converged
    km.fit(gaussian[:100])

    assert len(km.history()) > len(converged[2])
    labels = oracle.labels(gaussian[:100], km.clusters())
    np.testing.assert_array_equal(km.counts(), np.bincount(labels, minlength=6))


class CutOff(Exception):
    pass


@pytest.mark.parametrize("at", [1, 2, 3, 4])
@pytest.mark.parametrize("steps", [None, 6])
@pytest.mark.parametrize("killed", [False, True])
def test_a_fit_that_was_cut_off_and_is_run_again_equals_the_undisturbed_one(
    new, gaussian, at, steps, killed, tmp_path, monkeypatch
):
    undisturbed = new(gaussian[:6]).fit(gaussian, steps=steps)
    config = RunConfig(num_workers=0, progress=False, save_checkpoints_steps=2)
    km = new(gaussian[:6], "cut", config=config)

    def be_dead(store, state):
        raise StoreError("nobody is left to save anything.")

    def cut_off(event):
        if isinstance(event, ev.IterationDone) and event.line.iteration == at:
            if killed:
                monkeypatch.setattr(ModelDir, "save", be_dead)
            raise CutOff

    store = ModelDir.at(str(tmp_path / "cut"), {}, 5)
    with pytest.raises(CutOff):
        fit.fit(
            fit.plan_fit(FitParams(**km.get_params(deep=False)), config, StopRule(steps), None),
            open_source(gaussian),
            store,
            config,
            listeners=[cut_off],
        )
    monkeypatch.undo()
    assert km.why_stopped() is None
    saved = (at - 1) // 2 * 2
    # The last save may have been under way when it was killed; else no step is lost.
    assert len(km.history()) in ({saved, max(saved - 2, 0)} if killed else {at})
    km.fit(gaussian, steps=steps)

    assert state_of(km) == state_of(undisturbed)
