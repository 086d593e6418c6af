"""predict, predict_cluster_idx and transform: one truth in every form, streamed in order."""

from __future__ import annotations

import gc
import weakref
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.errors import (
    ConfigError,
    DataError,
    NonFiniteError,
    NotFittedError,
)
from tests.support import oracle
from tests.support.files import in_blocks

HERE = RunConfig(num_workers=0, progress=False)
X = np.random.default_rng(4).integers(-8, 8, size=(60, 3)).astype(np.float32)
K = 4

FORMS = {
    "predict": {},
    "predict by batch": {"iterate_batches": True},
    "predict whole": {"as_iterable": False},
    "predict_cluster_idx": {},
    "transform": {},
    "transform by row": {"as_iterable": True},
}
STREAMED = [form for form in FORMS if form not in ("predict whole", "transform")]


def ask(km, form, *data, **more):
    return getattr(km, form.split()[0])(*data, **FORMS[form], **more)


def consume(answer):
    return answer if isinstance(answer, dict | np.ndarray) else list(answer)


def batches(size, x=X):
    return (x[start : start + size] for start in range(0, len(x), size))


@pytest.fixture(scope="module", params=["squared_euclidean", "cosine"])
def km(request, tmp_path_factory):
    model_dir = str(tmp_path_factory.mktemp("model"))
    made = KMeansClustering(K, model_dir, X[:K], request.param, use_mini_batch=False, config=HERE)
    return made.fit(X, steps=3)


@pytest.fixture(scope="module")
def truth(km):
    """Distances of all rows to all centers from their definition, in float64."""
    rows, centers = X.astype(np.float64), km.clusters().astype(np.float64)
    if km.get_params()["distance_metric"] == "squared_euclidean":
        return ((rows[:, None] - centers[None]) ** 2).sum(axis=2)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return 1 - rows @ (centers / np.linalg.norm(centers, axis=1, keepdims=True)).T


# --- what is returned ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 25, 60, 61, 999, None])
@pytest.mark.parametrize("block", [7, 20, 8192])
@pytest.mark.parametrize("form", ["predict", "predict by batch", "predict whole"])
def test_all_forms_of_predict_agree_for_any_batches_and_blocks(km, truth, form, size, block):
    expected = km.predict(X, as_iterable=False)

    answer = consume(ask(km, form, in_blocks(X, block), batch_size=size))

    if form == "predict by batch":
        sizes = [len(batch["cluster_idx"]) for batch in answer]
        assert sizes == [min(size or block, 60 - begin) for begin in range(0, 60, size or block)]
    join = {"predict": np.stack, "predict by batch": np.concatenate}.get(form)
    for name in ("all_scores", "cluster_idx"):
        found = join([part[name] for part in answer]) if join else answer[name]
        np.testing.assert_array_equal(found, expected[name])
    np.testing.assert_allclose(expected["all_scores"], truth, rtol=1e-5, atol=1e-6)
    near = np.take_along_axis(truth, expected["cluster_idx"][:, None], axis=1)[:, 0]
    np.testing.assert_allclose(near, truth.min(axis=1), rtol=1e-6, atol=1e-6)


def test_the_kinds_of_numbers_are_the_seeds(km):
    row, batch = next(km.predict(X)), next(km.predict(X, iterate_batches=True))
    whole = km.predict(X, as_iterable=False)

    assert type(row) is type(batch) is type(whole) is dict
    assert set(row) == set(batch) == set(whole) == {"all_scores", "cluster_idx"}
    assert (row["all_scores"].shape, row["all_scores"].dtype) == ((K,), np.float32)
    assert type(row["cluster_idx"]) is np.int64
    for several in (batch, whole):
        assert (several["all_scores"].shape, several["all_scores"].dtype) == ((60, K), np.float32)
        assert (several["cluster_idx"].shape, several["cluster_idx"].dtype) == ((60,), np.int64)
    assert type(next(km.predict_cluster_idx(X))) is np.int64
    assert (km.transform(X).shape, km.transform(X).dtype) == ((60, K), np.float32)
    row = next(km.transform(X, as_iterable=True))
    assert (type(row), row.shape, row.dtype) == (np.ndarray, (K,), np.float32)


