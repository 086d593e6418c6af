"""Data of odd kinds are read as they are meant, digit by digit, or refused in one sentence."""

from __future__ import annotations

import array
import decimal
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_kmeans import (
    KMeansClustering,
    Predictor,
    RunConfig,
    import_centers,
)
from ray_kmeans.data.opening import open_source
from ray_kmeans.errors import ConfigError, DataError
from tests.support.files import rows_of

X = np.random.default_rng(0).normal(size=(20, 3))
NAMED = {"a": X[:, 0], "b": X[:, 1], "c": X[:, 2]}
LARGE = 2**60 + np.random.default_rng(1).integers(0, 1000, 300)
"""Whole numbers of which float64 has every 256th alone."""


def estimator(tmp_path, k=3):
    config = RunConfig(num_workers=0, progress=False)
    return KMeansClustering(k, str(tmp_path / "m"), use_mini_batch=False, config=config)


def large_as(kind, folder):
    """Return the large numbers, as something that is read."""
    table = pa.table({"n": LARGE})
    if kind == "decimal":
        return pa.table({"n": table["n"].cast(pa.decimal128(38, 0))})
    if kind == "parquet":
        pq.write_table(table, folder / "x.parquet")
    elif kind == "csv":
        table.to_pandas().to_csv(folder / "x.csv", index=False)
    elif kind == "jsonl":
        lines = (json.dumps({"n": int(number)}) for number in LARGE)
        (folder / "x.jsonl").write_text("\n".join(lines))
    return str(folder)


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl", "decimal"])
def test_the_middle_is_subtracted_from_whole_numbers_that_float64_has_not(kind, tmp_path):
    source = open_source(large_as(kind, tmp_path), ["n"], center=True)

    middle = int(source.shift[0])
    assert rows_of(source).ravel().tolist() == [int(number) - middle for number in LARGE]


def test_a_csv_whose_numbers_are_small_may_go_on_with_points(tmp_path):
    (tmp_path / "x.csv").write_text("n\n" + "1\n" * 50 + "1.5\n")

    assert rows_of(open_source(str(tmp_path), ["n"]))[-1] == 1.5


def test_decimals_with_a_fraction_or_too_large_for_whole_numbers_are_floats():
    values = [decimal.Decimal("1.5"), decimal.Decimal("-2.25"), None]
    large = [decimal.Decimal(10**30), decimal.Decimal(1), None]
    table = pa.table({"a": values, "b": pa.array(large, pa.decimal128(38, 0))})

    expected = np.float32([[1.5, 1e30], [-2.25, 1], [np.nan, np.nan]])
    np.testing.assert_array_equal(rows_of(open_source(table, ["a", "b"])), expected)


@pytest.mark.parametrize("values", [X[:, 0], pa.array([[1.0, 2.0]] * 20)], ids=["number", "vector"])
def test_runs_are_the_values_that_they_encode(values):
    ends = pa.array(range(1, 21), pa.int32())
    runs = pa.RunEndEncodedArray.from_arrays(ends, pa.array(values))

    source = open_source(pa.table({"r": runs}))

    assert source.columns == ("r",)
    np.testing.assert_array_equal(rows_of(source), rows_of(pa.table({"r": values})))


@pytest.mark.parametrize("dtype", ["f4", "f8", "u1"])
def test_a_buffer_of_two_axes_is_a_table(dtype):
    rows = np.arange(12).reshape(4, 3).astype(dtype)

    np.testing.assert_array_equal(rows_of(memoryview(rows)), rows)


@pytest.mark.parametrize(
    "x", [b"abc", bytearray(b"abc"), array.array("d", [1.0]), memoryview(b"a")]
)
def test_another_buffer_is_no_stream(x, tmp_path):
    with pytest.raises(DataError, match=r"x has shape \(.*it must be \(rows, features\)"):
        estimator(tmp_path).fit(x)


def test_a_dict_of_columns_without_rows_has_none():
    assert rows_of_none({"a": [], "b": []}) == (0, 2)
    assert rows_of_none({"a": np.empty((0, 3)), "b": []}) == (0, 4)


def rows_of_none(x):
    layout = open_source(x).describe()
    return layout.rows, layout.features


@pytest.mark.parametrize("call", ["fit", "partial_fit"])
def test_a_list_of_dicts_is_told_what_makes_a_table_of_it(call, tmp_path):
    rows = pa.table(NAMED).to_pylist()

    with pytest.raises(DataError, match=r"holds dicts.*pyarrow\.Table\.from_pylist"):
        getattr(estimator(tmp_path), call)(rows)


def test_a_batch_that_is_none_is_told_by_its_number(tmp_path):
    with pytest.raises(DataError, match=r"batch 2: x has shape \(3,\)"):
        estimator(tmp_path).fit(iter([X, X[0]]))
    with pytest.raises(ConfigError, match=r"batch 2: the model was fitted on the columns a, b, c"):
        estimator(tmp_path).fit(iter([pa.table(NAMED), pa.table({"a": X[:, 0], "b": X[:, 1]})]))


@pytest.mark.parametrize(
    "columns",
    ["a", [0, 1], [None], {"a", "b"}, ["a", b"b"]],
    ids=["text", "numbers", "nothing", "set", "bytes"],
)
def test_columns_that_are_no_list_of_names_are_refused(columns):
    for x in (NAMED, pa.table(NAMED), pd.DataFrame(NAMED)):
        with pytest.raises(ConfigError, match="must be a list of names"):
            open_source(x, columns)


@pytest.mark.parametrize("kind", [tuple, np.array, pd.Index])
def test_names_may_come_in_any_sequence(kind):
    assert open_source(pd.DataFrame(NAMED), kind(["b", "a"])).columns == ("b", "a")


