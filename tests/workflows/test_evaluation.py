"""The loss of data under a model, against a direct computation."""

from __future__ import annotations

import json
import uuid
from types import SimpleNamespace

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from ray_kmeans import (
    KMeansClustering,
    RunConfig,
    cli,
    open_source,
)
from ray_kmeans.algorithm.state import FitState
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.text.quantities import format_bytes
from ray_kmeans.workflows import evaluate
from ray_kmeans.workflows.evaluate import evaluate_on
from ray_kmeans.workflows.explain import LABEL_BYTES
from tests.support.files import put_table

HERE = RunConfig(num_workers=0, progress=False)
RNG = np.random.default_rng(5)
X = RNG.normal(size=(300, 4)).astype(np.float32)
WEIGHT = RNG.integers(0, 4, 300).astype(np.float64) / 4
LANG = np.where(RNG.random(300) < 0.4, "en", "de")
FILTER = '[["lang", "=", "en"]]'


@pytest.fixture(params=["squared_euclidean", "cosine"])
def metric(request):
    return request.param


@pytest.fixture
def places(tmp_path, metric):
    """Return data and a model of other rows; the last cluster is far from all rows."""
    vectors = pa.FixedSizeListArray.from_arrays(X.ravel(), 4)
    table = pa.table({"v": vectors, "w": WEIGHT, "lang": LANG})
    put_table(tmp_path / "data", "a.parquet", table, row_group_size=70)
    centers = np.concatenate([X[::30], [[1e4, 1e4, 1e4, 1e4]]]).astype(np.float32)
    model = str(tmp_path / "model")
    params = {"distance_metric": metric, "use_mini_batch": False, "config": HERE}
    KMeansClustering(11, model, centers, **params).fit(centers, max_steps=1)
    return str(tmp_path / "data"), model


def loss_of(model, rows, weights, metric):
    """Return loss and weight of each cluster, by all distances."""
    rows, centers = rows.astype(np.float64), KMeansClustering(11, model).clusters().astype(float)
    if metric == "cosine":
        distances = 1 - rows / np.linalg.norm(rows, axis=1)[:, None] @ centers.T
    else:
        distances = ((rows[:, None] - centers) ** 2).sum(axis=2)
    labels = distances.argmin(axis=1)
    loss = (distances.min(axis=1) * weights).sum()
    return loss, np.bincount(labels, weights, minlength=11)


@pytest.mark.parametrize("more", [{}, {"weight": True}, {"filter": True}, {"both": True}])
def test_an_evaluation_is_what_all_distances_add_up_to(places, metric, more, tmp_path, capsys):
    data, model = places
    weighted, filtered = more.keys() & {"weight", "both"}, more.keys() & {"filter", "both"}
    flags = ["--sample-weight", "w"] if weighted else []
    flags += ["--filters", FILTER] if filtered else []
    output = str(tmp_path / "e.json")

    cli.main(["evaluate", data, model, "--columns", "v", "--output", output, *flags, *NO_RAY])

    counts = np.ones(300) if not weighted else WEIGHT
    counts = np.where(LANG == "en", counts, 0) if filtered else counts
    loss, sizes = loss_of(model, X, counts, metric)
    with open(output) as file:
        told = json.load(file)
    assert told.pop("loss") == pytest.approx(loss, rel=1e-6)
    assert told.pop("mean_loss") == pytest.approx(loss / counts.sum(), rel=1e-6)
    assert told.pop("quality")["sizes"] == sizes.tolist()
    assert told.pop("largest_share") == pytest.approx(sizes.max() / counts.sum())
    assert told == {
        "rows": int((counts > 0).sum()),
        "rows_left_out": int((counts == 0).sum()),
        "weight": counts.sum(),
        "num_clusters": 11,
        "empty_clusters": int((sizes == 0).sum()),
        "distance_metric": metric,
        "global_step": 1,
    }
    shown = capsys.readouterr().out
    assert f"{'rows':<16}{int((counts > 0).sum()):>20,}\n" in shown
    assert shown.endswith(f"written: {output}\n")


NO_RAY = ["--num-workers", "0"]


def test_an_evaluation_is_that_of_the_class_bit_for_bit(places):
    data, model = places
    km = KMeansClustering(11, model, config=HERE)
    source = open_source(data, ["v"], sample_weight="w")

    told = evaluate_on(source, source.describe(), ModelDir.at(model, {}, 5).fitted(), HERE)

    assert told.loss == km.evaluate(source, log_progress=False)["scores"]


def test_rows_that_are_not_finite_are_an_error_or_left_out(places, tmp_path, capsys):
    _, model = places
    broken = X.copy()
    broken[7, 1] = np.nan
    put_table(tmp_path / "b", "a.parquet", pa.table({"v": [row.tolist() for row in broken]}))
    command = ["evaluate", str(tmp_path / "b"), model, *NO_RAY]

    with pytest.raises(SystemExit, match="NaN"):
        cli.main(command)
    capsys.readouterr()
    cli.main([*command, "--nonfinite", "drop"])

    assert "\nrows                             299\nrows left out                      1\n" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("rows", "features", "clusters", "cheap"),
    [
        (2**22, 4, 11, True),
        (2**22 + 1, 4, 11, False),  # too much to read again
        (2**20, 16, 512, True),
        (2**20, 16, 513, False),  # too much to multiply
        (2**40, 4, 11, False),
    ],
)
def test_a_sweep_after_mini_batch_is_made_where_it_is_cheap_by_what_it_counts(
    monkeypatch, rows, features, clusters, cheap
):
    state = FitState.initial(np.zeros((clusters, features), np.float32))
    source = SimpleNamespace(describe=lambda: SimpleNamespace(rows=rows, features=features))
    found = SimpleNamespace(rows=rows, mean_loss=0.5, num_clusters=clusters, sizes=np.arange(3))
    monkeypatch.setattr(evaluate, "evaluate_on", lambda *_: found)

    said = evaluate.after_mini_batch(source, state, RunConfig())

    assert ("loss per row 0.5" in said) == cheap
    assert ("ray-kmeans evaluate" in said) == (not cheap)


def test_figures_go_to_any_store(places):
    data, model = places
    url = f"memory://{uuid.uuid4().hex}/e.json"

    cli.main(["evaluate", data, model, "--columns", "v", "--output", url, *NO_RAY])

    with fsspec.open(url) as file:
        assert json.load(file)["rows"] == 300


def test_an_evaluation_writes_nothing_into_the_model(places, tmp_path):
    data, model = places
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "model").rglob("*")}

    cli.main(["evaluate", data, model, "--columns", "v", *NO_RAY])

    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "model").rglob("*")} == before


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_explain_prints_the_plan_and_runs_nothing(places, command, tmp_path, capsys):
    data, model = places
    output = str(tmp_path / "out")
    words = [output] if command == "predict" else ["--output", output]

    cli.main([command, data, model, *words, "--columns", "v", "--explain", *NO_RAY])

    shown = capsys.readouterr().out
    assert "300 rows x 4 features, 4.7 KiB as float32; 1 file, 5 blocks" in shown
    assert f"each worker gets {format_bytes(11 * 4 * 4)} of centers" in shown
    moved = LABEL_BYTES * 300 if command == "predict" else 8 * (11 * 4 + 11)
    assert format_bytes(moved) in shown.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_explain_refuses_data_of_another_width(places, command, tmp_path):
    data, model = places
    words = [str(tmp_path / "out")] if command == "predict" else []

    with pytest.raises(SystemExit, match="the data have 1 features"):
        cli.main([command, data, model, *words, "--columns", "w", "--explain", *NO_RAY])
