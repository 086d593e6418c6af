"""Where the first centers come from, and what a model that is there already decides."""

from __future__ import annotations

import numpy as np
import pytest

from ray_kmeans import KMeansClustering, RunConfig, open_source
from ray_kmeans.algorithm.stopping import StopRule
from ray_kmeans.errors import (
    ConfigError,
    DataError,
    ModelMismatchError,
    TooFewRowsError,
)
from ray_kmeans.observe import events as ev
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.workflows import fit
from ray_kmeans.workflows.parameters import FitParams
from tests.support.files import in_blocks

HERE = RunConfig(num_workers=0, progress=False)


def model(k, model_dir, initial="random", **params):
    params = {"use_mini_batch": False, "config": HERE, **params}
    return KMeansClustering(k, str(model_dir), initial, **params)


@pytest.fixture
def seeds(tmp_path):
    """Return a function from parameters to the centers before the first iteration."""
    seen = []

    def centers(k, x, initial="random", **params):
        store = ModelDir.at(str(tmp_path / f"m{len(seen)}"), {}, 5)

        def read(event):
            if isinstance(event, ev.CheckpointSaved) and event.iteration == 0:
                seen.append(store.latest().centers)

        km = model(k, store.url, initial, **params)
        fit_plan = fit.plan_fit(
            FitParams(**km.get_params(deep=False)), HERE, StopRule(steps=1), None
        )
        fit.fit(fit_plan, open_source(x), store, HERE, listeners=[read])
        return seen[-1]

    return centers


def test_as_many_clusters_as_rows_gives_the_data_in_order(tmp_path, gaussian):
    km = model(len(gaussian), tmp_path).fit(gaussian)

    np.testing.assert_array_equal(km.clusters(), gaussian)
    assert km.history()[-1].inertia == 0


def test_random_centers_are_rows_in_the_order_of_the_data_and_none_twice(seeds, gaussian):
    centers = seeds(40, gaussian)

    rows = [np.flatnonzero((gaussian == center).all(axis=1)).item() for center in centers]

    assert rows == sorted(set(rows))
    assert len(rows) == 40


def test_the_same_seed_gives_the_same_centers_and_another_seed_others(seeds, gaussian):
    drawn = {seed: seeds(5, gaussian, random_seed=seed).tobytes() for seed in (0, 1, -1, 77)}

    again = {seed: seeds(5, gaussian, random_seed=seed).tobytes() for seed in drawn}

    assert again == drawn
    assert len(set(drawn.values())) == 4


def test_blocks_do_not_change_what_is_drawn(seeds, gaussian):
    whole = seeds(9, gaussian)

    np.testing.assert_array_equal(seeds(9, in_blocks(gaussian, 7)), whole)


def test_a_seed_beyond_64_bits_and_one_of_numpy_are_seeds(seeds, gaussian):
    assert seeds(5, gaussian, random_seed=2**80).shape == (5, 5)
    np.testing.assert_array_equal(
        seeds(5, gaussian, random_seed=np.int64(3)), seeds(5, gaussian, random_seed=3)
    )


@pytest.mark.parametrize("kind", [np.asarray, np.ndarray.tolist, np.float64, np.asfortranarray])
def test_given_centers_may_be_any_table_of_numbers(seeds, lattice, kind):
    centers = seeds(4, lattice, kind(lattice[:4]))

    np.testing.assert_array_equal(centers, lattice[:4])
    assert centers.dtype == np.float32


def test_fewer_rows_than_clusters_is_refused_with_both_numbers(tmp_path, gaussian):
    km = model(201, tmp_path / "m")

    with pytest.raises(TooFewRowsError, match=r"num_clusters=201 .* 200 rows") as caught:
        km.fit(gaussian)

    assert (caught.value.rows, caught.value.num_clusters) == (200, 201)
    assert not (tmp_path / "m").exists()


def test_fewer_distinct_rows_than_clusters_warns_and_the_copies_stay(tmp_path):
    x = np.repeat(np.array([[0, 0], [4, 4]], np.float32), 3, axis=0)

    with pytest.warns(UserWarning, match=r"4 of 6 initial centers are copies"):
        km = model(6, tmp_path).fit(x)

    np.testing.assert_array_equal(km.clusters(), x)
    assert km.counts().tolist() == [3, 0, 0, 3, 0, 0]


def test_a_model_that_is_there_wins_over_initial_clusters(tmp_path, gaussian):
    first = model(3, tmp_path / "a", gaussian[:3]).fit(gaussian, steps=5)
    model(3, tmp_path / "b", gaussian[:3]).fit(gaussian, steps=2)

    with pytest.warns(UserWarning, match="that model is continued"):
        second = model(3, tmp_path / "b", gaussian[50:53]).fit(gaussian, steps=3)

    assert second.history() == first.history()


def test_a_model_is_read_back_by_another_object(tmp_path, gaussian):
    km = model(3, tmp_path, gaussian[:3]).fit(gaussian, steps=5)

    other = KMeansClustering(3, str(tmp_path))

    np.testing.assert_array_equal(other.clusters(), km.clusters())
    assert other.history() == km.history()
    assert list(other.predict_cluster_idx(gaussian)) == list(km.predict_cluster_idx(gaussian))


@pytest.mark.parametrize(
    ("k", "columns", "metric"),
    [(4, 5, "squared_euclidean"), (3, 2, "squared_euclidean"), (3, 5, "cosine")],
)
def test_another_model_in_model_dir_is_refused_with_both_descriptions(
    tmp_path, gaussian, k, columns, metric
):
    km = model(3, tmp_path, gaussian[:3]).fit(gaussian, steps=1)
    before = km.clusters()
    other = model(k, tmp_path, gaussian[:k, :columns], distance_metric=metric)

    with pytest.raises(ModelMismatchError) as caught:
        other.fit(gaussian[:, :columns])

    assert caught.value.found == "3 clusters of 5 features by squared_euclidean distance"
    assert caught.value.asked == f"{k} clusters of {columns} features by {metric} distance"
    assert str(tmp_path) in str(caught.value)
    np.testing.assert_array_equal(km.clusters(), before)


@pytest.mark.parametrize(
    ("initial", "message"),
    [
        ([[1, 2, 3]], r"shape \(1, 3\) and num_clusters=2"),
        ([1.0, 2.0], r"shape \(2,\)"),
        ([["a"], ["b"]], "not an array of numbers"),
        ([[1, 2], [3]], "not an array of numbers"),
        ([[1, np.nan], [0, 0]], "NaN or infinity"),
        ([[1e300, 0], [0, 0]], "NaN or infinity"),
        ("Random", "'Random' is unknown"),
        (None, "initial_clusters"),
    ],
)
def test_centers_that_cannot_be_used_are_refused(tmp_path, lattice, initial, message):
    km = model(2, tmp_path / "m", initial)

    with pytest.raises(ConfigError, match=message):
        km.fit(lattice)

    assert not (tmp_path / "m").exists()


def test_centers_of_another_width_than_the_data_are_refused(tmp_path, lattice):
    with pytest.raises(ConfigError, match=r"2 features and the data have 3"):
        model(4, tmp_path / "m", lattice[:4, :2]).fit(lattice)

    assert not (tmp_path / "m").exists()


def test_data_without_rows_are_refused(tmp_path):
    with pytest.raises(DataError, match="0 rows"):
        model(2, tmp_path / "m").fit(np.empty((0, 3), np.float32))

    assert not (tmp_path / "m").exists()
