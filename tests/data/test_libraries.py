"""Objects of other libraries: each against what the library itself reads; and a user's own."""

from __future__ import annotations

import subprocess
import sys
import tempfile

import fsspec
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.data.datasets import registry
from ray_kmeans.data.datasets.base import raise_data_errors
from ray_kmeans.data.opening import open_source
from ray_kmeans.data.source import Source
from ray_kmeans.data.stream import is_stream
from ray_kmeans.errors import ConfigError, DataError, NoDataError
from ray_kmeans.testing import SourceContract
from tests.support.files import put, put_table, rows_of
from tests.support.foreign_data import (
    LAYOUTS,
    ROWS,
    WithNames,
    as_table,
    in_small_blocks,
    refuse,
)
from tests.support.squares import Squares


class TestArrowDataset(WithNames):
    @pytest.fixture(params=[(form, layout) for form in ("parquet", "ipc") for layout in LAYOUTS])
    def source_and_rows(self, request, root):
        form, layout = request.param
        table = as_table(layout)
        for number, begin in enumerate(range(0, 241, 100)):
            part = table.slice(begin, 100)
            if form == "parquet":
                put_table(root, f"{number}.parquet", part, row_group_size=60)
            else:
                put(root, f"{number}.arrow", lambda file, part=part: write_ipc(file, part))
        fs, path = fsspec.url_to_fs(root)
        return in_small_blocks(ds.dataset(path, format=form, filesystem=fs)), ROWS

    def test_only_memory_is_of_this_process_alone(self, source_and_rows, root):
        assert source_and_rows[0].only_here == root.startswith("memory:")


def write_ipc(file, table):
    with pa.ipc.new_file(file, table.schema) as out:
        out.write_table(table, max_chunksize=60)


