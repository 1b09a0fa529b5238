"""Softmax attention of a decoder: grouped heads, latent heads, attention to an image."""

from __future__ import annotations

from profilers.huggingface.dimensions import Dimensions
from profilers.huggingface.families import HeadNorm
from profilers.huggingface.layers import Layer
from tuner.operators import AllReduce, Attention, LatentAttention, MatMul, Operator, Pointwise
from tuner.step import Rows, Split


def grouped_attention(dimensions: Dimensions, layer: Layer, count: int) -> list[Operator]:
    """Query heads that share key and value heads."""
    config, hidden, heads = dimensions.config, dimensions.hidden, dimensions.heads
    head_dim, kv_heads, shares = dimensions.head_dim, dimensions.kv_heads, False
    if dimensions.family == "gemma4_text" and layer.full:
        head_dim, kv_heads = _heads_of_full_layers(dimensions)
        shares = config.flag("attention_k_eq_v")
    width, keys = heads * head_dim, kv_heads * head_dim
    projected = 0 if layer.reuses else keys * (1 if shares else 2)
    queries = width * (2 if dimensions.has("output_gate") else 1)
    where = "sliding" if layer.window else "full"
    format = dimensions.quantization.of("model.layers.0.self_attn.o_proj")
    found: list[Operator] = [
        MatMul(
            name="qkv_proj", count=count, outputs=queries + projected, inputs=hidden,
            split=Split.OUTPUT, format=format, bias=dimensions.has("qkv_bias"),
        ),
        *_head_norms(dimensions, layer, count, head_dim, keys),
    ]  # fmt: skip
    if dimensions.facts.positions is None:
        found.append(Pointwise(name="rotary", count=count, width=width + keys, splits=True))
    found += [
        Attention(
            name=f"{where}_attention", count=count, heads=heads, kv_heads=kv_heads, head_dim=head_dim,
            value_dim=head_dim, window=layer.window, sinks=dimensions.facts.sinks,
            keeps_cache=not layer.reuses,
        ),
        MatMul(
            name="o_proj", count=count, outputs=hidden, inputs=width, split=Split.INPUT, format=format,
            bias=dimensions.has("out_bias"),
        ),
        AllReduce(name="attention_all_reduce", count=count, width=hidden),
    ]  # fmt: skip
    return found


def _heads_of_full_layers(dimensions: Dimensions) -> tuple[int, int]:
    """Width and number of key heads where Gemma 4 attends to everything."""
    config = dimensions.config
    layers = config.fields("per_layer_config")
    of_layer = layers.fields(min(layers.names())) if layers is not None and layers.names() else None
    if of_layer is not None:
        kv_heads = of_layer.integer("num_key_value_heads", default=dimensions.kv_heads)
        return of_layer.integer("head_dim", default=dimensions.head_dim), kv_heads
    fewer = dimensions.kv_heads
    if config.flag("attention_k_eq_v"):
        fewer = config.integer("num_global_key_value_heads", default=fewer)
    return config.integer("global_head_dim", default=512), fewer


def _head_norms(dimensions: Dimensions, layer: Layer, count: int, head_dim: int, keys: int) -> list[Operator]:
    kind, width = dimensions.facts.head_norm, dimensions.heads * head_dim
    if kind is None or not dimensions.has("head_norm_if"):
        return []
    if kind is HeadNorm.SHARED:
        values = head_dim * dimensions.values_per_channel
        return [dimensions.norm("head_norms", (1 if layer.reuses else 2) * count, width, values)]
    return [
        dimensions.norm("query_norm", count, width, width),
        dimensions.norm("key_norm", count, keys, keys),
    ]


def latent_attention(dimensions: Dimensions, count: int) -> list[Operator]:
    """Heads whose keys and values come out of one latent (DeepSeek-V2, 2024, section 2.1)."""
    config, hidden, heads = dimensions.config, dimensions.hidden, dimensions.heads
    latent = config.integer("kv_lora_rank")
    rope, nope = config.integer("qk_rope_head_dim"), config.integer("qk_nope_head_dim")
    value = config.integer("v_head_dim", default=dimensions.hidden // heads)
    query_rank = config.optional("q_lora_rank")
    selected = config.optional("index_topk")
    format = dimensions.quantization.of("model.layers.0.self_attn.o_proj")
    down = latent + rope + (query_rank or 0)
    queries = heads * (nope + rope)
    biased = dimensions.has("qkv_bias")
    found: list[Operator] = [
        MatMul(name="qkv_a_proj", count=count, outputs=down, inputs=hidden, format=format, bias=biased),
        dimensions.norm("latent_norm", count, latent),
        MatMul(
            name="q_b_proj" if query_rank else "q_proj", count=count, outputs=queries,
            inputs=query_rank or hidden, split=Split.OUTPUT, format=format,
        ),
        MatMul(
            name="kv_b_proj", count=count, outputs=heads * (nope + value), inputs=latent, split=Split.OUTPUT,
            format=format,
        ),
    ]  # fmt: skip
    if query_rank:
        found.append(dimensions.norm("query_norm", count, query_rank))
    if selected:
        found += _indexer(dimensions, count, query_rank or hidden)
    found += [
        LatentAttention(
            name="latent_attention", count=count, heads=heads, latent_dim=latent, rope_dim=rope, nope_dim=nope,
            value_dim=value, selected=selected,
        ),
        MatMul(
            name="o_proj", count=count, outputs=hidden, inputs=heads * value, split=Split.INPUT, format=format,
            bias=biased,
        ),
        AllReduce(name="attention_all_reduce", count=count, width=hidden),
    ]  # fmt: skip
    return found


def _indexer(dimensions: Dimensions, count: int, query_rank: int) -> list[Operator]:
    """The learned selection of sparse latent attention (DeepSeek-V3.2)."""
    heads, width = dimensions.config.integer("index_n_heads"), dimensions.config.integer("index_head_dim")
    return [
        MatMul(name="indexer_q", count=count, outputs=heads * width, inputs=query_rank),
        MatMul(name="indexer_k", count=count, outputs=width, inputs=dimensions.hidden),
        MatMul(name="indexer_weights", count=count, outputs=heads, inputs=dimensions.hidden),
        dimensions.norm("indexer_norm", count, width, 2 * width),
    ]


def cross_attention(dimensions: Dimensions, count: int) -> list[Operator]:
    """Text that attends to an image (Llama 3.2 Vision); a request without one skips the whole layer but its weights."""
    hidden, head_dim = dimensions.hidden, dimensions.head_dim
    width, keys = dimensions.heads * head_dim, dimensions.kv_heads * head_dim
    format = dimensions.quantization.of("model.layers.0.cross_attn.o_proj")
    return [
        MatMul(name="cross.q_proj", count=count, outputs=width, inputs=hidden, rows=Rows.PATCH, format=format),
        MatMul(name="cross.kv_proj", count=count, outputs=2 * keys, inputs=hidden, rows=Rows.PATCH, format=format),
        MatMul(name="cross.o_proj", count=count, outputs=hidden, inputs=width, rows=Rows.PATCH, format=format),
        Pointwise(
            name="cross.head_norms", count=2 * count, width=width, weights=head_dim, rows=Rows.PATCH, normalizes=True
        ),
        Pointwise(name="cross.gates", count=2 * count, width=hidden, weights=1, rows=Rows.PATCH),
    ]  # fmt: skip
