"""Operators that are read off a traced graph: amounts as functions of a batch, and convolutions.

`tuner.operators` names what language models are made of; what else a graph holds is one of these.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from tuner.operators import Operator
from tuner.step import NumberFormat, OperatorKind, Rows, Shard, StepLoad


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """An amount that grows with a batch of b sequences of length L:

        fixed + per_length L + per_square L^2 + b (per_sequence + per_token L + per_pair L^2)

    A model without a sequence dimension has `fixed` and `per_sequence` alone.
    """

    fixed: float = 0.0
    per_length: float = 0.0
    per_square: float = 0.0
    per_sequence: float = 0.0
    per_token: float = 0.0
    per_pair: float = 0.0

    def at(self, sequences: Any, length: Any) -> Any:
        """Its value; numbers give a number, arrays (both of one shape) an array."""
        alone = self.fixed + length * (self.per_length + length * self.per_square)
        return alone + sequences * (self.per_sequence + length * (self.per_token + length * self.per_pair))

    def of(self, load: StepLoad) -> float:
        """Its value for a step: prompts are sequences of their length, decoding sequences of one token."""
        total = 0.0
        if load.prefill_sequences:
            total += self.at(load.prefill_sequences, load.prefill_tokens / load.prefill_sequences)
        if load.decode_sequences:
            total += self.at(load.decode_sequences, 1.0)
        return total


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedWork(Operator):
    """`count` runs of work that no other class describes.

    Attributes:
        traced_kind: UNKNOWN for an operation that nobody has a rule for; it is counted by its bytes alone.
        operation: what the graph calls it.
        work: FLOPs of one run.
        moved: bytes of inputs and outputs of one run, weights apart.
        weights: learned values of one run; a table that rows are looked up in is not read as a whole.
        format: of the weights.
    """

    traced_kind: OperatorKind
    operation: str
    work: Extent
    moved: Extent
    weights: int = 0
    format: NumberFormat = NumberFormat.BF16

    @property
    def kind(self) -> OperatorKind:
        return self.traced_kind

    @property
    def parameters(self) -> int:
        return self.count * self.weights

    def weight_bytes(self, shard: Shard) -> float:
        del shard
        return self.parameters * self.format.bytes

    def flops(self, load: StepLoad, shard: Shard) -> float:
        del shard
        return self.count * self.work.of(load)

    def bytes_moved(self, load: StepLoad, shard: Shard) -> float:
        if not load.rows(Rows.SEQUENCE):
            return 0.0
        read = 0.0 if self.traced_kind is OperatorKind.EMBEDDING else self.weight_bytes(shard)
        return self.count * self.moved.of(load) + read


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolution(Operator):
    """`count` convolutions over inputs of a fixed size, one per sequence (image).

    Attributes:
        channels_in, channels_out: of the whole, all groups together.
        size: of the input, without channels; as many dimensions as `kernel`, `stride`, `padding` and `dilation`.
        padding: values added before and after each dimension together.
        groups: channels are cut into so many parts that do not mix.
        bias: whether outputs have one.
        format: of the weights.
        rows_each: inputs per sequence.
    """

    channels_in: int
    channels_out: int
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    bias: bool = False
    format: NumberFormat = NumberFormat.BF16
    rows_each: int = 1

    @property
    def kind(self) -> OperatorKind:
        return OperatorKind.CONVOLUTION

    @property
    def shape(self) -> str:
        """What it computes for one input, as text: equal for equal work."""
        names = ("channels_in", "channels_out", "size", "kernel", "stride", "padding", "dilation", "groups")
        return json.dumps({name: getattr(self, name) for name in names})

    @property
    def output_size(self) -> tuple[int, ...]:
        """Of the output, without channels."""
        return tuple(
            (size + padding - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, padding, dilation in zip(
                self.size, self.kernel, self.stride, self.padding, self.dilation, strict=True
            )
        )

    @property
    def parameters(self) -> int:
        weight = self.channels_out * (self.channels_in // self.groups) * math.prod(self.kernel)
        return self.count * (weight + (self.channels_out if self.bias else 0))

    def weight_bytes(self, shard: Shard) -> float:
        del shard
        return self.parameters * self.format.bytes

    def flops(self, load: StepLoad, shard: Shard) -> float:
        del shard
        return self.count * load.rows(Rows.SEQUENCE) * self.flops_each

    @property
    def flops_each(self) -> float:
        """Of one run on one sequence."""
        taps = self.channels_in // self.groups * math.prod(self.kernel)
        return 2.0 * self.rows_each * self.channels_out * math.prod(self.output_size) * taps

    @property
    def bytes_each(self) -> float:
        """Inputs and outputs of one run on one sequence."""
        values = self.channels_in * math.prod(self.size) + self.channels_out * math.prod(self.output_size)
        return self.rows_each * values * self.activation_bytes

    def bytes_moved(self, load: StepLoad, shard: Shard) -> float:
        images = load.rows(Rows.SEQUENCE)
        return self.count * images * self.bytes_each + self.weight_bytes(shard) if images else 0.0
