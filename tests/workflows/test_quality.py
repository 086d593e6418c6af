"""Figures of quality: each equals a slow oracle, with the same bits for any number of workers."""

from __future__ import annotations

import json
import math
from functools import reduce
from operator import add

import numpy as np
import pyarrow as pa
import pytest
from sklearn import metrics
from sklearn.preprocessing import normalize

from ray_kmeans import Quality, RunConfig, cli, import_centers, kernels, open_source
from ray_kmeans.algorithm import contingency
from ray_kmeans.algorithm.metric import Metric, project
from ray_kmeans.algorithm.quality import CenterGaps, quality_of, spreads_of
from ray_kmeans.algorithm.quality_sums import BINS, QualitySums, silhouettes_of
from ray_kmeans.data.sharding import split
from ray_kmeans.data.worker_memory import SUM_BYTES, Footprint
from ray_kmeans.engine.center_gaps import Separation
from ray_kmeans.engine.options import WorkerSetup
from ray_kmeans.engine.pool import LocalPool
from ray_kmeans.engine.quality_sweep import QualityAsked
from ray_kmeans.engine.worker import ShardWorker
from ray_kmeans.errors import ConfigError, DataError
from ray_kmeans.store import labelled_rows
from tests.support.files import in_blocks, put_table
from tests.support.quality_oracle import Oracle

HERE = RunConfig(num_workers=0, progress=False)
RNG = np.random.default_rng(3)
X = (RNG.normal(size=(240, 3)) + 2 * RNG.integers(0, 4, (240, 1))).astype(np.float32)
WEIGHT = RNG.integers(0, 5, 240) / 4
CENTERS = np.concatenate([X[:60:10], X[:1], [[9e3, 9e3, 9e3]]]).astype(np.float32)
"""Six centers on rows, a copy of the first one, which is an empty cluster, and one far away."""
BORDERS = (0.0, 3.0, 25.0)


@pytest.fixture(params=list(Metric))
def metric(request):
    return request.param


def sums_and_gaps(rows, centers, metric, shards=1, weights=None, kernel="cpu", slices=0):
    """Return what a pool with this number of shards makes: summary, sums, gaps."""
    source = open_source(in_blocks(rows, 17), sample_weight=weights)
    blocks = source.describe().blocks
    pool = LocalPool(source, split(blocks, shards), WorkerSetup(metric, kernel, threads=2))
    summary = pool.summarize()
    parts = pool.ask(ShardWorker.measure_quality, centers, QualityAsked(BORDERS))
    sums = reduce(add, parts)
    if slices:
        cut = zip(*(part.in_slices(slices) for part in parts), strict=True)
        sums = QualitySums.joined([reduce(add, each) for each in cut])
    gaps = None
    if len(centers) > 1:
        separation = Separation(centers, spreads_of(sums), metric)
        gaps = CenterGaps.joined(pool.ask(ShardWorker.measure_gaps, separation, len(blocks)))
    return summary, sums, gaps


def quality(rows, centers, metric, **how):
    summary, sums, gaps = sums_and_gaps(rows, centers, metric, **how)
    inertia = sums.partials.inertia(summary, centers)
    return quality_of(sums, summary, inertia, gaps, BORDERS)


