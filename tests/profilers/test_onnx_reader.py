"""ONNX files as model graphs: parameters and FLOPs by hand, growth with batch and length, and what bad files get."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profilers.huggingface.fields import Fields
from profilers.huggingface.reader import read_config
from profilers.onnx_file.reader import OnnxReader
from tuner.errors import ModelError
from tuner.model_graph import ModelGraph
from tuner.operators import Attention, Embedding, MatMul
from tuner.step import NumberFormat, OperatorKind, Rows, Shard, StepLoad
from tuner.traced_operators import Convolution

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "quickstart" / "make_encoder.py"
SMALL = {"layers": 3, "hidden": 64, "heads": 4, "intermediate": 128, "vocab": 200, "positions": 128}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> ModelGraph:
    """The quickstart's encoder, small."""
    made = runpy.run_path(str(EXAMPLE), run_name="example")
    shape = made["EncoderShape"](**SMALL)
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    onnx.save(made["encoder"](shape, made["random_weights"](shape)), str(path))
    return OnnxReader().read(path)


def save(
    folder: Path, nodes: list[Any], inputs: dict[str, list[Any]], weights: dict[str, Any], opset: int = 17
) -> Path:
    """A model of one output `y`."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    model.opset_import.append(helper.make_opsetid("own", 1))
    path = folder / "model.onnx"
    onnx.save(model, str(path))
    return path


def floats(*shape: int) -> Any:
    return np.zeros(shape, dtype=np.float32)


def test_the_encoder_has_the_parameters_and_flops_of_its_configuration(encoder: ModelGraph) -> None:
    config = {
        "model_type": "bert", "num_hidden_layers": 3, "hidden_size": 64, "num_attention_heads": 4,
        "intermediate_size": 128, "vocab_size": 200, "max_position_embeddings": 128,
    }  # fmt: skip
    known = read_config(Fields(config, "test"), "bert")
    pooler = 64 * 64 + 64  # the quickstart's encoder takes the mean instead
    assert encoder.parameters == known.parameters - pooler
    for batch, length in [(1, 7), (3, 40), (16, 128)]:
        load = StepLoad.prefill(batch, length)
        assert encoder.flops(load) == pytest.approx(known.flops(load) - 2 * batch * 64 * 64)


def test_layers_of_an_encoder_are_merged_and_its_attention_is_found(encoder: ModelGraph) -> None:
    attention = next(operator for operator in encoder.operators if isinstance(operator, Attention))
    assert (attention.count, attention.heads, attention.head_dim, attention.causal) == (3, 4, 16, False)
    assert not attention.keeps_cache
    products = {operator.name: operator for operator in encoder.operators if isinstance(operator, MatMul)}
    assert products["encoder.layer.*.intermediate.dense"].count == 3
    assert all(operator.rows is Rows.TOKEN for operator in products.values())
    assert {type(operator) for operator in encoder.operators if operator.kind is OperatorKind.EMBEDDING} >= {Embedding}
    assert not encoder.assumptions


def test_weights_take_the_bytes_of_their_type(encoder: ModelGraph, tmp_path: Path) -> None:
    assert encoder.weight_bytes(Shard()) == 4 * encoder.parameters
    half = save(tmp_path, [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 8]}, {"w": floats(8, 4)})
    model = onnx.load(str(half))
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((8, 4), dtype=np.float16), "w"))
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.save(model, str(half))
    assert OnnxReader().read(half).weight_bytes(Shard()) == 2 * 32


@given(batch=st.integers(1, 64), length=st.integers(1, 128), more=st.integers(1, 64))
def test_more_sequences_or_tokens_never_cost_less(encoder: ModelGraph, batch: int, length: int, more: int) -> None:
    least = StepLoad.prefill(batch, length)
    for load in (StepLoad.prefill(batch + more, length), StepLoad.prefill(batch, length + more)):
        assert encoder.flops(load) >= encoder.flops(least)
        assert encoder.bytes_moved(load) >= encoder.bytes_moved(least)


def test_a_convolution_network_by_hand(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "k", "b"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1], name="stem"),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "v"], ["y"], transB=1),
    ]
    weights = {"k": floats(16, 3, 3, 3), "b": floats(16), "w": floats(10, 16), "v": floats(10)}
    graph = OnnxReader().read(save(tmp_path, nodes, {"x": ["batch", 3, 32, 32]}, weights))
    convolution, relu, pool, dense = graph.operators
    assert isinstance(convolution, Convolution)
    assert convolution.output_size == (16, 16)
    load = StepLoad.prefill(5, 1)
    assert convolution.flops(load, Shard()) == 5 * 2 * 16 * 16 * 16 * 27
    assert relu.bytes_moved(load, Shard()) == 5 * 2 * 4 * 16 * 256
    assert pool.bytes_moved(load, Shard()) == 5 * 4 * (16 * 256 + 16)
    assert dense.flops(load, Shard()) == 5 * 2 * 16 * 10
    assert graph.parameters == 16 * 27 + 16 + 160 + 10


def test_an_unknown_operation_is_named_and_counted_by_its_bytes(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Frobnicate", ["r"], ["y"], domain="own", name="frob"),
    ]
    graph = OnnxReader().read(save(tmp_path, nodes, {"x": ["n", 64]}, {}))
    unknown = next(operator for operator in graph.operators if operator.kind is OperatorKind.UNKNOWN)
    assert unknown.name == "frob"
    assert unknown.bytes_moved(StepLoad.prefill(3, 1), Shard()) == 3 * 64 * 4
    assert any("no rule for frob" in text for text in graph.assumptions)
    assert any("Frobnicate" in text for text in graph.assumptions)


def test_shapes_that_a_graph_computes_are_known(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "axis"], ["n1"]),
        helper.make_node("Concat", ["n1", "rest"], ["to"], axis=0),
        helper.make_node("Reshape", ["x", "to"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    whole = {"zero": np.int64(0), "axis": np.array([0]), "rest": np.array([-1, 12])}
    graph = OnnxReader().read(save(tmp_path, nodes, {"x": ["n", 4, 6]}, {**whole, "w": floats(12, 5)}))
    (product,) = graph.operators
    assert isinstance(product, MatMul)
    assert (product.rows, product.rows_each) == (Rows.SEQUENCE, 2)


def test_a_shared_weight_is_counted_once(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "w"], ["y"])]
    graph = OnnxReader().read(save(tmp_path, nodes, {"x": ["n", 8]}, {"w": floats(8, 8)}))
    assert graph.parameters == 64
    assert graph.flops(StepLoad.prefill(1, 1)) == 2 * 2 * 64


def test_a_fixed_batch_is_said(tmp_path: Path) -> None:
    path = save(tmp_path, [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": [4, 8]}, {"w": floats(8, 2)})
    graph = OnnxReader().read(path)
    assert "fixes its batch" in graph.assumptions[0]
    assert graph.flops(StepLoad.prefill(4, 1)) == 2 * 4 * 8 * 2


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "holds no operation"), (b"not a model at all, but text", "damaged, or no ONNX"), (None, "cannot be read")],
)
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=words):
        OnnxReader().read(path)


def test_half_a_file_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 64]}, {"w": floats(64, 64)})
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(ModelError, match="damaged, or no ONNX"):
        OnnxReader().read(path)


def test_a_newer_operator_set_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, [helper.make_node("Relu", ["x"], ["y"])], {"x": ["n", 8]}, {})
    model = onnx.load(str(path))
    model.opset_import[0].version = 999
    onnx.save(model, str(path))
    with pytest.raises(ModelError, match="operator set 999"):
        OnnxReader().read(path)


def test_shapes_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path, [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": ["n", 8]}, {"w": floats(9, 2)})
    with pytest.raises(ModelError, match="contradict each other"):
        OnnxReader().read(path)


def test_another_format_of_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="says itself"):
        OnnxReader().read(tmp_path / "model.onnx", NumberFormat.INT8)


def test_an_operation_that_reads_what_nothing_makes_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, [helper.make_node("MatMul", ["x", "lost"], ["y"], name="mm")], {"x": ["n", 8]}, {})
    with pytest.raises(ModelError, match="MatMul 'mm' reads 'lost'"):
        OnnxReader().read(path)
    circle = [helper.make_node("Add", ["x", "q"], ["y"]), helper.make_node("Add", ["y", "x"], ["q"])]
    with pytest.raises(ModelError, match="Add reads 'q'"):
        OnnxReader().read(save(tmp_path, circle, {"x": ["n", 8]}, {}))
