"""Exported graphs: what ONNX Runtime and TensorFlow answer is what plain NumPy answers."""

from __future__ import annotations

import subprocess
import sys
from collections import namedtuple

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.errors import ConfigError, install_hint
from ray_kmeans.export import first_equals, middle
from ray_kmeans.export.onnx_graph import OPSET, onnx_model
from ray_kmeans.export.saved_model import SIGNATURES, saved_model_files, tensorflow_installed

SQUARED_EUCLIDEAN, COSINE = Metric

METRICS = [SQUARED_EUCLIDEAN, COSINE]
NAMES = ["cluster_idx", "all_scores", "scores"]
SHAPES = [(0, 3, 2), (1, 3, 2), (7, 3, 2), (7, 1, 1), (1, 1, 5), (0, 1, 1), (300, 40, 33)]
"""Rows, centers, features."""

InputFnOps = namedtuple("InputFnOps", "features labels default_inputs")
Receiver = namedtuple("Receiver", "features receiver_tensors receiver_tensors_alternatives")

integers = st.integers(-9, 9).map(np.float32)
floats = st.floats(-1000, 1000, width=32)


# --- the oracle, and how a graph is run ---------------------------------------------------------


def distances(x, centers, metric):
    x, centers = x.astype(np.float64), centers.astype(np.float64)
    if metric == COSINE:
        unit = unit_rows(x).astype(np.float64)
        return np.maximum(1 - (unit[:, None] * centers[None]).sum(2), 0)
    return ((x[:, None] - centers[None]) ** 2).sum(2)


def unit_rows(x):
    x = np.asarray(x, np.float64)
    length = np.sqrt((x * x).sum(1, keepdims=True))
    return np.divide(x, length, out=np.zeros_like(x), where=length > 0).astype(np.float32)


def centers_for(metric, rows):
    return unit_rows(rows) if metric == COSINE else np.asarray(rows, np.float32)


def run_onnx(centers, metric, **options):
    """Return a function from rows to the three outputs."""
    reason = "the packages onnx and onnxruntime are not installed: pip install '.[test]'"
    pytest.importorskip("onnx", reason=reason)
    pytest.importorskip("onnxruntime", reason=reason)
    return session_of(onnx_model(centers, metric, {}, **options))


def session_of(model):
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return lambda x: session.run(NAMES, {"inputs": x})


def the_tensorflow():
    reason = "the package tensorflow is not installed: pip install '.[tensorflow]'"
    return pytest.importorskip("tensorflow", reason=reason)


def run_saved_model(centers, metric, **options):
    the_tensorflow()
    call = signature_of(saved_model_files(centers, metric, **options))
    return lambda x: call(inputs=x)


