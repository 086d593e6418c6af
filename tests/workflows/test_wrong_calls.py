"""Wrong calls: refused by argument and value, with what to do, and nothing is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ray_kmeans import KMeansClustering, Monitor, RunConfig
from ray_kmeans.errors import (
    BudgetError,
    ConfigError,
    DataError,
    ModelMismatchError,
    NoDataError,
    NonFiniteError,
    NotFittedError,
    RayKMeansError,
    TooFewRowsError,
)
from ray_kmeans.workflows import export

HERE = RunConfig(num_workers=0, progress=False)
X = np.random.default_rng(10).integers(-8, 8, size=(60, 3)).astype(np.float32)
K = 4
NAN = float("nan")
INF = float("inf")


def batches(*widths):
    """An input_fn that gives a generator of batches of these widths."""
    return lambda: (X[:20, :width] for width in widths)


def text_of(value):
    """A short name of a case for the report."""
    plain = value is None or isinstance(value, str | int | float)
    return repr(value) if plain else type(value).__name__


def case_id(case):
    if isinstance(case, dict):
        return ",".join(f"{name}={text_of(value)}" for name, value in case.items()) or "nothing"
    return "" if isinstance(case, str) else None


# --- the constructor's arguments, which fit checks -------------------------------------------

WHOLE_NUMBER = "must be a whole number"

PARAMETERS = [
    ({"num_clusters": 0}, ConfigError, f"num_clusters=0 {WHOLE_NUMBER} of at least 1"),
    ({"num_clusters": -2}, ConfigError, "num_clusters=-2 .*at least 1"),
    ({"num_clusters": 2.0}, ConfigError, rf"num_clusters=2\.0 {WHOLE_NUMBER}"),
    ({"num_clusters": "4"}, ConfigError, f"num_clusters='4' {WHOLE_NUMBER}"),
    ({"num_clusters": None}, ConfigError, f"num_clusters=None {WHOLE_NUMBER}"),
    ({"num_clusters": True}, ConfigError, f"num_clusters=True {WHOLE_NUMBER}"),
    ({"num_clusters": 61}, TooFewRowsError, "num_clusters=61 .*60 rows.*Lower num_clusters"),
    (
        {"distance_metric": "euclidean"},
        ConfigError,
        "distance_metric='euclidean' .*Give one of 'squared_euclidean', 'cosine'",
    ),
    ({"distance_metric": None}, ConfigError, "distance_metric=None .*Give one of"),
    ({"distance_metric": ["cosine"]}, ConfigError, r"distance_metric=\['cosine'\] .*Give one of"),
    ({"random_seed": 1.5}, ConfigError, rf"random_seed=1\.5 {WHOLE_NUMBER}"),
    ({"random_seed": None}, ConfigError, f"random_seed=None {WHOLE_NUMBER}"),
    ({"random_seed": False}, ConfigError, f"random_seed=False {WHOLE_NUMBER}"),
    ({"use_mini_batch": 1}, ConfigError, "use_mini_batch=1 must be True or False"),
    ({"use_mini_batch": "no"}, ConfigError, "use_mini_batch='no' must be True or False"),
    ({"use_mini_batch": None}, ConfigError, "use_mini_batch=None must be True or False"),
    (
        {"mini_batch_steps_per_iteration": 0},
        ConfigError,
        "mini_batch_steps_per_iteration=0 .*at least 1",
    ),
    (
        {"mini_batch_steps_per_iteration": 2.9},
        ConfigError,
        rf"mini_batch_steps_per_iteration=2\.9 {WHOLE_NUMBER}",
    ),
    (
        {"kmeans_plus_plus_num_retries": "2"},
        ConfigError,
        f"kmeans_plus_plus_num_retries='2' {WHOLE_NUMBER}",
    ),
    (
        {"kmeans_plus_plus_num_retries": None},
        ConfigError,
        f"kmeans_plus_plus_num_retries=None {WHOLE_NUMBER}",
    ),
    ({"relative_tolerance": -1e-9}, ConfigError, "relative_tolerance=-1e-09 must be None or"),
    ({"relative_tolerance": NAN}, ConfigError, "relative_tolerance=nan must be None or a number"),
    ({"relative_tolerance": INF}, ConfigError, "relative_tolerance=inf must be None or a number"),
    ({"relative_tolerance": "0.1"}, ConfigError, r"relative_tolerance='0\.1' must be None or"),
    ({"relative_tolerance": True}, ConfigError, "relative_tolerance=True must be None or"),
    ({"config": {"num_workers": 0}}, ConfigError, "config=.*num_workers.* must be a RunConfig"),
    ({"config": "local"}, ConfigError, "config='local' must be a RunConfig or None"),
    (
        {"config": RunConfig(num_workers=0, model_dir="/elsewhere")},
        ConfigError,
        "model_dir=.*config.model_dir='/elsewhere' differ. Give one",
    ),
    (
        {"config": RunConfig(num_workers=0, worker_memory_bytes=1000)},
        BudgetError,
        "may hold 1,000 .*worker_memory_bytes",
    ),
    (
        {"empty_clusters": "drop", "use_mini_batch": False},
        ConfigError,
        "empty_clusters='drop' .*Give one of 'keep', 'farthest', 'split_largest'",
    ),
    ({"empty_clusters": None}, ConfigError, "empty_clusters=None .*Give one of"),
    (
        {"empty_clusters": "farthest", "use_mini_batch": True},
        ConfigError,
        "empty_clusters='farthest' .*mini-batch.*Give 'keep', or use_mini_batch=False",
    ),
    (
        {"initial_clusters": "kmeans++"},
        ConfigError,
        "initial_clusters='kmeans.*' .*Give one of 'random', 'kmeans_plus_plus'.*array.*function",
    ),
    ({"initial_clusters": None}, ConfigError, r"initial_clusters .*must be \(num_clusters"),
    ({"initial_clusters": X[:3]}, ConfigError, r"initial_clusters .*\(3, 3\) and num_clusters=4"),
    ({"initial_clusters": X[:4, 0]}, ConfigError, r"initial_clusters .*\(4,\).*num_features\)"),
    ({"initial_clusters": X[:4, :2]}, ConfigError, "initial_clusters has 2 features .* have 3"),
    ({"initial_clusters": [["a"]] * 4}, ConfigError, "initial_clusters is not an array of num"),
    (
        {"initial_clusters": [[1, 2], [3]]},
        ConfigError,
        "initial_clusters is not an array of num",
    ),
    ({"initial_clusters": X[:4] * NAN}, ConfigError, "initial_clusters holds NaN .*Give finite"),
    ({"initial_clusters": [[1e300] * 3] * 4}, ConfigError, "initial_clusters .*beyond float32"),
    (
        {"initial_clusters": lambda sample, missing: sample[:0]},
        ConfigError,
        "initial_clusters returned no row twice in a row; 4 are missing",
    ),
    (
        {"initial_clusters": lambda sample, missing: sample[: missing + 1]},
        ConfigError,
        r"initial_clusters returned .*\(5, 3\).* at most the 4 rows",
    ),
    (
        {"initial_clusters": lambda sample, missing: sample[:missing, :2]},
        ConfigError,
        r"initial_clusters returned .*\(4, 2\); it must be \(rows, 3\)",
    ),
    (
        {"initial_clusters": lambda sample, missing: sample[:missing] * NAN},
        ConfigError,
        "initial_clusters returned NaN",
    ),
    (
        {"initial_clusters": lambda sample, missing: "text"},
        ConfigError,
        "initial_clusters returned",
    ),
    ({"model_dir": "nosuch://bucket/m"}, ConfigError, "nosuch://bucket/m.*cannot be opened"),
]


@pytest.fixture
def place(tmp_path):
    return tmp_path / "model"


def refused(call, error, message):
    """Assert that it raises an error of ours that says so; return it."""
    with pytest.raises(error, match=message) as caught:
        call()
    assert isinstance(caught.value, RayKMeansError)
    assert "\n" not in str(caught.value)
    return caught.value


def files_in(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def fit_with(place, **params):
    params = {"num_clusters": K, "model_dir": str(place), "config": HERE, **params}
    return lambda: KMeansClustering(**params).fit(X, steps=1)


@pytest.mark.parametrize(("params", "error", "message"), PARAMETERS, ids=case_id)
def test_a_wrong_parameter_is_refused_by_fit_and_no_file_is_written(place, params, error, message):
    refused(fit_with(place, **params), error, message)

    assert files_in(place) == {}


EARLY = [
    each
    for each in PARAMETERS
    if not callable(each[0].get("initial_clusters")) and each[1] is not BudgetError
]
"""Those that can be known before the place of the model is tried."""


@pytest.mark.parametrize(("params", "error", "message"), EARLY, ids=case_id)
def test_where_a_parameter_is_wrong_not_even_a_directory_is_made(place, params, error, message):
    with pytest.raises(error):
        fit_with(place, **params)()

    assert not place.exists()


@pytest.mark.parametrize("wrong", [3, b"m", ["m"]])
def test_a_model_dir_that_is_no_path_is_refused_by_name(tmp_path, monkeypatch, wrong):
    monkeypatch.chdir(tmp_path)

    refused(fit_with(tmp_path, model_dir=wrong), ConfigError, "model_dir=.* must be")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("params", "error", "message"), PARAMETERS, ids=case_id)
def test_partial_fit_refuses_what_fit_refuses(place, params, error, message):
    params = {"num_clusters": K, "model_dir": str(place), "config": HERE, **params}

    refused(lambda: KMeansClustering(**params).partial_fit(X), error, message)

    assert files_in(place) == {}


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"num_workers": -1}, "num_workers=-1 .*at least 0"),
        ({"num_workers": 1.5}, rf"num_workers=1\.5 {WHOLE_NUMBER}"),
        ({"keep_checkpoint_max": 0}, "keep_checkpoint_max=0 .*at least 1"),
        ({"save_checkpoints_steps": 0}, "save_checkpoints_steps=0 .*at least 1"),
        ({"save_checkpoints_secs": 0}, "save_checkpoints_secs=0 must be a number above 0"),
        ({"save_summary_steps": None}, f"save_summary_steps=None {WHOLE_NUMBER}"),
        ({"log_step_count_steps": True}, f"log_step_count_steps=True {WHOLE_NUMBER}"),
        ({"cpus_per_worker": 0}, "cpus_per_worker=0 must be a number above 0"),
        ({"backend": "tpu"}, "backend='tpu' .*Give one of 'auto', 'cpu', 'gpu'"),
        ({"gpus_per_worker": 1}, "gpus_per_worker=1 needs backend='gpu'; it is 'auto'"),
        ({"backend": "gpu", "gpus_per_worker": 2}, "gpus_per_worker=2 is more than .*more workers"),
        ({"storage_options": "key"}, "storage_options is a str; it must be a dict"),
    ],
    ids=case_id,
)
def test_a_wrong_field_of_the_config_is_refused_at_once(field, message):
    refused(lambda: RunConfig(**field), ConfigError, message)


# --- the arguments of fit --------------------------------------------------------------------

FULL, MINI = {"use_mini_batch": False}, {"use_mini_batch": True}
VECTORS = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), 3)

FITS = [
    ({"x": X, "y": X[:, 0]}, ConfigError, "y must be None"),
    ({}, ConfigError, "neither x nor input_fn is given. Give exactly one"),
    ({"x": X, "input_fn": lambda: X}, ConfigError, "x and input_fn are both given"),
    ({"x": X, "steps": 0}, ConfigError, "steps=0 .*at least 1"),
    ({"x": X, "steps": -3}, ConfigError, "steps=-3 .*at least 1"),
    ({"x": X, "steps": "3"}, ConfigError, f"steps='3' {WHOLE_NUMBER}"),
    ({"x": X, "steps": 2.0}, ConfigError, rf"steps=2\.0 {WHOLE_NUMBER}"),
    ({"x": X, "batch_size": 0}, ConfigError, "batch_size=0 "),
    ({"input_fn": lambda: X, "batch_size": 3}, ConfigError, "batch_size=3 .*input_fn.*as x"),
    ({"x": X, "monitors": 3}, ConfigError, r"monitors=3 must be a list.*monitors=\[\.\.\.\]"),
    ({"x": X, "monitors": [Monitor]}, ConfigError, r"monitors\[0\]=.* give an instance"),
    ({"x": X[:3]}, TooFewRowsError, "num_clusters=4 .* 3 rows .*or give more rows"),
    ({"x": X[:0]}, DataError, "0 rows|no rows"),
    ({"input_fn": lambda: iter([])}, DataError, "0 rows|no rows"),
    ({"input_fn": lambda: iter([X[:1], X[1:3]])}, TooFewRowsError, "num_clusters=4 .* 3 rows"),
    ({"x": np.where(X[0, 0] == X, NAN, X)}, NonFiniteError, "rows hold NaN.*Remove or fill"),
    ({"x": [[1, 2, INF]] * 4}, NonFiniteError, "4 rows hold NaN, null or infinity"),
    ({"x": np.full((4, 3), 1e300)}, DataError, r"1e\+300.*float32 cannot hold. Scale it"),
    ({"x": X[:, 0]}, DataError, r"shape \(60,\); it must be \(rows, features\).*reshape\(-1, 1\)"),
    ({"x": X[None]}, DataError, r"shape \(1, 60, 3\); it must be \(rows, features\)"),
    ({"x": X[:, :0]}, DataError, r"shape \(60, 0\)"),
    ({"x": []}, DataError, r"shape \(0,\); it must be"),
    ({"x": 3.0}, DataError, r"shape \(\), as a float has; it must be \(rows, features\)"),
    ({"x": [["a"]] * 4}, DataError, "not a number type"),
    ({"x": [[1, 2], [3]]}, DataError, "list is not a table of numbers"),
    ({"x": X.astype(complex)}, DataError, "complex128, which is not a number type"),
    ({"x": {"a": X[:, 0], "b": X[:9, 1]}}, DataError, "'a': 60, 'b': 9.*all must have the same"),
    ({"x": {}}, DataError, "x is a dict"),
    ({"x": {1: X[:, 0], "a": X[:, 1]}}, DataError, "x is a dict of columns"),
    ({"x": pa.table({"a": ["x"] * 4})}, DataError, "no numeric column.*Choose another"),
    ({"x": pa.table({"a": VECTORS, "b": VECTORS})}, ConfigError, "several columns of vectors"),
    ({"x": "no/such/place"}, NoDataError, "'no/such/place' does not exist. Give a file"),
    ({"x": "nosuch://bucket/x"}, ConfigError, "'nosuch://bucket/x' cannot be opened"),
    ({"input_fn": lambda: None}, DataError, r"shape \(\), as a NoneType has"),
    ({"input_fn": lambda: (X, X[:, 0])}, ConfigError, "targets; the second .* must be None"),
    ({"input_fn": lambda: iter([(X, X[:, 0])])}, ConfigError, "targets"),
]
MINI_ONLY = [
    ({"x": X, "batch_size": -1}, ConfigError, "batch_size=-1 .*at least 1"),
    ({"x": X, "batch_size": 2.5}, ConfigError, rf"batch_size=2\.5 {WHOLE_NUMBER}"),
    ({"x": [X, X], "batch_size": 3}, ConfigError, "batch_size=3 .*iterator of batches"),
]
FULL_ONLY = [
    ({"x": X, "batch_size": 3}, ConfigError, "batch_size=3 .*use_mini_batch=False.*Leave it out"),
    ({"input_fn": batches(3, 2)}, DataError, "batch 2 has 2 features .* 3; all must have the same"),
]
ALL_FITS = [
    *((FULL, *fit) for fit in FITS + FULL_ONLY),
    *((MINI, *fit) for fit in FITS + MINI_ONLY),
]


def model(place, **params):
    return KMeansClustering(K, str(place), **{"config": HERE, **params})


@pytest.mark.parametrize(("params", "arguments", "error", "message"), ALL_FITS, ids=case_id)
def test_a_wrong_call_of_fit_is_refused_and_no_file_is_written(
    place, params, arguments, error, message
):
    refused(lambda: model(place, **params).fit(**arguments), error, message)

    assert files_in(place) == {}


EARLY_FITS = [
    each
    for each in ALL_FITS
    if each[2] is not NonFiniteError and ("input_fn" not in each[1] or "x" in each[1])
]
"""Those that can be known before any row or batch is read."""


@pytest.mark.parametrize(("params", "arguments", "error", "message"), EARLY_FITS, ids=case_id)
def test_by_a_wrong_call_of_fit_not_even_a_directory_is_made(
    place, params, arguments, error, message
):
    with pytest.raises(error):
        model(place, **params).fit(**arguments)

    assert not place.exists()


@pytest.mark.parametrize(("arguments", "error", "message"), FITS, ids=case_id)
def test_partial_fit_refuses_what_fit_refuses_of_data(place, arguments, error, message):
    refused(lambda: model(place).partial_fit(**arguments), error, message)

    assert files_in(place) == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 3, "max_steps": 4}, "steps=3 and max_steps=4 are both given. Give one"),
        ({"max_steps": 0}, "max_steps=0 .*at least 1"),
        ({"max_steps": "3"}, f"max_steps='3' {WHOLE_NUMBER}"),
    ],
    ids=case_id,
)
def test_wrong_max_steps_are_refused(place, arguments, message):
    refused(lambda: model(place).fit(X, **arguments), ConfigError, message)

    assert not place.exists()


# --- calls of a model that is there ----------------------------------------------------------


@pytest.fixture
def km(place):
    return KMeansClustering(K, str(place), use_mini_batch=False, config=HERE).fit(X, steps=1)


def bad_metrics(rows, predictions):
    return 0.0


CALLS = [
    ("evaluate", {"x": X, "y": X[:, 0]}, ConfigError, "y must be None"),
    ("evaluate", {}, ConfigError, "neither x nor input_fn is given"),
    ("evaluate", {"x": X, "input_fn": lambda: X}, ConfigError, "x and input_fn are both given"),
    ("evaluate", {"x": X, "feed_fn": dict}, ConfigError, "feed_fn .*Give the data as x"),
    ("evaluate", {"x": X, "steps": 0}, ConfigError, "steps=0 .*at least 1"),
    ("evaluate", {"x": X, "batch_size": 0}, ConfigError, "batch_size=0 .*at least 1"),
    ("evaluate", {"input_fn": lambda: X, "batch_size": 3}, ConfigError, "batch_size=3 .*input_fn"),
    ("evaluate", {"x": [X, X], "batch_size": 3}, ConfigError, "batch_size=3 .*iterator"),
    ("evaluate", {"x": X, "metrics": 3}, ConfigError, "metrics=3 must be None or a dict"),
    ("evaluate", {"x": X, "metrics": {"a": 3}}, ConfigError, "metrics={'a': 3} must be"),
    ("evaluate", {"x": X, "metrics": {"loss": bad_metrics}}, ConfigError, r"metrics=\['loss'\]"),
    ("evaluate", {"x": X, "hooks": 3}, ConfigError, "hooks=3 must be a list"),
    ("evaluate", {"x": X, "checkpoint_path": "no.json"}, NotFittedError, "='no.json' .*not exist"),
    ("evaluate", {"x": X, "checkpoint_path": 3}, ConfigError, "checkpoint_path=3"),
    ("evaluate", {"x": X[:, :2]}, DataError, "2 features .* has 3. Give data like"),
    ("evaluate", {"x": X * NAN}, NonFiniteError, "60 rows hold NaN"),
    ("score", {}, ConfigError, "neither x nor input_fn is given"),
    ("score", {"input_fn": X, "x": X}, ConfigError, "x and input_fn are both given"),
    ("score", {"x": X, "steps": -1}, ConfigError, "steps=-1 .*at least 1"),
    ("score", {"x": X, "batch_size": "3"}, ConfigError, f"batch_size='3' {WHOLE_NUMBER}"),
    ("score", {"x": X[:, :2]}, DataError, "2 features .* has 3"),
    ("predict", {}, ConfigError, "neither x nor input_fn is given"),
    ("predict", {"x": X, "input_fn": lambda: X}, ConfigError, "x and input_fn are both given"),
    ("predict", {"x": X, "batch_size": 0}, ConfigError, "batch_size=0 .*at least 1"),
    ("predict", {"input_fn": lambda: X, "batch_size": 3}, ConfigError, "batch_size=3 .*input_fn"),
    ("predict", {"x": X, "outputs": []}, ConfigError, r"outputs=\[\] .*'all_scores', 'cluster_idx"),
    ("predict", {"x": X, "outputs": ["labels"]}, ConfigError, r"outputs=\['labels'\] names none"),
    ("predict", {"x": X, "outputs": "labels"}, ConfigError, "outputs='labels'"),
    ("predict", {"x": X, "outputs": 3}, ConfigError, "outputs=3"),
    ("predict", {"x": X[:, :2]}, DataError, "2 features .* has 3"),
    ("predict_cluster_idx", {}, ConfigError, "neither x nor input_fn is given"),
    ("predict_cluster_idx", {"x": X[:, :2]}, DataError, "2 features .* has 3"),
    ("transform", {}, ConfigError, "neither x nor input_fn is given"),
    ("transform", {"x": X[:, :2]}, DataError, "2 features .* has 3"),
    ("transform", {"x": X * NAN}, NonFiniteError, "60 rows hold NaN"),
    ("fit", {"x": X[:, :2]}, ModelMismatchError, "4 clusters of 3 features.* 4 clusters of 2"),
    ("fit", {"x": X, "steps": 0}, ConfigError, "steps=0"),
    ("fit", {"x": X, "monitors": [3]}, ConfigError, r"monitors\[0\]=3"),
    ("partial_fit", {"x": X[:, :2]}, ModelMismatchError, "4 clusters of 3 features"),
    ("model_fn", {"features": X, "mode": "fit"}, ConfigError, "mode='fit' .*Give one of 'train'"),
    ("model_fn", {"features": X[:, :2]}, DataError, "2 features .* has 3"),
    ("get_variable_value", {"name": "nope"}, ConfigError, "'nope'; the model has .*'clusters'"),
    ("set_params", {"k": 3}, ConfigError, r"\['k'\] .*valid are .*'num_clusters'"),
]


@pytest.mark.parametrize(("call", "arguments", "error", "message"), CALLS, ids=case_id)
def test_a_wrong_call_of_a_model_that_is_there_is_refused_and_changes_nothing(
    km, call, arguments, error, message
):
    before, params = files_in(km.model_dir), km.get_params()

    refused(lambda: getattr(km, call)(**arguments), error, message)

    assert files_in(km.model_dir) == before
    assert km.get_params() == params


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"num_clusters": 5}, "4 clusters of 3 .*5 clusters.*Give another model_dir"),
        ({"distance_metric": "cosine"}, "by squared_euclidean .*by cosine"),
    ],
    ids=case_id,
)
@pytest.mark.parametrize("data", [X, [X]], ids=["array", "batches"])
def test_another_model_in_the_directory_is_not_overwritten(km, params, message, data):
    before = files_in(km.model_dir)
    params = {"num_clusters": K, "model_dir": km.model_dir, "config": HERE, **params}

    refused(lambda: KMeansClustering(**params).fit(data), ModelMismatchError, message)

    assert files_in(km.model_dir) == before


# --- exports ---------------------------------------------------------------------------------

TENSORFLOWS_GRAPH = "belongs to TensorFlow's graph .*Leave it out"

EXPORTS = [
    ("export", {"input_fn": lambda: X}, ConfigError, f"input_fn: {TENSORFLOWS_GRAPH}"),
    ("export", {"input_feature_key": "x"}, ConfigError, f"input_feature_key: {TENSORFLOWS_GRAPH}"),
    ("export", {"signature_fn": dict}, ConfigError, f"signature_fn: {TENSORFLOWS_GRAPH}"),
    ("export", {"prediction_key": "x"}, ConfigError, f"prediction_key: {TENSORFLOWS_GRAPH}"),
    ("export", {"default_batch_size": 2}, ConfigError, f"default_batch_size: {TENSORFLOWS_GRAPH}"),
    (
        "export",
        {"use_deprecated_input_fn": False},
        ConfigError,
        f"use_deprecated_input_fn: {TENSORFLOWS_GRAPH}",
    ),
    (
        "export",
        {"signature_fn": dict, "prediction_key": "x"},
        ConfigError,
        f"prediction_key, signature_fn: {TENSORFLOWS_GRAPH}",
    ),
    ("export", {"exports_to_keep": 0}, ConfigError, "exports_to_keep=0 .*at least 1"),
    ("export", {"exports_to_keep": "2"}, ConfigError, f"exports_to_keep='2' {WHOLE_NUMBER}"),
    ("export", {"checkpoint_path": "no.json"}, NotFittedError, "checkpoint_path='no.json' .*exist"),
    (
        "export_savedmodel",
        {"default_output_alternative_key": "x"},
        ConfigError,
        f"default_output_alternative_key: {TENSORFLOWS_GRAPH}",
    ),
    (
        "export_savedmodel",
        {"graph_rewrite_specs": ("x",)},
        ConfigError,
        f"graph_rewrite_specs: {TENSORFLOWS_GRAPH}",
    ),
    ("export_savedmodel", {"exports_to_keep": 0}, ConfigError, "exports_to_keep=0 .*at least 1"),
    (
        "export_savedmodel",
        {"checkpoint_path": "no.json"},
        NotFittedError,
        "checkpoint_path='no.json' does not exist",
    ),
]


@pytest.mark.parametrize(("call", "arguments", "error", "message"), EXPORTS, ids=case_id)
def test_a_wrong_export_is_refused_before_any_graph_is_made_and_nothing_is_written(
    km, tmp_path, monkeypatch, call, arguments, error, message
):
    for name in ("onnx_files", "saved_model"):
        monkeypatch.setattr(export, name, lambda *args: pytest.fail("a graph was made"))
    before = files_in(km.model_dir)

    refused(lambda: getattr(km, call)(str(tmp_path / "exports"), **arguments), error, message)

    assert not (tmp_path / "exports").exists()
    assert files_in(km.model_dir) == before


@pytest.mark.parametrize("call", ["export", "export_savedmodel"])
def test_an_export_of_no_model_says_so(tmp_path, place, call):
    with pytest.raises(NotFittedError, match="Call fit first"):
        getattr(model(place), call)(str(tmp_path / "exports"))

    assert list(tmp_path.iterdir()) == []


# --- calls before the first fit --------------------------------------------------------------

UNFITTED = {
    "clusters": (),
    "history": (),
    "counts": (),
    "why_stopped": (),
    "get_variable_names": (),
    "get_variable_value": ("clusters",),
    "evaluate": (X,),
    "score": (X,),
    "predict": (X,),
    "predict_cluster_idx": (X,),
    "transform": (X,),
    "model_fn": (X,),
    "export": ("/nowhere",),
    "export_savedmodel": ("/nowhere",),
}


@pytest.mark.parametrize("call", UNFITTED)
def test_before_the_first_fit_the_call_itself_says_so(place, call):
    km = model(place)

    with pytest.raises(NotFittedError, match=r"no model in .*model'\. Call fit first") as caught:
        getattr(km, call)(*UNFITTED[call])

    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, AttributeError)
    assert not place.exists()


def test_before_the_first_fit_there_are_no_checkpoints(place):
    assert model(place).checkpoints() == []
    assert not place.exists()
