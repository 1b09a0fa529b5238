"""Writes a BERT sentence encoder with random weights as an ONNX file.

Speed does not depend on what the weights say, so an encoder of the right shape is as good a subject for
tuning as a trained one, and this one needs no download. The shape of the defaults is that of
all-MiniLM-L6-v2: 6 layers of width 384 with 12 heads, and mean pooling over the tokens that are not masked.

    python examples/quickstart/make_encoder.py --out encoder.onnx
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Weights = dict[str, npt.NDArray[np.float32]]

OPSET = 17
"""The first operator set with LayerNormalization; every current runtime reads it."""

IR_VERSION = 8
"""The file format that belongs to operator set 17."""

MASKED = -10_000.0
"""Added to the attention scores of masked tokens: their softmax is zero in single precision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderShape:
    """Sizes of a BERT encoder, named as in Devlin et al. 2019.

    Attributes:
        layers: number of transformer layers.
        hidden: width of a token's vector.
        heads: attention heads; divides `hidden`.
        intermediate: width of the feed-forward layer.
        vocab: number of token ids.
        positions: longest sequence.
    """

    layers: int = 6
    hidden: int = 384
    heads: int = 12
    intermediate: int = 1536
    vocab: int = 30_522
    positions: int = 512

    def __post_init__(self) -> None:
        for name in ("layers", "hidden", "heads", "intermediate", "vocab", "positions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}. Write 1 or more.")
        if self.hidden % self.heads:
            raise ValueError(f"{self.hidden} does not divide into {self.heads} heads. Choose heads that divide hidden.")


def random_weights(shape: EncoderShape, seed: int = 0) -> Weights:
    """Weights under the names, and in the orientation, of the state of transformers' `BertModel`."""
    generator = np.random.default_rng(seed)

    def normal(*sizes: int) -> npt.NDArray[np.float32]:
        return generator.normal(0.0, 0.02, sizes).astype(np.float32)

    weights: Weights = {}

    def linear(name: str, inputs: int, outputs: int) -> None:
        weights[f"{name}.weight"] = normal(outputs, inputs)
        weights[f"{name}.bias"] = normal(outputs)

    def layer_norm(name: str) -> None:
        weights[f"{name}.weight"] = 1.0 + normal(shape.hidden)
        weights[f"{name}.bias"] = normal(shape.hidden)

    weights["embeddings.word_embeddings.weight"] = normal(shape.vocab, shape.hidden)
    weights["embeddings.position_embeddings.weight"] = normal(shape.positions, shape.hidden)
    weights["embeddings.token_type_embeddings.weight"] = normal(2, shape.hidden)
    layer_norm("embeddings.LayerNorm")
    for index in range(shape.layers):
        layer = f"encoder.layer.{index}"
        for part in ("query", "key", "value"):
            linear(f"{layer}.attention.self.{part}", shape.hidden, shape.hidden)
        linear(f"{layer}.attention.output.dense", shape.hidden, shape.hidden)
        layer_norm(f"{layer}.attention.output.LayerNorm")
        linear(f"{layer}.intermediate.dense", shape.hidden, shape.intermediate)
        linear(f"{layer}.output.dense", shape.intermediate, shape.hidden)
        layer_norm(f"{layer}.output.LayerNorm")
    return weights


class _Graph:
    """Nodes and constants, appended in order; a value is known by its name."""

    def __init__(self, weights: Weights) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self._weights = weights

    def op(self, kind: str, *inputs: str, out: str | None = None, **attributes: object) -> str:
        name = out or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, name: str, value: npt.ArrayLike, dtype: npt.DTypeLike) -> str:
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value, dtype=dtype), name)
        return name

    def weight(self, name: str) -> str:
        return self.constant(name, self._weights[name], np.float32)

    def linear(self, x: str, name: str) -> str:
        matrix = self.constant(f"{name}.matrix", self._weights[f"{name}.weight"].T, np.float32)
        return self.op("Add", self.op("MatMul", x, matrix), self.weight(f"{name}.bias"))

    def layer_norm(self, x: str, name: str) -> str:
        scale, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=1e-12)

    def gelu(self, x: str) -> str:
        """x / 2 * (1 + erf(x / sqrt 2)), in the pattern that runtimes fuse."""
        erf = self.op("Erf", self.op("Div", x, self.constant("sqrt_2", math.sqrt(2.0), np.float32)))
        return self.op(
            "Mul",
            self.op("Mul", x, self.op("Add", erf, self.constant("one", 1.0, np.float32))),
            self.constant("half", 0.5, np.float32),
        )


