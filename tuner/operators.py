"""Operators of a model: what each costs follows from the load of a step and the shard.

FLOPs count a multiply-add as two. Bytes are what must cross the memory bus once: weights, inputs,
outputs and cache. All amounts are those of one GPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tuner.step import NumberFormat, OperatorKind, Rows, Shard, Split, StepLoad

ACTIVATION_BYTES = 2
"""Engines that generate text keep activations in 16 bits; a traced graph says what it keeps them in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """`count` runs of one operation in a forward pass.

    Attributes:
        name: where it stands in the model.
        count: how often it runs, each time with weights of its own.
        activation_bytes: of one value that flows in or out.
    """

    name: str
    count: int
    activation_bytes: int = ACTIVATION_BYTES

    @property
    def kind(self) -> OperatorKind:
        """What bounds it."""
        raise NotImplementedError

    @property
    def parameters(self) -> int:
        """Learned values of all `count`."""
        return 0

    def weight_bytes(self, shard: Shard) -> float:
        """Weights of all `count` on one GPU."""
        del shard
        return 0.0

    def flops(self, load: StepLoad, shard: Shard) -> float:
        """Of all `count` on one GPU."""
        del load, shard
        return 0.0

    def bytes_moved(self, load: StepLoad, shard: Shard) -> float:
        """Over one GPU's memory bus, of all `count`."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class MatMul(Operator):
    """`count` products of rows by a weight of (inputs, outputs).

    Attributes:
        outputs, inputs: of the whole weight, before sharding.
        bias: whether outputs have one.
        rows: what it runs for.
        rows_each: rows of the product for each of those (patches of an image, say).
        split: how tensor parallelism cuts it.
        format: of the weight.
        tied: the weight belongs to another operator and is not counted again.
    """

    outputs: int
    inputs: int
    bias: bool = False
    rows: Rows = Rows.TOKEN
    rows_each: int = 1
    split: Split = Split.NONE
    format: NumberFormat = NumberFormat.BF16
    tied: bool = False

    @property
    def kind(self) -> OperatorKind:
        return OperatorKind.MATMUL

    @property
    def parameters(self) -> int:
        """Weights and biases of all `count`."""
        return 0 if self.tied else self.count * (self.outputs * self.inputs + (self.outputs if self.bias else 0))

    def shape(self, shard: Shard) -> tuple[int, int]:
        """(outputs, inputs) on one GPU."""
        outputs = self.outputs / shard.tensor if self.split is Split.OUTPUT else self.outputs
        inputs = self.inputs / shard.tensor if self.split is Split.INPUT else self.inputs
        return math.ceil(outputs), math.ceil(inputs)

    def weight_bytes(self, shard: Shard) -> float:
        """On one GPU; a tied weight is read, but stored elsewhere."""
        outputs, inputs = self.shape(shard)
        return 0.0 if self.tied else self.count * outputs * inputs * self.format.bytes

    def flops(self, load: StepLoad, shard: Shard) -> float:
        outputs, inputs = self.shape(shard)
        return 2.0 * self.count * load.rows(self.rows) * self.rows_each * outputs * inputs

    def bytes_moved(self, load: StepLoad, shard: Shard) -> float:
        outputs, inputs = self.shape(shard)
        rows = load.rows(self.rows) * self.rows_each
        if rows == 0:
            return 0.0
        return self.count * (outputs * inputs * self.format.bytes + rows * (outputs + inputs) * self.activation_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention(Operator):
    """`count` layers of softmax attention with grouped key and value heads.

    Attributes:
        heads, kv_heads: query heads, and key-value heads that they share.
        head_dim, value_dim: per head.
        window: tokens seen back, `None` for all.
        causal: whether a token sees only what came before it.
        sinks: whether each head has a learned sink.
        rows: tokens, or patches in a vision tower.
        keeps_cache: decoders do, encoders do not.
        shares_values: keys serve as values, so that one of them is cached.
        length: tokens of each sequence, where the model fixes them.
    """

    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    window: int | None = None
    causal: bool = True
    sinks: bool = False
    rows: Rows = Rows.TOKEN
    keeps_cache: bool = True
    shares_values: bool = False
    length: int | None = None

    @property
    def kind(self) -> OperatorKind:
        return OperatorKind.ATTENTION

    @property
    def parameters(self) -> int:
        return self.count * self.heads if self.sinks else 0

    def shape(self, shard: Shard) -> tuple[int, int]:
        """(query heads, key-value heads) on one GPU; key-value heads are copied once they run out."""
        return math.ceil(self.heads / shard.tensor), math.ceil(self.kv_heads / shard.tensor)

    def cached_tokens(self, context: float) -> float:
        """Tokens of a sequence that this layer keeps."""
        return context if self.window is None else min(context, self.window)

    def cache_bytes_per_token(self, shard: Shard, format: NumberFormat) -> float:
        """Keys and values of one token in all `count` layers, on one GPU."""
        if not self.keeps_cache:
            return 0.0
        _, kv_heads = self.shape(shard)
        width = self.head_dim if self.shares_values else self.head_dim + self.value_dim
        return self.count * kv_heads * width * format.bytes

    def flops(self, load: StepLoad, shard: Shard) -> float:
        """Of scores and values."""
        heads, _ = self.shape(shard)
        per_pair = 2.0 * self.count * heads * (self.head_dim + self.value_dim)
        if self.rows is Rows.PATCH:
            return per_pair * load.patches**2
        return per_pair * (self._prefill_pairs(load) + self._decode_pairs(load))

    def _prefill_pairs(self, load: StepLoad) -> float:
        if load.prefill_sequences == 0:
            return 0.0
        each = self.length or load.prefill_tokens / load.prefill_sequences
        seen = load.prefill_context
        if load.counts_masked or not self.causal:
            pairs = each * (each + seen)
        elif self.window is None:
            pairs = each * seen + each * (each + 1) / 2.0
        else:
            ramp = max(0.0, min(each, self.window - seen))
            pairs = ramp * seen + ramp * (ramp + 1) / 2.0 + (each - ramp) * self.window
        return load.prefill_sequences * pairs

    def _decode_pairs(self, load: StepLoad) -> float:
        return load.decode_sequences * self.cached_tokens(load.decode_context)

    def bytes_moved(self, load: StepLoad, shard: Shard) -> float:
        heads, kv_heads = self.shape(shard)
        rows = load.rows(self.rows) if self.length is None else load.rows(Rows.SEQUENCE) * self.length
        io = rows * (heads * (self.head_dim + self.value_dim)) * self.activation_bytes
        seen = load.prefill_sequences * self.cached_tokens(load.prefill_context) + self._decode_pairs(load) + rows
        return self.count * (io + seen * kv_heads * (self.head_dim + self.value_dim) * self.activation_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentAttention(Operator):
    """`count` layers of multi-head latent attention (DeepSeek-V2, 2024, section 2.1).

    Prompts are computed as `heads` heads of (nope_dim + rope_dim) keys and value_dim values; decoding
    absorbs the up-projections and attends to one shared latent of latent_dim + rope_dim.

    Attributes:
        heads: query heads.
        latent_dim, rope_dim: what is cached of a token.
        nope_dim, value_dim: per head, after the up-projection.
        selected: tokens attended to by a learned selection (sparse attention), `None` for all.
    """

    heads: int
    latent_dim: int
    rope_dim: int
    nope_dim: int
    value_dim: int
    selected: int | None = None

    @property
    def kind(self) -> OperatorKind:
        return OperatorKind.ATTENTION

    def shape(self, shard: Shard) -> int:
        """Query heads on one GPU; the latent is copied to all."""
        return math.ceil(self.heads / shard.tensor)

    def cached_tokens(self, context: float) -> float:
        return context

    def cache_bytes_per_token(self, shard: Shard, format: NumberFormat) -> float:
        """Latents of one token in all `count` layers; every GPU of the shard keeps a copy."""
        del shard
        return self.count * (self.latent_dim + self.rope_dim) * format.bytes

    def _attended(self, context: float) -> float:
        return context if self.selected is None else min(context, self.selected)

    def flops(self, load: StepLoad, shard: Shard) -> float:
        heads = self.shape(shard)
        each = load.prefill_tokens / load.prefill_sequences if load.prefill_sequences else 0.0
        new = each if load.counts_masked else (each + 1) / 2.0
        pairs = load.prefill_tokens * self._attended(load.prefill_context + new)
        prefill = pairs * 2.0 * (self.nope_dim + self.rope_dim + self.value_dim)
        decode = (
            load.decode_sequences * self._attended(load.decode_context) * 2.0 * (2 * self.latent_dim + self.rope_dim)
        )
        return self.count * heads * (prefill + decode)

    def bytes_moved(self, load: StepLoad, shard: Shard) -> float:
        width = self.latent_dim + self.rope_dim
        seen = (
            load.prefill_sequences * load.prefill_context
            + load.decode_sequences * self._attended(load.decode_context)
            + load.rows(Rows.TOKEN)
        )
        io = load.rows(Rows.TOKEN) * self.shape(shard) * (self.nope_dim + self.rope_dim + self.value_dim)
        return self.count * (seen * width + io) * self.activation_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearAttention(Operator):
    """`count` layers with a recurrent state in place of a cache (gated delta rule, Yang et al. 2024).

    Attributes:
        key_heads, value_heads: with their dimensions `key_dim`, `value_dim`.
        kernel: taps of the short convolution before it, 0 where there is none.
        kernel_bias: whether each channel of the convolution has a bias.
        head_values: learned values of each value head: decay and time step of the delta rule.
        chunk: tokens that a prompt is computed by at a time.
    """

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int = 4
    chunk: int = 64
    kernel_bias: bool = False
    head_values: int = 2

    @property
    def kind(self) -> OperatorKind:
        return OperatorKind.LINEAR_ATTENTION

    @property
    def convolved(self) -> int:
        """Channels of the short convolution."""
        return 2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim

    @property
    def parameters(self) -> int:
        """Of the convolution and of each head."""
        taps = self.kernel + (1 if self.kernel_bias else 0)
        return self.count * (self.convolved * taps + self.head_values * self.value_heads)

    def weight_bytes(self, shard: Shard) -> float:
        return self.parameters / shard.tensor * NumberFormat.BF16.bytes

    def state_bytes(self, shard: Shard) -> float:
        """State of one sequence in all `count` layers, kept in 32 bits, on one GPU."""
        state = self.value_heads * self.key_dim * self.value_dim * 4 + self.convolved * self.kernel * 2
        return self.count * state / shard.tensor

    def flops(self, load: StepLoad, shard: Shard) -> float:
        heads = math.ceil(self.value_heads / shard.tensor)
        recurrent = 8.0 * self.key_dim * self.value_dim
        chunked = 2.0 * (3 * self.key_dim * self.value_dim + self.chunk * (3 * self.key_dim + 2 * self.value_dim))
        taps = 2.0 * self.convolved / shard.tensor * self.kernel
        tokens = load.rows(Rows.TOKEN)
        return self.count * (
            heads * (load.decode_sequences * recurrent + load.prefill_tokens * chunked) + tokens * taps
        )

    def bytes_moved(self, load: StepLoad, shard: Shard) -> float:
        visits = load.decode_sequences + max(load.prefill_sequences, load.prefill_tokens / self.chunk / 8.0)
        width = (2 * self.convolved + self.value_heads * self.value_dim) / shard.tensor
        return (
            2.0 * self.state_bytes(shard) * visits + self.count * load.rows(Rows.TOKEN) * width * self.activation_bytes
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts(Operator):
    """`count` layers of routed experts, each a gated or plain two-matrix MLP.

    Attributes:
        experts, chosen: how many there are, and how many serve one token.
        hidden, inner: widths outside and inside an expert.
        gated: three matrices instead of two.
        bias: whether each matrix has one.
        format: of the weights.
    """

    experts: int
    chosen: int
    hidden: int
    inner: int
    gated: bool = True
    bias: bool = False
    format: NumberFormat = NumberFormat.BF16

    @property
    def kind(self) -> OperatorKind:
        return OperatorKind.EXPERTS

    @property
    def parameters_each(self) -> int:
        """Of one expert of one layer."""
        matrices = 3 if self.gated else 2
        biases = (2 if self.gated else 1) * self.inner + self.hidden if self.bias else 0
        return matrices * self.hidden * self.inner + biases

    @property
    def parameters(self) -> int:
        return self.count * self.experts * self.parameters_each

    def weight_bytes(self, shard: Shard) -> float:
        return self.parameters * self.format.bytes / (shard.expert_tensor * shard.expert_parallel)

    def touched(self, tokens: float) -> float:
        """Experts that at least one of `tokens` chooses, if all are equally likely."""
        return self.experts * (1.0 - math.pow(1.0 - self.chosen / self.experts, tokens))

    def flops(self, load: StepLoad, shard: Shard) -> float:
        matrices = 3 if self.gated else 2
        tokens = load.rows(Rows.TOKEN) * shard.attention_replicas
        work = 2.0 * matrices * self.hidden * self.inner * self.chosen * tokens
        return self.count * work / (shard.expert_tensor * shard.expert_parallel)

    def bytes_moved(self, load: StepLoad, shard: Shard) -> float:
        tokens = load.rows(Rows.TOKEN) * shard.attention_replicas
        if tokens == 0:
            return 0.0
        weights = self.touched(tokens) * self.parameters_each * self.format.bytes
        io = tokens * self.chosen * (2 * self.hidden + 3 * self.inner) * self.activation_bytes
        return self.count * (weights + io) / (shard.expert_tensor * shard.expert_parallel)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointwise(Operator):
    """`count` passes over rows that compute little: normalisations, activations, additions.

    Attributes:
        width: values of one row.
        rows_each: rows for each token, sequence or patch.
        reads, writes: how often a row crosses the memory bus.
        weights: learned values per pass.
        normalizes: whether it is a normalisation.
        splits: whether tensor parallelism cuts the width.
        format: of the learned values.
        arithmetic: whether it only adds, multiplies, compares or copies, as fast as the memory is.
    """

    width: int
    reads: float = 1.0
    writes: float = 1.0
    weights: int = 0
    rows: Rows = Rows.TOKEN
    rows_each: int = 1
    normalizes: bool = False
    splits: bool = False
    format: NumberFormat = NumberFormat.BF16
    arithmetic: bool = False

    @property
    def moved_width(self) -> int:
        """Values of one row that are read and written, on average."""
        return max(1, round(self.width * (self.reads + self.writes) / 2.0))

    @property
    def kind(self) -> OperatorKind:
        return OperatorKind.NORMALIZATION if self.normalizes else OperatorKind.ELEMENTWISE

    @property
    def parameters(self) -> int:
        return self.count * self.weights

    def weight_bytes(self, shard: Shard) -> float:
        del shard
        return self.parameters * self.format.bytes

    def bytes_moved(self, load: StepLoad, shard: Shard) -> float:
        width = self.width / shard.tensor if self.splits else self.width
        rows = load.rows(self.rows) * self.rows_each
        return self.count * rows * width * (self.reads + self.writes) * self.activation_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding(Operator):
    """`count` tables of `entries` rows, one looked up per row."""

    entries: int
    width: int
    rows: Rows = Rows.TOKEN
    rows_each: int = 1
    format: NumberFormat = NumberFormat.BF16

    @property
    def kind(self) -> OperatorKind:
        return OperatorKind.EMBEDDING

    @property
    def parameters(self) -> int:
        return self.count * self.entries * self.width

    def weight_bytes(self, shard: Shard) -> float:
        return self.parameters / shard.tensor * self.format.bytes

    def bytes_moved(self, load: StepLoad, shard: Shard) -> float:
        del shard
        return 2.0 * self.count * load.rows(self.rows) * self.rows_each * self.width * self.activation_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class AllReduce(Operator):
    """`count` sums of rows over the GPUs of a tensor-parallel group.

    Attributes:
        after_experts: the sum follows the experts, and runs over their groups.
    """

    width: int
    after_experts: bool = False

    @property
    def kind(self) -> OperatorKind:
        return OperatorKind.COLLECTIVE

    def group(self, shard: Shard) -> int:
        """GPUs that take part."""
        if self.after_experts:
            return max(shard.tensor, shard.expert_tensor * shard.expert_parallel)
        return shard.tensor

    def bytes_moved(self, load: StepLoad, shard: Shard) -> float:
        """Of one GPU's message."""
        if self.group(shard) == 1:
            return 0.0
        return self.count * load.rows(Rows.TOKEN) * self.width * self.activation_bytes
