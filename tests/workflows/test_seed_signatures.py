"""The seed's names, orders and defaults, written down: code for the seed runs as it is."""

from __future__ import annotations

import inspect
from inspect import Parameter

import pytest

from ray_kmeans import KMeansClustering

REQUIRED = Parameter.empty
A_FUNCTION, A_TUPLE = "<a function of the seed>", "<a tuple of the seed>"

SEED = {
    "__init__": {
        "num_clusters": REQUIRED,
        "model_dir": None,
        "initial_clusters": "random",
        "distance_metric": "squared_euclidean",
        "random_seed": 0,
        "use_mini_batch": True,
        "mini_batch_steps_per_iteration": 1,
        "kmeans_plus_plus_num_retries": 2,
        "relative_tolerance": None,
        "config": None,
    },
    "fit": {
        "x": None,
        "y": None,
        "input_fn": None,
        "steps": None,
        "batch_size": None,
        "monitors": None,
        "max_steps": None,
    },
    "partial_fit": {
        "x": None,
        "y": None,
        "input_fn": None,
        "steps": 1,
        "batch_size": None,
        "monitors": None,
    },
    "evaluate": {
        "x": None,
        "y": None,
        "input_fn": None,
        "feed_fn": None,
        "batch_size": None,
        "steps": None,
        "metrics": None,
        "name": None,
        "checkpoint_path": None,
        "hooks": None,
        "log_progress": True,
    },
    "predict": {
        "x": None,
        "input_fn": None,
        "batch_size": None,
        "outputs": None,
        "as_iterable": True,
        "iterate_batches": False,
    },
    "predict_cluster_idx": {"input_fn": None},
    "score": {"input_fn": None, "steps": None},
    "transform": {"input_fn": None, "as_iterable": False},
    "clusters": {},
    "get_variable_names": {},
    "get_variable_value": {"name": REQUIRED},
    "export": {
        "export_dir": REQUIRED,
        "input_fn": A_FUNCTION,
        "input_feature_key": None,
        "use_deprecated_input_fn": True,
        "signature_fn": None,
        "prediction_key": None,
        "default_batch_size": 1,
        "exports_to_keep": None,
        "checkpoint_path": None,
    },
    "export_savedmodel": {
        "export_dir_base": REQUIRED,
        "serving_input_fn": REQUIRED,
        "default_output_alternative_key": None,
        "assets_extra": None,
        "as_text": False,
        "checkpoint_path": None,
        "graph_rewrite_specs": A_TUPLE,
        "strip_default_attrs": False,
    },
    "get_params": {"deep": True},
}

OTHER_DEFAULTS = {
    # It parsed tf.Example strings, for which there is no graph here.
    ("export", "input_fn"): None,
    # The inputs of this graph are always rows; they need not be described.
    ("export_savedmodel", "serving_input_fn"): None,
    # It was one spec that changed nothing; there is no graph here that could be rewritten.
    ("export_savedmodel", "graph_rewrite_specs"): None,
}

OUR_PARAMETERS = {
    "__init__": {
        "empty_clusters": "keep",
        "n_init": 1,
        "levels": None,
        "refine_steps": 0,
        "leaf_quota": "loss",
        "train_rows": None,
        "renumber_like": None,
        "reassignment_ratio": 0.0,
        "nested_batches": False,
    },
    "fit": {"sample_weight": None, "max_seconds": None},
    "partial_fit": {"sample_weight": None},
    "evaluate": {"sample_weight": None},
    "predict_cluster_idx": {"x": None},
    "score": {"x": None, "batch_size": None, "sample_weight": None},
    "transform": {"x": None},
    "export_savedmodel": {"exports_to_keep": None},
}

SEED_PROPERTIES = ["config", "model_dir"]

