"""A fitted model as an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping
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

OPSET = 17
"""Version of the ONNX operators."""
IR_VERSION = 8
"""Version of the file format that came with opset 17: onnxruntime 1.12 and later read it."""
LARGEST_BYTES = 2**31 - 1
"""Largest size of a protobuf message, in bytes."""
GRAPH_BYTES = 2**16
"""Upper bound of the graph's size without centers and properties, in bytes."""


def onnx_model(
    centers: NDArray[np.float32],
    metric: str,
    properties: Mapping[str, str],
    *,
    strip_default_attrs: bool = False,
    as_text: bool = False,
) -> bytes:
    """Return the model as ONNX, opset 17.

    Parameters
    ----------
    centers : float32 (k, d)
        For 'cosine' rows of length 1 or 0.
    metric : 'squared_euclidean' or 'cosine'
    properties : mapping
        Properties of the file (`metadata_props`), by name.
    strip_default_attrs : bool
        Leave out attributes that have the default of opset 17.
    as_text : bool
        Return the text format of protobuf instead of the binary one.

    Notes
    -----
    Input `inputs`: float32 (batch, d). Outputs: `cluster_idx`, int64 (batch,), ties to the lowest
    index; `all_scores`, float32 (batch, k), the distances; `scores`, float32 (batch,), the least
    of them. Computed in float64.
    """
    check_metric(metric)
    _check_size(centers, properties)
    onnx = _onnx()
    model = onnx.helper.make_model(
        _graph(onnx, centers, metric),
        ir_version=IR_VERSION,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        producer_name="ray_kmeans",
    )
    onnx.helper.set_model_props(model, dict(properties))
    if strip_default_attrs:
        _strip_defaults(onnx, model)
    onnx.checker.check_model(model)
    written = onnx.serialization.registry.get("textproto" if as_text else "protobuf")
    return bytes(written.serialize_proto(model))


def _onnx() -> Any:
    """Return the package onnx; raise ConfigError if it is not installed."""
    try:
        import onnx
    except ImportError as error:
        raise package_error("ONNX", "onnx") from error
    return onnx


def _check_size(centers: NDArray[np.float32], properties: Mapping[str, str]) -> None:
    """Raise ConfigError for a model that is too large for protobuf."""
    words = sum(len(word.encode()) for pair in properties.items() for word in pair)
    k, d = centers.shape
    needed = centers.nbytes + 4 * d + 8 * k + words + GRAPH_BYTES
    if needed > LARGEST_BYTES:
        raise ConfigError(
            f"{k:,} clusters of {d:,} features would make an ONNX file of {needed:,} bytes, and "
            f"ONNX (protobuf) allows {LARGEST_BYTES:,}. Export fewer clusters or features, or read "
            "the centers with clusters()."
        )


class _Nodes:
    """Adds nodes to a graph; each method returns the name of a node's output."""

    def __init__(self, onnx: Any) -> None:
        self._helper = onnx.helper
        self._types = onnx.TensorProto
        self.nodes: list[Any] = []
        """The nodes in the order in which they were added."""

    def add(self, op: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        out = out or f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(self._helper.make_node(op, inputs, [out], out, **attributes))
        return out

    def float64(self, tensor: str) -> str:
        """Add a cast to float64."""
        return self.add("Cast", tensor, to=self._types.DOUBLE)

    def float32(self, tensor: str, out: str | None = None) -> str:
        """Add a cast to float32."""
        return self.add("Cast", tensor, out=out, to=self._types.FLOAT)

    def squares(self, rows: str) -> str:
        """Add the squared length of each row, (n, 1)."""
        square = self.add("Mul", rows, rows)
        return self.add("ReduceSum", square, "features", keepdims=1, noop_with_empty_axes=0)

    def transpose(self, matrix: str) -> str:
        """Add the transposed matrix."""
        return self.add("Transpose", matrix, perm=[1, 0])


def _graph(onnx: Any, centers: NDArray[np.float32], metric: str) -> Any:
    """Return the graph from `inputs` to `cluster_idx`, `all_scores` and `scores`."""
    constants = {
        "clusters": centers,
        "first": first_equals(centers),
        "features": np.array([1], np.int64),
        "zero": np.array(0.0),
    }
    nodes = _Nodes(onnx)
    if metric == Metric.COSINE:
        constants |= {"one": np.array(1.0), "nothing": np.array(0, np.float32)}
        scores = _cosine(nodes)
    else:
        constants |= {"two": np.array(2.0), "middle": middle(centers)}
        scores = _squared_euclidean(nodes)
    nearest = nodes.add("ArgMin", scores, axis=1, keepdims=0, select_last_index=0)
    nodes.add("Gather", "first", nearest, out="cluster_idx", axis=0)
    nodes.float32(scores, out="all_scores")
    nodes.float32(nodes.add("ReduceMin", scores, axes=[1], keepdims=0), out="scores")
    k, d = centers.shape
    value, types = onnx.helper.make_tensor_value_info, onnx.TensorProto
    return onnx.helper.make_graph(
        nodes.nodes,
        "kmeans",
        [value("inputs", types.FLOAT, ["batch", d])],
        [
            value("cluster_idx", types.INT64, ["batch"]),
            value("all_scores", types.FLOAT, ["batch", k]),
            value("scores", types.FLOAT, ["batch"]),
        ],
        [onnx.numpy_helper.from_array(v, n) for n, v in constants.items()],
    )


def _squared_euclidean(nodes: _Nodes) -> str:
    """Add |x|^2 - 2 x.c + |c|^2, of rows x and centers c less the middle of the centers."""
    origin = nodes.float64("middle")
    x = nodes.add("Sub", nodes.float64("inputs"), origin)
    c = nodes.add("Sub", nodes.float64("clusters"), origin)
    products = nodes.add("Mul", nodes.add("MatMul", x, nodes.transpose(c)), "two")
    rows = nodes.add("Sub", nodes.squares(x), products)
    distances = nodes.add("Add", rows, nodes.transpose(nodes.squares(c)))
    return nodes.add("Max", distances, "zero")


def _cosine(nodes: _Nodes) -> str:
    """Add 1 - x.c, with x of length 1 and rounded to float32 as in the fit; a zero row stays."""
    x = nodes.float64("inputs")
    length = nodes.add("Sqrt", nodes.squares(x))
    unit = nodes.float32(nodes.add("Div", x, length))
    # It also keeps the casts apart: onnxruntime 1.15 drops a cast to float32 before another cast.
    unit = nodes.add("Where", nodes.add("Equal", length, "zero"), "nothing", unit)
    clusters = nodes.transpose(nodes.float64("clusters"))
    products = nodes.add("MatMul", nodes.float64(unit), clusters)
    return nodes.add("Max", nodes.add("Sub", "one", products), "zero")


def _strip_defaults(onnx: Any, model: Any) -> None:
    """Remove the attributes that have the defaults of the opset."""
    for node in model.graph.node:
        known = onnx.defs.get_schema(node.op_type, OPSET).attributes
        for attribute in list(node.attribute):
            if attribute == known[attribute.name].default_value:
                node.attribute.remove(attribute)