def signature_of(files, name="serving_default"):
    """Return a function from the inputs of a signature, by name, to the three outputs."""
    import tempfile
    from pathlib import Path

    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        for file, content in files.items():
            path = Path(folder, file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        loaded = tf.saved_model.load(folder, tags=["serve"])

    def call(**inputs):
        outputs = loaded.signatures[name](**{n: tf.constant(v) for n, v in inputs.items()})
        assert set(outputs) == set(NAMES)
        return [outputs[output].numpy() for output in NAMES]

    return call


@pytest.fixture(scope="module", params=[run_onnx, run_saved_model], ids=["onnx", "saved_model"])
def run(request):
    return request.param


def check(outputs, x, centers, metric, rtol=1e-6, atol=0.0):
    """Compare three outputs with the oracle; a label may be any of those nearest in float64."""
    labels, every, least = outputs
    expected = distances(x, centers, metric)
    assert [o.dtype for o in outputs] == [np.int64, np.float32, np.float32]
    assert [o.shape for o in outputs] == [(len(x),), expected.shape, (len(x),)]
    np.testing.assert_allclose(every, expected, rtol, atol)
    assert (every >= 0).all()
    np.testing.assert_array_equal(least, every.min(1))
    np.testing.assert_array_equal(least, every[np.arange(len(x)), labels])
    chosen = expected[np.arange(len(x)), labels]
    assert (chosen <= expected.min(1) * (1 + 1e-12) + atol).all()


# --- the laws of both formats -------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_three_outputs_are_those_of_the_oracle(run, metric, shape):
    n, k, d = shape
    rng = np.random.default_rng(0)
    centers = centers_for(metric, rng.normal(size=(k, d)))
    x = rng.normal(size=(n, d)).astype(np.float32)

    # A sum in another order may round a coordinate of a unit row to the other side.
    atol = 1e-7 if metric == COSINE else 1e-14 * d
    check(run(centers, metric)(x), x, centers, metric, atol=atol)


@settings(max_examples=15)
@given(st.data(), st.integers(0, 7), st.integers(1, 6), st.integers(1, 4))
def test_on_small_integers_every_bit_and_every_tie_is_right(run, data, n, k, d):
    centers = data.draw(hnp.arrays(np.float32, (k, d), elements=integers))
    x = data.draw(hnp.arrays(np.float32, (n, d), elements=integers))

    labels, every, _ = outputs = run(centers, SQUARED_EUCLIDEAN)(x)

    expected = distances(x, centers, SQUARED_EUCLIDEAN)
    check(outputs, x, centers, SQUARED_EUCLIDEAN)
    np.testing.assert_array_equal(every, expected.astype(np.float32))
    np.testing.assert_array_equal(labels, expected.argmin(1))


@settings(max_examples=15)
@given(st.data(), st.integers(0, 7), st.integers(1, 6), st.integers(1, 4))
def test_cosine_of_integers_is_right_to_the_last_digits_of_float64(run, data, n, k, d):
    rows = data.draw(hnp.arrays(np.float32, (k, d), elements=integers))
    x = data.draw(hnp.arrays(np.float32, (n, d), elements=integers))
    centers = unit_rows(rows)

    # Lengths of integer rows are rounded once, in any order, and so unit rows have all bits.
    check(run(centers, COSINE)(x), x, centers, COSINE, atol=4e-15)
    check(run(centers, COSINE)(rows), rows, centers, COSINE, atol=4e-15)


@settings(max_examples=15)
@given(st.data(), st.integers(1, 7), st.integers(1, 6), st.integers(1, 4))
def test_any_floats_of_a_moderate_size(run, data, n, k, d):
    centers = data.draw(hnp.arrays(np.float32, (k, d), elements=floats))
    x = data.draw(hnp.arrays(np.float32, (n, d), elements=floats))

    check(run(centers, SQUARED_EUCLIDEAN)(x), x, centers, SQUARED_EUCLIDEAN, atol=1e-15 * 4e6 * d)


@pytest.mark.parametrize("thirds", [(0, 0, 1), (0, 1, 3), (5, 9, 18)])
def test_a_tie_goes_to_the_lowest_index_where_the_mean_is_no_binary_number(run, thirds):
    centers = np.array([[value, 2 * value] for value in thirds], np.float32)
    between = (centers[:, None] + centers[None]).reshape(-1, 2) / 2

    labels, _, _ = run(centers, SQUARED_EUCLIDEAN)(between)

    np.testing.assert_array_equal(labels, distances(between, centers, "").argmin(1))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", [(1, 3, 2), (2, 5, 9), (9, 17, 65), (300, 40, 33)], ids=str)
def test_of_equal_centers_the_first_is_taken(run, metric, shape):
    n, k, d = shape
    rng = np.random.default_rng(1)
    centers = centers_for(metric, rng.normal(size=(k, d)))
    x = rng.normal(size=(n, d)).astype(np.float32)

    labels, every, _ = run(np.concatenate([centers] * 3), metric)(x)

    assert (labels < k).all()
    np.testing.assert_allclose(every, np.tile(every[:, :k], 3), rtol=1e-6, atol=1e-14)


@pytest.mark.parametrize("offset", [1e4, -1e6])
def test_far_from_the_origin_no_digit_is_lost(run, offset):
    rng = np.random.default_rng(2)
    # Squares of float32 of one size have 48 bits: only sums of many of them are rounded.
    centers = (offset + rng.normal(size=(5, 600))).astype(np.float32)
    x = (offset + rng.normal(size=(50, 600))).astype(np.float32)

    check(run(centers, SQUARED_EUCLIDEAN)(x), x, centers, SQUARED_EUCLIDEAN)


def test_a_center_far_from_all_others_costs_them_no_digit(run):
    rng = np.random.default_rng(3)
    centers = np.vstack([rng.normal(size=(4, 3)), [[1e7, -1e7, 1e7]]]).astype(np.float32)
    x = rng.normal(size=(50, 3)).astype(np.float32)

    check(run(centers, SQUARED_EUCLIDEAN)(x), x, centers, SQUARED_EUCLIDEAN, rtol=1e-6, atol=1e-13)


@pytest.mark.parametrize("metric", METRICS)
def test_a_row_at_a_center_is_its_own_and_no_distance_is_negative(run, metric):
    centers = centers_for(metric, np.random.default_rng(4).normal(size=(40, 33)) * 1e3 + 0.1)

    labels, every, least = run(centers, metric)(centers)

    np.testing.assert_array_equal(labels, np.arange(40))
    assert (every >= 0).all()
    assert (least < 1e-6).all()


def test_cosine_of_a_row_does_not_depend_on_its_length(run):
    rng = np.random.default_rng(5)
    centers = unit_rows(rng.normal(size=(6, 4)))
    x = rng.normal(size=(20, 4)).astype(np.float32)
    answer = run(centers, COSINE)

    for power in (-100, 100, 120):
        for one, other in zip(answer(x), answer(np.ldexp(x, power)), strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_row_or_center_without_direction_is_at_distance_one(run):
    centers = np.array([[0, 0], [1, 0], [0, -1]], np.float32)
    x = np.array([[0, 0], [3, 0], [-5, 0]], np.float32)

    labels, every, least = run(centers, COSINE)(x)

    assert every.tolist() == [[1, 1, 1], [1, 0, 1], [1, 2, 1]]
    assert labels.tolist() == [0, 1, 0]
    assert least.tolist() == [1, 0, 1]


def test_the_shortest_row_has_a_direction():
    """Not in TensorFlow, which takes subnormal numbers for zeros."""
    centers = np.array([[0, 0], [1, 0]], np.float32)

    labels, every, _ = run_onnx(centers, COSINE)(np.array([[1e-45, 0]], np.float32))

    assert (labels.tolist(), every.tolist()) == ([1], [[1, 0]])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("run", "option"),
    [  # onnxruntime reads no text; another test parses it back
        (run_onnx, "strip_default_attrs"),
        (run_saved_model, "strip_default_attrs"),
        (run_saved_model, "as_text"),
    ],
)
def test_how_it_is_written_changes_no_answer(run, metric, option):
    rng = np.random.default_rng(6)
    centers = centers_for(metric, rng.normal(size=(5, 3)))
    x = rng.normal(size=(20, 3)).astype(np.float32)

    plain, other = run(centers, metric)(x), run(centers, metric, **{option: True})(x)

    for a, b in zip(plain, other, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("metric", METRICS)
def test_both_formats_agree(metric):
    rng = np.random.default_rng(7)
    centers = centers_for(metric, rng.normal(size=(5, 3)))
    x = rng.normal(size=(200, 3)).astype(np.float32)

    one, other = run_onnx(centers, metric)(x), run_saved_model(centers, metric)(x)

    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_allclose(one[1], other[1], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("make", [lambda *a: onnx_model(*a, {}), saved_model_files])
def test_an_unknown_metric_is_refused(make):
    with pytest.raises(ConfigError, match="metric='manhattan' cannot be exported"):
        make(np.zeros((2, 3), np.float32), "manhattan")


@settings(max_examples=20)
@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 7), st.integers(1, 3)), elements=floats))
def test_the_middle_is_a_value_of_each_feature_with_at_most_half_on_either_side(centers):
    found = middle(centers)

    assert (found == centers).any(0).all()
    assert (2 * (centers < found).sum(0) <= len(centers)).all()
    assert (2 * (centers > found).sum(0) <= len(centers)).all()
    np.testing.assert_array_equal(found, np.sort(centers, 0)[(len(centers) - 1) // 2])


def test_equal_centers_are_known_by_the_first_of_them():
    centers = np.array([[0, 1], [2, 3], [-0.0, 1], [2, 4], [2, 3], [0, 1]], np.float32)

    assert first_equals(centers).tolist() == [0, 1, 0, 3, 1, 0]
    assert first_equals(np.asfortranarray(centers)).tolist() == [0, 1, 0, 3, 1, 0]


@pytest.mark.parametrize(
    ("make", "package"),
    [(lambda *a: onnx_model(*a, {}), "onnx"), (saved_model_files, "tensorflow")],
)
def test_a_missing_package_is_named_with_the_line_that_installs_it(make, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(ConfigError) as caught:
        make(np.zeros((2, 3), np.float32), COSINE)

    assert f"needs the package {package}, which is not installed." in str(caught.value)
    assert str(caught.value).endswith(install_hint(package))


def test_importing_the_exports_loads_neither_onnx_nor_tensorflow():
    code = (
        "import ray_kmeans.export.onnx_graph, sys; from ray_kmeans.export import saved_model\n"
        "saved_model.tensorflow_installed(); print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout

    assert "ray_kmeans.export.onnx_graph" in loaded.split()
    assert {"onnx", "tensorflow"} & set(loaded.split()) == set()


# --- ONNX ---------------------------------------------------------------------------------------


@pytest.fixture
def onnx():
    return pytest.importorskip("onnx", reason="the package onnx is not installed")


CENTERS = np.array([[1, 0, 0], [0, 0.6, 0.8]], np.float32)


@pytest.mark.parametrize("metric", METRICS)
def test_the_onnx_graph_says_what_it_takes_and_gives(onnx, metric):
    model = onnx.load_from_string(onnx_model(CENTERS, metric, {}))

    def shapes(values):
        def shape(value):
            dims = value.type.tensor_type.shape.dim
            return value.type.tensor_type.elem_type, [d.dim_param or d.dim_value for d in dims]

        return {value.name: shape(value) for value in values}

    real, whole = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    assert shapes(model.graph.input) == {"inputs": (real, ["batch", 3])}
    assert shapes(model.graph.output) == {
        "cluster_idx": (whole, ["batch"]),
        "all_scores": (real, ["batch", 2]),
        "scores": (real, ["batch"]),
    }
    (stored,) = [each for each in model.graph.initializer if each.name == "clusters"]
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(stored), CENTERS)
    assert stored.data_type == real
    onnx.checker.check_model(model, full_check=True)


def test_the_opset_and_what_reads_it_are_stated(onnx):
    model = onnx.load_from_string(onnx_model(CENTERS, COSINE, {}))

    assert [(each.domain, each.version) for each in model.opset_import] == [("", OPSET)]
    assert f"opset {OPSET}" in onnx_model.__doc__
    assert (OPSET, model.ir_version) == (17, 8)  # onnxruntime 1.14 reads these and no newer IR


def test_properties_come_back(onnx):
    properties = {"distance_metric": "cosine", "ключ": "значение\n2", "": ""}
    model = onnx.load_from_string(onnx_model(CENTERS, COSINE, properties))

    assert {each.key: each.value for each in model.metadata_props} == properties


def attributes_with_defaults(onnx, model):
    """Yield node, attribute of its schema that has a default, and what the node has of it."""
    for node in model.graph.node:
        given = {each.name: each for each in node.attribute}
        for name, known in onnx.defs.get_schema(node.op_type, OPSET).attributes.items():
            if known.default_value.type != onnx.AttributeProto.UNDEFINED:
                yield node.op_type, known.default_value, given.get(name)


@pytest.mark.parametrize("metric", METRICS)
def test_defaults_are_stripped_or_written_as_asked(onnx, metric):
    plain = onnx.load_from_string(onnx_model(CENTERS, metric, {}))
    data = onnx_model(CENTERS, metric, {}, strip_default_attrs=True)
    stripped = onnx.load_from_string(data)

    found = list(attributes_with_defaults(onnx, plain))
    assert {op for op, _, _ in found} == {"ArgMin", "Gather", "ReduceMin", "ReduceSum"}
    assert [op for op, _, given in found if given is None] == []
    left = list(attributes_with_defaults(onnx, stripped))
    assert [op for op, default, given in left if given == default] == []
    assert {given.name for _, _, given in left if given is not None} == {"axis", "keepdims"}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("strip", [False, True])
def test_text_parses_back_to_the_same_model(onnx, metric, strip):
    options = {"strip_default_attrs": strip}
    text = onnx_model(CENTERS, metric, {"a": "é"}, as_text=True, **options)

    assert text.decode().startswith("ir_version: 8\n")
    parsed = onnx.serialization.registry.get("textproto").deserialize_proto(text, onnx.ModelProto())
    assert parsed == onnx.load_from_string(onnx_model(CENTERS, metric, {"a": "é"}, **options))


@pytest.mark.parametrize("metric", METRICS)
def test_no_cast_follows_a_cast(onnx, metric):
    """Onnxruntime 1.15 drops double -> float -> double, and with it the rounding to float32."""
    nodes = onnx.load_from_string(onnx_model(CENTERS, metric, {})).graph.node
    casts = [node for node in nodes if node.op_type == "Cast"]

    assert len(casts) >= 4
    assert {name for node in casts for name in node.input}.isdisjoint(
        name for node in casts for name in node.output
    )


@pytest.mark.parametrize(
    ("shape", "words"), [((2**20, 2**9), 0), ((2**14, 2**15 - 32), 2**22)], ids=["centers", "words"]
)
def test_more_than_protobuf_holds_is_refused_with_numbers(shape, words):
    centers = np.broadcast_to(np.float32(1), shape)

    with pytest.raises(ConfigError, match="allows 2,147,483,647") as caught:
        onnx_model(centers, SQUARED_EUCLIDEAN, {"words": "w" * words})

    k, d = shape
    assert f"{k:,} clusters of {d:,} features" in str(caught.value)


# --- SavedModel ---------------------------------------------------------------------------------

X = np.array([[1, 2, 3], [0, 5, 7], [-1, 0.5, 0]], np.float32)


@pytest.fixture
def tf():
    return the_tensorflow()


def test_tensorflow_is_found_or_not(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)

    assert not tensorflow_installed()


def test_tensorflow_is_found(tf):
    assert tensorflow_installed()


@pytest.mark.parametrize("name", SIGNATURES)
def test_both_signatures_answer_the_same(tf, name):
    files = saved_model_files(CENTERS, SQUARED_EUCLIDEAN)

    check(signature_of(files, name)(inputs=X), X, CENTERS, SQUARED_EUCLIDEAN)


def saved_model_of(files):
    from google.protobuf import text_format
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    if "saved_model.pbtxt" in files:
        return text_format.Parse(files["saved_model.pbtxt"], SavedModel())
    return SavedModel.FromString(files["saved_model.pb"])


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize("strip", [False, True])
def test_the_saved_model_is_written_as_asked(tf, as_text, strip):
    files = saved_model_files(CENTERS, COSINE, as_text=as_text, strip_default_attrs=strip)

    assert ("saved_model.pbtxt" in files, "saved_model.pb" in files) == (as_text, not as_text)
    (graph,) = saved_model_of(files).meta_graphs
    assert graph.meta_info_def.stripped_default_attrs == strip
    assert list(graph.meta_info_def.tags) == ["serve"]
    assert set(SIGNATURES) <= set(graph.signature_def)
    for name in SIGNATURES:
        signature = graph.signature_def[name]
        assert signature.method_name == "tensorflow/serving/predict"
        assert list(signature.inputs) == ["inputs"]
        shape = [dim.size for dim in signature.inputs["inputs"].tensor_shape.dim]
        assert (signature.inputs["inputs"].dtype, shape) == (tf.float32.as_datatype_enum, [-1, 3])
    attributes = {name for node in graph.graph_def.node for name in node.attr}
    assert ("transpose_a" in attributes) == (not strip)


def test_the_graph_of_the_caller_is_left_alone(tf):
    with tf.Graph().as_default() as mine:
        saved_model_files(CENTERS, COSINE)
        assert tf.compat.v1.get_default_graph() is mine

    assert mine.get_operations() == []
    assert tf.executing_eagerly()


def two_features(tf):
    """Return placeholders of a pair and of a single number, and features that halve the pair."""
    v1 = tf.compat.v1
    received = {
        "pair": v1.placeholder(tf.float64, (None, 2), "pair"),
        "single": v1.placeholder(tf.int64, (None,), "single"),
    }
    # 'b' before 'c', whatever their order here.
    return {"c": received["pair"] / 2, "b": received["single"]}, received


SERVING = {
    "InputFnOps": lambda f, r: InputFnOps(f, None, r),
    "three": lambda f, r: (f, None, r),
    "ServingInputReceiver": lambda f, r: Receiver(f, r, None),
    "two": lambda f, r: (f, r),
}


@pytest.mark.parametrize("form", SERVING)
def test_serving_input_fn_gives_the_inputs_of_the_signatures(tf, form):
    files = saved_model_files(
        CENTERS, SQUARED_EUCLIDEAN, serving_input_fn=lambda: SERVING[form](*two_features(tf))
    )

    for name in SIGNATURES:
        outputs = signature_of(files, name)(
            pair=X[:, 1:].astype(np.float64) * 2, single=X[:, 0].astype(np.int64)
        )
        check(outputs, X, CENTERS, SQUARED_EUCLIDEAN)


def test_serving_input_fn_may_give_one_tensor(tf):
    def serving_input_fn():
        inputs = tf.compat.v1.placeholder(tf.float32, (None, None))
        return inputs + 1, inputs

    files = saved_model_files(CENTERS, COSINE, serving_input_fn=serving_input_fn)

    check(signature_of(files)(inputs=X - 1), X, CENTERS, COSINE, atol=1e-7)


def test_a_receiver_of_tensorflow_itself_and_a_table_are_served(tf, tmp_path):
    (tmp_path / "words.txt").write_text("one\ntwo\n")

    def serving_input_fn():
        word = tf.compat.v1.placeholder(tf.string, (None,), "word")
        initializer = tf.lookup.TextFileInitializer(
            str(tmp_path / "words.txt"), tf.string, -2, tf.int64, -1
        )
        table = tf.lookup.StaticHashTable(initializer, -1)
        return SERVING["ServingInputReceiver"](table.lookup(word)[:, None], {"word": word})

    rows = np.array([[0], [1]], np.float32)
    files = saved_model_files(rows, SQUARED_EUCLIDEAN, serving_input_fn=serving_input_fn)
    (tmp_path / "words.txt").unlink()

    assert files["assets/words.txt"] == b"one\ntwo\n"
    # What TensorFlow Serving runs to fill tables.
    assert "saved_model_main_op" in saved_model_of(files).meta_graphs[0].collection_def
    labels, _, _ = signature_of(files)(word=np.array(["two", "one", "two"]))
    assert labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize("shape", [(None, 1), (None, 4), (None,), (None, 3, 1)], ids=str)
def test_features_of_another_width_are_refused(tf, shape):
    def serving_input_fn():
        inputs = tf.compat.v1.placeholder(tf.float32, shape)
        return inputs, inputs

    with pytest.raises(ConfigError, match="the model has 3 features"):
        saved_model_files(CENTERS, COSINE, serving_input_fn=serving_input_fn)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "returned None. Return"),
        ((1,), "Return"),
        ((1, 2, 3, 4), "Return"),
        ((None, {}), "returned None as its features"),
        (InputFnOps("features", None, None), "or its inputs"),
    ],
    ids=str,
)
def test_what_serving_input_fn_must_return_is_said(tf, given, message):
    with pytest.raises(ConfigError, match=message):
        saved_model_files(CENTERS, COSINE, serving_input_fn=lambda: given)
