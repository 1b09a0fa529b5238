"""From traces of one graph at several sizes to operators whose amounts are functions of the load."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from profilers.traced.fit import Size, extent
from profilers.traced.groups import Group, groups
from profilers.traced.trace import AttentionSize, ConvolutionSize, Node, Product, Role, TensorSize, Trace
from tuner.errors import ModelError
from tuner.operators import ACTIVATION_BYTES, Attention, Embedding, MatMul, Operator, Pointwise
from tuner.step import NumberFormat, OperatorKind, Rows
from tuner.traced_operators import Convolution, Extent, TracedWork

_KINDS: Final = {
    Role.PRODUCT: OperatorKind.MATMUL,
    Role.CONVOLUTION: OperatorKind.CONVOLUTION,
    Role.ATTENTION: OperatorKind.ATTENTION,
    Role.SOFTMAX: OperatorKind.NORMALIZATION,
    Role.NORMALIZATION: OperatorKind.NORMALIZATION,
    Role.ELEMENTWISE: OperatorKind.ELEMENTWISE,
    Role.MOVEMENT: OperatorKind.ELEMENTWISE,
    Role.LOOKUP: OperatorKind.EMBEDDING,
    Role.UNKNOWN: OperatorKind.UNKNOWN,
}
_TRANSCENDENTAL: Final = ("erf", "elu", "exp", "tan", "sig", "sin", "cos", "log", "silu", "swish", "mish", "softplus")
"""In the names of functions that are approximated by polynomials; the rectifier is none of them (`_RECTIFIERS`)."""
_RECTIFIERS: Final = ("relu", "leakyrelu", "prelu", "relu6", "thresholdedrelu", "clip", "sign")


def assemble(traces: Mapping[Size, Trace], source: str) -> tuple[Operator, ...]:
    """Operators of the graph, like ones merged, in the order of a forward pass.

    Raises:
        ModelError: the graph is another one at another size.
    """
    first = next(iter(traces.values()))
    if any(len(trace.nodes) != len(first.nodes) for trace in traces.values()):
        raise ModelError(f"{source} runs other operations for other sizes of a batch. Export it for one task.")
    uses = Counter(name for node in first.nodes for name in set(node.inputs))
    counted: set[str] = set()
    found = [operator for group in groups(first) for operator in _Assembly(traces, group, uses, counted).operators()]
    return merged(found)


def merged(operators: list[Operator]) -> tuple[Operator, ...]:
    """Operators that differ in nothing but their layer's number become one with their count."""
    counts: dict[Operator, int] = {}
    for operator in operators:
        key = replace(operator, name=re.sub(r"\d+", "*", operator.name), count=1)
        counts[key] = counts.get(key, 0) + operator.count
    return tuple(replace(operator, count=count) for operator, count in counts.items())


@dataclass(frozen=True, slots=True)
class _Moved:
    """What one group moves at one size, bytes, and the elements that leave it."""

    read: float
    written: float
    elements: float
    width: int
    item_bytes: float


