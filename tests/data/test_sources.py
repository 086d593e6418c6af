from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_kmeans.data.array import ArraySource
from ray_kmeans.data.opening import open_source
from ray_kmeans.errors import ConfigError, DataError
from ray_kmeans.testing import SourceContract
from tests.conftest import shared_data
from tests.support.files import in_blocks, put, put_array, put_table, rows_of

FILES = {"a": 150, "b": 1, "c": 0, "sub/d": 90}  # rows of each
MATRIX = np.random.default_rng(0).normal(size=(241, 3))
ROWS = MATRIX.astype(np.float32)


def as_table(part, layout, first=0):
    """Return some rows as a table in one of the three layouts, with columns that are not rows."""
    part = part.astype(np.float32)
    numbers = np.arange(first, first + len(part))
    others = {"id": numbers, "name": [f"row {n}" for n in numbers]}
    if layout == "many columns":
        return pa.table({"name": others["name"], **dict(zip("abc", part.T, strict=True))})
    kinds = {"FixedSizeList": pa.list_(pa.float32(), 3), "List": pa.list_(pa.float64())}
    return pa.table({**others, "vector": pa.array(list(part), kinds[layout])})


def parts():
    first = 0
    for name, rows in FILES.items():
        yield name, first, MATRIX[first : first + rows]
        first += rows


LAYOUTS = ["FixedSizeList", "List", "many columns"]


class TestParquet(SourceContract):
    @pytest.fixture(params=LAYOUTS)
    def source_and_rows(self, request, root):
        for name, first, part in parts():
            table = as_table(part, request.param, first)
            put_table(root, f"{name}.parquet", table, row_group_size=100)
        return in_blocks(root, 40, batch_rows=16), ROWS

    def test_other_columns_are_those_of_the_same_rows(self, source_and_rows):
        source, _ = source_and_rows

        for block in source.describe().blocks:
            names = source.columns_of(block, ["name"]).column("name").to_pylist()
            assert names == [f"row {n}" for n in range(block.first, block.first + block.rows)]

    def test_only_memory_is_of_this_process_alone(self, source_and_rows, root):
        assert source_and_rows[0].only_here == root.startswith("memory:")


class TestParquetWithBlocksOfFullSize(SourceContract):
    @pytest.fixture(params=[40_000, 17_000])
    def source_and_rows(self, request, tmp_path):
        X = np.random.default_rng(1).normal(size=(40_000, 2)).astype(np.float32)
        table = pa.table({"x": pa.array(list(X), pa.list_(pa.float32(), 2))})
        put_table(tmp_path, "x.parquet", table, row_group_size=request.param)
        return open_source(tmp_path), X


class TestDigits(SourceContract):
    @pytest.fixture
    def source_and_rows(self):
        folder = shared_data("digits")
        tables = [pq.read_table(file) for file in sorted(folder.glob("*.parquet"))]
        return open_source(folder), np.array(
            pa.concat_tables(tables).column("pixels").to_pylist(), np.float32
        )


class TestNpy(SourceContract):
    @pytest.fixture(params=[np.float32, np.float64, ">f4", np.int16])
    def source_and_rows(self, request, root):
        for name, _, part in parts():
            put_array(root, f"{name}.npy", (part * 100).astype(request.param))
        return in_blocks(root, 40), (MATRIX * 100).astype(request.param).astype(np.float32)


class TestNpyWithBlocksOfFullSize(SourceContract):
    @pytest.fixture
    def source_and_rows(self, tmp_path):
        X = np.random.default_rng(2).normal(size=(40_000, 2)).astype(np.float32)
        put_array(tmp_path, "x.npy", X)
        return open_source(tmp_path / "x.npy"), X


class TestNpyByColumns(SourceContract):
    @pytest.fixture(params=["float64", "<f4", ">f4", "uint8", "int64"])
    def source_and_rows(self, request, root):
        x = (MATRIX * 20).astype(np.int64).astype(request.param)
        for name, rows in {"a": slice(0, 1), "b": slice(1, None)}.items():
            put_array(root, f"{name}.npy", np.asfortranarray(x[rows]))
        return in_blocks(root, 40), x.astype(np.float32)

    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    def test_an_archive_is_read_so_where_it_is_stored(self, root, save):
        put(root, "x.npz", lambda file: save(file, x=np.asfortranarray(ROWS)))

        if save is np.savez:
            np.testing.assert_array_equal(rows_of(in_blocks(root, 40)), ROWS)
            return
        with pytest.raises(DataError, match=r"x\.npz is compressed column by column"):
            open_source(root).describe()


ARRAYS = {
    "float32": ROWS,
    "column-major": np.asfortranarray(ROWS),
    "a slice": np.repeat(ROWS, 2, axis=1)[:, ::2],
    "float64": MATRIX,
    "float16": MATRIX.astype(np.float16),
    "int64": (MATRIX * 100).astype(np.int64),
    "uint8": (MATRIX * 20).astype(np.int64).astype(np.uint8),
    "bool": MATRIX > 0,
    "lists": MATRIX.tolist(),
}


class TestArray(SourceContract):
    @pytest.fixture(params=ARRAYS)
    def source_and_rows(self, request):
        x = ARRAYS[request.param]
        return in_blocks(x, 40), np.array(x, np.float32)


class TestArrayWithBlocksOfFullSize(SourceContract):
    @pytest.fixture
    def source_and_rows(self):
        X = np.arange(80_000, dtype=np.float32).reshape(40_000, 2)
        return open_source(X), X


