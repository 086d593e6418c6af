"""A fit that has ended stays as it is until more is asked for; what is continued is said."""

from __future__ import annotations

import inspect
import logging
import re
import warnings

import numpy as np
import pytest

from ray_kmeans import (
    EarlyStopping,
    KMeansClustering,
    RunConfig,
    cli,
)
from ray_kmeans.algorithm.state import Origin, Stop
from ray_kmeans.store import checkpoint

HERE = RunConfig(num_workers=0, progress=False)
X = np.random.default_rng(3).normal(size=(240, 3)).astype(np.float32)
ALIKE = np.ones((8, 2), np.float32)
WAYS = {  # rows, parameters, arguments of fit, and how such a fit ends
    "converged": (X, {"use_mini_batch": False}, {}, Stop.CONVERGED),
    "tolerance": (X, {"use_mini_batch": False, "relative_tolerance": 0.01}, {}, Stop.TOLERANCE),
    "tolerance before max_steps": (
        X,
        {"use_mini_batch": False, "relative_tolerance": 0.01},
        {"max_steps": 500},
        Stop.TOLERANCE,
    ),
    "mini-batch": (X, {}, {"batch_size": 40}, Stop.NO_IMPROVEMENT),
    "mini-batch, several steps": (
        X,
        {"mini_batch_steps_per_iteration": 6},
        {"batch_size": 40},
        Stop.NO_IMPROVEMENT,
    ),
    "mini-batch, tolerance": (X, {"relative_tolerance": 0.05}, {"batch_size": 40}, Stop.TOLERANCE),
    "max_steps": (X, {"use_mini_batch": False}, {"max_steps": 2}, Stop.STEPS),
}


def model(place, x, **params):
    return KMeansClustering(4 if len(x) > 8 else 1, str(place), x[:4], config=HERE, **params)


def files_of(place):
    """Return what every file of a model holds; the lease tells who held it last."""
    found = [path for path in place.rglob("*") if path.is_file() and "lease" not in path.parts]
    return {str(path.relative_to(place)): path.read_bytes() for path in found}


@pytest.mark.parametrize("way", WAYS)
def test_the_same_call_on_an_ended_fit_says_so_and_changes_nothing(tmp_path, caplog, way):
    x, params, how, stop = WAYS[way]
    km = model(tmp_path, x, **params).fit(x, **how)
    assert km.why_stopped() is stop
    before = files_of(tmp_path)

    with caplog.at_level(logging.INFO, "ray_kmeans"):
        caplog.clear()
        for _ in range(2):
            model(tmp_path, x, **params).fit(x.copy(), **how)  # as a scheduler does that retries

    assert files_of(tmp_path) == before
    steps = len(km.history())
    said = f"the model has ended already, after {steps:,} steps: {stop.value}; nothing to do"
    assert [record.message for record in caplog.records].count(said) == 2


def test_more_steps_other_data_or_a_stricter_rule_train_on(tmp_path):
    rule = {"use_mini_batch": False, "relative_tolerance": 0.05}
    for number, (params, how, x) in enumerate(
        [
            (rule, {"steps": 1}, X),
            (rule, {}, X[:200]),
            ({**rule, "relative_tolerance": 1e-4}, {}, X),
            ({**rule, "relative_tolerance": None}, {}, X),
            ({"use_mini_batch": True}, {"batch_size": 40}, X),
        ]
    ):
        km = model(tmp_path / str(number), X, **rule).fit(X)
        steps = len(km.history())
        assert km.why_stopped() is Stop.TOLERANCE

        again = model(tmp_path / str(number), X, **params).fit(x, **how)

        assert len(again.history()) > steps

    looser = model(tmp_path / "1", X, **{**rule, "relative_tolerance": 0.5}).fit(X[:200])
    assert len(looser.history()) == len(model(tmp_path / "1", X).history())


def test_max_steps_above_those_that_mini_batch_made_train_on(tmp_path):
    km = model(tmp_path, X).fit(X, batch_size=40)
    steps = len(km.history())

    km.fit(X, batch_size=40, max_steps=steps + 3)

    assert (len(km.history()), km.why_stopped()) == (steps + 3, Stop.STEPS)


def test_steps_add_and_a_monitor_may_stop_again(tmp_path):
    km = model(tmp_path / "steps", X, use_mini_batch=False)
    for calls in (1, 2):
        assert len(km.fit(X, steps=2).history()) == 2 * calls
    km = model(tmp_path / "monitor", X)
    for calls in (1, 2):
        km.fit(X, batch_size=40, monitors=[EarlyStopping(patience=1, min_delta=0.999)])
        assert km.why_stopped() is Stop.MONITOR
        assert len(km.history()) == 2 * calls