@pytest.mark.parametrize("form", STREAMED)
def test_what_is_streamed_is_an_iterator(km, form):
    answer = ask(km, form, X)

    assert iter(answer) is answer
    consume(answer)
    assert next(answer, None) is None


def test_predict_transform_and_labels_are_consistent(km):
    whole = km.predict(X, as_iterable=False)

    np.testing.assert_array_equal(whole["all_scores"], km.transform(X))
    np.testing.assert_array_equal(list(km.transform(X, as_iterable=True)), km.transform(X))
    np.testing.assert_array_equal(list(km.predict_cluster_idx(X)), whole["cluster_idx"])
    chosen = whole["all_scores"][np.arange(60), whole["cluster_idx"]]
    np.testing.assert_allclose(chosen, whole["all_scores"].min(axis=1), rtol=1e-6, atol=1e-6)
    assert chosen.sum(dtype=np.float64) == pytest.approx(km.score(X), rel=1e-6)


def test_distances_are_squared_and_labels_right_over_the_reals(tmp_path):
    km = KMeansClustering(K, str(tmp_path), X[:K], use_mini_batch=False, config=HERE)
    km.fit(X, steps=1)
    centers = oracle.exact(km.clusters())

    expected = [
        [float(oracle.squared_distance(row, center)) for center in centers]
        for row in oracle.exact(X)
    ]

    np.testing.assert_allclose(km.transform(X), expected, rtol=1e-6)
    labels = oracle.labels(X, km.clusters())
    np.testing.assert_array_equal(list(km.predict_cluster_idx(X)), labels)


def test_of_centers_equally_far_the_lowest_wins(tmp_path):
    x = np.array([[0, 1], [1, 0], [0, 1], [1, 0], [5, 5]], np.float32)
    km = KMeansClustering(3, str(tmp_path), x[[1, 0, 0]], use_mini_batch=False, config=HERE)
    km.fit(x[:4], steps=1)

    assert list(km.predict_cluster_idx(x)) == [1, 0, 1, 0, 0]


@pytest.mark.parametrize("form", FORMS)
def test_one_row_has_the_answer_that_it_has_among_others(km, form):
    for x in (X[5:6], X[5:6].tolist(), [X[5:6]], iter([X[5:6]])):
        answer = consume(ask(km, form, x))

        if form == "predict whole":
            answer = [answer]
        assert len(answer) == 1
        whole = km.predict(X, as_iterable=False)
        if form == "predict_cluster_idx":
            assert answer == [whole["cluster_idx"][5]]
        else:
            scores = answer[0] if form.startswith("transform") else answer[0]["all_scores"]
            np.testing.assert_array_equal(np.ravel(scores), whole["all_scores"][5])


NOTHING = {
    "array": lambda: X[:0],
    "array by input_fn": lambda: lambda: X[:0],
    "no batch": lambda: iter([]),
    "empty batches": lambda: iter([X[:0], X[:0]]),
}


@pytest.mark.parametrize("nothing", NOTHING.values(), ids=NOTHING)
def test_no_row_gives_no_answer_of_the_right_shape(km, nothing):
    assert list(km.predict(nothing())) == []
    assert list(km.predict_cluster_idx(nothing())) == []
    assert list(km.transform(nothing(), as_iterable=True)) == []
    whole = km.predict(nothing(), as_iterable=False)
    assert (whole["all_scores"].shape, whole["all_scores"].dtype) == ((0, K), np.float32)
    assert (whole["cluster_idx"].shape, whole["cluster_idx"].dtype) == ((0,), np.int64)
    assert km.transform(nothing()).shape == (0, K)


@pytest.mark.parametrize("form", FORMS)
def test_a_dict_of_columns_is_taken_in_the_order_of_the_names(km, form):
    columns = {"b": X[:, 1], "c": X[:, 2:], "a": X[:, 0]}

    np.testing.assert_equal(consume(ask(km, form, columns)), consume(ask(km, form, X)))


