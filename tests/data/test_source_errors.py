"""What cannot be a data set is refused with a sentence that says where, what and what to do."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pytest

from ray_kmeans.algorithm.grid import Extent
from ray_kmeans.data.opening import open_source
from ray_kmeans.errors import (
    ConfigError,
    DataError,
    NoDataError,
    RayKMeansError,
)
from tests.support.files import in_blocks, put, put_array, put_table, rows_of

FLOATS = pa.list_(pa.float32())


@pytest.fixture
def root(tmp_path):
    return str(tmp_path)


def vectors(values, kind=FLOATS):
    return pa.table({"v": pa.array(values, kind)})


class TestPlaces:
    @pytest.mark.parametrize("uri", ["/no/such/place", "memory://no/such", "/no/such/file.npy"])
    def test_a_place_that_does_not_exist(self, uri):
        with pytest.raises(NoDataError, match=re.escape(repr(uri)) + " does not exist") as caught:
            open_source(uri)

        assert isinstance(caught.value, FileNotFoundError)

    def test_a_folder_without_a_file_to_read_names_what_is_there(self, root):
        put(root, "a.txt", lambda file: file.write(b"1,2"))
        put(root, "b.json", lambda file: file.write(b"{}"))

        with pytest.raises(NoDataError, match=r"no \.parquet, .* file; found: a\.txt, b\.json"):
            open_source(root)

    def test_an_empty_folder(self, root):
        with pytest.raises(NoDataError, match=r"no \.parquet, .* file; found: nothing"):
            open_source(root)

    def test_a_glob_without_a_match(self, root):
        with pytest.raises(NoDataError, match="found: nothing"):
            open_source(f"{root}/*.npy")

    def test_files_of_two_formats(self, root):
        put_array(root, "a.npy", np.ones((1, 2)))
        put_table(root, "b.parquet", pa.table({"a": [1.0]}))

        with pytest.raises(ConfigError, match=r"several formats: \.npy, \.parquet.*/\*\.parquet"):
            open_source(root)

    def test_a_store_that_nobody_knows(self):
        with pytest.raises(ConfigError, match="nonsense"):
            open_source("nonsense://bucket/x")


class TestColumns:
    TABLES = (
        (pa.table({"s": ["a"]}), None, DataError, r"no numeric column \(s: string\)"),
        (pa.table({"t": ["a"]}), None, DataError, r"no numeric column \(t: string\)"),
        (pa.table({"v": [[1.0]], "w": [[2.0]]}), None, ConfigError, r"\['v', 'w'\]. Choose with"),
        (pa.table({"a": [1], "b": [2]}), ["a", "z"], ConfigError, r"\['z'\].*has \['a', 'b'\]"),
        (pa.table({"v": [[1.0]], "a": [2.0]}), ["v", "a"], ConfigError, "one of vectors or some"),
        (pa.table({"s": ["a"], "a": [2.0]}), ["s"], ConfigError, "'s': 'string'"),
    )

    @pytest.mark.parametrize(("table", "columns", "error", "text"), TABLES)
    def test_columns_that_cannot_be_rows(self, root, table, columns, error, text):
        put_table(root, "x.parquet", table)

        with pytest.raises(error, match=text):
            open_source(table, columns=columns)
        with pytest.raises(error, match=text) as caught:
            open_source(root, columns=columns).describe()

        assert "x.parquet" in str(caught.value)

    def test_npy_has_no_columns(self, root):
        put_array(root, "a.npy", np.ones((1, 2)))

        with pytest.raises(ConfigError, match=r"columns=\['a'\].*has no columns"):
            open_source(root, columns=["a"])

    @pytest.mark.parametrize("kind", ["array", "npy", "table", "parquet"])
    def test_columns_to_keep_that_are_not_there(self, root, kind):
        put_array(root, "x.npy", np.ones((2, 2)))
        put_table(root, "x.parquet", pa.table({"a": [1.0]}))
        in_memory = {"array": np.ones((2, 2)), "table": pa.table({"a": [1.0]})}
        source = open_source(in_memory.get(kind, f"{root}/x.{kind}"))
        [block] = source.describe().blocks

        with pytest.raises(RayKMeansError, match=r"columns \['z'\]"):
            source.columns_of(block, ["z"])

    def test_a_column_that_a_later_file_lacks(self, root):
        put_table(root, "1.parquet", pa.table({"a": [1.0], "b": [2.0]}))
        put_table(root, "2.parquet", pa.table({"a": [1.0]}))

        with pytest.raises(ConfigError, match=r"\['b'\] are not in .*2\.parquet"):
            open_source(root).describe()


class TestVectors:
    def test_vectors_of_different_lengths_name_file_row_group_and_row(self, root):
        rows = [[1.0, 2.0]] * 50
        rows[37] = [1.0]  # row 17 of row group 1
        put_table(root, "x.parquet", vectors(rows), row_group_size=20)

        text = r"row group 1 of .*x\.parquet: row 17 has 1 features where .* has 2"
        with pytest.raises(DataError, match=text):
            rows_of(in_blocks(root, 10, batch_rows=4))

    @pytest.mark.parametrize("values", [[[1.0, 2.0], [3.0]], [[1.0], [], [2.0]]])
    def test_vectors_of_different_lengths_in_a_table(self, values):
        with pytest.raises(DataError, match="All vectors must have one length"):
            open_source(vectors(values))

    def test_files_of_different_widths_are_seen_before_any_row_is_read(self, root):
        for width in (2, 3):
            vector = vectors([[1.0] * width], pa.list_(pa.float32(), width))
            put_table(root, f"{width}.parquet", vector)

        with pytest.raises(DataError, match=r"3\.parquet has 3 features .*2\.parquet has 2"):
            open_source(root).describe()

    @pytest.mark.parametrize("second", [[[1.0, 2.0, 3.0]], [1.0]])
    def test_files_of_different_widths_are_seen_when_they_are_read(self, root, second):
        put_table(root, "1.parquet", vectors([[1.0, 2.0]]))
        put_table(root, "2.parquet", pa.table({"v": second}))

        with pytest.raises((DataError, ConfigError), match=r"2\.parquet"):
            rows_of(root)

    @pytest.mark.parametrize("values", [[None, None], [[], []]])
    def test_a_column_without_any_number(self, root, values):
        put_table(root, "x.parquet", vectors(values))

        with pytest.raises(DataError):
            open_source(vectors(values))
        with pytest.raises(DataError):
            rows_of(root)

    @pytest.mark.parametrize("kind", [FLOATS, pa.list_(pa.float32(), 2), pa.list_(pa.int64())])
    def test_a_null_becomes_a_row_that_is_not_finite(self, root, kind):
        values = [None, [1, 2], [3, None], None, [5, 6]]
        put_table(root, "1.parquet", vectors([None, None], kind))
        put_table(root, "2.parquet", vectors(values, kind))

        for x, before in ((root, 2), (vectors(values, kind), 0)):
            rows = rows_of(x)[before:]

            assert np.isfinite(rows).all(axis=1).tolist() == [False, True, False, False, True]
            assert rows[[1, 4]].tolist() == [[1, 2], [5, 6]]
            assert Extent.of_rows(rows, "here").nonfinite == (("here", 3, 0, "column 0"),)

    def test_a_null_in_a_column_of_numbers_is_not_finite_either(self, root):
        table = pa.table({"a": [1.0, None, 3.0], "b": [4, 5, None], "c": [0.0, np.nan, np.inf]})
        put_table(root, "x.parquet", table)

        for x in (root, table):
            assert np.isfinite(rows_of(open_source(x, columns=list("abc")))).tolist() == [
                [1, 1, 1],
                [0, 1, 0],
                [1, 0, 0],
            ]


class TestNumbers:
    def test_a_number_that_float32_cannot_hold(self, root):
        put_table(root, "x.parquet", pa.table({"a": [1.0, -1e39]}))
        put_array(root, "x.npy", np.array([[1.0], [-1e39]]))

        for x in (f"{root}/x.parquet", f"{root}/x.npy", np.array([[1.0], [-1e39]])):
            with pytest.raises(DataError, match=r"-1e\+39.*float32 cannot hold"):
                rows_of(x)

    def test_an_infinity_is_left_to_the_check_of_finite_rows(self):
        assert Extent.of_rows(rows_of(np.array([[np.inf], [1.0]])), "x").nonfinite == (
            ("x", 1, 0, "column 0"),
        )

    @pytest.mark.parametrize("x", [[1.0, 2.0], 5.0, None, np.ones((2, 2, 2)), np.ones((3, 0))])
    def test_an_array_that_is_not_a_table(self, x):
        with pytest.raises(DataError, match=r"x has shape .* must be \(rows, features\)"):
            open_source(x)

    def test_a_row_of_numbers_is_told_how_to_become_a_column(self):
        with pytest.raises(DataError, match=r"reshape\(-1, 1\)"):
            open_source(np.ones(3))

    @pytest.mark.parametrize(
        "x", [[["a"]], [[1j]], [[1], [2, 3]], {"a": [1, 2], "b": [1]}, {"a": ["s"]}, {}]
    )
    def test_what_is_not_a_table_of_numbers(self, x):
        with pytest.raises((DataError, ConfigError)):
            open_source(x)
