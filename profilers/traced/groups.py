"""What runs as one: attention out of its products and softmax, chains of element-wise operations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from profilers.traced.trace import Role, Trace

_LIGHT = (Role.ELEMENTWISE, Role.FREE)


@dataclass(frozen=True, slots=True)
class Group:
    """Nodes, by place in the trace, that a runtime computes in one pass.

    Attributes:
        members: ascending.
        attention: first product, softmax and second product, where it is attention.
    """

    members: tuple[int, ...]
    attention: tuple[int, int, int] | None = None


def groups(trace: Trace) -> list[Group]:
    """Every node that costs something, in exactly one group, ordered by first member.

    Element-wise nodes that touch run as one pass if as many other operations precede them: no path then leaves the
    group and comes back.
    """
    graph = _Edges(trace)
    attentions = [each for place in range(len(trace.nodes)) if (each := _attention(trace, graph, place))]
    owner: dict[int, int] = {}
    for number, attention in enumerate(attentions):
        for member in attention.members:
            owner.setdefault(member, number)
    stage = _stages(trace, graph, owner)
    joined = _Joined(len(trace.nodes))
    for place, node in enumerate(trace.nodes):
        if node.role not in _LIGHT or place in owner:
            continue
        for before in graph.before[place]:
            if before not in owner and trace.nodes[before].role in _LIGHT and stage[before] == stage[place]:
                joined.join(before, place)
    chains: dict[int, list[int]] = defaultdict(list)
    found: list[Group] = list(attentions)
    for place, node in enumerate(trace.nodes):
        if place in owner:
            continue
        if node.role in _LIGHT:
            chains[joined.root(place)].append(place)
        else:
            found.append(Group((place,)))
    for chain in chains.values():
        if any(trace.nodes[place].role is Role.ELEMENTWISE for place in chain):
            found.append(Group(tuple(chain)))
    return sorted(found, key=lambda group: group.members[0])


class _Edges:
    """Which nodes feed which."""

    def __init__(self, trace: Trace) -> None:
        producer = {name: place for place, node in enumerate(trace.nodes) for name in node.outputs}
        self.before = [sorted({producer[name] for name in node.inputs if name in producer}) for node in trace.nodes]
        self.producer = producer


def _attention(trace: Trace, graph: _Edges, place: int) -> Group | None:
    """The attention whose product with the values is the node at `place`."""
    node = trace.nodes[place]
    if node.role is not Role.PRODUCT or node.weights or len(node.inputs) != 2:
        return None
    if node.inputs[0] not in graph.producer:
        return None
    after = _paths(trace, graph, [graph.producer[node.inputs[0]]], Role.SOFTMAX)
    if after is None:
        return None
    softmax, behind = after
    before = _paths(trace, graph, graph.before[softmax], Role.PRODUCT)
    if before is None or trace.nodes[before[0]].weights:
        return None
    members = sorted({before[0], *before[1], softmax, *behind, place})
    return Group(tuple(members), (before[0], softmax, place))


def _paths(trace: Trace, graph: _Edges, starts: Iterable[int], wanted: Role) -> tuple[int, set[int]] | None:
    """The one node of the role `wanted` that light nodes alone lie between, and those of them that it feeds."""
    seen: set[int] = set()
    ends: set[int] = set()
    stack = list(starts)
    while stack:
        place = stack.pop()
        if place in seen or place in ends:
            continue
        if trace.nodes[place].role is wanted:
            ends.add(place)
        elif trace.nodes[place].role in _LIGHT:
            seen.add(place)
            stack += graph.before[place]
    ends = {end for end in ends if wanted is not Role.PRODUCT or not trace.nodes[end].weights}
    if len(ends) != 1:
        return None
    end = ends.pop()
    fed = {end}
    for place in sorted(seen):
        if fed.intersection(graph.before[place]):
            fed.add(place)
    return end, fed - {end}


def _stages(trace: Trace, graph: _Edges, owner: dict[int, int]) -> list[int]:
    """How many operations that are not light precede each node, itself included, on the longest path."""
    stage: list[int] = []
    for place, node in enumerate(trace.nodes):
        before = max((stage[other] for other in graph.before[place]), default=0)
        stage.append(before + (node.role not in _LIGHT or place in owner))
    return stage


class _Joined:
    """Disjoint sets."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def root(self, item: int) -> int:
        while self._parent[item] != item:
            self._parent[item] = self._parent[self._parent[item]]
            item = self._parent[item]
        return item

    def join(self, one: int, other: int) -> None:
        self._parent[self.root(other)] = self.root(one)
