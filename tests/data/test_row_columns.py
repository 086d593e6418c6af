"""Which columns make up a row is never a guess, and a model goes by the names of its own."""

from __future__ import annotations

import decimal
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset as ds
import pyarrow.feather
import pytest

from ray_kmeans import (
    KMeansClustering,
    Predictor,
    RunConfig,
    cli,
    import_centers,
)
from ray_kmeans.algorithm.row_spec import RowSpec
from ray_kmeans.data import model_rows
from ray_kmeans.data.column_choice import shortened
from ray_kmeans.data.opening import open_source
from ray_kmeans.errors import ConfigError, DataError, NonFiniteError
from ray_kmeans.store.model_dir import ModelDir
from tests.support.commands import refused
from tests.support.files import put_table, rows_of

HERE = RunConfig(num_workers=0, progress=False)
X = np.repeat(np.float32([[0, 10, 20], [20, 0, 10], [10, 20, 0]]), 20, 0)
X += np.random.default_rng(0).normal(size=X.shape).astype(np.float32)
VECTORS = pa.array(list(X), pa.list_(pa.float32()))
ABC = pa.table(dict(zip("abc", X.T, strict=True)))
CAB = ABC.select(["c", "a", "b"])
DECIMALS = pa.array([decimal.Decimal("1.5"), decimal.Decimal("-2.25"), None])
FLAGS = pa.array([True, False, None])

WRITERS = {
    "parquet": lambda table, path: pa.parquet.write_table(table, f"{path}.parquet"),
    "arrow": lambda table, path: pa.feather.write_feather(table, f"{path}.arrow"),
    "csv": lambda table, path: pa.csv.write_csv(table, f"{path}.csv"),
}


def estimator(folder, k=3, **params):
    return KMeansClustering(
        k, str(folder), "kmeans_plus_plus", use_mini_batch=False, config=HERE, **params
    )


def labels(km, x, **more):
    return km.predict(x, as_iterable=False, outputs=["cluster_idx"], **more)["cluster_idx"]


def run(*flags):
    cli.main([*map(str, flags), "--num-workers", "0", "--no-progress"])


@pytest.fixture
def fitted(tmp_path):
    """A model of the columns a, b, c, and its labels."""
    km = estimator(tmp_path / "abc-model").fit(ABC)
    return km, labels(km, X)