class _Assembly:
    """One group at every size, made into operators.

    Args:
        uses: how many nodes of the graph read each tensor.
        counted: names of weights that an operator before this one holds; extended here.
    """

    def __init__(self, traces: Mapping[Size, Trace], group: Group, uses: Counter[str], counted: set[str]) -> None:
        self._traces = traces
        self._group = group
        self._counted = counted
        trace = next(iter(traces.values()))
        self._nodes = [trace.nodes[place] for place in group.members]
        made = {name for node in self._nodes for name in node.outputs}
        own = Counter(name for node in self._nodes for name in set(node.inputs))
        self._reads = sorted(set(own) - made)
        self._writes = sorted(name for name in made if uses[name] > own[name] or name in trace.outputs)
        self._weights = {weight.name: weight for node in self._nodes for weight in node.weights}

    def operators(self) -> list[Operator]:
        """The operator that the group is; nothing where it moves nothing."""
        if self._group.attention is not None:
            return self._with_weights(self._attention_of_products())
        node = self._nodes[0]
        if len(self._nodes) > 1 or node.role is Role.ELEMENTWISE:
            return self._pass_over_values(OperatorKind.ELEMENTWISE, _chain_name(self._nodes))
        makers: dict[Role, Callable[[Node], Operator | None]] = {
            Role.PRODUCT: self._product,
            Role.CONVOLUTION: self._convolution,
            Role.ATTENTION: self._attention,
            Role.LOOKUP: self._lookup,
        }
        made = makers[node.role](node) if node.role in makers else None
        if made is not None:
            return [made]
        if node.role in (Role.NORMALIZATION, Role.SOFTMAX, Role.MOVEMENT):
            return self._pass_over_values(_KINDS[node.role], self._name(node))
        return self._with_weights(self._traced(_KINDS[node.role], self._name(node), node.operation))

    def _name(self, node: Node) -> str:
        """The weight's, which people know; else the node's."""
        if not node.weights:
            return node.name or node.operation
        largest = max(node.weights, key=lambda weight: weight.parameters).name
        return re.sub(r"[._](matrix|weight|kernel)$", "", largest)

    def _own_weights(self) -> tuple[int, NumberFormat, float]:
        """Values that nobody counted before, their format, and the bytes of those that somebody did."""
        fresh = [weight for weight in self._weights.values() if weight.name not in self._counted]
        tied = sum(w.parameters * w.format.bytes for w in self._weights.values() if w.name in self._counted)
        self._counted.update(weight.name for weight in fresh)
        if not fresh:
            return 0, NumberFormat.FP32, tied
        largest = max(fresh, key=lambda weight: weight.parameters)
        return sum(weight.parameters for weight in fresh), largest.format, tied

    def _extent(self, amount: Callable[[Trace, list[Node]], float]) -> Extent:
        return extent(
            {size: amount(trace, [trace.nodes[place] for place in self._group.members])
             for size, trace in self._traces.items()}
        )  # fmt: skip

    def _all_moved(self) -> dict[Size, _Moved]:
        return {size: self._moved(trace) for size, trace in self._traces.items()}

    def _moved(self, trace: Trace) -> _Moved:
        sizes = [trace.tensors[name] for name in self._writes if name in trace.tensors]
        largest = max(sizes, key=lambda size: size.elements, default=TensorSize((1,), ACTIVATION_BYTES))
        return _Moved(
            read=sum(trace.tensors[name].bytes for name in self._reads if name in trace.tensors),
            written=sum(size.bytes for size in sizes),
            elements=float(largest.elements) if sizes else 0.0,
            width=largest.shape[-1] if largest.shape else 1,
            item_bytes=largest.item_bytes,
        )

    def _traced(self, kind: OperatorKind, name: str, operation: str) -> TracedWork:
        return TracedWork(
            name=name, count=1, traced_kind=kind, operation=operation,
            work=self._extent(lambda _, nodes: sum(node.flops for node in nodes)),
            moved=extent({size: each.read + each.written for size, each in self._all_moved().items()}),
        )  # fmt: skip

    def _with_weights(self, operator: Operator) -> list[Operator]:
        """A traced operator with the group's weights; any other as it is, and theirs apart."""
        weights, format, tied = self._own_weights()
        if isinstance(operator, TracedWork):
            read = 0.0 if operator.kind is OperatorKind.EMBEDDING else tied
            moved = replace(operator.moved, fixed=operator.moved.fixed + read)
            return [replace(operator, weights=weights, format=format, moved=moved)]
        if not weights:
            return [operator]
        nothing = Extent()
        return [operator, TracedWork(
            name=f"{operator.name} constants", count=1, traced_kind=OperatorKind.ELEMENTWISE, operation="constant",
            work=nothing, moved=nothing, weights=weights, format=format,
        )]  # fmt: skip

    def _pass_over_values(self, kind: OperatorKind, name: str) -> list[Operator]:
        moved = self._all_moved()
        first = next(iter(moved.values()))
        rows = _pure(extent({size: each.elements for size, each in moved.items()}))
        read = _pure(extent({size: each.read for size, each in moved.items()}))
        written = first.elements * first.item_bytes
        if not written and not first.read:
            return []
        if rows is None or read is None or rows[0] is not read[0]:
            return self._with_weights(self._traced(kind, name, _operations(self._nodes)))
        weights, format, _ = self._own_weights()
        # what normalises does so along the last dimension; for the rest the cut is of no matter
        along = kind is OperatorKind.NORMALIZATION and rows[1] % first.width == 0
        width = first.width if along else rows[1]
        return [Pointwise(
            name=name, count=1, width=width, rows=rows[0], rows_each=rows[1] // width,
            reads=first.read / written, writes=first.written / written, weights=weights, format=format,
            normalizes=kind is OperatorKind.NORMALIZATION, arithmetic=_only_arithmetic(kind, self._nodes),
            activation_bytes=_whole(first.item_bytes),
        )]  # fmt: skip

    def _rows(self, amount: Callable[[Node], int]) -> tuple[Rows, int] | None:
        return _pure(self._extent(lambda _, nodes: amount(nodes[0])))

    def _item_bytes(self, node: Node) -> int:
        trace = next(iter(self._traces.values()))
        size = trace.tensors.get(node.outputs[0])
        return _whole(size.item_bytes) if size is not None else ACTIVATION_BYTES

    def _product(self, node: Node) -> Operator | None:
        size = node.size
        if not isinstance(size, Product) or size.batch != 1 or not node.weights:
            return None
        weight = max(node.weights, key=lambda weight: weight.parameters)
        rows = self._rows(lambda each: each.size.rows if isinstance(each.size, Product) else 0)
        others = sum(each.parameters for each in node.weights) - weight.parameters
        bias = others == size.outputs
        if rows is None or weight.parameters != size.outputs * size.inputs or (others and not bias):
            return None
        tied = weight.name in self._counted
        if bias and tied:
            return None
        self._own_weights()
        return MatMul(
            name=self._name(node), count=1, outputs=size.outputs, inputs=size.inputs, bias=bias, rows=rows[0],
            rows_each=rows[1], format=weight.format, tied=tied, activation_bytes=self._item_bytes(node),
        )  # fmt: skip

    def _convolution(self, node: Node) -> Operator | None:
        size = node.size
        if not isinstance(size, ConvolutionSize) or size.transposed or not node.weights:
            return None
        rows = self._rows(lambda each: each.size.images if isinstance(each.size, ConvolutionSize) else 0)
        fixed = all(
            replace(each, images=1) == replace(size, images=1)
            for trace in self._traces.values()
            if isinstance(each := trace.nodes[self._group.members[0]].size, ConvolutionSize)
        )
        weights = sum(weight.parameters for weight in node.weights)
        taps = size.channels_out * (size.channels_in // size.groups) * math.prod(size.kernel)
        if any(weight.name in self._counted for weight in node.weights) or not fixed:
            return None
        if rows is None or rows[0] is not Rows.SEQUENCE or weights - taps not in (0, size.channels_out):
            return None
        _, format, _ = self._own_weights()
        return Convolution(
            name=self._name(node), count=1, channels_in=size.channels_in, channels_out=size.channels_out,
            size=size.size, kernel=size.kernel, stride=size.stride, padding=size.padding, dilation=size.dilation,
            groups=size.groups, bias=weights > taps, format=format, rows_each=rows[1],
            activation_bytes=self._item_bytes(node),
        )  # fmt: skip

    def _attention(self, node: Node) -> Operator | None:
        if node.weights or node.extra_flops:
            return None
        sizes = {size: trace.nodes[self._group.members[0]].size for size, trace in self._traces.items()}
        return self._attention_like(
            node.name or node.operation,
            {size: each for size, each in sizes.items() if isinstance(each, AttentionSize)},
            self._item_bytes(node),
        )

    def _attention_of_products(self) -> Operator:
        first, softmax, second = self._group.attention or (0, 0, 0)
        sizes: dict[Size, AttentionSize] = {}
        for size, trace in self._traces.items():
            scores, mixed = trace.nodes[first].size, trace.nodes[second].size
            shape = trace.tensors[trace.nodes[first].outputs[0]].shape
            if isinstance(scores, Product) and isinstance(mixed, Product):
                batch = shape[0] if len(shape) > 3 else size[0]
                heads = max(scores.batch // max(batch, 1), 1)
                sizes[size] = AttentionSize(
                    batch, heads, heads, scores.rows, scores.outputs, scores.inputs, mixed.outputs
                )
        node = next(iter(self._traces.values())).nodes[softmax]
        name = node.name or "attention"
        made = self._attention_like(name, sizes, self._item_bytes(node))
        return made or self._traced(OperatorKind.ATTENTION, name, "attention")

    def _attention_like(self, name: str, sizes: Mapping[Size, AttentionSize], item_bytes: int) -> Operator | None:
        first = next(iter(sizes.values()))
        if any(each.queries != each.keys for each in sizes.values()):
            return None
        if len({replace(each, batch=1, queries=1, keys=1) for each in sizes.values()}) != 1:
            return None
        batch = _pure(extent({size: each.batch for size, each in sizes.items()}))
        tokens = _pure(extent({size: each.batch * each.queries for size, each in sizes.items()}))
        if batch != (Rows.SEQUENCE, 1) or tokens is None:
            return None
        if tokens[0] is Rows.TOKEN and tokens[1] != 1:
            return None
        return Attention(
            name=name, count=1, heads=first.heads, kv_heads=first.kv_heads, head_dim=first.head_dim,
            value_dim=first.value_dim, causal=first.causal, rows=tokens[0], keeps_cache=False,
            length=tokens[1] if tokens[0] is Rows.SEQUENCE else None, activation_bytes=item_bytes,
        )  # fmt: skip

    def _lookup(self, node: Node) -> Operator | None:
        if len(node.weights) != 1 or node.weights[0].name in self._counted:
            return None
        trace = next(iter(self._traces.values()))
        width = trace.tensors[node.outputs[0]].shape[-1]
        places = self._group.members
        rows = _pure(self._extent(lambda at, _: at.tensors[at.nodes[places[0]].outputs[0]].elements / width))
        weight = node.weights[0]
        if rows is None or weight.parameters % width:
            return None
        self._own_weights()
        return Embedding(
            name=self._name(node), count=1, entries=weight.parameters // width, width=width, rows=rows[0],
            rows_each=rows[1], format=weight.format, activation_bytes=self._item_bytes(node),
        )  # fmt: skip


def _pure(amount: Extent) -> tuple[Rows, int] | None:
    """What alone the amount grows with, and how much for each; `None` where that is no whole number of one thing."""
    terms = {
        Rows.SEQUENCE: amount.per_sequence, Rows.TOKEN: amount.per_token,
    }  # fmt: skip
    others = (amount.fixed, amount.per_length, amount.per_square, amount.per_pair)
    found = [(rows, value) for rows, value in terms.items() if value]
    if any(others) or len(found) != 1 or found[0][1] != round(found[0][1]):
        return None
    return found[0][0], round(found[0][1])


def _only_arithmetic(kind: OperatorKind, nodes: list[Node]) -> bool:
    return kind is not OperatorKind.NORMALIZATION and not any(
        word in node.operation.lower()
        for node in nodes
        if node.operation.lower().strip("_") not in _RECTIFIERS
        for word in _TRANSCENDENTAL
    )


def _whole(item_bytes: float) -> int:
    return max(1, round(item_bytes))


def _operations(nodes: list[Node]) -> str:
    return " ".join(dict.fromkeys(node.operation for node in nodes if node.role is not Role.FREE))


def _chain_name(nodes: list[Node]) -> str:
    names = list(dict.fromkeys(node.operation.lower() for node in nodes if node.role is not Role.FREE))
    return "+".join(names[:4]) + ("+…" if len(names) > 4 else "")
