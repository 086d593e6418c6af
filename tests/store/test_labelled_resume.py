"""Labelled output that is cut off anywhere, added to, or put in order of the clusters."""

from __future__ import annotations

import itertools
import json
import os
import time
import uuid
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_kmeans.algorithm.state import FitState
from ray_kmeans.data.files import list_files
from ray_kmeans.data.formats.base import FileSource
from ray_kmeans.data.formats.parquet import Parquet
from ray_kmeans.engine import label_writer
from ray_kmeans.errors import (
    ConfigError,
    DataError,
    LeaseLostError,
    NonFiniteError,
    StoreError,
)
from ray_kmeans.io import publish
from ray_kmeans.store.labelled import MANIFEST, LabelledOutput
from ray_kmeans.store.labelled_by_cluster import FileSizes, cut_bundles, width_of
from ray_kmeans.store.labelled_names import marker_of
from ray_kmeans.store.labelled_parts import Part, Parts
from tests.support import oracle
from tests.support.files import in_blocks
from tests.support.labelled_files import (
    CENTERS,
    OPTIONS,
    ORDER,
    Cut,
    K,
    N,
    X,
    check_complete,
    cut_after,
    files_of,
    manifest_of,
    put_rows,
    read,
    write,
)
from tests.support.second_oracle import exact_order

SIZES = FileSizes()


@pytest.fixture
def data(tmp_path):
    put_rows(tmp_path / "data", "0.parquet", X[:31])
    put_rows(tmp_path / "data", "1.parquet", X[31:], first=31)
    return str(tmp_path / "data")


@pytest.mark.long(kind="labels cut off")
@pytest.mark.parametrize(
    ("name", "few"), [*zip(OPTIONS, [256, 256, 256], strict=True), ("by cluster", 4)]
)
def test_a_run_cut_off_after_any_file_and_run_again_equals_one_that_was_not(
    data, name, few, monkeypatch
):
    options = OPTIONS[name] | {"sizes": FileSizes(few_files=few, bundle_rows=40)}
    whole = f"memory://{uuid.uuid4().hex}"
    with monkeypatch.context() as patch:
        written = cut_after(patch, 10**6)
        write(data, whole, **options)
    expected = files_of(whole)

    for puts in range(len(written)):
        url = f"memory://{uuid.uuid4().hex}"
        with monkeypatch.context() as patch:
            cut_after(patch, puts)
            with pytest.raises(Cut):
                write(data, url, **options)
        assert MANIFEST not in files_of(url)
        with monkeypatch.context() as patch:
            again = cut_after(patch, 10**6)
            write(data, url, **options)

        assert files_of(url) == expected
        # Files of a bundle that is not done, and the plan, which is tried again.
        torn = K + 1 if "by_cluster" in options else 0
        assert len(again) <= len(written) - puts + torn
    check_complete(whole)


