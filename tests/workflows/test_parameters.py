"""get_params and set_params by scikit-learn's rules; the constructor only stores."""

from __future__ import annotations

import inspect
import pickle
from dataclasses import fields

import numpy as np
import pytest
import sklearn.base
from sklearn.model_selection import ParameterGrid
from sklearn.pipeline import Pipeline

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.errors import ConfigError, NotFittedError

HERE = RunConfig(num_workers=0, progress=False)
X = np.random.default_rng(5).normal(size=(80, 3)).astype(np.float32)
NAMES = list(inspect.signature(KMeansClustering).parameters)


def a_function(sample, missing):
    return sample[:missing]


EVERYTHING = {
    "num_clusters": 5,
    "model_dir": "somewhere",
    "initial_clusters": X[:5],
    "distance_metric": "cosine",
    "random_seed": 7,
    "use_mini_batch": False,
    "mini_batch_steps_per_iteration": 3,
    "kmeans_plus_plus_num_retries": 4,
    "relative_tolerance": 0.25,
    "config": RunConfig(num_workers=3),
    "empty_clusters": "farthest",
    "n_init": 4,
    "levels": (1, 5),
    "refine_steps": 2,
    "leaf_quota": "rows",
    "train_rows": 0.5,
    "renumber_like": "elsewhere",
    "reassignment_ratio": 0.25,
    "nested_batches": True,
}
NO_VALUES = {name: object() for name in NAMES}


@pytest.fixture
def km(tmp_path):
    return KMeansClustering(4, str(tmp_path / "m"), X[:4], use_mini_batch=False, config=HERE)


@pytest.mark.parametrize("given", [EVERYTHING, NO_VALUES], ids=["values", "no values"])
def test_the_constructor_stores_what_it_gets_and_looks_at_nothing(given):
    params = KMeansClustering(**given).get_params(deep=False)

    assert list(params) == NAMES == list(EVERYTHING)
    for name in NAMES:
        assert params[name] is given[name], name


def test_what_is_left_out_has_its_default():
    params = KMeansClustering(4).get_params()

    defaults = inspect.signature(KMeansClustering).parameters
    assert params.pop("num_clusters") == 4
    assert params == {name: defaults[name].default for name in NAMES[1:]}


def test_deep_adds_the_fields_of_the_config():
    km = KMeansClustering(**EVERYTHING)

    shallow, deep = km.get_params(deep=False), km.get_params()

    nested = {f"config__{each.name}": getattr(km.config, each.name) for each in fields(RunConfig)}
    assert deep == {**shallow, **nested}
    assert deep["config__num_workers"] == 3
    assert not any("__" in name for name in shallow)


@pytest.mark.parametrize("deep", [True, False])
def test_what_get_params_gives_is_nobodys_but_the_callers(km, deep):
    km.get_params(deep)["num_clusters"] = 99
    km.get_params(deep).clear()

    assert km.get_params()["num_clusters"] == 4


def test_set_params_sets_and_returns_the_estimator(km):
    assert km.set_params(num_clusters=6, random_seed=3) is km
    assert km.set_params() is km

    found = km.get_params()
    assert (found["num_clusters"], found["random_seed"]) == (6, 3)
    assert found["distance_metric"] == "squared_euclidean"


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_can_be_set_and_only_stored(km, name):
    value = object()

    km.set_params(**{name: value})

    assert km.get_params(deep=False)[name] is value


@pytest.mark.parametrize("deep", [True, False])
def test_what_get_params_gives_can_be_set(km, deep, tmp_path):
    km.set_params(config=RunConfig(num_workers=0, storage_options={"a": 1}))
    other = KMeansClustering(9)

    other.set_params(**km.get_params(deep))

    assert other.get_params(deep=False) == km.get_params(deep=False)


def test_a_field_of_the_config_is_set_by_its_nested_name(km):
    km.set_params(config__num_workers=5, config__keep_checkpoint_max=2)

    assert km.config == RunConfig(num_workers=5, keep_checkpoint_max=2, progress=False)
    assert HERE.num_workers == 0  # others may have the same config


def test_a_config_and_a_field_of_it_may_be_set_at_once_in_any_order(km):
    for names in (["config", "config__num_workers"], ["config__num_workers", "config"]):
        new = {"config": RunConfig(num_workers=1, keep_checkpoint_max=3), "config__num_workers": 7}

        km.set_params(**{name: new[name] for name in names})

        assert km.config == RunConfig(num_workers=7, keep_checkpoint_max=3)


def test_a_field_is_set_where_there_is_no_config_yet():
    km = KMeansClustering(4).set_params(config__num_workers=0)

    assert km.config == RunConfig(num_workers=0)


@pytest.mark.parametrize(
    "unknown",
    [
        "n_clusters",
        "config__workers",
        "config__",
        "config__num_workers__x",
        "model__num_workers",
        "__init__",
        "num_clusters__x",
        "params",
    ],
)
def test_an_unknown_name_is_refused_with_the_valid_ones_and_nothing_is_set(km, unknown):
    before = km.get_params()

    with pytest.raises(ConfigError) as caught:
        km.set_params(**{"random_seed": 9, unknown: 2, "config__num_workers": 3})

    message = str(caught.value)
    assert repr(unknown) in message
    for name in [*NAMES, *(f"config__{each.name}" for each in fields(RunConfig))]:
        assert repr(name) in message.partition("valid are")[2]
    assert isinstance(caught.value, ValueError)
    assert km.get_params() == before


