"""Vision towers of models that also see; text requests never run them, but their weights take memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from profilers.huggingface.blocks import blocks
from profilers.huggingface.fields import Fields
from tuner.operators import Attention, Embedding, MatMul, Operator, Pointwise
from tuner.step import Rows


def vision_tower(
    family: str, config: Fields, vision: Fields, text_hidden: int
) -> tuple[tuple[Operator, ...], tuple[str, ...]]:
    """Operators of the tower and of its bridge to the text model, and what had to be supposed."""
    known = _TOWERS.get(family)
    if known is not None:
        return known(vision, text_hidden), ()
    tower = plain_tower(vision)
    bridge = _bridge(family, config, vision, text_hidden)
    if not tower or bridge is None:
        return (), (f"the vision tower of {family!r} is not known: its weights are not counted",)
    return (*tower, *bridge), ()


def plain_tower(vision: Fields) -> tuple[Operator, ...]:
    """A tower that several families share, empty where it is none of those known."""
    kind = vision.text("model_type")
    if kind == "pixtral":
        return _pixtral(vision)
    if kind not in ("clip_vision_model", "siglip_vision_model"):
        return ()
    hidden, inner = vision.integer("hidden_size"), vision.integer("intermediate_size")
    heads, layers = vision.integer("num_attention_heads"), vision.integer("num_hidden_layers")
    patch, clip = vision.integer("patch_size"), kind == "clip_vision_model"
    places = (vision.integer("image_size") // patch) ** 2 + (2 if clip else 0)  # a class token and its place
    inputs = vision.integer("num_channels", default=3) * patch**2
    found: list[Operator] = [
        MatMul(name="vision.patch_embed", count=1, outputs=hidden, inputs=inputs, bias=not clip, rows=Rows.PATCH),
        Embedding(name="vision.positions", count=1, entries=places, width=hidden, rows=Rows.PATCH),
        *blocks(layers, hidden, heads, inner, Rows.PATCH),
        _norm("vision.outer_norms", 2 if clip else 1, hidden, 2 * hidden),
    ]
    if not clip and vision.flag("vision_use_head", default=True):
        found += [
            Embedding(name="vision.probe", count=1, entries=1, width=hidden, rows=Rows.SEQUENCE),
            *blocks(1, hidden, heads, inner, Rows.PATCH, norms=1),
        ]
    return tuple(found)


def _pixtral(vision: Fields) -> tuple[Operator, ...]:
    hidden, inner, layers = (vision.integer(name) for name in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    inputs = vision.integer("num_channels", default=3) * vision.integer("patch_size") ** 2
    return (
        MatMul(name="vision.patch_embed", count=1, outputs=hidden, inputs=inputs, rows=Rows.PATCH),
        *_gated_blocks(layers, hidden, vision.integer("num_attention_heads"), inner, biased=False),
        _norm("vision.input_norm", 1, hidden, hidden),
    )


def _bridge(family: str, config: Fields, vision: Fields, text_hidden: int) -> tuple[Operator, ...] | None:
    """From patches to tokens of the text model."""
    hidden = vision.integer("hidden_size")
    if family == "gemma3":
        return (
            MatMul(name="vision.projection", count=1, outputs=text_hidden, inputs=hidden, rows=Rows.PATCH),
            _norm("vision.projection_norm", 1, hidden, hidden),
        )
    biased = config.flag("multimodal_projector_bias", default=family != "mistral3")
    projector = (
        MatMul(name="vision.projector_in", count=1, outputs=text_hidden, inputs=hidden, bias=biased, rows=Rows.PATCH),
        MatMul(
            name="vision.projector_out", count=1, outputs=text_hidden, inputs=text_hidden, bias=biased,
            rows=Rows.PATCH,
        ),
    )  # fmt: skip
    if family == "llava":
        return projector
    if family == "llava_next":
        return (*projector, Embedding(name="vision.newline", count=1, entries=1, width=text_hidden, rows=Rows.PATCH))
    if family == "mistral3":
        merged = hidden * config.integer("spatial_merge_size", default=2) ** 2
        return (
            _norm("vision.merger_norm", 1, hidden, hidden),
            MatMul(name="vision.merger", count=1, outputs=hidden, inputs=merged, rows=Rows.PATCH),
            *projector,
        )
    return None


def _llama4(vision: Fields, text_hidden: int) -> tuple[Operator, ...]:
    hidden, inner, patch = (vision.integer(name) for name in ("hidden_size", "intermediate_size", "patch_size"))
    heads, layers = vision.integer("num_attention_heads"), vision.integer("num_hidden_layers")
    inputs = vision.integer("num_channels", default=3) * patch**2
    widths = (vision.integer("projector_input_dim"), vision.integer("projector_output_dim"))
    outputs = vision.integer("vision_output_dim")
    return (
        MatMul(name="vision.patch_embed", count=1, outputs=hidden, inputs=inputs, rows=Rows.PATCH),
        Embedding(
            name="vision.positions", count=1, entries=(vision.integer("image_size") // patch) ** 2 + 2, width=hidden,
            rows=Rows.PATCH,
        ),
        *blocks(layers, hidden, heads, inner, Rows.PATCH),
        _norm("vision.outer_norms", 2, hidden, 2 * hidden),
        MatMul(name="vision.adapter_in", count=1, outputs=widths[0], inputs=inner, rows=Rows.PATCH),
        MatMul(name="vision.adapter_out", count=1, outputs=widths[1], inputs=widths[1], rows=Rows.PATCH),
        MatMul(name="vision.projection", count=1, outputs=text_hidden, inputs=outputs, rows=Rows.PATCH),
    )  # fmt: skip


def _mllama(vision: Fields, text_hidden: int) -> tuple[Operator, ...]:
    """Llama 3.2 Vision: layers of tiles, then gated layers of the whole image."""
    hidden, inner, patch = (vision.integer(name) for name in ("hidden_size", "intermediate_size", "patch_size"))
    heads = vision.integer("attention_heads", "num_attention_heads")
    local, whole = vision.integer("num_hidden_layers"), vision.integer("num_global_layers")
    tiles = vision.integer("max_num_tiles")
    shapes = vision.length("supported_aspect_ratios", default=8) + 1
    places = (vision.integer("image_size") // patch) ** 2 + 1
    inputs = vision.integer("num_channels", default=3) * patch**2
    found = blocks(local + whole, hidden, heads, inner, Rows.PATCH, biased_attention=False)
    gates = 2 * whole + 3
    return (
        MatMul(name="vision.patch_embed", count=1, outputs=hidden, inputs=inputs, rows=Rows.PATCH),
        Embedding(name="vision.positions", count=1, entries=places + 1, width=hidden, rows=Rows.PATCH),
        Embedding(
            name="vision.tile_positions", count=1, entries=shapes, width=tiles * places * hidden, rows=Rows.PATCH
        ),
        Embedding(name="vision.tiles", count=2, entries=shapes, width=tiles * hidden, rows=Rows.PATCH),
        *found,
        Pointwise(name="vision.gates", count=gates, width=hidden, weights=1, rows=Rows.PATCH),
        _norm("vision.outer_norms", 2, hidden, 2 * hidden),
        MatMul(
            name="vision.projection", count=1, outputs=text_hidden, inputs=vision.integer("vision_output_dim"),
            bias=True, rows=Rows.PATCH,
        ),
    )  # fmt: skip


def _qwen2(vision: Fields, text_hidden: int) -> tuple[Operator, ...]:
    del text_hidden
    hidden, outputs = vision.integer("embed_dim"), vision.integer("hidden_size")
    inner = int(hidden * vision.number("mlp_ratio", default=4.0))
    found = blocks(vision.integer("depth"), hidden, vision.integer("num_heads"), inner, Rows.PATCH)
    merged = hidden * vision.integer("spatial_merge_size", default=2) ** 2
    return (_frames(vision, hidden), *found, *_merger(hidden, merged, outputs))


def _qwen2_5(vision: Fields, text_hidden: int) -> tuple[Operator, ...]:
    del text_hidden
    hidden, inner = vision.integer("hidden_size"), vision.integer("intermediate_size")
    merged = hidden * vision.integer("spatial_merge_size", default=2) ** 2
    return (
        _frames(vision, hidden),
        *_gated_blocks(vision.integer("depth"), hidden, vision.integer("num_heads"), inner, biased=True),
        *_merger(hidden, merged, vision.integer("out_hidden_size"), norm_values=hidden),
    )


def _frames(vision: Fields, hidden: int) -> Operator:
    """Patches of two frames each."""
    inputs = vision.integer("in_channels", "in_chans", default=3) * vision.integer("temporal_patch_size", default=2)
    inputs *= vision.integer("patch_size") ** 2
    return MatMul(name="vision.patch_embed", count=1, outputs=hidden, inputs=inputs, rows=Rows.PATCH)


def _gated_blocks(layers: int, hidden: int, heads: int, inner: int, biased: bool) -> tuple[Operator, ...]:
    """Encoder blocks with RMS norms and a gated feed-forward."""
    head_dim = hidden // heads
    return (
        MatMul(name="vision.qkv", count=layers, outputs=3 * hidden, inputs=hidden, bias=biased, rows=Rows.PATCH),
        Attention(
            name="vision.attention", count=layers, heads=heads, kv_heads=heads, head_dim=head_dim, value_dim=head_dim,
            causal=False, rows=Rows.PATCH, keeps_cache=False,
        ),
        MatMul(name="vision.o_proj", count=layers, outputs=hidden, inputs=hidden, bias=biased, rows=Rows.PATCH),
        MatMul(name="vision.gate_up", count=layers, outputs=2 * inner, inputs=hidden, bias=biased, rows=Rows.PATCH),
        MatMul(name="vision.down", count=layers, outputs=hidden, inputs=inner, bias=biased, rows=Rows.PATCH),
        _norm("vision.layer_norms", 2 * layers, hidden, hidden),
    )  # fmt: skip


def _qwen(vision: Fields, text_hidden: int) -> tuple[Operator, ...]:
    del text_hidden
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
    outputs = vision.integer("out_hidden_size")
    found += _merger(hidden, merged, outputs)
    for _ in vision.integers("deepstack_visual_indexes"):
        found += _merger(merged, merged, outputs)
    return tuple(found)


def _moon(vision: Fields, text_hidden: int) -> tuple[Operator, ...]:
    del text_hidden
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


def _merger(hidden: int, merged: int, text_hidden: int, norm_values: int | None = None) -> tuple[Operator, ...]:
    return (
        _norm("vision.merger_norm", 1, hidden, 2 * hidden if norm_values is None else norm_values),
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


_TOWERS: Final[dict[str, Callable[[Fields, int], tuple[Operator, ...]]]] = {
    "gemma4": _gemma,
    "kimi_k25": _moon,
    "llama4": _llama4,
    "mllama": _mllama,
    "qwen2_5_vl": _qwen2_5,
    "qwen2_vl": _qwen2,
    "qwen3_5": _qwen,
    "qwen3_5_moe": _qwen,
    "qwen3_vl": _qwen,
    "qwen3_vl_moe": _qwen,
}
"""Towers of one family each, their bridge included."""
