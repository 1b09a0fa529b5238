"""Runs an ONNX graph with sizes in place of values: every shape known, small whole numbers computed.

Shapes inside a graph are often computed by the graph (Shape, Gather, Concat, Reshape). Nodes are therefore taken one by
one: onnx infers the shape of each, and those that compute on a few known numbers are run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from profilers.onnx_file import rules
from profilers.traced.trace import Node, Role, TensorSize, Trace, Weight
from tuner.step import NumberFormat

_KNOWN_ELEMENTS: Final = 4096
"""Tensors up to this size are computed if all that goes in is known; larger ones are never shapes."""

_FORMATS: Final[dict[int, NumberFormat]] = {
    TensorProto.FLOAT: NumberFormat.FP32,
    TensorProto.DOUBLE: NumberFormat.FP32,
    TensorProto.FLOAT16: NumberFormat.BF16,
    TensorProto.BFLOAT16: NumberFormat.BF16,
    TensorProto.INT8: NumberFormat.INT8,
    TensorProto.UINT8: NumberFormat.INT8,
    TensorProto.INT4: NumberFormat.INT4,
    TensorProto.UINT4: NumberFormat.INT4,
    TensorProto.FLOAT8E4M3FN: NumberFormat.FP8,
    TensorProto.FLOAT8E4M3FNUZ: NumberFormat.FP8,
    TensorProto.FLOAT8E5M2: NumberFormat.FP8,
    TensorProto.FLOAT8E5M2FNUZ: NumberFormat.FP8,
}


class UntraceableError(Exception):
    """The graph contradicts itself at this size."""


@dataclass(frozen=True, slots=True)
class _Value:
    """A tensor while the graph is walked.

    Attributes:
        shape: `None` where it depends on values.
        data: its values, where few and known.
        constant: whether it follows from weights alone.
        weights: that it follows from, where constant.
    """

    shape: tuple[int, ...] | None
    elem_type: int
    data: np.ndarray[Any, Any] | None = None
    constant: bool = False
    weights: tuple[Weight, ...] = ()

    @property
    def size(self) -> TensorSize | None:
        return None if self.shape is None else TensorSize(self.shape, _item_bytes(self.elem_type))


class Interpreter:
    """Walks one model, as often as asked.

    Args:
        model: local functions inlined.
        folder: where weights kept outside the file are.
    """

    def __init__(self, model: onnx.ModelProto, folder: Path) -> None:
        self._graph = model.graph
        self._ir_version = model.ir_version
        self._opsets = {each.domain: each.version for each in model.opset_import}
        self._imports = list(model.opset_import)
        self._weights = {tensor.name: _weight_value(tensor, folder) for tensor in model.graph.initializer}
        self.untraced: set[str] = set()

    def trace(self, inputs: Mapping[str, tuple[int, ...]]) -> Trace:
        """The graph at these shapes of its inputs.

        Raises:
            UntraceableError: shapes contradict each other.
        """
        values: dict[str, _Value] = {"": _Value((), TensorProto.UNDEFINED, constant=True), **self._weights}
        for each in self._graph.input:
            if each.name in inputs:
                values[each.name] = _Value(inputs[each.name], each.type.tensor_type.elem_type)
        nodes: list[Node] = []
        for node in self._graph.node:
            nodes += self._step(node, values)
        tensors = {name: size for name, value in values.items() if name and (size := value.size) is not None}
        return Trace(tuple(nodes), tensors, frozenset(each.name for each in self._graph.output))

    def _step(self, node: onnx.NodeProto, values: dict[str, _Value]) -> Iterable[Node]:
        given = [values.get(name, _Value(None, TensorProto.UNDEFINED)) for name in node.input]
        if node.op_type == "If" and given[0].data is not None:
            yield from self._branch(node, bool(given[0].data.reshape(-1)[0]), values)
            return
        made = self._outputs(node, given)
        constant = bool(made) and all(value.constant for value in given) and node.op_type not in ("If", "Loop", "Scan")
        roots = tuple(dict.fromkeys(weight for value in given for weight in value.weights))
        for name, value in zip(node.output, made, strict=False):
            values[name] = _Value(value.shape, value.elem_type, value.data, constant, roots if constant else ())
        if constant:
            return
        known = all(value.data is not None for value in made)
        role = Role.FREE if known and made else rules.role_of(node)
        if role is Role.LOOKUP and not (given[0].constant and given[0].weights):
            role = Role.MOVEMENT
        if node.op_type == "Slice" and given[0].constant and given[0].weights:
            role = Role.LOOKUP
        if any(value.shape is None for value in made) or (node.op_type in ("If", "Loop", "Scan")):
            self.untraced.add(node.op_type)
        shapes = [value.shape for value in given]
        output = made[0].shape if made else None
        size, extra = (
            rules.size_of(node, shapes, output)
            if role in (Role.PRODUCT, Role.CONVOLUTION, Role.ATTENTION) else (None, 0.0)
        )  # fmt: skip
        if role in (Role.PRODUCT, Role.CONVOLUTION, Role.ATTENTION) and size is None:
            role = Role.UNKNOWN
        if role is Role.FREE:
            roots = ()
        yield Node(
            name=node.name, operation=node.op_type, role=role,
            inputs=tuple(name for name, value in zip(node.input, given, strict=True) if not value.constant),
            outputs=tuple(name for name in node.output if name), weights=roots, size=size, extra_flops=extra,
        )  # fmt: skip

    def _branch(self, node: onnx.NodeProto, taken: bool, values: dict[str, _Value]) -> Iterable[Node]:
        """The branch of an If whose condition is known stands in its place."""
        graph = rules.attributes(node)["then_branch" if taken else "else_branch"]
        for tensor in graph.initializer:
            values[tensor.name] = _weight_value(tensor, Path())
        for each in graph.node:
            yield from self._step(each, values)
        for name, inner in zip(node.output, graph.output, strict=True):
            values[name] = values[inner.name]
            if not values[inner.name].constant:
                yield Node(node.name, "Identity", Role.FREE, (inner.name,), (name,))

    def _outputs(self, node: onnx.NodeProto, given: list[_Value]) -> list[_Value]:
        """Shape and, where few and known, values of each output."""
        if node.op_type == "Constant":
            return [_constant(node)]
        if node.op_type in ("Shape", "Size") and given[0].shape is not None:
            return [_shape(node, given[0].shape)]
        computed = self._computed(node, given)
        if computed is not None:
            return computed
        return self._inferred(node, given)

    def _inferred(self, node: onnx.NodeProto, given: list[_Value]) -> list[_Value]:
        unknown = [_Value(None, TensorProto.UNDEFINED) for _ in node.output]
        if node.domain == "com.microsoft":
            shape = rules.contrib_shape(node, [value.shape for value in given])
            element = given[0].elem_type if given else TensorProto.FLOAT
            return [_Value(shape, element), *unknown[1:]]
        if any(value.elem_type == TensorProto.UNDEFINED for name, value in zip(node.input, given, strict=True) if name):
            return unknown
        try:
            schema = onnx.defs.get_schema(node.op_type, self._opsets.get(node.domain, 1), node.domain)
        except onnx.defs.SchemaError:
            return unknown
        types = {
            name: helper.make_tensor_type_proto(value.elem_type, value.shape)
            for name, value in zip(node.input, given, strict=True)
            if name
        }
        data = {
            name: numpy_helper.from_array(value.data, name)
            for name, value in zip(node.input, given, strict=True)
            if name and value.data is not None
        }
        try:
            found = onnx.shape_inference.infer_node_outputs(
                schema, node, types, data, opset_imports=self._imports, ir_version=self._ir_version
            )
        except onnx.shape_inference.InferenceError as error:
            raise UntraceableError(f"{node.op_type} {node.name!r}: {error}") from error
        except (RuntimeError, ValueError, onnx.checker.ValidationError):
            return unknown
        return [_typed(found.get(name)) for name in node.output]

    def _computed(self, node: onnx.NodeProto, given: list[_Value]) -> list[_Value] | None:
        """Outputs of a node whose inputs are known, small whole numbers (or known small numbers of any kind)."""
        if not given or any(value.data is None for name, value in zip(node.input, given, strict=True) if name):
            return None
        if node.domain not in ("", "ai.onnx") or not any(node.input) or rules.role_of(node) is Role.UNKNOWN:
            return None
        data = [value.data for value in given if value.data is not None]
        if node.op_type in ("ConstantOfShape", "Expand", "Tile", "Range") and _made(node, data) > _KNOWN_ELEMENTS:
            return None
        feeds = {name: value.data for name, value in zip(node.input, given, strict=True) if name}
        try:
            results = ReferenceEvaluator(node, opsets=self._opsets).run(None, feeds)
        except Exception:  # the evaluator raises whatever numpy does; shape inference is tried next
            return None
        made = []
        for result in results:
            array = np.asarray(result)
            element = helper.np_dtype_to_tensor_dtype(array.dtype)
            made.append(_Value(array.shape, element, array if array.size <= _KNOWN_ELEMENTS else None))
        return made


def _made(node: onnx.NodeProto, data: list[np.ndarray[Any, Any]]) -> float:
    """Elements that a node which makes much out of little will make."""
    if node.op_type == "Range":
        start, limit, delta = (float(each.reshape(-1)[0]) for each in data[:3])
        return abs((limit - start) / delta) if delta else math.inf
    if node.op_type == "Tile":
        return float(data[0].size * np.prod(data[1]))
    return float(np.prod(data[-1] if node.op_type == "Expand" else data[0]))


def _weight_value(tensor: TensorProto, folder: Path) -> _Value:
    shape = tuple(tensor.dims)
    count = math.prod(shape)
    learned = count > 1 and tensor.data_type in _FORMATS  # single values are scales and limits
    weights = (Weight(tensor.name, count, _FORMATS[tensor.data_type]),) if learned else ()
    data = None
    if count <= _KNOWN_ELEMENTS and tensor.data_type not in (TensorProto.STRING, TensorProto.UNDEFINED):
        try:
            data = numpy_helper.to_array(tensor, str(folder))
        except (OSError, ValueError, TypeError, onnx.checker.ValidationError):
            data = None  # kept in a file that is not here: only its size is known
    return _Value(shape, tensor.data_type, data, constant=True, weights=weights)


def _constant(node: onnx.NodeProto) -> _Value:
    said = rules.attributes(node)
    if "value" in said:
        return _weight_value(said["value"], Path()) if isinstance(said["value"], TensorProto) else _Value(None, 0)
    array = np.asarray(next(iter(said.values())))
    if array.dtype.kind in "SU":
        return _Value(array.shape, TensorProto.STRING)
    array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
    return _Value(array.shape, helper.np_dtype_to_tensor_dtype(array.dtype), array)


def _shape(node: onnx.NodeProto, shape: tuple[int, ...]) -> _Value:
    said = rules.attributes(node)
    if node.op_type == "Size":
        return _Value((), TensorProto.INT64, np.asarray(math.prod(shape), dtype=np.int64))
    part = shape[slice(said.get("start", 0), said.get("end"))]
    return _Value((len(part),), TensorProto.INT64, np.asarray(part, dtype=np.int64))


def _typed(found: onnx.TypeProto | None) -> _Value:
    if found is None or not found.HasField("tensor_type"):
        return _Value(None, TensorProto.UNDEFINED)
    tensor = found.tensor_type
    if not tensor.HasField("shape") or not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        return _Value(None, tensor.elem_type)
    return _Value(tuple(dim.dim_value for dim in tensor.shape.dim), tensor.elem_type)


def _item_bytes(elem_type: int) -> float:
    if elem_type in (TensorProto.INT4, TensorProto.UINT4):
        return 0.5
    if elem_type in (TensorProto.STRING, TensorProto.UNDEFINED):
        return 8.0
    return float(helper.tensor_dtype_to_np_dtype(elem_type).itemsize)
