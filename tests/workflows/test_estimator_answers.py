"""What a fitted model answers: predict, transform, score; and scikit-learn's rules."""

from __future__ import annotations

import inspect

import numpy as np
import pyarrow as pa
import pytest
import sklearn.base

from ray_kmeans import KMeansClustering, RunConfig, open_source
from ray_kmeans.errors import ConfigError, NotFittedError
from tests.support import oracle
from tests.support.files import in_blocks

HERE = RunConfig(num_workers=0, progress=False)
X = np.random.default_rng(3).integers(-8, 8, size=(60, 3)).astype(np.float32)
CALLS = ["score", "evaluate", "predict", "predict_cluster_idx", "transform"]


@pytest.fixture
def unfitted(tmp_path):
    return KMeansClustering(4, str(tmp_path), X[:4], use_mini_batch=False, config=HERE)


@pytest.fixture(scope="module")
def km(tmp_path_factory):
    model_dir = str(tmp_path_factory.mktemp("model"))
    return KMeansClustering(4, model_dir, X[:4], use_mini_batch=False, config=HERE).fit(X)


@pytest.fixture(scope="module")
def squared(km):
    """Squared distances of all rows to all centers, from the rationals."""
    exact = oracle.exact(km.clusters())
    return np.array(
        [[float(oracle.squared_distance(row, c)) for c in exact] for row in oracle.exact(X)]
    )


def test_transform_gives_squared_distances_to_all_centers(km, squared):
    distances = km.transform(X)

    assert (distances.shape, distances.dtype) == ((60, 4), np.float32)
    assert distances.min() >= 0
    np.testing.assert_allclose(distances, squared, rtol=1e-6)


def test_a_row_on_its_center_has_distance_0(km):
    np.testing.assert_array_equal(np.diag(km.transform(km.clusters())), 0)


def test_transform_as_iterable_gives_the_same_rows(km):
    rows = list(km.transform(X, as_iterable=True))

    np.testing.assert_array_equal(rows, km.transform(X))


@pytest.mark.parametrize("x", [X[5:6], X[5:6].tolist(), pa.table({"v": X[5:6].tolist()})])
def test_one_row_works(km, x):
    label = oracle.labels(X[5:6], km.clusters()).tolist()

    assert km.transform(x).shape == (1, 4)
    assert list(km.predict_cluster_idx(x)) == label
    assert [row["cluster_idx"] for row in km.predict(x)] == label
    assert km.score(x) == pytest.approx(km.transform(x).min())


def test_no_row_gives_no_answer(km):
    nothing = X[:0]

    assert km.transform(nothing).shape == (0, 4)
    assert list(km.predict_cluster_idx(nothing)) == []
    assert list(km.predict(nothing)) == []
    assert km.predict(nothing, as_iterable=False)["cluster_idx"].dtype == np.int64


def test_predict_gives_one_dict_per_row_in_the_order_of_the_data(km):
    rows = list(km.predict(X))

    assert [sorted(row) for row in rows] == [["all_scores", "cluster_idx"]] * 60
    assert {(row["all_scores"].shape, row["all_scores"].dtype.name) for row in rows} == {
        ((4,), "float32")
    }
    assert {type(row["cluster_idx"]) for row in rows} == {np.int64}
    np.testing.assert_array_equal([row["all_scores"] for row in rows], km.transform(X))
    assert [row["cluster_idx"] for row in rows] == oracle.labels(X, km.clusters()).tolist()


def test_predict_without_as_iterable_gives_arrays_over_everything(km):
    arrays = km.predict(X, as_iterable=False)

    np.testing.assert_array_equal(arrays["all_scores"], km.transform(X))
    np.testing.assert_array_equal(arrays["cluster_idx"], oracle.labels(X, km.clusters()))
    assert (arrays["all_scores"].dtype, arrays["cluster_idx"].dtype) == (np.float32, np.int64)


@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(25, [25, 25, 10]), (60, [60]), (999, [60]), (None, [60])]
)
def test_predict_gives_one_dict_per_batch(km, batch_size, sizes):
    batches = list(km.predict(X, batch_size=batch_size, iterate_batches=True))

    assert [len(batch["cluster_idx"]) for batch in batches] == sizes
    np.testing.assert_array_equal(
        np.concatenate([batch["all_scores"] for batch in batches]), km.transform(X)
    )


