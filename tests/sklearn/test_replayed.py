"""The cases of scikit-learn's own tests of k-means, restated as laws of our estimators.

docs/migrating.md has the table of all its cases: which hold here, and which differ and why.
"""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

pytest.importorskip("sklearn")
from scipy.sparse import csr_array, csr_matrix
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.pairwise import paired_distances
from threadpoolctl import threadpool_limits

from ray_kmeans import RunConfig
from ray_kmeans.algorithm.stopping import StopRule
from ray_kmeans.sklearn import KMeans, MiniBatchKMeans
from ray_kmeans.sklearn.arguments import config_of
from ray_kmeans.sklearn.base import METHODS
from ray_kmeans.sklearn.rows import source_of
from ray_kmeans.workflows.fit_in_memory import choose_by_sample

BOTH = pytest.mark.parametrize("kind", [KMeans, MiniBatchKMeans])
STORED = pytest.mark.parametrize("stored", [np.array, csr_matrix, csr_array])
TRUE = np.array([[0.0, 6.0, 0.0, 0.0], [1.0, 0.0, 5.0, 0.0], [0.0, 0.0, 0.0, 7.0]])
X, GROUPS = make_blobs(n_samples=90, centers=TRUE, cluster_std=1.0, random_state=7)
NEAR = 1e-6
"""Relative error of centers of float64, whose offset from the middle is a float32."""


def has_found_the_groups(km):
    found = adjusted_rand_score(GROUPS, km.labels_)
    return found == 1 and km.cluster_centers_.shape == TRUE.shape and km.inertia_ > 0


