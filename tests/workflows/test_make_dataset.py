"""A synthetic data set: what its rows are, whoever makes them and however often it is cut off."""

from __future__ import annotations

import shutil
import uuid
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from ray_kmeans import (
    KMeansClustering,
    RunConfig,
    cli,
    open_source,
)
from ray_kmeans.data.synthetic import DRAWN_ROWS, Mixture
from ray_kmeans.errors import ConfigError, StoreError
from ray_kmeans.store import dataset_dir
from ray_kmeans.workflows.make_dataset import make
from tests.support.files import rows_of

HERE = RunConfig(num_workers=0, progress=False)
MIXTURE = Mixture(20_000, 6, 7, spread=0.5, random_seed=3, unit_norm=False)


def made(place, mixture=MIXTURE, file_format="parquet", rows_per_file=6_000, config=HERE):
    make(mixture, str(place), file_format, rows_per_file, config)
    return place


def files_of(place):
    return {
        str(path.relative_to(place)): path.read_bytes()
        for path in place.rglob("*")
        if path.is_file()
    }


# --- the rows ------------------------------------------------------------------------------------


def test_a_row_does_not_depend_on_what_else_is_asked_for():
    rows, labels = MIXTURE.rows(0, 20_000)

    for start, stop in [(0, 1), (8_191, 8_193), (DRAWN_ROWS, 2 * DRAWN_ROWS), (19_999, 20_000)]:
        some, their_labels = replace(MIXTURE, num_rows=99_999).rows(start, stop)
        np.testing.assert_array_equal(some, rows[start:stop])
        np.testing.assert_array_equal(their_labels, labels[start:stop])


def test_rows_have_the_mean_and_the_spread_of_their_center():
    rows, labels = replace(MIXTURE, num_rows=60_000).rows(0, 60_000)

    for cluster, center in enumerate(MIXTURE.centers):
        own = rows[labels == cluster].astype(np.float64)
        assert abs(len(own) / 60_000 - 1 / 7) < 0.006
        np.testing.assert_allclose(own.mean(axis=0), center, atol=0.03)
        np.testing.assert_allclose(np.cov(own.T), 0.25 * np.eye(6), atol=0.02)


def test_no_deviation_comes_twice():
    rows, labels = MIXTURE.rows(0, 20_000)

    deviation = np.sort((rows - MIXTURE.centers[labels])[:, 0])

    assert (np.diff(deviation) == 0).mean() < 0.05  # by chance: float32 has few steps


def test_without_spread_rows_are_their_centers():
    rows, labels = replace(MIXTURE, spread=0.0).rows(5, 300)

    np.testing.assert_array_equal(rows, MIXTURE.centers[labels])


def test_centers_are_spread_by_one():
    centers = replace(MIXTURE, num_clusters=20_000).centers

    np.testing.assert_allclose(centers.mean(axis=0), 0, atol=0.04)
    np.testing.assert_allclose(centers.std(axis=0), 1, atol=0.04)


def test_unit_norm_scales_the_same_rows_to_norm_1():
    rows, labels = MIXTURE.rows(0, 500)
    units, same = replace(MIXTURE, unit_norm=True).rows(0, 500)

    np.testing.assert_array_equal(labels, same)
    np.testing.assert_allclose(units, rows / np.linalg.norm(rows, axis=1)[:, None], rtol=1e-6)


def test_another_seed_gives_other_rows():
    first, second = (replace(MIXTURE, random_seed=seed).rows(0, 50)[0] for seed in (1, -1))

    assert not np.isin(first, second).any()


# --- the files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rows_per_file", [1_000, 6_000, 20_000, 50_000])
def test_the_rows_are_the_same_in_files_of_any_length(rows_per_file, tmp_path):
    table = pq.read_table(made(tmp_path / "d", rows_per_file=rows_per_file))
    rows, labels = MIXTURE.rows(0, 20_000)

    assert table.column_names == ["id", "vector", "label"]
    assert table["id"].to_pylist() == list(range(20_000))
    np.testing.assert_array_equal(np.stack(table["vector"].to_numpy()), rows)
    assert table["label"].to_pylist() == labels.tolist()
    lengths = [pq.read_metadata(p).num_rows for p in sorted((tmp_path / "d").glob("*.parquet"))]
    rest = 20_000 % rows_per_file
    assert lengths == [rows_per_file] * (20_000 // rows_per_file) + [rest] * (rest > 0)


def test_the_files_are_data_without_further_words(tmp_path):
    parquet = made(tmp_path / "p")
    npy = made(tmp_path / "n", file_format="npy")

    np.testing.assert_array_equal(rows_of(open_source(str(parquet), ["vector"])), rows_of(str(npy)))
    labels = [np.load(path) for path in sorted((npy / "_labels").iterdir())]
    assert np.concatenate(labels).tolist() == MIXTURE.rows(0, 20_000)[1].tolist()


def test_a_fit_finds_the_clusters_that_are_there(tmp_path):
    mixture = Mixture(5_000, 24, 8, spread=0.1, random_seed=1, unit_norm=False)
    data = str(made(tmp_path / "d", mixture))
    flags = ["--num-clusters", "8", "--initial-clusters", "kmeans_plus_plus"]
    here = ["--columns", "vector", "--no-use-mini-batch", "--num-workers", "0"]

    cli.main(["fit", data, str(tmp_path / "m"), *flags, *here])

    km = KMeansClustering(8, str(tmp_path / "m"), config=HERE)
    rows, labels = mixture.rows(0, 5_000)
    found = np.fromiter(km.predict_cluster_idx(rows), np.int64)
    assert len(set(zip(found.tolist(), labels.tolist(), strict=True))) == 8


def test_a_place_in_memory_will_do(tmp_path):
    url = f"memory://{uuid.uuid4().hex}/d"

    made(url)

    np.testing.assert_array_equal(rows_of(open_source(url, ["vector"])), MIXTURE.rows(0, 20_000)[0])


# --- a place that holds something ----------------------------------------------------------------


def test_a_place_that_holds_files_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "a.txt").write_text("mine")

    with pytest.raises(StoreError, match=r"holds files already \(a.txt\)"):
        made(tmp_path)

    assert files_of(tmp_path) == {"a.txt": b"mine"}


