"""What a command does, a call of Python does: the same files, texts and numbers."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ray_kmeans
from ray_kmeans import (
    Block,
    FitState,
    Iteration,
    KMeansClustering,
    Layout,
    RunConfig,
    Source,
    Stop,
    cli,
    cut,
    open_source,
)
from ray_kmeans.errors import (
    BudgetError,
    ConfigError,
    DataError,
    NotFittedError,
)
from ray_kmeans.model import FittedModel
from ray_kmeans.store.model_dir import ModelDir
from tests.support.files import put_table

HERE = RunConfig(num_workers=0, cpus_per_worker=1, progress=False)
FLAGS = ["--num-workers", "0", "--cpus-per-worker", "1", "--no-progress"]
X = np.random.default_rng(8).integers(-8, 8, size=(90, 3)).astype(np.float32)
WEIGHTS = np.arange(90) % 4 / 2


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Return data, and a model of them."""
    place = tmp_path_factory.mktemp("calls")
    vectors = pa.FixedSizeListArray.from_arrays(X.ravel(), 3)
    table = pa.table({"v": vectors, "w": WEIGHTS, "name": [f"row {n}" for n in range(90)]})
    put_table(place / "data", "a.parquet", table, row_group_size=30)
    data, model = str(place / "data"), str(place / "model")
    fit(open_source(data, ["v"]), model)
    return data, model


def fit(x, model_dir, k=4, **params):
    return KMeansClustering(k, model_dir, X[:k], use_mini_batch=False, config=HERE, **params).fit(x)


@pytest.fixture
def km(places):
    return ray_kmeans.load_model(places[1], HERE)


@pytest.fixture
def data(places):
    return open_source(places[0], ["v"])


def printed(capsys, *words):
    cli.main([*words, *FLAGS])
    return capsys.readouterr().out


def test_what_public_methods_give_and_take_is_public(km):
    state = ModelDir.of(km.model_dir, HERE).fitted()

    assert km.why_stopped() is Stop.CONVERGED
    assert isinstance(km.history()[0], Iteration)
    assert isinstance(state, FitState)
    source = open_source(X)
    assert isinstance(source, Source)
    assert source.describe() == Layout(tuple(cut("x", [90], 3)), 3)
    assert isinstance(source.describe().blocks[0], Block)
    assert isinstance(km.history_table(), pa.Table)


def test_a_page_is_made_by_a_call_of_the_name_of_its_command():
    import ray_kmeans.html_report  # a sub-module must not hide the call

    assert callable(ray_kmeans.report)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"keep_columns": ("name",)},
        {"second": True, "by_cluster": True},
    ],
    ids=["plain", "columns", "second, by cluster"],
)
def test_label_writes_what_the_command_writes(km, data, places, tmp_path, capsys, how):
    flags = [f"--{name.replace('_', '-')}" for name, on in how.items() if on is True]
    flags += ["--keep-columns", *how["keep_columns"]] if "keep_columns" in how else []
    there, here = str(tmp_path / "there"), str(tmp_path / "here")

    text = printed(capsys, "predict", *places, there, "--columns", "v", *flags)
    counts = km.label(data, here, **how)

    assert text == f"{counts}: {there}\n"
    assert (counts.rows, counts.left_out) == (90, 0)
    one, other = pq.read_table(there), pq.read_table(here)
    assert one.sort_by("row").equals(other.sort_by("row"))


def test_label_says_what_predict_says(km, tmp_path):
    km.label(X, str(tmp_path))

    found = pq.read_table(tmp_path).sort_by("row")
    np.testing.assert_array_equal(found["cluster_idx"], list(km.predict_cluster_idx(x=X)))


def test_label_counts_rows_that_are_left_out_and_appends(km, tmp_path):
    rows = X.copy()
    rows[:2] = np.nan

    counts = km.label(open_source(rows, nonfinite="drop"), str(tmp_path / "o"))
    more = km.label(X, str(tmp_path / "p"))
    with pytest.raises(OSError, match="append"):
        km.label(X[:50], str(tmp_path / "p"))
    added = km.label(X[:50], str(tmp_path / "p"), append=True)

    assert str(counts) == "88 rows labelled, 2 left out (cluster -1)"
    assert (more.rows, added.rows) == (90, 50)
    assert pq.read_table(tmp_path / "p").num_rows == 140


@pytest.mark.parametrize(
    "call",
    [
        lambda km, x, place: km.label(x, place),
        lambda km, x, place: km.evaluation(x),
        lambda km, x, place: km.explain(x),
        lambda km, x, place: km.explain(x, "label"),
    ],
    ids=["label", "evaluation", "explain", "explain label"],
)
def test_an_iterator_is_refused_where_workers_read_the_rows(km, tmp_path, call):
    with pytest.raises(ConfigError, match="generator gives batches once"):
        call(km, (each for each in [X]), str(tmp_path))

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["label", "evaluation"])
def test_a_model_that_is_not_there_and_data_of_another_width_are_refused(km, tmp_path, call):
    more = [str(tmp_path / "o")] if call == "label" else []

    with pytest.raises(NotFittedError):
        getattr(KMeansClustering(4, str(tmp_path / "none"), config=HERE), call)(X, *more)
    with pytest.raises(DataError, match="2 features"):
        getattr(km, call)(X[:, :2], *more)


def test_evaluation_is_what_the_command_prints_and_writes(km, data, places, tmp_path, capsys):
    output = tmp_path / "e.json"

    text = printed(capsys, "evaluate", *places, "--columns", "v", "--output", str(output))
    found = km.evaluation(data)

    assert text.startswith(f"{found.table()}\n")
    assert json.loads(output.read_text()) == found.figures()
    assert "sizes" not in found.figures()