class TestADatasetOfArrow:
    @hypothesis.given(
        sizes=st.lists(st.integers(0, 150), min_size=1, max_size=3),
        group=st.integers(1, 90),
        picks=st.data(),
    )
    @hypothesis.settings(max_examples=25)
    def test_any_blocks_of_any_files_are_the_rows_of_the_table(self, sizes, group, picks):
        with tempfile.TemporaryDirectory() as folder:
            for number, size in enumerate(sizes):
                part = pa.table({"x": np.arange(size, dtype=np.float32) + 1000 * number})
                put_table(folder, f"{number}.parquet", part, row_group_size=group)
            x = ds.dataset(folder)
            source = in_small_blocks(x)
            blocks = source.describe().blocks
            chosen = picks.draw(st.lists(st.sampled_from(blocks))) if blocks else []

            whole = x.to_table()["x"].to_numpy()
            for block, rows in source.read(chosen):
                expected = whole[block.first : block.first + block.rows]
                np.testing.assert_array_equal(rows[:, 0], expected)

    def test_partitions_are_columns_to_keep_and_no_features(self, tmp_path):
        for year in (1, 2):
            put_table(tmp_path, f"year={year}/x.parquet", pa.table({"a": [1.0 * year], "b": [3.0]}))
        x = ds.dataset(tmp_path, partitioning="hive")

        source = open_source(x)

        assert rows_of(x).tolist() == [[1, 3], [2, 3]]
        blocks = source.describe().blocks
        assert [source.columns_of(b, ["year"])["year"].to_pylist() for b in blocks] == [[1], [2]]
        chosen = open_source(x, columns=["year", "a"])
        rows = [rows.tolist() for _, rows in chosen.read(chosen.describe().blocks)]
        assert rows == [[[1, 1]], [[2, 2]]]

    def test_the_schema_of_the_dataset_rules_and_not_that_of_a_file(self, tmp_path):
        put_table(tmp_path, "1.parquet", pa.table({"a": [1], "b": [2]}))
        put_table(tmp_path, "2.parquet", pa.table({"b": [2.5], "a": [7]}))

        x = ds.dataset(tmp_path, schema=pa.schema({"b": pa.float64(), "a": pa.float32()}))

        assert rows_of(x).tolist() == [[2, 1], [2.5, 7]]

    def test_a_union_of_datasets_has_the_rows_of_both(self, tmp_path):
        for name in "ab":
            put_table(tmp_path, f"{name}.parquet", pa.table({"x": [float(ord(name))]}))
        a, b = (ds.dataset(tmp_path / f"{name}.parquet") for name in "ab")

        assert rows_of(ds.dataset([b, a])).tolist() == [[98], [97]]
        refuse(ds.dataset([a, a]), ConfigError, "a.parquet twice")

    def test_row_groups_that_were_left_out_stay_out(self, tmp_path):
        put_table(tmp_path, "x.parquet", pa.table({"x": np.arange(9.0)}), row_group_size=3)
        whole = ds.dataset(tmp_path)
        [file] = whole.get_fragments()
        part = file.subset(row_group_ids=[2, 0])

        x = ds.FileSystemDataset([part], whole.schema, whole.format, file.filesystem)

        assert rows_of(x).ravel().tolist() == x.to_table()["x"].to_pylist()
        assert sorted(rows_of(x).ravel()) == [0, 1, 2, 6, 7, 8]

    def test_a_filter_is_refused_with_what_to_do(self, tmp_path):
        put_table(tmp_path, "x.parquet", pa.table({"x": [1.0, 2.0]}))

        refuse(ds.dataset(tmp_path).filter(ds.field("x") > 1), ConfigError, "filter", "to_table()")

    def test_other_formats_are_refused_with_what_to_do(self, tmp_path):
        put(tmp_path, "x.csv", lambda file: file.write(b"a\n1\n"))

        refuse(ds.dataset(tmp_path, format="csv"), ConfigError, "Dataset of csv", "to_table()")
        refuse(
            ds.dataset(pa.table({"a": [1]})), ConfigError, "InMemoryDataset of memory", "to_table()"
        )

    def test_a_dataset_without_a_file(self, tmp_path):
        refuse(ds.dataset(tmp_path, schema=pa.schema({"a": pa.int8()})), NoDataError, "without a")

    def test_a_file_that_has_changed_since_is_named(self, tmp_path):
        put_table(tmp_path, "x.parquet", pa.table({"x": [1.0, 2.0]}))
        source = open_source(ds.dataset(tmp_path))
        blocks = source.describe().blocks
        put_table(tmp_path, "x.parquet", pa.table({"x": [1.0, 2.0, 3.0]}))

        with pytest.raises(DataError, match=r"x\.parquet has changed since the run was planned"):
            list(source.read(blocks))
        (tmp_path / "x.parquet").unlink()
        with pytest.raises(DataError, match=r"x\.parquet is gone"):
            list(source.read(blocks))

    def test_a_damaged_file_is_named(self, tmp_path):
        put_table(tmp_path, "x.parquet", pa.table({"x": np.random.default_rng(0).normal(size=99)}))
        data = (tmp_path / "x.parquet").read_bytes()
        x = ds.dataset(tmp_path)
        (tmp_path / "x.parquet").write_bytes(data[:4] + b"\xff" * 300 + data[304:])

        with pytest.raises(DataError, match="cannot read the dataset"):
            rows_of(in_small_blocks(x))

    def test_null_rows_before_the_first_vector_do_not_hide_its_length(self, tmp_path):
        vectors = pa.array([None] * 50 + [[1.0, 2.0]], pa.list_(pa.float32()))
        put_table(tmp_path, "x.parquet", pa.table({"v": vectors}))

        assert open_source(ds.dataset(tmp_path)).describe().features == 2

    def test_only_null_rows_are_an_error(self, tmp_path):
        vectors = pa.array([None] * 50, pa.list_(pa.float32()))
        put_table(tmp_path, "x.parquet", pa.table({"v": vectors}))

        refuse(ds.dataset(tmp_path), DataError, "no row of the dataset tells how many features")


class TestHuggingFace(WithNames):
    @pytest.fixture(params=[(form, layout) for form in ("mapped", "held") for layout in LAYOUTS])
    def source_and_rows(self, request, tmp_path):
        datasets = pytest.importorskip("datasets")
        datasets.disable_progress_bars()
        form, layout = request.param
        x = datasets.Dataset(pa.table(as_table(layout)))
        if form == "mapped":
            x.save_to_disk(tmp_path, num_shards=3)
            x = datasets.load_from_disk(tmp_path)
        return in_small_blocks(x), ROWS


