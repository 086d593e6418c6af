"""A row of weight w is w rows: the same centers, counts and losses, bit for bit."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_kmeans import (
    KMeansClustering,
    RunConfig,
    cli,
    open_source,
)
from ray_kmeans.data.weighted import WeightedSource
from ray_kmeans.errors import (
    ConfigError,
    DataError,
    NonFiniteError,
    TooFewRowsError,
)
from ray_kmeans.store.labelled import LabelledOutput
from tests.support.files import in_blocks, put_table

HERE = {"num_workers": 0}


def blobs(n=400, d=5, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) + 4 * rng.integers(0, 5, (n, 1))
    return X.astype(np.float32), rng.integers(0, 5, n)


def model(tmp_path, name="model", k=4, config=None, **params):
    settings = RunConfig(**{**HERE, **(config or {})})
    return KMeansClustering(k, str(tmp_path / name), config=settings, **params)


def fitted(tmp_path, x, name, *, initial, steps=8, config=None, sample_weight=None, **params):
    params = {"use_mini_batch": False, "initial_clusters": initial, **params}
    k = 6 if isinstance(initial, str) else len(initial)
    km = model(tmp_path, name, k, config, **params)
    x = x if isinstance(x, WeightedSource) else in_blocks(x, 64)
    return km.fit(x, max_steps=steps, sample_weight=sample_weight)


def told(km):
    """Return all that a weighted fit and one on repeated rows must agree in."""
    lines = [(line.inertia, line.shift, line.empty, line.digest) for line in km.history()]
    return km.clusters().tobytes(), km.counts().tolist(), lines, km.why_stopped()


CONFIGS = [{}, {"cache": "disk"}, {"cache": "source"}]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.get("cache", "memory"))
@pytest.mark.parametrize("metric", ["squared_euclidean", "cosine"])
def test_a_whole_weight_is_so_many_rows(metric, config, tmp_path):
    X, times = blobs()
    about = {"initial": X[:4], "distance_metric": metric}

    weighted = fitted(tmp_path, X, "w", config=config, sample_weight=times, **about)
    repeated = fitted(tmp_path, np.repeat(X, times, axis=0), "r", **about)

    assert told(weighted) == told(repeated)
    assert weighted.counts().dtype == np.int64
    assert weighted.counts().sum() == times.sum()


def test_weights_of_one_are_no_weights(tmp_path):
    X, _ = blobs()
    params = {"use_mini_batch": True, "initial_clusters": "kmeans_plus_plus", "random_seed": 3}

    source = in_blocks(X, 64)
    plain = model(tmp_path, "a", **params).fit(source, batch_size=50, max_steps=20)
    ones = model(tmp_path, "b", **params).fit(
        source, batch_size=50, max_steps=20, sample_weight=np.ones(len(X))
    )

    assert told(plain) == told(ones)
    assert plain.history() == ones.history()


@pytest.mark.parametrize("bits", [-20, -3, 5])
def test_only_the_ratios_of_weights_matter(bits, tmp_path):
    X, times = blobs()

    one = fitted(tmp_path, X, "one", initial=X[:4], sample_weight=times)
    other = fitted(tmp_path, X, "other", initial=X[:4], sample_weight=times * 2.0**bits)

    np.testing.assert_array_equal(one.clusters(), other.clusters())
    np.testing.assert_array_equal(one.counts() * 2.0**bits, other.counts())
    for line, scaled in zip(one.history(), other.history(), strict=True):
        assert line.inertia * 2.0**bits == scaled.inertia


def test_weights_of_any_kind_give_the_weighted_means(tmp_path):
    X, _ = blobs()
    weights = np.random.default_rng(5).exponential(size=len(X))
    centers = X[:4].astype(np.float64)
    for _ in range(3):
        squared = ((X[:, None].astype(np.float64) - centers) ** 2).sum(axis=2)
        labels = squared.argmin(axis=1)
        inertia = (weights * squared.min(axis=1)).sum()
        centers = np.stack(
            [np.average(X[labels == j], axis=0, weights=weights[labels == j]) for j in range(4)]
        )
        centers = centers.astype(np.float32).astype(np.float64)

    km = fitted(tmp_path, X, "km", initial=X[:4], steps=3, sample_weight=weights)

    np.testing.assert_allclose(km.clusters(), centers, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(km.history()[-1].inertia, inertia, rtol=1e-8)
    sizes = np.bincount(labels, weights, minlength=4)
    np.testing.assert_allclose(km.counts(), sizes, rtol=1e-6)
    assert km.counts().dtype == np.float64


def test_a_row_of_weight_zero_is_not_there(tmp_path):
    X, _ = blobs()
    far = np.arange(len(X)) % 7 == 0
    X[far] = 1e6
    X[0] = np.nan
    weights = np.where(far, 0.0, 1.0)
    about = {"initial": X[1:5], "empty_clusters": "farthest"}

    without = fitted(tmp_path, X[~far], "without", **about)

    assert told(fitted(tmp_path, X, "with", sample_weight=weights, **about)) == told(without)


@pytest.mark.parametrize("m", [1, 3])
def test_a_mini_batch_of_everything_counts_so_many_rows(m, tmp_path):
    X, times = blobs()
    params = {"initial_clusters": X[:4], "mini_batch_steps_per_iteration": m}
    steps = 2 * m

    weighted = model(tmp_path, "w", **params).partial_fit(X, steps=steps, sample_weight=times)
    repeated = model(tmp_path, "r", **params).partial_fit(np.repeat(X, times, axis=0), steps=steps)

    np.testing.assert_array_equal(weighted.clusters(), repeated.clusters())
    np.testing.assert_array_equal(weighted.counts(), repeated.counts())
    losses = [[line.inertia for line in km.history()] for km in (weighted, repeated)]
    np.testing.assert_allclose(*losses, rtol=1e-12)


def test_mini_batches_cut_off_and_resumed_keep_their_weights(tmp_path):
    X, _ = blobs()
    weights = np.random.default_rng(1).exponential(size=len(X))
    params = {"initial_clusters": "kmeans_parallel", "mini_batch_steps_per_iteration": 4}
    at_once = model(tmp_path, "a", **params)
    source = in_blocks(X, 64)
    at_once.fit(source, batch_size=90, max_steps=24, sample_weight=weights)

    in_parts = model(tmp_path, "b", **params)
    for steps in (5, 6, 20, 24):
        in_parts.fit(source, batch_size=90, max_steps=steps, sample_weight=weights)

    np.testing.assert_array_equal(at_once.clusters(), in_parts.clusters())
    assert at_once.history() == in_parts.history()


def test_batches_of_a_stream_have_a_column_of_weights(tmp_path):
    X, times = blobs()
    columns = {f"x{i}": X[:, i] for i in range(X.shape[1])}
    table = pa.table({**columns, "times": times})
    batches = [table.slice(0, 150), table.slice(150)]
    sources = [
        open_source(batch, columns=list(columns), sample_weight="times") for batch in batches
    ]
    repeated = [np.repeat(X[:150], times[:150], axis=0), np.repeat(X[150:], times[150:], axis=0)]

    for name, batch in (("mini", True), ("full", False)):
        params = {"initial_clusters": X[:4], "use_mini_batch": batch}
        steps = None if batch else 5
        ours = model(tmp_path, f"{name}-w", **params).fit(iter(sources), max_steps=steps)
        theirs = model(tmp_path, f"{name}-r", **params).fit(iter(repeated), max_steps=steps)

        np.testing.assert_array_equal(ours.clusters(), theirs.clusters())
        np.testing.assert_array_equal(ours.counts(), theirs.counts())


@pytest.mark.parametrize("init", ["random", "kmeans_plus_plus", "kmeans_parallel", "kmc2"])
@pytest.mark.parametrize("metric", ["squared_euclidean", "cosine"])
def test_seeds_are_different_rows_that_count(init, metric, tmp_path):
    X, _ = blobs(n=300)
    counts = np.arange(300) % 3 > 0
    X[counts] += np.float32(0.01)
    weights = np.where(counts, 1.5, 0.0)
    km = model(tmp_path, k=40, initial_clusters=init, distance_metric=metric, use_mini_batch=False)

    km.fit(in_blocks(X, 64), max_steps=1, sample_weight=weights)

    first = km._model_dir()._of(km.checkpoints()[0]).centers
    assert len(np.unique(first, axis=0)) == 40
    if init == "kmeans_parallel":  # these are means of rows
        return
    norms = np.linalg.norm(X.astype(np.float64), axis=1, keepdims=True)
    rows = (X / norms if metric == "cosine" else X)[counts].astype(np.float64)
    gaps = ((first[:, None] - rows) ** 2).sum(axis=2).min(axis=1)
    assert gaps.max() < 1e-10


def test_a_heavy_row_is_among_the_seeds(tmp_path):
    X, _ = blobs(n=300)
    weights = np.ones(300)
    weights[[7, 211]] = 1e6
    for seed in range(5):
        km = model(tmp_path, f"{seed}", k=3, random_seed=seed, use_mini_batch=False)
        km.fit(X, max_steps=1, sample_weight=weights)
        first = km._model_dir()._of(km.checkpoints()[0]).centers.tolist()

        assert X[7].tolist() in first
        assert X[211].tolist() in first


def test_a_function_gets_a_sample_of_rows_that_count(tmp_path):
    X, _ = blobs(n=300)
    weights = (np.arange(300) % 2).astype(float)
    seen = []

    def first_rows(sample, missing):
        seen.append(sample)
        return sample[:missing]

    model(tmp_path, initial_clusters=first_rows).fit(X, max_steps=1, sample_weight=weights)

    np.testing.assert_array_equal(seen[0], X[1::2])


def write(root, X, weights):
    """Write rows and weights to files of uneven row groups."""
    for number, part in enumerate(np.array_split(np.arange(len(X)), 3)):
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(X[part].ravel()), X.shape[1])
        table = pa.table({"v": vectors, "times": weights[part]})
        put_table(root, f"{number}.parquet", table, row_group_size=100)
    return root


def test_a_column_of_weights_equals_an_array_of_them(root, tmp_path):
    X, times = blobs()
    uri = write(f"{root}/data", X, times)

    models = tmp_path / "models"
    array = fitted(models, X, "array", initial=X[:4], sample_weight=times)
    column = fitted(models, uri, "column", initial=X[:4], sample_weight="times")
    beside = fitted(models, uri, "beside", initial=X[:4], sample_weight=times)

    assert told(array) == told(column) == told(beside)


def test_the_loss_of_weighted_rows_is_that_of_so_many(tmp_path):
    X, times = blobs()
    km = fitted(tmp_path, X, "km", initial=X[:4])
    rows, repeated = in_blocks(X, 64), in_blocks(np.repeat(X, times, axis=0), 64)

    assert km.score(x=rows, sample_weight=times) == km.score(x=repeated)
    ours = km.evaluate(rows, sample_weight=times, log_progress=False)
    theirs = km.evaluate(repeated, log_progress=False)
    assert ours == theirs


# --- rows that are not finite ---------------------------------------------------------------------


def with_holes(X):
    X = X.copy()
    X[3, 1], X[77, 0], X[399, 4] = np.nan, np.inf, -np.inf
    return X, np.flatnonzero(~np.isfinite(X).all(axis=1))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.get("cache", "memory"))
def test_dropping_rows_equals_a_fit_without_them(config, tmp_path):
    X, _ = blobs()
    holes, bad = with_holes(X)
    clean = np.delete(X, bad, axis=0)
    expected = fitted(tmp_path, clean, "clean", initial=X[:4])

    source = open_source(in_blocks(holes, 64), nonfinite="drop")
    with pytest.warns(UserWarning, match="3 of 400 rows hold NaN, null or infinity"):
        km = fitted(tmp_path, source, "km", initial=X[:4], config=config)

    assert told(km) == told(expected)
    assert km.history() == expected.history()


def test_dropped_rows_get_no_label(tmp_path):
    X, _ = blobs()
    holes, bad = with_holes(X)
    km = fitted(tmp_path, X, "km", initial=X[:4])
    expected = km.predict(X, as_iterable=False)

    answer = km.predict(open_source(in_blocks(holes, 64), nonfinite="drop"), as_iterable=False)

    rest = np.delete(np.arange(400), bad)
    assert answer["cluster_idx"][bad].tolist() == [-1, -1, -1]
    assert np.isnan(answer["all_scores"][bad]).all()
    for name, values in expected.items():
        np.testing.assert_array_equal(answer[name][rest], values[rest])


def test_labelled_output_says_which_rows_were_dropped(tmp_path):
    from ray_kmeans.workflows import label

    X, _ = blobs()
    holes, bad = with_holes(X)
    km = fitted(tmp_path, X, "km", initial=X[:4])
    output = LabelledOutput.at(str(tmp_path / "out"), {})

    found = label.write_labels(
        km._state(),
        open_source(in_blocks(holes, 64), nonfinite="drop"),
        output,
        km.config,
        model_dir=km.model_dir,
    )

    table = pq.read_table(tmp_path / "out")
    assert found.rows == table.num_rows == 400
    assert found.left_out == len(bad)
    labels, distances = (table[name].to_numpy() for name in ("cluster_idx", "distance"))
    assert np.flatnonzero(labels == -1).tolist() == bad.tolist()
    assert np.flatnonzero(np.isnan(distances)).tolist() == bad.tolist()
    expected = km.predict(X, as_iterable=False)["cluster_idx"]
    rest = np.delete(np.arange(400), bad)
    np.testing.assert_array_equal(labels[rest], expected[rest])


def test_a_metric_does_not_see_dropped_rows(tmp_path):
    X, _ = blobs()
    holes, bad = with_holes(X)
    km = fitted(tmp_path, X, "km", initial=X[:4])
    seen = []

    def rows_seen(rows, predictions):
        seen.append(len(rows))
        return 0.0

    km.evaluate(open_source(in_blocks(holes, 64), nonfinite="drop"), metrics={"seen": rows_seen})

    assert sum(seen) == 400 - len(bad)


# --- wrong calls ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "error", "words"),
    [
        (np.ones(399), DataError, "399 values and the data have 400 rows"),
        (np.full(400, -1.0), DataError, "row 0 of x has the weight -1.0"),
        (np.where(np.arange(400) == 70, np.nan, 1), DataError, "row 70 of x has the weight nan"),
        (np.where(np.arange(400) == 70, np.inf, 1), DataError, "row 70 of x has the weight inf"),
        (np.zeros(400), DataError, "all 400 rows have weight 0"),
        (np.full(400, 1e12), DataError, r"add up to 4e\+14"),
        (np.ones((400, 1)), ConfigError, r"shape \(400, 1\)"),
        (["a"] * 400, DataError, "weights must be numbers"),
        ("times", ConfigError, "sample_weight cannot be read"),
    ],
)
def test_weights_that_are_none_are_refused(weights, error, words, tmp_path):
    X, _ = blobs()

    with pytest.raises(error, match=words):
        fitted(tmp_path, X, "km", initial=X[:4], sample_weight=weights)

    assert model(tmp_path, "km").checkpoints() == []


def test_a_column_that_holds_no_weights_is_named(tmp_path):
    X, times = blobs()
    holes = pa.array([None if i == 130 else int(t) for i, t in enumerate(times)])
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), X.shape[1])
    pq.write_table(
        pa.table({"v": vectors, "times": holes, "text": ["a"] * 400}), tmp_path / "x.parquet"
    )
    uri = str(tmp_path / "x.parquet")

    with pytest.raises(DataError, match=r"row 130 of .*x\.parquet has the weight nan"):
        fitted(tmp_path, uri, "a", initial=X[:4], sample_weight="times")
    with pytest.raises(DataError, match=r"column 'text' of .* weights must be numbers"):
        fitted(tmp_path, uri, "b", initial=X[:4], sample_weight="text")
    with pytest.raises(DataError, match="'missing'"):
        fitted(tmp_path, uri, "c", initial=X[:4], sample_weight="missing")


def test_weights_are_given_once_and_in_a_way_that_can_be_used(tmp_path):
    X, times = blobs()
    weighted = open_source(X, sample_weight=times)

    with pytest.raises(ConfigError, match="x has such already"):
        fitted(tmp_path, weighted, "a", initial=X[:4], sample_weight=times)
    with pytest.raises(ConfigError, match="iterator of batches"):
        model(tmp_path, "b", use_mini_batch=False).fit(iter([X]), sample_weight=times)
    with pytest.raises(ConfigError, match="nonfinite='ignore'"):
        open_source(X, nonfinite="ignore")
    with pytest.raises(NonFiniteError):
        fitted(tmp_path, with_holes(X)[0], "c", initial=X[:4], sample_weight=np.ones(400))


def test_there_must_be_a_row_that_counts_for_each_seed(tmp_path):
    X, _ = blobs()

    with pytest.raises(TooFewRowsError, match="the 3 rows"):
        model(tmp_path).fit(X, sample_weight=np.arange(400) < 3)


def test_weights_and_dropping_come_together(tmp_path):
    X, times = blobs()
    holes, bad = with_holes(X)
    repeated = np.repeat(np.delete(X, bad, axis=0), np.delete(times, bad), axis=0)

    source = open_source(in_blocks(holes, 64), nonfinite="drop")
    with pytest.warns(UserWarning, match="left out"):
        km = fitted(tmp_path, source, "km", initial=X[:4], sample_weight=times)

    assert told(km) == told(fitted(tmp_path, repeated, "r", initial=X[:4]))


# --- filters --------------------------------------------------------------------------------------


def described(X, times):
    """Return a table with rows, and columns to choose them by."""
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), X.shape[1])
    numbers = np.arange(len(X))
    language = pa.array([None if i % 11 == 0 else "de" if i % 3 else "en" for i in numbers])
    return pa.table({"v": vectors, "times": times, "language": language, "number": numbers})


FILTERS = {
    "one": ([("language", "=", "en")], lambda i: i % 11 != 0 and i % 3 == 0),
    "all": (
        [("language", "=", "en"), ("number", "<", 200)],
        lambda i: i % 11 != 0 and i % 3 == 0 and i < 200,
    ),
    "any": (
        [[("language", "in", ["en", "fr"])], [("number", ">=", 300)]],
        lambda i: (i % 11 != 0 and i % 3 == 0) or i >= 300,
    ),
}


@pytest.mark.parametrize("which", FILTERS)
def test_a_filter_leaves_the_other_rows_out(which, tmp_path):
    X, times = blobs()
    filters, passes = FILTERS[which]
    keep = np.array([passes(i) for i in range(400)])
    pq.write_table(described(X, times), tmp_path / "x.parquet", row_group_size=130)
    source = open_source(
        in_blocks(tmp_path / "x.parquet", 64, ["v"]), sample_weight="times", filters=filters
    )
    repeated = np.repeat(X[keep], times[keep], axis=0)

    km = fitted(tmp_path, source, "km", initial=X[:4])

    assert told(km) == told(fitted(tmp_path, repeated, "r", initial=X[:4]))


@pytest.mark.parametrize(
    ("filters", "words"),
    [
        ([("missing", "=", 1)], "'missing'"),
        ([("language", "=", 1)], "cannot be applied"),
        ([("language", "~", "en")], "cannot be applied"),
        ("language = en", "must be a list"),
        ([1], "must be a list"),
    ],
)
def test_a_filter_that_cannot_be_used_is_refused_at_once(filters, words, tmp_path):
    X, times = blobs()

    with pytest.raises((ConfigError, DataError), match=words):
        open_source(described(X, times), ["v"], filters=filters).describe()


# --- by the command, and on Ray -------------------------------------------------------------------


def test_the_flags_of_the_command_weigh_filter_and_drop(tmp_path, capsys):
    X, times = blobs()
    holes, bad = with_holes(X)
    pq.write_table(described(holes, times), tmp_path / "x.parquet", row_group_size=130)
    uri, out = str(tmp_path / "x.parquet"), str(tmp_path / "out")
    keep = np.setdiff1d([i for i in range(400) if FILTERS["all"][1](i)], bad)
    common = ["--columns", "v", "--nonfinite", "drop", "--num-workers", "0"]
    common += ["--filters", '[["language", "=", "en"], ["number", "<", 200]]']

    of_fit = ["--no-use-mini-batch", "--max-steps", "5", "--sample-weight", "times"]
    with pytest.warns(UserWarning, match="left out"):
        cli.main(["fit", uri, str(tmp_path / "m"), "--num-clusters", "4", *common, *of_fit])
    cli.main(["predict", uri, str(tmp_path / "m"), out, *common])

    km = model(tmp_path, "m")
    assert km.counts().sum() == times[keep].sum()
    labels = pq.read_table(out)["cluster_idx"].to_numpy()
    assert np.flatnonzero(labels >= 0).tolist() == keep.tolist()
    expected = list(km.predict_cluster_idx(x=X[keep]))
    np.testing.assert_array_equal(labels[keep], expected)


def test_predictions_in_this_process_leave_out_what_weighs_nothing(tmp_path):
    X, times = blobs()
    holes, bad = with_holes(X)
    pq.write_table(described(holes, times), tmp_path / "x.parquet", row_group_size=130)
    fitted(tmp_path, X, "km", initial=X[:4])
    filters, passes = FILTERS["any"]
    km = model(tmp_path, "km")
    out = np.array([not passes(i) for i in range(400)])

    def source(**how):
        return open_source(in_blocks(tmp_path / "x.parquet", 64, ["v"]), filters=filters, **how)

    answer = km.predict(source(nonfinite="drop"), as_iterable=False)

    out[bad] = True
    assert np.flatnonzero(answer["cluster_idx"] == -1).tolist() == np.flatnonzero(out).tolist()
    assert np.isnan(answer["all_scores"][out]).all()
    expected = list(km.predict_cluster_idx(x=X[~out]))
    assert answer["cluster_idx"][~out].tolist() == expected
    with pytest.raises(NonFiniteError):
        km.predict(source(), as_iterable=False)


@pytest.mark.long(kind="weights on Ray")
@pytest.mark.ray
@pytest.mark.parametrize("workers", [1, 3])
def test_workers_weigh_by_a_column_as_this_process_does(workers, tmp_path, ray_cluster):
    X, times = blobs()
    weights = times * 0.3
    uri = write(f"{tmp_path}/data", X, weights)
    fits = [
        fitted(
            tmp_path,
            uri,
            f"{number}",
            initial="kmeans_plus_plus",
            config={"num_workers": number},
            sample_weight="times",
        )
        for number in (0, workers)
    ]

    assert told(fits[0]) == told(fits[1])
