"""Encoders: BERT and its kin, ModernBERT, vision transformers, and pairs of a text and an image encoder."""

from __future__ import annotations

from typing import Final

from profilers.huggingface.blocks import blocks, modern_blocks, norm
from profilers.huggingface.defaults import part
from profilers.huggingface.fields import Fields
from profilers.huggingface.vision import plain_tower
from tuner.errors import ModelError
from tuner.operators import Embedding, MatMul, Operator, Pointwise
from tuner.step import Rows
from tuner.traced_operators import Convolution

TEXT_ENCODERS: Final = frozenset(
    {
        "albert", "bert", "camembert", "deberta-v2", "distilbert", "electra", "modernbert", "mpnet", "roberta",
        "xlm-roberta", "xlm-roberta-xl",
    }
)  # fmt: skip
PAIRS: Final = frozenset({"clip", "siglip"})
"""A text and an image encoder, side by side."""

_WITHOUT_TYPES: Final = frozenset({"distilbert", "mpnet"})
_WITHOUT_POOLER: Final = frozenset({"deberta-v2", "distilbert", "electra", "modernbert"})


def text_encoder(config: Fields) -> tuple[Operator, ...]:
    """Operators of a text encoder, its pooler included where the family has one."""
    family = config.text("model_type")
    if family == "modernbert":
        return _modern_bert(config)
    hidden = config.integer("hidden_size", "dim")
    layers = config.integer("num_hidden_layers", "n_layers")
    heads = config.integer("num_attention_heads", "n_heads")
    inner = config.integer("intermediate_size", "hidden_dim")
    found = _embeddings(config, family, hidden)
    if family == "albert":
        found += _shared_blocks(config, layers, hidden, heads, inner)
    else:
        found += blocks(layers, hidden, heads, inner, Rows.TOKEN)
    if family == "xlm-roberta-xl":
        found.append(norm("final_norm", 1, hidden, Rows.TOKEN))
    if family == "mpnet":
        buckets = config.integer("relative_attention_num_buckets", default=32)
        found.append(Embedding(name="relative_positions", count=1, entries=buckets, width=heads, rows=Rows.SEQUENCE))
    if family == "deberta-v2":
        found += _disentangled(config, layers, hidden)
    if family not in _WITHOUT_POOLER:
        found.append(MatMul(name="pooler", count=1, outputs=hidden, inputs=hidden, bias=True, rows=Rows.SEQUENCE))
    return tuple(found)


def _embeddings(config: Fields, family: str, hidden: int) -> list[Operator]:
    embedded = config.integer("embedding_size", default=hidden)
    positions = config.flag("position_biased_input", default=True)
    types = 0 if family in _WITHOUT_TYPES else config.integer("type_vocab_size", default=2)
    found: list[Operator] = [
        Embedding(name="word_embeddings", count=1, entries=config.integer("vocab_size"), width=embedded)
    ]
    if positions:
        longest = config.integer("max_position_embeddings")
        found.append(Embedding(name="position_embeddings", count=1, entries=longest, width=embedded))
    if family != "xlm-roberta-xl":
        found.append(norm("embedding_norm", 1, hidden if family == "deberta-v2" else embedded, Rows.TOKEN))
    if types:
        found.append(Embedding(name="token_type_embeddings", count=1, entries=types, width=embedded))
    if embedded != hidden or family == "albert":
        biased = family != "deberta-v2"
        found.append(MatMul(name="embeddings_project", count=1, outputs=hidden, inputs=embedded, bias=biased))
    return found


def _shared_blocks(config: Fields, layers: int, hidden: int, heads: int, inner: int) -> list[Operator]:
    """ALBERT: layers that run the same weights again."""
    groups, each = config.optional("num_hidden_groups") or 1, config.optional("inner_group_num") or 1
    if groups > layers:
        raise ModelError(f"{config.source}: {groups} groups of layers are more than {layers} layers. Lower the former.")
    found = blocks(groups * each, hidden, heads, inner, Rows.TOKEN)
    if layers > groups:
        found += blocks((layers - groups) * each, hidden, heads, inner, Rows.TOKEN, again=True)
    return found