def check(found, oracle):
    """Compare all figures with those of the oracle, bit for bit where no sum is rounded twice."""
    k = oracle.k
    sizes = np.array([float(oracle.size(j)) for j in range(k)])
    inertia = [float(oracle.sum_of(oracle.near, oracle.of(j))) for j in range(k)]
    np.testing.assert_array_equal(found.sizes, sizes)
    assert found.cluster_inertia.tolist() == inertia
    assert found.inertia == pytest.approx(math.fsum(inertia), rel=1e-6, abs=1e-6)
    assert found.size_variation == pytest.approx(sizes.std() / sizes.mean())
    assert found.size_p50 == pytest.approx(np.median(sizes) / sizes.mean())
    assert found.size_p99 == pytest.approx(np.percentile(sizes, 99) / sizes.mean())
    assert found.size_max == pytest.approx(sizes.max() / sizes.mean())
    assert found.empty == (sizes == 0).sum()
    means = [oracle.mean(oracle.silhouette, j) for j in range(k)]
    total = oracle.sum_of(oracle.silhouette, oracle.labels) / oracle.total
    assert found.silhouette == float(total)
    np.testing.assert_array_equal(found.cluster_silhouette, means)
    assert found.silhouette_histogram.tolist() == oracle.histogram(BINS)
    assert found.near_border == {x: oracle.share_near_border(x) for x in BORDERS}
    others = [oracle.nearest_other(j) for j in range(k)]
    assert list(zip(found.nearest.tolist(), found.gaps.tolist(), strict=True)) == others
    assert found.davies_bouldin == oracle.davies_bouldin()
    assert found.calinski_harabasz == pytest.approx(oracle.calinski_harabasz(), rel=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_each_figure_is_that_of_the_oracle(metric, weighted):
    weights = WEIGHT if weighted else None
    centers = project(CENTERS, metric)

    found = quality(X, centers, metric, weights=weights)

    check(
        found,
        Oracle(project(X, metric), centers, np.ones(240) if weights is None else weights, metric),
    )


@pytest.mark.parametrize("how", [{"shards": 2}, {"shards": 3}, {"shards": 3, "slices": 3}])
@pytest.mark.parametrize("weights", [None, WEIGHT])
def test_all_bits_are_the_same_for_any_number_of_workers(metric, how, weights):
    centers = project(CENTERS, metric)

    one, other = (
        quality(X, centers, metric, weights=weights, **each).figures() for each in ({}, how)
    )

    assert json.dumps(one) == json.dumps(other)


@pytest.mark.parametrize("kernel", ["portable", "reference"])
def test_all_bits_are_the_same_for_any_kernel(metric, kernel):
    centers = project(CENTERS, metric)

    one, other = (quality(X, centers, metric, kernel=each).figures() for each in ("cpu", kernel))

    assert json.dumps(one) == json.dumps(other)


def test_a_row_of_weight_3_counts_as_three_rows(metric):
    times = RNG.integers(0, 4, 240)
    centers = project(CENTERS, metric)

    weighed = quality(X, centers, metric, weights=times.astype(np.float64))
    repeated = quality(np.repeat(X, times, axis=0), centers, metric)

    assert json.dumps(weighed.figures()) == json.dumps(repeated.figures())


def test_values_of_all_sizes_lose_nothing():
    scale = 10.0 ** RNG.integers(-40, 19, (60, 1))
    rows = (RNG.normal(size=(60, 2)) * scale).astype(np.float32)
    centers = rows[:12].copy()

    found = quality(rows, centers, Metric.SQUARED_EUCLIDEAN)

    oracle = Oracle(rows, centers, np.ones(60), "squared_euclidean")
    assert found.cluster_inertia.tolist() == [
        float(oracle.sum_of(oracle.near, oracle.of(j))) for j in range(12)
    ]
    assert found.davies_bouldin == oracle.davies_bouldin()
    assert found.silhouette == float(oracle.sum_of(oracle.silhouette, oracle.labels) / 60)


def test_a_figure_that_is_not_defined_is_none(metric):
    single = quality(X, project(X[:1], metric), metric)
    one_row = quality(X[:1], project(X[:3], metric), metric)
    equal = quality(np.repeat(X[:2], 5, axis=0), project(X[:2], metric), metric)

    undefined = [single.silhouette, single.cluster_silhouette, single.silhouette_histogram]
    undefined += [single.davies_bouldin, single.gaps, single.nearest, single.near_border]
    undefined += [single.calinski_harabasz, one_row.davies_bouldin, one_row.calinski_harabasz]
    assert undefined == [None] * len(undefined)
    assert one_row.cluster_silhouette[0] == pytest.approx(1, abs=1e-6)
    assert np.isnan(one_row.cluster_silhouette[1:]).all()
    assert one_row.empty == 2
    assert equal.davies_bouldin == pytest.approx(0, abs=1e-3)
    if metric != Metric.COSINE:
        assert equal.calinski_harabasz is None
    assert "NaN" not in json.dumps([each.figures() for each in (single, one_row, equal)])


def test_scikit_learn_has_the_same_indices(metric):
    """Its silhouette is another one; its scatter is about the means, where a fit ends."""
    rows = project(X, metric).astype(np.float64)
    labels = np.repeat(np.arange(4), 60)
    centers = np.stack([X[labels == j].mean(axis=0) for j in range(4)]).astype(np.float32)
    for _ in range(9):  # to a fixed point
        found = Oracle(project(X, metric), project(centers, metric), np.ones(240), metric).labels
        labels = np.array([found[i] for i in range(240)])
        centers = np.stack([rows[labels == j].mean(axis=0) for j in range(4)]).astype(np.float32)

    found = quality(X, project(centers, metric), metric)

    seen = normalize(X.astype(np.float64)) if metric == Metric.COSINE else rows
    expected = metrics.calinski_harabasz_score(seen, labels)
    assert found.calinski_harabasz == pytest.approx(expected, rel=1e-5)
    if metric != Metric.COSINE:  # whose centers are means scaled to norm 1
        expected = metrics.davies_bouldin_score(seen, labels)
        assert found.davies_bouldin == pytest.approx(expected, rel=1e-6)


def test_means_that_float32_cannot_hold_have_the_exact_squares_about_them():
    rows = (RNG.integers(0, 3, (90, 2)) + 2**23).astype(np.float32)

    found = quality(rows, rows[:3].copy(), Metric.SQUARED_EUCLIDEAN)

    oracle = Oracle(rows, rows[:3], np.ones(90), "squared_euclidean")
    assert found.calinski_harabasz == pytest.approx(oracle.calinski_harabasz(), rel=1e-14)


def test_a_second_distance_that_is_rounded_below_the_first_gives_the_silhouette_0():
    above = np.nextafter(2.0, 3.0)

    found = silhouettes_of(np.array([above, 0.0]), np.array([2.0, 0.0]), Metric.COSINE)

    assert found.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("apart", [1e4, 2**23])
def test_many_close_centers_have_the_gaps_of_all_pairs(apart):
    """The matrix product tells nothing of gaps inside two groups that are very far apart."""
    rows = RNG.integers(0, 40, size=(3000, 4)) + apart * RNG.integers(0, 2, (3000, 1))
    centers = np.unique(rows.astype(np.float32), axis=0)[::7]
    spreads = np.where(np.arange(len(centers)) % 5, 1 + RNG.random(len(centers)) / 1000, np.nan)
    separation = Separation(centers, spreads, Metric.SQUARED_EUCLIDEAN)
    numbers = np.arange(len(centers))
    found = separation.gaps(numbers, kernels.load("cpu"))

    exact = centers.astype(np.float64)
    squares = ((exact[:, None] - exact) ** 2).sum(axis=2)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = (spreads[:, None] + spreads) / np.sqrt(squares)
    np.fill_diagonal(ratios, np.nan)
    np.fill_diagonal(squares, np.inf)
    np.testing.assert_array_equal(found.distances, squares.min(axis=1))
    used = spreads == spreads
    np.testing.assert_array_equal(found.ratios[used], np.nanmax(ratios[used], axis=1))
    assert np.isnan(found.ratios[~used]).all()


# --- another clustering ----------------------------------------------------------------------


def pairs_of(labels, others, weights=None, parts=1):
    values, codes = np.unique(others, return_inverse=True)
    weights = np.empty(0, np.int64) if weights is None else weights
    total = contingency.Contingency.zero()
    for part in np.array_split(np.arange(len(labels)), parts):
        own = weights[part] if len(weights) else weights
        here, local = np.unique(codes[part], return_inverse=True)  # a worker knows its own alone
        total += contingency.Contingency.of_rows(
            labels[part].astype(np.int32), local, values[here[::1]].tolist(), own
        )
    return total


CLUSTERINGS = {
    "apart": (RNG.integers(0, 7, 500), RNG.integers(0, 5, 500)),
    "near": (np.arange(500) % 7, np.where(RNG.random(500) < 0.2, 3, (np.arange(500) + 1) % 7)),
    "equal": (np.arange(500) % 7, 6 - np.arange(500) % 7),
    "one": (np.zeros(500, int), np.zeros(500, int)),
    "one and many": (np.zeros(500, int), np.arange(500)),
    "a row": (np.zeros(1, int), np.zeros(1, int)),
}


@pytest.mark.parametrize("name", CLUSTERINGS)
@pytest.mark.parametrize("parts", [1, 3])
def test_agreement_is_that_of_scikit_learn(name, parts):
    labels, others = CLUSTERINGS[name]

    found = contingency.agreement_of(pairs_of(labels, others, parts=parts), 0)

    assert found.adjusted_rand == pytest.approx(metrics.adjusted_rand_score(others, labels))
    expected = metrics.normalized_mutual_info_score(others, labels)
    assert found.normalized_mutual_info == pytest.approx(expected, abs=1e-12)
    assert found.other_clusters == len(set(others.tolist()))
    assert found == contingency.agreement_of(pairs_of(labels, others), 0)


@pytest.mark.parametrize("shape", [(3, 3), (5, 8), (8, 5), (1, 4)])
def test_the_moved_share_is_that_of_the_best_matching(shape, monkeypatch):
    from scipy.optimize import linear_sum_assignment

    table = RNG.integers(0, 30, shape) * (RNG.random(shape) < 0.7)
    table[0, 0] = 1
    labels, others = (np.repeat(each.ravel(), table.ravel()) for each in np.indices(shape))

    found = contingency.agreement_of(pairs_of(labels, others), 0)

    kept = table[linear_sum_assignment(-table)].sum()
    assert found.moved_share == pytest.approx(1 - kept / table.sum())
    assert found.matching == "optimal"
    monkeypatch.setattr(contingency, "MOST_MATCHED", 0)
    mutual = sum(
        table[i, table[i].argmax()]
        for i in range(shape[0])
        if table[:, table[i].argmax()].argmax() == i
    )
    found = contingency.agreement_of(pairs_of(labels, others), 0)
    assert found.moved_share == pytest.approx(1 - mutual / table.sum())
    assert found.matching == "mutual"


def test_a_weight_of_3_agrees_as_three_rows():
    labels, others = CLUSTERINGS["near"]
    times = RNG.integers(0, 4, 500)

    weighed = contingency.agreement_of(pairs_of(labels, others, times * 8), 3)

    repeated = pairs_of(np.repeat(labels, times), np.repeat(others, times))
    assert weighed == contingency.agreement_of(repeated, 0)


def test_a_column_that_names_each_row_is_refused(monkeypatch):
    monkeypatch.setattr(contingency, "MOST_VALUES", 100)

    with pytest.raises(DataError, match="500 labels"):
        pairs_of(*CLUSTERINGS["one and many"])


@pytest.fixture
def model(tmp_path):
    return import_centers(CENTERS, str(tmp_path / "model"), config=HERE)


def data_with_labels(tmp_path):
    values = [None if i % 11 == 0 else f"c{int(x[0] > 3)}" for i, x in enumerate(X)]
    vectors = pa.FixedSizeListArray.from_arrays(X.ravel(), 3)
    table = pa.table({"v": vectors, "w": WEIGHT, "class": values, "score": WEIGHT})
    put_table(tmp_path / "data", "a.parquet", table, row_group_size=70)
    return open_source(str(tmp_path / "data"), ["v"], sample_weight="w"), values


def test_rows_are_compared_with_a_column_by_their_weights(model, tmp_path):
    source, values = data_with_labels(tmp_path)
    labels = np.array([x["cluster_idx"] for x in model.predict(X)])
    times = np.where([value is None for value in values], 0, 4 * WEIGHT).astype(int)
    others = np.array([value or "" for value in values])

    found = model.evaluation(source, against_column="class").quality.agreement

    repeated = np.repeat(others, times), np.repeat(labels, times)
    expected = metrics.normalized_mutual_info_score(*repeated)
    assert found.weight == times.sum() / 4
    assert found.normalized_mutual_info == pytest.approx(expected)


def test_rows_are_compared_with_a_labelled_output_by_their_numbers(model, tmp_path):
    source, _ = data_with_labels(tmp_path)
    before = import_centers(X[5:9], str(tmp_path / "before"), config=HERE)
    output = str(tmp_path / "labels")
    before.label(source, output)
    labels, others = (np.array([x["cluster_idx"] for x in m.predict(X)]) for m in (model, before))

    found = model.evaluation(X, against_output=output).quality.agreement

    kept = WEIGHT > 0  # rows without a label in the output are left out
    expected = metrics.adjusted_rand_score(others[kept], labels[kept])
    assert found.adjusted_rand == pytest.approx(expected)
    assert found.weight == kept.sum()
    for start in (0, 65, 140):  # blocks may begin inside a part
        rows = labelled_rows.LabelledRows.at(output, {}, 240)
        block = next(b for b in source.describe().blocks if b.first + b.rows > start)
        [(codes, values)] = rows.read([block])
        there = slice(block.first, block.first + block.rows)
        read = np.array([*values, -1])[codes]
        np.testing.assert_array_equal(read, np.where(kept, others, -1)[there])


def test_what_cannot_be_compared_is_refused_before_work(model, tmp_path):
    source, _ = data_with_labels(tmp_path)
    model.label(source, str(tmp_path / "by"), by_cluster=True)
    model.label(X[:50], str(tmp_path / "short"))
    wrong = [
        ({"against_column": "score"}, "against_column='score' holds double"),
        ({"against_column": "none"}, "against_column='none': .*none"),
        ({"against_column": "class", "against_output": "x"}, "Give one"),
        ({"against_column": 3}, "must be a text"),
        ({"against_column": "class", "quality": False}, "no meaning without quality"),
        ({"against_output": str(tmp_path / "data")}, "no complete labelled output"),
        ({"against_output": str(tmp_path / "by")}, "order of clusters"),
        ({"against_output": str(tmp_path / "short")}, "50 rows and the data have 240"),
        ({"borders": (1, 101)}, "percentages"),
        ({"borders": (1, 1)}, "different"),
        ({"borders": "ab"}, "percentages"),
    ]

    for given, match in wrong:
        with pytest.raises((ConfigError, DataError), match=match):
            model.evaluation(source, **given)


# --- the record ------------------------------------------------------------------------------


def test_the_command_prints_and_writes_what_the_call_returns(model, tmp_path, capsys):
    source, _ = data_with_labels(tmp_path)
    output = tmp_path / "e.json"
    flags = ["--borders", "2", "--against-column", "class", "--sample-weight", "w"]

    words = ["evaluate", str(tmp_path / "data"), model.model_dir, "--columns", "v", *flags]
    cli.main([*words, "--output", str(output), "--num-workers", "0"])

    found = model.evaluation(source, borders=(2.0,), against_column="class")
    told = json.loads(output.read_text())
    assert told == json.loads(json.dumps(found.figures()))
    assert Quality.parse(told["quality"]) == found.quality
    assert Quality.parse(told["quality"]).figures() == found.quality.figures()
    assert found.table() in capsys.readouterr().out


def test_an_evaluation_without_quality_has_the_figures_that_it_had(model):
    with_quality, without = (model.evaluation(X, quality=each) for each in (True, False))

    assert without.quality is None
    assert "quality" not in without.figures()
    assert without.loss == with_quality.loss == with_quality.quality.inertia
    assert with_quality.figures().items() >= without.figures().items()
    assert with_quality.table().startswith(without.table())


def test_the_plan_counts_what_the_figures_take():
    _, sums, _ = sums_and_gaps(X, CENTERS, Metric.SQUARED_EUCLIDEAN)
    digits = [each.digits for each in (sums.distances, sums.lengths, sums.silhouettes)]
    shard = open_source(X).describe().blocks

    assert sum(each.nbytes for each in digits) <= SUM_BYTES * len(CENTERS)
    plain, more = (Footprint(8, other_bytes=each).of(shard) for each in (0, 1000))
    assert more == plain + 1000
