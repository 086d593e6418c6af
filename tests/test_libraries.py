"""Data sets of other libraries: each against what the library itself reads, and what it refuses."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
import tempfile
import uuid

import fsspec
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.data import arrow_dataset, libraries, plan, zarr_array
from ray_kmeans.data.lance_dataset import in_words_of_lance
from ray_kmeans.data.source import Source, open_source
from ray_kmeans.data.stream import is_stream
from ray_kmeans.errors import ConfigError, DataError, NoDataError
from ray_kmeans.testing import SourceContract
from tests.files import put, put_table, rows_of
from tests.servers import s3_server

MATRIX = np.random.default_rng(0).normal(size=(241, 3))
ROWS = MATRIX.astype(np.float32)
LAYOUTS = ["FixedSizeList", "List", "many columns"]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(plan, "BLOCK_ROWS", 40)
    monkeypatch.setattr(arrow_dataset, "BATCH_ROWS", 16)
    monkeypatch.setattr(zarr_array, "BLOCK_ROWS", 40)


@pytest.fixture(params=["local", "memory"])
def root(request, tmp_path):
    return str(tmp_path) if request.param == "local" else f"memory://{uuid.uuid4().hex}"


def as_table(layout, rows=ROWS):
    """Return rows as a table with a column that is no number, in one of three layouts."""
    names = [f"row {n}" for n in range(len(rows))]
    if layout == "many columns":
        return pa.table({"name": names, **dict(zip("abc", rows.T, strict=True))})
    kinds = {"FixedSizeList": pa.list_(pa.float32(), 3), "List": pa.list_(pa.float64())}
    return pa.table(
        {"name": names, "id": range(len(rows)), "v": pa.array(list(rows), kinds[layout])}
    )


def refuse(x, error, *texts, **options):
    with pytest.raises(error) as caught:
        open_source(x, **options).describe()
    for text in texts:
        assert text in str(caught.value)


class WithNames(SourceContract):
    """The contract, and a column `name` beside the rows."""

    def test_other_columns_are_those_of_the_same_rows(self, source_and_rows):
        source, _ = source_and_rows

        for block in reversed(source.describe().blocks):
            names = source.columns_of(block, ["name"]).to_pydict()
            expected = [f"row {n}" for n in range(block.first, block.first + block.rows)]
            assert names == {"name": expected}

    def test_a_column_to_keep_that_is_not_there_is_named(self, source_and_rows):
        source, _ = source_and_rows

        with pytest.raises(DataError, match=r"keep_columns=\['nothing'\]"):
            source.columns_of(source.describe().blocks[0], ["nothing"])


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
        return open_source(ds.dataset(path, format=form, filesystem=fs)), ROWS

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
            source = open_source(x)
            blocks = source.describe().blocks
            chosen = picks.draw(st.lists(st.sampled_from(blocks))) if blocks else []

            whole = x.to_table()["x"].to_numpy()
            for block, rows in source.read(chosen):
                expected = whole[block.first : block.first + block.rows]
                np.testing.assert_array_equal(rows[:, 0], expected)

    def test_partitions_are_columns_to_keep_and_no_features(self, tmp_path):
        for year in (1, 2):
            put_table(tmp_path, f"year={year}/x.parquet", pa.table({"a": [1.0 * year], "b": [3]}))
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
            rows_of(x)

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
        return open_source(x), ROWS


class TestHuggingFaceShuffled(SourceContract):
    @pytest.fixture
    def source_and_rows(self):
        datasets = pytest.importorskip("datasets")
        x = datasets.Dataset(as_table("List")).shuffle(seed=3).select(range(5, 200))
        order = x["id"][:]
        assert order != sorted(order)
        return open_source(x.with_format("numpy")), ROWS[order]


class TestADataSetOfHuggingFace:
    @pytest.fixture
    def x(self):
        return pytest.importorskip("datasets").Dataset(as_table("List"))

    def test_it_is_no_stream_of_rows(self, x):
        assert not is_stream(x)

    def test_its_blocks_are_those_of_an_array(self, x):
        sizes = [block.rows for block in open_source(ROWS).describe().blocks]

        assert [block.rows for block in open_source(x).describe().blocks] == sizes

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


def write_delta(root, tables, **options):
    """Write a Delta table of several versions and bring it to any store."""
    deltalake = pytest.importorskip("deltalake")
    folder = root if "://" not in root else None
    with tempfile.TemporaryDirectory() as temporary:
        local = folder or temporary
        for table in tables:
            deltalake.write_deltalake(local, table, mode="append", **options)
        if folder is None:
            fsspec.filesystem("memory").put(f"{local}/", root, recursive=True)


class TestDelta(SourceContract):
    @pytest.fixture(params=LAYOUTS)
    def source_and_rows(self, request, root):
        deltalake = pytest.importorskip("deltalake")
        table = as_table(request.param)
        write_delta(f"{root}/t", [table.slice(n, 100) for n in range(0, 241, 100)])
        source = open_source(f"{root}/t")
        if "://" in root:
            blocks = source.describe().blocks
            whole = pa.concat_tables(source.columns_of(block, ["name"]) for block in blocks)
        else:
            files = sorted(deltalake.DeltaTable(f"{root}/t").file_uris())
            whole = pa.concat_tables(ds.dataset(file).to_table(["name"]) for file in files)
        order = [int(name[4:]) for name in whole["name"].to_pylist()]
        assert sorted(order) == list(range(241))
        return source, ROWS[order]


class TestADeltaTable:
    @pytest.fixture
    def place(self, tmp_path):
        return str(tmp_path / "t")

    def values(self, uri):
        return sorted(rows_of(uri).ravel().tolist())

    def test_files_that_the_newest_version_has_left_are_not_read(self, place):
        deltalake = pytest.importorskip("deltalake")
        write_delta(place, [pa.table({"x": [1.0, 2.0]}), pa.table({"x": [3.0]})])
        deltalake.DeltaTable(place).delete("x = 2.0")

        assert len(ds.dataset(place).files) == 3
        assert self.values(place) == [1, 3]

    def test_versions_after_a_checkpoint_are_seen_and_those_before_are_not_needed(self, place):
        deltalake = pytest.importorskip("deltalake")
        write_delta(place, [pa.table({"x": [float(n)]}) for n in range(5)])
        deltalake.DeltaTable(place).create_checkpoint()
        write_delta(place, [pa.table({"x": [5.0]})])
        fs = fsspec.filesystem("file")
        for version in range(4):
            fs.rm(f"{place}/_delta_log/{version:020}.json")

        assert self.values(place) == [0, 1, 2, 3, 4, 5]

    def test_partitions_come_from_the_log_with_their_types(self, place):
        names = ["a b", "c/d=e", "50%"]
        table = pa.table({"x": [1.0, 2.0, 3.0], "year": [1, 1, 2], "name": names})
        write_delta(place, [table], partition_by=["year", "name"])

        source = open_source(place)

        seen = {}
        for block, rows in source.read(source.describe().blocks):
            kept = source.columns_of(block, ["year", "name"]).to_pylist()
            seen[rows.item()] = tuple(kept[0].values())
        assert seen == dict(zip([1, 2, 3], zip([1, 1, 2], names, strict=True), strict=True))

    @pytest.mark.parametrize("feature", ["deletionVectors", "somethingNew"])
    def test_a_feature_that_changes_rows_is_refused_by_its_name(self, place, feature):
        write_delta(place, [pa.table({"x": [1.0]})])
        self.change(place, "protocol", minReaderVersion=3, minWriterVersion=7)
        self.change(place, "protocol", readerFeatures=[feature], writerFeatures=[feature])

        with pytest.raises((ConfigError, DataError), match=feature):
            open_source(place)

    def test_deletion_vectors_are_refused_with_what_to_do(self, place):
        write_delta(place, [pa.table({"x": [1.0]})])
        self.change(place, "protocol", minReaderVersion=3, minWriterVersion=7)
        names = ["deletionVectors"]
        self.change(place, "protocol", readerFeatures=names, writerFeatures=names)

        refuse(place, ConfigError, "deletionVectors", "REORG TABLE")

    def test_column_mapping_is_refused(self, place):
        write_delta(place, [pa.table({"x": [1.0]})])
        self.change(place, "protocol", minReaderVersion=2, minWriterVersion=5)
        mapping = {"id": 1, "physicalName": "col-1"}
        field = {"name": "x", "type": "double", "nullable": True}
        field["metadata"] = {f"delta.columnMapping.{name}": mapping[name] for name in mapping}
        self.change(
            place,
            "metaData",
            configuration={"delta.columnMapping.mode": "name"},
            schemaString=json.dumps({"type": "struct", "fields": [field]}),
        )

        refuse(place, ConfigError, "columnMapping", "without column mapping")

    def test_the_columns_are_those_of_the_table_and_not_of_a_file(self, place):
        write_delta(place, [pa.table({"x": [1.0]})])
        write_delta(place, [pa.table({"x": [2.0], "y": [3.0]})], schema_mode="merge")

        with pytest.raises(ConfigError, match=r"\['y'\] are not in .*\.parquet"):
            rows_of(place)
        x = open_source(place, columns=["x"])
        assert sorted(rows.item() for _, rows in x.read(x.describe().blocks)) == [1, 2]

    def test_a_table_without_a_row(self, place):
        write_delta(place, [pa.table({"x": pa.array([], pa.float32())})])

        refuse(place, NoDataError, "Delta table without a row")

    def test_a_file_that_is_gone_is_named(self, place):
        write_delta(place, [pa.table({"x": [1.0]})])
        [file] = ds.dataset(place).files
        fsspec.filesystem("file").rm(file)

        with pytest.raises((DataError, FileNotFoundError), match=re.escape(file)):
            rows_of(place)

    def test_a_damaged_log_is_named(self, place):
        write_delta(place, [pa.table({"x": [1.0]})])
        put(place, f"_delta_log/{1:020}.json", lambda file: file.write(b"{no json"))

        with pytest.raises(DataError, match=f"cannot read the log of {re.escape(place)}"):
            open_source(place)

    def change(self, place, action, **values):
        """Change an action of the first version."""
        path = f"{place}/_delta_log/{0:020}.json"
        with open(path) as file:
            actions = [json.loads(line) for line in file]
        for each in actions:
            if action in each:
                each[action].update(values)
        with open(path, "w") as file:
            file.writelines(json.dumps(each) + "\n" for each in actions)


class TestLance(WithNames):
    @pytest.fixture(params=[(form, layout) for form in ("folder", "object") for layout in LAYOUTS])
    def source_and_rows(self, request, tmp_path):
        lance = pytest.importorskip("lance")
        form, layout = request.param
        x = lance.write_dataset(
            as_table(layout), tmp_path / "x.lance", max_rows_per_file=90, max_rows_per_group=30
        )
        return open_source(tmp_path / "x.lance" if form == "folder" else x), ROWS


class TestADatasetOfLance:
    @pytest.fixture
    def place(self, tmp_path):
        pytest.importorskip("lance").write_dataset(
            as_table("List"), tmp_path / "x.lance", max_rows_per_file=90
        )
        return str(tmp_path / "x.lance")

    def test_rows_that_were_deleted_are_not_read(self, place):
        import lance

        lance.dataset(place).delete("id % 3 = 1")

        kept = [n for n in range(241) if n % 3 != 1]
        np.testing.assert_array_equal(rows_of(place), ROWS[kept])

    def test_what_is_written_after_the_first_look_is_not_read(self, place):
        import lance

        source = open_source(place)
        lance.dataset(place).delete("id < 200")
        lance.write_dataset(as_table("List"), place, mode="append")

        again = pickle.loads(pickle.dumps(source))
        for each in (source, again):
            np.testing.assert_array_equal(rows_of(each), ROWS)

    def test_an_older_version_is_read_from_its_object(self, place):
        import lance

        lance.dataset(place).delete("id < 200")

        assert len(rows_of(place)) == 41
        assert len(rows_of(lance.dataset(place, version=1))) == 241

    def test_a_place_that_does_not_exist_is_named(self, tmp_path):
        refuse(tmp_path / "no.lance", DataError, "cannot read", "no.lance")

    def test_a_damaged_file_is_named(self, place):
        for file in fsspec.filesystem("file").glob(f"{place}/data/*"):
            put("", file, lambda out: out.write(b"damaged"))

        with pytest.raises(DataError, match=r"cannot read .*x\.lance"):
            rows_of(place)


def zarr_3():
    return pytest.importorskip("zarr", "3")


def write_zarr(uri, array, **options):
    zarr = zarr_3()
    storage = {"auto_mkdir": True} if "://" not in uri else {}
    uri = uri if "://" in uri else f"file://{uri}"
    store = zarr.storage.FsspecStore.from_url(uri, storage_options=storage)
    made = zarr.create_array(store, shape=array.shape, dtype=array.dtype, **options)
    made[:] = array
    return made


class TestZarr(SourceContract):
    CASES = (
        (2, {"chunks": (20, 2)}, "f4"),
        (3, {"chunks": (30, 3)}, "f8"),
        (3, {"chunks": (1, 3)}, "f4"),
        (3, {"chunks": (10, 2), "shards": (50, 4)}, "f4"),
        (2, {"chunks": (241, 1), "order": "F"}, "f4"),
        (3, {"chunks": (100, 3)}, "i2"),
    )

    @pytest.fixture(params=CASES, ids=str)
    def source_and_rows(self, request, root):
        version, options, dtype = request.param
        array = (MATRIX * 100).astype(dtype)
        write_zarr(f"{root}/x.zarr", array, zarr_format=version, **options)
        return open_source(f"{root}/x.zarr"), array.astype(np.float32)


class TestAnArrayOfZarr:
    def test_it_is_known_by_what_is_in_its_folder(self, root):
        for version in (2, 3):
            write_zarr(f"{root}/any{version}", ROWS, zarr_format=version, chunks=(50, 3))

            np.testing.assert_array_equal(rows_of(f"{root}/any{version}"), ROWS)

    def test_an_object_is_read_by_blocks_like_its_folder(self, tmp_path):
        write_zarr(f"{tmp_path}/x.zarr", ROWS, chunks=(50, 3))
        x = zarr_3().open_array(f"{tmp_path}/x.zarr", mode="r")

        again = pickle.loads(pickle.dumps(open_source(x)))

        assert not again.only_here
        np.testing.assert_array_equal(rows_of(again), ROWS)

    def test_only_memory_is_of_this_process_alone(self, root):
        write_zarr(f"{root}/x.zarr", ROWS, chunks=(50, 3))

        assert open_source(f"{root}/x.zarr").only_here == root.startswith("memory:")
        assert open_source(zarr_3().array(ROWS)).only_here

    def test_no_part_cuts_a_chunk_and_small_chunks_are_taken_together(self, tmp_path):
        for chunk, parts in {
            7: [35] * 6 + [31],
            50: [40, 10] * 4 + [40, 1],
            300: [40] * 6 + [1],
        }.items():
            write_zarr(f"{tmp_path}/{chunk}.zarr", ROWS, chunks=(chunk, 3))

            blocks = open_source(f"{tmp_path}/{chunk}.zarr").describe().blocks

            assert [block.rows for block in blocks] == parts

    def test_no_part_cuts_a_shard(self, tmp_path):
        write_zarr(f"{tmp_path}/x.zarr", ROWS, chunks=(10, 3), shards=(50, 3))

        blocks = open_source(f"{tmp_path}/x.zarr").describe().blocks

        assert [block.rows for block in blocks] == [40, 10] * 4 + [40, 1]

    @pytest.mark.parametrize("shape", [(3,), (2, 2, 2), (3, 0)])
    def test_another_shape_is_refused(self, tmp_path, shape):
        write_zarr(
            f"{tmp_path}/x.zarr", np.ones(shape, np.float32), chunks=tuple(max(n, 1) for n in shape)
        )

        refuse(f"{tmp_path}/x.zarr", DataError, str(shape), "must be a table of numbers")

    def test_a_group_is_refused_by_the_names_of_its_arrays(self, tmp_path):
        for name in "ba":
            write_zarr(f"{tmp_path}/g.zarr/{name}", ROWS, chunks=(50, 3))
        zarr_3().open_group(f"{tmp_path}/g.zarr", mode="a")

        refuse(f"{tmp_path}/g.zarr", ConfigError, f"['{tmp_path}/g.zarr/a', '{tmp_path}/g.zarr/b']")
        np.testing.assert_array_equal(rows_of(f"{tmp_path}/g.zarr/a"), ROWS)

    def test_it_has_no_columns(self, tmp_path):
        write_zarr(f"{tmp_path}/x.zarr", ROWS, chunks=(50, 3))
        source = open_source(f"{tmp_path}/x.zarr")

        refuse(f"{tmp_path}/x.zarr", ConfigError, "columns=['a']", columns=["a"])
        with pytest.raises(ConfigError, match=r"keep_columns=\['a'\]"):
            source.columns_of(source.describe().blocks[0], ["a"])

    def test_a_place_that_does_not_exist(self, root):
        zarr_3()
        refuse(f"{root}/no.zarr", NoDataError, "no.zarr", "does not exist")

    def test_a_folder_without_an_array(self, tmp_path):
        zarr_3()
        put(tmp_path, "x.zarr/notes.txt", lambda file: file.write(b"no array"))

        refuse(f"{tmp_path}/x.zarr", DataError, "cannot read", "x.zarr")

    @pytest.mark.parametrize(
        "change", [lambda data: data[: len(data) // 2], lambda data: b"\xff" * 40]
    )
    def test_a_damaged_chunk_is_named(self, tmp_path, change):
        write_zarr(f"{tmp_path}/x.zarr", ROWS, chunks=(50, 3))
        chunk = tmp_path / "x.zarr" / "c" / "1" / "0"
        chunk.write_bytes(change(chunk.read_bytes()))

        with pytest.raises(DataError, match=r"cannot read row group 1 of .*x\.zarr"):
            rows_of(f"{tmp_path}/x.zarr")


@pytest.fixture(scope="module")
def on_s3():
    """Return storage options, and the URI of a folder on a real S3 server."""
    with s3_server() as options:
        yield options, "s3://bucket/libraries"


class TestOnS3:
    """With the options of s3fs alone, also in another process."""

    def check(self, uri, options, rows):
        source = open_source(uri, storage_options=options)

        again = pickle.loads(pickle.dumps(source))

        assert not again.only_here
        np.testing.assert_array_equal(rows_of(again), rows)

    def test_delta(self, on_s3, tmp_path):
        options, root = on_s3
        write_delta(str(tmp_path / "t"), [as_table("List")])
        fsspec.filesystem("s3", **options).put(f"{tmp_path}/t/", f"{root}/t", recursive=True)

        self.check(f"{root}/t", options, ROWS)

    def test_zarr(self, on_s3):
        options, root = on_s3
        zarr = zarr_3()
        store = zarr.storage.FsspecStore.from_url(f"{root}/x.zarr", storage_options=options)
        zarr.create_array(store, shape=ROWS.shape, dtype="f4", chunks=(50, 3))[:] = ROWS

        self.check(f"{root}/x.zarr", options, ROWS)

    def test_lance(self, on_s3):
        options, root = on_s3
        lance = pytest.importorskip("lance")
        own = in_words_of_lance(options)
        lance.write_dataset(as_table("List"), f"{root}/x.lance", storage_options=own)

        self.check(f"{root}/x.lance", options, ROWS)

    def test_a_dataset_of_arrow(self, on_s3):
        options, root = on_s3
        fs = fsspec.filesystem("s3", **options)
        with fs.open(f"{root}/d/x.parquet", "wb") as file:
            pq.write_table(as_table("List"), file, row_group_size=100)

        self.check(ds.dataset(f"{root[5:]}/d", filesystem=fs), {}, ROWS)


MISSING = {"x.lance": ("lance", "lance"), "x.zarr": ("zarr", "zarr"), "t": ("deltalake", "delta")}


@pytest.mark.parametrize("name", MISSING)
def test_a_library_that_is_not_installed_is_named_with_its_extra(tmp_path, monkeypatch, name):
    library, extra = MISSING[name]
    put(tmp_path, f"{name}/_delta_log/0.json", lambda file: file.write(b""))
    monkeypatch.setitem(sys.modules, library, None)

    refuse(tmp_path / name, ConfigError, f"pip install 'ray-kmeans[{extra}]'")


def test_a_class_of_the_same_name_elsewhere_is_not_taken_for_a_library():
    class Dataset(list):
        pass

    assert libraries.opener_of(Dataset()) is None


def test_opening_an_array_imports_no_library_of_data_sets():
    code = (
        "import sys, numpy; from ray_kmeans import open_source; open_source(numpy.ones((2, 2)));"
        "names = {'zarr', 'lance', 'deltalake', 'datasets', 'ray', 'pandas', 'pyarrow.dataset'};"
        "print(names & set(sys.modules))"
    )

    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert shown.stdout.strip() == "set()"


class Squares:
    """A user's own source, of three methods."""

    def __init__(self, rows):
        self.rows = rows

    def describe(self):
        return plan.Layout(tuple(plan.cut("squares", [self.rows], features=2)), features=2)

    def read(self, blocks):
        for block in blocks:
            numbers = np.arange(block.start, block.start + block.rows, dtype=np.float32)
            yield block, np.stack([numbers, numbers**2], axis=1)

    def columns_of(self, block, names):
        return pa.table({"number": range(block.start, block.start + block.rows)}).select(names)