@pytest.mark.parametrize("weight", [None, "w", WEIGHTS], ids=["none", "column", "array"])
def test_sizes_and_shares_are_those_of_all_rows(km, data, weight):
    labels = np.fromiter(km.predict_cluster_idx(x=X), np.int64)

    found = km.evaluation(data, sample_weight=weight)

    weights = None if weight is None else WEIGHTS
    sizes = np.bincount(labels, weights, minlength=4)
    np.testing.assert_array_equal(found.sizes, sizes)
    np.testing.assert_allclose(found.shares, sizes / sizes.sum())
    assert found.largest_share == found.shares.max()
    assert found.loss == km.score(x=data, sample_weight=weight)


def test_evaluate_keeps_the_keys_of_tensorflow(km):
    assert set(km.evaluate(X)) == {"scores", "loss", "global_step"}


def test_explain_is_what_the_flag_prints(km, data, places, tmp_path, capsys):
    uri, model = places
    columns = ["--columns", "v", "--explain"]
    fit_flags = ["--num-clusters", "4", "--no-use-mini-batch"]

    of_fit = printed(capsys, "fit", uri, model, *fit_flags, *columns)
    of_label = printed(capsys, "predict", uri, model, str(tmp_path / "o"), *columns)
    of_evaluate = printed(capsys, "evaluate", uri, model, *columns)

    assert of_fit == f"{km.explain(data)}\n"
    assert of_label == f"{km.explain(data, 'label')}\n"
    assert of_evaluate == f"{km.explain(data, 'evaluate')}\n"
    assert "features v\n" in of_fit
    assert len({of_fit, of_label, of_evaluate}) == 3
    assert list(tmp_path.iterdir()) == []


def test_a_fit_without_a_model_is_explained_and_makes_no_directory(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    text = KMeansClustering(7, config=HERE).explain(X, batch_size=10)

    assert "90 rows x 3 features" in text
    assert list(tmp_path.iterdir()) == []


def test_explain_refuses_what_the_fit_refuses(km):
    with pytest.raises(BudgetError):
        km.set_params(config__worker_memory_bytes=9).explain(X)
    with pytest.raises(ConfigError, match="work='predict' is unknown"):
        km.explain(X, "predict")
    with pytest.raises(ConfigError, match="batch_size=5 has no meaning"):
        km.explain(X, "label", batch_size=5)
    with pytest.raises(ConfigError, match="num_clusters=0"):
        KMeansClustering(0, config=HERE).explain(X)


def test_make_dataset_makes_what_the_command_makes(tmp_path, capsys):
    words = ["--num-rows", "900", "--num-features", "4", "--num-clusters", "3"]
    there, here = tmp_path / "there", tmp_path / "here"
    more = ["--rows-per-file", "400", "--spread", "0.25", "--num-workers", "0"]

    cli.main(["make-dataset", str(there), *words, *more])
    files = ray_kmeans.make_dataset(
        str(here), 900, 4, 3, spread=0.25, rows_per_file=400, config=HERE
    )

    assert files == 3
    assert capsys.readouterr().out == f"900 rows in 3 files: {there}\n"
    assert pq.read_table(there).equals(pq.read_table(here))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_rows": 0}, "num_rows=0"),
        ({"num_features": 1.5}, r"num_features=1\.5"),
        ({"format": "csv"}, "format='csv' is unknown. Give one of 'parquet', 'npy'"),
        ({"rows_per_file": 0}, "rows_per_file=0"),
    ],
)
def test_make_dataset_refuses_what_it_cannot_make(tmp_path, given, message):
    sizes = {"num_rows": 10, "num_features": 2, "num_clusters": 2, **given}

    with pytest.raises(ConfigError, match=message):
        ray_kmeans.make_dataset(str(tmp_path / "d"), **sizes, config=HERE)

    assert list(tmp_path.iterdir()) == []


def test_report_makes_what_the_command_makes(km, places, tmp_path, capsys):
    there, here = tmp_path / "there.html", tmp_path / "here.html"

    cli.main(["report", places[1], str(there), "--data", places[0], "--show", "name"])
    ray_kmeans.report(places[1], str(here), [places[0]], show="name", config=HERE)

    assert capsys.readouterr().out == f"report: {there}\n"
    assert "row 1" in here.read_text()
    assert len(here.read_text()) == pytest.approx(len(there.read_text()), rel=0.01)


def test_a_model_that_was_read_stays_as_it_was_while_a_fit_goes_on(tmp_path):
    place = str(tmp_path / "m")
    fit(X, place)
    before = FittedModel(place, HERE)
    old = before.clusters()

    fit(X * 2, place)

    np.testing.assert_array_equal(before.clusters(), old)
    assert len(before.history()) < len(ray_kmeans.load_model(place, HERE).history())


def reads_of(monkeypatch, *words):
    """Return how often a command reads the newest checkpoint with its arrays."""
    read = []
    original = ModelDir.latest
    monkeypatch.setattr(ModelDir, "latest", lambda self: read.append(self.url) or original(self))
    cli.main([*words])
    return len(read)


def test_commands_read_the_newest_checkpoint_once(places, tmp_path, monkeypatch):
    uri, model = places
    columns = ["--columns", "v", *FLAGS]

    assert reads_of(monkeypatch, "export", model, str(tmp_path / "e")) == 1
    assert reads_of(monkeypatch, "export", model, str(tmp_path / "c.npy"), "--format", "npy") == 1
    assert reads_of(monkeypatch, "predict", uri, model, str(tmp_path / "o"), *columns) == 1
    assert reads_of(monkeypatch, "evaluate", uri, model, *columns) == 1
