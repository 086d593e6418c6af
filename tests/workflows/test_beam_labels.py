"""Labels by a beam are those of a plain descent, and what is told of them was counted."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from ray_kmeans import KMeansClustering, RunConfig, errors
from ray_kmeans.algorithm.recall import RecallSums, wilson
from ray_kmeans.cli import main
from ray_kmeans.kernels.reference import ReferenceKernel

HERE = RunConfig(num_workers=0, progress=False)
RANDOM = np.random.default_rng(2)
X = (RANDOM.normal(size=(3_000, 5)) + 3 * RANDOM.integers(0, 4, (3_000, 5))).astype(np.float32)


@pytest.fixture(scope="module", params=["squared_euclidean", "cosine"])
def km(tmp_path_factory, request):
    place = str(tmp_path_factory.mktemp("model"))
    km = KMeansClustering(
        120, place, levels=(3, 5, 8), distance_metric=request.param, use_mini_batch=False,
        config=HERE,
    )  # fmt: skip
    return km.fit(X, steps=4)


def nearest_of(row, centers, numbers, count, metric):
    """Return the nearest of some centers by their numbers, of equal ones the lowest first."""
    distances = np.empty((1, len(numbers)))
    ReferenceKernel().distances(row[None], centers[numbers], metric, distances)
    return np.asarray(numbers)[np.lexsort((numbers, distances[0]))][:count]


def descended(row, tree, clusters, width, metric):
    """Return the label of a row by going down with a beam, one level after the other."""
    nodes = nearest_of(row, tree.centers[0], range(len(tree.centers[0])), width, metric)
    levels = [*tree.centers[1:], clusters]
    for depth, (centers, parents) in enumerate(zip(levels, tree.parents, strict=True), start=1):
        children = np.flatnonzero(np.isin(parents, nodes))
        count = 1 if depth == len(tree.parents) else width
        nodes = nearest_of(row, centers, children, count, metric)
    return int(nodes[0])


def labels_in(output):
    return pq.read_table(output).sort_by("row")["cluster_idx"].to_numpy()


@pytest.mark.parametrize("width", [1, 2, 4, 99])
def test_labels_are_those_of_a_plain_descent(km, tmp_path, width):
    state = km._state()
    rows = X[:400]
    counts = km.label(rows, str(tmp_path / "out"), beam=width)
    seen = rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    seen = rows if state.metric == "squared_euclidean" else seen.astype(np.float32)
    wanted = [descended(row, state.tree, state.centers, width, state.metric) for row in seen]
    labels = labels_in(tmp_path / "out")
    assert labels.tolist() == wanted
    exact = km.predict(rows, outputs=("cluster_idx",), as_iterable=False)["cluster_idx"]
    assert counts.recall.share == (labels == exact).mean()
    assert counts.recall.sample_rows == 400
    assert counts.recall.interval == wilson(int((labels == exact).sum()), 400)
    assert (counts.recall.share == 1.0) == (width == 99)


def test_what_a_beam_costs_is_the_loss_of_its_labels(km, tmp_path):
    counts = km.label(X, str(tmp_path / "out"), beam=1)
    table = pq.read_table(tmp_path / "out")
    exact = km.score(X)
    found = np.asarray(table["distance"], np.float64).sum()
    assert counts.recall.loss_gap == pytest.approx(found / exact - 1, rel=1e-4)
    about = json.loads((tmp_path / "out/_manifest.json").read_text())
    text = json.dumps(about)
    assert f'"share": {counts.recall.share!r}' in text
    assert "3,000 rows labelled; labels by a beam of 1" in str(counts)


def test_a_loss_above_an_exact_one_of_0_has_no_share():
    """Rows that are their centers have no loss, and a label of another center has some."""
    one, other = RecallSums(2, 0, (1, 2), (1 << 1233, 0)).recalls([1, 2])
    assert (one.loss_gap, other.loss_gap) == (None, 0.0)
    assert "the loss is not 0 as the exact one" in str(one)


def test_a_recall_takes_the_narrowest_beam_that_reaches_it(km, tmp_path):
    counts = km.label(X, str(tmp_path / "out"), recall=0.9)
    assert counts.recall.interval[0] >= 0.9
    if counts.recall.beam > 1:
        less = km.label(X, str(tmp_path / "less"), beam=counts.recall.beam // 2)
        assert less.recall.interval[0] < 0.9
    same = km.label(X, str(tmp_path / "same"), beam=counts.recall.beam)
    assert same.recall == counts.recall
    assert np.array_equal(labels_in(tmp_path / "same"), labels_in(tmp_path / "out"))


def test_an_output_of_another_beam_is_not_continued(km, tmp_path):
    km.label(X, str(tmp_path / "out"), beam=2)
    assert km.label(X, str(tmp_path / "out"), beam=2).recall.beam == 2
    with pytest.raises(errors.StoreError, match="of something else"):
        km.label(X, str(tmp_path / "out"))


def test_the_command_tells_how_right_the_labels_are(km, tmp_path, capsys):
    np.save(tmp_path / "x.npy", X)
    main(["predict", str(tmp_path / "x.npy"), km.model_dir, str(tmp_path / "out"), "--recall",
          "0.8", "--num-workers", "0"])  # fmt: skip
    assert "are of the nearest center (95 % interval" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"beam": 0}, "at least 1"),
        ({"recall": 1}, "between 0 and 1"),
        ({"recall": "high"}, "between 0 and 1"),
        ({"beam": 2, "recall": 0.9}, "the recall chooses the beam"),
        ({"beam": 2, "second": True}, "these are exact"),
        ({"beam": 2, "nearest": 3}, "these are exact"),
    ],
)
def test_beams_that_make_no_sense_are_refused(km, tmp_path, more, text):
    with pytest.raises(errors.ConfigError, match=text):
        km.label(X, str(tmp_path / "out"), **more)
    assert not (tmp_path / "out").exists()


def test_a_model_of_one_level_has_no_beam(tmp_path):
    flat = KMeansClustering(3, str(tmp_path / "m"), use_mini_batch=False, config=HERE).fit(X[:50])
    with pytest.raises(errors.ConfigError, match="one level of clusters"):
        flat.label(X, str(tmp_path / "out"), beam=2)
