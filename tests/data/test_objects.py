"""What other libraries hold in memory is read as they mean it, or refused in one sentence."""

from __future__ import annotations

import io
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.data.opening import open_source
from ray_kmeans.errors import ConfigError, DataError, NonFiniteError
from tests.support.files import rows_of

X = np.random.default_rng(0).normal(size=(20, 3))
ROWS = X.astype(np.float32)
NAMES = ["b", "c", "a"]


class HandsOver:
    """A frame of some library: it has columns, and hands them over by one protocol alone."""

    columns = NAMES

    def __init__(self, protocol, of):
        self.__class__ = type("Frame", (HandsOver,), {protocol: lambda _, *a, **k: of(*a, **k)})


def frames():
    frame = pd.DataFrame(X, columns=NAMES, index=np.arange(5, 25))
    table = pa.table(dict(zip(NAMES, X.T, strict=True)))
    return {
        "pandas": frame,
        "pandas, of Arrow": frame.astype(pd.ArrowDtype(pa.float64())),
        "pandas, nullable": frame.astype("Float64"),
        "by stream": HandsOver("__arrow_c_stream__", table.__arrow_c_stream__),
        "by interchange": HandsOver("__dataframe__", table.__dataframe__),
        "a reader": table.to_reader(),
        "structured": np.rec.fromarrays(X.T, names=NAMES).view(np.ndarray),
    }


@pytest.mark.parametrize("name", frames())
def test_a_frame_is_a_table_without_its_index(name):
    source = open_source(frames()[name])

    np.testing.assert_array_equal(rows_of(source), ROWS)
    assert source.columns == tuple(NAMES)


@pytest.mark.parametrize("name", frames())
def test_columns_of_a_frame_are_chosen_by_name(name):
    np.testing.assert_array_equal(rows_of(open_source(frames()[name], ["a", "b"])), ROWS[:, [2, 0]])

    with pytest.raises(
        ConfigError, match=r"columns=\['nope'\] are not in the table.*'b', 'c', 'a'"
    ):
        open_source(frames()[name], ["nope"])


def test_columns_of_a_dict_are_chosen_by_name_and_else_sorted():
    x = dict(zip(NAMES, X.T, strict=True)) | {"other": ["text"] * 20}

    chosen = open_source(x, ["c", "a"])

    assert chosen.columns == ("c", "a")
    np.testing.assert_array_equal(rows_of(chosen), ROWS[:, [1, 2]])
    del x["other"]
    np.testing.assert_array_equal(rows_of(x), ROWS[:, [2, 0, 1]])
    with pytest.raises(
        ConfigError, match=r"columns=\['z'\] are not in x, which has \['a', 'b', 'c'\]"
    ):
        open_source(x, ["a", "z"])


@pytest.mark.parametrize("x", [X, X.tolist(), open_source(X)], ids=["array", "lists", "source"])
def test_columns_have_no_meaning_where_there_are_no_names(x):
    with pytest.raises(ConfigError, match=r"^columns=\['a'\]"):
        open_source(x, ["a"])


class TestColumnsOfAFrame:
    def test_vectors(self):
        frame = pd.DataFrame({"id": [f"{n}" for n in range(20)], "e": list(X)})

        np.testing.assert_array_equal(rows_of(frame), ROWS)
        np.testing.assert_array_equal(rows_of(frame["e"]), ROWS)

    def test_what_is_missing_is_no_number(self):
        frame = pd.DataFrame({"a": pd.array([1, None], "Int64"), "b": [None, 2.5]})

        rows = rows_of(open_source(frame, ["a", "b"]))
        np.testing.assert_array_equal(rows, [[1, np.nan], [np.nan, 2.5]])

    def test_weights_are_a_column(self):
        frame = pd.DataFrame({"e": list(X), "w": np.arange(20.0)})

        source = open_source(frame, ["e"], sample_weight="w")

        (weights,) = source.weights_of(source.describe().blocks)
        assert weights.tolist() == list(range(20))

    @pytest.mark.parametrize(
        ("frame", "message"),
        [
            (pd.DataFrame({"a": [1.0, 2], "b": ["x", 3]}), "Conversion failed for column b"),
            (pd.DataFrame(np.eye(2), columns=["a", "a"]), "Duplicate column names"),
            (pd.DataFrame({"a": pd.arrays.SparseArray([0, 1.0])}), r"Sparse .*column a"),
        ],
    )
    def test_what_is_no_table_is_told_in_a_sentence(self, frame, message):
        with pytest.raises(DataError, match=f"x of type DataFrame is not a table: .*{message}"):
            open_source(frame)