@pytest.mark.parametrize("few", [1, 2, 3, 5, 8])
def test_blocks_that_make_a_file_together_are_written_with_their_columns_in_order(
    data, tmp_path, few
):
    sizes = FileSizes(few_files=few)
    url = str(tmp_path / "out")

    write(data, url, keep_columns=["id"], second=True, sizes=sizes)

    blocks = len(in_blocks(data, 7).describe().blocks)
    parts = manifest_of(url)["parts"]
    assert len(parts) == -(-blocks // min(blocks // few, sizes.most_blocks))
    check_complete(url)
    assert read(url)["id"].to_pylist() == [f"row {i}" for i in range(N)]
    more = str(tmp_path / "more")
    put_rows(tmp_path / "more", "2.parquet", X, first=N)
    write(more, url, keep_columns=["id"], second=True, append=True, sizes=sizes)
    assert read(url)["id"].to_pylist() == [f"row {i}" for i in range(2 * N)]


def test_only_the_missing_blocks_are_read_and_written_again(data, tmp_path, monkeypatch):
    url = str(tmp_path / "out")
    with monkeypatch.context() as patch:
        cut_after(patch, 6)
        with pytest.raises(Cut):
            write(data, url)
    before = {name: os.stat(f"{url}/{name}").st_mtime_ns for name in files_of(url)}
    read_rows = []

    class Watched(FileSource):
        def read_wide(self, blocks):
            read_rows.extend(block.index for block in blocks)
            return super().read_wide(blocks)

    source = Watched.of(Parquet.of, *list_files([data], {}, (".parquet",)), None)
    write(source, url)

    after = {name: os.stat(f"{url}/{name}").st_mtime_ns for name in files_of(url)}
    parts = {name for name in before if name.startswith("part")}
    assert len(parts) == 5
    assert {name: after[name] for name in parts} == {name: before[name] for name in parts}
    there = {int(name[-16:-8]) for name in parts}
    assert sorted(read_rows) == [
        b.index for b in in_blocks(source, 7).describe().blocks if b.index not in there
    ]


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign", "other block"])
def test_a_part_that_is_not_whole_or_not_of_this_output_is_written_again(
    data, tmp_path, damage, monkeypatch
):
    whole, url = str(tmp_path / "whole"), str(tmp_path / "out")
    write(data, whole)
    expected = files_of(whole)
    with monkeypatch.context() as patch:
        cut_after(patch, 6)
        with pytest.raises(Cut):
            write(data, url)
    name = sorted(n for n in files_of(url) if n.startswith("part"))[2]
    content = expected[name]
    middle = len(content) // 4
    other = str(tmp_path / "other")
    write(data, other, state=FitState(CENTERS[::-1].copy(), np.zeros(K, np.int64)))
    bad = {
        "cut": content[:-10],
        "flipped": content[:middle] + bytes([content[middle] ^ 64]) + content[middle + 1 :],
        "foreign": files_of(other)[sorted(files_of(other))[-7]],
        "other block": expected[min(n for n in expected if n.startswith("part"))],
    }[damage]
    (tmp_path / "out" / name).write_bytes(bad)

    write(data, url)

    assert files_of(url) == expected


def change_data(folder):
    time.sleep(0.02)
    put_rows(folder, "1.parquet", X[31:], first=31)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"state": FitState(CENTERS + 1, np.zeros(K, np.int64))}, "centers of the model"),
        ({"keep_columns": ["id"]}, "keep_columns"),
        ({"second": True}, "second"),
        ({"filters": [("id", "!=", "row 3")]}, "filters"),
        ({"data": True}, "files of the data"),
    ],
)
def test_another_output_in_the_place_of_an_unfinished_one_is_refused_by_its_difference(
    data, tmp_path, change, named, monkeypatch
):
    url = str(tmp_path / "out")
    with monkeypatch.context() as patch:
        cut_after(patch, 4)
        with pytest.raises(Cut):
            write(data, url)
    before = files_of(url)
    if change.pop("data", False):
        change_data(data)

    with pytest.raises(StoreError, match=rf"unfinished output that differs.*{named}.*delete"):
        write(data, url, **change)

    assert files_of(url) == before


def test_where_nothing_has_been_written_yet_another_output_may_begin(data, tmp_path):
    url = str(tmp_path / "out")
    holes = np.vstack([X, np.full((1, 3), np.nan, np.float32)])
    with pytest.raises(NonFiniteError):
        write(holes, url)

    assert write(holes, url, nonfinite="drop") == N + 1

    assert manifest_of(url)["left_out"] == 1


def test_a_finished_output_that_is_written_again_stays_as_it_is(data, tmp_path):
    url = str(tmp_path / "out")
    write(data, url)
    before = {name: os.stat(f"{url}/{name}").st_mtime_ns for name in files_of(url)}

    assert write(data, url) == N

    assert {name: os.stat(f"{url}/{name}").st_mtime_ns for name in files_of(url)} == before


@pytest.mark.parametrize("metric", ["squared_euclidean", "cosine"])
def test_second_is_the_second_nearest_center_and_its_distance(data, tmp_path, metric):
    url = str(tmp_path / "out")
    lengths = np.linalg.norm(CENTERS.astype(float), axis=1, keepdims=True)
    centers = CENTERS if metric != "cosine" else (CENTERS / lengths).astype(np.float32)

    write(data, url, state=FitState(centers, np.zeros(K, np.int64), metric), second=True)

    table = read(url)
    assert table.column_names[1:] == [
        *("cluster_idx", "distance", "second_cluster_idx", "second_distance")
    ]
    first, second = (table[name].to_numpy() for name in ("cluster_idx", "second_cluster_idx"))
    near, far = (table[name].to_numpy() for name in ("distance", "second_distance"))
    assert (first != second).all()
    assert (near <= far).all()
    if metric == "squared_euclidean":
        np.testing.assert_array_equal(np.stack([first, second], axis=1), ORDER)
        np.testing.assert_array_equal(far, ((X - CENTERS[ORDER[:, 1]]) ** 2).sum(axis=1))


