"""Traces: the operations of a graph with every shape known, for one size of its batch and sequences."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass

from tuner.step import NumberFormat


class Role(enum.Enum):
    """What an operation costs, seen from afar."""

    PRODUCT = "product"
    CONVOLUTION = "convolution"
    ATTENTION = "attention"
    SOFTMAX = "softmax"
    NORMALIZATION = "normalization"
    ELEMENTWISE = "elementwise"
    MOVEMENT = "movement"
    LOOKUP = "lookup"
    FREE = "free"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Weight:
    """A learned tensor.

    Attributes:
        name: in the model.
        parameters: values in it.
        format: how they are stored.
    """

    name: str
    parameters: int
    format: NumberFormat


@dataclass(frozen=True, slots=True)
class TensorSize:
    """A tensor that flows.

    Attributes:
        shape: at this size of the batch.
        item_bytes: of one value.
    """

    shape: tuple[int, ...]
    item_bytes: float

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> float:
        return self.elements * self.item_bytes


@dataclass(frozen=True, slots=True)
class Product:
    """`batch` products of (rows, inputs) by (inputs, outputs)."""

    batch: int
    rows: int
    inputs: int
    outputs: int

    @property
    def flops(self) -> float:
        return 2.0 * self.batch * self.rows * self.inputs * self.outputs


@dataclass(frozen=True, slots=True)
class ConvolutionSize:
    """A convolution; see `tuner.traced_operators.Convolution`, `images` of them at once."""

    images: int
    channels_in: int
    channels_out: int
    size: tuple[int, ...]
    output_size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    transposed: bool = False

    @property
    def flops(self) -> float:
        """A transposed convolution multiplies once for each value of its input instead of its output."""
        positions = math.prod(self.size if self.transposed else self.output_size)
        taps = math.prod(self.kernel) * self.channels_in * self.channels_out // self.groups
        return 2.0 * self.images * positions * taps


@dataclass(frozen=True, slots=True)
class AttentionSize:
    """Softmax attention of `batch` sequences that a single operation computes."""

    batch: int
    heads: int
    kv_heads: int
    queries: int
    keys: int
    head_dim: int
    value_dim: int
    causal: bool = False

    @property
    def flops(self) -> float:
        """Masked pairs included, as kernels without a causal variant compute them."""
        return 2.0 * self.batch * self.heads * self.queries * self.keys * (self.head_dim + self.value_dim)


@dataclass(frozen=True, slots=True)
class Node:
    """One operation.

    Attributes:
        name: where it stands in the model.
        operation: what the graph calls it.
        inputs, outputs: names of tensors that flow; weights are apart.
        weights: that it reads.
        size: what it multiplies, where it does.
        extra_flops: beside those of `size`.
    """

    name: str
    operation: str
    role: Role
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: tuple[Weight, ...] = ()
    size: Product | ConvolutionSize | AttentionSize | None = None
    extra_flops: float = 0.0

    @property
    def flops(self) -> float:
        return (self.size.flops if self.size is not None else 0.0) + self.extra_flops


@dataclass(frozen=True, slots=True)
class Trace:
    """A graph at one size.

    Attributes:
        nodes: in an order in which they can run.
        tensors: by name; missing where nobody knows the size before the graph runs.
        outputs: of the whole graph.
    """

    nodes: tuple[Node, ...]
    tensors: Mapping[str, TensorSize]
    outputs: frozenset[str]
