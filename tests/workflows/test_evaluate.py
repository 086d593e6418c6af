"""evaluate and score: true sums over exactly the batches consumed; the model stays as it is."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_kmeans import KMeansClustering, Monitor, RunConfig
from ray_kmeans.errors import (
    ConfigError,
    DataError,
    NonFiniteError,
    NotFittedError,
)
from tests.support import oracle
from tests.support.files import in_blocks

X = np.random.default_rng(3).integers(-8, 8, size=(60, 3)).astype(np.float32)
K = 4
OWN = {"scores", "loss", "global_step"}


def model(model_dir, metric="squared_euclidean"):
    here = RunConfig(num_workers=0, progress=False, save_checkpoints_steps=1)
    return KMeansClustering(K, str(model_dir), X[:K], metric, use_mini_batch=False, config=here)


@pytest.fixture(scope="module", params=["squared_euclidean", "cosine"])
def fitted(request, tmp_path_factory):
    """A model of three steps and of each step a checkpoint; nobody may change it."""
    return model(tmp_path_factory.mktemp("model"), request.param).fit(X, steps=3)


@pytest.fixture
def km(fitted, tmp_path):
    """A copy of it, with a directory of its own."""
    place = tmp_path / "model"
    shutil.copytree(fitted.model_dir, place)
    return model(place, fitted.get_params()["distance_metric"])


def distances(km, rows, centers=None):
    """Distance of each row to its nearest center, from the definition, in float64."""
    centers = (km.clusters() if centers is None else centers).astype(np.float64)
    rows = rows.astype(np.float64)
    if km.get_params()["distance_metric"] == "squared_euclidean":
        return ((rows[:, None] - centers[None]) ** 2).sum(axis=2).min(axis=1)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return 1 - (rows @ (centers / np.linalg.norm(centers, axis=1, keepdims=True)).T).max(axis=1)


def close(value):
    return pytest.approx(value, rel=1e-6, abs=1e-6)


def batches(size, x=X):
    return (x[start : start + size] for start in range(0, len(x), size))


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file()
    }


def events_in(km):
    """The directories with event files, but for that of the fit, and how many are there."""
    found = [path.parent for path in Path(km.model_dir).rglob("events.out.tfevents*")]
    return {path.name: found.count(path) for path in found if path != Path(km.model_dir)}


# --- what is returned ------------------------------------------------------------------------


def test_evaluate_gives_scores_loss_and_global_step(km):
    result = km.evaluate(X)

    assert set(result) == OWN
    assert result["scores"] == result["loss"] == close(distances(km, X).sum())
    assert result["global_step"] == 3
    assert type(result["scores"]) is type(result["loss"]) is float
    assert type(result["global_step"]) is int


def test_the_score_of_squared_distances_is_the_one_over_the_reals(tmp_path):
    km = model(tmp_path).fit(X, steps=3)

    labels = oracle.labels(X, km.clusters())

    assert km.evaluate(X)["scores"] == oracle.inertia(X, km.clusters(), labels)


@pytest.mark.parametrize("size", [1, 7, 25, 60, 999, None])
@pytest.mark.parametrize("steps", [1, 2, 3, 50, None])
def test_scores_is_the_sum_over_the_batches_consumed_and_loss_their_mean(km, size, steps):
    sums = [distances(km, batch).sum() for batch in batches(size or 60)][:steps]

    result = km.evaluate(X, batch_size=size, steps=steps)

    assert result["scores"] == close(sum(sums))
    assert result["loss"] == close(np.mean(sums))


@pytest.mark.parametrize("steps", [1, 2, 3, 50, None])
@pytest.mark.parametrize("give", [lambda b: {"x": b}, lambda b: {"input_fn": lambda: b}])
def test_the_batches_of_a_generator_are_those_it_gives(km, steps, give):
    sums = [distances(km, batch).sum() for batch in batches(25)][:steps]

    result = km.evaluate(**give(batches(25)), steps=steps)

    assert result["scores"] == close(sum(sums))
    assert result["loss"] == close(np.mean(sums))


def test_no_batch_is_taken_that_is_not_needed(km):
    stream = batches(20)

    km.evaluate(stream, steps=2)

    np.testing.assert_array_equal(next(stream), X[40:])


def test_an_endless_generator_ends_with_steps(km):
    def forever():
        for _ in range(100):
            yield X[:10]
        pytest.fail("it does not end")

    result = km.evaluate(input_fn=forever, steps=7)

    assert result["scores"] == close(7 * distances(km, X[:10]).sum())
    assert result["loss"] == close(distances(km, X[:10]).sum())


@pytest.mark.parametrize("size", [None, 25])
@pytest.mark.parametrize("steps", [None, 2])
def test_the_way_the_data_come_does_not_change_one_bit(km, tmp_path, size, steps):
    expected = km.evaluate(X, batch_size=size, steps=steps)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), 3)
    table = pa.table({"id": range(60), "vector": vectors})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=11)
    np.save(tmp_path / "x.npy", X)

    kinds = [X, X.tolist(), table, str(tmp_path / "x.parquet"), tmp_path / "x.npy"]

    for x in kinds:
        for each in (x, in_blocks(x, 7)):
            assert km.evaluate(each, batch_size=size, steps=steps) == expected


def test_input_fn_gives_data_of_any_kind_or_the_seeds_pair(km):
    expected = km.evaluate(X)
    columns = {"b": X[:, 1:], "a": X[:, 0]}

    for data in (X, (X, None), columns, (columns, None), [X]):
        assert km.evaluate(input_fn=lambda data=data: data) == expected


def test_one_row_is_evaluated(km):
    result = km.evaluate(X[5:6])

    assert result["scores"] == result["loss"] == close(distances(km, X[5:6]).item())


def test_a_row_on_its_center_has_loss_0(km):
    scale = np.abs(km.clusters()).max() ** 2

    assert 0 <= km.evaluate(km.clusters())["scores"] <= 1e-6 * scale


def test_a_fitted_model_is_evaluated_without_the_object_that_fitted_it(km):
    other = KMeansClustering(K, km.model_dir, config=RunConfig(num_workers=0, progress=False))

    assert other.evaluate(X) == km.evaluate(X)


# --- checkpoint_path -------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["path", "name", "url"])
@pytest.mark.parametrize("number", range(4))
def test_an_older_checkpoint_gives_the_loss_and_the_steps_of_that_model(km, form, number):
    path = km.checkpoints()[number]
    forms = {"path": path, "name": Path(path).name, "url": f"file://{path}"}
    short = model(Path(km.model_dir).parent / "short", km.get_params()["distance_metric"])
    centers = short.fit(X, steps=number).clusters() if number else X[:K]

    result = km.evaluate(X, checkpoint_path=forms[form])

    assert result["global_step"] == number
    assert result["scores"] == close(distances(km, X, centers).sum())
    assert len(km.checkpoints()) == 4


def test_the_newest_checkpoint_is_the_default(km):
    assert km.evaluate(X, checkpoint_path=km.checkpoints()[-1]) == km.evaluate(X)


def test_a_checkpoint_of_another_model_can_be_evaluated(km, tmp_path):
    other = model(tmp_path / "other", km.get_params()["distance_metric"]).fit(X, steps=1)

    assert km.evaluate(X, checkpoint_path=other.checkpoints()[-1]) == other.evaluate(X)


@pytest.mark.parametrize("form", ["{name}", "{model_dir}/checkpoints/{name}", "/no/such/{name}"])
def test_a_checkpoint_that_is_not_there_is_named_beside_those_that_are(km, form):
    missing = form.format(name="00000099-iteration-9.json", model_dir=km.model_dir)

    with pytest.raises(NotFittedError) as caught:
        km.evaluate(X, checkpoint_path=missing)

    assert f"checkpoint_path={missing!r} does not exist" in str(caught.value)
    for path in km.checkpoints():
        assert Path(path).name in str(caught.value)


# --- metrics ---------------------------------------------------------------------------------


def mean_of_first(rows, predictions):
    return rows[:, 0].mean()


@pytest.mark.parametrize("size", [1, 7, 25, 60, None])
@pytest.mark.parametrize("steps", [1, 2, None])
def test_a_metric_is_the_mean_over_all_rows_however_they_are_cut(km, size, steps):
    seen = X if steps is None else X[: steps * (size or 60)]

    result = km.evaluate(
        X,
        batch_size=size,
        steps=steps,
        metrics={
            "first": mean_of_first,
            "distance": lambda rows, predictions: predictions["all_scores"].min(axis=1).mean(),
        },
    )

    assert set(result) == OWN | {"first", "distance"}
    assert result["first"] == pytest.approx(seen[:, 0].mean(dtype=np.float64), abs=1e-6)
    assert result["distance"] == close(result["scores"] / len(seen))


def test_a_metric_weighs_the_batches_of_a_generator_by_their_rows(km):
    uneven = [X[:50], X[50:53], X[53:]]

    result = km.evaluate(iter(uneven), metrics={"first": mean_of_first})

    assert result["first"] == pytest.approx(X[:, 0].mean(dtype=np.float64), abs=1e-6)
    assert set(result) == OWN | {"first"}


def test_a_metric_sees_only_the_batches_consumed_of_a_generator(km):
    result = km.evaluate(batches(25), steps=2, metrics={"first": mean_of_first})

    assert result["first"] == pytest.approx(X[:50, 0].mean(dtype=np.float64), abs=1e-6)


@pytest.mark.parametrize("stream", [False, True])
def test_a_metric_gets_the_rows_of_a_batch_and_what_predict_says_of_them(km, stream):
    seen = []

    def look(rows, predictions):
        seen.append((rows.copy(), predictions))
        return 0.0

    if stream:
        km.evaluate(batches(25), metrics={"look": look})
    else:
        km.evaluate(X, batch_size=25, metrics={"look": look})

    assert [len(rows) for rows, _ in seen] == [25, 25, 10]
    np.testing.assert_array_equal(np.concatenate([rows for rows, _ in seen]), X)
    expected = km.predict(X, as_iterable=False)
    for name in ("all_scores", "cluster_idx"):
        found = np.concatenate([predictions[name] for _, predictions in seen])
        np.testing.assert_array_equal(found, expected[name])
        assert found.dtype == expected[name].dtype
    assert {tuple(sorted(predictions)) for _, predictions in seen} == {
        ("all_scores", "cluster_idx")
    }


@pytest.mark.parametrize("value", [True, 3, np.float32(0.5), np.int64(2), np.array(4.0)])
def test_a_metric_is_returned_as_a_float(km, value):
    result = km.evaluate(X, metrics={"m": lambda rows, predictions: value})

    assert result["m"] == float(value)
    assert type(result["m"]) is float


def test_no_metrics_are_no_metrics(km):
    assert km.evaluate(X, metrics={}) == km.evaluate(X, metrics=None) == km.evaluate(X)


@pytest.mark.parametrize(
    "wrong", [3, "loss", [mean_of_first], mean_of_first, {"a": 3}, {"a": None}]
)
def test_metrics_that_are_no_functions_by_name_are_refused(km, wrong):
    with pytest.raises(ConfigError, match=r"metrics=.* must be None or a dict of functions"):
        km.evaluate(X, metrics=wrong)


@pytest.mark.parametrize("name", sorted(OWN))
def test_a_metric_cannot_take_the_name_of_what_evaluate_returns(km, name):
    with pytest.raises(ConfigError, match=rf"metrics=\['{name}'\].*itself"):
        km.evaluate(X, metrics={name: mean_of_first, "other": mean_of_first})


def test_what_a_metric_raises_is_what_one_hears(km):
    failure = ZeroDivisionError("of the user")

    def broken(rows, predictions):
        raise failure

    with pytest.raises(ZeroDivisionError) as caught:
        km.evaluate(X, metrics={"broken": broken})

    assert caught.value is failure


# --- name, hooks, log ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "folder"), [(None, "eval"), ("", "eval"), ("test", "eval_test"), ("a b", "eval_a b")]
)
def test_the_tensorboard_file_goes_to_eval_or_eval_name(km, name, folder):

    km.evaluate(X, name=name)

    assert events_in(km) == {folder: 1}


def test_every_evaluation_has_its_own_tensorboard_file(km):

    for name in (None, None, "test"):
        km.evaluate(X, name=name)

    assert events_in(km) == {"eval": 2, "eval_test": 1}


def test_the_tensorboard_file_holds_the_results_at_the_models_step(km):
    from tensorboardX.proto.event_pb2 import Event

    older = km.checkpoints()[2]
    result = km.evaluate(X, metrics={"mine": mean_of_first}, checkpoint_path=older)

    (path,) = (Path(km.model_dir) / "eval").iterdir()
    content, found = path.read_bytes(), {}
    while content:  # a record: length, its checksum, the event, its checksum
        size = int.from_bytes(content[:8], "little")
        event = Event.FromString(content[12 : 12 + size])
        found |= {value.tag: (value.simple_value, event.step) for value in event.summary.value}
        content = content[16 + size :]
    assert found == {tag: (pytest.approx(result[tag]), 2) for tag in ("scores", "loss", "mine")}


class Recorder(Monitor):
    def __init__(self, raises=()):
        self.calls = []
        self.raises = raises

    def _called(self, what, state):
        self.calls.append((what, state.iteration))
        if what in self.raises:
            raise ArithmeticError(what)

    def begin(self, state):
        self._called("begin", state)

    def after_step(self, state):
        self._called("after_step", state)

    def end(self, state):
        self._called("end", state)


def test_hooks_see_the_state_before_and_after(km):
    hooks = [Recorder(), Recorder()]

    result = km.evaluate(X, batch_size=25, hooks=hooks, checkpoint_path=km.checkpoints()[1])

    assert [hook.calls for hook in hooks] == [[("begin", 1), ("end", 1)]] * 2
    assert set(result) == OWN


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ({"x": X[:, :2]}, DataError),
        ({"x": np.full((3, 3), np.nan)}, NonFiniteError),
        ({"input_fn": lambda: 1 / 0}, ZeroDivisionError),
        ({"input_fn": lambda: (X / (1 // (1 - i)) for i in range(3))}, ZeroDivisionError),
    ],
)
@pytest.mark.parametrize("raises", [(), ("end",)])
def test_hooks_end_also_when_it_fails_and_the_failure_is_what_one_hears(km, data, error, raises):
    hook = Recorder(raises)

    with pytest.raises(error):
        km.evaluate(**data, hooks=[hook])

    assert hook.calls == [("begin", 3), ("end", 3)]
    assert events_in(km) == {}


@pytest.mark.parametrize("raises", ["begin", "end"])
def test_what_a_hook_raises_ends_the_evaluation(km, raises):
    first, hook = Recorder(), Recorder([raises])

    with pytest.raises(ArithmeticError, match=raises):
        km.evaluate(X, hooks=[first, hook])

    assert first.calls == [("begin", 3), ("end", 3)]


@pytest.mark.parametrize("wrong", [3, Recorder(), [Recorder], [object()]])
def test_wrong_hooks_are_refused(km, wrong):
    with pytest.raises(ConfigError, match=r"^hooks(\[0\])?="):
        km.evaluate(X, hooks=wrong)


@pytest.mark.parametrize(("wanted", "lines"), [(True, 1), (False, 0)])
def test_log_progress_logs_one_line_or_none(km, caplog, wanted, lines):
    with caplog.at_level(logging.INFO, logger="ray_kmeans"):
        result = km.evaluate(X, log_progress=wanted)

    assert len(caplog.records) == lines
    for record in caplog.records:
        assert record.levelno == logging.INFO
        assert str(result["scores"]) in record.getMessage()


# --- nothing changes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {"x": X},
        {"x": X, "batch_size": 7, "steps": 2, "name": "n", "metrics": {"m": mean_of_first}},
        {"input_fn": lambda: batches(25), "hooks": [Recorder()]},
        {"x": X, "checkpoint_path": "00000001-00000001-iteration-1.json"},
    ],
    ids=lambda arguments: "+".join(arguments),
)
def test_the_model_is_the_same_afterwards(km, arguments):
    before, checkpoints = contents(km.model_dir), km.checkpoints()

    km.evaluate(**arguments)

    after = contents(km.model_dir)
    assert km.checkpoints() == checkpoints
    assert {path: after[path] for path in before} == before
    assert {path.parts[0].split("_")[0] for path in after.keys() - before.keys()} <= {"eval"}


def test_score_writes_nothing(km):
    before = contents(km.model_dir)

    km.score(X)
    km.score(batches(25), steps=1)

    assert contents(km.model_dir) == before


def test_the_rows_are_not_changed(km):
    x = X.copy()
    x.flags.writeable = False

    km.evaluate(x, batch_size=7, metrics={"m": mean_of_first})

    np.testing.assert_array_equal(x, X)


# --- wrong calls -----------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["evaluate", "score"])
@pytest.mark.parametrize("data", [lambda: X, lambda: batches(25)])
def test_a_model_that_is_not_fitted_says_so(tmp_path, call, data):
    km = model(tmp_path / "none")

    with pytest.raises(NotFittedError, match=r"no model in .*none.*Call fit first") as caught:
        getattr(km, call)(data())

    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, AttributeError)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"y": X[:, 0]}, "y must be None"),
        ({"feed_fn": dict}, "feed_fn .*Give the data as x"),
        ({"steps": 0}, "steps=0"),
        ({"steps": -1}, "steps=-1"),
        ({"steps": 1.5}, r"steps=1\.5"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": "3"}, "batch_size='3'"),
    ],
    ids=str,
)
def test_arguments_without_meaning_are_refused(km, arguments, message):
    with pytest.raises(ConfigError, match=message):
        km.evaluate(X, **arguments)


def test_batch_size_with_input_fn_is_refused(km):
    with pytest.raises(ConfigError, match=r"batch_size=3 .*input_fn"):
        km.evaluate(input_fn=lambda: X, batch_size=3)


@pytest.mark.parametrize("call", ["evaluate", "score"])
def test_batch_size_with_a_generator_of_batches_is_refused_as_in_fit(km, call):
    with pytest.raises(ConfigError, match=r"batch_size=3 .*iterator of batches"):
        getattr(km, call)(batches(25), batch_size=3)


@pytest.mark.parametrize("data", [X[:0], iter([]), iter([X[:0]])], ids=["array", "no", "empty"])
@pytest.mark.parametrize("call", ["evaluate", "score"])
def test_data_without_a_row_have_no_loss(km, call, data):
    with pytest.raises(DataError, match=r"no rows\. Give at least one"):
        getattr(km, call)(data)


def test_a_generator_whose_width_is_not_the_models_is_refused(km):
    with pytest.raises(DataError, match=r"2 features.* have 3"):
        km.evaluate(iter([X[:, :2]]))


def test_a_row_that_is_not_finite_in_any_batch_is_refused(km):
    with pytest.raises(NonFiniteError, match="1 rows hold NaN"):
        km.evaluate(iter([X[:5], np.array([[0, np.nan, 0]], np.float32)]))


# --- score -----------------------------------------------------------------------------------


def test_score_is_the_scores_of_evaluate_in_all_its_forms(km):
    expected = km.evaluate(X)["scores"]

    forms = [
        km.score(X),
        km.score(x=X),
        km.score(lambda: X),
        km.score(input_fn=lambda: (X, None)),
        km.score(input_fn=lambda: X, steps=1),
        km.score(X, 1),
        km.score(X, steps=3),
        km.score(x=X, batch_size=7),
    ]

    assert forms == [expected] * len(forms)
    assert {type(score) for score in forms} == {float}


def test_score_counts_steps_in_batches(km):
    assert km.score(X, 2, batch_size=25) == close(distances(km, X[:50]).sum())
    assert km.score(input_fn=lambda: batches(25), steps=1) == close(distances(km, X[:25]).sum())
    assert km.score(batches(25)) == close(distances(km, X).sum())


@pytest.mark.parametrize("arguments", [{"steps": 0}, {"steps": True}, {"batch_size": 0}], ids=str)
def test_score_refuses_what_evaluate_refuses(km, arguments):
    ((name, value),) = arguments.items()

    with pytest.raises(ConfigError, match=f"{name}={value} must be a whole number"):
        km.score(X, **arguments)
