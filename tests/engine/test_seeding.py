"""What every way to choose the first centers promises."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.algorithm import draws
from ray_kmeans.algorithm.metric import project
from ray_kmeans.data.array import ArraySource
from ray_kmeans.data.sharding import cut, split
from ray_kmeans.engine.options import WorkerSetup
from ray_kmeans.engine.pool import LocalPool
from ray_kmeans.engine.seeding.choose import choose_centers
from ray_kmeans.engine.worker import ShardWorker
from ray_kmeans.errors import ConfigError, DataError

METHODS = ("random", "kmeans_plus_plus", "kmc2", "kmeans_parallel")
OF_ROWS = METHODS[:3]
"""The methods that choose rows of the data."""
METRICS = ("squared_euclidean", "cosine")
HERE = RunConfig(num_workers=0, progress=False)


def chosen(initial, X, k, seed=0, retries=2, *, metric="squared_euclidean", cuts=(8192, 1), **more):
    """Return k centers for X, which is held in blocks of so many rows by so many workers."""
    block_rows, n_shards = cuts
    sizes = [min(block_rows, len(X) - start) for start in range(0, len(X), block_rows)]
    pool = LocalPool(
        ArraySource.of(X), split(cut("x", sizes, X.shape[1]), n_shards), WorkerSetup(metric)
    )
    return choose_centers(initial, k, retries, seed, pool, pool.summarize(), **more)


def numbers_of(centers, X):
    """Return for every center the number of the row that it is; rows of X must differ."""
    return [int(np.flatnonzero((center == X).all(axis=1)).item()) for center in centers]


def model(k, model_dir, initial, **params):
    params = {"use_mini_batch": False, "config": HERE, **params}
    return KMeansClustering(k, str(model_dir), initial, **params)


# --- the methods by name -----------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("k", [1, 2, 17, 200])
def test_there_are_k_centers_and_none_is_twice(gaussian, method, metric, k):
    centers = chosen(method, gaussian, k, metric=metric)

    assert centers.shape == (k, 5)
    assert centers.dtype == np.float32
    assert np.isfinite(centers).all()
    if k < len(gaussian) or method in ("random", "kmeans_plus_plus"):  # a chain sees 200 rows
        assert len(np.unique(centers, axis=0)) == k
    if metric == "cosine":
        np.testing.assert_allclose(np.linalg.norm(centers.astype(float), axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("method", OF_ROWS)
def test_centers_are_rows_as_the_metric_sees_them_and_none_is_twice(gaussian, method, metric):
    rows = project(gaussian, metric)
    for seed in range(5):
        numbers = numbers_of(chosen(method, gaussian, 40, seed, metric=metric), rows)

        assert len(set(numbers)) == 40
        assert method != "random" or numbers == sorted(numbers)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("method", OF_ROWS)
def test_as_many_centers_as_rows_are_all_rows(gaussian, method, metric):
    X = gaussian[:40]

    numbers = numbers_of(chosen(method, X, 40, metric=metric), project(X, metric))

    assert sorted(numbers) == list(range(40))


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_decides_alone(gaussian, method):
    drawn = {seed: chosen(method, gaussian, 6, seed).tobytes() for seed in (0, 1, -1, 2**80)}

    again = {seed: chosen(method, gaussian, 6, seed).tobytes() for seed in drawn}

    assert again == drawn
    assert len(set(drawn.values())) == 4


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("method", METHODS)
def test_any_number_of_workers_gives_the_same_bits(method, metric):
    X = np.random.default_rng(5).normal(size=(500, 4)).astype(np.float32)
    here = [chosen(method, X, 12, seed, metric=metric, cuts=(16, 1)) for seed in range(3)]

    for n_shards in (2, 3, 5):
        for seed, centers in enumerate(here):
            there = chosen(method, X, 12, seed, metric=metric, cuts=(16, n_shards))
            assert there.tobytes() == centers.tobytes()


@given(
    X=st.lists(st.tuples(*[st.integers(-2, 2)] * 2), min_size=1, max_size=25),
    share=st.floats(0, 1),
    method=st.sampled_from(METHODS),
    metric=st.sampled_from(METRICS),
    seed=st.integers(0, 2**70),
    cuts=st.tuples(st.integers(1, 9), st.integers(1, 4)),
)
@settings(max_examples=150)
def test_rows_may_be_equal_or_zero(X, share, method, metric, seed, cuts):
    X = np.array(X, np.float32)
    k = 1 + int(share * (len(X) - 1))

    centers = chosen(method, X, k, seed, metric=metric, cuts=cuts)

    assert centers.shape == (k, 2)
    if method in OF_ROWS:
        rows = project(X, metric)
        assert all((rows == center).all(axis=1).any() for center in centers)
    different = len(np.unique(X, axis=0))
    if method in ("kmeans_plus_plus", "kmc2") and metric == "squared_euclidean":
        assert len(np.unique(centers, axis=0)) == min(k, different)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("row", [[0, 0], [3, -4]])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (7, 1), (7, 4), (7, 7)])
def test_rows_that_are_all_equal_give_copies(method, metric, row, n, k):
    X = np.array([row] * n, np.float32)

    centers = chosen(method, X, k, metric=metric, cuts=(3, 2))

    np.testing.assert_array_equal(centers, project(X, metric)[:k])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(4))
def test_with_too_few_different_rows_each_is_a_center_and_the_rest_are_copies(method, metric, seed):
    three = np.array([[1, 0], [3, 4], [0, 2]], np.float32)
    X = np.repeat(three, [2, 3, 2], axis=0)
    k = len(X) if method == "random" else 5

    centers = chosen(method, X, k, seed, metric=metric, cuts=(3, 2))

    assert len(centers) == k
    expected = np.unique(project(three, metric), axis=0)
    np.testing.assert_allclose(np.unique(centers, axis=0), expected, rtol=1e-6)


@pytest.mark.parametrize("method", OF_ROWS)
def test_rows_of_very_different_size_are_all_different(method):
    X = np.array([[2.0 ** (3 * power)] for power in range(-20, 20)], np.float32)

    assert len(np.unique(chosen(method, X, 30), axis=0)) == 30


@pytest.mark.parametrize("method", METHODS)
def test_directions_that_are_close_are_all_different(method):
    X = 1 + np.random.default_rng(0).normal(size=(60, 3)) * 1e-4
    X = project(X.astype(np.float32), "cosine")
    assert len(np.unique(X, axis=0)) == 60

    centers = chosen(method, X, 40, metric="cosine")

    assert len(np.unique(centers, axis=0)) == 40


@pytest.mark.parametrize("method", METHODS[1:])
def test_by_cosine_rows_without_a_direction_are_no_centers_where_others_are_enough(method):
    X = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32) + 2
    X[::20] = 0
    for seed in range(4):
        centers = chosen(method, X, 20, seed, metric="cosine", cuts=(30, 2))

        assert centers.any(axis=1).all()
        assert len(np.unique(centers, axis=0)) == 20


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e30, 3e38])
def test_distances_beyond_float32_are_distances(method, scale):
    X = (np.array([[-1.0], [-0.6], [0.1], [0.5], [1.0]]) * scale).astype(np.float32)
    different = len(np.unique(X))

    centers = chosen(method, X, different)

    if method in OF_ROWS[1:]:
        np.testing.assert_array_equal(np.sort(centers.ravel()), np.unique(X))
    assert np.isfinite(centers).all()


@pytest.mark.parametrize("initial", [*METHODS, lambda sample, missing: 1 / 0])
def test_nothing_of_the_seeding_is_left_behind(gaussian, initial):
    pool = LocalPool(ArraySource.of(gaussian), split(cut("x", [100, 100], 5), 2))
    summary = pool.summarize()
    first = choose_centers("kmeans_plus_plus", 6, 2, 0, pool, summary)

    if callable(initial):
        with pytest.raises(ZeroDivisionError):
            choose_centers(initial, 6, 2, 0, pool, summary)
    else:
        choose_centers(initial, 6, 2, 0, pool, summary)

    again = choose_centers("kmeans_plus_plus", 6, 2, 0, pool, summary)
    assert again.tobytes() == first.tobytes()
    (weights, _), *_ = pool.ask(ShardWorker.weights_at, np.arange(3))
    assert weights.tolist() == [1.0] * 3


@pytest.mark.parametrize("method", METHODS)
def test_a_fit_warns_of_copies_once(tmp_path, method):
    X = np.repeat(np.array([[1, 0], [3, 4], [0, 2]], np.float32), [2, 3, 2], axis=0)

    with pytest.warns(UserWarning, match="4 of 7 initial centers are copies") as caught:
        km = model(7, tmp_path, method).fit(X)

    assert [each.category for each in caught] == [UserWarning]
    assert km.history()[-1].empty == 4
    assert km.history()[-1].inertia == 0


@pytest.mark.parametrize("method", METHODS)
def test_a_fit_does_not_warn_of_copies_where_there_are_none(tmp_path, method):
    X = np.array([[2.0 ** (3 * power)] for power in range(-20, 20)], np.float32)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model(30, tmp_path, method).fit(X, steps=1)

    assert not [each for each in caught if "copies" in str(each.message)]


def test_the_loss_at_the_first_step_tells_good_seedings_from_bad_ones(tmp_path):
    rng = np.random.default_rng(3)
    middles = rng.normal(size=(20, 2)) * 100
    X = (middles[rng.integers(0, 20, 2000)] + rng.normal(size=(2000, 2))).astype(np.float32)
    losses = {}
    for method in METHODS:
        km = model(20, tmp_path / method, method).fit(X, steps=1)
        losses[method] = km.history()[0].inertia

    assert losses["kmeans_parallel"] < losses["kmeans_plus_plus"] < losses["random"] / 4
    assert losses["kmc2"] < losses["random"] / 2


# --- centers that are given --------------------------------------------------------------------


def test_given_centers_stay_as_they_are_and_need_no_rows_of_the_data(lattice):
    given_centers = np.array([[0.1, 0, 1e30], [0, 0, 0], [0.1, 0, 1e30]], np.float32)

    centers = chosen(given_centers, lattice, 3)

    assert centers.tobytes() == given_centers.tobytes()


def test_given_centers_are_normalised_for_cosine_and_a_zero_one_stays(lattice):
    given_centers = np.array([[3, 0, 4], [0, 0, 0], [0, -1e-40, 0], [2e38, 0, 0]], np.float32)
    before = given_centers.copy()

    centers = chosen(given_centers, lattice, 4, metric="cosine")

    expected = np.array([[0.6, 0, 0.8], [0, 0, 0], [0, -1, 0], [1, 0, 0]], np.float32)
    np.testing.assert_array_equal(centers, expected)
    np.testing.assert_array_equal(given_centers, before)


# --- a function of the user --------------------------------------------------------------------


class Answers:
    """A function that answers with these arrays in turn, and notes what it was asked."""

    def __init__(self, *answers):
        self._answers = iter(answers)
        self.samples = []
        self.missing = []

    def __call__(self, sample, missing):
        self.samples.append(np.array(sample))
        self.missing.append(missing)
        return next(self._answers)


NONE = np.empty((0, 2))


@pytest.fixture
def plane():
    return np.random.default_rng(2).normal(size=(50, 2)).astype(np.float32)


def test_a_function_is_called_until_there_are_k_rows(plane):
    function = Answers([[1, 2]], NONE, [[3, 4], [0, 0]], [], np.float64([[5, 6]]), None)

    centers = chosen(function, plane, 4)

    assert centers.tolist() == [[1, 2], [3, 4], [0, 0], [5, 6]]
    assert centers.dtype == np.float32
    assert function.missing == [4, 3, 3, 1, 1]


def test_a_function_that_answers_at_once_is_called_once(plane):
    function = Answers(plane[:4].tolist())

    np.testing.assert_array_equal(chosen(function, plane, 4), plane[:4])
    assert function.missing == [4]


@pytest.mark.parametrize("metric", METRICS)
def test_a_function_sees_all_rows_in_order_where_they_are_few(plane, metric):
    function = Answers(plane[:2], plane[:1])

    chosen(function, plane, 3, metric=metric, cuts=(8, 3))

    for sample in function.samples:
        np.testing.assert_array_equal(sample, project(plane, metric))
        assert sample.dtype == np.float32


def test_a_function_sees_another_sample_of_many_rows_at_each_call():
    X = np.arange(70_000, dtype=np.float32)[:, None]
    function = Answers([[1]], [[2]], [[3]])

    chosen(function, X, 3, cuts=(8192, 2))

    drawn = [sample.ravel() for sample in function.samples]
    for sample in drawn:
        assert len(sample) == 65_536
        assert (np.diff(sample) > 0).all()
    assert len({sample.tobytes() for sample in drawn}) == 3


def test_the_samples_do_not_depend_on_the_workers_and_are_never_smaller_than_k(plane):
    for k, size in ((3, 10), (12, 12)):
        functions = [Answers(plane[: k - 1], plane[:1]) for _ in range(3)]
        for function, n_shards in zip(functions, (1, 2, 5), strict=True):
            chosen(function, plane, k, cuts=(8, n_shards), sample_rows=10)

        samples = [[sample.tobytes() for sample in function.samples] for function in functions]
        assert samples[0] == samples[1] == samples[2]
        assert [len(sample) for sample in functions[0].samples] == [size, size]


def test_what_a_function_does_to_its_sample_does_not_change_the_data(plane):
    def function(sample, missing):
        sample[:] = 7
        return sample[:1]

    pool = LocalPool(ArraySource.of(plane), split(cut("x", [25, 25], 2), 1))
    before = plane.copy()

    centers = choose_centers(function, 2, 2, 0, pool, pool.summarize())

    assert centers.tolist() == [[7, 7], [7, 7]]
    np.testing.assert_array_equal(plane, before)
    np.testing.assert_array_equal(pool.rows_at(np.arange(50)), before)


def test_what_a_function_returns_is_normalised_for_cosine(plane):
    function = Answers([[3, 4]], [[0, 0], [0, -2]])

    centers = chosen(function, plane, 3, metric="cosine")

    np.testing.assert_array_equal(centers, np.array([[0.6, 0.8], [0, 0], [0, -1]], np.float32))


@pytest.mark.parametrize("empty", [NONE, [], (), np.empty((0, 2), np.float32)])
def test_no_row_twice_in_a_row_is_refused(plane, empty):
    function = Answers([[1, 2]], empty, [[1, 2]], empty, empty, [[9, 9]])

    with pytest.raises(ConfigError, match=r"no row twice in a row; 2 are missing"):
        chosen(function, plane, 4)

    assert function.missing == [4, 3, 3, 2, 2]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([[1, 2]] * 4, r"shape \(4, 2\).* at most the 3 rows"),
        ([[1, 2, 3]], r"shape \(1, 3\); it must be \(rows, 2\)"),
        ([1, 2], r"shape \(2,\)"),
        ([[[1, 2]]], r"shape \(1, 1, 2\)"),
        (5.0, r"shape \(\)"),
        (None, "initial_clusters returned"),
        ([[1, np.nan]], "NaN or infinity"),
        ([[np.inf, 0]], "NaN or infinity"),
        ([[1e300, 0]], "NaN or infinity"),
        (np.array([[1e300, 0]]), "NaN or infinity"),
        ([["a", "b"]], "initial_clusters returned"),
        ([[1, 2], [3]], "initial_clusters returned"),
        ({"rows": 1}, "initial_clusters returned"),
    ],
)
def test_what_is_no_rows_is_refused_with_what_came_back(plane, answer, message):
    with pytest.raises(ConfigError, match=message):
        chosen(Answers(answer), plane, 3)


def test_only_what_is_missing_may_be_returned(plane):
    with pytest.raises(ConfigError, match=r"shape \(2, 2\).* at most the 1 rows"):
        chosen(Answers(plane[:2], plane[:2]), plane, 3)


def test_an_error_of_the_function_comes_out_unchanged(tmp_path, plane):
    class MyError(Exception):
        pass

    error = MyError("mine")

    def function(sample, missing):
        raise error

    with pytest.raises(MyError) as caught:
        model(3, tmp_path / "m", function).fit(plane)

    assert caught.value is error
    km = model(3, tmp_path / "m", plane[:3]).fit(plane, steps=1)
    assert km.history()[-1].iteration == 1


def test_an_answer_that_is_refused_ends_the_fit_and_the_next_one_starts_anew(tmp_path, plane):
    with pytest.raises(ValueError, match="no row twice"):
        model(3, tmp_path / "m", lambda sample, missing: NONE).fit(plane)

    km = model(3, tmp_path / "m", lambda sample, missing: sample[:missing]).fit(plane)
    other = model(3, tmp_path / "n", plane[:3]).fit(plane)
    assert km.history() == other.history()


def test_a_function_is_not_asked_for_copies_and_they_are_no_reason_to_warn(tmp_path, plane):
    km = model(3, tmp_path, lambda sample, missing: sample[:1]).fit(plane, steps=1)

    assert km.counts().tolist() == [50, 0, 0]


@pytest.mark.parametrize("initial", [*METHODS, "function"])
def test_a_model_that_is_there_wins(tmp_path, plane, initial):
    def never(sample, missing):
        raise AssertionError("there are centers already")

    model(3, tmp_path / "a", plane[:3]).fit(plane, steps=2)
    model(3, tmp_path / "b", plane[:3]).fit(plane, steps=2)
    initial = never if initial == "function" else initial

    started = model(3, tmp_path / "a", initial, random_seed=5)
    if initial == "random":  # the default, so nothing is asked for
        km = started.fit(plane, steps=2)
    else:
        with pytest.warns(UserWarning, match="that model is continued"):
            km = started.fit(plane, steps=2)

    other = model(3, tmp_path / "b", plane[:3]).fit(plane, steps=2)
    assert km.clusters().tobytes() == other.clusters().tobytes()


@pytest.mark.parametrize("initial", [*METHODS, "function"])
def test_more_clusters_than_rows_are_refused_before_anything_is_asked(tmp_path, plane, initial):
    function = Answers()

    with pytest.raises(DataError, match=r"num_clusters=51 .* 50 rows"):
        model(51, tmp_path / "m", function if initial == "function" else initial).fit(plane)

    assert function.missing == []


def test_samples_are_drawn_by_seed_and_call(plane):
    function = Answers(plane[:1], plane[:1])

    chosen(function, plane, 2, seed=9, sample_rows=10)

    for call, sample in enumerate(function.samples):
        rows = plane[draws.distinct_rows(50, 10, 9, "sample", call)]
        np.testing.assert_array_equal(sample, rows)
