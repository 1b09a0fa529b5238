"""Operators as onnxruntime computes them: one probe becomes a model of a few copies of its operator."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from profilers.copies import copies
from profilers.probe import Probe, ProbeKind

_OPSET: Final = 17


def is_installed() -> bool:
    """Whether onnxruntime is."""
    return importlib.util.find_spec("onnxruntime") is not None


def onnx_call(probe: Probe, threads: int) -> tuple[Callable[[], object], int]:
    """A call that computes the probe on the CPU, and how often it does so."""
    import onnxruntime  # a heavy and optional package

    count = copies(probe)
    model, feeds = _model(probe, count)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for name, values in feeds.items():
        binding.bind_cpu_input(name, values)
    for output in session.get_outputs():
        binding.bind_output(output.name)
    return lambda: session.run_with_iobinding(binding), count


class _Graph:
    """Nodes, inputs and weights of a model in the making."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.feeds: dict[str, np.ndarray[Any, Any]] = {}
        self.weights: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(0)

    def input(self, name: str, *shape: int) -> str:
        self.feeds[name] = self._random.standard_normal(shape, dtype=np.float32)
        return name

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(self._random.standard_normal(shape, dtype=np.float32), name))
        return name

    def add(self, operation: str, *inputs: str, domain: str = "", out: str = "", **said: Any) -> str:
        name = out or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, list(inputs), [name], domain=domain, **said))
        return name


def _model(probe: Probe, count: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray[Any, Any]]]:
    graph = _Graph()
    outputs = [_operator(graph, probe, place) for place in range(count)]
    made = helper.make_graph(
        graph.nodes,
        "probe",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, v.shape) for name, v in graph.feeds.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        graph.weights,
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(made, opset_imports=opsets, ir_version=8), graph.feeds


def _operator(graph: _Graph, probe: Probe, place: int) -> str:
    """The name of its output."""
    out = f"y{place}"
    rows, width = probe.rows, probe.width
    if probe.kind == ProbeKind.MATMUL.value:
        x = graph.input("x", rows, probe.inner)
        return graph.add("MatMul", x, graph.weight(probe.inner, width), out=out)
    if probe.kind == ProbeKind.ATTENTION.value:
        heads, batch = width // probe.inner, max(rows // probe.length, 1)
        query = graph.input("q", batch, heads, probe.length, probe.inner)
        key = graph.input("k", batch, heads, probe.inner, probe.length)
        value = graph.input("v", batch, heads, probe.length, probe.inner)
        mask = graph.input("m", batch, 1, 1, probe.length)
        scale = graph.weight(1)
        scores = graph.add("Add", graph.add("Div", graph.add("MatMul", query, key), scale), mask)
        return graph.add("MatMul", graph.add("Softmax", scores, axis=-1), value, out=out)
    if probe.kind == ProbeKind.CONVOLUTION.value:
        said = json.loads(probe.detail)
        x = graph.input("x", rows, probe.inner, *said["size"])
        weight = graph.weight(width, probe.inner // said["groups"], *said["kernel"])
        before = [each // 2 for each in said["padding"]]
        after = [each - each // 2 for each in said["padding"]]
        return graph.add(
            "Conv", x, weight, graph.weight(width), out=out, strides=said["stride"], dilations=said["dilation"],
            pads=[*before, *after], group=said["groups"],
        )  # fmt: skip
    x = graph.input(f"x{place}", rows, width)
    if probe.kind == ProbeKind.NORMALIZATION.value:
        return graph.add("LayerNormalization", x, graph.weight(width), graph.weight(width), out=out, axis=-1)
    if probe.kind == ProbeKind.ACTIVATION.value:
        return graph.add("BiasGelu", x, graph.weight(width), domain="com.microsoft", out=out)
    return graph.add("Add", x, graph.weight(width), out=out)
