"""Probes: one operator at one shape, and which of them a model needs."""

from __future__ import annotations

import enum
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tuner.model_graph import ModelGraph
from tuner.operators import AllReduce, Attention, MatMul, Operator, Pointwise
from tuner.step import Rows, Shard
from tuner.traced_operators import Convolution


class ProbeKind(enum.Enum):
    """What is timed."""

    MATMUL = "matmul"
    ATTENTION = "attention"
    DECODE_ATTENTION = "decode_attention"
    EXPERTS = "experts"
    CONVOLUTION = "convolution"
    NORMALIZATION = "normalization"
    ACTIVATION = "activation"
    ARITHMETIC = "arithmetic"
    ALL_REDUCE = "all_reduce"
    ALL_GATHER = "all_gather"


@dataclass(frozen=True, slots=True, order=True)
class Probe:
    """One operator at one shape.

    Attributes:
        kind: by name, as in result tables.
        rows: tokens, sequences or images that run through it; ranks that take part in a sum.
        width, inner: outputs and inputs of a product; heads x head width and head width of attention; channels out of
            and into a convolution; widths outside and inside an expert; width of a pass; values of a sum.
        length: tokens of each sequence, attention only; those that are cached while one more is decoded.
        causal: whether attention looks back only.
        detail: JSON of what a convolution is beside (`size`, `kernel`, `stride`, `padding`, `dilation`, `groups`), or
            experts (`experts`, `chosen`, and GPUs to one expert and groups of them, `tensor`, `groups`).
        kv_heads: of attention, 0 for as many as heads.
        window: tokens that attention sees back, 0 for all.
        format: of a product's weights; empty for the device's usual one.
    """

    kind: str
    rows: int
    width: int
    inner: int = 0
    length: int = 0
    causal: bool = False
    detail: str = ""
    kv_heads: int = 0
    window: int = 0
    format: str = ""

    @property
    def flops(self) -> float:
        """A multiply-add counts as two."""
        if self.kind == ProbeKind.MATMUL.value:
            return 2.0 * self.rows * self.width * self.inner
        if self.kind == ProbeKind.ATTENTION.value:
            return 4.0 * self.rows * self.length * self.width * (0.5 if self.causal else 1.0)
        if self.kind == ProbeKind.DECODE_ATTENTION.value:
            return 4.0 * self.rows * self.seen * self.width
        if self.kind == ProbeKind.EXPERTS.value:
            known = self.routing()
            share = known["chosen"] / (known["tensor"] * known["groups"])
            return 6.0 * self.rows * share * self.width * self.inner
        if self.kind == ProbeKind.CONVOLUTION.value:
            return self.rows * self.convolution().flops_each
        return 0.0

    @property
    def seen(self) -> int:
        """Tokens of a sequence that one new token attends to."""
        return min(self.length, self.window) if self.window else self.length

    @property
    def values_moved(self) -> float:
        """Numbers read and written once, weights included."""
        if self.kind == ProbeKind.MATMUL.value:
            return float(self.width * self.inner + self.rows * (self.width + self.inner))
        shared = self.kv_heads * self.inner if self.kv_heads else self.width
        if self.kind == ProbeKind.ATTENTION.value:
            return 2.0 * self.rows * (self.width + shared)
        if self.kind == ProbeKind.DECODE_ATTENTION.value:
            return 2.0 * self.rows * (self.seen * shared + self.width)
        if self.kind == ProbeKind.EXPERTS.value:
            known = self.routing()
            weights = 3.0 * known["experts"] * self.width * self.inner / (known["tensor"] * known["groups"])
            return weights + 2.0 * self.rows * self.width
        if self.kind == ProbeKind.CONVOLUTION.value:
            found = self.convolution()
            return found.parameters + self.rows * found.bytes_each / found.activation_bytes
        if self.kind in (ProbeKind.ALL_REDUCE.value, ProbeKind.ALL_GATHER.value):
            return float(self.inner)
        return 2.0 * self.rows * self.width

    @property
    def values_held(self) -> float:
        """Numbers in memory at once: an attention that is not fused also keeps its scores."""
        fused = self.kind == ProbeKind.DECODE_ATTENTION.value
        scores = self.rows * self.length * (self.width / self.inner) if self.length and not fused else 0.0
        return self.values_moved + 2.0 * scores

    def routing(self) -> dict[str, int]:
        """What a probe of experts says in `detail`."""
        return {name: int(value) for name, value in json.loads(self.detail).items()}

    def convolution(self) -> Convolution:
        """The convolution that a probe of one times."""
        said: dict[str, Any] = json.loads(self.detail)
        groups = int(said.pop("groups"))
        shape = {name: tuple(value) for name, value in said.items()}
        return Convolution(
            name="probe", count=1, channels_in=self.inner, channels_out=self.width, groups=groups,
            size=shape["size"], kernel=shape["kernel"], stride=shape["stride"], padding=shape["padding"],
            dilation=shape["dilation"],
        )  # fmt: skip


def probe_of(operator: Operator, batch: int, length: int, shard: Shard | None = None) -> Probe | None:
    """What must be timed to know one run of an operator for `batch` sequences of `length`; `None` if no probe does."""
    shard = shard or Shard()
    rows_of = getattr(operator, "rows", Rows.SEQUENCE)
    if rows_of is Rows.PATCH:
        return None
    if isinstance(operator, AllReduce):
        ranks = operator.group(shard)
        return Probe(ProbeKind.ALL_REDUCE.value, ranks, 1, batch * length * operator.width) if ranks > 1 else None
    rows = batch * (length if rows_of is Rows.TOKEN else 1) * getattr(operator, "rows_each", 1)
    if isinstance(operator, MatMul):
        outputs, inputs = operator.shape(shard)
        return Probe(ProbeKind.MATMUL.value, rows, outputs, inputs)
    if isinstance(operator, Attention):
        length = operator.length or length
        heads, _ = operator.shape(shard)
        width = heads * operator.head_dim
        rows = batch * length
        return Probe(ProbeKind.ATTENTION.value, rows, width, operator.head_dim, length, causal=operator.causal)
    if isinstance(operator, Convolution):
        names = ("size", "kernel", "stride", "padding", "dilation", "groups")
        detail = json.dumps({name: getattr(operator, name) for name in names})
        return Probe(
            ProbeKind.CONVOLUTION.value, rows, operator.channels_out, operator.channels_in, detail=detail
        )  # fmt: skip
    if isinstance(operator, Pointwise):
        if operator.arithmetic:
            return Probe(ProbeKind.ARITHMETIC.value, rows, operator.moved_width)
        kind = ProbeKind.NORMALIZATION if operator.normalizes else ProbeKind.ACTIVATION
        return Probe(kind.value, rows, operator.width)
    return None


def probes(graph: ModelGraph, batches: Sequence[int], length: int, shard: Shard | None = None) -> list[Probe]:
    """What must be timed to know one pass over `batches` of sequences of `length`: the largest work first.

    Weights of one shape are one probe, however many layers have them.
    """
    found = {
        probe
        for operator in graph.operators
        for batch in batches
        if (probe := probe_of(operator, batch, length, shard)) is not None
    }
    return sorted(found, key=lambda probe: (-probe.flops, -probe.values_moved, probe))