SEED_CONSTANTS = {
    "SQUARED_EUCLIDEAN_DISTANCE": "squared_euclidean",
    "COSINE_DISTANCE": "cosine",
    "RANDOM_INIT": "random",
    "KMEANS_PLUS_PLUS_INIT": "kmeans_plus_plus",
    "SCORES": "scores",
    "CLUSTER_IDX": "cluster_idx",
    "CLUSTERS": "clusters",
    "ALL_SCORES": "all_scores",
    "LOSS_OP_NAME": "kmeans_loss",
}
OUR_CONSTANTS = {"KMC2_INIT": "kmc2", "KMEANS_PARALLEL_INIT": "kmeans_parallel"}

OUR_METHODS = [
    *("history", "history_table", "counts", "why_stopped", "checkpoints"),
    *("label", "evaluation", "explain", "drift_from", "recommended", "fit_and_label", "restarts"),
    *("predict_nearest", "tree"),
]


def parameters(method):
    found = list(inspect.signature(getattr(KMeansClustering, method)).parameters.values())
    assert found[0].name == "self"
    return found[1:]


@pytest.mark.parametrize("method", SEED)
def test_the_seeds_parameters_come_first_in_its_order_and_may_be_given_by_place(method):
    first = parameters(method)[: len(SEED[method])]

    assert [each.name for each in first] == list(SEED[method])
    assert {each.kind for each in first} <= {Parameter.POSITIONAL_OR_KEYWORD}


@pytest.mark.parametrize("method", SEED)
def test_defaults_are_the_seeds_but_for_those_listed(method):
    found = {each.name: each.default for each in parameters(method)}

    for name, default in SEED[method].items():
        expected = OTHER_DEFAULTS.get((method, name), default)
        assert (name, found[name]) == (name, expected)
        assert type(found[name]) is type(expected)  # True is not 1


@pytest.mark.parametrize("method", SEED)
def test_what_is_ours_is_listed_optional_and_given_by_name_only(method):
    ours = parameters(method)[len(SEED[method]) :]

    assert {each.name: each.default for each in ours} == OUR_PARAMETERS.get(method, {})
    assert {each.kind for each in ours} <= {Parameter.KEYWORD_ONLY}


def test_the_class_is_called_with_what_its_constructor_takes():
    assert list(inspect.signature(KMeansClustering).parameters) == [
        *SEED["__init__"],
        *OUR_PARAMETERS["__init__"],
    ]


def test_set_params_takes_names_alone():
    (params,) = parameters("set_params")

    assert (params.name, params.kind) == ("params", Parameter.VAR_KEYWORD)


@pytest.mark.parametrize("name", SEED_PROPERTIES)
def test_what_was_a_property_is_one_and_cannot_be_set(name):
    found = inspect.getattr_static(KMeansClustering, name)

    assert isinstance(found, property)
    assert found.fset is None


def test_model_fn_is_called_as_the_seeds_with_features_labels_and_mode():
    names = [each.name for each in parameters("model_fn")]

    assert names == ["features", "labels", "mode", "config"]
    assert callable(KMeansClustering(2).model_fn)


@pytest.mark.parametrize(("name", "value"), [*SEED_CONSTANTS.items(), *OUR_CONSTANTS.items()])
def test_constants_have_their_values_on_the_class_and_on_its_instances(name, value):
    assert getattr(KMeansClustering, name) == value
    assert getattr(KMeansClustering(2), name) == value
    assert type(getattr(KMeansClustering, name)) is str


def test_every_public_name_is_the_seeds_or_listed_as_ours():
    public = {name for name in dir(KMeansClustering) if not name.startswith("_")}

    seed = {*SEED, *SEED_PROPERTIES, *SEED_CONSTANTS, "set_params", "model_fn"} - {"__init__"}
    assert public - seed == {*OUR_METHODS, *OUR_CONSTANTS}
    assert seed - public == set()


def test_every_public_name_but_the_constants_says_what_it_is():
    for name in {*SEED, *SEED_PROPERTIES, *OUR_METHODS, "set_params", "model_fn"} - {"__init__"}:
        assert inspect.getdoc(getattr(KMeansClustering, name)), name


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_training_returns_the_estimator_by_its_annotation(method):
    returned = inspect.signature(getattr(KMeansClustering, method)).return_annotation

    assert returned == "KMeansClustering"