def test_rows_that_are_left_out_have_no_label_and_no_second(data, tmp_path):
    url = str(tmp_path / "out")

    write(data, url, filters=[("id", "!=", "row 40")], second=True, by_cluster=True)

    table = read(url)
    left_out = table.filter(pa.compute.equal(table["row"], 40)).to_pylist()[0]
    assert (left_out["cluster_idx"], left_out["second_cluster_idx"]) == (-1, -1)
    assert np.isnan([left_out["distance"], left_out["second_distance"]]).all()
    assert manifest_of(url)["left_out"] == 1
    [name] = [n for n in files_of(url) if "HIVE_DEFAULT" in n]
    assert pq.ParquetFile(pa.BufferReader(files_of(url)[name])).read()["row"].to_pylist() == [40]


def test_a_model_with_one_center_has_no_second(data, tmp_path):
    one = FitState(CENTERS[:1], np.zeros(1, np.int64))

    with pytest.raises(ConfigError, match="second=True: the model has one cluster"):
        write(data, str(tmp_path / "out"), state=one, second=True)


@pytest.mark.parametrize("by_cluster", [False, True])
@pytest.mark.parametrize("m", [1, 2, K])
def test_the_m_nearest_are_lists_of_those_of_the_oracle(data, tmp_path, m, by_cluster):
    url = str(tmp_path / "out")

    write(
        data, url, filters=[("id", "!=", "row 40")], second=True, nearest=m, by_cluster=by_cluster
    )

    table = read(url)
    lists = [table[name].combine_chunks() for name in label_writer.LISTS]
    assert [each.type for each in lists] == [
        pa.list_(pa.int32(), m),
        pa.list_(pa.float32(), m),
    ]
    found, distances = (each.flatten().to_numpy().reshape(N, m) for each in lists)
    orders = np.array([exact_order(row, CENTERS, "squared_euclidean")[:m] for row in X])
    here = np.arange(N) != 40
    np.testing.assert_array_equal(found[here], orders[here])
    expected = ((X[:, None] - CENTERS[orders]) ** 2).sum(axis=2)
    np.testing.assert_array_equal(distances[here], expected[here])
    assert (found[40] == -1).all()
    assert np.isnan(distances[40]).all()
    np.testing.assert_array_equal(table["cluster_idx"].to_numpy(), found[:, 0])
    second = table["second_cluster_idx"].to_numpy()
    np.testing.assert_array_equal(second[here], ORDER[here, 1])


def test_a_run_goes_on_with_the_same_number_of_nearest_only(data, tmp_path, monkeypatch):
    url, whole = str(tmp_path / "out"), str(tmp_path / "whole")
    write(data, whole, nearest=3)
    with monkeypatch.context() as patch:
        cut_after(patch, 4)
        with pytest.raises(Cut):
            write(data, url, nearest=3)

    for other in ({"nearest": 2}, {}, {"nearest": 3, "second": True}):
        with pytest.raises(StoreError, match=r"differs from this one in (nearest|second)\."):
            write(data, url, **other)
    write(data, url, nearest=3)

    parts = {name for name in files_of(whole) if name.endswith(".parquet")}
    assert {name: files_of(url)[name] for name in parts} == {
        name: files_of(whole)[name] for name in parts
    }
    with pytest.raises(StoreError, match="already holds a finished output"):
        write(data, url)
    put_rows(tmp_path / "more", "2.parquet", X[:5], first=N)
    with pytest.raises(StoreError, match=r"append: .* differs in nearest"):
        write(str(tmp_path / "more"), url, append=True)
    write(str(tmp_path / "more"), url, append=True, nearest=3)
    lists = read(url)["nearest_cluster_idx"].to_pylist()
    assert lists[N:] == lists[:5]


def test_an_output_without_lists_has_the_spec_that_older_versions_wrote(data, tmp_path):
    write(data, str(tmp_path / "out"), second=True)

    assert set(manifest_of(str(tmp_path / "out"))["of"]) == {
        *("model", "data", "blocks", "rows", "columns", "features", "second", "by_cluster")
    }


@pytest.mark.parametrize("nearest", [K + 1, 0, True, 1.5, "2"])
def test_a_number_of_nearest_that_cannot_be_is_refused_before_a_worker_starts(
    data, tmp_path, nearest
):
    with pytest.raises(ConfigError, match="nearest="):
        write(data, str(tmp_path / "out"), nearest=nearest)

    assert files_of(str(tmp_path / "out")) == {}


def test_data_without_rows_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(DataError, match="no rows"):
        write(np.empty((0, 3), np.float32), str(tmp_path / "out"))

    assert files_of(str(tmp_path / "out")) == {}


