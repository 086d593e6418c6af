"""Folders that other libraries wrote: each against what the library itself reads."""

from __future__ import annotations

import json
import pickle
import re
import sys
import tempfile

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from ray_kmeans.data.datasets.lance import in_words_of_lance
from ray_kmeans.data.opening import open_source
from ray_kmeans.errors import ConfigError, DataError, NoDataError
from ray_kmeans.io.remote import Remote
from ray_kmeans.testing import SourceContract
from tests.support.files import put, rows_of
from tests.support.foreign_data import (
    LAYOUTS,
    MATRIX,
    ROWS,
    WithNames,
    as_table,
    in_small_blocks,
    refuse,
)
from tests.support.servers import s3_server


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
        source = in_small_blocks(f"{root}/t")
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
        return in_small_blocks(tmp_path / "x.lance" if form == "folder" else x), ROWS


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
        np.testing.assert_array_equal(rows_of(in_small_blocks(place)), ROWS[kept])

    def test_what_is_written_after_the_first_look_is_not_read(self, place):
        import lance

        source = in_small_blocks(place)
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
        return in_small_blocks(f"{root}/x.zarr"), array.astype(np.float32)


class TestAnArrayOfZarr:
    def test_it_is_known_by_what_is_in_its_folder(self, root):
        for version in (2, 3):
            write_zarr(f"{root}/any{version}", ROWS, zarr_format=version, chunks=(50, 3))

            np.testing.assert_array_equal(rows_of(in_small_blocks(f"{root}/any{version}")), ROWS)

    def test_an_object_is_read_by_blocks_like_its_folder(self, tmp_path):
        write_zarr(f"{tmp_path}/x.zarr", ROWS, chunks=(50, 3))
        x = zarr_3().open_array(f"{tmp_path}/x.zarr", mode="r")

        again = pickle.loads(pickle.dumps(in_small_blocks(x)))

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

            blocks = in_small_blocks(f"{tmp_path}/{chunk}.zarr").describe().blocks

            assert [block.rows for block in blocks] == parts

    def test_no_part_cuts_a_shard(self, tmp_path):
        write_zarr(f"{tmp_path}/x.zarr", ROWS, chunks=(10, 3), shards=(50, 3))

        blocks = in_small_blocks(f"{tmp_path}/x.zarr").describe().blocks

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
        with pytest.raises(ConfigError, match=r"columns \['a'\]"):
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
            rows_of(in_small_blocks(f"{tmp_path}/x.zarr"))


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


def test_a_file_is_never_asked_whether_it_is_a_folder(tmp_path, monkeypatch):
    put(tmp_path, "notes", lambda file: file.write(b"text"))
    remote = Remote(str(tmp_path / "notes"))
    asked = []
    monkeypatch.setattr(type(remote.fs._fs), "isdir", lambda fs, path: asked.append(path))

    refuse(tmp_path / "notes", NoDataError, "found: notes")

    assert asked == []


MISSING = {"x.lance": ("lance", "lance"), "x.zarr": ("zarr", "zarr"), "t": ("deltalake", "delta")}


@pytest.mark.parametrize("name", MISSING)
def test_a_library_that_is_not_installed_is_named_with_its_extra(tmp_path, monkeypatch, name):
    library, extra = MISSING[name]
    put(tmp_path, f"{name}/_delta_log/0.json", lambda file: file.write(b""))
    monkeypatch.setitem(sys.modules, library, None)

    refuse(tmp_path / name, ConfigError, f"pip install '.[{extra}]'")