@pytest.mark.parametrize("name", ["x.abc.partial", "part-00000000.parquet.1a2b3c4d.partial"])
def test_a_half_download_of_others_makes_a_place_no_empty_one(name, tmp_path):
    (tmp_path / name).write_text("mine")

    with pytest.raises(StoreError, match=rf"holds files already \({name}\)"):
        made(tmp_path)

    assert files_of(tmp_path) == {name: b"mine"}


def test_only_what_is_ours_is_deleted_when_a_data_set_is_continued(tmp_path):
    made(tmp_path)
    mine = ["x.abc.partial", f"x.{32 * 'a'}.ray-kmeans-partial", "part-1.npy.1a2b3c4d.partial"]
    for name in mine:
        (tmp_path / name).write_text("mine")
    before = files_of(tmp_path)

    made(tmp_path)

    assert files_of(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_rows", 19_999), ("num_clusters", 8), ("spread", 0.25), ("random_seed", 4)],
)
def test_another_data_set_is_refused_and_told(name, value, tmp_path):
    before = files_of(made(tmp_path))

    with pytest.raises(StoreError, match=rf"another data set \({name}={getattr(MIXTURE, name)}\)"):
        made(tmp_path, replace(MIXTURE, **{name: value}))
    with pytest.raises(StoreError, match=r"another data set \(rows_per_file=6000\)"):
        made(tmp_path, rows_per_file=500)

    assert files_of(tmp_path) == before


@pytest.mark.parametrize("file_format", ["parquet", "npy"])
@pytest.mark.parametrize("writes", [0, 1, 3])
def test_what_was_cut_off_is_continued(writes, file_format, tmp_path, monkeypatch):
    whole = files_of(made(tmp_path / "whole", file_format=file_format))
    put, left = dataset_dir.DatasetDir.put, [writes]

    def dying(self, name, data):
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        put(self, name, data)

    cut = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr(dataset_dir.DatasetDir, "put", dying)
        with pytest.raises(KeyboardInterrupt):
            made(cut, file_format=file_format)
    there = {path: path.stat().st_mtime_ns for path in cut.glob(f"part-*.{file_format}")}
    for ending in (f"{32 * 'a'}.ray-kmeans-partial", "1a2b3c4d.partial"):
        (cut / f"part-00000002.npy.{ending}").write_text("of a writer that was killed")
    made(tmp_path / "cut", file_format=file_format)

    assert len(there) == (writes if file_format == "parquet" else writes // 2)
    assert files_of(tmp_path / "cut") == whole
    assert {path: path.stat().st_mtime_ns for path in there} == there


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"num_rows": 0}, "num_rows=0"),
        ({"num_features": 0}, "num_features=0"),
        ({"num_clusters": -1}, "num_clusters=-1"),
        ({"spread": -0.1}, "spread=-0.1"),
        ({"spread": float("nan")}, "spread=nan"),
    ],
)
def test_what_cannot_be_is_refused(about, said):
    with pytest.raises(ConfigError, match=said):
        replace(MIXTURE, **about)


def test_files_without_rows_and_unknown_formats_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="rows_per_file=0"):
        made(tmp_path / "d", rows_per_file=0)
    with pytest.raises(ConfigError, match="format='csv'"):
        made(tmp_path / "d", file_format="csv")

    assert not (tmp_path / "d").exists()


# --- on Ray --------------------------------------------------------------------------------------


@pytest.mark.ray
@pytest.mark.parametrize("num_workers", [1, 3, None])
def test_the_bits_are_the_same_for_any_number_of_tasks(num_workers, tmp_path, ray_cluster):
    config = RunConfig(num_workers=num_workers, progress=False)

    on_ray = made(tmp_path / "ray", rows_per_file=1_500, config=config)

    assert files_of(on_ray) == files_of(made(tmp_path / "here", rows_per_file=1_500))


@pytest.mark.ray
def test_an_error_in_a_task_is_the_error_of_the_run(tmp_path, ray_cluster):
    config = RunConfig(num_workers=2, progress=False)
    made(tmp_path / "d", file_format="npy")
    for path in (tmp_path / "d").glob("part*"):
        path.unlink()
    shutil.rmtree(tmp_path / "d" / "_labels")
    (tmp_path / "d" / "_labels").write_text("a file where a folder is to be")

    with pytest.raises(StoreError, match="cannot be written") as caught:
        made(tmp_path / "d", file_format="npy", config=config)

    assert type(caught.value) is StoreError  # and not also Ray's, which tells all lines of a trace
    assert "\n" not in str(caught.value)


@pytest.mark.ray
def test_memory_of_this_process_is_refused_where_others_are_to_write(ray_cluster):
    with pytest.raises(ConfigError, match="in the memory of this process"):
        made("memory://x", config=RunConfig(num_workers=2))