def _embed(graph: _Graph) -> str:
    words = graph.op("Gather", graph.weight("embeddings.word_embeddings.weight"), "input_ids")
    zero = graph.constant("zero", [0], np.int64)
    length = graph.op("Shape", "input_ids", start=1, end=2)
    positions = graph.op("Slice", graph.weight("embeddings.position_embeddings.weight"), zero, length, zero)
    segment = graph.op(
        "Gather",
        graph.weight("embeddings.token_type_embeddings.weight"),
        graph.constant("first_segment", 0, np.int64),
        axis=0,
    )
    total = graph.op("Add", graph.op("Add", words, segment), positions)
    return graph.layer_norm(total, "embeddings.LayerNorm")


def _attend(graph: _Graph, x: str, bias: str, name: str, shape: EncoderShape) -> str:
    size = shape.hidden // shape.heads
    split = graph.constant("split_heads", [0, 0, shape.heads, size], np.int64)
    join = graph.constant("join_heads", [0, 0, shape.hidden], np.int64)

    def heads(part: str, order: Sequence[int]) -> str:
        projected = graph.linear(x, f"{name}.self.{part}")
        return graph.op("Transpose", graph.op("Reshape", projected, split), perm=list(order))

    query, key, value = heads("query", (0, 2, 1, 3)), heads("key", (0, 2, 3, 1)), heads("value", (0, 2, 1, 3))
    scores = graph.op("Div", graph.op("MatMul", query, key), graph.constant("sqrt_head", math.sqrt(size), np.float32))
    shares = graph.op("Softmax", graph.op("Add", scores, bias), axis=-1)
    mixed = graph.op("Transpose", graph.op("MatMul", shares, value), perm=[0, 2, 1, 3])
    out = graph.linear(graph.op("Reshape", mixed, join), f"{name}.output.dense")
    return graph.layer_norm(graph.op("Add", out, x), f"{name}.output.LayerNorm")


def _pool(graph: _Graph, x: str, mask: str) -> str:
    """Mean over the tokens that are not masked."""
    axes = graph.constant("axes_1", [1], np.int64)
    weights = graph.op("Unsqueeze", mask, graph.constant("axes_2", [2], np.int64))
    total = graph.op("ReduceSum", graph.op("Mul", x, weights), axes, keepdims=0)
    count = graph.op("ReduceSum", weights, axes, keepdims=0)
    floor = graph.constant("least_count", 1e-9, np.float32)
    return graph.op("Div", total, graph.op("Max", count, floor), out="sentence_embedding")


def encoder(shape: EncoderShape, weights: Weights) -> onnx.ModelProto:
    """The encoder as an ONNX model.

    Inputs `input_ids` and `attention_mask`, INT64 (batch, sequence); output `sentence_embedding`, FP32
    (batch, hidden).
    """
    graph = _Graph(weights)
    mask = graph.op("Cast", "attention_mask", to=TensorProto.FLOAT)
    absent = graph.op("Sub", graph.constant("one", 1.0, np.float32), mask)
    bias = graph.op(
        "Mul",
        graph.op("Unsqueeze", absent, graph.constant("axes_1_2", [1, 2], np.int64)),
        graph.constant("masked", MASKED, np.float32),
    )
    x = _embed(graph)
    for index in range(shape.layers):
        layer = f"encoder.layer.{index}"
        x = _attend(graph, x, bias, f"{layer}.attention", shape)
        inner = graph.gelu(graph.linear(x, f"{layer}.intermediate.dense"))
        x = graph.layer_norm(
            graph.op("Add", graph.linear(inner, f"{layer}.output.dense"), x), f"{layer}.output.LayerNorm"
        )
    _pool(graph, x, mask)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "bert_encoder",
            [
                helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
                for name in ("input_ids", "attention_mask")
            ],
            [helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", shape.hidden])],
            list(graph.constants.values()),
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="serving-tuner",
    )
    onnx.checker.check_model(model)
    return model


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Writes a BERT sentence encoder with random weights as an ONNX file.")
    default = EncoderShape()
    parser.add_argument("--layers", type=int, default=default.layers, help="transformer layers (%(default)s)")
    parser.add_argument("--hidden", type=int, default=default.hidden, help="width of a token's vector (%(default)s)")
    parser.add_argument("--heads", type=int, default=default.heads, help="attention heads (%(default)s)")
    parser.add_argument("--intermediate", type=int, help="feed-forward width (4 x hidden)")
    parser.add_argument("--vocab", type=int, default=default.vocab, help="number of token ids (%(default)s)")
    parser.add_argument("--positions", type=int, default=default.positions, help="longest sequence (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    options = parser.parse_args(arguments)
    try:
        shape = EncoderShape(
            layers=options.layers,
            hidden=options.hidden,
            heads=options.heads,
            intermediate=4 * options.hidden if options.intermediate is None else options.intermediate,
            vocab=options.vocab,
            positions=options.positions,
        )
    except ValueError as error:
        parser.error(str(error))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    partial = options.out.with_name(options.out.name + ".partial")
    onnx.save(encoder(shape, random_weights(shape, options.seed)), str(partial))
    # An interrupted run must not leave half a model that the next one would take for whole.
    os.replace(partial, options.out)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
