"""Encoders: BERT and its kin, and vision transformers."""

from __future__ import annotations

from typing import Final

from profilers.huggingface.fields import Fields
from tuner.operators import Attention, Embedding, MatMul, Operator, Pointwise
from tuner.step import Rows, Split
from tuner.traced_operators import Convolution

TEXT_ENCODERS: Final = frozenset({"bert", "roberta", "xlm-roberta", "camembert", "distilbert", "electra", "mpnet"})
"""Families with learned positions and a norm after each half of a layer."""


def text_encoder(config: Fields) -> tuple[Operator, ...]:
    """Operators of a BERT-like encoder, its pooler included where the family has one."""
    family = config.text("model_type")
    hidden = config.integer("hidden_size", "dim")
    layers = config.integer("num_hidden_layers", "n_layers")
    embedded = config.integer("embedding_size", default=hidden)
    types = 0 if family in ("distilbert", "mpnet") else config.integer("type_vocab_size", default=2)
    found: list[Operator] = [
        Embedding(name="word_embeddings", count=1, entries=config.integer("vocab_size"), width=embedded),
        Embedding(
            name="position_embeddings", count=1, entries=config.integer("max_position_embeddings"), width=embedded
        ),
        _norm("embedding_norm", 1, embedded, Rows.TOKEN),
    ]
    if types:
        found.append(Embedding(name="token_type_embeddings", count=1, entries=types, width=embedded))
    if embedded != hidden:
        found.append(MatMul(name="embeddings_project", count=1, outputs=hidden, inputs=embedded, bias=True))
    heads = config.integer("num_attention_heads", "n_heads")
    inner = config.integer("intermediate_size", "hidden_dim")
    found += blocks(layers, hidden, heads, inner, Rows.TOKEN)
    if family not in ("distilbert", "electra"):
        found.append(MatMul(name="pooler", count=1, outputs=hidden, inputs=hidden, bias=True, rows=Rows.SEQUENCE))
    return tuple(found)


def image_encoder(config: Fields) -> tuple[Operator, ...]:
    """Operators of a vision transformer, per image."""
    hidden, layers = config.integer("hidden_size"), config.integer("num_hidden_layers")
    patch, channels = config.integer("patch_size"), config.integer("num_channels", default=3)
    side = config.integer("image_size")
    patches = (side // patch) ** 2
    found: list[Operator] = [
        Convolution(
            name="patch_embeddings", count=1, channels_in=channels, channels_out=hidden, size=(side, side),
            kernel=(patch, patch), stride=(patch, patch), padding=(0, 0), dilation=(1, 1), bias=True,
        ),
        Embedding(name="position_embeddings", count=1, entries=patches + 2, width=hidden),
    ]  # fmt: skip
    found += blocks(
        layers, hidden, config.integer("num_attention_heads"), config.integer("intermediate_size"), Rows.TOKEN
    )
    found.append(_norm("final_norm", 1, hidden, Rows.TOKEN))
    if config.flag("add_pooling_layer", default=True):
        found.append(MatMul(name="pooler", count=1, outputs=hidden, inputs=hidden, bias=True, rows=Rows.SEQUENCE))
    return tuple(found)


def blocks(
    layers: int, hidden: int, heads: int, inner: int, rows: Rows, norms: int = 2, biased_attention: bool = True
) -> list[Operator]:
    """`layers` encoder blocks with biases and two norms."""
    head_dim = hidden // heads
    return [
        MatMul(
            name="qkv", count=layers, outputs=3 * hidden, inputs=hidden, bias=biased_attention, rows=rows,
            split=Split.OUTPUT,
        ),
        Attention(
            name="self_attention", count=layers, heads=heads, kv_heads=heads, head_dim=head_dim, value_dim=head_dim,
            causal=False, rows=rows, keeps_cache=False,
        ),
        MatMul(
            name="attention_output", count=layers, outputs=hidden, inputs=hidden, bias=biased_attention, rows=rows,
            split=Split.INPUT,
        ),
        MatMul(
            name="intermediate", count=layers, outputs=inner, inputs=hidden, bias=True, rows=rows, split=Split.OUTPUT
        ),
        Pointwise(name="activation", count=layers, width=inner, rows=rows, splits=True),
        MatMul(name="output", count=layers, outputs=hidden, inputs=inner, bias=True, rows=rows, split=Split.INPUT),
        _norm("layer_norms", norms * layers, hidden, rows),
    ]  # fmt: skip


def _norm(name: str, count: int, width: int, rows: Rows) -> Pointwise:
    return Pointwise(name=name, count=count, width=width, weights=2 * width, rows=rows, normalizes=True)
