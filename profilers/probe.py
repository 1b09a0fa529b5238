"""Probes: one operator at one shape, and which of them a model needs."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from tuner.model_graph import ModelGraph
from tuner.operators import Attention, MatMul, Pointwise
from tuner.step import Rows, Shard


class ProbeKind(enum.Enum):
    """What is timed."""

    MATMUL = "matmul"
    ATTENTION = "attention"
    NORMALIZATION = "normalization"
    ACTIVATION = "activation"


@dataclass(frozen=True, slots=True, order=True)
class Probe:
    """One operator at one shape.

    Attributes:
        kind: by name, as in result tables.
        rows: tokens (or sequences) that run through it.
        width, inner: outputs and inputs of a product; heads x head width and head width of attention; width of a pass.
        length: tokens of each sequence, attention only.
        causal: whether attention looks back only.
    """

    kind: str
    rows: int
    width: int
    inner: int = 0
    length: int = 0
    causal: bool = False

    @property
    def flops(self) -> float:
        """A multiply-add counts as two."""
        if self.kind == ProbeKind.MATMUL.value:
            return 2.0 * self.rows * self.width * self.inner
        if self.kind == ProbeKind.ATTENTION.value:
            return 4.0 * self.rows * self.length * self.width * (0.5 if self.causal else 1.0)
        return 0.0


def probes(graph: ModelGraph, batches: Sequence[int], length: int, shard: Shard | None = None) -> list[Probe]:
    """What must be timed to know one pass over `batches` of sequences of `length`: the largest work first.

    Weights of one shape are one probe, however many layers have them.
    """
    shard = shard or Shard()
    found: set[Probe] = set()
    for operator in graph.operators:
        if getattr(operator, "rows", Rows.TOKEN) is Rows.PATCH:
            continue
        for batch in batches:
            rows = batch * length if getattr(operator, "rows", Rows.TOKEN) is Rows.TOKEN else batch
            if isinstance(operator, MatMul):
                outputs, inputs = operator.shape(shard)
                found.add(Probe(ProbeKind.MATMUL.value, rows, outputs, inputs))
            elif isinstance(operator, Attention):
                heads, _ = operator.shape(shard)
                width = heads * operator.head_dim
                found.add(
                    Probe(ProbeKind.ATTENTION.value, rows, width, operator.head_dim, length, causal=operator.causal)
                )
            elif isinstance(operator, Pointwise):
                kind = ProbeKind.NORMALIZATION if operator.normalizes else ProbeKind.ACTIVATION
                found.add(Probe(kind.value, rows, operator.width))
    return sorted(found, key=lambda probe: (-probe.flops, probe))