def test_a_value_that_the_config_cannot_have_is_refused_and_nothing_is_set(km):
    before = km.get_params()

    with pytest.raises(ConfigError, match="num_workers=-1"):
        km.set_params(random_seed=9, config__num_workers=-1)

    assert km.get_params() == before


def test_what_was_set_counts_from_the_next_fit_on(km, tmp_path):
    km.fit(X, steps=1)

    km.set_params(num_clusters=2, initial_clusters="random", model_dir=str(tmp_path / "other"))

    with pytest.raises(NotFittedError, match="other"):
        km.clusters()
    assert km.fit(X).clusters().shape == (2, 3)


@pytest.mark.parametrize("initial", ["random", X[:4], X[:4].tolist(), a_function])
def test_a_clone_is_another_object_that_fits_the_same_model(km, tmp_path, initial):
    km.set_params(initial_clusters=initial, config__storage_options={})

    clone = sklearn.base.clone(km)

    assert clone is not km
    assert repr(clone.get_params()) == repr(km.get_params())
    expected = km.fit(X)
    clone.set_params(model_dir=str(tmp_path / "clone")).fit(X)
    assert clone.history() == expected.history()
    np.testing.assert_array_equal(clone.clusters(), expected.clusters())


def test_a_clone_shares_nothing_that_can_be_changed(km):
    clone = sklearn.base.clone(km)

    clone.get_params()["initial_clusters"][:] = 0
    clone.set_params(config__num_workers=3)

    np.testing.assert_array_equal(km.get_params()["initial_clusters"], X[:4])
    assert km.config.num_workers == 0


def test_a_clone_of_a_model_without_model_dir_has_a_directory_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    km = KMeansClustering(4, config=HERE)
    with pytest.warns(UserWarning, match="no model_dir was given"):
        km.fit(X, steps=1)

    clone = sklearn.base.clone(km)

    with pytest.raises(NotFittedError, match="no model_dir was given"):
        clone.clusters()
    assert [str(path) for path in tmp_path.iterdir()] == [km.model_dir]


def test_nested_names_reach_through_a_pipeline(km):
    pipeline = Pipeline([("cluster", km)])

    pipeline.set_params(cluster__num_clusters=3, cluster__config__num_workers=2)

    assert pipeline.get_params()["cluster__config__num_workers"] == 2
    assert km.get_params()["num_clusters"] == 3
    assert km.config.num_workers == 2


def test_a_grid_of_parameters_is_searched_as_scikit_learn_does(km, tmp_path):
    grid = ParameterGrid({"num_clusters": [2, 3, 5], "config__num_workers": [0]})
    km.set_params(initial_clusters="kmeans_plus_plus")

    scores = {}
    for point in grid:
        each = sklearn.base.clone(km).set_params(**point)
        each.set_params(model_dir=str(tmp_path / f"k{point['num_clusters']}"))
        scores[point["num_clusters"]] = each.fit(X).score(X)

    assert scores[2] > scores[3] > scores[5]


def test_an_estimator_and_its_parameters_survive_pickling(km):
    again = pickle.loads(pickle.dumps(km))

    assert repr(again.get_params()) == repr(km.get_params())
    assert again.model_dir == km.model_dir


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, "KMeansClustering(num_clusters=4)"),
        (
            {"model_dir": "m", "relative_tolerance": 0.5},
            "KMeansClustering(num_clusters=4, model_dir='m', relative_tolerance=0.5)",
        ),
        (
            {"use_mini_batch": False, "empty_clusters": "farthest"},
            "KMeansClustering(num_clusters=4, use_mini_batch=False, empty_clusters='farthest')",
        ),
        ({"random_seed": 0, "config": None}, "KMeansClustering(num_clusters=4)"),
    ],
)
def test_repr_shows_what_is_not_the_default(params, expected):
    assert repr(KMeansClustering(4, **params)) == expected


def test_repr_can_be_evaluated_and_hides_what_may_be_secret():
    km = KMeansClustering(4, config=RunConfig(num_workers=0, storage_options={"secret": "s3cr3t"}))

    assert "s3cr3t" not in repr(km)
    again = eval(repr(km), {"KMeansClustering": KMeansClustering, "RunConfig": RunConfig})
    assert again.config.num_workers == 0


def test_repr_follows_set_params(km):
    km.set_params(num_clusters=9)

    assert repr(km).startswith("KMeansClustering(num_clusters=9, model_dir=")


def test_config_and_model_dir_are_read_only_views(km):
    assert km.config == HERE
    assert km.config is not km.config
    assert km.model_dir == km.get_params()["model_dir"]
    with pytest.raises(AttributeError):
        km.config = HERE
    with pytest.raises(AttributeError):
        km.model_dir = "elsewhere"


def test_a_subclass_may_have_a_constructor_of_its_own(tmp_path):
    class Two(KMeansClustering):
        def __init__(self, place):
            super().__init__(2, str(place), use_mini_batch=False, config=HERE)

    km = Two(tmp_path).fit(X, steps=1)

    assert km.clusters().shape == (2, 3)
