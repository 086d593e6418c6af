"""Arrow IPC files and streams, beside what pyarrow wrote into them."""

from __future__ import annotations

import uuid
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_kmeans.data.files import list_files
from ray_kmeans.data.formats.base import OpenFile
from ray_kmeans.data.formats.ipc_messages import BATCH, batches_of_file, walk
from ray_kmeans.data.opening import open_source
from ray_kmeans.errors import ConfigError, DataError, RayKMeansError
from ray_kmeans.io import ranges, remote
from ray_kmeans.testing import SourceContract
from tests.support.files import in_blocks, put, rows_of

WRITERS = {"file": pa.ipc.new_file, "stream": pa.ipc.new_stream}
MATRIX = np.random.default_rng(0).integers(-50, 50, size=(241, 3))
ROWS = MATRIX.astype(np.float32)
FILES = {"a": (100, 41, 0, 9), "b": (1,), "c": (), "sub/d": (0, 90)}
"""Rows of each record batch."""


def put_batches(root, name, batches, form="file", schema=None, **options):
    """Write record batches as they are."""
    options = pa.ipc.IpcWriteOptions(**options)

    def write(file):
        with WRITERS[form](file, schema or batches[0].schema, options=options) as writer:
            for batch in batches:
                writer.write_batch(batch)

    put(root, name, write)


def encoded(values, seen):
    """Return values as indices into a dictionary that holds all that were seen up to them."""
    places = {value: place for place, value in enumerate(seen)}
    indices = pa.array([places[value] for value in values], pa.int32())
    return pa.DictionaryArray.from_arrays(indices, pa.array(seen, pa.float32()))


def as_batch(first, last, layout, spread):
    part = MATRIX[first:last].astype(np.float32)
    numbers = np.arange(first, last)
    columns = {"name": pa.array([f"row {n}" for n in numbers], pa.string())}
    if layout == "dictionaries":
        for name, column, whole in zip("abc", part.T, MATRIX.T, strict=True):
            # A file has one dictionary, which grows; a stream may have another one each time.
            known = whole[:last] if spread == "growing" else whole[first:last][::-1]
            columns[name] = encoded(column, list(dict.fromkeys(known)))
    elif layout == "many columns":
        columns |= {name: pa.array(column) for name, column in zip("abc", part.T, strict=True)}
    else:
        kinds = {"FixedSizeList": pa.list_(pa.float32(), 3), "List": pa.list_(pa.float64())}
        columns["vector"] = pa.array(list(part), kinds[layout])
    columns["id"] = pa.array(numbers, pa.int64()).cast(pa.string())
    return pa.record_batch(columns)


def parts():
    first = 0
    for name, sizes in FILES.items():
        ends = (first + np.cumsum((0, *sizes))).tolist()
        yield name, list(pairwise(ends))
        first = ends[-1]


KINDS = {
    "a file": ("file", "FixedSizeList", "", {}),
    "a stream": ("stream", "FixedSizeList", "", {}),
    "a file of lists, lz4": ("file", "List", "", {"compression": "lz4"}),
    "a stream of columns, zstd": ("stream", "many columns", "", {"compression": "zstd"}),
    "a file whose dictionaries grow": (
        "file",
        "dictionaries",
        "growing",
        {"emit_dictionary_deltas": True},
    ),
    "a stream whose dictionaries grow": (
        "stream",
        "dictionaries",
        "growing",
        {"emit_dictionary_deltas": True, "compression": "lz4"},
    ),
    "a stream whose dictionaries change": ("stream", "dictionaries", "", {}),
    "a stream as before Arrow 0.15": (
        "stream",
        "List",
        "",
        {"use_legacy_format": True, "metadata_version": pa.ipc.MetadataVersion.V4},
    ),
}


