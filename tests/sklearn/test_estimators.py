"""The estimators pass scikit-learn's own checks, and stand in its pipelines and searches."""

from __future__ import annotations

import copy
import math
import pickle
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("sklearn", minversion="1.6")
import joblib
import pandas as pd
from scipy.sparse import csr_matrix
from sklearn import config_context
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from ray_kmeans import RunConfig
from ray_kmeans.algorithm.stopping import StopRule
from ray_kmeans.errors import ConfigError, DataError
from ray_kmeans.sklearn import KMeans, MiniBatchKMeans, rows

BOTH = pytest.mark.parametrize("kind", [KMeans, MiniBatchKMeans])
X = np.random.default_rng(3).normal(size=(120, 4)) + np.repeat([[0], [9], [30]], 40, axis=0)


def expected_failures(estimator):
    """Return the checks that cannot pass, with the reason; scikit-learn's own two fail them too."""
    reason = "a draw goes by the numbers of rows, which repeated or removed rows change"
    return {
        "check_sample_weight_equivalence_on_dense_data": reason,
        "check_sample_weight_equivalence_on_sparse_data": reason,
    }


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")  # some checks have four rows
@parametrize_with_checks([KMeans(), MiniBatchKMeans()], expected_failed_checks=expected_failures)
def test_scikit_learns_checks_pass(estimator, check):
    check(estimator)


@BOTH
@pytest.mark.parametrize(
    "send", [lambda km: pickle.loads(pickle.dumps(km)), copy.deepcopy], ids=["pickle", "copy"]
)
def test_a_fitted_model_travels_whole(kind, send):
    km = kind(3, random_state=0).fit(X)
    other = send(km)

    assert (other.cluster_centers_ == km.cluster_centers_).all()
    assert (other.predict(X) == km.predict(X)).all()
    if kind is MiniBatchKMeans:
        one, two = km.partial_fit(X), other.partial_fit(X)
        assert (one.cluster_centers_ == two.cluster_centers_).all()


def test_a_fitted_model_is_dumped_by_joblib(tmp_path):
    km = KMeans(3, random_state=0).fit(X)
    joblib.dump(km, tmp_path / "model")

    assert (joblib.load(tmp_path / "model").predict(X) == km.labels_).all()


@BOTH
def test_equal_random_states_give_equal_bits(kind):
    ones = [kind(5, random_state=7).fit(X).cluster_centers_ for _ in range(2)]
    drawn = [
        kind(5, random_state=np.random.RandomState(seed)).fit(X).cluster_centers_
        for seed in (1, 1, 2)
    ]

    assert (ones[0] == ones[1]).all()
    assert (drawn[0] == drawn[1]).all()
    assert not np.array_equal(drawn[0], drawn[2])


@BOTH
def test_a_generator_goes_on_from_one_fit_to_the_next(kind):
    km = kind(5, random_state=np.random.RandomState(1))

    assert not np.array_equal(km.fit(X).cluster_centers_, km.fit(X).cluster_centers_)


def test_a_pipeline_a_search_and_a_column_transformer_take_it():
    search = GridSearchCV(KMeans(random_state=0), {"n_clusters": [2, 3, 4], "tol": [1e-4]}, cv=3)
    scaled = make_pipeline(StandardScaler(), search).fit(X)
    assert scaled[-1].best_params_["n_clusters"] == 4
    assert scaled.predict(X).shape == (120,)

    frame = pd.DataFrame(X, columns=list("abcd"))
    columns = ColumnTransformer([("km", KMeans(3, random_state=0), ["a", "b"])])
    found = columns.set_output(transform="pandas").fit_transform(frame)
    assert list(found.columns) == ["km__kmeans0", "km__kmeans1", "km__kmeans2"]


def test_names_of_columns_are_kept_and_others_refused():
    frame = pd.DataFrame(X, columns=list("abcd"))
    km = KMeans(3, random_state=0).set_output(transform="pandas").fit(frame)

    assert km.feature_names_in_.tolist() == list("abcd")
    assert list(km.transform(frame).columns) == km.get_feature_names_out().tolist()
    with pytest.raises(ValueError, match="feature names"):
        km.predict(frame.rename(columns={"a": "z"}))


