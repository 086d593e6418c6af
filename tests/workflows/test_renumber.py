"""A new fit gets the numbers of an old model at its end, and nothing else changes."""

from __future__ import annotations

import itertools
import logging

import numpy as np
import pytest

from ray_kmeans import KMeansClustering, Monitor, RunConfig, cli, import_centers, open_source
from ray_kmeans.algorithm.state import Stop
from ray_kmeans.errors import ConfigError, ModelMismatchError, NotFittedError

HERE = RunConfig(num_workers=0, progress=False, save_checkpoints_steps=1)
X = np.random.default_rng(3).normal(size=(240, 3)).astype(np.float32)
FULL = {"use_mini_batch": False}
WAYS = {
    "full batch": (FULL, {}),
    "cosine": ({**FULL, "distance_metric": "cosine"}, {}),
    "max_steps": (FULL, {"max_steps": 3}),
    "mini-batch, m=1": ({}, {"batch_size": 100, "max_steps": 6}),
    "mini-batch, m=3": ({"mini_batch_steps_per_iteration": 3}, {"batch_size": 100, "max_steps": 7}),
}


def model(place, k=5, **params):
    return KMeansClustering(k, str(place), config=HERE, **params)


@pytest.fixture
def old(tmp_path):
    return import_centers(X[[9, 50, 2, 77, 31, 8]], str(tmp_path / "old"), config=HERE)


def slow_order(old, new):
    """Return which new center gets each number, by all matchings of few centers."""
    costs = np.linalg.norm(old[:, None].astype(float) - new, axis=2)
    k = len(new)
    chosen = min(
        itertools.permutations(range(len(old)), k),
        key=lambda olds: sum(costs[i, j] for j, i in enumerate(olds)),
    )
    wanted = {i: j for j, i in enumerate(chosen) if i < k}
    left = iter([j for j in range(k) if j not in wanted.values()])
    return [wanted[i] if i in wanted else next(left) for i in range(k)]


@pytest.mark.parametrize("way", WAYS)
def test_a_fit_ends_with_the_other_numbers_and_is_the_same_else(tmp_path, old, way):
    params, how = WAYS[way]
    if "distance_metric" in params:
        other = {"distance_metric": params["distance_metric"]}
        old = import_centers(X[[9, 50, 2, 77, 31, 8]], str(tmp_path / "o"), config=HERE, **other)
    plain = model(tmp_path / "plain", **params).fit(X, **how)

    km = model(tmp_path / "like", **params, renumber_like=old.model_dir).fit(X, **how)

    order = slow_order(old.clusters(), plain.clusters())
    assert order != sorted(order)
    assert km.clusters().tobytes() == plain.clusters()[order].tobytes()
    assert km.counts().tolist() == plain.counts()[order].tolist()
    assert (km.history(), km.why_stopped()) == (plain.history(), plain.why_stopped())
    if "mini_batch_steps_per_iteration" in params:
        more = [each.fit(X, batch_size=100, max_steps=9) for each in (plain, km)]
        again = slow_order(old.clusters(), more[0].clusters())
        assert more[1].clusters().tobytes() == more[0].clusters()[again].tobytes()


def test_a_fit_that_was_cut_off_gets_the_same_numbers(tmp_path, old):
    class Break(Monitor):
        def after_step(self, state):
            if state.iteration == 3:
                raise KeyboardInterrupt

    whole = model(tmp_path / "a", **FULL, renumber_like=old).fit(X)
    km = model(tmp_path / "b", **FULL, renumber_like=old)
    with pytest.raises(KeyboardInterrupt):
        km.fit(X, monitors=[Break()])

    km.fit(X)

    assert km.clusters().tobytes() == whole.clusters().tobytes()
    assert km.history() == whole.history()


@pytest.mark.parametrize("how", [{}, {"max_steps": 3}])
def test_a_fit_that_has_ended_gets_its_numbers_once_and_then_stays(tmp_path, old, how, caplog):
    km = model(tmp_path / "m", **FULL).fit(X, **how)
    order = slow_order(old.clusters(), km.clusters())
    expected = km.clusters()[order]
    km.set_params(renumber_like=old)
    km.fit(X, **how)
    files = km.checkpoints()

    with caplog.at_level(logging.INFO, "ray_kmeans"):
        km.fit(X, **how)

    assert km.clusters().tobytes() == expected.tobytes()
    assert km.checkpoints() == files
    assert km.why_stopped() is (Stop.STEPS if how else Stop.CONVERGED)
    assert "nothing to do" in caplog.text


def test_what_matches_none_gets_the_free_numbers(tmp_path):
    few = import_centers(X[:2], str(tmp_path / "few"), config=HERE)
    plain = model(tmp_path / "a", 4, **FULL).fit(X)

    km = model(tmp_path / "b", 4, **FULL, renumber_like=few).fit(X)

    found = plain.clusters().tolist()
    order = [found.index(center) for center in km.clusters().tolist()]
    assert sorted(order) == [0, 1, 2, 3]
    assert order[2] < order[3]
    costs = np.linalg.norm(X[:2, None].astype(float) - plain.clusters(), axis=2)
    pairs = itertools.permutations(range(4), 2)
    best = min(pairs, key=lambda pair: costs[0, pair[0]] + costs[1, pair[1]])
    assert tuple(order[:2]) == best


def test_a_model_of_another_kind_is_refused_before_anything_is_made(tmp_path, old):
    cosine = {"distance_metric": "cosine"}
    turned = import_centers(X[:3], str(tmp_path / "c"), config=HERE, **cosine)
    narrow = import_centers(X[:3, :2], str(tmp_path / "n"), config=HERE)
    named = import_centers({"a": [1.0, 2.0], "b": [2.0, 9.0]}, str(tmp_path / "d"), config=HERE)
    wrong = [
        ("nowhere", X, NotFittedError, "renumber_like='.*nowhere' holds no model"),
        (turned, X, ModelMismatchError, "cosine distance.*squared_euclidean distance"),
        (narrow, X, ConfigError, "a model of 2 features and the data have 3"),
        (7, X, ConfigError, "renumber_like=7 must be a path"),
        (named, {"a": X[:, 0], "c": X[:, 1]}, ConfigError, "columns a, b, and the data have a, c"),
    ]
    for other, data, kind, message in wrong:
        with pytest.raises(kind, match=message):
            model(tmp_path / "m", **FULL, renumber_like=other).fit(data)

    assert not (tmp_path / "m").exists()


def test_columns_go_by_their_names_and_the_flag_does_the_same(tmp_path, capsys):
    rows = {"a": X[:, 0], "b": 5 * X[:, 1]}
    turned = open_source(rows, ["b", "a"])
    old = model(tmp_path / "old", random_seed=8, **FULL).fit(turned)
    km = model(tmp_path / "m", **FULL, renumber_like=old).fit(rows)

    plain = model(tmp_path / "p", **FULL).fit(rows)
    order = slow_order(old.clusters()[:, ::-1], plain.clusters())
    assert km.clusters().tobytes() == plain.clusters()[order].tobytes()
    np.save(tmp_path / "x.npy", X)
    one = import_centers(X[:5], str(tmp_path / "one"), config=HERE)
    words = [str(tmp_path / "x.npy"), str(tmp_path / "c"), "--num-clusters", "5"]
    more = ["--renumber-like", one.model_dir, "--no-use-mini-batch", "--num-workers", "0"]
    cli.main(["fit", *words, *more])
    like = model(tmp_path / "e", **FULL, renumber_like=one).fit(X)
    assert model(tmp_path / "c").clusters().tobytes() == like.clusters().tobytes()
