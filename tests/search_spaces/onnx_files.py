"""Small ONNX files for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROWS = 50
"""Rows of the embedding table of `embedder`."""


def save(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, str(path))
    return path


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: Sequence[onnx.TensorProto] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(list(nodes), "test", list(inputs), list(outputs), list(constants))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def tensor(name: str, shape: Sequence[str | int | None], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


def embedder(batch: str | int = "batch", length: str | int | None = "sequence") -> onnx.ModelProto:
    """Mean of the embeddings of the tokens that are not masked, shape (batch, 2)."""
    table = numpy_helper.from_array(np.arange(2 * ROWS, dtype=np.float32).reshape(ROWS, 2), "table")
    axes = numpy_helper.from_array(np.array([2]), "axes")
    nodes = [
        helper.make_node("Cast", ["ids"], ["wide"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "wide"], ["tokens"]),
        helper.make_node("Unsqueeze", ["attention_mask", "axes"], ["column"]),
        helper.make_node("Cast", ["column"], ["weights"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["tokens", "weights"], ["kept"]),
        helper.make_node("ReduceMean", ["kept"], ["embedding"], axes=[1], keepdims=0),
    ]
    return model_of(
        nodes,
        [
            tensor("ids", [batch, length], TensorProto.INT32),
            tensor("attention_mask", [batch, length], TensorProto.INT64),
        ],
        [tensor("embedding", [batch, 2])],
        [table, axes],
    )


def doubler(shape: Sequence[str | int | None], kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """y = x + x, for any shape."""
    return model_of(
        [helper.make_node("Add", ["x", "x"], ["y"])], [tensor("x", shape, kind)], [tensor("y", shape, kind)]
    )
