"""Every kind of data gives the same model, and data that cannot be clustered are refused."""

from __future__ import annotations

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from ray_kmeans import KMeansClustering, RunConfig, open_source
from ray_kmeans.errors import (
    ConfigError,
    DataError,
    NoDataError,
    NonFiniteError,
    NotFittedError,
)

X = np.random.default_rng(3).integers(-8, 8, size=(60, 3)).astype(np.float32)
COLUMNS = {"b": X[:, 1], "a": X[:, 0], "c": X[:, 2]}  # not in the order of their names
VECTORS = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), 3)


def model(model_dir, **params):
    here = RunConfig(num_workers=0, progress=False)
    return KMeansClustering(4, str(model_dir), X[:4], use_mini_batch=False, config=here, **params)


@pytest.fixture
def km(tmp_path):
    return model(tmp_path / "model")


@pytest.fixture
def uri(tmp_path):
    """Return a maker of URIs that hold X."""

    def make(kind):
        folder = tmp_path / "data"
        folder.mkdir()
        for part, rows in enumerate((X[:25], X[25:])):
            if kind == "npy":
                np.save(folder / f"{part}.npy", rows)
            else:
                vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 3)
                table = pa.table({"id": range(len(rows)), "vector": vectors})
                pq.write_table(table, folder / f"{part}.parquet", row_group_size=10)
        return folder

    return make


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return model(tmp_path_factory.mktemp("expected")).fit(X)


IN_MEMORY = {
    "float64": X.astype(np.float64),
    "float16": X.astype(np.float16),
    "int8": X.astype(np.int8),
    "big endian": X.astype(">f4"),
    "column-major": np.asfortranarray(X),
    "a view with steps": np.repeat(X, 2, axis=0)[::2],
    "list": X.tolist(),
    "list of arrays": list(X),
    "table of vectors": pa.table({"id": range(60), "vector": VECTORS}),
    "table of chunks": pa.concat_tables(
        [pa.table({"v": VECTORS[:7]}), pa.table({"v": VECTORS[7:]})]
    ),
    "table of numbers": pa.table(dict(sorted(COLUMNS.items()))),
    "record batch": pa.record_batch({"vector": VECTORS}),
    "dict": COLUMNS,
    "dict of tables": {"b": X[:, 1:], "a": X[:, :1]},
    "source": open_source(X),
    "input_fn": lambda: X,
    "input_fn with a pair": lambda: (X, None),
    "input_fn with a dict and None": lambda: (COLUMNS, None),
}


@pytest.mark.parametrize("x", IN_MEMORY.values(), ids=IN_MEMORY.keys())
def test_any_data_in_memory_gives_the_same_model_and_answers(km, expected, x):
    km.fit(x)

    assert km.history() == expected.history()
    np.testing.assert_array_equal(km.clusters(), expected.clusters())
    np.testing.assert_array_equal(km.transform(x), expected.transform(X))
    assert list(km.predict_cluster_idx(x)) == list(expected.predict_cluster_idx(X))
    assert km.score(x) == expected.score(X)


@pytest.mark.parametrize("kind", ["parquet", "npy"])
@pytest.mark.parametrize("form", ["{}", "{}/*.{kind}", "file://{}", "path", "input_fn"])
def test_any_uri_gives_the_same_model_and_answers(km, uri, expected, kind, form):
    folder = uri(kind)
    forms = {"path": folder, "input_fn": lambda: str(folder)}
    x = forms.get(form) or form.format(folder, kind=kind)

    km.fit(x)

    assert km.history() == expected.history()
    np.testing.assert_array_equal(km.transform(x), expected.transform(X))
    assert list(km.predict_cluster_idx(x)) == list(expected.predict_cluster_idx(X))
    assert km.score(x) == expected.score(X)


def test_input_fn_is_taken_by_name_too(km, expected):
    km.fit(input_fn=lambda: (X, None))

    assert km.history() == expected.history()
    assert km.score(input_fn=lambda: X) == expected.score(X)
    np.testing.assert_array_equal(km.transform(input_fn=lambda: X), expected.transform(X))
    assert list(km.predict_cluster_idx(input_fn=lambda: X)) == list(km.predict_cluster_idx(X))
    assert len(list(km.predict(input_fn=lambda: X))) == 60


