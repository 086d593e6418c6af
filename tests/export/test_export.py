"""Exports through the estimator: what other programs say is what `predict` and `transform` say."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.errors import ConfigError, NotFittedError
from ray_kmeans.workflows import export

HERE = RunConfig(num_workers=0, save_checkpoints_steps=1)
X = np.random.default_rng(5).normal(size=(500, 7)).astype(np.float32)


@pytest.fixture(params=["squared_euclidean", "cosine"])
def km(request, tmp_path):
    fresh = KMeansClustering(6, str(tmp_path / "model"), distance_metric=request.param, config=HERE)
    return fresh.fit(X, steps=5, batch_size=100)


def run_onnx(path, rows):
    session = onnxruntime.InferenceSession(str(Path(path, "model.onnx")))
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"inputs": rows}), strict=True)), session


@pytest.mark.parametrize("batch", [1, 7, 500])
def test_the_graph_says_what_predict_and_transform_say(km, tmp_path, batch):
    said, _ = run_onnx(km.export(str(tmp_path / "out")), X[:batch])

    ours = km.predict(X[:batch], as_iterable=False)
    assert said["cluster_idx"].dtype == np.int64
    assert (said["cluster_idx"] == ours["cluster_idx"]).all()
    np.testing.assert_allclose(said["all_scores"], ours["all_scores"], rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(said["scores"], ours["all_scores"].min(axis=1), rtol=2e-6, atol=1e-6)


def test_the_graph_says_what_it_is(km, tmp_path):
    _, session = run_onnx(km.export(str(tmp_path / "out")), X[:1])

    properties = session.get_modelmeta().custom_metadata_map
    assert properties["distance_metric"] == km.get_params()["distance_metric"]
    assert properties["global_step"] == "5"


def test_an_older_checkpoint_can_be_exported(km, tmp_path):
    path = km.checkpoints()[-2]

    _, session = run_onnx(km.export(str(tmp_path / "out"), checkpoint_path=path), X[:1])

    assert session.get_modelmeta().custom_metadata_map["global_step"] != "5"


def test_only_so_many_exports_are_kept(km, tmp_path):
    paths = [km.export(str(tmp_path / "out"), exports_to_keep=2) for _ in range(4)]

    left = sorted(str(path) for path in (tmp_path / "out").iterdir())
    assert left == sorted(paths[-2:])


def test_an_export_is_a_directory_named_by_the_time_with_a_manifest(km, tmp_path):
    path = Path(km.export(str(tmp_path / "out")))

    assert path.name.isdigit()
    assert "model.onnx" in json.loads((path / "_manifest.json").read_text())["files"]


def test_a_saved_model_goes_beside_the_graph_and_says_the_same(km, tmp_path):
    tf = pytest.importorskip("tensorflow", reason="tensorflow is not installed")
    (tmp_path / "words.txt").write_text("hello")

    path = km.export_savedmodel(
        str(tmp_path / "out"), assets_extra={"words/en.txt": str(tmp_path / "words.txt")}
    )

    said = tf.saved_model.load(path).signatures["serving_default"](inputs=tf.constant(X))
    ours = km.predict(X, as_iterable=False)
    assert (said["cluster_idx"].numpy() == ours["cluster_idx"]).all()
    np.testing.assert_allclose(said["all_scores"], ours["all_scores"], rtol=2e-6, atol=1e-6)
    assert Path(path, "assets.extra/words/en.txt").read_text() == "hello"
    assert Path(path, "model.onnx").exists()


def test_without_tensorflow_a_warning_says_what_is_missing(km, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "tensorflow_installed", lambda: False)

    with pytest.warns(UserWarning, match=r"no SavedModel.*pip install '\.\[tensorflow\]'"):
        path = km.export_savedmodel(str(tmp_path / "out"))

    assert sorted(p.name for p in Path(path).iterdir()) == ["_manifest.json", "model.onnx"]


def test_as_text_and_strip_default_attrs_reach_both_formats(km, tmp_path):
    pytest.importorskip("tensorflow", reason="tensorflow is not installed")

    path = Path(km.export_savedmodel(str(tmp_path / "out"), as_text=True, strip_default_attrs=True))

    assert (path / "saved_model.pbtxt").exists()
    assert "keepdims" in (path / "model.onnx.textproto").read_text()  # 0 is not its default
    assert "select_last_index" not in (path / "model.onnx.textproto").read_text()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda km, to: km.export(to, input_fn=lambda: None), "input_fn"),
        (lambda km, to: km.export(to, use_deprecated_input_fn=False), "use_deprecated_input_fn"),
        (lambda km, to: km.export(to, prediction_key="all_scores"), "prediction_key"),
        (lambda km, to: km.export(to, default_batch_size=2), "default_batch_size"),
        (lambda km, to: km.export(to, exports_to_keep=0), "exports_to_keep=0"),
        (
            lambda km, to: km.export_savedmodel(to, default_output_alternative_key="head"),
            "default_output_alternative_key",
        ),
        (lambda km, to: km.export_savedmodel(to, graph_rewrite_specs=("quantize",)), "rewrite"),
        (lambda km, to: km.export_savedmodel(to, assets_extra={"../x": "y"}), r"\.\./x"),
        (lambda km, to: km.export_savedmodel(to, assets_extra={"x": "/no/such"}), "/no/such"),
    ],
)
def test_what_has_no_meaning_is_refused_and_nothing_is_written(km, tmp_path, call, said):
    with pytest.raises(ValueError, match=said):
        call(km, str(tmp_path / "out"))

    assert not (tmp_path / "out").exists()


def test_a_model_that_is_not_there_cannot_be_exported(tmp_path):
    with pytest.raises(NotFittedError):
        KMeansClustering(2, str(tmp_path / "none"), config=HERE).export(str(tmp_path / "out"))


def test_a_missing_package_is_said_with_the_line_that_installs_it(km, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)

    with pytest.raises(ConfigError, match=r"pip install '\.\[onnx\]'"):
        km.export(str(tmp_path / "out"))


def test_exports_go_to_any_store(km):
    path = km.export("memory://exports-of-a-test")

    import fsspec

    fs = fsspec.filesystem("memory")
    assert fs.exists(f"{path.removeprefix('memory://')}/model.onnx")
