"""Walks an exported program with numbers in place of its symbolic sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule
from torch.fx import Node as FxNode

from profilers.torch_module import rules
from profilers.traced.trace import Node, Role, TensorSize, Trace, Weight
from tuner.step import NumberFormat

_FORMATS: Final = {
    torch.float32: NumberFormat.FP32,
    torch.float64: NumberFormat.FP32,
    torch.float16: NumberFormat.BF16,
    torch.bfloat16: NumberFormat.BF16,
    torch.float8_e4m3fn: NumberFormat.FP8,
    torch.float8_e5m2: NumberFormat.FP8,
    torch.int8: NumberFormat.INT8,
    torch.uint8: NumberFormat.INT8,
}
_COPIES: Final = frozenset({"reshape", "contiguous", "to", "_to_copy", "type_as", "clone"})
"""Copy only where layout or type change."""


class Tracer:
    """One exported program, traced as often as asked.

    Args:
        program: as `torch.export.export` gives it.
    """

    def __init__(self, program: ExportedProgram) -> None:
        self._graph = program.graph_module
        signature = program.graph_signature
        self.inputs = list(signature.user_inputs)
        tensors = {**program.state_dict, **program.constants}
        self._weights: dict[str, Weight] = {}
        known: dict[int, Weight] = {}
        for name, path in signature.inputs_to_parameters.items():
            tensor = tensors[path]
            weight = Weight(path, tensor.numel(), _FORMATS.get(tensor.dtype, NumberFormat.FP32))
            self._weights[name] = known.setdefault(id(tensor), weight)
        self._constants = {*signature.inputs_to_buffers, *signature.inputs_to_lifted_tensor_constants}
        self.parameters = {weight.name: weight for weight in self._weights.values()}

    def placeholder(self, name: str) -> Any:
        """The tensor that an input of the graph is described by."""
        return next(node for node in self._graph.graph.nodes if node.name == name).meta["val"]

    def trace(self, sizes: Mapping[Any, int]) -> Trace:
        """The graph with `sizes` for its symbols (sympy)."""
        return _Walk(self._graph, self._weights, self._constants, sizes).trace()


class _Walk:
    def __init__(
        self, graph: GraphModule, weights: Mapping[str, Weight], constants: set[str], sizes: Mapping[Any, int]
    ) -> None:
        self._module, self._sizes = graph, sizes
        self._weights: dict[FxNode, Weight] = {}
        self._constants: set[FxNode] = set()
        for node in graph.graph.nodes:
            if node.op == "placeholder" and node.name in weights:
                self._weights[node] = weights[node.name]
            elif node.op == "placeholder" and node.name in constants:
                self._constants.add(node)
        self._tensors: dict[str, TensorSize] = {}

    def trace(self) -> Trace:
        nodes = list(self._nodes(self._module))
        returned = next(node for node in self._module.graph.nodes if node.op == "output")
        return Trace(tuple(nodes), self._tensors, frozenset(node.name for node in returned.all_input_nodes))

    def _nodes(self, module: GraphModule) -> Iterator[Node]:
        for node in module.graph.nodes:
            if node.op in ("placeholder", "call_function"):
                self._describe(node)
            made = self._node(node) if node.op == "call_function" else None
            if made is not None:
                yield made

    def _describe(self, node: FxNode) -> None:
        for name, value in _flat(node.name, node.meta.get("val")):
            shape = self._shape(value)
            if shape is not None:
                self._tensors[name] = TensorSize(shape, float(value.element_size()))

    def _shape(self, value: Any) -> tuple[int, ...] | None:
        if not isinstance(value, torch.Tensor):
            return None
        numbers = [self._number(dim) for dim in value.shape]
        return None if any(number is None for number in numbers) else tuple(int(n) for n in numbers if n is not None)

    def _number(self, dim: Any) -> int | None:
        """A size; `None` where it depends on values."""
        if not isinstance(dim, torch.SymInt):
            return int(dim)
        try:
            return int(dim.node.expr.xreplace(dict(self._sizes)))
        except TypeError:
            return None

    def _node(self, node: FxNode) -> Node | None:
        """What a call costs; nothing for arithmetic on sizes, and for views of weights."""
        if not _tensors(node.meta.get("val")) and not isinstance(node.target, torch._ops.HigherOrderOperator):
            return None
        role = rules.role_of(node.target)
        name = rules.name_of(node.target)
        sources = list(dict.fromkeys(node.all_input_nodes))
        if role is Role.FREE or (name in _COPIES and not self._copied(node)):
            held = next((each for each in sources if each in self._weights or each in self._constants), None)
            if held is not None and held in self._weights:
                self._weights[node] = self._weights[held]
                return None
            if held is not None:
                self._constants.add(node)
                return None
            role = Role.FREE
        said = _said(node)
        tensors = [each for each in _arguments(said) if isinstance(each, FxNode)] if name == "einsum" else said
        shapes = [self._shape(each.meta.get("val")) if isinstance(each, FxNode) else None for each in tensors]
        output = next(iter(_tensors(node.meta.get("val"))), None)
        weights = tuple(dict.fromkeys(self._weights[each] for each in sources if each in self._weights))
        size = None
        if role in (Role.PRODUCT, Role.CONVOLUTION, Role.ATTENTION):
            said = [
                self._number(each.meta["val"]) if isinstance(each, FxNode) and _is_size(each) else each for each in said
            ]
            size = rules.size_of(name, shapes, self._shape(output), said)
            role = role if size is not None else Role.UNKNOWN
        if role is Role.LOOKUP and not weights:
            role = Role.MOVEMENT
        flowing = [each for each in sources if each not in self._weights and each not in self._constants]
        return Node(
            name=_place(node, name), operation=name, role=role,
            inputs=tuple(each.name for each in flowing if _tensors(each.meta.get("val"))),
            outputs=tuple(part for part, _ in _flat(node.name, node.meta.get("val"))), weights=weights, size=size,
        )  # fmt: skip

    def _copied(self, node: FxNode) -> bool:
        """Whether a call that may return its argument as it is makes a copy: other type, or another layout."""
        before = node.args[0].meta.get("val") if node.args and isinstance(node.args[0], FxNode) else None
        after = node.meta.get("val")
        if not isinstance(before, torch.Tensor) or not isinstance(after, torch.Tensor):
            return True
        if before.dtype is not after.dtype or rules.name_of(node.target) == "clone":
            return True
        strides = [self._number(each) for each in before.stride()]
        shape = self._shape(before) or ()
        expected, dense = 1, True
        for size, stride in zip(reversed(shape), reversed(strides), strict=False):
            dense = dense and (size == 1 or stride == expected)
            expected *= size
        return not dense and rules.name_of(node.target) in ("reshape", "contiguous")


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A node's tensors under the names that `Trace` knows them by: those of a tuple share the node's name."""
    for tensor in _tensors(value)[:1]:
        yield name, tensor


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [each for each in value if isinstance(each, torch.Tensor)] if isinstance(value, list | tuple) else []


def _arguments(said: Sequence[Any]) -> Iterator[Any]:
    for each in said:
        if isinstance(each, list | tuple):
            yield from each
        else:
            yield each


def _said(node: FxNode) -> list[Any]:
    """Arguments in the order of the operation's schema, defaults in place of those left out."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return list(node.args)
    places = enumerate(node.target._schema.arguments)
    return [
        node.args[place] if place < len(node.args) else node.kwargs.get(each.name, each.default_value)
        for place, each in places
    ]


def _is_size(node: FxNode) -> bool:
    return isinstance(node.meta.get("val"), torch.SymInt | int)


def _place(node: FxNode, name: str) -> str:
    """Module path and operation: `layers.0.mlp.silu`."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [entry[0] for entry in stack.values() if entry[0] and not entry[0].startswith("_empty")]
    return f"{paths[-1]}.{name}" if paths else name
