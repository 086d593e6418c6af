"""A sample of a source: m rows that follow from the data and the seed, whoever reads them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_kmeans import KMeansClustering, RunConfig, open_session, open_source
from ray_kmeans.algorithm.draws import mix, words
from ray_kmeans.data.formats.base import FileSource
from ray_kmeans.data.sampled import SampledSource, sampled
from ray_kmeans.errors import ConfigError, NonFiniteError
from ray_kmeans.testing import SourceContract
from tests.support.files import in_blocks

X = np.random.default_rng(8).normal(size=(300, 3)).astype(np.float32)
HERE = RunConfig(num_workers=0, progress=False)


def oracle(blocks, m, seed):
    """Return the numbers of the chosen rows: the lowest hashes of each block, by sorting all."""
    n, chosen = sum(block.rows for block in blocks), []
    [key] = words(seed, "sample", size=1)
    for block in blocks:
        end = block.first + block.rows
        wanted = end * m // n - block.first * m // n
        numbers = range(block.first, end)
        hashes = {row: int(mix(np.array([row], np.uint64), key)[0]) for row in numbers}
        chosen += sorted(sorted(numbers, key=hashes.__getitem__)[:wanted])
    return chosen


def rows_of(source):
    read = [rows for _, rows in source.read(source.describe().blocks)]
    return np.concatenate([np.empty((0, 3), np.float32), *read])


class TestContract(SourceContract):
    @pytest.fixture
    def source_and_rows(self):
        source = in_blocks(X, 20)
        chosen = oracle(source.describe().blocks, 101, 4)
        return sampled(source, 101, 4, 1), X[chosen]


@given(st.integers(1, 60), st.integers(1, 25), st.data(), st.integers(-3, 3))
def test_exactly_m_rows_are_those_of_the_oracle(n, block, data, seed):
    source, m = in_blocks(X[:n], block), data.draw(st.integers(1, n))

    sample = sampled(source, m, seed, 1)

    chosen = oracle(source.describe().blocks, m, seed)
    assert sample.describe().rows == len(chosen) == m
    np.testing.assert_array_equal(rows_of(sample), X[chosen])
    assert (sample is source) == (m == n)


def test_weights_columns_shift_and_rounding_are_those_of_the_chosen_rows(tmp_path):
    wide = X.astype(np.float64) + 1e9
    table = pa.table(
        {
            "v": pa.FixedSizeListArray.from_arrays(wide.ravel(), 3),
            "w": np.arange(300) % 5,
            "id": np.arange(300),
        }
    )
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=50)
    about = {"sample_weight": "w", "filters": [("id", "!=", 7)], "center": True}
    source = open_source(str(tmp_path / "x.parquet"), ["v"], **about)
    chosen = np.array(oracle(source.describe().blocks, 90, 0))

    sample = sampled(source, 90, 0, 2)

    blocks = sample.describe().blocks
    whole = np.concatenate([rows for _, rows in source.read(source.describe().blocks)])
    noted = list(sample.read_noted(blocks))
    np.testing.assert_array_equal(np.concatenate([rows for _, rows, _ in noted]), whole[chosen])
    np.testing.assert_array_equal(rows_of(sample), whole[chosen])
    weights = np.concatenate(list(sample.weights_of(blocks)))
    np.testing.assert_array_equal(weights, np.where(chosen == 7, 0, chosen % 5))
    ids = pa.concat_tables(sample.columns_of(block, ["id"]) for block in blocks)["id"]
    assert ids.to_pylist() == chosen.tolist()
    assert sample.columns == ("v",)


def test_row_groups_without_a_chosen_row_are_not_read(tmp_path, monkeypatch):
    vectors = pa.FixedSizeListArray.from_arrays(X.ravel(), 3)
    pq.write_table(pa.table({"v": vectors}), tmp_path / "x.parquet", row_group_size=10)
    source = open_source(str(tmp_path / "x.parquet"))
    read, groups = FileSource.read_wide, []

    def listening(self, blocks):
        groups.extend(block.group for block in blocks)
        return read(self, blocks)

    monkeypatch.setattr(FileSource, "read_wide", listening)
    rows = rows_of(sampled(source, 6, 0, 1))

    assert len(rows) == len(groups) == 6


def fitted(place, x, **how):
    about = {"use_mini_batch": False, "config": HERE} | how
    return KMeansClustering(4, str(place), **about).fit(x, steps=3)


@pytest.mark.parametrize("mini_batch", [False, True])
def test_a_fit_on_a_sample_is_the_fit_on_an_array_of_its_rows(tmp_path, mini_batch):
    source = in_blocks(X, 20)
    chosen = oracle(source.describe().blocks, 75, 3)
    how = {"use_mini_batch": mini_batch, "random_seed": 3}

    of_sample = fitted(tmp_path / "a", source, train_rows=0.25, **how)
    of_rows = fitted(tmp_path / "b", X[chosen], **how)

    np.testing.assert_array_equal(of_sample.clusters(), of_rows.clusters())
    assert of_sample._state().rows.sample == (75, 300)
    assert of_rows._state().rows.sample == ()


@pytest.mark.parametrize("train_rows", [300, 10**9])
def test_a_sample_of_all_rows_is_no_sample(tmp_path, train_rows):
    whole = fitted(tmp_path / "a", X)

    same = fitted(tmp_path / "b", X, train_rows=train_rows)

    np.testing.assert_array_equal(whole.clusters(), same.clusters())
    assert same._state().rows.sample == ()


def test_fit_and_label_trains_on_the_sample_and_labels_all_rows(tmp_path):
    km = KMeansClustering(4, str(tmp_path / "m"), train_rows=50, config=HERE, use_mini_batch=False)

    counts = km.fit_and_label(in_blocks(X, 20), str(tmp_path / "out"))

    assert counts.rows == 300
    assert km.counts().sum() == 50
    labels = pq.read_table(tmp_path / "out").sort_by("row")["cluster_idx"].to_numpy()
    expected = km.predict(X, as_iterable=False, outputs=["cluster_idx"])["cluster_idx"]
    np.testing.assert_array_equal(labels, expected)
    assert km.evaluation(X).rows == 300


def test_the_plan_says_how_many_rows_train(tmp_path):
    km = KMeansClustering(4, str(tmp_path / "m"), train_rows=50, config=HERE)

    assert "sample   50 of 300 rows" in km.explain(X)


@pytest.mark.parametrize("train_rows", [0, -5, 0.0, 1.5, True, "10", float("nan")])
def test_what_is_no_number_of_rows_is_refused(tmp_path, train_rows):
    with pytest.raises(ConfigError, match="train_rows="):
        fitted(tmp_path / "m", X, train_rows=train_rows)


def test_where_a_sample_cannot_be_is_said_before_a_worker_starts(tmp_path):
    with pytest.raises(ConfigError, match="train_rows=3: 3 of 300 rows, and num_clusters=4"):
        fitted(tmp_path / "m", X, train_rows=3)
    with pytest.raises(ConfigError, match=r"train_rows=50 .*an iterator"):
        fitted(tmp_path / "m", iter([X]), train_rows=50)
    with (
        open_session(X, config=HERE, max_clusters=4) as session,
        pytest.raises(ConfigError, match="train_rows=50 with a session"),
    ):
        fitted(tmp_path / "m", session, train_rows=50)


def test_a_chosen_row_that_is_not_finite_is_told_as_one_of_the_sample(tmp_path):
    rows = X.copy()
    rows[:, 1] = np.nan

    with pytest.raises(NonFiniteError, match="the sampled rows of row group 0"):
        fitted(tmp_path / "m", rows, train_rows=50)


def test_a_sample_keeps_its_kind_when_it_is_shifted():
    from ray_kmeans.data.float32_rounding import shifted

    assert isinstance(shifted(sampled(open_source(X), 9, 0, 1), (1.0, 2.0, 3.0)), SampledSource)