CALLS = ["fit", "partial_fit", "score", "evaluate", "predict", "predict_cluster_idx", "transform"]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "neither x nor input_fn"),
        ({"x": X, "input_fn": lambda: X}, "x and input_fn are both given"),
        ({"x": lambda: X, "input_fn": lambda: X}, "x and input_fn are both given"),
        ({"input_fn": lambda: (X, X[:, 0])}, "the input has targets"),
    ],
)
def test_exactly_one_of_x_and_input_fn_is_needed(km, call, given, message):
    km.fit(X, steps=1)

    with pytest.raises(ConfigError, match=message):
        getattr(km, call)(**given)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X[:, 0], r"shape \(60,\).*reshape"),
        (X[None], r"shape \(1, 60, 3\)"),
        (X[:, :0], r"shape \(60, 0\)"),
        (3.0, r"shape \(\)"),
        ([["a", "b"]], "not a number type"),
        (X.astype(complex), "complex64|complex128"),
        (np.array([["2020-01-01"]], "M8[D]"), "datetime64"),
        ([[1, 2], [3]], "list"),
        (np.array([[1e300, 0, 0]]), "1e.300.*float32"),
        (pa.table({"a": ["x"]}), "no numeric column"),
        (pa.table({"a": VECTORS, "b": VECTORS}), "several columns of vectors"),
        ("no/such/place", "no/such/place.*does not exist"),
        ((row for row in X), r"shape \(3,\).*reshape"),  # each row would be a batch
        (pyarrow.dataset.dataset(pa.table({"v": VECTORS})), "Dataset"),
        (object(), "object"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_table_of_numbers_is_refused_by_what_it_is(km, tmp_path, x, message):
    with pytest.raises((DataError, ConfigError), match=message):
        km.fit(x)

    assert not (tmp_path / "model").exists()


def test_a_place_without_data_is_a_file_not_found_error(km, tmp_path):
    (tmp_path / "empty").mkdir()

    with pytest.raises(NoDataError, match=r"holds no \.parquet, .* file"):
        km.fit(str(tmp_path / "empty"))
    with pytest.raises(FileNotFoundError):
        km.fit(str(tmp_path / "nothing.parquet"))


def test_rows_that_are_not_finite_are_counted(km):
    x = X.copy()
    x[3, 0], x[3, 1], x[9, 2], x[10, 1] = np.nan, np.nan, np.inf, -np.inf

    with pytest.raises(NonFiniteError, match="3 rows hold NaN, null or infinity") as caught:
        km.fit(x)

    assert [place[1:] for place in caught.value.places] == [(3, 3)]


def test_rows_that_are_not_finite_are_named_by_file_and_row_group(km, tmp_path):
    values = X[:, 0].tolist()
    values[12] = values[13] = None
    values[41] = float("nan")
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({**COLUMNS, "a": values}), path, row_group_size=10)

    with pytest.raises(NonFiniteError) as caught:
        km.fit(str(path))

    assert caught.value.places == (
        (f"row group 1 of {path}", 2, 12),
        (f"row group 4 of {path}", 1, 41),
    )
    with pytest.raises(NotFittedError):
        km.clusters()


@pytest.mark.parametrize("call", [call for call in CALLS if "fit" not in call])
def test_inference_refuses_rows_that_are_not_finite_too(km, call):
    km.fit(X, steps=1)
    x = X.copy()
    x[7, 0] = np.nan

    with pytest.raises(NonFiniteError, match="1 rows hold NaN"):
        list(getattr(km, call)(x))


@pytest.mark.parametrize("call", [call for call in CALLS if "fit" not in call])
def test_inference_refuses_another_number_of_features_at_the_call(km, call):
    km.fit(X, steps=1)

    with pytest.raises(DataError, match=r"2 features and the model .* has 3"):
        getattr(km, call)(X[:, :2])


def test_an_unfitted_and_a_fitted_estimator_survive_pickling(km, expected):
    again = pickle.loads(pickle.dumps(km)).fit(X)

    assert again.history() == expected.history()
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(again)).transform(X), expected.transform(X)
    )
