"""Centers from elsewhere are a model: it labels, evaluates, exports, and a fit goes on with it."""

from __future__ import annotations

import pickle
import re
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_kmeans import (
    KMeansClustering,
    RunConfig,
    cli,
    import_centers,
    load_model,
)
from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.center_files.exported import ExportedCenters
from ray_kmeans.center_files.faiss_index import inverted_index_of
from ray_kmeans.errors import ConfigError, DataError
from tests.support import oracle

HERE = RunConfig(num_workers=0, progress=False)
RNG = np.random.default_rng(2)
CENTERS = (RNG.normal(size=(7, 4)) * 3).astype(np.float32)
X = (CENTERS[RNG.integers(0, 7, 300)] + RNG.normal(size=(300, 4))).astype(np.float32)


def vectors(centers):
    return pa.FixedSizeListArray.from_arrays(pa.array(centers.ravel()), centers.shape[1])


def put_parquet(path, order=range(7)):
    order = np.array(order)
    columns = {"cluster": pa.array(order), "center": vectors(CENTERS[order]), "count": order * 2}
    pq.write_table(pa.table(columns), path)


def flat_index(centers=CENTERS, kind="IndexFlatL2"):
    faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    index = getattr(faiss, kind)(centers.shape[1])
    index.add(centers)
    return index


WAYS = {
    "an array": lambda place: CENTERS,
    "float64": lambda place: CENTERS.astype(np.float64).tolist(),
    "a model of scikit-learn": lambda place: SimpleNamespace(cluster_centers_=CENTERS),
    "npy": lambda place: np.save(place / "c.npy", CENTERS) or place / "c.npy",
    "npz": lambda place: np.savez(place / "c.npz", c=CENTERS) or place / "c.npz",
    "Parquet": lambda place: put_parquet(place / "c.parquet") or place / "c.parquet",
    "Parquet in another order": lambda place: (
        put_parquet(place / "c.parquet", [3, 1, 0, 2, 6, 5, 4]) or place / "c.parquet"
    ),
    "a table": lambda place: pa.table({"v": vectors(CENTERS)}),
    "a flat index": lambda place: flat_index(),
}


@pytest.mark.parametrize("way", WAYS)
def test_imported_centers_label_evaluate_and_export_without_a_fit(tmp_path, way):
    km = import_centers(WAYS[way](tmp_path), str(tmp_path / "m"), config=HERE)

    np.testing.assert_array_equal(km.clusters(), CENTERS)
    labels = oracle.labels(X, CENTERS)
    assert list(km.predict_cluster_idx(X)) == labels.tolist()
    squares = ((X.astype(np.float64) - CENTERS[labels]) ** 2).sum()
    found = km.evaluate(X)
    assert found["global_step"] == 0
    assert found["scores"] == pytest.approx(squares)
    assert (km.history(), km.why_stopped(), km.counts().tolist()) == ((), None, [0] * 7)


def test_a_fit_goes_on_from_imported_centers(tmp_path):
    import_centers(CENTERS, str(tmp_path / "m"), config=HERE)
    start = {"initial_clusters": CENTERS, "use_mini_batch": False, "config": HERE}
    from_array = KMeansClustering(7, str(tmp_path / "a"), **start).fit(X)

    for params in ({}, start):  # neither is a warning: the centers are those
        km = KMeansClustering(7, str(tmp_path / "m"), **{**start, **params}).fit(X)

    assert km.history() == from_array.history()
    np.testing.assert_array_equal(km.clusters(), from_array.clusters())


def test_cosine_centers_are_scaled_to_norm_1(tmp_path):
    km = import_centers(CENTERS, str(tmp_path), distance_metric="cosine", config=HERE)

    np.testing.assert_allclose(np.linalg.norm(km.clusters(), axis=1), 1, rtol=1e-6)
    assert load_model(str(tmp_path)).get_params()["distance_metric"] == "cosine"
    units = CENTERS / np.linalg.norm(CENTERS, axis=1, keepdims=True)
    expected = (X @ units.T).argmax(axis=1)
    assert list(km.predict_cluster_idx(X)) == expected.tolist()


def with_value(value, row=2):
    centers = CENTERS.copy()
    centers[row, 1] = value
    return centers


@pytest.mark.parametrize(
    ("given", "how", "said"),
    [
        (with_value(np.nan), {}, r"1 of the 7 centers in the ndarray hold NaN.*number 2"),
        (with_value(np.inf), {}, "Give finite centers"),
        (CENTERS[:0], {}, "holds no center"),
        (np.array([[0.0, 0.0], [1, 1]]), {"distance_metric": "cosine"}, "no direction"),
        (CENTERS, {"distance_metric": "euclid"}, "distance_metric='euclid' is unknown"),
        (np.array([["a", "b"]]), {}, "not a number type"),
        (3.0, {}, r"shape \(\)"),
        ("nowhere.npy", {}, "nowhere"),
        ("nowhere.faiss", {}, "nowhere.faiss' does not exist"),
    ],
)
def test_what_is_no_centers_is_refused_and_makes_no_model(tmp_path, monkeypatch, given, how, said):
    monkeypatch.chdir(tmp_path)

    with pytest.raises((ConfigError, DataError), match=said):
        import_centers(given, str(tmp_path / "m"), config=HERE, **how)

    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("name", ["c.pkl", "c.joblib", "C.PICKLE"])