@pytest.mark.parametrize("as_iterable", [True, False])
def test_batches_do_not_change_one_bit(km, as_iterable):
    expected = km.transform(X)

    answer = km.predict(in_blocks(X, 7), batch_size=3, as_iterable=as_iterable)

    scores = [row["all_scores"] for row in answer] if as_iterable else answer["all_scores"]
    np.testing.assert_array_equal(scores, expected)


@pytest.mark.parametrize("wanted", [["cluster_idx"], ["all_scores"], ["cluster_idx", "loss"]])
def test_outputs_chooses(km, wanted):
    row = next(km.predict(X, outputs=wanted))

    assert list(row) == wanted[:1]


@pytest.mark.parametrize("wanted", [[], ["loss"], ["all"]])
def test_outputs_that_choose_nothing_are_refused_at_the_call(km, wanted):
    with pytest.raises(ConfigError, match="names none of"):
        km.predict(X, outputs=wanted)


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, "3"])
def test_a_batch_size_that_is_none_is_refused_at_the_call(km, batch_size):
    with pytest.raises(ConfigError, match=f"batch_size={batch_size!r}"):
        km.predict(X, batch_size=batch_size)


def test_batch_size_with_input_fn_is_refused(km):
    with pytest.raises(ConfigError, match=r"batch_size.*input_fn"):
        km.predict(input_fn=lambda: X, batch_size=3)


@pytest.mark.parametrize("call", ["predict", "predict_cluster_idx", "transform"])
def test_answers_stream_with_one_block_in_memory(km, call):
    blocks_read = []

    class Watched(type(open_source(X))):
        def read(self, blocks):
            for block, rows in super().read(blocks):
                blocks_read.append(block.index)
                yield block, rows

    more = {"as_iterable": True} if call == "transform" else {}
    answers = getattr(km, call)(Watched(X, block_rows=20), **more)
    assert blocks_read == []
    next(answers)

    assert blocks_read == [0]
    assert len(list(answers)) == 59
    assert blocks_read == [0, 1, 2]


@pytest.mark.parametrize(
    "call", [*CALLS, "clusters", "history", "counts", "why_stopped", "get_variable_names"]
)
def test_an_unfitted_model_says_so_at_the_call(unfitted, call):
    arguments = (X,) if call in CALLS else ()

    with pytest.raises(NotFittedError, match=r"no model in .*Call fit first") as caught:
        getattr(unfitted, call)(*arguments)

    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, AttributeError)


def test_get_params_gives_back_what_the_constructor_got():
    config = RunConfig(num_workers=3)
    initial = X[:5]

    km = KMeansClustering(5, "m", initial, random_seed=7, config=config)
    params = km.get_params(deep=False)

    assert params["initial_clusters"] is initial
    assert params["config"] is config
    assert (params["num_clusters"], params["model_dir"], params["random_seed"]) == (5, "m", 7)
    assert list(params) == list(inspect.signature(KMeansClustering).parameters)
    assert KMeansClustering(**params).get_params(deep=False) == params


def test_set_params_replaces_what_fit_uses(unfitted, tmp_path):
    before = unfitted.get_params()

    unfitted.set_params(num_clusters=2, initial_clusters=X[:2], model_dir=str(tmp_path / "other"))

    assert len(unfitted.fit(X).clusters()) == 2
    assert (tmp_path / "other").exists()
    assert before["num_clusters"] == 4


def test_set_params_refuses_an_unknown_name_with_the_valid_ones(unfitted):
    with pytest.raises(ConfigError, match=r"n_clusters.*valid are .*num_clusters.*random_seed"):
        unfitted.set_params(n_clusters=2, random_seed=9)

    assert unfitted.get_params()["random_seed"] == 0


def test_a_clone_fits_the_same_model(unfitted, tmp_path):
    clone = sklearn.base.clone(unfitted).set_params(model_dir=str(tmp_path / "clone"))

    np.testing.assert_array_equal(clone.fit(X).clusters(), unfitted.fit(X).clusters())


def test_the_config_of_a_model_cannot_be_changed_from_outside(unfitted):
    assert unfitted.config == HERE
    assert unfitted.config is not unfitted.get_params()["config"]


def test_repr_shows_what_was_given():
    km = KMeansClustering(4, "m", random_seed=3)

    assert repr(km) == "KMeansClustering(num_clusters=4, model_dir='m', random_seed=3)"
