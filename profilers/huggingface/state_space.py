"""Layers that keep a state instead of a cache: the gated delta rule, lightning attention, Mamba, short convolutions."""

from __future__ import annotations

import math
from typing import Final

from profilers.huggingface.dimensions import Dimensions
from profilers.huggingface.families import Mixer
from tuner.operators import AllReduce, LinearAttention, MatMul, Operator, Pointwise
from tuner.step import Split

_CHANNEL_CHUNK: Final = 8
"""Tokens of a chunk for a state of single channels, whose scan has no products over longer ones."""

SUPPOSED: Final = {
    Mixer.MAMBA: "state-space layers: parameters and projections are exact, the scan is timed as linear attention",
    Mixer.MAMBA2: "state-space layers: parameters and projections are exact, the scan is timed as linear attention",
    Mixer.LIGHTNING: "lightning attention is timed as the gated delta rule",
    Mixer.CONVOLUTION: "short convolutions are timed by the bytes that they move",
}
"""What is supposed of mixers without a model of their own."""


def delta_rule(dimensions: Dimensions, count: int) -> list[Operator]:
    """The gated delta rule (Qwen3-Next, Qwen3.5)."""
    config, hidden = dimensions.config, dimensions.hidden
    mixer = LinearAttention(
        name="gated_delta_rule", count=count,
        key_heads=config.integer("linear_num_key_heads"), value_heads=config.integer("linear_num_value_heads"),
        key_dim=config.integer("linear_key_head_dim"), value_dim=config.integer("linear_value_head_dim"),
        kernel=config.integer("linear_conv_kernel_dim", default=4),
    )  # fmt: skip
    values = mixer.value_heads * mixer.value_dim
    format = dimensions.quantization.of("model.layers.0.linear_attn.out_proj")
    return [
        MatMul(
            name="in_proj_qkvz", count=count, outputs=mixer.convolved + values, inputs=hidden,
            split=Split.OUTPUT, format=format,
        ),
        MatMul(name="in_proj_ba", count=count, outputs=2 * mixer.value_heads, inputs=hidden, split=Split.OUTPUT),
        mixer,
        dimensions.norm("gated_norm", count, values, mixer.value_dim),
        MatMul(
            name="out_proj", count=count, outputs=hidden, inputs=values, split=Split.INPUT, format=format
        ),
        AllReduce(name="attention_all_reduce", count=count, width=hidden),
    ]  # fmt: skip


def lightning(dimensions: Dimensions, count: int) -> list[Operator]:
    """Linear attention with a fixed decay per head and a gated output (MiniMax-01, 2025, section 2.2)."""
    hidden, heads, head_dim = dimensions.hidden, dimensions.heads, dimensions.head_dim
    width = heads * head_dim
    return [
        *_into(dimensions, count, 4 * width, False),
        LinearAttention(
            name="lightning_attention", count=count, key_heads=heads, value_heads=heads, key_dim=head_dim,
            value_dim=head_dim, kernel=0, head_values=0,
        ),
        dimensions.norm("mixer_norm", count, width),
        *_out_of(dimensions, count, width, hidden, False),
    ]  # fmt: skip


def mamba2(dimensions: Dimensions, count: int) -> list[Operator]:
    """State-space duality with heads (Mamba 2, Dao and Gu 2024)."""
    config, hidden = dimensions.config, dimensions.hidden
    heads = config.integer("mamba_n_heads", "mamba_num_heads", "num_heads")
    if config.text("mamba_d_head") == "auto":
        head_dim = (config.optional("mamba_d_ssm") or config.integer("mamba_expand") * hidden) // heads
    else:
        head_dim = config.integer("mamba_d_head", "mamba_head_dim", "head_dim")
    width = heads * head_dim
    mixer = LinearAttention(
        name="state_space", count=count, value_heads=heads, value_dim=head_dim,
        key_heads=config.integer("mamba_n_groups", "n_groups", default=1),
        key_dim=config.integer("mamba_d_state", "ssm_state_size", "state_size"),
        kernel=config.integer("mamba_d_conv", "conv_kernel", default=4),
        kernel_bias=config.flag("mamba_conv_bias", "use_conv_bias", default=True), head_values=3,
    )  # fmt: skip
    biased = config.flag("use_bias", "mamba_proj_bias")
    found = [*_into(dimensions, count, width + mixer.convolved + heads, biased), mixer]
    if config.flag("mamba_rms_norm", default=True):
        found.append(dimensions.norm("mixer_norm", count, width, width))
    out_biased = config.flag("projectors_bias", default=biased)
    return [*found, *_out_of(dimensions, count, width, hidden, out_biased)]