class TestTheChoice:
    @pytest.mark.parametrize("kind", WRITERS)
    @pytest.mark.parametrize(
        "columns",
        [
            {"id": pa.int64(), "x": pa.float64(), "y": pa.float64()},
            {"count": pa.int32(), "x": pa.float64()},
            {"x": pa.int64(), "y": pa.int64()},
            {"user_id": pa.int64()},
            {"Unnamed: 0": pa.int64(), "x": pa.float64()},
            {"flag": pa.bool_(), "x": pa.float64()},
        ],
        ids=lambda columns: "-".join(columns),
    )
    def test_it_is_a_question_unless_all_are_floats_and_none_looks_like_a_key(
        self, tmp_path, kind, columns
    ):
        numbers = pa.array([5, 1, 5])
        table = pa.table({name: numbers.cast(of) for name, of in columns.items()})
        if kind == "csv":  # whose floats are told by their fractions
            table = (
                table.set_column(
                    table.num_columns - 1, table.schema.names[-1], [pa.array([5.5, 1.5, 5.5])]
                )
                if table.schema.types[-1] == pa.float64()
                else table
            )
        WRITERS[kind](table, tmp_path / "x")

        for x in (tmp_path, table):
            with pytest.raises(ConfigError, match=r"columns=\[.*--columns ") as caught:
                open_source(x)
            assert all(f"{name}: " in str(caught.value) for name in columns)

        for name in columns:
            assert open_source(tmp_path, columns=[name]).describe().features == 1

    def test_floats_alone_are_taken_and_so_is_one_column_of_whole_numbers(self, tmp_path):
        assert rows_of(pa.table({"x": [0.5], "name": ["a"], "y": [1.5]})).tolist() == [[0.5, 1.5]]
        assert rows_of(pa.table({"age": [5, 1, 5], "name": list("abc")})).tolist() == [
            [5],
            [1],
            [5],
        ]

    def test_a_column_of_vectors_is_taken_whatever_stands_beside_it(self):
        table = pa.table({"id": range(60), "flag": [True] * 60, "v": VECTORS, "x": [0.5] * 60})

        assert open_source(table).columns == ("v",)

    @pytest.mark.parametrize("kind", WRITERS)
    @pytest.mark.parametrize("cut", [60, 20])
    def test_floats_that_number_the_rows_look_like_a_key(self, tmp_path, kind, cut):
        numbers = np.random.default_rng(0).permutation(60) + 7.0
        table = pa.table({"n": numbers, "x": X[:, 0].astype(float)})
        for begin in range(0, 60, cut):
            WRITERS[kind](table.slice(begin, cut), tmp_path / f"{begin:02d}")

        xs = {"parquet": [tmp_path, table], "csv": [tmp_path], "arrow": []}[kind]
        for x in xs:
            with pytest.raises(ConfigError, match="'n' looks like a key"):
                open_source(x)
        assert open_source(tmp_path, columns=["n", "x"]).columns == ("n", "x")

    def test_decimals_and_booleans_are_a_question_and_numbers_where_they_are_named(self, tmp_path):
        table = pa.table({"a": [1.0, 2, 3], "b": DECIMALS, "flag": FLAGS})
        for kind in ("parquet", "arrow"):
            WRITERS[kind](table, tmp_path / "x")
        expected = np.float32([[1.5, 1, 1], [-2.25, 0, 2], [np.nan, np.nan, 3]])

        for x in (tmp_path / "x.parquet", tmp_path / "x.arrow", table):
            with pytest.raises(ConfigError, match=r"b: decimal128\(3, 2\), flag: bool"):
                open_source(x)
            found = rows_of(open_source(x, columns=["b", "flag", "a"]))
            np.testing.assert_array_equal(found, expected)

    def test_lists_of_decimals_are_a_question_and_vectors_where_they_are_named(self):
        vectors = pa.array([[decimal.Decimal("1.5"), None], [decimal.Decimal("2.5")] * 2])
        table = pa.table({"v": vectors, "x": [1.0, 2.0]})

        with pytest.raises(ConfigError, match=r"v: list.*decimal"):
            open_source(table)
        rows = rows_of(open_source(table, columns=["v"]))
        np.testing.assert_array_equal(rows, np.float32([[1.5, np.nan], [2.5, 2.5]]))

    @pytest.mark.parametrize("value", ["1,000", "1,5", "$12.50", "12 %", "1'000'000.5"])
    def test_numbers_in_text_are_a_question_and_an_error_with_the_row_where_they_are_named(
        self, tmp_path, value
    ):
        (tmp_path / "x.csv").write_text(f'a,b\n"{value}",2.5\n"{value}",3.5\n')

        with pytest.raises(ConfigError, match="a: text as "):
            open_source(tmp_path)
        with pytest.raises(DataError, match=r"x\.csv.*Row #2"):
            open_source(tmp_path, columns=["a", "b"]).describe()
        assert rows_of(open_source(tmp_path, columns=["b"])).tolist() == [[2.5], [3.5]]

    def test_true_and_false_of_a_csv_are_numbers_where_they_are_named(self, tmp_path):
        (tmp_path / "1.csv").write_text("flag,x\ntrue,0.5\nfalse,1.5\n,2.5\n")
        (tmp_path / "2.csv").write_text("x,flag\n3.5,true\n")

        rows = rows_of(open_source(tmp_path, columns=["flag", "x"]))

        np.testing.assert_array_equal(
            rows, np.float32([[1, 0.5], [0, 1.5], [np.nan, 2.5], [1, 3.5]])
        )

    def test_many_columns_are_said_in_short(self):
        assert shortened([f"f{n}" for n in range(784)]) == "f0, f1, f2 ... f783 (784 columns)"
        assert "\n" not in shortened(["a\nb"])