@settings(max_examples=25)
@given(
    block=st.integers(1, 30),
    bundle=st.integers(1, 100),
    files=st.integers(1, 40),
    second=st.booleans(),
    few=st.integers(1, 40),
)
def test_by_cluster_every_row_is_once_in_the_folder_of_its_cluster(
    block, bundle, files, second, few
):
    url = f"memory://{uuid.uuid4().hex}"
    sizes = FileSizes(few_files=few, bundle_rows=bundle, most_files=files)
    write(X, url, block_rows=block, by_cluster=True, second=second, sizes=sizes)

    check_complete(url)
    width = manifest_of(url)["width"]
    found, numbers = files_of(url), Counter()
    for part in manifest_of(url)["parts"]:
        folder, name = part["name"].split("/")
        numbers[name] += 1
        labels = pq.ParquetFile(pa.BufferReader(found[part["name"]])).read()["cluster_idx"]
        labels = labels.to_numpy()
        assert (np.diff(labels) >= 0).all()
        ends = [int(each) for each in folder.partition("=")[2].split("-")]
        assert ends[0] <= labels.min() <= labels.max() <= ends[-1]
        assert ends[-1] - ends[0] == width - 1
    bundles = -(-N // max(min(bundle, N), 1)) if block == 1 else len(numbers)
    assert sum(numbers.values()) <= max(files, bundles)


@given(st.integers(1, 200_000), st.integers(1, 5_000), st.integers(1, 2**20))
def test_folders_are_as_many_as_there_may_be_files(clusters, bundles, rows_of_bundle):
    rows = bundles * rows_of_bundle
    most = max(SIZES.most_files, rows // SIZES.rows_per_file, bundles)

    width = width_of(clusters, bundles, rows)

    assert bundles * -(-clusters // width) <= most
    assert width == 1 or bundles * -(-clusters // (width - 1)) > most - bundles


@given(st.lists(st.tuples(st.integers(1, 2**19), st.integers(1, 2**26)), min_size=1))
def test_a_bundle_fits_a_worker_and_no_two_neighbours_do_together(sizes):
    parts = [Part("", rows, size, "") for rows, size in sizes]

    bundles = list(cut_bundles(parts))

    assert [index for bundle in bundles for index in bundle] == list(range(len(parts)))

    def fits(bundle):
        rows, size = (sum(sizes[index][i] for index in bundle) for i in (0, 1))
        return rows <= SIZES.bundle_rows and size <= SIZES.bundle_bytes

    assert all(fits(bundle) for bundle in bundles)
    assert not any(fits([*a, b[0]]) for a, b in itertools.pairwise(bundles))


def test_readers_of_hive_folders_see_every_row_once_and_their_cluster(data, tmp_path):
    url = str(tmp_path / "out")

    write(data, url, keep_columns=["id"], by_cluster=True)

    table = pq.read_table(url).sort_by("row")
    assert table["id"].to_pylist() == [f"row {i}" for i in range(N)]
    np.testing.assert_array_equal(table["cluster"].to_numpy(), ORDER[:, 0])
    two = pq.read_table(url, filters=[("cluster", "==", 2)])
    assert len(two) == (ORDER[:, 0] == 2).sum()


@pytest.mark.parametrize("by", [False, True])
def test_what_is_added_goes_on_after_the_last_row_and_part(data, tmp_path, by):
    url, more = str(tmp_path / "out"), str(tmp_path / "more")
    put_rows(more, "0.parquet", X)
    write(data, url, keep_columns=["id"], by_cluster=by)
    first = manifest_of(url)

    assert write(more, url, keep_columns=["id"], by_cluster=by, append=True) == N

    check_complete(url, 2 * N)
    manifest = manifest_of(url)
    assert manifest["parts"][: len(first["parts"])] == first["parts"]
    assert len({part["name"] for part in manifest["parts"]}) == len(manifest["parts"])
    assert [each["rows"] for each in manifest["data"]] == [31, 59, 90]
    write(str(tmp_path / "more"), str(tmp_path / "alone"), keep_columns=["id"], by_cluster=by)
    again = str(tmp_path / "third")
    put_rows(again, "0.parquet", X)
    write(again, url, keep_columns=["id"], by_cluster=by, append=True)
    check_complete(url, 3 * N)


@pytest.mark.parametrize("by", [False, True])
def test_until_the_new_manifest_is_there_the_old_one_is_and_what_is_added_can_be_cut_off(
    data, tmp_path, by, monkeypatch
):
    url, more = str(tmp_path / "out"), str(tmp_path / "more")
    put_rows(more, "0.parquet", X)
    write(data, url, by_cluster=by)
    old = read(url)
    for puts in (0, 1, 5, 6):
        with monkeypatch.context() as patch:
            cut_after(patch, puts)
            with pytest.raises(Cut):
                write(more, url, by_cluster=by, append=True)
        assert read(url).equals(old)

    write(more, url, by_cluster=by, append=True)

    check_complete(url, 2 * N)


@pytest.mark.parametrize("append", [False, True])
def test_a_run_cut_off_right_after_its_manifest_is_done_when_it_is_run_again(
    data, tmp_path, append, monkeypatch
):
    url, more = str(tmp_path / "out"), str(tmp_path / "more")
    put_rows(more, "0.parquet", X)
    if append:
        write(data, url, by_cluster=True)
    with monkeypatch.context() as patch:
        remove, calls = LabelledOutput.remove, []

        def cut_at_the_second(self, found):
            calls.append(found)
            if len(calls) == 2:
                raise Cut
            remove(self, found)

        patch.setattr(LabelledOutput, "remove", cut_at_the_second)
        with pytest.raises(Cut):
            write(more, url, by_cluster=True, append=append)
    left = files_of(url)
    assert any(name.startswith("_unfinished-") for name in left)
    assert any(name.startswith("_by_cluster-") for name in left)

    write(more, url, by_cluster=True, append=append)

    check_complete(url, N * (1 + append))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"x": "both"}, r"has the rows of .*0\.parquet already \(2 of 3 files\)"),
        ({"state": FitState(CENTERS + 1, np.zeros(K, np.int64))}, "differs in the centers"),
        ({"second": True}, "differs in second"),
        ({"keep_columns": ["id"]}, "differs in keep_columns"),
        ({"by_cluster": True}, "differs in by_cluster"),
        ({"url": "empty"}, r"holds no finished output"),
    ],
)
def test_what_cannot_be_added_is_refused_and_the_output_stays(data, tmp_path, change, match):
    url, more = str(tmp_path / "out"), str(tmp_path / "more")
    put_rows(more, "0.parquet", X)
    write(data, url)
    before = files_of(url)
    change = {"x": more, "url": url, **change}
    change["x"] = [data, more] if change["x"] == "both" else more
    change["url"] = str(tmp_path / "empty") if change["url"] == "empty" else url

    with pytest.raises(StoreError, match=rf"append: .*{match}"):
        write(append=True, **change)

    assert files_of(url) == before