def test_a_column_is_named_once():
    for x in (NAMED, pa.table(NAMED)):
        with pytest.raises(ConfigError, match=r"names \['a'\] twice"):
            open_source(x, ["a", "b", "a"])


def test_a_column_of_nulls_that_is_named_holds_no_vector():
    with pytest.raises(DataError, match="'n' of the table holds no vector"):
        open_source(pa.table({"n": pa.nulls(3), "a": [1.0, 2, 3]}), ["n"])


def test_no_path_is_not_the_working_directory():
    for x in ("", ["x.npy", ""]):
        with pytest.raises(ConfigError, match="empty path"):
            open_source(x)


def test_a_file_without_names_loses_no_row_to_a_model_of_such_files(tmp_path):
    (tmp_path / "fit.csv").write_text("1.5,2.5,3.5\n" * 3 + "9.5,8.5,7.5\n")
    (tmp_path / "new.csv").write_text("2,0,1\n0,1,2\n")
    model = estimator(tmp_path, 2).fit(open_source(str(tmp_path / "fit.csv"), header=False))

    with pytest.raises(DataError, match=r"begins with \['2', '0', '1'\]"):
        model.predict(str(tmp_path / "new.csv"), as_iterable=False)
    named = open_source(str(tmp_path / "new.csv"), ["0", "1", "2"], header=False)
    assert len(model.predict(named, as_iterable=False)["cluster_idx"]) == 2


@pytest.mark.parametrize("header", ["x", 2, "False"])
def test_a_header_is_there_or_not(header, tmp_path):
    (tmp_path / "x.csv").write_text("a\n1.5\n")

    with pytest.raises(ConfigError, match=r"header=.* must be True, False or None"):
        open_source(str(tmp_path / "x.csv"), header=header)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1.5,2\n".encode("utf-16"), "is UTF-16"),
        (b"a;b\n1.000,5;2.5\n2.000,5;3.5\n", r"holds '1\.000,5', a number with a comma"),
        (b'a,b\n"1.000,5",2.5\n"2.000,5",3.5\n', r"a: text as '1\.000,5'"),
    ],
    ids=["UTF-16", "semicolons", "commas"],
)
def test_numbers_that_a_text_writes_in_another_way_are_told_of(text, message, tmp_path):
    (tmp_path / "x.csv").write_bytes(text)

    with pytest.raises((ConfigError, DataError), match=message):
        open_source(str(tmp_path / "x.csv"))


def test_json_that_is_too_deep_is_damage(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"a":' + "[" * 3000 + "]" * 3000 + "}\n")

    with pytest.raises(DataError, match=r"x\.jsonl"):
        open_source(str(tmp_path / "x.jsonl"))


def test_sparse_vectors_beside_a_key_are_the_vectors():
    kind = pa.struct(
        [
            ("type", pa.int8()),
            ("size", pa.int32()),
            ("indices", pa.list_(pa.int32())),
            ("values", pa.list_(pa.float64())),
        ]
    )
    vector = {"type": 0, "size": 3, "indices": [1], "values": [2.5]}
    table = pa.table({"id": [1, 2], "v": pa.array([vector] * 2, kind)})

    assert rows_of(table).tolist() == [[0, 2.5, 0]] * 2


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64])
def test_a_tensor_has_the_digits_of_its_array(kind):
    torch = pytest.importorskip("torch")
    rows = (2**30 + np.arange(12).reshape(4, 3)).astype(kind)

    of_tensor, of_array = (open_source(x, center=True) for x in (torch.tensor(rows), rows))

    assert of_tensor.array.dtype == kind
    np.testing.assert_array_equal(rows_of(of_tensor), rows_of(of_array))


@pytest.mark.parametrize("kind", ["table", "frame", "parquet", "scikit-learn"])
def test_centers_from_elsewhere_know_their_columns(kind, tmp_path):
    if kind == "scikit-learn":
        cluster = pytest.importorskip("sklearn.cluster")
        given = cluster.KMeans(3, n_init=1, random_state=0).fit(pd.DataFrame(NAMED))
        centers = given.cluster_centers_
    else:
        centers = X[:3]
        table = pa.table(dict(zip("abc", centers.T, strict=True)))
        pq.write_table(table, tmp_path / "x.parquet")
        given = {"frame": table.to_pandas(), "parquet": str(tmp_path / "x.parquet")}.get(
            kind, table
        )
    model = import_centers(given, str(tmp_path / "m"), config=RunConfig(num_workers=0))

    labels = model.predict(pa.table(NAMED).select(["c", "a", "b"]), as_iterable=False)

    nearest = ((X[:, None] - centers[None]) ** 2).sum(axis=2).argmin(axis=1)
    assert labels["cluster_idx"].tolist() == nearest.tolist()
    with pytest.raises(ConfigError, match="fitted on the columns a, b, c, and the data have a, b"):
        model.predict(pa.table(NAMED).select(["a", "b"]), as_iterable=False)


def test_a_column_of_centers_is_no_name_of_the_data(tmp_path, recwarn):
    centers = pa.table({"center": pa.array(X[:3].tolist())})
    model = import_centers(centers, str(tmp_path / "m"), config=RunConfig(num_workers=0))

    labels = model.predict(pa.table(NAMED), as_iterable=False)["cluster_idx"]

    assert labels[:3].tolist() == [0, 1, 2]
    assert not [each for each in recwarn if "did not keep the names" in str(each.message)]


def test_a_predictor_names_the_columns_that_a_batch_has(tmp_path):
    model = estimator(tmp_path).fit(pa.table(NAMED))

    with pytest.raises(ConfigError, match="fitted on the columns a, b, c, and the data have data"):
        Predictor(model.model_dir)({"data": X})