class TestMaskedArrays:
    @pytest.mark.parametrize("dtype", ["float64", "float32", "int64", "uint8", "bool"])
    def test_what_is_masked_is_missing(self, dtype):
        x = np.ma.masked_array(np.ones((3, 1), dtype), [[0], [0], [1]])

        np.testing.assert_array_equal(rows_of(x), [[1], [1], [np.nan]])
        with pytest.raises(NonFiniteError):
            fit(x)
        with pytest.warns(UserWarning, match="1 of 3 rows"):
            assert fit(open_source(x, nonfinite="drop")).clusters().tolist() == [[1]]

    @pytest.mark.parametrize("x", [np.ma.masked_array(X), np.ma.masked_array(X, np.zeros_like(X))])
    def test_what_is_not_masked_is_as_it_was(self, x):
        np.testing.assert_array_equal(rows_of(x), ROWS)

    def test_rows_and_columns_may_be_masked(self):
        row = np.ma.masked_array([1.0, 2.0], [0, 1])

        np.testing.assert_array_equal(rows_of([row, row]), [[1, np.nan]] * 2)
        np.testing.assert_array_equal(rows_of({"a": row, "b": [3, 4]}), [[1, 3], [np.nan, 4]])


class TestTensors:
    torch = pytest.importorskip("torch")

    @pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float16", "float64", "int32"])
    def test_every_type_is_read_exactly(self, dtype):
        x = self.torch.tensor(X * 9).to(getattr(self.torch, dtype))

        np.testing.assert_array_equal(rows_of(x), x.to(self.torch.float32).numpy())

    def test_one_that_requires_a_gradient(self):
        x = self.torch.tensor(ROWS).requires_grad_()

        np.testing.assert_array_equal(rows_of(x), ROWS)
        np.testing.assert_array_equal(rows_of(list(x)), ROWS)
        np.testing.assert_array_equal(rows_of({"a": x[:, 0]}), ROWS[:, :1])

    @pytest.mark.parametrize("way", ["to_sparse", "to_sparse_csr"])
    @pytest.mark.filterwarnings("ignore:Sparse CSR")
    def test_a_sparse_one_is_refused(self, way):
        with pytest.raises(
            DataError, match=r"Tensor is sparse, of shape \(3, 3\).*x\.to_dense\(\)"
        ):
            open_source(getattr(self.torch.eye(3), way)())

    def test_one_without_data_is_refused(self):
        with pytest.raises(DataError, match=r"Tensor is not a table of numbers: .*meta"):
            open_source(self.torch.zeros(3, 3, device="meta"))

    def test_a_loader_of_features_gives_batches(self):
        data = self.torch.utils.data
        loader = data.DataLoader(data.TensorDataset(self.torch.tensor(ROWS)), 10)

        km = model().partial_fit(loader, steps=None)

        assert [line.rows for line in km.history()] == [10, 10]
        np.testing.assert_array_equal(
            km.predict(loader, as_iterable=False)["all_scores"],
            km.predict(ROWS, as_iterable=False)["all_scores"],
        )

    def test_a_loader_of_targets_is_refused_with_the_way_out(self):
        data = self.torch.utils.data
        x = self.torch.tensor(ROWS)
        loader = data.DataLoader(data.TensorDataset(x, x[:, 0]), 10)

        with pytest.raises(
            ConfigError, match=r"targets: each batch is a list of 2.*batch\[0\] for"
        ):
            model().partial_fit(loader, steps=None)
        assert len(model().partial_fit((batch[0] for batch in loader), steps=None).history()) == 2


def model(k=1):
    return KMeansClustering(k, config=RunConfig(num_workers=0, progress=False))


@pytest.mark.filterwarnings("ignore:no model_dir")
def fit(x):
    return model().fit(x, steps=1)


pytestmark = pytest.mark.filterwarnings("ignore:no model_dir was given")


@pytest.mark.parametrize("kind", ["coo", "csr", "csc", "bsr", "dok", "lil", "dia"])
@pytest.mark.parametrize("of", ["matrix", "array"])
def test_sparse_matrices_are_refused_with_what_makes_them_dense(kind, of):
    sparse = pytest.importorskip("scipy.sparse")
    x = getattr(sparse, f"{kind}_{of}")(np.eye(5))

    for given in (x, {"a": x}):
        with pytest.raises(DataError, match=r"is sparse, of shape \(5, 5\).*x\.toarray\(\)"):
            open_source(given)
    for ask in (model().fit, model().partial_fit):
        with pytest.raises(DataError, match=r"is sparse, of shape \(5, 5\).*x\.toarray\(\)"):
            ask(x)


def test_types_of_other_libraries_that_float32_holds():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = ROWS.astype(ml_dtypes.bfloat16)

    np.testing.assert_array_equal(rows_of(x), x.astype(np.float32))


class OfTheCard:
    """An array of CuPy: NumPy may not have it, unless it is asked for."""

    __cuda_array_interface__ = ()

    def __array__(self, *_, **__):
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def get(self):
        return X


class ByLink:
    """An array that knows DLPack alone."""

    def __dlpack__(self, **options):
        return X.__dlpack__(**options)

    def __dlpack_device__(self):
        return X.__dlpack_device__()


@pytest.mark.parametrize("kind", [OfTheCard, ByLink])
def test_arrays_by_other_protocols(kind):
    np.testing.assert_array_equal(rows_of(kind()), ROWS)


