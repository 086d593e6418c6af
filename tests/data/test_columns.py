"""Arrow columns of every kind that holds numbers give the same rows, in Parquet and in tables."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_kmeans.data import columns
from ray_kmeans.data.opening import open_source
from ray_kmeans.errors import ConfigError, DataError
from tests.support.files import in_blocks, put_table, rows_of

MATRIX = np.random.default_rng(0).integers(0, 100, size=(90, 6))
ROWS = MATRIX.astype(np.float32)
NUMBERS = {
    "float16": pa.float16(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    **{
        f"{sign}int{bits}": getattr(pa, f"{sign}int{bits}")()
        for sign in ("", "u")
        for bits in (8, 64)
    },
}
LISTS = {
    "List": pa.list_,
    "LargeList": pa.large_list,
    "FixedSizeList": lambda number: pa.list_(number, 6),
    "ListView": pa.list_view,
}
TENSOR = pa.fixed_shape_tensor(pa.float32(), [2, 3])


@pytest.fixture
def root(tmp_path):
    return str(tmp_path)


def encoded(matrix):
    """Return vectors as a dictionary of them all, from the last to the first."""
    last_first = pa.array(matrix[::-1].tolist(), pa.list_(pa.float32()))
    indices = pa.array(np.arange(len(matrix))[::-1].astype(np.int32))
    return pa.DictionaryArray.from_arrays(indices, last_first)


VECTORS = {
    f"{name} of {number}": lambda matrix, make=make, kind=kind: pa.array(
        matrix.astype(kind.to_pandas_dtype()).tolist(), make(kind)
    )
    for name, make in LISTS.items()
    for number, kind in NUMBERS.items()
} | {
    "FixedShapeTensor": lambda matrix: pa.ExtensionArray.from_storage(
        TENSOR, pa.array(matrix.astype(np.float32).tolist(), TENSOR.storage_type)
    ),
    "list of encoded numbers": lambda matrix: pa.ListArray.from_arrays(
        pa.array(np.arange(0, matrix.size + 1, 6), pa.int32()),
        pa.array(matrix.ravel().astype(np.float32)).dictionary_encode(),
    ),
}


def both(root, table, wanted=None, **options):
    """Return the sources of a table and of its file."""
    put_table(root, "x.parquet", table, row_group_size=50, **options)
    return in_blocks(table, 40, wanted), in_blocks(root, 40, wanted, batch_rows=16)


def nested(vectors, nulls=()):
    """Return documents whose struct, or the one in it, is null in some rows."""
    n = len(vectors)
    inner = pa.StructArray.from_arrays(
        [vectors, pa.array([f"t{i}" for i in range(n)])], ["embedding", "text"]
    )
    mask = pa.array([i in nulls for i in range(n)])
    return pa.StructArray.from_arrays([inner, pa.array(range(n))], ["in", "n"], mask=mask)


@pytest.mark.parametrize("kind", [kind for kind in VECTORS if "ListView" not in kind])
def test_a_column_of_vectors_of_any_kind_gives_the_same_rows(root, kind):
    for source in both(root, pa.table({"v": VECTORS[kind](MATRIX)})):
        np.testing.assert_array_equal(rows_of(source), ROWS)


@pytest.mark.parametrize("kind", VECTORS)
def test_a_slice_of_a_table_gives_its_rows_for_vectors_of_any_kind(kind):
    table = pa.table({"v": VECTORS[kind](MATRIX)}).slice(7, 50)

    np.testing.assert_array_equal(rows_of(in_blocks(table, 40)), ROWS[7:57])


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("encode", [False, True])
def test_columns_of_numbers_of_any_type_give_the_same_rows(root, number, encode):
    of_type = [pa.array(part.astype(NUMBERS[number].to_pandas_dtype())) for part in MATRIX.T]
    if encode and number != "float16":  # of which Arrow has no dictionaries
        of_type = [part.dictionary_encode() for part in of_type]

    for source in both(root, pa.table(of_type, names=list("abcdef")), list("abcdef")):
        np.testing.assert_array_equal(rows_of(source), ROWS)


@pytest.mark.parametrize("use_dictionary", [True, False])
def test_the_pages_of_a_file_may_be_encoded_by_a_dictionary(root, use_dictionary):
    table = pa.table({"v": VECTORS["List of float32"](MATRIX)})

    for source in both(root, table, use_dictionary=use_dictionary):
        np.testing.assert_array_equal(rows_of(source), ROWS)


def test_vectors_may_be_encoded_by_a_dictionary():
    np.testing.assert_array_equal(rows_of(in_blocks(pa.table({"v": encoded(MATRIX)}), 40)), ROWS)


@given(
    kind=st.sampled_from(sorted(VECTORS)),
    nulls=st.sets(st.integers(0, 29)),
    begin=st.integers(0, 20),
)
def test_a_field_of_structs_is_found_by_its_path_and_null_where_they_are(kind, nulls, begin):
    table = pa.table({"doc": nested(VECTORS[kind](MATRIX[:30]), nulls)}).slice(begin)
    expected = ROWS[:30].copy()
    expected[sorted(nulls)] = np.nan

    if (
        nulls >= set(range(begin, 30))
        and columns.features_of(table.schema, ["doc.in.embedding"]) == 0
    ):
        with pytest.raises(DataError, match="holds no vector"):
            open_source(table, columns=["doc.in.embedding"])
        return
    rows = rows_of(open_source(table, columns=["doc.in.embedding"]))

    np.testing.assert_array_equal(rows, expected[begin:])


@pytest.mark.parametrize("kind", ["List of float32", "FixedSizeList of int8", "FixedShapeTensor"])
def test_a_field_of_structs_is_read_from_a_file_and_others_are_passed_through(root, kind):
    table = pa.table({"doc": nested(VECTORS[kind](MATRIX), {0, 3, 60})})
    expected = ROWS.copy()
    expected[[0, 3, 60]] = np.nan

    for source in both(root, table, ["doc.in.embedding"]):
        np.testing.assert_array_equal(rows_of(source), expected)
        kept = [
            source.columns_of(block, ["doc.n", "doc.in.text"]) for block in source.describe().blocks
        ]
        whole = pa.concat_tables(kept).to_pydict()
        nulls = [n if n in (0, 3, 60) else None for n in range(90)]
        assert whole == {
            "doc.n": [n if nulls[n] is None else None for n in range(90)],
            "doc.in.text": [f"t{n}" if nulls[n] is None else None for n in range(90)],
        }


def test_fields_of_structs_are_columns_of_numbers_too(root):
    table = pa.table({"p": pa.array([{"x": 1, "y": 2.5}, {"x": 3, "y": None}]), "z": [7, 8]})

    for source in both(root, table, ["p.y", "z", "p.x"]):
        np.testing.assert_array_equal(rows_of(source), [[2.5, 7, 1], [np.nan, 8, 3]])


def test_a_column_whose_name_has_a_dot_goes_before_a_field(root):
    table = pa.table({"a": pa.array([{"b": 1.0}]), "a.b": [2.0], "a.c": [3.0]})

    for source in both(root, table, ["a.b", "a.c"]):
        assert rows_of(source).tolist() == [[2, 3]]
        assert source.columns_of(source.describe().blocks[0], ["a.b"]).to_pydict() == {"a.b": [2]}


@pytest.mark.parametrize("name", ["doc.no", "doc", "doc.", ".in", "doc.in", "no.in", "doc.n.x", ""])
def test_a_path_that_leads_to_no_numbers_is_an_error(root, name):
    table = pa.table({"doc": nested(VECTORS["List of float32"](MATRIX)), "a": MATRIX[:, 0]})
    put_table(root, "x.parquet", table)

    for x in (table, root):
        with pytest.raises(ConfigError, match=f"'{name}'"):
            open_source(x, columns=[name])


def test_a_file_of_structs_alone_says_how_to_name_a_field(root):
    put_table(root, "x.parquet", pa.table({"doc": nested(VECTORS["List of float32"](MATRIX))}))

    with pytest.raises(
        DataError, match=r"x\.parquet has no numeric column .*columns.*'doc\.embedd"
    ):
        open_source(root)


def test_a_name_that_two_columns_have_is_an_error(root):
    table = pa.table([[1.0], [2.0]], names=["a", "a"])
    put_table(root, "x.parquet", table)

    for x in (table, root):
        for wanted in (None, ["a"]):
            with pytest.raises(ConfigError, match="one name for several columns"):
                open_source(x, columns=wanted)


@pytest.mark.parametrize("bad", [[1.0], [], [1.0] * 7])
@pytest.mark.parametrize("kind", ["List", "LargeList", "ListView"])
def test_a_ragged_list_names_its_row_wherever_nulls_are(root, kind, bad):
    vectors = [[1.0] * 6] * 90
    vectors[2] = vectors[53] = None
    vectors[57] = bad  # row 7 of row group 1
    table = pa.table({"v": pa.array(vectors, LISTS[kind](pa.float32()))})
    put_table(root, "x.parquet", table, row_group_size=50)

    with pytest.raises(
        DataError, match=rf"x\.parquet: row 7 has {len(bad)} features where .* has 6"
    ):
        rows_of(in_blocks(root, 40, batch_rows=16))


FIRST = pa.table({"v": VECTORS["FixedSizeList of float32"](MATRIX)})
AGREE = ("List of int8", "LargeList of float64", "FixedShapeTensor")
DISAGREE = {
    "a number": (pa.table({"v": [1.0]}), "has 1 features"),
    "a text": (pa.table({"v": ["a"]}), "'v': 'string'"),
    "no such column": (pa.table({"w": [1.0] * 6}), r"\['v'\] are not in"),
    "a struct": (pa.table({"v": [{"v": [1.0] * 6}]}), "'v': 'struct"),
    "another length": (pa.table({"v": [[1.0] * 5]}), "has 5 features"),
}


@pytest.mark.parametrize("kind", AGREE)
def test_files_may_keep_the_same_vectors_in_other_ways(root, kind):
    put_table(root, "1.parquet", FIRST)
    put_table(root, "2.parquet", pa.table({"more": ["x"] * 90, "v": VECTORS[kind](MATRIX)}))

    rows = rows_of(in_blocks(root, 40, batch_rows=16))

    np.testing.assert_array_equal(rows, np.vstack([ROWS, ROWS]))


@pytest.mark.parametrize("how", DISAGREE)
def test_a_file_that_disagrees_with_the_first_is_named(root, how):
    second, text = DISAGREE[how]
    put_table(root, "1.parquet", FIRST)
    put_table(root, "2.parquet", second)

    with pytest.raises((ConfigError, DataError), match=text) as caught:
        open_source(root).describe()

    assert "2.parquet" in str(caught.value)
