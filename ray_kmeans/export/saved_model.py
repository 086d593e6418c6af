"""A fitted model as a TensorFlow SavedModel."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.errors import ConfigError
from ray_kmeans.export import (
    Metric,
    check_metric,
    first_equals,
    middle,
    package_error,
)

SIGNATURES = ("serving_default", "default_input_alternative:default_output_alternative")
"""Names of the signatures, as TensorFlow and tf.contrib.learn look for them."""


def tensorflow_installed() -> bool:
    """Return whether TensorFlow is installed, without the seconds that its import takes."""
    return find_spec("tensorflow") is not None


def saved_model_files(
    centers: NDArray[np.float32],
    metric: str,
    *,
    as_text: bool = False,
    strip_default_attrs: bool = False,
    serving_input_fn: Callable[[], Any] | None = None,
) -> dict[str, bytes]:
    """Return the files of a SavedModel by their names relative to its directory.

    Parameters
    ----------
    centers : float32 (k, d)
        For 'cosine' rows of length 1 or 0.
    metric : 'squared_euclidean' or 'cosine'
    as_text : bool
        Write saved_model.pbtxt instead of saved_model.pb.
    strip_default_attrs : bool
        Leave out attributes that have their default, so that older TensorFlows read the graph.
    serving_input_fn : callable, optional
        Is called inside the graph and returns ``InputFnOps(features, labels, default_inputs)`` or
        ``ServingInputReceiver(features, receiver_tensors, ...)``, as objects or as tuples of 3 and
        of 2. `features`: a tensor (batch, d), or a dict of columns, joined in the order of their
        names. The last two are the inputs of the signatures. None: `inputs`, float32 (batch, d).

    Notes
    -----
    Tag 'serve'; the outputs are those of `onnx_model`, from the same float64 arithmetic, but
    TensorFlow takes subnormal numbers for zeros.
    """
    check_metric(metric)
    tf = _tensorflow()
    v1 = tf.compat.v1
    with tempfile.TemporaryDirectory() as folder, tf.Graph().as_default():
        # The centers are fed: as a constant they would be in the graph, which holds 2 GB at most.
        initial = v1.placeholder(tf.float32, centers.shape)
        clusters = v1.Variable(initial, name="clusters", use_resource=True)
        features, inputs = _inputs(tf, serving_input_fn, centers.shape[1])
        x, c = tf.cast(features, tf.float64), tf.cast(clusters, tf.float64)
        if metric == Metric.COSINE:
            distances = _cosine(tf, x, c)
        else:
            distances = _squared_euclidean(tf, x, c, middle(centers).astype(np.float64))
        outputs = _outputs(tf, distances, first_equals(centers))
        signature = v1.saved_model.predict_signature_def(inputs, outputs)
        place = Path(folder, "saved_model")
        builder = v1.saved_model.builder.SavedModelBuilder(str(place))
        # A session takes all memory of all GPUs unless it sees none.
        with v1.Session(config=v1.ConfigProto(device_count={"GPU": 0})) as session:
            session.run(v1.global_variables_initializer(), {initial: centers})
            builder.add_meta_graph_and_variables(
                session,
                [v1.saved_model.tag_constants.SERVING],
                dict.fromkeys(SIGNATURES, signature),
                assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
                clear_devices=True,
                main_op=v1.tables_initializer(),
                strip_default_attrs=strip_default_attrs,
            )
        builder.save(as_text)
        paths = sorted(path for path in place.rglob("*") if path.is_file())
        return {path.relative_to(place).as_posix(): path.read_bytes() for path in paths}


def _tensorflow() -> Any:
    """Return the package tensorflow; raise ConfigError if it is not installed."""
    try:
        import tensorflow as tf
    except ImportError as error:
        raise package_error("a SavedModel", "tensorflow") from error
    return tf


def _inputs(
    tf: Any, serving_input_fn: Callable[[], Any] | None, d: int
) -> tuple[Any, dict[str, Any]]:
    """Return the features, float32 (batch, d), and the inputs of the signatures by name."""
    if serving_input_fn is None:
        inputs = tf.compat.v1.placeholder(tf.float32, (None, d), "inputs")
        return inputs, {"inputs": inputs}
    features, received = _unpack(serving_input_fn())
    if isinstance(features, Mapping):
        features = tf.concat([_column(tf, features[name]) for name in sorted(features)], 1)
    # TensorFlow would repeat a single column d times without a word.
    if not features.shape.is_compatible_with((None, d)):
        raise ConfigError(
            f"serving_input_fn gives features of shape {features.shape}, but the model has {d} "
            f"features: give (batch, {d})."
        )
    inputs = received if isinstance(received, Mapping) else {"inputs": received}
    return tf.cast(tf.ensure_shape(features, (None, d)), tf.float32), dict(inputs)


def _unpack(given: Any) -> tuple[Any, Any]:
    """Return the features and the inputs of the signatures from what `serving_input_fn` gave."""
    for name in ("default_inputs", "receiver_tensors"):
        if hasattr(given, name):
            features, received = given.features, getattr(given, name)
            break
    else:
        if not isinstance(given, tuple) or len(given) not in (2, 3):
            raise ConfigError(
                f"serving_input_fn returned {given!r}. Return (features, labels, default_inputs) "
                "or (features, receiver_tensors)."
            )
        features, received = given[0], given[-1]
    if received is None or features is None:
        raise ConfigError(
            "serving_input_fn returned None as its features or its inputs. Return the tensors "
            "which a request fills (default_inputs or receiver_tensors), and features made of them."
        )
    return features, received


def _column(tf: Any, tensor: Any) -> Any:
    """Return one tensor of a dict, (batch,) or (batch, n), as a matrix of float32."""
    matrix = tensor[:, None] if tensor.shape.rank == 1 else tensor
    return tf.cast(matrix, tf.float32)


def _outputs(tf: Any, scores: Any, first: NDArray[np.int64]) -> dict[str, Any]:
    """Return the outputs by name, from scores (batch, k) and the lowest equal centers (k,)."""
    least = tf.reduce_min(scores, 1)
    # tf.argmin promises nothing for ties.
    k = tf.constant(len(first), tf.int64)
    nearest = tf.reduce_min(tf.where(scores > least[:, None], k, tf.range(k)), 1)
    return {
        "all_scores": tf.cast(scores, tf.float32, "all_scores"),
        "cluster_idx": tf.gather(first, nearest, name="cluster_idx"),
        "scores": tf.cast(least, tf.float32, "scores"),
    }


def _squared_euclidean(tf: Any, x: Any, c: Any, origin: NDArray[np.float64]) -> Any:
    """Return |x|^2 - 2 x.c + |c|^2, of rows x and centers c less the middle of the centers."""
    x, c = x - origin, c - origin
    rows = tf.reduce_sum(x * x, 1, keepdims=True) - 2 * tf.matmul(x, c, transpose_b=True)
    return tf.maximum(rows + tf.reduce_sum(c * c, 1), 0)


def _cosine(tf: Any, x: Any, c: Any) -> Any:
    """Return 1 - x.c, with x of length 1 and rounded to float32 as in the fit; a zero row stays."""
    length = tf.sqrt(tf.reduce_sum(x * x, 1, keepdims=True))
    unit = tf.cast(tf.math.divide_no_nan(x, length), tf.float32)
    return tf.maximum(1 - tf.matmul(tf.cast(unit, tf.float64), c, transpose_b=True), 0)
