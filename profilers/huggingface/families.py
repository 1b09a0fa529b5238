"""What tells one family of decoders from another, where no key of its configuration does.

A row states how a family departs from Llama: a gated feed-forward without biases, two RMS norms in a
layer, rotary positions. Sizes and what a family's configuration says itself are no part of it; what
it leaves out is in `defaults.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from profilers.huggingface.fields import Fields

Switch = bool | str
"""A fact of the family, or the key that says so (with `!` before it: that says the opposite)."""


class Mixer(Enum):
    """How a layer mixes tokens."""

    SOFTMAX = "softmax attention, of grouped heads or latent"
    DELTA = "gated delta rule"
    LIGHTNING = "linear attention with fixed decays"
    MAMBA = "selective state space of channels (Mamba)"
    MAMBA2 = "selective state space of heads (Mamba 2)"
    CONVOLUTION = "gated short convolution"
    CROSS = "attention to an image"


class HeadNorm(Enum):
    """How queries and keys are normalised."""

    SHARED = "one weight per channel of a head, for all heads"
    EACH = "one weight per channel of every head"
    WHOLE = "all heads together, as one row"


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How a family departs from Llama.

    Attributes:
        qkv_bias, out_bias, mlp_bias, head_bias: which products have biases: queries, keys and values; the output of
            attention; the feed-forward; the output layer.
        gated: whether a feed-forward multiplies two projections.
        norms: of a layer, outside of attention.
        joint: attention and feed-forward start from one norm, so that a layer has a single one.
        norm_values: learned values per channel of a norm: weight, and bias.
        norm_weights: whether there are any.
        final_norm: whether one follows the last layer.
        embedding_norm: whether embedded tokens are normalised.
        head_norm, head_norm_if: of queries and keys.
        positions: learned ones beyond the longest sequence; `None` for rotary positions and other ones without weights.
        output_gate: attention's output is gated by a projection as wide as the queries.
        sinks: each head has a learned one.
        expert_bias: routed experts and their router have biases.
        router_values: learned values that the router adds to each expert's score.
        shared_gate: shared experts are gated by one more projection.
        sparse_shared: a layer of experts runs as many shared ones, of the width of a routed one.
        dense_first: layers without experts before those with them, where `first_k_dense_replace` does not say.
        pattern: every so many layers, one attends to everything and the others to a window.
        linear: what its configurations mean by linear attention, or by a layer that is no attention.
        mixer_norms: whether a Mamba layer normalises its time steps and projections with weights.
    """

    qkv_bias: Switch = "attention_bias"
    out_bias: Switch = "attention_bias"
    mlp_bias: Switch = "mlp_bias"
    head_bias: Switch = "lm_head_bias"
    gated: bool = True
    norms: int = 2
    joint: Switch = False
    norm_values: int = 1
    norm_weights: Switch = True
    final_norm: Switch = True
    embedding_norm: bool = False
    head_norm: HeadNorm | None = None
    head_norm_if: Switch = True
    positions: int | None = None
    output_gate: Switch = "attn_output_gate"
    sinks: bool = False
    expert_bias: bool = False
    router_values: int = 0
    shared_gate: bool = False
    sparse_shared: int = 0
    dense_first: int = 0
    pattern: int | None = None
    linear: Mixer = Mixer.DELTA
    mixer_norms: bool = False


def holds(switch: Switch, config: Fields) -> bool:
    """Whether a switch is on in a configuration."""
    if isinstance(switch, bool):
        return switch
    return not config.flag(switch[1:], default=False) if switch.startswith("!") else config.flag(switch)


_LLAMA: Final = Family()
_QWEN2: Final = Family(qkv_bias=True, out_bias=False)
_QWEN3: Final = Family(head_norm=HeadNorm.SHARED)
_QWEN3_MOE: Final = replace(_QWEN3, shared_gate=True)
_GEMMA2: Final = Family(norms=4, pattern=2)
_GEMMA3: Final = Family(norms=4, head_norm=HeadNorm.SHARED, pattern=6)
_LATENT: Final = Family()
_GPT: Final = Family(qkv_bias=True, out_bias=True, mlp_bias=True, gated=False, norm_values=2)
_GPTJ: Final = replace(_GPT, qkv_bias=False, out_bias=False, joint=True, head_bias=True)
_GLM: Final = Family(out_bias=False)
_OLMO2: Final = Family(head_norm=HeadNorm.WHOLE)
_ERNIE: Final = Family(qkv_bias="use_bias", out_bias="use_bias", mlp_bias="use_bias")
_COHERE: Final = Family(joint=True)
_BAMBA: Final = Family(linear=Mixer.MAMBA2)

