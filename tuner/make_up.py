"""What a model is made of, in a few numbers: how alike two models' operators are.

| name | meaning |
| --- | --- |
| `flops_share_KIND` | of the FLOPs of a pass over one sequence of 128 tokens (an image), what a kind of operator has |
| `bytes_share_KIND` | of the bytes moved, in that pass, or at 512 tokens in a decode step of a model that generates |
| `log_flops`, `log_bytes` | natural logarithms of both |
| `log_parameters`, `log_weight_bytes` | natural logarithms of the learned values, and of the bytes that they take |
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from tuner.model_graph import ModelGraph
from tuner.operators import Operator
from tuner.step import OperatorKind, Shard, StepLoad

_TOKENS: Final = 128
_CONTEXT: Final = 512
_KINDS: Final = tuple(kind for kind in OperatorKind if kind is not OperatorKind.COLLECTIVE)
"""A model on one GPU sums nothing over GPUs."""


def make_up(graph: ModelGraph) -> dict[str, float]:
    """The numbers of a model; every name is there, whatever the model."""
    whole = Shard()
    passed = StepLoad.prefill(1, _TOKENS)
    moved = StepLoad.decode(1, _CONTEXT) if graph.generates else passed
    return {
        **_shares("flops", graph, lambda operator: operator.flops(passed, whole)),
        **_shares("bytes", graph, lambda operator: operator.bytes_moved(moved, whole)),
        "log_parameters": _log(graph.parameters),
        "log_weight_bytes": _log(graph.weight_bytes(whole)),
    }


def _shares(name: str, graph: ModelGraph, amount: Callable[[Operator], float]) -> dict[str, float]:
    amounts = dict.fromkeys(_KINDS, 0.0)
    for operator in graph.operators:
        if operator.kind in amounts:
            amounts[operator.kind] += amount(operator)
    total = math.fsum(amounts.values())
    shares = {f"{name}_share_{kind.value}": each / total if total > 0 else 0.0 for kind, each in amounts.items()}
    return shares | {f"log_{name}": _log(total)}


def _log(amount: float) -> float:
    return math.log(max(amount, 1.0))
