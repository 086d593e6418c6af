"""Choosing k: the fits are those of calls alone, and each figure has its say in plain words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ray_kmeans import Candidate, KMeansClustering, RunConfig, choose_k, errors, open_session
from ray_kmeans.choosing.recommendation import recommend

HERE = RunConfig(num_workers=0, progress=False)
CORNERS = np.array([[0, 0], [0, 90], [90, 0], [90, 90]], np.float32)
X = np.concatenate([CORNERS + shift for shift in np.random.default_rng(1).normal(size=(40, 2))])


def test_each_model_has_the_bits_of_a_fit_alone_and_four_corners_are_four_clusters(tmp_path):
    choice = choose_k(X, [3, 4, 5], str(tmp_path / "models"), config=HERE)

    assert choice.num_clusters == 4
    for k in (3, 4, 5):
        how = {"use_mini_batch": False, "relative_tolerance": 1e-4, "config": HERE}
        alone = KMeansClustering(k, str(tmp_path / f"{k}"), "kmeans_parallel", **how).fit(X)
        assert np.array_equal(choice.model(k).clusters(), alone.clusters())
        quality = alone.evaluation(X).quality
        found = next(each for each in choice.candidates if each.num_clusters == k)
        assert found.inertia == quality.inertia
        assert found.silhouette == quality.silhouette
        assert found.davies_bouldin == quality.davies_bouldin
        assert found.calinski_harabasz == quality.calinski_harabasz


def test_the_same_call_again_makes_only_what_is_missing(tmp_path, monkeypatch):
    first = choose_k(X, [3, 4], str(tmp_path), config=HERE)
    evaluated = []
    evaluation = KMeansClustering.evaluation
    monkeypatch.setattr(
        KMeansClustering,
        "evaluation",
        lambda km, x: evaluated.append(km.get_params()["num_clusters"]) or evaluation(km, x),
    )

    again = choose_k(X, [2, 3, 4], str(tmp_path), config=HERE)

    assert evaluated == [2]
    assert again.candidates[1:] == first.candidates


def test_figures_of_other_data_are_made_anew(tmp_path):
    choose_k(X, [3, 4], str(tmp_path), config=HERE)
    other = X[::2]

    found = choose_k(other, [3, 4], str(tmp_path), config=HERE).candidates

    for each in found:
        km = KMeansClustering(each.num_clusters, each.model_dir, config=HERE)
        assert each.inertia == km.evaluation(other).loss


def test_an_open_session_is_used_and_stays_open(tmp_path):
    with open_session(X, config=HERE) as session:
        choice = choose_k(session, [3, 4], str(tmp_path / "a"))
        assert session.evaluate(choice.model()).loss == choice.candidates[1].inertia

    assert choice.table() == choose_k(X, [4, 3], str(tmp_path / "b"), config=HERE).table()


def test_a_page_names_the_recommended_number(tmp_path):
    choice = choose_k(X, [1, 4], str(tmp_path), config=HERE)

    choice.report(str(tmp_path / "choice.html"))

    page = (tmp_path / "choice.html").read_text()
    assert choice.reason in page
    assert "Davies-Bouldin" in page


@pytest.mark.parametrize(
    ("ks", "more", "part"),
    [
        ([4], {}, "names fewer than two numbers"),
        ("48", {}, "must be a list of whole numbers"),
        ([3, 0], {}, "each of ks=0 must be a whole number of at least 1"),
        ([3, 999], {}, "999"),
        ([3, 4], {"distance_metric": "euclidean"}, "distance_metric='euclidean' is unknown"),
    ],
    ids=["one", "a text", "zero", "more than rows", "a metric"],
)
def test_what_cannot_be_compared_is_refused(tmp_path, ks, more, part):
    with pytest.raises(errors.RayKMeansError, match=part):
        choose_k(X, ks, str(tmp_path), config=HERE, **more)


def test_a_number_that_was_not_compared_has_no_model(tmp_path):
    choice = choose_k(X, [3, 4], str(tmp_path), config=HERE)

    with pytest.raises(errors.ConfigError, match=r"num_clusters=7 was not compared.*one of 3, 4"):
        choice.model(7)


BASE = Candidate(2, 9.0, 0.5, 0.5, 50.0, 0, 3, "m")


@pytest.mark.parametrize(
    ("figures", "k", "reason"),
    [
        ([(0.9, 0.1, 99.0), (0.5, 0.5, 50.0)], 2, "all figures agree"),
        ([(0.5, 0.5, 50.0), (0.9, 0.1, 9.0)], 3, "highest Calinski-Harabasz index is at k=2"),
        ([(0.9, 0.5, 9.0), (0.5, 0.1, 9.5), (0.1, 0.9, 99.0)], 2, "the figures disagree"),
        ([(0.5, 0.5, 50.0), (0.5, 0.5, 50.0)], 2, "all figures agree"),
        ([(None, None, None), (0.1, 0.9, None)], 3, "all figures agree"),
        ([(None, None, None), (None, None, None)], 2, "no figure is defined"),
    ],
    ids=["one voice", "two to one", "three voices", "ties", "undefined", "none defined"],
)
def test_most_figures_decide_and_the_reason_says_what_speaks_against(figures, k, reason):
    found = [
        replace(BASE, num_clusters=2 + n, silhouette=a, davies_bouldin=b, calinski_harabasz=c)
        for n, (a, b, c) in enumerate(figures)
    ]

    best, text = recommend(found[::-1])

    assert best == k
    assert reason in text