class TestIpc(SourceContract):
    @pytest.fixture(params=KINDS)
    def source_and_rows(self, request, root):
        form, layout, spread, options = KINDS[request.param]
        schema = as_batch(0, 1, layout, spread).schema
        for name, batches in parts():
            made = [as_batch(*ends, layout, spread) for ends in batches]
            put_batches(root, f"{name}.arrow", made, form, schema, **options)
        return in_blocks(root, 40), ROWS

    def test_other_columns_are_those_of_the_same_rows(self, source_and_rows):
        source, _ = source_and_rows

        for block in source.describe().blocks:
            kept = source.columns_of(block, ["id", "name"]).to_pydict()
            numbers = range(block.first, block.first + block.rows)
            assert kept == {
                "id": [f"{n}" for n in numbers],
                "name": [f"row {n}" for n in numbers],
            }

    def test_parts_are_record_batches(self, source_and_rows):
        source, _ = source_and_rows
        sizes = [
            source.format.look(OpenFile(source.remote, file)).group_rows for file in source.files
        ]

        assert sizes == list(FILES.values())


class TestIpcWithBlocksOfFullSize(SourceContract):
    @pytest.fixture(params=["feather", "ipc"])
    def source_and_rows(self, request, tmp_path):
        X = np.random.default_rng(1).normal(size=(40_000, 2)).astype(np.float32)
        table = pa.table({"x": pa.FixedSizeListArray.from_arrays(X.ravel(), 2)})
        path = f"{tmp_path}/x.{request.param}"
        pyarrow.feather.write_feather(table, path, chunksize=15_000)
        return open_source(path), X


def headers_of(root, name, form):
    """Return the rows of record batches, by their headers alone."""
    store, [file] = list_files([f"{root}/{name}"], {}, (".arrow",))
    opened = OpenFile(store, file)
    found = batches_of_file(opened) if form == "file" else walk(opened)
    return [message for message in found if message.kind == BATCH]


@given(
    sizes=st.lists(st.integers(0, 60), max_size=8),
    form=st.sampled_from(list(WRITERS)),
    compression=st.sampled_from([None, "lz4", "zstd"]),
    layout=st.sampled_from(["FixedSizeList", "List", "many columns", "dictionaries"]),
)
def test_rows_and_places_of_batches_are_those_that_were_written(sizes, form, compression, layout):
    root = f"memory://{uuid.uuid4().hex}"
    ends = np.cumsum([0, *sizes]).tolist()
    batches = [
        as_batch(first % 100, first % 100 + size, layout, "growing")
        for first, size in zip(ends, sizes, strict=False)
    ]
    if form == "file" and layout == "dictionaries":
        batches = batches[:1]  # of which it cannot have several
    schema = as_batch(0, 1, layout, "growing").schema
    put_batches(root, "x.arrow", batches, form, schema, compression=compression)

    found = headers_of(root, "x.arrow", form)

    assert [message.rows for message in found] == [batch.num_rows for batch in batches]
    store = remote.Remote(f"{root}/x.arrow")
    data = store.fs.cat_file(store.path)
    for message, batch in zip(found, batches, strict=True):
        read = pa.ipc.read_message(data[message.begin : message.end])
        assert read.type == "record batch"
        if layout != "dictionaries":
            assert pa.ipc.read_record_batch(read, schema).equals(batch)


class TestBytesRead:
    """Bytes that are asked of a store, for 10 batches of 480 kB vectors and as much text."""

    @pytest.fixture
    def asked(self, monkeypatch):
        monkeypatch.setattr(ranges, "FIRST_PIECE", 1024)
        asked = []
        cat = OpenFile.cat

        def counting(self, begin, end):
            asked.append(min(end, self.size) - begin)
            return cat(self, begin, end)

        monkeypatch.setattr(OpenFile, "cat", counting)
        return asked

    @pytest.fixture(params=WRITERS)
    def form(self, request):
        return request.param

    @pytest.fixture
    def source(self, form, asked):
        X = np.arange(1_200_000, dtype=np.float32)
        table = pa.table({"v": pa.FixedSizeListArray.from_arrays(X, 12), "t": ["x" * 48] * 100_000})
        root = f"memory://{uuid.uuid4().hex}"
        put_batches(root, "x.arrow", table.to_batches(10_000), form)
        return open_source(root)

    def test_bodies_are_not_read_to_plan_the_run(self, source, asked):
        assert source.describe().rows == 100_000
        assert 0 < sum(asked) < 40_000

    def test_a_block_reads_no_more_than_its_batch(self, source, asked, form):
        block = source.describe().blocks[9]
        asked.clear()

        [(_, rows)] = source.read([block])

        assert rows[0, 0] == block.first * 12
        columns = 1 if form == "file" else 2  # a message of a stream is read whole
        assert 480_000 <= sum(asked) < columns * 520_000 + 40_000