class TestAUsersOwn(SourceContract):
    @pytest.fixture
    def source_and_rows(self):
        numbers = np.arange(200, dtype=np.float32)
        return Squares(200), np.stack([numbers, numbers**2], axis=1)


def test_a_users_own_source_of_three_methods_can_be_fit(tmp_path):
    here = RunConfig(num_workers=0, progress=False)
    rows = np.stack([np.arange(200.0), np.arange(200.0) ** 2], axis=1).astype(np.float32)

    fits = [
        KMeansClustering(3, str(tmp_path / name), random_seed=1, use_mini_batch=False, config=here)
        .fit(x, steps=3)
        .clusters()
        for name, x in {"own": Squares(200), "array": rows}.items()
    ]

    assert isinstance(Squares(200), Source)
    np.testing.assert_array_equal(*fits)


@pytest.mark.parametrize("only_here", [None, False, True])
def test_a_users_own_source_is_refused_workers_only_where_it_says_so(only_here):
    from ray_kmeans.resources import check_reachable

    source = Squares(9)
    if only_here is not None:
        source.only_here = only_here
    check_reachable(RunConfig(num_workers=0), {"the data": source})

    if only_here:
        with pytest.raises(ConfigError, match="the data is in the memory of this process"):
            check_reachable(RunConfig(num_workers=2), {"the data": source})
    else:
        check_reachable(RunConfig(num_workers=2), {"the data": source})