class TestHuggingFaceShuffled(SourceContract):
    @pytest.fixture
    def source_and_rows(self):
        datasets = pytest.importorskip("datasets")
        x = datasets.Dataset(as_table("List")).shuffle(seed=3).select(range(5, 200))
        order = x["id"][:]
        assert order != sorted(order)
        return in_small_blocks(x.with_format("numpy")), ROWS[order]


class TestADataSetOfHuggingFace:
    @pytest.fixture
    def x(self):
        return pytest.importorskip("datasets").Dataset(as_table("List"))

    def test_it_is_no_stream_of_rows(self, x):
        assert not is_stream(x)

    def test_its_blocks_are_those_of_an_array(self, x):
        sizes = [block.rows for block in in_small_blocks(ROWS).describe().blocks]

        assert [block.rows for block in in_small_blocks(x).describe().blocks] == sizes

    def test_columns_can_be_chosen(self, x):
        source = open_source(x, columns=["id"])

        assert source.describe().features == 1
        refuse(x, ConfigError, "['no']", columns=["no"])

    def test_a_dictionary_of_splits_is_refused_by_their_names(self, x):
        import datasets

        refuse(
            datasets.DatasetDict(train=x, test=x), ConfigError, "['train', 'test']", "x['train']"
        )
        refuse(datasets.DatasetDict(), ConfigError, "without a split")

    def test_a_stream_of_single_rows_is_refused(self, x):
        refuse(x.to_iterable_dataset(), ConfigError, "iter(batch_size=65536)")

    def test_batches_of_a_stream_can_be_fit(self, x, tmp_path):
        batches = x.to_iterable_dataset().select_columns(["v"]).with_format("arrow")
        here = RunConfig(num_workers=0, progress=False)

        km = KMeansClustering(4, str(tmp_path), use_mini_batch=True, config=here)
        km.partial_fit(batches.iter(batch_size=100))

        assert km.clusters().shape == (4, 3)


def test_a_class_of_the_same_name_elsewhere_is_not_taken_for_a_library():
    class Dataset(list):
        pass

    assert registry.opener_of(Dataset()) is None


def test_what_a_library_says_is_told_in_one_line_and_without_signatures():
    with pytest.raises(DataError) as caught, raise_data_errors("s3://b/x.lance"):
        raise OSError("no https://b/x?X-Amz-Signature=secret\n  at frame 1")

    assert str(caught.value) == "cannot read s3://b/x.lance: OSError: no https://b/x?***"


def test_opening_an_array_imports_no_library_of_data_sets():
    code = (
        "import sys, numpy; from ray_kmeans import open_source; open_source(numpy.ones((2, 2)));"
        "names = {'zarr', 'lance', 'deltalake', 'datasets', 'ray', 'pandas', 'pyarrow.dataset'};"
        "print(names & set(sys.modules))"
    )

    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert shown.stdout.strip() == "set()"


class TestAUsersOwn(SourceContract):
    @pytest.fixture
    def source_and_rows(self):
        numbers = np.arange(200, dtype=np.float32)
        return Squares(200, block_rows=40), np.stack([numbers, numbers**2], axis=1)


def test_a_users_own_source_of_three_methods_can_be_fit(tmp_path):
    here = RunConfig(num_workers=0, progress=False)
    rows = np.stack([np.arange(200.0), np.arange(200.0) ** 2], axis=1).astype(np.float32)

    fits = [
        KMeansClustering(3, str(tmp_path / name), random_seed=1, use_mini_batch=False, config=here)
        .fit(x, steps=3)
        .clusters()
        for name, x in {"own": Squares(200, 40), "array": in_small_blocks(rows)}.items()
    ]

    assert isinstance(Squares(200), Source)
    np.testing.assert_array_equal(*fits)


@pytest.mark.parametrize("only_here", [None, False, True])
def test_a_users_own_source_is_refused_workers_only_where_it_says_so(only_here):
    from ray_kmeans.workflows.worker_plan import check_reachable

    source = Squares(9)
    if only_here is not None:
        source.only_here = only_here
    check_reachable(RunConfig(num_workers=0), {"the data": source})

    if only_here:
        with pytest.raises(ConfigError, match="the data is in the memory of this process"):
            check_reachable(RunConfig(num_workers=2), {"the data": source})
    else:
        check_reachable(RunConfig(num_workers=2), {"the data": source})
