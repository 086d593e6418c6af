"""What the seed's own tests ask of k-means, as laws, and what its users are used to."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.algorithm.state import Stop
from ray_kmeans.errors import ModelMismatchError, TooFewRowsError

HERE = RunConfig(num_workers=0, progress=False)
WAYS = {
    "full batch": ({"use_mini_batch": False}, {}),
    "mini-batch": ({}, {"batch_size": 450}),
    "mini-batch, an iteration is an epoch": (
        {"mini_batch_steps_per_iteration": 23},
        {"batch_size": 450},
    ),
}
INITS = ["random", "kmeans_plus_plus"]


@pytest.fixture
def new(tmp_path):
    """Return a maker of models in this process, each in a directory of its own."""
    made = []

    def make(k, initial="random", name=None, **params):
        made.append(name)
        place = tmp_path / (name or f"m{len(made)}")
        return KMeansClustering(k, str(place), initial, **{"config": HERE, **params})

    return make


# --- rows around true centers ----------------------------------------------------------------


@pytest.fixture(scope="module")
def rows():
    """10,000 whole points around five centers, the sum of their squared offsets, and a start."""
    rng = np.random.default_rng(1)  # no two centers are near each other
    centers = np.round(rng.uniform(0, 500, (5, 2)))
    offsets = np.round(rng.normal(0, 20, (10_000, 2)))
    x = centers[rng.integers(0, 5, 10_000)] + offsets
    return x.astype(np.float32), (offsets**2).sum(), centers + 60


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("initial", INITS)
def test_after_one_step_there_is_a_center_for_each_cluster(new, rows, way, initial):
    km = new(5, initial, **way[0]).fit(rows[0], steps=1, **way[1])

    assert km.clusters().shape == (5, 2)
    assert km.clusters().dtype == np.float32


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("given", [True, False])
def test_training_lowers_the_score_to_that_of_the_true_centers(new, rows, way, given):
    x, true_score, start = rows
    km = new(5, start if given else "kmeans_plus_plus", **way[0])

    km.fit(x, steps=1, **way[1])
    first = km.evaluate(x, checkpoint_path=km.checkpoints()[0])["scores"]
    early = km.score(x)
    late = km.fit(x, steps=15 * len(x) // 450, **way[1]).score(x)

    assert first > late
    assert first >= early >= late
    assert late == pytest.approx(true_score, rel=0.05)


@pytest.mark.parametrize(
    ("way", "tolerance"), [*zip(WAYS.values(), [1e-3, 0.02, 1e-3], strict=True)], ids=WAYS
)
def test_relative_tolerance_ends_a_fit_by_itself(new, rows, way, tolerance):
    x, true_score, _ = rows
    km = new(8, "kmeans_plus_plus", relative_tolerance=tolerance, **way[0])

    km.fit(x, **way[1])

    assert km.why_stopped() is Stop.TOLERANCE
    assert km.score(x) <= 1.05 * true_score  # with some clusters to spare


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_answers_on_new_rows_are_those_of_a_direct_computation(new, rows, way):
    km = new(5, "kmeans_plus_plus", **way[0]).fit(rows[0], steps=23, **way[1])
    x = np.random.default_rng(8).uniform(0, 500, (100, 2)).astype(np.float32)

    squared = ((x[:, None].astype(np.float64) - km.clusters()[None]) ** 2).sum(axis=2)

    whole = km.predict(x, as_iterable=False)
    np.testing.assert_array_equal(whole["cluster_idx"], squared.argmin(axis=1))
    np.testing.assert_array_equal(list(km.predict_cluster_idx(x)), squared.argmin(axis=1))
    np.testing.assert_allclose(whole["all_scores"], squared, rtol=1e-5)
    np.testing.assert_allclose(km.transform(x), squared, rtol=1e-5)
    assert km.score(x) == pytest.approx(squared.min(axis=1).sum(), rel=1e-6)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("initial", INITS)
def test_more_clusters_than_rows_are_refused_with_both_numbers(new, tmp_path, way, initial):
    km = new(3, initial, "m", **way[0])

    with pytest.raises(TooFewRowsError, match=r"num_clusters=3 .* 2 rows") as caught:
        km.fit(np.array([[2, 3], [1.6, 8.2]], np.float32))

    assert (caught.value.num_clusters, caught.value.rows) == (3, 2)
    assert not (tmp_path / "m").exists()


# --- cosine ----------------------------------------------------------------------------------

TWO_GROUPS = np.array(
    [[2.5, 0.1], [2, 0.2], [3, 0.1], [4, 0.2], [0.1, 2.5], [0.2, 2], [0.1, 3], [0.2, 4]],
    np.float32,
)
THREE_GROUPS = np.array(
    [
        *([2.5, 3.5], [2.5, 3.5], [-2, 3], [-2, 3]),
        *([-3, -3], [-3.1, -3.2], [-2.8, -3.0], [-2.9, -3.1]),
        *([-3.0, -3.1], [-3.0, -3.1], [-3.2, -3.0], [-3.0, -3.0]),
    ],
    np.float32,
)


def normalised(rows):
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def means_of(x, groups):
    return normalised([normalised(x)[group].mean(axis=0) for group in groups])


def sorted_rows(rows):
    return rows[np.lexsort(rows.T)]


@pytest.fixture(params=[{"use_mini_batch": False}, {}, {"mini_batch_steps_per_iteration": 2}])
def cosine(new, request):
    """Return a maker of cosine models that train in one of the ways."""
    return lambda k, initial: new(k, initial, distance_metric="cosine", **request.param)


@pytest.fixture
def two(cosine):
    return cosine(2, "kmeans_plus_plus").fit(TWO_GROUPS, steps=30)


def test_cosine_centers_are_the_normalised_means_of_the_groups(two):
    expected = means_of(TWO_GROUPS, [range(4), range(4, 8)])

    np.testing.assert_allclose(
        sorted_rows(normalised(two.clusters())), sorted_rows(expected), atol=1e-2
    )


def test_cosine_full_batch_finds_those_means_to_the_last_digits(new):
    km = new(2, "kmeans_plus_plus", distance_metric="cosine", use_mini_batch=False)

    km.fit(TWO_GROUPS)

    expected = means_of(TWO_GROUPS, [range(4), range(4, 8)])
    np.testing.assert_allclose(sorted_rows(km.clusters()), sorted_rows(expected), atol=1e-7)


def test_cosine_transform_is_1_minus_the_similarity(two):
    expected = 1 - normalised(TWO_GROUPS) @ normalised(two.clusters()).T

    np.testing.assert_allclose(two.transform(TWO_GROUPS), expected, atol=1e-6)


def test_cosine_predict_tells_the_groups_apart(two):
    labels = list(two.predict_cluster_idx(TWO_GROUPS))

    assert labels in ([0] * 4 + [1] * 4, [1] * 4 + [0] * 4)
    similar = normalised(TWO_GROUPS) @ normalised(two.clusters()).T
    assert labels == similar.argmax(axis=1).tolist()
    assert [row["cluster_idx"] for row in two.predict(TWO_GROUPS)] == labels


def test_cosine_score_is_the_rows_minus_the_sum_of_similarities(two):
    similar = normalised(TWO_GROUPS) @ normalised(two.clusters()).T

    assert two.score(TWO_GROUPS) == pytest.approx(8 - similar.max(axis=1).sum(), abs=1e-6)
    best = means_of(TWO_GROUPS, [range(4), range(4, 8)])
    lowest = 8 - (normalised(TWO_GROUPS) @ best.T).max(axis=1).sum()
    assert lowest - 1e-6 <= two.score(TWO_GROUPS) <= lowest + 0.05


@pytest.mark.parametrize("seed", range(5))
def test_cosine_kmeans_plus_plus_finds_three_groups(cosine, seed):
    groups = [[0, 1], [2, 3], range(4, 12)]
    km = cosine(3, "kmeans_plus_plus").set_params(random_seed=seed)

    km.fit(THREE_GROUPS, steps=30)

    labels = list(km.predict_cluster_idx(THREE_GROUPS))
    assert [len({labels[i] for i in group}) for group in groups] == [1, 1, 1]
    assert len(set(labels)) == 3
    np.testing.assert_allclose(
        sorted_rows(normalised(km.clusters())),
        sorted_rows(means_of(THREE_GROUPS, groups)),
        atol=1e-2,
    )
    # In the order of the clusters: each row is nearest to the mean of its group.
    order = [labels[0], labels[2], labels[4]]
    expected = 1 - normalised(THREE_GROUPS) @ means_of(THREE_GROUPS, groups).T
    np.testing.assert_allclose(km.transform(THREE_GROUPS)[:, order], expected, atol=2e-2)


@pytest.mark.parametrize("metric", ["squared_euclidean", "cosine"])
def test_one_point_is_predicted(new, metric):
    km = new(3, "kmeans_plus_plus", distance_metric=metric).fit(THREE_GROUPS, steps=5)
    labels = list(km.predict_cluster_idx(THREE_GROUPS))

    for row, label in zip(THREE_GROUPS, labels, strict=True):
        (answer,) = km.predict(input_fn=lambda row=row: row[None])
        assert answer["cluster_idx"] == label
        assert answer["all_scores"].shape == (3,)
        assert list(km.predict_cluster_idx(lambda row=row: row[None])) == [label]


def test_one_cluster_and_one_point_are_enough(new):
    x = np.array([[3, 4]], np.float32)

    km = new(1).fit(x, steps=1)

    np.testing.assert_array_equal(km.clusters(), x)
    assert km.score(x) == 0


# --- what users are used to ------------------------------------------------------------------

X = np.random.default_rng(9).integers(-8, 8, size=(60, 3)).astype(np.float32)
BOTH = {"full batch": {"use_mini_batch": False}, "mini-batch": {}}


@pytest.fixture(params=BOTH.values(), ids=BOTH)
def km(new, request):
    return new(4, X[:4], "m", **request.param)


def global_step(km):
    return km.get_variable_value("global_step").item()


@pytest.mark.parametrize("call", ["fit", "partial_fit"])
def test_training_returns_the_estimator(km, call):
    assert getattr(km, call)(X, steps=1) is km


def test_input_fn_is_called_once_per_fit(km):
    calls = []

    def input_fn():
        calls.append(1)
        return X, None

    km.fit(input_fn=input_fn, steps=3)
    km.partial_fit(input_fn=input_fn)

    assert calls == [1, 1]


def test_a_fit_whose_max_steps_are_done_does_not_even_call_input_fn(km):
    km.fit(X, steps=2)

    assert km.fit(input_fn=lambda: pytest.fail("called"), max_steps=2) is km

    assert global_step(km) == 2


def test_steps_add_up_over_all_ways_to_call(km):
    km.fit(X, steps=1).partial_fit(X[:30]).fit(X[10:], steps=1).partial_fit(X[20:], steps=1)

    assert global_step(km) == 4
    assert [line.iteration for line in km.history()] == [1, 2, 3, 4]


def test_partial_fit_makes_one_step_over_all_that_it_gets(km):
    km.partial_fit(X)

    assert [line.rows for line in km.history()] == [60]
    assert km.why_stopped() is Stop.STEPS


def test_partial_fit_without_a_number_of_steps_trains_until_the_input_ends(new):
    km = new(4, X[:4]).partial_fit((X[i : i + 20] for i in range(0, 60, 20)), steps=None)

    assert [line.rows for line in km.history()] == [20, 20, 20]
    assert km.why_stopped() is Stop.END_OF_INPUT


@pytest.mark.parametrize("initial", ["random", "kmeans_plus_plus", "kmc2", "kmeans_parallel"])
def test_choosing_the_centers_takes_nothing_from_the_input(new, initial):
    km = new(4, initial).fit(iter([X]))

    assert [line.rows for line in km.history()] == [60]
    assert km.why_stopped() is Stop.END_OF_INPUT


def test_a_batch_may_have_fewer_rows_than_there_are_clusters_once_there_are_centers(new):
    km = new(4, X[:4])

    km.partial_fit(X[:2])
    km.partial_fit(X[7:8])
    km.model_fn(X[8:9], mode="train").train_op()

    assert [line.rows for line in km.history()] == [2, 1, 1]
    assert km.counts().sum() == 4 + 4


def test_a_loss_of_exactly_0_is_settled(new):
    km = new(4, X[:4], relative_tolerance=1e-6)

    km.fit(X[:4] for _ in range(50))

    assert km.why_stopped() is Stop.TOLERANCE
    assert [line.inertia for line in km.history()] == [0, 0]


def test_the_tolerance_compares_two_steps_of_the_same_fit(new):
    km = new(4, X[:4], relative_tolerance=1e9)

    for fits in (1, 2, 3):
        km.fit(X for _ in range(50))
        assert global_step(km) == 2 * fits


def test_the_default_seed_is_a_seed(new):
    first, second = new(4).fit(X, steps=1), new(4, random_seed=0).fit(X, steps=1)

    np.testing.assert_array_equal(first.clusters(), second.clusters())


def test_a_new_object_on_the_same_directory_goes_on_and_takes_no_centers_of_its_own(km, new):
    params = {"use_mini_batch": km.get_params()["use_mini_batch"]}
    whole = new(4, X[:4], "whole", **params).fit(X, steps=2).fit(X, steps=3)
    km.fit(X, steps=2)

    with pytest.warns(UserWarning, match="that model is continued, and initial_clus"):
        other = new(4, X[50:54], "m", **params).fit(X, steps=3)

    assert other.history() == whole.history()
    np.testing.assert_array_equal(other.clusters(), whole.clusters())
    np.testing.assert_array_equal(other.counts(), whole.counts())


def test_data_of_another_width_are_refused_by_a_model_that_is_there(km):
    km.fit(X, steps=1)

    for call in (km.fit, km.partial_fit):
        with pytest.raises(ValueError, match=r"features"):
            call(X[:, :2], steps=1)

    assert global_step(km) == 1


def test_another_number_of_clusters_is_refused_by_a_model_that_is_there(km, new):
    km.fit(X, steps=1)

    with pytest.raises(ModelMismatchError, match=r"4 clusters .* 5 clusters"):
        new(5, X[:5], "m").fit(X, steps=1)
    with pytest.raises(ModelMismatchError, match=r"squared_euclidean .* cosine"):
        new(4, X[:4], "m", distance_metric="cosine").fit(X, steps=1)


def test_the_last_five_checkpoints_are_kept(new):
    config = RunConfig(num_workers=0, progress=False, save_checkpoints_steps=1)
    km = new(4, X[:4], config=config).fit(X for _ in range(9))

    steps = [int(path.rpartition("-")[2].removesuffix(".json")) for path in km.checkpoints()]

    assert len(steps) == 5
    assert steps == sorted(steps)
    assert steps[-1] == 9


def test_the_constructor_neither_warns_nor_writes(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        km = KMeansClustering(0, str(tmp_path / "m"), "nonsense", "nonsense")

    assert km.get_params()["num_clusters"] == 0
    assert not (tmp_path / "m").exists()


def test_columns_are_put_side_by_side_in_the_order_of_their_names(km, new):
    columns = {"b": X[:, 1], "c": X[:, 2:], "a": X[:, :1]}
    params = {"use_mini_batch": km.get_params()["use_mini_batch"]}

    by_name = km.fit(input_fn=lambda: (columns, None), steps=2)

    by_array = new(4, X[:4], **params).fit(X, steps=2)
    assert by_name.history() == by_array.history()


def test_a_function_is_asked_for_the_centers_still_missing(new):
    asked = []

    def two_at_a_time(sample, missing):
        asked.append(missing)
        return sample[: min(2, missing)]

    km = new(5, two_at_a_time).fit(X, steps=1)

    assert asked == [5, 3, 1]
    assert km.clusters().shape == (5, 3)
