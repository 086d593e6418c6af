"""model_fn: what the seed's graph said of one batch, in each of its modes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.errors import (
    ConfigError,
    DataError,
    NonFiniteError,
    NotFittedError,
)

HERE = RunConfig(num_workers=0, progress=False)
X = np.random.default_rng(6).integers(-8, 8, size=(60, 3)).astype(np.float32)
BATCH = X[20:45]
WAYS = {
    "full batch": {"use_mini_batch": False},
    "mini-batch": {},
    "mini-batch, m = 3": {"mini_batch_steps_per_iteration": 3},
    "cosine": {"distance_metric": "cosine"},
}


@pytest.fixture(params=WAYS.values(), ids=WAYS)
def new(request, tmp_path):
    """Return a maker of models that train in one of the ways."""

    def make(name="m"):
        return KMeansClustering(4, str(tmp_path / name), X[:4], config=HERE, **request.param)

    return make


@pytest.fixture
def km(new):
    return new().fit(X, steps=1)


def everything(km):
    return (
        km.history(),
        km.why_stopped(),
        {name: km.get_variable_value(name).tolist() for name in km.get_variable_names()},
    )


def files(km):
    return {path: path.read_bytes() for path in Path(km.model_dir).rglob("*") if path.is_file()}


@pytest.mark.parametrize("mode", ["infer", "eval", "train"])
def test_the_predictions_are_those_of_predict_in_every_mode(km, mode):
    ops = km.model_fn(BATCH, mode=mode)

    assert ops.mode == mode
    np.testing.assert_equal(ops.predictions, km.predict(BATCH, as_iterable=False))
    assert ops.predictions["all_scores"].dtype == np.float32
    assert ops.predictions["cluster_idx"].dtype == np.int64


def test_infer_is_the_default_and_has_predictions_alone(km):
    ops = km.model_fn(BATCH)

    assert ops.mode == "infer"
    assert (ops.loss, ops.eval_metric_ops, ops.train_op) == (None, {}, None)


def test_eval_has_the_loss_too(km):
    ops = km.model_fn(BATCH, None, "eval")

    assert ops.loss == km.score(BATCH) == km.evaluate(BATCH)["loss"]
    assert ops.eval_metric_ops == {"scores": ops.loss}
    assert ops.train_op is None


def test_train_has_what_eval_has_and_a_train_op(km):
    ops = km.model_fn(BATCH, mode="train")

    assert ops.loss == km.score(BATCH)
    assert ops.eval_metric_ops == {"scores": ops.loss}
    assert callable(ops.train_op)


@pytest.mark.parametrize("mode", ["infer", "eval", "train"])
def test_asking_changes_nothing(km, mode):
    before = files(km)

    km.model_fn(BATCH, mode=mode)

    assert files(km) == before


def test_train_op_trains_one_step_on_that_batch(km, new):
    other = new("other").fit(X, steps=1).partial_fit(BATCH)

    km.model_fn(BATCH, mode="train").train_op()

    assert everything(km) == everything(other)
    assert km.get_variable_value("global_step") == 2
    assert km.history()[-1].rows == 25


def test_the_loss_of_a_step_is_the_one_that_model_fn_said(km):
    ops = km.model_fn(BATCH, mode="train")

    ops.train_op()

    assert km.history()[-1].inertia == pytest.approx(ops.loss, rel=1e-6)


def test_train_ops_one_after_the_other_are_as_many_steps(km, new):
    parts = [X[:20], X[20:45], X[45:]]
    other = new("other").fit(X, steps=1)

    for part in parts:
        km.model_fn(part, mode="train").train_op()
        other.partial_fit(part)

    assert everything(km) == everything(other)
    assert km.get_variable_value("global_step") == 4


def test_a_train_op_called_twice_is_two_steps(km):
    train = km.model_fn(BATCH, mode="train").train_op

    train()
    train()

    # A full batch that is seen again and does not move stays what it is.
    still = km.history()[-1].shift == 0 and not km.get_params()["use_mini_batch"]
    assert km.get_variable_value("global_step") == 3 or still


def test_a_model_in_a_temporary_directory_is_trained_there(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    km = KMeansClustering(4, None, X[:4], config=HERE)
    with pytest.warns(UserWarning, match="no model_dir was given"):
        km.fit(X, steps=1)

    km.model_fn(BATCH, mode="train").train_op()

    assert km.get_variable_value("global_step") == 2


def test_train_op_may_have_a_config_of_its_own_and_trains_the_same_model(tmp_path):
    place = str(tmp_path / "m")
    km = KMeansClustering(4, place, X[:4], config=RunConfig(num_workers=0, progress=False))
    km.fit(X, steps=1)
    other = RunConfig(num_workers=0, progress=False, keep_checkpoint_max=1)

    km.model_fn(BATCH, mode="train", config=other).train_op()

    assert km.get_variable_value("global_step") == 2
    assert len(km.checkpoints()) == 1
    assert km.config.keep_checkpoint_max == 5


def test_a_model_whose_place_is_in_its_config_is_trained_there(tmp_path):
    here = RunConfig(num_workers=0, progress=False, model_dir=str(tmp_path / "m"))
    km = KMeansClustering(4, None, X[:4], config=here).fit(X, steps=1)

    km.model_fn(BATCH, mode="train", config=HERE).train_op()

    assert km.get_variable_value("global_step") == 2


@pytest.mark.parametrize(
    "features",
    [
        BATCH.tolist(),
        BATCH.astype(np.float64),
        {"b": BATCH[:, 1:], "a": BATCH[:, 0]},
        pa.table({name: BATCH[:, i] for i, name in enumerate("abc")}),
    ],
    ids=lambda features: type(features).__name__,
)
def test_features_may_be_any_rows_in_memory(km, features):
    ops, expected = km.model_fn(features, mode="eval"), km.model_fn(BATCH, mode="eval")

    np.testing.assert_equal(ops.predictions, expected.predictions)
    assert ops.loss == expected.loss


def test_one_row_is_a_batch(km):
    ops = km.model_fn(X[7:8], mode="train")

    assert ops.predictions["all_scores"].shape == (1, 4)
    assert ops.loss == pytest.approx(ops.predictions["all_scores"].min(), abs=1e-6)


@pytest.mark.parametrize("mode", ["predict", "TRAIN", "", None, 3])
def test_an_unknown_mode_is_refused_with_those_there_are(km, mode):
    with pytest.raises(ConfigError, match=rf"mode={mode!r} .*'train', 'eval', 'infer'"):
        km.model_fn(BATCH, mode=mode)


def test_labels_are_refused_by_that_name(km):
    with pytest.raises(ConfigError, match="labels must be None"):
        km.model_fn(BATCH, BATCH[:, 0])


@pytest.mark.parametrize("mode", ["infer", "eval", "train"])
@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        (BATCH[:, :2], DataError, "2 features and the model .* has 3"),
        (np.full((2, 3), np.nan), NonFiniteError, "2 rows hold NaN"),
        (BATCH[:, 0], DataError, r"shape \(25,\)"),
    ],
)
def test_features_that_the_model_cannot_take_are_refused(km, mode, features, error, message):
    with pytest.raises(error, match=message):
        km.model_fn(features, mode=mode)


@pytest.mark.parametrize("mode", ["infer", "eval", "train"])
def test_a_model_that_is_not_fitted_says_so(new, mode):
    with pytest.raises(NotFittedError, match="Call fit first"):
        new().model_fn(BATCH, mode=mode)