WRONG = {
    "dates": (np.array([["2026-01-01"]], "M8[D]"), r"holds datetime64\[D\]"),
    "spans of time": (np.array([[1]], "m8[s]"), r"holds timedelta64\[s\]"),
    "complex": (np.ones((2, 2), complex), "holds complex128"),
    "text": ([["a", "b"]], "holds <U1"),
    "things": ([[1, None]], "holds object"),
    "text in a dict": ({"a": ["x"], "b": [1]}, "column 'a' holds <U1"),
    "an empty row before others": ([[], [1, 2], [3, 4]], "row 0 has 0 features and row 1 2"),
    "a short row": ([[1, 2], [3, 4], [5]], "row 2 has 1 features and row 0 2"),
    "a value for a row": ([[1, 2], 3, [5, 6]], "row 1 has no length, as a single value, and row 0"),
    "rows of tables": ([np.eye(2), np.ones(2)], r"x"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_holds_no_numbers_is_told_in_a_sentence(name):
    x, message = WRONG[name]

    with pytest.raises(DataError, match=message) as caught:
        open_source(x)

    assert "\n" not in str(caught.value)


def test_a_list_of_tables_is_batches_and_one_of_rows_is_rows():
    halves = [X[:10], X[10:]]

    for batches in (halves, [pa.table({"e": list(half)}) for half in halves]):
        assert [line.rows for line in model().partial_fit(batches, steps=None).history()] == [
            10
        ] * 2
    assert [line.rows for line in model().partial_fit(list(X)).history()] == [20]


SPARK = pa.struct(
    {
        "type": pa.int8(),
        "size": pa.int32(),
        "indices": pa.list_(pa.int32()),
        "values": pa.list_(pa.float64()),
    }
)


def of_spark(rows):
    """Return rows as Spark writes them: some dense, some by what is not zero; None is null."""
    vectors = []
    for number, row in enumerate(rows):
        there = None if row is None else [n for n, value in enumerate(row) if value]
        dense = {"type": 1, "size": None, "indices": None, "values": row}
        sparse = row and {"type": 0, "size": len(row), "indices": there}
        sparse = sparse and {**sparse, "values": [row[n] for n in there]}
        vectors.append(None if row is None else dense if number % 3 == 0 else sparse)
    return pa.array(vectors, SPARK)


SOME = [[0.0, 1, 0, 2], [0, 3, 4, 0], [5, 0, 0, 6], None, [0, 0, 0, 0], [7, 0, 0, 0]]


class TestVectorsOfSpark:
    @pytest.mark.parametrize("begin", [0, 1, 3])
    def test_they_are_read_as_they_are_meant(self, begin):
        table = pa.table({"features": of_spark(SOME), "id": range(6)})
        expected = [[np.nan] * 4 if row is None else row for row in SOME]
        content = io.BytesIO()
        pq.write_table(table, content)

        again = pq.read_table(io.BytesIO(content.getvalue()))

        for each in (table, again, pa.concat_tables([table[:2], table[2:]])):
            np.testing.assert_array_equal(rows_of(each.slice(begin)), expected[begin:])

    def test_their_values_alone_are_no_rows(self):
        with pytest.raises(ConfigError, match=r"columns=\['features.values'\] are not in"):
            open_source(pa.table({"features": of_spark(SOME)}), ["features.values"])

    @pytest.mark.parametrize(
        ("vector", "message"),
        [
            ({"type": 0, "size": 4, "indices": [1], "values": [1.0, 2.0]}, "2 values at 1 indices"),
            ({"type": 0, "size": 4, "indices": [4], "values": [1.0]}, "index beyond its size"),
            ({"type": 0, "size": 4, "indices": [-1], "values": [1.0]}, "index beyond its size"),
            ({"type": 0, "size": 2**31 - 1, "indices": [], "values": []}, "row 1 has 2147483647"),
            ({"type": 1, "size": None, "indices": None, "values": [1.0]}, "row 1 has 1 features"),
        ],
    )
    def test_damage_is_told(self, vector, message):
        good = {"type": 1, "size": None, "indices": None, "values": [1.0, 2, 3, 4]}

        with pytest.raises(DataError, match=message):
            open_source(pa.table({"v": pa.array([good, vector], SPARK)}))


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
@pytest.mark.parametrize("nonfinite", ["error", "drop"])
def test_an_empty_vector_before_good_ones_is_named(tmp_path, suffix, nonfinite):
    vectors = pa.array([None, [], *X.tolist()], pa.list_(pa.float32()))
    table = pa.table({"e": vectors})
    path = str(tmp_path / f"x{suffix}")
    if suffix == ".parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(path, table.schema) as file:
            file.write_table(table)

    for x in (table, path):
        with pytest.raises(
            DataError, match=r"column 'e'.*row 1 is a vector of 0 features"
        ) as caught:
            open_source(x, nonfinite=nonfinite).describe()
        assert not re.search(r"row [2-9]", str(caught.value))