def test_a_pickle_is_not_read_and_the_line_that_helps_is_said(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps(CENTERS))

    with pytest.raises(ConfigError, match=r"np.save\('centers.npy', model.cluster_centers_\)"):
        import_centers(tmp_path / name, str(tmp_path / "m"), config=HERE)


def test_clusters_that_are_not_numbered_from_0_are_refused(tmp_path):
    columns = {"cluster": [1, 2, 3, 4, 5, 6, 7], "center": vectors(CENTERS)}
    pq.write_table(pa.table(columns), tmp_path / "c.parquet")

    with pytest.raises(DataError, match=r"'cluster' of .* does not number its centers from 0"):
        import_centers(tmp_path / "c.parquet", str(tmp_path / "m"), config=HERE)


def test_a_model_that_is_there_is_not_replaced_and_the_same_import_again_is_done(tmp_path):
    for _ in range(2):
        km = import_centers(CENTERS, str(tmp_path / "m"), config=HERE)
    assert len(km.checkpoints()) == 1

    with pytest.raises(ConfigError, match=r"holds a model already: 7 clusters of 4 .* 0 steps"):
        import_centers(CENTERS[::-1], str(tmp_path / "m"), config=HERE)
    km.fit(X, steps=1)
    with pytest.raises(ConfigError, match=r"holds a model already.*another model_dir"):
        import_centers(CENTERS, str(tmp_path / "m"), config=HERE)


# --- faiss -------------------------------------------------------------------------------------


def ivf_index(metric):
    faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    cosine = metric == "cosine"
    kind = faiss.METRIC_INNER_PRODUCT if cosine else faiss.METRIC_L2
    units = CENTERS / np.linalg.norm(CENTERS, axis=1, keepdims=True)
    quantizer = flat_index(units if cosine else CENTERS, "IndexFlat" + ("IP" if cosine else "L2"))
    index = faiss.IndexIVFPQ(quantizer, 4, 7, 2, 4, kind)
    index.train(X)
    index.add(X)
    return index, quantizer.reconstruct_n(0, 7)


@pytest.mark.parametrize("metric", ["squared_euclidean", "cosine"])
@pytest.mark.parametrize("name", ["a.faiss", "a.index", "a.bin", "populated"])
def test_the_lists_of_an_index_of_faiss_are_the_clusters(tmp_path, metric, name):
    faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    index, centers = ivf_index(metric)
    faiss.write_index(index, str(tmp_path / name))
    _, expected = index.quantizer.search(X, 1)

    km = import_centers(tmp_path / name, str(tmp_path / "m"), distance_metric=metric, config=HERE)

    np.testing.assert_allclose(km.clusters(), centers, rtol=1e-6)
    assert list(km.predict_cluster_idx(X)) == expected[:, 0].tolist()


def test_an_index_of_another_metric_or_without_centers_is_refused(tmp_path):
    faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    codes = faiss.IndexPQ(4, 2, 4)
    codes.train(X)
    codes.add(X)
    refused = {
        "distance_metric='squared_euclidean'. Give 'cosine'": ivf_index("cosine")[0],
        "keeps no centers as they are": codes,
        "with 0 vectors": faiss.IndexFlatL2(4),
        "transforms vectors": faiss.IndexPreTransform(faiss.PCAMatrix(4, 2), faiss.IndexFlatL2(2)),
    }
    for said, index in refused.items():
        with pytest.raises(ConfigError, match=said):
            import_centers(index, str(tmp_path / "m"), config=HERE)
    (tmp_path / "cut.faiss").write_bytes(faiss.serialize_index(flat_index()).tobytes()[:40])
    with pytest.raises(ConfigError, match="cannot be read as an index of faiss"):
        import_centers(tmp_path / "cut.faiss", str(tmp_path / "m"), config=HERE)


def test_an_index_file_is_read_where_faiss_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    centers = ExportedCenters(CENTERS, np.zeros(7), Metric.SQUARED_EUCLIDEAN)
    (tmp_path / "lists").write_bytes(inverted_index_of(centers))

    km = import_centers(tmp_path / "lists", str(tmp_path / "m"), config=HERE)

    np.testing.assert_array_equal(km.clusters(), CENTERS)


# --- initial centers with names ----------------------------------------------------------------

NAMED = dict(zip("abcd", X.T, strict=True))
TURNED = dict(zip("cadb", CENTERS[:, [2, 0, 3, 1]].T, strict=True))
"""The centers with their columns in another order."""