class TestDamage:
    """Every file here is made of good ones by a change of bytes."""

    @pytest.fixture(params=WRITERS)
    def form(self, request):
        return request.param

    @pytest.fixture
    def good(self, form, tmp_path):
        batches = [as_batch(first, first + 30, "List", "") for first in (0, 30, 60)]
        put_batches(tmp_path, "x.arrow", batches, form)
        return (tmp_path / "x.arrow").read_bytes()

    def test_a_file_that_is_cut_off_anywhere_is_an_error_that_names_it(self, good, tmp_path):
        path = tmp_path / "x.arrow"
        for length in [*range(len(good) - 20, len(good)), *range(0, len(good), 101)]:
            path.write_bytes(good[:length])
            with pytest.raises(DataError, match=r"x\.arrow"):
                open_source(path).describe()

    def test_a_stream_that_is_cut_off_between_its_messages_too(self, tmp_path):
        put_batches(tmp_path, "x.arrow", [as_batch(0, 9, "List", "")] * 3, "stream")
        path = tmp_path / "x.arrow"
        good = path.read_bytes()

        for message in headers_of(str(tmp_path), "x.arrow", "stream"):
            path.write_bytes(good[: message.end])
            with pytest.raises(DataError, match=r"x\.arrow ends before .* cut off"):
                open_source(path).describe()

    def test_two_streams_in_one_file_are_not_taken_for_the_first(self, tmp_path):
        put_batches(tmp_path, "x.arrow", [as_batch(0, 9, "List", "")], "stream")
        path = tmp_path / "x.arrow"
        path.write_bytes(2 * path.read_bytes())

        with pytest.raises(DataError, match=r"x\.arrow goes on after the end of its stream"):
            open_source(path).describe()

    def test_damage_gives_rows_of_the_right_shape_or_an_error_that_names_the_file(
        self, good, tmp_path
    ):
        random = np.random.default_rng(0)
        path = tmp_path / "x.arrow"
        errors = []
        for _ in range(400):
            data = bytearray(good)
            at = random.integers(len(data))
            data[at] = random.integers(256)
            path.write_bytes(data)
            try:
                assert rows_of(path).shape[1] == 3
            except RayKMeansError as error:
                errors.append(str(error))
        assert len(errors) > 40
        assert all("x.arrow" in error for error in errors)

    @pytest.mark.parametrize("compression", [None, "lz4"])
    def test_offsets_that_point_out_of_the_batch_are_an_error(self, tmp_path, form, compression):
        offsets = pa.array([0, 3, 2**30, 9], pa.int32())
        wild = pa.ListArray.from_arrays(offsets, pa.array(np.ones(9, np.float32)))
        put_batches(
            tmp_path, "x.arrow", [pa.record_batch({"v": wild})], form, compression=compression
        )

        with pytest.raises(DataError, match=r"cannot read .*x\.arrow"):
            rows_of(tmp_path)

    @pytest.mark.parametrize(
        "text", [b"", b"\xff\xff\xff\xff\0\0\0\0", b"ARROW1", b"a,b\n1,2\n" * 9]
    )
    def test_a_file_that_is_no_arrow(self, tmp_path, text):
        (tmp_path / "x.arrow").write_bytes(text)

        with pytest.raises(DataError, match=r"x\.arrow"):
            open_source(tmp_path).describe()

    def test_feather_of_version_1_says_what_to_do(self, tmp_path):
        (tmp_path / "x.feather").write_bytes(b"FEA1" + bytes(60))

        with pytest.raises(DataError, match=r"x\.feather is Feather of version 1; write it anew"):
            open_source(tmp_path)