class TestAllFiles:
    """Of the columns, all files tell, whichever comes first."""

    @pytest.mark.parametrize("kind", ["parquet", "arrow"])
    @pytest.mark.parametrize("nulls_first", [True, False])
    @pytest.mark.parametrize("of", ["list", "fixed", "float16"])
    def test_nulls_beside_vectors_are_nulls(self, tmp_path, kind, nulls_first, of):
        types = {
            "list": pa.list_(pa.float32()),
            "fixed": pa.list_(pa.float32(), 3),
            "float16": pa.list_(pa.float16()),
        }
        vectors = pa.array(list(X.astype(np.float16)), types[of])
        names = ("0", "1") if nulls_first else ("1", "0")
        WRITERS[kind](pa.table({"id": range(60, 63), "e": pa.nulls(3)}), tmp_path / names[0])
        WRITERS[kind](pa.table({"id": range(60), "e": vectors}), tmp_path / names[1])

        source = open_source(tmp_path)

        assert source.columns == ("e",)
        rows = rows_of(source)
        assert np.isnan(rows).all(axis=1).sum() == 3
        with pytest.raises(NonFiniteError, match=r"'e'.*nonfinite='drop' \(--nonfinite drop\)"):
            estimator(tmp_path / "m").fit(source)
        km = estimator(tmp_path / "m")
        with pytest.warns(UserWarning, match="3 of 63 rows"):
            km.fit(open_source(f"{tmp_path}/*.{kind}", nonfinite="drop"))
        plain = estimator(tmp_path / "plain").fit(X.astype(np.float16))
        np.testing.assert_array_equal(km.clusters(), plain.clusters())

    def test_nulls_beside_numbers_are_nulls(self, tmp_path):
        put_table(tmp_path, "0.parquet", pa.table({"x": pa.nulls(2), "y": [0.5, 1.5]}))
        put_table(tmp_path, "1.parquet", pa.table({"x": [2.5], "y": [3.5]}))

        rows = rows_of(tmp_path)

        np.testing.assert_array_equal(rows, np.float32([[np.nan, 0.5], [np.nan, 1.5], [2.5, 3.5]]))

    def test_two_columns_of_vectors_are_a_question_though_no_file_has_both(self, tmp_path):
        put_table(tmp_path, "0.parquet", pa.table({"u": VECTORS, "v": pa.nulls(60)}))
        put_table(tmp_path, "1.parquet", pa.table({"u": pa.nulls(60), "v": VECTORS}))

        with pytest.raises(ConfigError, match=r"several columns of vectors: \['u', 'v'\]"):
            open_source(tmp_path)

    @pytest.mark.parametrize("kind", WRITERS)
    def test_a_file_without_the_column_is_named(self, tmp_path, kind):
        WRITERS[kind](pa.table({"x": [0.5], "y": [1.5]}), tmp_path / "1")
        WRITERS[kind](pa.table({"x": [0.5]}), tmp_path / "2")

        for columns in (None, ["x", "y"]):
            with pytest.raises(ConfigError, match=rf"'y'\] are not in .*2\.{kind}, .*\['x'\]"):
                open_source(tmp_path, columns=columns)

    def test_a_column_of_text_in_some_files_and_numbers_in_others_is_a_question(self, tmp_path):
        put_table(tmp_path, "1.parquet", pa.table({"x": [0.5], "note": [np.nan]}))
        put_table(tmp_path, "2.parquet", pa.table({"x": [0.5], "note": ["text"]}))

        with pytest.raises(ConfigError, match="note: double or string"):
            open_source(tmp_path)

    def test_files_that_are_null_everywhere_say_so(self, tmp_path):
        put_table(tmp_path, "1.parquet", pa.table({"e": pa.nulls(2)}))

        with pytest.raises(DataError, match=r"no numeric column \(e: null\)"):
            open_source(tmp_path)
        with pytest.raises(DataError, match="no row of"):
            open_source(tmp_path, columns=["e"]).describe()

    def test_a_dataset_of_arrow_does_not_go_by_its_first_file(self, tmp_path):
        put_table(tmp_path, "0.parquet", pa.table({"id": [1, 2], "e": pa.nulls(2)}))
        put_table(tmp_path, "1.parquet", pa.table({"id": range(60), "e": VECTORS}))

        source = open_source(ds.dataset(tmp_path))

        assert (source.columns, source.describe().features) == (("e",), 3)
        put_table(tmp_path, "0.parquet", pa.table({"x": [1.0, 2.0]}))
        with pytest.raises(ConfigError, match=r"has no \['e'\]"):
            open_source(ds.dataset(tmp_path))

    def test_a_footer_is_read_once(self, tmp_path, monkeypatch):
        from ray_kmeans.data.formats import parquet

        for name in "ab":
            put_table(tmp_path, f"{name}.parquet", pa.table({"e": VECTORS}))
        read = []
        real = parquet._file
        monkeypatch.setattr(parquet, "_file", lambda file: read.append(file.path) or real(file))

        open_source(tmp_path).describe()

        assert len(read) == len(set(read)) == 2


