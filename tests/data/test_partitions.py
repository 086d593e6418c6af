"""Folders named key=value, beside what pyarrow makes of the same folders."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ray_kmeans.data.hive_keys import keys_of
from ray_kmeans.data.opening import open_source
from ray_kmeans.errors import DataError
from tests.support.files import put_array, put_table

NULL = "__HIVE_DEFAULT_PARTITION__"
ODD = ["1", "007", "-1", "-0", "+1", " 1", "1.0", "2147483647", "2147483648", "-2147483649"]
ODD += [
    "\u0661",
    "a b",
    "a%20b",
    "a%2Fb",
    "a=b",
    "a+b",
    "100%",
    "%zz",
    "%",
    "\u00e9",
    "",
    "-",
    NULL,
]
INTEGERS = st.integers(-(2**40), 2**40).map(str)
VALUES = st.sampled_from(ODD) | INTEGERS | st.text("a1%=- ", max_size=5)


def columns_of_ours(root, names):
    source = open_source(root, ["v"])
    tables = [source.columns_of(block, [*names, "v"]) for block in source.describe().blocks]
    return pa.concat_tables(tables).sort_by("v")


def columns_of_arrow(root, names):
    table = ds.dataset(root, format="parquet", partitioning="hive").to_table([*names, "v"])
    return table.sort_by("v")


def write(root, folders):
    for number, folder in enumerate(folders):
        place = Path(root, folder)
        place.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"v": [float(number)]}), place / f"{number}.parquet")


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=6))
@example([("1", "x"), (NULL, "2"), ("3", NULL)])
@example([("2147483648", "1"), ("1", "1")])
@settings(max_examples=150)
def test_keys_have_the_values_and_types_that_pyarrow_gives_them(pairs):
    with tempfile.TemporaryDirectory() as root:
        write(root, [f"k={k}/l={value}" for k, value in pairs])
        if any(set(of_key) == {NULL} for of_key in zip(*pairs, strict=True)):
            return  # an error there, and text here, see below
        expected = columns_of_arrow(root, ["k", "l"])

        assert columns_of_ours(root, ["k", "l"]).equals(expected)


def test_a_key_of_nulls_alone_is_text(tmp_path):
    write(tmp_path, [f"k={NULL}"])

    assert columns_of_ours(tmp_path, ["k"]).to_pydict() == {"k": [None], "v": [0.0]}


def test_a_file_that_is_below_no_such_folder_has_null_or_its_own_column(tmp_path):
    write(tmp_path, ["k=1", "", "k=2/l=x"])
    assert columns_of_ours(tmp_path, ["k", "l"]).equals(columns_of_arrow(tmp_path, ["k", "l"]))

    put_table(tmp_path, "own.parquet", pa.table({"v": [9.0], "k": pa.array([7], pa.int32())}))
    assert columns_of_ours(tmp_path, ["k"]).column("k").to_pylist() == [1, None, 2, 7]


def test_keys_of_files_that_have_no_columns_are_read_too(tmp_path):
    for folder in ("k=1", "x"):
        put_array(tmp_path, f"{folder}/x.npy", np.ones((2, 2)))
    source = open_source(tmp_path)

    found = [source.columns_of(block, ["k"]) for block in source.describe().blocks]

    assert pa.concat_tables(found).to_pydict() == {"k": [1, 1, None, None]}


def test_what_pyarrow_writes_is_read_back(tmp_path):
    table = pa.table(
        {"v": [1.0, 2.0, 3.0], "lang": ["en us", "a=b/c", None], "year": [2023, 2024, 2024]}
    )
    ds.write_dataset(
        table, tmp_path, format="parquet", partitioning=["lang", "year"], partitioning_flavor="hive"
    )

    found = columns_of_ours(tmp_path, ["lang", "year"])

    assert found.to_pydict() == table.select(["lang", "year", "v"]).to_pydict()


@pytest.mark.parametrize(
    "filters", [[("year", "=", 2024)], [("year", "<", 2024)], [("lang", "in", ["en us", "x"])]]
)
def test_filters_pass_the_rows_that_pass_in_pyarrow(tmp_path, filters):
    write(tmp_path, ["year=2023/lang=en%20us", "year=2024/lang=de", f"year={NULL}/lang=en us"])
    source = open_source(tmp_path, ["v"], filters=filters)
    blocks = source.describe().blocks
    rows = [rows[0, 0] for _, rows in source.read(blocks)]

    passing = [v for v, (w,) in zip(rows, source.weights_of(blocks), strict=True) if w]

    expected = pq.read_table(tmp_path, filters=filters).column("v").to_pylist()
    assert sorted(passing) == sorted(expected)


def test_one_type_for_a_key_over_all_files(tmp_path):
    write(tmp_path, ["k=1", "k=two", f"k={NULL}"])
    source = open_source(tmp_path, ["v"])

    types = {source.columns_of(block, ["k"]).schema for block in source.describe().blocks}

    assert types == {pa.schema([("k", pa.string())])}
    assert source.partition_schema == pa.schema([("k", pa.string())])


def test_two_values_of_one_key_are_refused_where_it_is_asked_for(tmp_path):
    write(tmp_path, ["k=1/k=2/l=3", "k=1/k=1/l=4"])
    source = open_source(tmp_path, ["v"])
    one, two = source.describe().blocks

    with pytest.raises(DataError, match=r"folders that give 'k' different values \(\['1', '2'\]\)"):
        source.columns_of(two, ["k"])
    assert source.columns_of(one, ["k"]).to_pydict() == {"k": [1]}
    assert source.columns_of(two, ["l"]).to_pydict() == {"l": [3]}


def test_a_folder_that_is_no_text_is_refused():
    with pytest.raises(DataError, match="no UTF-8 once it is unquoted"):
        keys_of("k=%ff/x.parquet")