FAMILIES: Final[Mapping[str, Family]] = {
    "arcee": Family(gated=False),
    "aria_text": _LLAMA,
    "bamba": _BAMBA,
    "bloom": replace(_GPT, embedding_norm=True),
    "codegen": _GPTJ,
    "cohere": replace(_COHERE, head_norm=HeadNorm.EACH, head_norm_if="use_qk_norm"),
    "cohere2": replace(_COHERE, pattern=4),
    "cwm": _LLAMA,
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT,
    "deepseek_v32": _LATENT,
    "dots1": _QWEN3,
    "ernie4_5": _ERNIE,
    "ernie4_5_moe": replace(_ERNIE, head_bias="use_bias", router_values=1),
    "exaone4": replace(_QWEN3, qkv_bias=False, out_bias=False),
    "exaone_moe": replace(_QWEN3, qkv_bias=False, out_bias=False),
    "falcon": replace(_GPT, qkv_bias="bias", out_bias="bias", mlp_bias="bias"),
    "falcon_h1": _BAMBA,
    "falcon_mamba": Family(norms=1, linear=Mixer.MAMBA),
    "flex_olmo": replace(_OLMO2, pattern=None),
    "gemma": _LLAMA,
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA3,
    "gemma4_text": _GEMMA3,
    "glm": _GLM,
    "glm4": replace(_GLM, norms=4),
    "glm4_moe": replace(_GLM, head_norm=HeadNorm.SHARED, head_norm_if="use_qk_norm"),
    "glm4_moe_lite": replace(_LATENT, dense_first=1),
    "glm_moe_dsa": replace(_LATENT, dense_first=3),
    "gpt-sw3": replace(_GPT, positions=0),
    "gpt2": replace(_GPT, positions=0),
    "gpt_bigcode": replace(_GPT, positions=0),
    "gpt_neo": replace(_GPT, qkv_bias=False, positions=0, pattern=2),
    "gpt_neox": replace(_GPT, qkv_bias="attention_bias", out_bias="attention_bias"),
    "gpt_oss": Family(sinks=True, expert_bias=True),
    "gptj": _GPTJ,
    "granite": _LLAMA,
    "granite_swa": Family(sinks=True),
    "granitemoe": _LLAMA,
    "granitemoe_swa": Family(sinks=True),
    "granitemoehybrid": _BAMBA,
    "granitemoeshared": _LLAMA,
    "helium": _LLAMA,
    "hunyuan_v1_dense": _QWEN3,
    "hunyuan_v1_moe": replace(_QWEN3, sparse_shared=1),
    "internlm3": _LLAMA,
    "iquestcoder": _LLAMA,
    "jamba": Family(linear=Mixer.MAMBA, mixer_norms=True),
    "kimi_k2": _LATENT,
    "lfm2": replace(_QWEN3, qkv_bias=False, out_bias=False, linear=Mixer.CONVOLUTION),
    "llama": _LLAMA,
    "llama4_text": Family(sparse_shared=1, pattern=4),
    "mamba": Family(norms=1, linear=Mixer.MAMBA),
    "mamba2": Family(norms=1, linear=Mixer.MAMBA2),
    "minicpm3": _LATENT,
    "minimax": Family(linear=Mixer.LIGHTNING),
    "minimax_m2": Family(head_norm=HeadNorm.WHOLE),
    "ministral": _LLAMA,
    "ministral3": _LLAMA,
    "mistral": _LLAMA,
    "mixtral": _LLAMA,
    "mllama_text_model": _LLAMA,
    "mpt": replace(_GPT, qkv_bias=False, out_bias=False, mlp_bias=False, norm_values=1),
    "nemotron": Family(gated=False, norm_values=2),
    "nemotron_h": Family(linear=Mixer.MAMBA2, gated=False, norms=1, qkv_bias=False, out_bias=False),
    "olmo": Family(norm_values=0),
    "olmo2": _OLMO2,
    "olmo3": replace(_OLMO2, pattern=4),
    "olmoe": _OLMO2,
    "opt": replace(
        _GPT, qkv_bias="enable_bias", out_bias="enable_bias", mlp_bias="enable_bias", positions=2,
        final_norm="do_layer_norm_before", norm_weights="layer_norm_elementwise_affine",
    ),
    "persimmon": replace(_GPT, head_norm=HeadNorm.SHARED, head_norm_if="qk_layernorm"),
    "phi": replace(_GPT, joint=True, head_bias=True, head_norm=HeadNorm.SHARED, head_norm_if="qk_layernorm"),
    "phi3": _LLAMA,
    "phimoe": Family(norm_values=2),
    "qwen2": _QWEN2,
    "qwen2_5_vl_text": _QWEN2,
    "qwen2_moe": replace(_QWEN2, qkv_bias="qkv_bias", shared_gate=True),
    "qwen2_vl_text": _QWEN2,
    "qwen3": _QWEN3,
    "qwen3_5_moe_text": replace(_QWEN3_MOE, output_gate=True),
    "qwen3_5_text": replace(_QWEN3, output_gate=True),
    "qwen3_moe": _QWEN3,
    "qwen3_next": replace(_QWEN3_MOE, output_gate=True),
    "qwen3_vl_moe_text": _QWEN3,
    "qwen3_vl_text": _QWEN3,
    "seed_oss": replace(_LLAMA, out_bias="attention_out_bias"),
    "smollm3": _LLAMA,
    "solar_open": _LLAMA,
    "stablelm": Family(
        qkv_bias="use_qkv_bias", out_bias=False, joint="use_parallel_residual", norm_values=2,
        head_norm=HeadNorm.EACH, head_norm_if="qk_layernorm",
    ),
    "starcoder2": replace(_GPT, qkv_bias="use_bias", out_bias="use_bias", mlp_bias="use_bias"),
    "vaultgemma": replace(_LLAMA, pattern=2),
    "youtu": _LATENT,
}  # fmt: skip
"""Every family whose parameter count is that of `transformers`."""