@pytest.mark.parametrize("form", FORMS)
def test_the_way_the_data_come_does_not_change_one_bit(km, tmp_path, form):
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), 3)
    pq.write_table(pa.table({"v": vectors}), tmp_path / "x.parquet", row_group_size=25)
    kinds = [
        X.astype(np.float64),
        np.asfortranarray(X),
        pa.table({"v": vectors}),
        lambda: X,
        lambda: (X, None),
        [X[:25], X[25:]],
        batches(25),
        lambda: batches(25),
        lambda: ((batch, None) for batch in batches(25)),
        str(tmp_path / "x.parquet"),
    ]
    if form == "predict by batch":
        kinds, expected = kinds[6:], consume(ask(km, form, X, batch_size=25))
    else:
        expected = consume(ask(km, form, X))

    for x in kinds:
        np.testing.assert_equal(consume(ask(km, form, x)), expected)


@pytest.mark.parametrize("form", FORMS)
def test_input_fn_is_taken_by_name_and_asked_once(km, form):
    calls = []

    answer = consume(ask(km, form, input_fn=lambda: calls.append(1) or X))

    np.testing.assert_equal(answer, consume(ask(km, form, X)))
    assert calls == [1]


def test_the_rows_are_not_changed(km):
    x = X.copy()
    x.flags.writeable = False

    for form in FORMS:
        consume(ask(km, form, x))

    np.testing.assert_array_equal(x, X)


def test_a_prediction_may_be_changed_without_harm_to_the_model_or_the_rows(km):
    before = km.transform(X)

    whole = km.predict(X, as_iterable=False)
    whole["all_scores"][:] = -1
    for row in km.predict(X):
        row["all_scores"][:] = -1

    np.testing.assert_array_equal(km.transform(X), before)


# --- outputs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["predict", "predict by batch", "predict whole"])
@pytest.mark.parametrize("outputs", [["cluster_idx"], ["all_scores"], ("cluster_idx", "scores")])
def test_outputs_chooses_in_every_form(km, form, outputs):
    answer, full = consume(ask(km, form, X, outputs=outputs)), consume(ask(km, form, X))

    pairs = [(answer, full)] if form == "predict whole" else zip(answer, full, strict=True)
    for some, everything in pairs:
        assert list(some) == [outputs[0]]
        np.testing.assert_array_equal(some[outputs[0]], everything[outputs[0]])


def test_outputs_in_any_order_are_both(km):
    for outputs in (["cluster_idx", "all_scores"], {"all_scores", "cluster_idx"}, None):
        assert set(next(km.predict(X, outputs=outputs))) == {"all_scores", "cluster_idx"}


@pytest.mark.parametrize("form", ["predict", "predict by batch", "predict whole"])
@pytest.mark.parametrize("outputs", [[], (), ["scores"], ["all", "idx"]])
def test_outputs_that_leave_nothing_are_refused_at_the_call(km, form, outputs):
    with pytest.raises(ConfigError, match=r"outputs=.*names none of \['all_scores', 'cluster_idx'"):
        ask(km, form, X, outputs=outputs)


# --- streaming -------------------------------------------------------------------------------


class Watched:
    """A generator of batches, and how many of them it gave and are alive."""

    def __init__(self, count, size=10):
        self.given, self.alive, self.most, self.size = 0, 0, 0, size
        self._count = count

    def _gone(self):
        self.alive -= 1

    def __call__(self):
        rng = np.random.default_rng(0)
        while self.given < self._count:
            batch = rng.normal(size=(self.size, 3)).astype(np.float32)
            self.given += 1
            self.alive += 1
            self.most = max(self.most, self.alive)
            weakref.finalize(batch, self._gone)
            yield batch


@pytest.mark.parametrize("form", STREAMED)
def test_nothing_is_read_before_it_is_asked_for_and_then_one_batch_at_a_time(km, form):
    stream = Watched(count=60)

    answer = ask(km, form, stream)
    at_the_call = stream.given
    next(answer)
    after_the_first = stream.given

    assert at_the_call == 0
    assert after_the_first <= 2
    assert len(list(islice(answer, 35))) == 35
    assert stream.given <= (37 if form == "predict by batch" else 5)


@pytest.mark.parametrize("size", [1, 10, 25, 999])
def test_batches_of_a_generator_are_cut_to_the_rows_wanted_at_once(km, size):
    answer = list(km.predict(batches(25), batch_size=size, iterate_batches=True))

    assert max(len(batch["cluster_idx"]) for batch in answer) == min(size, 25)
    found = np.concatenate([batch["all_scores"] for batch in answer])
    np.testing.assert_array_equal(found, km.transform(X))