def test_clusters_that_were_kept_empty_are_moved_where_that_is_asked_for(tmp_path):
    start = np.concatenate([X[:3], np.full((1, 3), 99, np.float32)])
    kept = KMeansClustering(4, str(tmp_path), start, use_mini_batch=False, config=HERE).fit(X)
    assert (kept.why_stopped(), kept.history()[-1].empty) == (Stop.CONVERGED, 1)

    moved = kept.set_params(empty_clusters="farthest").fit(X)

    assert moved.history()[-1].empty == 0
    steps = len(moved.history())
    assert len(moved.fit(X).history()) == steps


def test_the_command_says_that_nothing_was_to_do(tmp_path, capsys):
    np.save(tmp_path / "x.npy", X)
    fit = ["fit", str(tmp_path / "x.npy"), str(tmp_path / "m"), "--num-clusters", "4"]
    for more in (["--no-use-mini-batch"], ["--no-use-mini-batch", "--max-steps", "2"]):
        words = [*fit, *more, "--num-workers", "0"]
        cli.main(words)
        first = capsys.readouterr().out

        cli.main(words)

        again = capsys.readouterr().out
        nothing = r"the model has ended already, after \d+ steps: .*; nothing to do\n"
        assert re.match(nothing, again)
        if "--max-steps" not in more:
            assert re.sub(nothing, "", again) == first


# --- what the model that is there was begun with -----------------------------------------------

OTHER = [
    ({"random_seed": 5}, {"random_seed": 7}, "random_seed=5", "random_seed=7"),
    (
        {"initial_clusters": "kmeans_plus_plus"},
        {"initial_clusters": "kmc2"},
        "initial_clusters='kmeans_plus_plus'",
        "initial_clusters='kmc2'",
    ),
    (
        {"random_seed": 1},
        {"initial_clusters": X[:4]},
        "initial_clusters='random'",
        "initial_clusters='the given centers ",
    ),
    (
        {"initial_clusters": "kmeans_plus_plus"},
        {"initial_clusters": "kmeans_plus_plus", "kmeans_plus_plus_num_retries": 5},
        "kmeans_plus_plus_num_retries=2",
        "kmeans_plus_plus_num_retries=5",
    ),
]


@pytest.mark.parametrize(("first", "second", "had", "asked"), OTHER)
@pytest.mark.parametrize("how", [{}, {"max_steps": 3}])
def test_centers_that_are_not_chosen_anew_are_a_warning(tmp_path, first, second, had, asked, how):
    about = {"model_dir": str(tmp_path), "use_mini_batch": False, "config": HERE}
    KMeansClustering(4, **about, **first).fit(X, **how)

    with pytest.warns(UserWarning, match=r"^model_dir='.*' holds a model that was begun") as caught:
        KMeansClustering(4, **about, **second).fit(X, **how)

    [said] = [str(each.message) for each in caught]
    assert f"begun with {had}: that model is continued, and {asked}" in said
    assert said.endswith("Give another model_dir to begin anew.")
    assert caught[0].filename == __file__


def test_what_was_not_given_or_decides_nothing_is_no_warning(tmp_path):
    about = {"use_mini_batch": False, "config": HERE}
    for number, (first, second) in enumerate(
        [
            ({"random_seed": 5, "initial_clusters": "kmc2"}, {}),  # the defaults ask for nothing
            ({"initial_clusters": X[:4].astype(float)}, {"initial_clusters": X[:4].tolist()}),
            ({"initial_clusters": X[:4]}, {"random_seed": 3}),  # which chose nothing
            ({}, {"kmeans_plus_plus_num_retries": 5}),
        ]
    ):
        place = str(tmp_path / str(number))
        KMeansClustering(4, place, **about, **first).fit(X)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            KMeansClustering(4, place, **about, **second).fit(X[:200])


def test_a_model_of_an_older_version_is_continued_without_a_warning(tmp_path, monkeypatch):
    whole = checkpoint.manifest_of
    older = lambda *about: {n: v for n, v in whole(*about).items() if n != "origin"}  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "manifest_of", older)
        model(tmp_path, X, use_mini_batch=False, random_seed=5).fit(X, steps=1)

    km = KMeansClustering(4, str(tmp_path), "kmc2", random_seed=7, config=HERE)

    assert len(km.set_params(use_mini_batch=False).fit(X, steps=1).history()) == 2


def test_the_origin_of_a_model_that_asks_for_nothing_has_the_defaults_of_the_constructor():
    default = inspect.signature(KMeansClustering).parameters

    assert Origin() == Origin(
        default["initial_clusters"].default,
        default["random_seed"].default,
        default["kmeans_plus_plus_num_retries"].default,
    )