def test_a_run_whose_place_another_one_took_over_does_not_finish(data, tmp_path, monkeypatch):
    url = str(tmp_path / "out")
    read_back = Parts.read_back

    def taken_over(self, blocks):
        (tmp_path / "out" / marker_of(self.stamp)).unlink()
        return read_back(self, blocks)

    monkeypatch.setattr(Parts, "read_back", taken_over)

    with pytest.raises(LeaseLostError, match="taken over by a run of another model"):
        write(data, url)

    assert MANIFEST not in files_of(url)


def test_an_output_of_an_older_format_is_not_added_to(data, tmp_path):
    url = str(tmp_path / "out")
    put_rows(tmp_path / "more", "0.parquet", X)
    write(data, url)
    old = {**manifest_of(url), "format": 1}
    (tmp_path / "out" / MANIFEST).write_bytes(publish.seal(old))

    with pytest.raises(StoreError, match=r"append: .*no finished output .*format 3"):
        write(str(tmp_path / "more"), url, append=True)


def test_the_manifest_is_json_that_names_model_options_and_data(data, tmp_path):
    url = str(tmp_path / "out")

    write(data, url, keep_columns=["id"], second=True)

    manifest = json.loads(files_of(url)[MANIFEST])
    assert manifest["model"] == {"model_dir": "m", "iteration": 9}
    assert manifest["of"]["columns"] == [["id", "string"]]
    assert manifest["of"]["second"] is True
    for entry, name in zip(manifest["data"], ("0.parquet", "1.parquet"), strict=True):
        info = os.stat(f"{data}/{name}")
        assert (entry["file"], entry["size"]) == (f"{data}/{name}", info.st_size)
        assert float(entry["version"]) == pytest.approx(info.st_mtime)


def test_the_oracle_of_the_second_agrees_with_that_of_the_labels():
    np.testing.assert_array_equal(ORDER[:, 0], oracle.labels(X, CENTERS))
