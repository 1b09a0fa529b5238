"""What one forward pass is asked to do, what kinds of work it is made of, and how a model is cut and stored."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from tuner.errors import ModelError


class OperatorKind(enum.Enum):
    """Key operators, by what bounds them."""

    MATMUL = "matmul"
    CONVOLUTION = "convolution"
    ATTENTION = "attention"
    LINEAR_ATTENTION = "linear_attention"
    EXPERTS = "experts"
    NORMALIZATION = "normalization"
    ELEMENTWISE = "elementwise"
    EMBEDDING = "embedding"
    COLLECTIVE = "collective"
    UNKNOWN = "unknown"


class NumberFormat(enum.Enum):
    """How weights (or cache) are stored, with the bits that block scales add."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP8 = "fp8"
    FP8_BLOCK = "fp8_block"
    INT8 = "int8"
    INT4 = "int4"
    NVFP4 = "nvfp4"
    MXFP4 = "mxfp4"

    @property
    def bytes(self) -> float:
        """Bytes of one value, its share of the scales included."""
        return _BITS[self] / 8.0


_BITS = {
    NumberFormat.FP32: 32.0,
    NumberFormat.BF16: 16.0,
    NumberFormat.FP8: 8.0,
    NumberFormat.FP8_BLOCK: 8.0 + 32.0 / (128 * 128),
    NumberFormat.INT8: 8.0,
    NumberFormat.INT4: 4.0 + 16.0 / 32,
    NumberFormat.NVFP4: 4.0 + 8.0 / 16,
    NumberFormat.MXFP4: 4.0 + 8.0 / 32,
}


class Rows(enum.Enum):
    """What an operator runs once for."""

    TOKEN = "token"
    SEQUENCE = "sequence"
    PATCH = "patch"


class Split(enum.Enum):
    """Along what tensor parallelism cuts an operator's weights."""

    NONE = "none"
    OUTPUT = "output"
    INPUT = "input"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """How one replica is cut.

    Attributes:
        tensor: GPUs that share each attention layer and each dense layer.
        attention_replicas: copies of attention over which sequences are spread (attention data parallel).
        expert_tensor, expert_parallel: GPUs that share one expert; groups over which experts are spread.
        pipeline: stages.
    """

    tensor: int = 1
    attention_replicas: int = 1
    expert_tensor: int = 1
    expert_parallel: int = 1
    pipeline: int = 1

    def __post_init__(self) -> None:
        for name in ("tensor", "attention_replicas", "expert_tensor", "expert_parallel", "pipeline"):
            value = getattr(self, name)
            if value < 1:
                raise ModelError(f"A shard of {name}={value} is no shard. Write 1 or more.")

    @classmethod
    def tensor_parallel(cls, gpus: int) -> Shard:
        """Everything cut `gpus` ways."""
        return cls(tensor=gpus, expert_tensor=gpus)

    @property
    def gpus(self) -> int:
        """GPUs of one replica."""
        return self.tensor * self.attention_replicas * self.pipeline


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLoad:
    """What one forward pass is asked to do.

    Attributes:
        prefill_tokens: prompt tokens computed, over all sequences.
        prefill_sequences: sequences they belong to.
        prefill_context: tokens of each of those sequences that were cached before.
        decode_sequences: sequences that produce one token each.
        decode_context: tokens that each of those attends to.
        patches: image patches, where the model sees.
        counts_masked: also count the pairs that a causal mask throws away, as torch's counter does.
    """

    prefill_tokens: float = 0.0
    prefill_sequences: float = 0.0
    prefill_context: float = 0.0
    decode_sequences: float = 0.0
    decode_context: float = 0.0
    patches: float = 0.0
    counts_masked: bool = False

    def __post_init__(self) -> None:
        for name in (
            "prefill_tokens",
            "prefill_sequences",
            "prefill_context",
            "decode_sequences",
            "decode_context",
            "patches",
        ):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0:
                raise ModelError(f"A step of {name}={value} cannot be. Write a finite number of 0 or more.")

    def rows(self, rows: Rows) -> float:
        """How many rows of a kind the step has."""
        if rows is Rows.TOKEN:
            return self.prefill_tokens + self.decode_sequences
        if rows is Rows.SEQUENCE:
            return self.prefill_sequences + self.decode_sequences
        return self.patches

    @classmethod
    def prefill(cls, sequences: int, tokens: int) -> StepLoad:
        """`sequences` prompts of `tokens` each, from nothing."""
        return cls(prefill_tokens=sequences * tokens, prefill_sequences=sequences)

    @classmethod
    def decode(cls, sequences: int, context: int) -> StepLoad:
        """One token for each of `sequences` with `context` tokens."""
        return cls(decode_sequences=sequences, decode_context=context)