def mamba(dimensions: Dimensions, count: int) -> list[Operator]:
    """A selective state space of each channel (Mamba, Gu and Dao 2023)."""
    config, hidden = dimensions.config, dimensions.hidden
    width = config.integer("mamba_expand", "expand", default=2) * hidden
    if "attn_layer_period" not in config:
        width = config.integer("intermediate_size", default=width)
    state = config.integer("mamba_d_state", "state_size", default=16)
    named = next((name for name in ("mamba_dt_rank", "time_step_rank") if name in config), None)
    automatic = named is None or config.text(named) == "auto"
    rank = math.ceil(hidden / 16) if automatic else config.integer("mamba_dt_rank", "time_step_rank")
    biased = config.flag("mamba_proj_bias", "use_bias")
    found: list[Operator] = [
        *_into(dimensions, count, 2 * width, biased),
        MatMul(name="mixer.x_proj", count=count, outputs=rank + 2 * state, inputs=width, split=Split.INPUT),
        MatMul(name="mixer.dt_proj", count=count, outputs=width, inputs=rank, split=Split.OUTPUT, bias=True),
        LinearAttention(
            name="state_space", count=count, key_heads=0, value_heads=width, key_dim=state, value_dim=1,
            kernel=config.integer("mamba_d_conv", "conv_kernel", default=4),
            kernel_bias=config.flag("mamba_conv_bias", "use_conv_bias", default=True), head_values=state + 1,
            chunk=_CHANNEL_CHUNK,
        ),
    ]  # fmt: skip
    if dimensions.facts.mixer_norms:
        found.append(dimensions.norm("mixer_norms", count, rank + 2 * state))
    return [*found, *_out_of(dimensions, count, width, hidden, biased)]


def short_convolution(dimensions: Dimensions, count: int) -> list[Operator]:
    """A convolution over a few tokens between two gates (LFM2)."""
    config, hidden = dimensions.config, dimensions.hidden
    biased = config.flag("conv_bias")
    taps = config.integer("conv_L_cache", default=3) + (1 if biased else 0)
    return [
        *_into(dimensions, count, 3 * hidden, biased),
        Pointwise(name="short_convolution", count=count, width=hidden, reads=3.0, weights=hidden * taps, splits=True),
        *_out_of(dimensions, count, hidden, hidden, biased),
    ]


def _into(dimensions: Dimensions, count: int, outputs: int, biased: bool) -> list[Operator]:
    format = dimensions.quantization.of("model.layers.0.mamba.in_proj")
    return [
        MatMul(
            name="mixer.in_proj", count=count, outputs=outputs, inputs=dimensions.hidden, split=Split.OUTPUT,
            format=format, bias=biased,
        )
    ]  # fmt: skip


def _out_of(dimensions: Dimensions, count: int, width: int, hidden: int, biased: bool) -> list[Operator]:
    format = dimensions.quantization.of("model.layers.0.mamba.out_proj")
    return [
        MatMul(
            name="mixer.out_proj", count=count, outputs=hidden, inputs=width, split=Split.INPUT, format=format,
            bias=biased,
        ),
        AllReduce(name="attention_all_reduce", count=count, width=hidden),
    ]  # fmt: skip
