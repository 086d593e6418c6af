"""Arguments of a fit that have no meaning: refused by name, and nothing is written."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.errors import BudgetError, ConfigError, StoreError
from tests.support.files import put_array
from tests.support.refusals import named

HERE = RunConfig(num_workers=0, progress=False)
X = np.random.default_rng(3).integers(-8, 8, size=(60, 3)).astype(np.float32)


@pytest.fixture
def place(tmp_path):
    return tmp_path / "model"


def model(place, **params):
    params = {"num_clusters": 4, "use_mini_batch": False, "config": HERE, **params}
    return KMeansClustering(model_dir=str(place), **params)


@pytest.mark.parametrize(
    "params",
    [
        {"num_clusters": 0},
        {"num_clusters": -2},
        {"num_clusters": 2.0},
        {"num_clusters": "2"},
        {"num_clusters": True},
        {"num_clusters": None},
        {"random_seed": 1.5},
        {"random_seed": "0"},
        {"random_seed": None},
        {"distance_metric": "euclidean"},
        {"distance_metric": None},
        {"relative_tolerance": -1e-9},
        {"relative_tolerance": float("nan")},
        {"relative_tolerance": float("inf")},
        {"relative_tolerance": "0.1"},
        {"use_mini_batch": 1},
        {"use_mini_batch": None},
        {"mini_batch_steps_per_iteration": 0},
        {"mini_batch_steps_per_iteration": 1.5},
        {"mini_batch_steps_per_iteration": True},
        {"kmeans_plus_plus_num_retries": 0.5},
        {"kmeans_plus_plus_num_retries": None},
        {"empty_clusters": "drop"},
        {"empty_clusters": None},
        {"initial_clusters": "kmeans++"},
        {"config": {"num_workers": 0}},
    ],
    ids=str,
)
def test_a_parameter_without_meaning_is_refused_by_name_and_value(place, params):
    ((name, value),) = params.items()
    km = model(place, **params)

    with pytest.raises(ConfigError) as caught:
        km.fit(X)

    assert f"{name}={value!r}" in str(caught.value)
    assert not place.exists()


def test_empty_clusters_of_mini_batch_cannot_be_filled(place):
    km = model(place, use_mini_batch=True, empty_clusters="farthest")

    with pytest.raises(ConfigError, match=r"empty_clusters='farthest'.*use_mini_batch=False"):
        km.fit(X)

    assert not place.exists()


class Unfinished:
    def begin(self, state):
        pass


FIT = ["fit", "partial_fit"]


@pytest.mark.parametrize("method", FIT)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"y": X[:, 0]}, "y must be None"),
        ({"steps": 0}, "steps=0"),
        ({"steps": 2.0}, r"steps=2\.0"),
        ({"steps": True}, "steps=True"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 2.0}, r"batch_size=2\.0"),
        ({"monitors": Unfinished()}, r"monitors=.*must be a list"),
        ({"monitors": [Unfinished()]}, r"monitors\[0\]=.*has no method after_step and no end"),
        ({"monitors": [Unfinished]}, r"monitors\[0\]=.*is a class; give an instance"),
    ],
    ids=named,
)
def test_an_argument_of_fit_without_meaning_is_refused(place, method, arguments, message):
    with pytest.raises(ConfigError, match=message):
        getattr(model(place, use_mini_batch=True), method)(X, **arguments)

    assert not place.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 3, "max_steps": 4}, "steps=3 and max_steps=4 are both given"),
        ({"max_steps": 0}, "max_steps=0"),
        ({"max_steps": "3"}, "max_steps='3'"),
    ],
)
def test_a_limit_without_meaning_is_refused(place, arguments, message):
    with pytest.raises(ConfigError, match=message):
        model(place).fit(X, **arguments)

    assert not place.exists()


@pytest.mark.parametrize("method", FIT)
@pytest.mark.parametrize(
    ("mini_batch", "arguments", "message"),
    [
        (False, {"x": X}, r"batch_size=9 .*use_mini_batch=False: a step visits all rows"),
        (True, {"input_fn": lambda: X}, r"batch_size=9 .*with input_fn"),
        (True, {"x": lambda: iter([X])}, r"batch_size=9 .*an iterator of batches"),
        (True, {"x": [X, X]}, r"batch_size=9 .*an iterator of batches"),
    ],
)
def test_a_batch_size_where_nobody_cuts_batches_is_refused(
    place, method, mini_batch, arguments, message
):
    km = model(place, use_mini_batch=mini_batch)

    with pytest.raises(ConfigError, match=message):
        getattr(km, method)(**arguments, batch_size=9)

    assert not place.exists()


@pytest.mark.parametrize("kind", ["data", "model_dir"])
def test_memory_urls_need_this_process_alone(place, kind):
    put_array("memory://refused", "x.npy", X)
    cases = {"data": ("memory://refused/x.npy", place), "model_dir": (X, "memory://refused/m")}
    data, model_dir = cases[kind]
    km = model(model_dir, config=RunConfig(num_workers=2, progress=False))

    with pytest.raises(ConfigError, match=r"no worker can reach it.*num_workers=0"):
        km.fit(data)


def test_a_fit_in_this_process_may_use_memory_urls(place):
    expected = model(place).fit(X)

    km = model("memory://accepted/m").fit(X)

    assert km.history() == expected.history()


def test_a_model_dir_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(StoreError, match=r"file/model.*cannot be written"):
        model(tmp_path / "file" / "model").fit(X)


def test_a_plan_beyond_the_memory_is_refused_with_the_numbers(place):
    config = RunConfig(num_workers=0, progress=False, worker_memory_bytes=1_000_000)

    with pytest.raises(BudgetError, match=r"may hold 1,000,000 .*60 rows x 3 .* 4 centers"):
        model(place, config=config).fit(X)


def test_two_model_dirs_that_differ_are_refused(place, tmp_path):
    other = str(tmp_path / "other")
    km = model(place, config=RunConfig(num_workers=0, model_dir=other))

    with pytest.raises(ConfigError) as caught:
        km.fit(X)

    assert str(place) in str(caught.value)
    assert other in str(caught.value)
    assert not place.exists()


def test_model_dir_may_stand_in_the_config_or_in_both_places(place):
    config = RunConfig(num_workers=0, progress=False, model_dir=str(place))

    KMeansClustering(4, use_mini_batch=False, config=config).fit(X)

    assert len(model(place, config=config).clusters()) == 4


def test_without_model_dir_a_warning_says_where_the_model_goes(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    km = KMeansClustering(4, use_mini_batch=False, config=HERE)
    other = KMeansClustering(4, use_mini_batch=False, config=HERE)

    with pytest.warns(UserWarning, match=r"no model_dir was given.*" + str(tmp_path)) as caught:
        km.fit(X)
    with pytest.warns(UserWarning, match="no model_dir was given"):
        assert other.model_dir != km.model_dir
    with warnings.catch_warnings():  # once is enough
        warnings.simplefilter("error")
        assert len(km.clusters()) == 4

    assert km.model_dir in str(caught[0].message)