class TestAModel:
    @pytest.mark.parametrize("kind", WRITERS)
    def test_every_read_goes_by_the_names_that_it_was_fitted_on(self, tmp_path, fitted, kind):
        km, right = fitted
        WRITERS[kind](CAB.append_column("id", [range(60)]), tmp_path / "cab")
        path = f"{tmp_path}/cab.{kind}"
        scores = km.transform(x=X)

        for x in (path, [path], open_source(path, columns=["c", "b", "a"])):
            np.testing.assert_array_equal(labels(km, x), right)
            np.testing.assert_allclose(km.transform(x=x), scores, rtol=1e-4)
            assert km.score(x=x) == pytest.approx(km.score(x=X), rel=1e-6)
            assert km.evaluate(x)["scores"] == pytest.approx(km.score(x=X), rel=1e-6)

    def test_tables_and_datasets_and_batches_of_them_go_by_name(self, tmp_path, fitted):
        km, right = fitted
        put_table(tmp_path, "cab.parquet", CAB)

        for x in (CAB, CAB.to_batches()[0], ds.dataset(tmp_path / "cab.parquet"), open_source(CAB)):
            np.testing.assert_array_equal(labels(km, x), right)
        np.testing.assert_array_equal(labels(km, iter([CAB[:20], ABC[20:]])), right)
        assert km.model_fn(CAB).predictions["cluster_idx"].tolist() == right.tolist()

    def test_arrays_go_by_position_and_their_width_is_checked(self, tmp_path, fitted):
        km, right = fitted
        np.save(tmp_path / "x.npy", X)

        for x in (X, X.tolist(), tmp_path / "x.npy"):
            np.testing.assert_array_equal(labels(km, x), right)
        with pytest.raises(DataError, match="2 features"):
            labels(km, X[:, :2])

    def test_a_model_of_an_array_takes_named_data_by_position(self, tmp_path):
        km = estimator(tmp_path).fit(X)

        np.testing.assert_array_equal(labels(km, ABC), labels(km, X))
        assert km._state().rows == RowSpec()

    @pytest.mark.parametrize("names", ["abd", "xyz"])
    def test_other_names_are_refused_with_both_lists(self, tmp_path, fitted, names):
        km, _ = fitted
        table = pa.table(dict(zip(names, X.T, strict=True)))
        put_table(tmp_path, "x.parquet", table)
        whole = table.append_column("id", [range(60)])
        put_table(tmp_path, "id.parquet", whole)

        for x in (table, whole, f"{tmp_path}/x.parquet", f"{tmp_path}/id.parquet", iter([table])):
            with pytest.raises(ConfigError, match="fitted on the columns a, b, c") as caught:
                labels(km, x)
            assert names[-1] in str(caught.value)
        for x in (open_source(table), open_source(whole, columns=list(names))):
            with pytest.raises(ConfigError, match=f"a, b, c, and the data have {', '.join(names)}"):
                labels(km, x)

    def test_a_vector_under_another_name_is_taken_where_it_is_named(self, tmp_path):
        km = estimator(tmp_path / "m").fit(pa.table({"embedding": VECTORS}))
        other = pa.table({"vector": VECTORS})
        put_table(tmp_path, "x.parquet", other)

        for x in (other, tmp_path / "x.parquet", open_source(other)):
            with pytest.raises(
                ConfigError, match=r"columns embedding, and the data have vector\. .*columns"
            ):
                labels(km, x)
        chosen = open_source(tmp_path / "x.parquet", columns=["vector"])
        np.testing.assert_array_equal(labels(km, chosen), labels(km, X))
        narrow = pa.table({"vector": pa.array(X[:, :2].tolist())})
        with pytest.raises(DataError, match="2 features"):
            labels(km, open_source(narrow, columns=["vector"]))

    def test_a_column_of_vectors_is_chosen_by_the_model_where_there_are_two(self, tmp_path):
        km = estimator(tmp_path / "m").fit(pa.table({"v": VECTORS}))

        both = pa.table({"u": pa.array(list(X[::-1])), "v": VECTORS})

        np.testing.assert_array_equal(labels(km, both), labels(km, X))

    def test_a_continued_fit_goes_by_name_and_keeps_the_names(self, tmp_path):
        def steps(*tables):
            km = estimator(tmp_path / f"{len(list(tmp_path.iterdir()))}")
            for table in tables:
                km.partial_fit(table)
            assert km._state().rows.columns == ("a", "b", "c")
            return km.clusters()

        once = steps(ABC, ABC, ABC)

        np.testing.assert_array_equal(steps(ABC, CAB, X), once)
        np.testing.assert_array_equal(steps(ABC, open_source(CAB), ABC), once)
        with pytest.raises(ConfigError, match="a, b, c, and the data have x, y, z"):
            steps(ABC, ABC.rename_columns(list("xyz")))

    def test_batches_of_a_fit_go_by_the_names_of_the_first(self, tmp_path):
        def fit(*batches):
            km = KMeansClustering(
                3, str(tmp_path / f"{len(batches)}{batches[1].column_names}"), X[::20], config=HERE
            )
            return km.fit(iter(batches)).clusters()

        np.testing.assert_array_equal(fit(ABC, CAB), fit(ABC, ABC))
        with pytest.raises(ConfigError, match="a, b, c, and the data have x, y, z"):
            fit(ABC, ABC.rename_columns(list("xyz")))

    def test_a_model_that_does_not_know_its_columns_is_read_and_warned_of_once(self, tmp_path):
        km = estimator(tmp_path).fit(X)
        store = ModelDir.of(str(tmp_path), HERE)
        with store.take_lease("test") as held:
            held.save(replace(km._state(), rows=None, stop=None))
        model_rows._warn_of_order.cache_clear()

        labels(km, X)
        with pytest.warns(UserWarning, match="did not keep the names"):
            labels(km, ABC)
        labels(km, ABC)  # a second warning would be an error
        km.partial_fit(ABC)
        assert km._state().rows.columns == ("a", "b", "c")

    def test_one_column_of_vectors_has_no_order_to_warn_of(self, tmp_path):
        vectors = pa.table({"v": pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), 3)})
        model_rows._warn_of_order.cache_clear()
        km = import_centers(X[:3], str(tmp_path), config=HERE)

        assert labels(km, vectors).tolist() == labels(km, X).tolist()  # a warning is an error

    def test_a_predictor_goes_by_name(self, fitted):
        km, right = fitted
        predictor = Predictor(km.model_dir)

        for batch in (CAB, {name: CAB[name].to_numpy() for name in CAB.column_names}):
            assert np.asarray(predictor(batch)["cluster_idx"]).tolist() == right.tolist()
        with pytest.raises(ConfigError, match="a, b, c"):
            predictor(CAB.rename_columns(list("xyz")))

    def test_the_state_knows_how_rows_were_read_and_so_does_the_manifest(self, tmp_path):
        table = ABC.append_column("w", [np.ones(60)]).append_column("day", [["x", "y"] * 30])
        source = open_source(
            table,
            columns=["b", "a"],
            sample_weight="w",
            filters=[("day", "in", {"x", "z"})],
            nonfinite="drop",
        )

        km = estimator(tmp_path).fit(source)

        spec = km._state().rows
        assert (spec.columns, spec.sample_weight, spec.nonfinite) == (("b", "a"), "w", "drop")
        assert json.loads(spec.filters) == [[["day", "in", ["x", "z"]]]]
        newest = sorted((tmp_path / "checkpoints").glob("*.json"))[-1].read_text()
        assert json.loads(newest)["rows"]["columns"] == ["b", "a"]