def _disentangled(config: Fields, layers: int, hidden: int) -> list[Operator]:
    """DeBERTa: attention to relative positions (He et al. 2021, section 3.1), and a convolution beside a layer."""
    found: list[Operator] = []
    kernel = config.integer("conv_kernel_size", default=0)
    if kernel:
        groups = config.integer("conv_groups", default=1)
        found.append(MatMul(name="convolution", count=1, outputs=hidden, inputs=kernel * hidden // groups, bias=True))
        found.append(norm("convolution_norm", 1, hidden, Rows.TOKEN))
    if not config.flag("relative_attention"):
        return found
    span = int(config.number("position_buckets", default=-1.0))
    if span <= 0:
        span = int(config.number("max_relative_positions", default=-1.0))
    if span <= 0:
        span = config.integer("max_position_embeddings")
    stated = config.text("pos_att_type").split("|") if config.text("pos_att_type") else config.texts("pos_att_type")
    kinds = [kind for kind in stated if kind in ("c2p", "p2c")]
    found.append(Embedding(name="relative_positions", count=1, entries=2 * span, width=hidden, rows=Rows.SEQUENCE))
    if "layer_norm" in config.text("norm_rel_ebd", default="none"):
        found.append(norm("relative_norm", 1, hidden, Rows.SEQUENCE))
    shared = config.flag("share_att_key")
    for kind in kinds:
        found.append(
            MatMul(
                name=f"{kind}_proj", count=layers, outputs=hidden, inputs=hidden, bias=True, rows=Rows.SEQUENCE,
                rows_each=2 * span, tied=shared,
            )
        )  # fmt: skip
        found.append(MatMul(name=f"{kind}_scores", count=layers, outputs=2 * span, inputs=hidden, tied=True))
    return found


def _modern_bert(config: Fields) -> tuple[Operator, ...]:
    hidden, layers = config.integer("hidden_size"), config.integer("num_hidden_layers")
    heads, inner = config.integer("num_attention_heads"), config.integer("intermediate_size")
    values = hidden * (2 if config.flag("norm_bias") else 1)
    types = config.texts("layer_types")
    every = config.integer("global_attn_every_n_layers", default=3) or 1
    full = sum(
        types[index] == "full_attention" if index < len(types) else index % every == 0 for index in range(layers)
    )
    window = config.integer("local_attention", default=128)
    attention_bias, mlp_bias = config.flag("attention_bias"), config.flag("mlp_bias")
    shape = (hidden, heads, inner, attention_bias, mlp_bias)
    return (
        Embedding(name="word_embeddings", count=1, entries=config.integer("vocab_size"), width=hidden),
        *(modern_blocks(full, None, *shape) if full else ()),
        *(modern_blocks(layers - full, window, *shape) if layers > full else ()),
        norm("layer_norms", 2 * layers + 1, hidden, Rows.TOKEN, values),  # the embedding's serves the first attention
    )


def image_encoder(config: Fields) -> tuple[Operator, ...]:
    """Operators of a vision transformer, per image."""
    hidden, layers = config.integer("hidden_size"), config.integer("num_hidden_layers")
    patch, channels = config.integer("patch_size"), config.integer("num_channels", default=3)
    side = config.integer("image_size")
    patches = (side // patch) ** 2
    extra = 3 if config.text("model_type") == "deit" else 2
    found: list[Operator] = [
        Convolution(
            name="patch_embeddings", count=1, channels_in=channels, channels_out=hidden, size=(side, side),
            kernel=(patch, patch), stride=(patch, patch), padding=(0, 0), dilation=(1, 1), bias=True,
        ),
        Embedding(name="position_embeddings", count=1, entries=patches + extra, width=hidden),
    ]  # fmt: skip
    if extra == 3:
        found.append(Embedding(name="distillation_position", count=1, entries=1, width=hidden))
    found += blocks(
        layers, hidden, config.integer("num_attention_heads"), config.integer("intermediate_size"), Rows.TOKEN
    )
    found.append(norm("final_norm", 1, hidden, Rows.TOKEN))
    if config.flag("add_pooling_layer", default=True):
        found.append(MatMul(name="pooler", count=1, outputs=hidden, inputs=hidden, bias=True, rows=Rows.SEQUENCE))
    return tuple(found)


def pair(config: Fields, family: str) -> tuple[Fields, tuple[Operator, ...]]:
    """The text configuration of CLIP or SigLIP, and the operators of both encoders.

    Raises:
        ModelError: one of the two is missing.
    """
    text, vision = part(config, family, "text_config"), part(config, family, "vision_config")
    if text is None or vision is None:
        raise ModelError(
            f"{config.source}: {family} lacks 'text_config' or 'vision_config'. "
            "Use the config.json that the model's authors published."
        )
    hidden = text.integer("hidden_size")
    found: list[Operator] = [
        Embedding(name="word_embeddings", count=1, entries=text.integer("vocab_size"), width=hidden),
        Embedding(
            name="position_embeddings", count=1, entries=text.integer("max_position_embeddings"), width=hidden
        ),
        *blocks(
            text.integer("num_hidden_layers"), hidden, text.integer("num_attention_heads"),
            text.integer("intermediate_size"), Rows.TOKEN,
        ),
        norm("final_norm", 1, hidden, Rows.TOKEN),
    ]  # fmt: skip
    if family == "siglip":
        outputs = text.integer("projection_size", default=hidden)
        found.append(MatMul(name="head", count=1, outputs=outputs, inputs=hidden, bias=True, rows=Rows.SEQUENCE))
        scales = 2
    else:
        outputs, scales = config.integer("projection_dim", default=512), 1
        seen = vision.integer("hidden_size")
        found.append(MatMul(name="text_projection", count=1, outputs=outputs, inputs=hidden, rows=Rows.SEQUENCE))
        found.append(MatMul(name="visual_projection", count=1, outputs=outputs, inputs=seen, rows=Rows.SEQUENCE))
    found.append(Pointwise(name="logit_scale", count=1, width=1, weights=scales, rows=Rows.SEQUENCE))
    return text, (*found, *plain_tower(vision))
