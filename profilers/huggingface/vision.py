"""Vision towers of models that also see; text requests never run them, but their weights take memory."""

from __future__ import annotations

from profilers.huggingface.encoder import blocks
from profilers.huggingface.fields import Fields
from tuner.operators import Attention, Embedding, MatMul, Operator, Pointwise
from tuner.step import Rows


def vision_tower(family: str, vision: Fields, text_hidden: int) -> tuple[tuple[Operator, ...], tuple[str, ...]]:
    """Operators of the tower and of its bridge to the text model, and what had to be supposed."""
    if family.startswith(("qwen3_5", "qwen3_vl")):
        return _qwen(vision), ()
    if family == "kimi_k25":
        return _moon(vision), ()
    if family == "gemma4":
        return _gemma(vision, text_hidden), ()
    return (), (f"the vision tower of {family!r} is not known: its weights are not counted",)


def _qwen(vision: Fields) -> tuple[Operator, ...]:
    hidden = vision.integer("hidden_size")
    patch = vision.integer("patch_size")
    inputs = vision.integer("in_channels", default=3) * vision.integer("temporal_patch_size", default=2) * patch**2
    merged = hidden * vision.integer("spatial_merge_size", default=2) ** 2
    found: list[Operator] = [
        MatMul(name="vision.patch_embed", count=1, outputs=hidden, inputs=inputs, bias=True, rows=Rows.PATCH),
        Embedding(
            name="vision.positions", count=1, entries=vision.integer("num_position_embeddings"), width=hidden,
            rows=Rows.PATCH,
        ),
    ]  # fmt: skip
    inner = vision.integer("intermediate_size")
    found += blocks(vision.integer("depth"), hidden, vision.integer("num_heads"), inner, Rows.PATCH)
    return (*found, *_merger(hidden, merged, vision.integer("out_hidden_size")))


def _moon(vision: Fields) -> tuple[Operator, ...]:
    hidden, patch = vision.integer("vt_hidden_size"), vision.integer("patch_size")
    height, width = vision.integer("init_pos_emb_height"), vision.integer("init_pos_emb_width")
    kernel = vision.integers("merge_kernel_size") or (2, 2)
    found: list[Operator] = [
        MatMul(name="vision.patch_embed", count=1, outputs=hidden, inputs=3 * patch**2, bias=True, rows=Rows.PATCH),
        Embedding(name="vision.positions", count=1, entries=height * width, width=hidden, rows=Rows.PATCH),
    ]
    heads, inner = vision.integer("vt_num_attention_heads"), vision.integer("vt_intermediate_size")
    found += blocks(vision.integer("vt_num_hidden_layers"), hidden, heads, inner, Rows.PATCH)
    found.append(_norm("vision.final_norm", 1, hidden, 2 * hidden))
    return (*found, *_merger(hidden, hidden * kernel[0] * kernel[1], vision.integer("text_hidden_size")))


def _merger(hidden: int, merged: int, text_hidden: int) -> tuple[Operator, ...]:
    return (
        _norm("vision.merger_norm", 1, hidden, 2 * hidden),
        MatMul(name="vision.merger_in", count=1, outputs=merged, inputs=merged, bias=True, rows=Rows.PATCH),
        MatMul(name="vision.merger_out", count=1, outputs=text_hidden, inputs=merged, bias=True, rows=Rows.PATCH),
    )


def _gemma(vision: Fields, text_hidden: int) -> tuple[Operator, ...]:
    hidden, layers = vision.integer("hidden_size"), vision.integer("num_hidden_layers")
    heads, head_dim = vision.integer("num_attention_heads"), vision.integer("head_dim")
    kv_heads = vision.integer("num_key_value_heads", default=heads)
    inner, patch = vision.integer("intermediate_size"), vision.integer("patch_size")
    positions = vision.integer("position_embedding_size")
    queries, keys = heads * head_dim, kv_heads * head_dim
    return (
        MatMul(name="vision.patch_embed", count=1, outputs=hidden, inputs=3 * patch**2, rows=Rows.PATCH),
        Embedding(name="vision.positions", count=2, entries=positions, width=hidden, rows=Rows.PATCH),
        MatMul(name="vision.qkv", count=layers, outputs=queries + 2 * keys, inputs=hidden, rows=Rows.PATCH),
        Attention(
            name="vision.attention", count=layers, heads=heads, kv_heads=kv_heads, head_dim=head_dim,
            value_dim=head_dim, causal=False, rows=Rows.PATCH, keeps_cache=False,
        ),
        MatMul(name="vision.o_proj", count=layers, outputs=hidden, inputs=queries, rows=Rows.PATCH),
        MatMul(name="vision.gate_up", count=layers, outputs=2 * inner, inputs=hidden, rows=Rows.PATCH),
        MatMul(name="vision.down", count=layers, outputs=hidden, inputs=inner, rows=Rows.PATCH),
        _norm("vision.head_norms", 2 * layers, queries, head_dim),
        _norm("vision.layer_norms", 4 * layers, hidden, hidden),
        MatMul(name="vision.projection", count=1, outputs=text_hidden, inputs=hidden, rows=Rows.PATCH),
    )  # fmt: skip


def _norm(name: str, count: int, width: int, weights: int) -> Pointwise:
    return Pointwise(name=name, count=count, width=width, weights=weights, rows=Rows.PATCH, normalizes=True)