class TestTable(SourceContract):
    @pytest.fixture(params=[(layout, form) for layout in LAYOUTS for form in ("table", "batch")])
    def source_and_rows(self, request):
        layout, form = request.param
        whole = as_table(np.vstack([MATRIX[:7], MATRIX]), layout, first=-7)
        if form == "batch":
            return in_blocks(whole.combine_chunks().to_batches()[0].slice(7), 40), ROWS
        return in_blocks(pa.concat_tables([whole.slice(7, 50), whole.slice(57)]), 40), ROWS

    def test_other_columns_are_those_of_the_same_rows(self, source_and_rows):
        source, _ = source_and_rows

        for block in source.describe().blocks:
            names = source.columns_of(block, ["name"]).column("name").to_pylist()
            assert names == [f"row {n}" for n in range(block.first, block.first + block.rows)]


def test_a_float32_array_is_not_copied():
    [block] = ArraySource.of(ROWS).describe().blocks

    [(_, rows)] = ArraySource.of(ROWS).read([block])

    assert np.shares_memory(rows, ROWS)


def test_columns_of_a_dict_are_taken_by_their_sorted_names():
    assert rows_of({"b": [1, 2], "a": [[3.5, 4], [5, 6]]}).tolist() == [[3.5, 4, 1], [5, 6, 2]]


def test_the_columns_asked_for_come_in_that_order(root):
    table = as_table(MATRIX, "many columns")
    put_table(root, "x.parquet", table)

    for x in (root, table):
        source = open_source(x, columns=["c", "a"])
        [(_, rows)] = source.read(source.describe().blocks)
        np.testing.assert_array_equal(rows, ROWS[:, [2, 0]])


def test_columns_go_by_name_whatever_their_order_in_a_file(root):
    put_table(root, "1.parquet", pa.table({"a": [1.0], "b": [2.0]}))
    put_table(root, "2.parquet", pa.table({"b": [4.0], "a": [3.0]}))

    assert rows_of(root).tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("first", ["1", "3"])
def test_a_column_of_some_files_alone_is_named_with_a_file_that_lacks_it(root, first):
    put_table(root, f"{first}.parquet", pa.table({"a": [1.0], "b": [2.0]}))
    put_table(root, "2.parquet", pa.table({"a": [3.0], "b": [4.0], "more": [5.0]}))

    with pytest.raises(ConfigError, match=rf"\['more'\] are not in .*{first}\.parquet"):
        open_source(root)
    assert sorted(rows_of(open_source(root, columns=["a", "b"])).tolist()) == [[1, 2], [3, 4]]


def test_hidden_files_and_other_formats_are_passed_over(root):
    for name in ("a", "_b", ".c", "_temporary/d", ".e/f"):
        put_array(root, f"{name}.npy", np.full((1, 2), ord(name[0])))
    put(root, "_SUCCESS", lambda file: file.write(b""))
    put(root, "notes.txt", lambda file: file.write(b"text"))

    assert rows_of(root).tolist() == [[97, 97]]
    assert rows_of(f"{root}/").tolist() == [[97, 97]]


def test_a_folder_below_a_hidden_folder_can_be_read(root):
    put_array(root, "_scratch/x.npy", np.ones((1, 2)))

    assert rows_of(f"{root}/_scratch").tolist() == [[1, 1]]


def test_a_glob_takes_what_matches_in_sorted_order(root):
    for name, value in {"b-2": 3, "b-10": 2, "a": 0, "b.txt": 9}.items():
        put_array(root, name if "." in name else f"{name}.npy", np.full((1, 2), value))

    assert rows_of(f"{root}/b*").tolist() == [[2, 2], [3, 3]]


def test_a_single_file_can_be_named(root):
    put_array(root, "a.npy", np.zeros((1, 2)))
    put_array(root, "b.npy", np.ones((1, 2)))

    assert rows_of(f"{root}/b.npy").tolist() == [[1, 1]]


def test_a_file_that_was_written_after_the_first_look_is_found(root):
    put_array(root, "a.npy", np.zeros((1, 2)))
    before = len(rows_of(root))
    put_array(root, "b.npy", np.zeros((1, 2)))

    assert (before, len(rows_of(root))) == (1, 2)


def test_files_of_a_list_come_in_its_order(root):
    for name, value in (("b", 1.0), ("a", 2.0), ("c", 3.0)):
        put_array(root, f"{name}.npy", np.full((2, 3), value))

    rows = rows_of([f"{root}/b.npy", f"{root}/a.npy"])

    assert rows[:, 0].tolist() == [1, 1, 2, 2]


def test_a_list_may_hold_folders_and_globs(root):
    for name in ("x/1.npy", "x/2.npy", "y/1.npy", "y/2.npy"):
        put_array(root, name, np.full((1, 2), float(name[2]) + 10 * (name[0] == "y")))

    rows = rows_of([f"{root}/y", f"{root}/x/2*"])

    assert rows[:, 0].tolist() == [11, 12, 2]


def test_key_value_folders_are_columns_to_keep_and_no_features(root):
    table = pa.table({"a": [1.0, 2.0], "b": [3.0, 4.0]})
    put_table(root, "day=2/lang=en/x.parquet", table)
    put_table(root, "day=1/lang=de/x.parquet", table)
    source = open_source(root)

    layout = source.describe()
    kept = [source.columns_of(block, ["lang", "a", "day"]).to_pydict() for block in layout.blocks]

    assert layout.features == 2
    assert kept == [
        {"lang": ["de", "de"], "a": [1.0, 2.0], "day": [1, 1]},
        {"lang": ["en", "en"], "a": [1.0, 2.0], "day": [2, 2]},
    ]