def test_weights_are_routed_through_a_pipeline():
    weights = np.where(np.arange(120) < 40, 1e-6, 1.0)
    with config_context(enable_metadata_routing=True):
        km = KMeans(2, init=X[[50, 100]]).set_fit_request(sample_weight=True)
        pipeline = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), km)
        routed = pipeline.fit(X, sample_weight=weights)[-1]

    scaled = StandardScaler().fit_transform(X)
    alone = KMeans(2, init=X[[50, 100]]).fit(scaled, sample_weight=weights)
    assert (routed.cluster_centers_ == alone.cluster_centers_).all()


@BOTH
@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"n_clusters": 0}, "^n_clusters=0"),
        ({"n_clusters": 2.5}, "^n_clusters=2.5"),
        ({"init": "kmeans++"}, "^init='kmeans"),
        ({"init": 3}, "^init=3"),
        ({"n_init": 0}, "^n_init=0"),
        ({"n_init": "many"}, "^n_init='many'"),
        ({"max_iter": 0}, "^max_iter=0"),
        ({"tol": -1}, "^tol=-1"),
        ({"tol": math.nan}, "^tol=nan"),
        ({"verbose": -1}, "^verbose=-1"),
        ({"random_state": "seed"}, "seed"),
        ({"random_state": -1}, "between 0"),
        ({"config": {"num_workers": 0}}, "^config="),
        ({"config": RunConfig(num_workers=0, model_dir="somewhere")}, "model_dir"),
        ({"config": RunConfig(detached=True)}, "^detached=True"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_argument_that_means_nothing_is_an_error(kind, wrong, text):
    with pytest.raises(ValueError, match=text):
        kind(3).set_params(**wrong).fit(X)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (KMeans, {"copy_x": "yes"}),
        (KMeans, {"algorithm": "full"}),
        (MiniBatchKMeans, {"batch_size": 0}),
        (MiniBatchKMeans, {"compute_labels": 1}),
        (MiniBatchKMeans, {"max_no_improvement": -1}),
        (MiniBatchKMeans, {"init_size": 0}),
        (MiniBatchKMeans, {"reassignment_ratio": -0.1}),
    ],
    ids=repr,
)
def test_an_argument_of_one_of_them_that_means_nothing_is_an_error(kind, wrong):
    with pytest.raises(ConfigError, match=f"^{next(iter(wrong))}="):
        kind(3).set_params(**wrong).fit(X)


def test_rows_far_from_zero_lose_no_digits():
    """Time stamps: float32 has steps of 128 at 1.7e9, and the groups are 60 apart."""
    far = 1.7e9 + X[:, :1] * 2
    km = KMeans(3, random_state=0).fit(far)
    near = KMeans(3, random_state=0).fit(X[:, :1] * 2)

    assert (km.labels_ == near.labels_).all()
    np.testing.assert_allclose(km.cluster_centers_ - 1.7e9, near.cluster_centers_, atol=1e-3)
    assert (km.predict(far) == km.labels_).all()
    np.testing.assert_allclose(km.transform(far), near.transform(X[:, :1] * 2), atol=1e-3)


@BOTH
def test_the_score_is_minus_the_inertia_to_the_bit(kind):
    weights = np.arange(120.0)
    km = kind(3, random_state=0, max_iter=2).fit(X, sample_weight=weights)

    assert km.score(X, sample_weight=weights) == -km.inertia_
    wanted = (weights * ((X - km.cluster_centers_[km.labels_]) ** 2).sum(axis=1)).sum()
    assert math.isclose(km.inertia_, wanted, rel_tol=1e-5)