@pytest.mark.parametrize("form", STREAMED)
def test_only_about_one_batch_is_alive(km, form):
    gc.collect()
    stream = Watched(count=30)

    for answer in ask(km, form, stream):
        del answer

    assert stream.given == 30
    assert stream.most <= 3
    assert stream.alive <= 1


@pytest.mark.parametrize("form", STREAMED)
def test_one_block_of_a_file_is_read_at_a_time(km, tmp_path, form):
    np.save(tmp_path / "x.npy", X)
    expected = consume(ask(km, form, in_blocks(X, 20)))

    answer = ask(km, form, in_blocks(tmp_path / "x.npy", 20))
    first = next(answer)
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[: -20 * 3 * 4])

    np.testing.assert_equal(first, expected[0])
    with pytest.raises(DataError, match=r"x\.npy has changed since the run was planned"):
        list(answer)


@pytest.mark.parametrize("form", STREAMED)
def test_what_is_streamed_is_from_the_model_at_the_call(tmp_path, form):
    km = KMeansClustering(K, str(tmp_path), X[:K], use_mini_batch=False, config=HERE)
    km.fit(X, steps=1)
    expected = consume(ask(km, form, X))

    answer = ask(km, form, X)
    km.fit(X, steps=1)

    np.testing.assert_equal(consume(answer), expected)
    assert km.get_variable_value("global_step") == 2


def test_rows_before_a_failure_of_the_generator_are_given(km):
    failure = OSError("the network")

    def broken():
        yield X[:10]
        raise failure

    answer = km.predict_cluster_idx(broken)

    assert len(list(islice(answer, 10))) == 10
    with pytest.raises(OSError) as caught:  # noqa: PT011
        next(answer)
    assert caught.value is failure


# --- wrong calls -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("data", [lambda: X, lambda: batches(25), lambda: lambda: X])
def test_a_model_that_is_not_fitted_says_so_at_the_call(tmp_path, form, data):
    unfitted = KMeansClustering(K, str(tmp_path / "none"), config=HERE)

    with pytest.raises(NotFittedError, match=r"no model in .*none.*Call fit first") as caught:
        ask(unfitted, form, data())  # without next

    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, AttributeError)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_refused(km, form, value):
    x = X.copy()
    x[7, 1] = value

    for data in (x, lambda: batches(25, x)):
        with pytest.raises(NonFiniteError, match="1 rows hold NaN, null or infinity"):
            consume(ask(km, form, data))


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_another_width_are_refused_at_the_call(km, form):
    for x in (X[:, :2], lambda: X[:, :2], np.hstack([X, X])):
        with pytest.raises(DataError, match=r"(2|6) features and the model .* has 3"):
            ask(km, form, x)


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_of_another_width_is_refused_by_its_number(km, form):
    with pytest.raises(DataError, match=r"batch 2 has 2 features .* 3"):
        consume(ask(km, form, iter([X, X[:, :2]])))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "neither x nor input_fn is given"),
        ({"x": X, "input_fn": lambda: X}, "x and input_fn are both given"),
        ({"input_fn": lambda: (X, X[:, 0])}, "has targets"),
        ({"x": X[:, 0]}, r"shape \(60,\)"),
        ({"x": [["a", "b", "c"]]}, "not a number type"),
    ],
)
def test_what_is_no_data_is_refused_at_the_call(km, form, data, message):
    with pytest.raises((ConfigError, DataError), match=message):
        ask(km, form, **data)


@pytest.mark.parametrize("form", ["predict", "predict by batch", "predict whole"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": X, "batch_size": 0}, "batch_size=0"),
        ({"x": X, "batch_size": 2.5}, r"batch_size=2\.5"),
        ({"x": X, "batch_size": True}, "batch_size=True"),
        ({"input_fn": lambda: X, "batch_size": 3}, r"batch_size=3 .*input_fn"),
    ],
)
def test_a_batch_size_without_meaning_is_refused_at_the_call(km, form, arguments, message):
    with pytest.raises(ConfigError, match=message):
        ask(km, form, **arguments)
