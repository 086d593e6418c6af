"""What became of the clusters of an old model, beside a slow count of all rows."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ray_kmeans import KMeansClustering, RunConfig, cli, import_centers, load_model, open_source
from ray_kmeans.data.sharding import split
from ray_kmeans.engine import center_neighbours
from ray_kmeans.engine.center_neighbours import partners_of
from ray_kmeans.engine.options import WorkerSetup
from ray_kmeans.engine.pool import LocalPool
from ray_kmeans.engine.worker import ShardWorker
from ray_kmeans.errors import ConfigError, DataError, ModelMismatchError, NotFittedError
from tests.support import oracle
from tests.support.files import in_blocks

HERE = RunConfig(num_workers=0, progress=False)
METRICS = ("squared_euclidean", "cosine")


def imported(place, centers, **how):
    return import_centers(np.array(centers, np.float32), str(place), config=HERE, **how)


@pytest.fixture
def X():
    rng = np.random.default_rng(7)
    return (rng.normal(size=(400, 3)) + 4 * rng.integers(0, 3, (400, 1))).astype(np.float32)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("weighted", [False, True])
def test_every_figure_is_that_of_a_slow_count(tmp_path, X, metric, weighted):
    old = imported(tmp_path / "old", X[:5], distance_metric=metric)
    new = imported(tmp_path / "new", X[3:10], distance_metric=metric)
    weights = np.arange(400) % 4 if weighted else np.ones(400)

    found = new.drift_from(old, X, sample_weight=weights if weighted else None)

    sides = [each.predict(X, as_iterable=False)["cluster_idx"] for each in (old, new)]
    table = np.zeros((5, 7))
    np.add.at(table, tuple(sides), weights)
    stayed = 0
    for each in found.clusters:
        both = each.old is not None and each.new is not None
        here = table[each.old, each.new] if both else 0.0
        stayed += here
        if each.old is not None:
            assert each.size_before == table[each.old].sum()
            assert each.lost == each.size_before - here
        if each.new is not None:
            assert each.size_after == table[:, each.new].sum()
            assert each.gained == each.size_after - here
        if both:
            a, b = old.clusters()[each.old].astype(float), new.clusters()[each.new].astype(float)
            exact = np.linalg.norm(a - b) if metric == METRICS[0] else 1 - a @ b
            assert each.moved_by == pytest.approx(exact, abs=1e-6)
    assert found.moved_share == pytest.approx(1 - stayed / weights.sum(), abs=1e-12)
    losses = [m.evaluation(X, sample_weight=weights).mean_loss for m in (old, new)]
    assert (found.loss_before, found.loss_after) == pytest.approx(losses, rel=1e-6)
    assert found.rows == (weights > 0).sum()


def test_any_number_of_workers_gives_the_same_flows(X):
    centers, others = X[:5], X[5:9]
    found = []
    for count in (1, 2, 5):
        source = in_blocks(X, 20)
        pool = LocalPool(source, split(source.describe().blocks, count), WorkerSetup())
        pool.summarize()
        answers = pool.ask(ShardWorker.flows, centers, others)
        flows = sum(answers[1:], answers[0])
        found.append((flows.pairs.tolist(), flows.weights.tolist(), flows.losses))

    labels = [oracle.labels(X, each) for each in (centers, others)]
    pairs, counts = np.unique(np.stack(labels, axis=1), axis=0, return_counts=True)
    assert found[0][:2] == (pairs.tolist(), counts.tolist())
    assert found[1:] == found[:1] * 2


def test_a_model_has_not_drifted_from_itself_however_its_clusters_are_numbered(tmp_path, X):
    km = KMeansClustering(6, str(tmp_path / "m"), X[:6], use_mini_batch=False, config=HERE).fit(X)
    other = imported(tmp_path / "o", km.clusters()[::-1])

    for data in (None, X):
        found = other.drift_from(km, data)

        assert [(each.old, each.new) for each in found.clusters] == [(5 - j, j) for j in range(6)]
        assert found.counts() == {"kept": 6}
        assert {each.moved_by for each in found.clusters} == {0.0}
    assert found.moved_share == 0
    assert found.loss_before == found.loss_after


@pytest.mark.parametrize("by_rows", [True, False])
def test_a_split_a_merger_a_new_and_a_gone_cluster_are_told(tmp_path, by_rows):
    rows = np.repeat([9.9, 10.2, 20, 30, 31, 60], 10).astype(np.float32)[:, None]
    old = imported(tmp_path / "a", [[10], [20], [30], [30.9], [85 if by_rows else 110]])
    new = imported(tmp_path / "b", [[9.9], [10.2], [20], [30.5], [60]])

    found = new.drift_from(old, rows if by_rows else None)

    told = {
        (each.old, each.new): (each.change, each.parts, each.origins) for each in found.clusters
    }
    assert told[0, 0] == ("split", (0, 1), (0,))
    assert told[None, 1] == ("split", (), (0,))
    assert told[1, 2] == ("kept", (2,), (1,))
    assert told[3, 3] == ("merged", (3,), (2, 3))
    assert told[2, None] == ("merged", (3,), ())
    if by_rows:  # all rows of 85 are those of 60 now
        assert told[4, 4] == ("kept", (4,), (4,))
    else:
        assert (told[4, None][0], told[None, 4][0]) == ("vanished", "new")


def test_beyond_the_limit_clusters_are_matched_that_are_each_others_nearest(X, monkeypatch):
    old, new = X[:6], X[[4, 2, 30, 0]]
    exact = partners_of(old, new, METRICS[0]).tolist()

    monkeypatch.setattr(center_neighbours, "MOST_ASSIGNED", 5)
    near = partners_of(old, new, METRICS[0]).tolist()

    assert [*near[:2], near[3]] == [*exact[:2], exact[3]] == [4, 2, 0]
    assert exact[2] in (1, 3, 5)
    assert near[2] in (-1, exact[2])


def test_columns_go_by_name_and_a_shift_by_that_of_the_new_model(tmp_path, X):
    wide = {"a": X[:, 0].astype(float) + 5e6, "b": X[:, 1].astype(float) - 9e6}
    params = {"use_mini_batch": False, "random_seed": 4, "config": HERE}
    old = KMeansClustering(4, str(tmp_path / "a"), **params)
    old.fit(open_source(wide, ["b", "a"], center=True))
    new = KMeansClustering(4, str(tmp_path / "b"), **params)
    new.fit(open_source({name: values[50:] for name, values in wide.items()}, center=True))

    found = new.drift_from(old, wide)

    for each in found.clusters:
        if each.old is not None and each.new is not None:
            a, b = old.clusters()[each.old, ::-1], new.clusters()[each.new]
            assert each.moved_by == pytest.approx(np.linalg.norm(a - b), abs=1e-4)
    assert found.moved_share < 1


def test_models_that_cannot_be_compared_are_refused_by_both_names(tmp_path, X):
    km = imported(tmp_path / "a", X[:4])
    wrong = {
        "2 features by squared_euclidean": imported(tmp_path / "b", X[:4, :2]),
        "3 features by cosine": imported(tmp_path / "c", X[:4], distance_metric="cosine"),
    }
    for what, other in wrong.items():
        with pytest.raises(ModelMismatchError, match=rf"{other.model_dir}.*{what}.*{km.model_dir}"):
            km.drift_from(other, "nowhere.npy")
    with pytest.raises(NotFittedError, match=r"there is no model in '.*nowhere'"):
        km.drift_from("nowhere")
    with pytest.raises(ConfigError, match="other=5 must be a path"):
        km.drift_from(5)
    with pytest.raises(DataError, match="the data have 2 features"):
        km.drift_from(str(tmp_path / "a"), X[:, :2])
    with pytest.raises(ConfigError, match="gives batches once"):
        km.drift_from(km, iter([X]))
    names = [{"x": X[:, 0], "y": X[:, 1]}, {"y": X[:, 0], "z": X[:, 1]}]
    named = [
        KMeansClustering(2, str(tmp_path / f"n{i}"), use_mini_batch=False, config=HERE).fit(each)
        for i, each in enumerate(names)
    ]
    with pytest.raises(ModelMismatchError, match=r"the columns x, y.*the columns y, z"):
        named[1].drift_from(named[0])


def test_the_command_prints_what_the_call_returns(tmp_path, X, capsys):
    np.save(tmp_path / "x.npy", X)
    places = [str(tmp_path / "a"), str(tmp_path / "b")]
    imported(places[0], X[:4])
    new = imported(places[1], X[2:7])

    for more in ([], [str(tmp_path / "x.npy")]):
        data = X if more else None
        cli.main(["drift", *places, *more, "--num-workers", "0"])
        assert capsys.readouterr().out == f"{new.drift_from(places[0], data).table()}\n"
        cli.main(["drift", *places, *more, "--json", "--num-workers", "0"])
        found = json.loads(capsys.readouterr().out)
        assert found == json.loads(new.drift_from(places[0], data).to_json())
        assert len(found["clusters"]) >= 5


def test_a_long_table_shows_those_that_changed_and_then_those_that_moved_most(tmp_path):
    centers = np.arange(100, dtype=np.float32)[:, None] * 10
    old = imported(tmp_path / "a", [*centers[:-1], [5000]])
    new = imported(tmp_path / "b", centers[:-1] + np.arange(99)[:, None] / 100)

    lines = new.drift_from(old).table().splitlines()

    assert lines[1].split()[:3] == ["99", "-", "vanished"]
    assert lines[2].split()[:4] == ["98", "98", "kept", "0.98"]
    assert lines[42] == "   ... 59 more kept, which moved less"
    assert lines[43:] == ["clusters: 99 kept, 1 vanished"]


def test_a_warm_start_keeps_every_cluster_its_number(tmp_path, X):
    """A fit that goes on begins at the centers that are there: its steps are those of Lloyd."""
    km = KMeansClustering(5, str(tmp_path), X[:5], use_mini_batch=False, config=HERE).fit(X[:200])
    before = km.clusters()

    km.fit(X, steps=2)

    expected, _ = oracle.lloyd(X, before, 2)
    np.testing.assert_array_equal(km.clusters(), expected)
    again = load_model(str(tmp_path), HERE)
    old = imported(tmp_path / "old", before)
    assert all(each.old == each.new for each in again.drift_from(old, X).clusters)