def fit_from(initial, data, model_dir):
    km = KMeansClustering(7, str(model_dir), initial, use_mini_batch=False, config=HERE)
    return km.fit(data, max_steps=3)


@pytest.mark.parametrize("frame", [pd.DataFrame, pa.table], ids=["pandas", "Arrow"])
def test_initial_centers_go_by_the_names_of_their_columns(frame, tmp_path):
    expected = fit_from(CENTERS, X, tmp_path / "by position")

    km = fit_from(frame(TURNED), pa.table(NAMED), tmp_path / "by name")
    again = fit_from(frame(TURNED), pa.table(NAMED), tmp_path / "by name")

    assert km.clusters().tolist() == expected.clusters().tolist()
    assert again.clusters().tolist() == expected.clusters().tolist()


def test_initial_centers_in_a_file_go_by_the_names_of_their_columns(tmp_path, capsys):
    pq.write_table(pa.table(NAMED), tmp_path / "x.parquet")
    pq.write_table(pa.table(TURNED), tmp_path / "c.parquet")
    words = [str(tmp_path / "x.parquet"), str(tmp_path / "m"), "--num-clusters=7"]
    words += ["--no-use-mini-batch", "--max-steps=3", "--num-workers=0"]

    cli.main(["fit", *words, f"--initial-clusters={tmp_path / 'c.parquet'}"])

    expected = fit_from(CENTERS, X, tmp_path / "by position")
    assert load_model(str(tmp_path / "m")).clusters().tolist() == expected.clusters().tolist()


def test_initial_centers_with_other_names_are_refused(tmp_path):
    other = pd.DataFrame(dict(zip("abce", CENTERS.T, strict=True)))

    with pytest.raises(ConfigError, match=r"columns a, b, c, e, and the data have a, b, c, d"):
        fit_from(other, pa.table(NAMED), tmp_path / "m")
    with pytest.raises(ConfigError, match="batches come with names of their own"):
        fit_from(other, iter([pa.table(NAMED)]), tmp_path / "m")

    fit_from(other, X, tmp_path / "m")  # an array has no names to differ from


# --- the commands ------------------------------------------------------------------------------


def test_the_commands_import_label_and_start_a_fit_from_a_file(tmp_path, capsys):
    np.save(tmp_path / "x.npy", X)
    put_parquet(tmp_path / "c.parquet")
    x, centers, model = (str(tmp_path / name) for name in ("x.npy", "c.parquet", "m"))
    here = ["--num-workers", "0"]

    cli.main(["import-centers", centers, model])
    cli.main(["predict", x, model, str(tmp_path / "out"), *here])
    cli.main(["evaluate", x, model, *here])
    cli.main(["export", model, str(tmp_path / "again.parquet"), "--format", "parquet"])
    started = ["--initial-clusters", centers, "--num-clusters", "7", "--no-use-mini-batch"]
    cli.main(["fit", x, str(tmp_path / "f"), *started, *here])

    assert "7 clusters of 4 features" in capsys.readouterr().out
    labels = pq.read_table(tmp_path / "out").sort_by("row")["cluster_idx"].to_pylist()
    assert labels == oracle.labels(X, CENTERS).tolist()
    assert pq.read_table(tmp_path / "again.parquet")["center"].to_pylist() == CENTERS.tolist()
    from_array = KMeansClustering(
        7, str(tmp_path / "a"), CENTERS, use_mini_batch=False, config=HERE
    )
    assert load_model(str(tmp_path / "f")).history() == from_array.fit(X).history()


@pytest.mark.parametrize(
    ("value", "k", "said"),
    [
        ("kmeans_plusplus", 7, r"is none of 'random', .* and no file of centers either"),
        ("c.npy", 5, r"initial_clusters has shape \(7, 4\) and num_clusters=5"),
        ("short.npy", 7, r"3 features and the data have 4"),
        ("c.pkl", 7, "is a pickle"),
    ],
)
def test_a_file_that_cannot_start_a_fit_is_refused(tmp_path, monkeypatch, capsys, value, k, said):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    np.save("c.npy", CENTERS)
    np.save("short.npy", CENTERS[:, :3])

    started = ["--num-clusters", str(k), "--initial-clusters", value]

    with pytest.raises(SystemExit) as ended:
        cli.main(["fit", "x.npy", "m", *started, "--num-workers", "0"])

    assert ended.value.code == 2
    assert re.search(said, capsys.readouterr().err)

    assert not (tmp_path / "m").exists()


def test_a_report_of_imported_centers_says_what_they_are(tmp_path):
    import_centers(CENTERS, str(tmp_path / "m"), config=HERE)

    cli.main(["report", str(tmp_path / "m"), str(tmp_path / "report.html")])

    page = (tmp_path / "report.html").read_text()
    assert "not begun: these are the centers that were given" in page
