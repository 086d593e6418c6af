"""One word gives good settings; whoever takes poor ones without a word is told."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from ray_kmeans import KMeansClustering, RunConfig, cli
from ray_kmeans.workflows.presets import ADVICE, PRESETS
from tests.support.commands import refused

HERE = RunConfig(num_workers=0, progress=False)
X = np.random.default_rng(3).normal(size=(240, 3)).astype(np.float32)
FIT = ["fit", "data", "model", "--num-clusters", "7"]


def parsed(monkeypatch, *words):
    """Return the flags that `fit` gets."""
    seen = []
    monkeypatch.setitem(cli.COMMANDS, "fit", cli.Command(cli.fit.Fit, seen.append))
    cli.main([*FIT, *words])
    return seen[0]


def chosen(flags):
    return {name: getattr(flags, name) for name in PRESETS["best"]}


def test_the_recommended_estimator_has_the_preset_and_what_is_given_wins():
    best = KMeansClustering.recommended(7, "m", distance_metric="cosine").get_params(deep=False)
    mine = KMeansClustering.recommended(7, relative_tolerance=0.5).get_params(deep=False)

    assert {name: best[name] for name in PRESETS["best"]} == PRESETS["best"]
    assert (best["num_clusters"], best["model_dir"]) == (7, "m")
    assert best["distance_metric"] == "cosine"
    assert {name: mine[name] for name in PRESETS["best"]} == {
        **PRESETS["best"],
        "relative_tolerance": 0.5,
    }
    with pytest.raises(TypeError, match="no_such"):
        KMeansClustering.recommended(7, no_such=1)


def test_flags_win_over_a_file_and_a_file_over_the_preset(tmp_path, monkeypatch):
    (tmp_path / "c.yaml").write_text("relative_tolerance: 0.5\ninitial_clusters: random\n")
    (tmp_path / "d.yaml").write_text("preset: best\nuse_mini_batch: true\n")
    best = PRESETS["best"]

    def of(*words):
        return chosen(parsed(monkeypatch, *words))

    assert of("--preset", "best") == of("--preset=best") == best
    assert of() == {
        "initial_clusters": "random",
        "use_mini_batch": True,
        "relative_tolerance": None,
        "n_init": 1,
    }
    assert of("--preset", "best", "--use-mini-batch") == {**best, "use_mini_batch": True}
    in_file = {**best, "relative_tolerance": 0.5, "initial_clusters": "random"}
    assert of("--preset", "best", "--config", str(tmp_path / "c.yaml")) == in_file
    more = ["--config", str(tmp_path / "c.yaml"), "--initial-clusters", "kmc2"]
    assert of("--preset", "best", *more) == {**in_file, "initial_clusters": "kmc2"}
    assert of("--config", str(tmp_path / "d.yaml")) == {**best, "use_mini_batch": True}


def test_a_preset_that_does_not_exist_and_a_flag_without_a_meaning_are_refused(tmp_path):
    assert (
        "invalid choice 'worst' for argument '--preset'" in refused([*FIT, "--preset", "worst"])[1]
    )
    np.save(tmp_path / "x.npy", X)
    words = ["fit", str(tmp_path / "x.npy"), str(tmp_path / "m"), "--num-clusters", "7"]
    more = ["--preset", "best", "--batch-size", "5", "--num-workers", "0"]
    assert "batch_size=5 has no meaning" in refused([*words, *more])[1]


def test_the_command_and_the_class_give_the_same_bits(tmp_path):
    np.save(tmp_path / "x.npy", X)
    km = KMeansClustering.recommended(4, str(tmp_path / "a"), config=HERE).fit(X)

    words = ["fit", str(tmp_path / "x.npy"), str(tmp_path / "b"), "--num-clusters", "4"]
    cli.main([*words, "--preset", "best", "--num-workers", "0"])

    other = KMeansClustering(4, str(tmp_path / "b"), config=HERE)
    assert other.history() == km.history()


TOLD = {  # clusters, parameters, arguments of fit, whether there is advice
    "defaults": (21, {}, {}, True),
    "limited": (21, {}, {"max_steps": 2}, True),
    "few clusters": (20, {}, {"max_steps": 2}, False),
    "full batch": (21, {"use_mini_batch": False}, {"max_steps": 2}, False),
    "other centers": (21, {"initial_clusters": "kmc2"}, {"max_steps": 2}, False),
    "given centers": (21, {"initial_clusters": X[:21]}, {"max_steps": 2}, False),
    "some steps": (21, {}, {"steps": 2}, False),
}


@pytest.mark.parametrize("case", TOLD)
def test_only_who_takes_the_defaults_for_many_clusters_is_told(tmp_path, caplog, case):
    k, params, how, is_told = TOLD[case]
    km = KMeansClustering(k, str(tmp_path), config=HERE, **params)

    with caplog.at_level(logging.INFO, "ray_kmeans"):
        km.fit(X, **how)
        first = caplog.text.count(ADVICE)
        km.fit(X[:200], steps=1)  # goes on with a model that is there
        km.fit(X[:200], max_steps=len(km.history()) + 1)

    assert (first, caplog.text.count(ADVICE)) == (int(is_told), int(is_told))


def test_the_command_ends_with_the_advice(tmp_path, capsys):
    np.save(tmp_path / "x.npy", X)
    words = ["fit", str(tmp_path / "x.npy"), str(tmp_path / "m"), "--num-clusters", "30"]

    cli.main([*words, "--max-steps", "2", "--num-workers", "0"])

    assert f"\n{ADVICE}\n" in capsys.readouterr().out
