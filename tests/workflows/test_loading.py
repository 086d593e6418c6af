"""A model is read back without its number of clusters, and no other model answers in silence."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import ray_kmeans
from ray_kmeans import (
    KMeansClustering,
    RunConfig,
    cli,
    load_model,
)
from ray_kmeans.errors import (
    BudgetError,
    ConfigError,
    DataError,
    ModelMismatchError,
    NonFiniteError,
    NotFittedError,
    TooFewRowsError,
)

HERE = RunConfig(num_workers=0, progress=False)
X = np.random.default_rng(6).normal(size=(120, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("params", "how"),
    [
        ({"use_mini_batch": False, "distance_metric": "cosine", "random_seed": 7}, {"steps": 2}),
        ({"mini_batch_steps_per_iteration": 3, "random_seed": 1}, {"steps": 4, "batch_size": 30}),
        ({}, {"steps": 2}),
    ],
)
def test_a_model_that_is_loaded_answers_and_goes_on_as_the_one_that_was_fitted(root, params, how):
    first, other = (
        KMeansClustering(5, f"{root}/{name}", config=HERE, **params).fit(X, **how) for name in "ab"
    )

    loaded = load_model(f"{root}/a", HERE)

    assert loaded.get_params()["num_clusters"] == 5
    np.testing.assert_array_equal(loaded.clusters(), first.clusters())
    assert list(loaded.predict_cluster_idx(X)) == list(first.predict_cluster_idx(X))
    assert loaded.score(x=X) == first.score(x=X)
    assert loaded.fit(X, **how).history() == other.fit(X, **how).history()


def test_a_model_that_is_not_there_is_not_fitted(tmp_path):
    with pytest.raises(NotFittedError, match=r"there is no model in .*Call fit first"):
        load_model(str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="must be a path"):
        load_model("")
    assert not list(tmp_path.iterdir())


ANSWERS = {
    "clusters": lambda km: km.clusters(),
    "predict": lambda km: list(km.predict(X)),
    "predict_cluster_idx": lambda km: list(km.predict_cluster_idx(X)),
    "transform": lambda km: km.transform(X),
    "score": lambda km: km.score(x=X),
    "evaluate": lambda km: km.evaluate(X),
    "evaluate a checkpoint": lambda km: km.evaluate(X, checkpoint_path=km.checkpoints()[0]),
    "counts": lambda km: km.counts(),
    "history": lambda km: km.history(),
    "why_stopped": lambda km: km.why_stopped(),
    "variable": lambda km: km.get_variable_value("clusters"),
    "export": lambda km: km.export("nowhere"),
    "model_fn": lambda km: km.model_fn(X),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_another_number_of_clusters_or_metric_than_the_models_is_an_error(tmp_path, answer):
    KMeansClustering(5, str(tmp_path), use_mini_batch=False, config=HERE).fit(X, steps=1)

    for other in ({"num_clusters": 7}, {"num_clusters": 5, "distance_metric": "cosine"}):
        with pytest.raises(ModelMismatchError, match="5 clusters by squared") as caught:
            ANSWERS[answer](KMeansClustering(model_dir=str(tmp_path), config=HERE, **other))
        assert str(tmp_path) in str(caught.value)

    ANSWERS[answer](load_model(str(tmp_path), HERE)) if answer != "export" else None


def test_a_cosine_model_answers_where_the_metric_is_not_given(tmp_path):
    km = KMeansClustering(
        5, str(tmp_path), distance_metric="cosine", use_mini_batch=False, config=HERE
    ).fit(X, steps=1)

    np.testing.assert_array_equal(KMeansClustering(5, str(tmp_path)).clusters(), km.clusters())


REFUSED = {
    "no data": ({}, {}, ConfigError),
    "targets": ({}, {"x": X, "y": X}, ConfigError),
    "a parameter": ({"random_seed": "x"}, {"x": X}, ConfigError),
    "a path that is not there": ({}, {"x": "/no/such/file.parquet"}, DataError),
    "too few rows": ({}, {"x": X[:2]}, TooFewRowsError),
    "not finite": ({}, {"x": np.full((20, 2), np.nan, np.float32)}, NonFiniteError),
    "an empty iterator": ({"use_mini_batch": True}, {"x": iter([])}, DataError),
    "no memory": (
        {"config": RunConfig(num_workers=0, worker_memory_bytes=1)},
        {"x": X},
        BudgetError,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_fit_that_is_refused_leaves_no_temporary_folder(tmp_path, monkeypatch, name):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    params, how, error = REFUSED[name]
    km = KMeansClustering(**{"num_clusters": 4, "use_mini_batch": False, "config": HERE, **params})

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for fit in (km.fit, km.partial_fit):
            with pytest.raises(error):
                fit(**how)
            assert not list(tmp_path.glob("ray_kmeans_*"))

    with pytest.raises(NotFittedError, match="no model_dir was given"):
        km.clusters()
    assert not list(tmp_path.glob("ray_kmeans_*"))


def test_a_temporary_folder_that_holds_a_model_stays_when_a_later_fit_is_refused(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    km = KMeansClustering(4, use_mini_batch=False, config=HERE)
    with pytest.warns(UserWarning, match="no model_dir was given"):
        km.fit(X, steps=1)

    with pytest.raises(ValueError, match="features"):
        km.fit(X[:, :2])

    assert km.clusters().shape == (4, 3)


def test_a_fit_that_fails_on_its_way_leaves_what_it_has_saved(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    class Fails(ray_kmeans.Monitor):
        def after_step(self, state):
            raise RuntimeError("mine")

    km = KMeansClustering(4, use_mini_batch=False, config=HERE)
    with pytest.warns(UserWarning, match="no model_dir"), pytest.raises(RuntimeError, match="mine"):
        km.fit(X, monitors=[Fails()])

    assert len(km.history()) == 1


def test_commands_ask_for_no_number_of_clusters_of_a_model_that_is_there(tmp_path, capsys):
    np.save(tmp_path / "x.npy", X)
    model, out = str(tmp_path / "m"), str(tmp_path / "centers.npy")
    words = ["fit", str(tmp_path / "x.npy"), model, "--num-clusters", "5", "--num-workers", "0"]
    cli.main([*words, "--distance-metric", "cosine"])

    cli.main(["export", model, out, "--format", "npy"])

    np.testing.assert_array_equal(np.load(out), load_model(model).clusters())
