"""Operators of a traced graph as a `ModelGraph`."""

from __future__ import annotations

from collections.abc import Sequence

from tuner.model_graph import ModelGraph
from tuner.operators import Attention, MatMul, Operator, Pointwise
from tuner.step import OperatorKind
from tuner.traced_operators import Convolution


def graph_of(name: str, family: str, operators: tuple[Operator, ...], assumptions: Sequence[str] = ()) -> ModelGraph:
    """A model that answers in one pass; layers are its attentions, or else its products and convolutions."""
    attentions = sum(operator.count for operator in operators if operator.kind is OperatorKind.ATTENTION)
    heavy = sum(operator.count for operator in operators if isinstance(operator, MatMul | Convolution))
    widths = [operator.heads * operator.head_dim for operator in operators if isinstance(operator, Attention)]
    widths += [operator.width for operator in operators if isinstance(operator, Pointwise)]
    unknown = sorted({operator.name for operator in operators if operator.kind is OperatorKind.UNKNOWN})
    notes = (f"no rule for {', '.join(unknown)}: counted by their bytes",) if unknown else ()
    return ModelGraph(
        name=name, family=family, operators=operators, layers=attentions or heavy or 1, hidden=max(widths[:1] or [1]),
        max_context=None, generates=False, assumptions=(*assumptions, *notes),
    )  # fmt: skip
