"""Blocks that encoders of text and of images share."""

from __future__ import annotations

from tuner.operators import Attention, MatMul, Operator, Pointwise
from tuner.step import Rows, Split


def blocks(
    layers: int,
    hidden: int,
    heads: int,
    inner: int,
    rows: Rows,
    norms: int = 2,
    biased_attention: bool = True,
    again: bool = False,
) -> list[Operator]:
    """`layers` encoder blocks with biases and `norms` norms; `again` where they run weights counted before."""
    head_dim = hidden // heads
    return [
        MatMul(
            name="qkv", count=layers, outputs=3 * hidden, inputs=hidden, bias=biased_attention, rows=rows,
            split=Split.OUTPUT, tied=again,
        ),
        Attention(
            name="self_attention", count=layers, heads=heads, kv_heads=heads, head_dim=head_dim, value_dim=head_dim,
            causal=False, rows=rows, keeps_cache=False,
        ),
        MatMul(
            name="attention_output", count=layers, outputs=hidden, inputs=hidden, bias=biased_attention, rows=rows,
            split=Split.INPUT, tied=again,
        ),
        MatMul(
            name="intermediate", count=layers, outputs=inner, inputs=hidden, bias=True, rows=rows, split=Split.OUTPUT,
            tied=again,
        ),
        Pointwise(name="activation", count=layers, width=inner, rows=rows, splits=True),
        MatMul(
            name="output", count=layers, outputs=hidden, inputs=inner, bias=True, rows=rows, split=Split.INPUT,
            tied=again,
        ),
        norm("layer_norms", norms * layers, hidden, rows, 0 if again else None),
    ]  # fmt: skip


def modern_blocks(
    layers: int,
    window: int | None,
    hidden: int,
    heads: int,
    inner: int,
    attention_bias: bool,
    mlp_bias: bool,
) -> list[Operator]:
    """`layers` blocks of ModernBERT without their norms: rotary positions, windows, a gated feed-forward."""
    head_dim = hidden // heads
    where = "full" if window is None else "sliding"
    return [
        MatMul(
            name="qkv", count=layers, outputs=3 * hidden, inputs=hidden, bias=attention_bias, split=Split.OUTPUT
        ),
        Pointwise(name="rotary", count=layers, width=2 * hidden, splits=True),
        Attention(
            name=f"{where}_attention", count=layers, heads=heads, kv_heads=heads, head_dim=head_dim,
            value_dim=head_dim, window=window, causal=False, keeps_cache=False,
        ),
        MatMul(
            name="attention_output", count=layers, outputs=hidden, inputs=hidden, bias=attention_bias,
            split=Split.INPUT,
        ),
        MatMul(name="gate_up", count=layers, outputs=2 * inner, inputs=hidden, bias=mlp_bias, split=Split.OUTPUT),
        Pointwise(name="activation", count=layers, width=inner, reads=2.0, splits=True),
        MatMul(name="output", count=layers, outputs=hidden, inputs=inner, bias=mlp_bias, split=Split.INPUT),
    ]  # fmt: skip


def norm(name: str, count: int, width: int, rows: Rows, values: int | None = None) -> Pointwise:
    """`count` norms of a weight and a bias per channel, or of `values` learned values."""
    weights = 2 * width if values is None else values
    return Pointwise(name=name, count=count, width=width, weights=weights, rows=rows, normalizes=True)