@pytest.mark.parametrize("tol", [1e-1, 1e-2, 1e-3])
def test_the_tolerance_bounds_the_squared_moves_of_the_last_iteration_alone(tol):
    bound = tol * X.var(axis=0).mean()
    first = X[[0, 1, 2, 60, 100]]
    last = KMeans(5, init=first, tol=tol).fit(X)
    centers = [first] + [
        KMeans(5, init=first, tol=0, max_iter=most).fit(X).cluster_centers_
        for most in range(1, last.n_iter_ + 1)
    ]
    moves = [((b - a) ** 2).sum() for a, b in pairwise(centers)]

    assert moves[-1] <= bound
    assert all(move > bound for move in moves[:-1])


def test_a_sparse_matrix_that_would_be_large_when_dense_is_refused_with_a_way_out():
    wide = csr_matrix((np.ones(2), ([0, 1], [5, 7])), shape=(20_000, 2**20))

    with pytest.raises(DataError, match=r"TruncatedSVD.*partial_fit.*worker_memory_bytes"):
        KMeans(2).fit(wide)


def test_labels_are_left_out_where_they_are_not_wanted():
    km = MiniBatchKMeans(3, compute_labels=False, random_state=0).fit(X)

    assert not hasattr(km, "labels_")
    assert km.inertia_ > 0


def test_partial_fit_goes_on_from_centers_that_a_user_has_set():
    km = MiniBatchKMeans(2, random_state=0, reassignment_ratio=0).partial_fit(X[:40])
    km.cluster_centers_ = np.array([[9.0] * 4, [30.0] * 4])
    km.partial_fit(X[40:])

    assert (np.abs(km.cluster_centers_ - [[9.0], [30.0]]) < 1).all()


def test_partial_fit_is_the_running_mean_that_counts_the_first_center_once():
    start, batches = np.array([[0.0], [100.0]]), [np.array([[2.0], [4.0]]), np.array([[10.0]])]
    km = MiniBatchKMeans(2, init=start, reassignment_ratio=0)
    with pytest.raises(ValueError, match="n_samples=1 should be"):
        clone(km).partial_fit(batches[1])
    for batch in batches:
        km.partial_fit(batch)

    np.testing.assert_allclose(km.cluster_centers_[:, 0], [(0 + 2 + 4 + 10) / 4, 100])


def test_a_fit_here_writes_nothing_and_starts_no_ray(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = "ray" in sys.modules
    KMeans(3, random_state=0).fit(X)
    MiniBatchKMeans(3, random_state=0).fit(X).partial_fit(X)

    assert list(tmp_path.iterdir()) == []
    assert ("ray" in sys.modules) == before


@pytest.mark.parametrize("step", [1, 8, 2**23])
def test_the_mean_variance_is_numpys_however_it_is_cut(step, monkeypatch):
    monkeypatch.setattr(rows, "VARIANCE_VALUES", step)

    assert math.isclose(rows.mean_variance(X), X.var(axis=0).mean(), rel_tol=1e-14)
    assert math.isclose(rows.mean_variance(csr_matrix(X)), X.var(axis=0).mean(), rel_tol=1e-12)


def test_the_plan_has_the_candidates_of_scikit_learn():
    from ray_kmeans.engine.seeding.kmeans_plus_plus import candidates_of

    for k in (1, 2, 8, 100):
        plan = KMeans(k)._plan("kmeans_plus_plus", 0, StopRule(), ())
        assert candidates_of(plan.retries, k) == 2 + int(math.log(k))


def test_without_scikit_learn_the_import_says_how_to_get_it():
    code = "import sys; sys.modules['sklearn'] = None; import ray_kmeans.sklearn"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert "ModuleNotFoundError: scikit-learn is not installed. Run in a clone" in done.stderr


@pytest.mark.ray
@BOTH
def test_workers_on_ray_give_the_bits_of_this_process(kind, ray_cluster):
    here = kind(3, random_state=0, init="random").fit(X)
    there = clone(here).set_params(config=RunConfig(num_workers=1, progress=False)).fit(X)

    assert (there.cluster_centers_ == here.cluster_centers_).all()
    assert (there.labels_ == here.labels_).all()