@pytest.mark.filterwarnings("ignore:.*rows hold NaN")
class TestTheCommand:
    @pytest.fixture
    def data(self, tmp_path):
        """Files with columns in two orders, beside ids, text, weights and nulls."""
        table = ABC.append_column("id", [range(60)]).append_column("w", [np.ones(60)])
        put_table(tmp_path, "data/1.parquet", table)
        order = ["w", "c", "id", "b", "a"]
        nulls = pa.table({name: pa.nulls(1, table.schema.field(name).type) for name in order})
        put_table(
            tmp_path,
            "data/2.parquet",
            pa.concat_tables([table.select(order), nulls.set_column(0, "w", [[1.0]])]),
        )
        return tmp_path / "data"

    def test_the_features_are_said_and_the_report_takes_what_the_fit_was_given(
        self, data, tmp_path, capsys, caplog
    ):
        about = ["--columns", "a", "b", "c"]
        flags = ["--nonfinite", "drop", "--sample-weight", "w", "--filters", '[["id", "<", 50]]']
        fit = ["fit", data, tmp_path / "m", "--num-clusters", 3, "--no-use-mini-batch"]
        run(*fit, *about, *flags, "--explain")
        assert "features a, b, c\n" in capsys.readouterr().out

        run(*fit, *about, *flags)

        assert (
            f"fit: {data} -> {tmp_path / 'm'}, features: a, b, c, in this"
            in capsys.readouterr().err
        )
        assert "features: a, b, c" in caplog.text
        run("predict", data, tmp_path / "m", tmp_path / "out", "--nonfinite", "drop")
        assert ", features: a, b, c, in this" in capsys.readouterr().err
        manifest = json.loads((tmp_path / "out" / "_manifest.json").read_text())
        assert manifest["of"]["features"] == ["a", "b", "c"]
        out = pa.parquet.read_table(tmp_path / "out")["cluster_idx"].to_pylist()
        assert out[:60] == out[60:120] != [0] * 60
        cli.main(["report", str(tmp_path / "m"), str(tmp_path / "r.html"), "--data", str(data)])
        assert (tmp_path / "r.html").exists()

    def test_columns_that_are_given_later_must_be_those_of_the_model(self, data, tmp_path):
        run(
            "fit",
            data,
            tmp_path / "m",
            "--num-clusters",
            3,
            "--columns",
            "a",
            "b",
            "--nonfinite",
            "drop",
        )

        words = ["predict", data, tmp_path / "m", tmp_path / "out", "--columns", "a", "c"]
        _, line = refused([*map(str, words), "--num-workers", "0"])
        assert "fitted on the columns a, b, and the data have a, c" in line
        run("evaluate", data, tmp_path / "m", "--columns", "b", "a", "--nonfinite", "drop")

    def test_a_key_is_not_clustered_in_silence(self, tmp_path):
        pd.DataFrame({"id": range(60), "x": X[:, 0], "y": X[:, 1]}).to_parquet(
            tmp_path / "x.parquet"
        )

        words = ["fit", tmp_path / "x.parquet", tmp_path / "m", "--num-clusters", "3"]
        _, line = refused([*map(str, words), "--num-workers", "0"])
        assert "id: int64, x: float, y: float" in line
        assert "--columns x y" in line


def test_rows_that_are_not_finite_name_their_column(tmp_path):
    for position, name in enumerate("abc"):
        rows = X.copy()
        rows[5, position:] = np.inf
        table = pa.table(dict(zip("abc", rows.T, strict=True)))
        for params in ({}, {"distance_metric": "cosine"}):
            with pytest.raises(NonFiniteError, match=rf"row 5, column '{name}'\)"):
                estimator(tmp_path / name, **params).fit(table)
        with pytest.raises(NonFiniteError, match=rf"row 5, column {position}\)"):
            estimator(tmp_path / name).fit(rows)
        with pytest.raises(NonFiniteError, match=rf"row 5, value {position} of column 'v'\)"):
            estimator(tmp_path / name).fit(pa.table({"v": list(rows)}))