def test_files_and_streams_of_any_suffix_are_one_data_set(tmp_path):
    batches = [as_batch(0, 120, "List", ""), as_batch(120, 241, "FixedSizeList", "")]
    put_batches(tmp_path, "1.arrow", batches[:1], "stream")
    put_batches(tmp_path, "2.ipc", batches[1:], "file")

    np.testing.assert_array_equal(rows_of(tmp_path), ROWS)


def test_a_folder_as_hugging_face_datasets_write_it(tmp_path):
    vectors = pa.list_(pa.field("item", pa.float32()))
    for shard, ends in enumerate([(0, 120), (120, 241)]):
        table = pa.table({"text": ["t"] * (ends[1] - ends[0]), "emb": list(ROWS[slice(*ends)])})
        batches = table.cast(pa.schema({"text": pa.string(), "emb": vectors})).to_batches(50)
        put_batches(tmp_path, f"data-0000{shard}-of-00002.arrow", batches, "stream")
    for name in ("dataset_info.json", "state.json"):
        put(tmp_path, name, lambda file: file.write(b"{}"))

    np.testing.assert_array_equal(rows_of(tmp_path), ROWS)


def test_files_of_other_columns_or_widths_are_named(tmp_path):
    put_batches(tmp_path, "1.arrow", [as_batch(0, 9, "List", "")])
    for other, text in (
        (pa.record_batch({"vector": [[1.0, 2.0]]}), "2.arrow has 2 features"),
        (pa.record_batch({"vector": ["a"]}), "'vector': 'string'"),
        (pa.record_batch({"w": [1.0]}), r"\['vector'\] are not in .*2\.arrow"),
    ):
        put_batches(tmp_path, "2.arrow", [other], "stream")
        with pytest.raises((ConfigError, DataError), match=text) as caught:
            open_source(tmp_path).describe()
        assert "2.arrow" in str(caught.value)


def test_a_field_of_structs_is_read_and_kept(tmp_path):
    documents = [{"text": f"t{n}", "embedding": MATRIX[n].tolist()} for n in range(20)]
    for form in WRITERS:
        put_batches(
            tmp_path, f"{form}.arrow", [pa.record_batch({"n": range(20), "doc": documents})], form
        )
    source = open_source(tmp_path, columns=["doc.embedding"])
    blocks = source.describe().blocks

    np.testing.assert_array_equal(rows_of(source), np.vstack([ROWS[:20], ROWS[:20]]))
    assert source.columns_of(blocks[1], ["doc.text"]).to_pydict() == {
        "doc.text": [f"t{n}" for n in range(20)]
    }


def test_columns_to_keep_that_are_not_there(tmp_path):
    put_batches(tmp_path, "x.arrow", [as_batch(0, 9, "List", "")])
    source = open_source(tmp_path)

    with pytest.raises(DataError, match=r"columns \['z'\] are not in .*x\.arrow"):
        source.columns_of(source.describe().blocks[0], ["z"])


def test_rows_of_a_mapped_file_are_not_copied_to_be_read(tmp_path):
    X = np.ones((100_000, 12), np.float32)
    table = pa.table({"v": pa.FixedSizeListArray.from_arrays(X.ravel(), 12)})
    for form in WRITERS:
        put_batches(tmp_path, "x.arrow", table.to_batches(), form)
        source = open_source(tmp_path)
        blocks = source.describe().blocks
        before = pa.default_memory_pool().bytes_allocated()

        for _ in source.read(blocks):
            assert pa.default_memory_pool().bytes_allocated() - before < 100_000


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
@pytest.mark.parametrize("where", ["local", "memory"])
def test_batches_that_are_read_whole_are_told(form, compression, where, tmp_path):
    root = str(tmp_path) if where == "local" else f"memory://{uuid.uuid4()}"
    batch = as_batch(0, 100, "List", "")
    put_batches(root, "a.arrow", [batch], form, compression=compression)

    layout = open_source(root, columns=["vector"]).describe()

    assert layout.is_read_whole == (where == "memory" or compression is not None)