@STORED
@pytest.mark.parametrize("algorithm", ["lloyd", "elkan"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weighted_means_are_those_that_one_computes_by_hand(stored, algorithm, dtype):
    x = stored(np.array([[0, 0], [0.5, 0], [0.5, 1], [1, 1]], dtype))

    km = KMeans(2, init=np.array([[0, 0], [1, 1]]), n_init=1, algorithm=algorithm)
    km.fit(x, sample_weight=[3, 1, 1, 3])

    assert km.labels_.tolist() == [0, 0, 1, 1]
    assert km.cluster_centers_.tolist() == [[0.125, 0], [0.875, 1]]
    assert km.cluster_centers_.dtype == dtype
    assert (km.inertia_, km.n_iter_) == (0.375, 2)


@STORED
def test_an_empty_cluster_moves_to_the_farthest_row(stored):
    """scikit-learn takes the row out of its old cluster at once, and needs 3 iterations, not 4."""
    x = stored(np.array([[0, 0], [0.5, 0], [0.5, 1], [1, 1]]))

    km = KMeans(2, init=np.array([[0.5, 0.5], [3, 3]]), n_init=1).fit(x)

    assert sorted(km.cluster_centers_.tolist()) == [[0.25, 0], [0.75, 1]]
    assert (km.inertia_, km.n_iter_) == (0.25, 4)


@STORED
def test_an_empty_cluster_moves_though_the_row_has_little_weight(stored):
    km = KMeans(2, init=np.array([[-1], [10]]), n_init=1)
    km.fit(stored(np.array([[-1.0], [1.0]])), sample_weight=[1.9, 0.1])

    assert km.labels_.tolist() == [0, 1]
    np.testing.assert_allclose(km.cluster_centers_, [[-1], [1]], rtol=NEAR)


@STORED
def test_more_centers_than_different_rows_end_at_once_with_a_warning(stored):
    x = np.array([[0, 0], [1, 1], [1, 1], [1, 0], [0, 1]])
    km = KMeans(5, init=x)

    with pytest.warns(ConvergenceWarning, match=r"distinct clusters \(4\) .* n_clusters \(5\)"):
        km.fit(stored(x))
    assert km.n_iter_ == 1


def test_fewer_different_rows_than_clusters_are_warned_of():
    with pytest.warns(ConvergenceWarning, match=r"\(3\) found smaller than n_clusters \(4\)"):
        km = KMeans(4, random_state=0).fit([[0, 0], [0, 1], [1, 0], [1, 0]])
    assert len(set(km.labels_)) == 3


@STORED
@pytest.mark.parametrize("tol", [1e-2, 1e-8, 0])
def test_both_algorithms_are_the_same(stored, tol):
    x = stored(np.maximum(np.random.default_rng(1).normal(size=(400, 6)), 0))
    lloyd, elkan = (
        KMeans(5, random_state=3, tol=tol, algorithm=name).fit(x) for name in ("lloyd", "elkan")
    )

    assert (lloyd.cluster_centers_ == elkan.cluster_centers_).all()
    assert (lloyd.labels_ == elkan.labels_).all()
    assert (lloyd.n_iter_, lloyd.inertia_) == (elkan.n_iter_, elkan.inertia_)


def test_without_tolerance_a_fit_ends_where_no_center_moves():
    x = np.random.default_rng(2).normal(size=(2000, 6))
    km = KMeans(5, random_state=0, tol=0).fit(x)

    assert km.n_iter_ < km.max_iter
    again = KMeans(5, init=km.cluster_centers_, tol=0).fit(x)
    np.testing.assert_allclose(again.cluster_centers_, km.cluster_centers_, atol=NEAR)


@BOTH
@STORED
@pytest.mark.parametrize(
    "init",
    ["random", "k-means++", TRUE, lambda x, k, random_state: TRUE],
    ids=["random", "k-means++", "array", "function"],
)
def test_each_way_of_first_centers_finds_the_groups(kind, stored, init):
    n_init = 10 if isinstance(init, str) else 1

    km = kind(3, init=init, n_init=n_init, random_state=4).fit(stored(X))

    assert has_found_the_groups(km)
    assert (km.predict(X) == km.labels_).all()
    assert (km.predict(stored(X)) == km.labels_).all()


@pytest.mark.parametrize(
    "init",
    ["random", "k-means++", TRUE, lambda x, k, random_state: TRUE],
    ids=["random", "k-means++", "array", "function"],
)
def test_many_steps_of_partial_fit_find_the_groups(init):
    km = MiniBatchKMeans(3, init=init, n_init=5 if isinstance(init, str) else 1, random_state=0)
    for _ in range(30):
        km.partial_fit(X)

    assert has_found_the_groups(km)
    assert km.n_steps_ == 30


class Counting:
    """A function for `init` that counts its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, x, n_clusters, random_state):
        self.calls += 1
        return random_state.uniform(size=(n_clusters, x.shape[1]))


@pytest.mark.parametrize(("kind", "starts"), [(KMeans, 10), (MiniBatchKMeans, 3)])
def test_auto_is_many_starts_where_centers_are_random_and_else_one(kind, starts):
    init = Counting()
    kind(3, init=init, random_state=0).fit(X)

    assert init.calls == starts
    assert kind(3, init="random")._starts() == starts
    assert kind(3)._starts() == kind(3, init=TRUE)._starts() == 1


@BOTH
def test_rows_in_the_order_of_fortran_give_the_same_bits(kind):
    km, other = (
        kind(3, init=order(TRUE), random_state=0).fit(order(X))
        for order in (np.ascontiguousarray, np.asfortranarray)
    )

    assert (km.cluster_centers_ == other.cluster_centers_).all()
    assert (km.labels_ == other.labels_).all()


@pytest.mark.parametrize(
    ("tol", "end"), [(1e-1, "center shift .* within tol"), (0, "strict convergence")]
)
def test_a_verbose_fit_prints_its_iterations_and_its_end(tol, end, capsys):
    x = np.random.default_rng(0).normal(size=(500, 4))
    KMeans(3, init="random", n_init=1, tol=tol, verbose=1, random_state=0).fit(x)

    text = capsys.readouterr().out
    assert "Initialization complete" in text
    assert "Iteration 1, inertia" in text
    assert re.search(end, text)


@pytest.mark.parametrize(
    ("tol", "most", "end"),
    [(1e-2, None, "small centers change"), (0, 10, "lack of improvement in inertia")],
)
def test_a_verbose_fit_of_mini_batch_says_which_rule_ended_it(tol, most, end, capsys):
    x, _ = make_blobs(centers=TRUE, random_state=0)
    km = MiniBatchKMeans(
        3, init=TRUE, batch_size=20, tol=tol, max_no_improvement=most, max_iter=30, verbose=1
    )
    km.set_params(random_state=0).fit(x)

    assert 1 < km.n_iter_ < 30
    assert f"Converged ({end})" in capsys.readouterr().out


def test_too_small_an_init_size_is_warned_of():
    with pytest.warns(RuntimeWarning, match="init_size=10 should be larger than n_clusters=20"):
        MiniBatchKMeans(20, init_size=10, random_state=0).fit(X)


@pytest.mark.parametrize(
    ("batch", "given", "rows"), [(5, None, 15), (1, None, 30), (5, 91, 90), (5, 40, 40)]
)
def test_first_centers_are_chosen_among_three_batches_or_as_asked(batch, given, rows):
    seen = []

    def init(x, n_clusters, random_state):
        seen.append(len(x))
        return x[:n_clusters]

    km = MiniBatchKMeans(10, batch_size=batch, init_size=given, n_init=1, init=init, max_iter=1)
    km.fit(X)

    assert seen == [rows]


@BOTH
def test_given_centers_have_one_start_whatever_was_asked(kind):
    with pytest.warns(RuntimeWarning, match="performing only one init"):
        kind(3, init=TRUE, n_init=10).fit(X)


@pytest.mark.parametrize("batch", [10, 200])
def test_equal_first_centers_of_mini_batch_spread_out(batch):
    x, _ = make_blobs(n_samples=100, centers=5, random_state=0)
    x[::2] = 0

    km = MiniBatchKMeans(20, batch_size=batch, random_state=0, init="random").fit(x)
    stepped = MiniBatchKMeans(20, random_state=0, init="random")
    for _ in range(20):
        stepped.partial_fit(x)

    assert (np.abs(km.cluster_centers_) > 1e-9).any(axis=1).sum() > 9
    assert (np.abs(stepped.cluster_centers_) > 1e-9).any(axis=1).sum() > 9


@STORED
def test_a_large_ratio_reassigns_good_centers_and_a_tiny_one_none(stored):
    means = np.array([X[group == GROUPS].mean(axis=0) for group in range(3)])
    large, tiny, none = (
        MiniBatchKMeans(3, init=means, reassignment_ratio=ratio, random_state=0).partial_fit(
            stored(X[:80])
        )
        for ratio in (1.0, 1e-15, 0.0)
    )

    assert large.score(X) < tiny.score(X)
    assert (tiny.cluster_centers_ == none.cluster_centers_).all()


def test_more_clusters_to_reassign_than_rows_in_a_batch_are_no_error():
    km = MiniBatchKMeans(80, batch_size=10, init_size=90, random_state=4).fit(X)

    assert np.isfinite(km.cluster_centers_).all()


def test_passes_and_steps_of_mini_batch_agree():
    km = MiniBatchKMeans(3, batch_size=28, random_state=0).fit(X)
    assert km.n_iter_ == math.ceil(km.n_steps_ * 28 / 90)

    km.set_params(tol=0, max_no_improvement=None, max_iter=10).fit(X)
    assert (km.n_iter_, km.n_steps_) == (10, 10 * 90 // 28)
    assert type(km.n_iter_) is type(km.n_steps_) is int


@pytest.mark.parametrize("copy", [True, False])
def test_rows_weights_and_first_centers_are_never_written_to(copy):
    x, weights, init = X.copy(), np.arange(1.0, 91), TRUE.copy()

    KMeans(3, copy_x=copy, init=init).fit(x, sample_weight=weights)
    km = MiniBatchKMeans(3, init=init).fit(x, sample_weight=weights)

    assert (x == X).all()
    assert (weights == np.arange(1.0, 91)).all()
    assert (init == TRUE).all()
    assert not np.may_share_memory(km.cluster_centers_, init)


@BOTH
def test_more_iterations_give_a_better_score(kind):
    x = np.random.default_rng(0).normal(size=(200, 8))
    short, long = (
        kind(8, random_state=0, max_iter=most).set_params(
            **({"batch_size": 20} if kind is MiniBatchKMeans else {})
        )
        for most in (1, 10)
    )

    assert short.fit(x).score(x) < long.fit(x).score(x)


@BOTH
@STORED
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("most", [2, 100])
def test_predict_gives_the_labels_of_the_fit_and_each_center_its_own(kind, stored, dtype, most):
    x, _ = make_blobs(n_samples=120, n_features=6, centers=10, random_state=1)
    x = stored(x.astype(dtype))
    km = kind(10, init="random", n_init=3, max_iter=most, random_state=0).fit(x)

    assert (km.predict(x) == km.labels_).all()
    assert (clone(km).fit_predict(x) == km.labels_).all()
    assert km.predict(km.cluster_centers_).tolist() == list(range(10))
    assert km.labels_.dtype == np.int32


@BOTH
@pytest.mark.parametrize("sparse", [csr_matrix, csr_array])
def test_sparse_rows_give_the_bits_of_dense_ones(kind, sparse):
    weights = np.random.default_rng(0).random(90)
    dense, other = (
        kind(3, random_state=0).fit(each, sample_weight=weights) for each in (X, sparse(X))
    )

    assert (dense.labels_ == other.labels_).all()
    assert (dense.cluster_centers_ == other.cluster_centers_).all()
    np.testing.assert_array_equal(dense.transform(X), other.transform(sparse(X)))


@pytest.mark.parametrize("sparse", [csr_matrix, csr_array])
def test_a_step_with_sparse_rows_is_that_with_dense_ones_and_lowers_their_inertia(sparse):
    km = MiniBatchKMeans(3, init=TRUE + 0.5, reassignment_ratio=0)
    dense, other = (clone(km).partial_fit(each) for each in (X[:20], sparse(X[:20])))

    assert (dense.cluster_centers_ == other.cluster_centers_).all()
    assert dense.inertia_ == other.inertia_ < ((X[:20, None] - km.init) ** 2).sum(2).min(1).sum()


@BOTH
@STORED
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_whole_numbers_are_taken_as_float64(kind, stored, dtype):
    x = stored(np.array([[0, 0], [10, 10], [12, 9], [-1, 1], [2, 0], [8, 10]], dtype))
    km = kind(2, random_state=0, n_init=4)
    if kind is MiniBatchKMeans:
        km.set_params(batch_size=2)
        assert clone(km).partial_fit(x).cluster_centers_.dtype == np.float64

    assert adjusted_rand_score(km.fit(x).labels_, [0, 1, 1, 0, 0, 1]) == 1
    assert km.cluster_centers_.dtype == np.float64


@BOTH
def test_transform_gives_distances_and_fit_transform_the_same(kind):
    km = kind(3, random_state=0)
    found = km.fit_transform(X)

    centers = km.cluster_centers_
    wanted = np.array([paired_distances(X, np.tile(each, (len(X), 1))) for each in centers]).T
    np.testing.assert_allclose(found, wanted)
    assert (found == km.transform(X)).all()
    assert (km.transform(centers).diagonal() == 0).all()


def test_more_starts_are_never_worse():
    losses = [
        KMeans(3, init="random", n_init=starts, random_state=0, max_iter=1).fit(X).inertia_
        for starts in (1, 5, 10)
    ]

    assert losses == sorted(losses, reverse=True)


@BOTH
@STORED
def test_float32_gives_nearly_what_float64_gives_in_its_own_type(kind, stored):
    narrow, wide = (
        kind(3, random_state=0).fit(stored(X.astype(dtype))) for dtype in (np.float32, np.float64)
    )
    rows = X.astype(np.float32)

    assert (narrow.labels_ == wide.labels_).all()
    assert math.isclose(narrow.inertia_, wide.inertia_, rel_tol=1e-4)
    np.testing.assert_allclose(narrow.cluster_centers_, wide.cluster_centers_, atol=1e-4)
    np.testing.assert_allclose(narrow.transform(rows), wide.transform(X), atol=1e-3)
    assert narrow.transform(rows).dtype == narrow.cluster_centers_.dtype == np.float32
    if kind is MiniBatchKMeans:
        assert narrow.partial_fit(stored(rows[:3])).cluster_centers_.dtype == np.float32


def test_whole_weights_are_the_same_as_repeated_rows():
    times = np.random.default_rng(0).integers(1, 5, 90)
    km = KMeans(3, init=TRUE)

    weighted = clone(km).fit(X, sample_weight=times)
    repeated = clone(km).fit(np.repeat(X, times, axis=0))

    assert (np.repeat(weighted.labels_, times) == repeated.labels_).all()
    np.testing.assert_allclose(weighted.inertia_, repeated.inertia_, rtol=NEAR)
    np.testing.assert_allclose(weighted.cluster_centers_, repeated.cluster_centers_, atol=NEAR)


@BOTH
@STORED
def test_weights_of_one_change_no_bit(kind, stored):
    x, km = stored(X), kind(3, random_state=0)
    none, ones = clone(km).fit(x), clone(km).fit(x, sample_weight=np.ones(90))

    assert (none.labels_ == ones.labels_).all()
    assert (none.cluster_centers_ == ones.cluster_centers_).all()


@pytest.mark.parametrize(("kind", "error"), [(KMeans, NEAR), (MiniBatchKMeans, 1e-2)])
@STORED
def test_a_common_factor_of_all_weights_changes_little(kind, error, stored):
    """The first centers of mini-batch count as one row of weight 1, so that a factor matters."""
    weights = np.random.default_rng(0).random(90)
    km, x = kind(3, random_state=0), stored(X)
    some, half = (clone(km).fit(x, sample_weight=each) for each in (weights, weights / 2))

    assert (some.labels_ == half.labels_).all()
    np.testing.assert_allclose(some.cluster_centers_, half.cluster_centers_, atol=error)


@pytest.mark.parametrize("algorithm", ["lloyd", "elkan"])
def test_one_iteration_is_counted_as_one(algorithm):
    assert KMeans(3, algorithm=algorithm, max_iter=1, random_state=0).fit(X).n_iter_ == 1


@BOTH
def test_the_number_of_threads_changes_no_bit(kind):
    x = np.random.default_rng(0).normal(size=(300, 10))
    found = []
    for threads in (1, 2):
        here = RunConfig(num_workers=0, cpus_per_worker=threads, progress=False)
        with threadpool_limits(threads):
            found.append(kind(3, random_state=0, config=here).fit(x))

    assert (found[0].labels_ == found[1].labels_).all()
    assert (found[0].cluster_centers_ == found[1].cluster_centers_).all()


def test_one_cluster_is_the_mean_by_either_name_without_a_warning():
    """scikit-learn warns of 'elkan', which it cannot use; here both names mean the same."""
    for algorithm in ("lloyd", "elkan"):
        km = KMeans(1, algorithm=algorithm).fit(X)
        np.testing.assert_allclose(km.cluster_centers_[0], X.mean(axis=0), rtol=NEAR)


@STORED
def test_one_iteration_is_label_average_label(stored):
    x = np.random.default_rng(0).uniform(size=(100, 5))
    start = x[:5]

    def nearest(centers):
        return ((x[:, None] - centers) ** 2).sum(axis=2).argmin(axis=1)

    means = np.array([x[nearest(start) == each].mean(axis=0) for each in range(5)])
    km = KMeans(5, init=start, max_iter=1).fit(stored(x))

    np.testing.assert_allclose(km.cluster_centers_, means, rtol=NEAR)
    assert (km.labels_ == nearest(means)).all()


@BOTH
@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"n_clusters": 91}, "n_samples=90 should be >= n_clusters=91"),
        ({"init": X[:2]}, r"initial centers \(2, 4\) does not match the number of clusters 8"),
        ({"init": lambda x, k, random_state: x[:2]}, "not match the number of clusters 8"),
        ({"init": X[:8, :2]}, "does not match the number of features of the data 4"),
        ({"init": lambda x, k, random_state: x[:8, :2]}, "number of features of the data 4"),
    ],
)
def test_what_does_not_fit_the_rows_is_said(kind, wrong, text):
    with pytest.raises(ValueError, match=text):
        kind(n_init=1).set_params(**wrong).fit(X)


@pytest.mark.parametrize("init", [np.str_("k-means++"), [[0, 0], [1, 1]]])
def test_a_list_of_centers_and_a_name_of_numpy_are_taken(init):
    assert KMeans(2, init=init).fit([[0, 0], [0.5, 0], [0.5, 1], [1, 1]]).n_iter_ > 0


@BOTH
def test_columns_of_distances_are_named_after_the_class(kind):
    km = kind(3).fit(X)

    names = [f"{kind.__name__.lower()}{number}" for number in range(3)]
    assert km.get_feature_names_out().tolist() == names


def test_predict_reads_centers_that_cannot_be_written_to():
    km = KMeans(3, random_state=0).fit(X)
    before = km.predict(X)
    km.cluster_centers_.setflags(write=False)

    assert (km.predict(X) == before).all()


@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_weights_decide_which_rows_become_first_centers(init):
    weights = np.random.default_rng(0).random(90)
    weights[::2] = 0
    rows = X.astype(np.float32)
    found = []
    for given in (weights, None):
        plan = KMeans(8)._plan(METHODS[init], 0, StopRule(), ())
        source = source_of(rows, given, ())
        found.append(choose_by_sample(plan, source, config_of(None), lambda event: None))

    chosen = [int(np.flatnonzero((rows == center).all(axis=1))[0]) for center in found[0]]
    assert (weights[chosen] > 0).all()
    assert not np.array_equal(*found)
