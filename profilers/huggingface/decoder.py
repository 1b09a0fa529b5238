"""Decoders: from the keys of a text configuration to operators.

One reader serves all families, since they differ in which keys they carry rather than in kind; the
few facts that no key tells (a bias that one family always has, norms that another doubles) stand in
the tables at the top.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from profilers.huggingface.fields import Fields
from profilers.huggingface.quantization import Quantization
from tuner.operators import (
    AllReduce,
    Attention,
    Embedding,
    Experts,
    LatentAttention,
    LinearAttention,
    MatMul,
    Operator,
    Pointwise,
)
from tuner.step import NumberFormat, Rows, Split

QKV_BIAS: Final = frozenset({"qwen2", "qwen2_moe"})
"""Families whose query, key and value projections have a bias whatever `attention_bias` says."""

HEAD_NORMS: Final = frozenset(
    {"qwen3", "qwen3_moe", "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "gemma3_text", "gemma4_text"}
)
"""Families that normalise each query and key head."""

SANDWICH_NORMS: Final = frozenset({"gemma2", "gemma3_text", "gemma4_text"})
"""Families with four norms per layer."""

KNOWN: Final = (
    HEAD_NORMS
    | SANDWICH_NORMS
    | QKV_BIAS
    | frozenset(
        {
            "llama", "mistral", "mixtral", "gemma", "phi3", "deepseek_v2", "deepseek_v3", "deepseek_v32", "kimi_k2",
            "glm_moe_dsa", "glm4_moe", "minimax_m2", "gpt_oss", "granite", "smollm3", "ministral",
        }
    )
)  # fmt: skip
"""Families whose parameter counts were checked, or that have the shape of one that was."""


@dataclass(frozen=True, slots=True)
class _Layer:
    """What tells one layer from another."""

    linear: bool
    window: int | None
    full: bool
    sparse: bool


class Decoder:
    """A causal language model.

    Args:
        config: the text configuration.
        quantization: how its weights are stored.
        tied: whether the output layer shares the embedding.
    """

    def __init__(self, config: Fields, quantization: Quantization, tied: bool) -> None:
        self._config = config
        self._quantization = quantization
        self._tied = tied
        self.family = config.text("model_type", default="unknown")
        self.hidden = config.integer("hidden_size", "n_embd", "d_model")
        self.layers = config.integer("num_hidden_layers", "n_layer", "num_layers")
        self.vocabulary = config.integer("vocab_size")
        self.heads = config.integer("num_attention_heads", "n_head")
        self.kv_heads = config.integer("num_key_value_heads", default=self.heads)
        self.head_dim = config.integer("head_dim", default=self.hidden // self.heads)
        self.inner = config.integer("intermediate_size", "n_inner", default=4 * self.hidden)
        self.experts = config.optional("num_experts", "num_local_experts", "n_routed_experts")
        self.chosen = config.integer(
            "num_experts_per_tok", "experts_per_token", "top_k_experts", default=2 if self.experts else 0
        )
        if self.experts is not None and not config.flag("enable_moe_block", default=True):
            self.experts = None
        self.gemma4 = self.family == "gemma4_text"

    @property
    def max_context(self) -> int | None:
        """Tokens of the longest sequence."""
        return self._config.optional("max_position_embeddings", "n_positions")

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What had to be supposed."""
        if self.family in KNOWN:
            return ()
        return (
            f"model_type {self.family!r} is not known: read as a pre-norm decoder with the keys it shares with others",
        )

    def operators(self) -> tuple[Operator, ...]:
        """All operators, those of like layers together."""
        config, hidden = self._config, self.hidden
        kinds: dict[_Layer, int] = {}
        for layer in self._layer_kinds():
            kinds[layer] = kinds.get(layer, 0) + 1
        found: list[Operator] = [Embedding(name="embed_tokens", count=1, entries=self.vocabulary, width=hidden)]
        for layer, count in kinds.items():
            found += self._mixer(layer, count)
            found += self._feed_forward(layer, count)
        norms = 4 if self.family in SANDWICH_NORMS else 2
        found.append(_norm("layer_norms", self.layers * norms, hidden))
        found.append(Pointwise(name="residual_adds", count=2 * self.layers, width=hidden, reads=2.0))
        found.append(_norm("final_norm", 1, hidden))
        found.append(
            MatMul(
                name="lm_head", count=1, outputs=self.vocabulary, inputs=hidden, rows=Rows.SEQUENCE,
                split=Split.OUTPUT, tied=self._tied, bias=config.flag("lm_head_bias"),
            )
        )  # fmt: skip
        return tuple(found)

    def _layer_kinds(self) -> list[_Layer]:
        config = self._config
        window = config.optional("sliding_window")
        types = config.texts("layer_types")
        interval = config.optional("full_attention_interval")
        pattern = config.optional("sliding_window_pattern", "_sliding_window_pattern")
        if not types and config.flag("use_sliding_window", default=True) is False:
            window = None
        dense_first = config.integer("first_k_dense_replace", default=0)
        dense_only = set(config.integers("mlp_only_layers"))
        stride = config.integer("decoder_sparse_step", "moe_layer_freq", default=1) or 1
        kinds = []
        for index in range(self.layers):
            if types and index < len(types):
                kind = types[index]
            elif interval and "linear_num_value_heads" in config:
                kind = "full_attention" if (index + 1) % interval == 0 else "linear_attention"
            elif window and (pattern or self.family == "gemma2"):
                kind = "full_attention" if (index + 1) % (pattern or 2) == 0 else "sliding_attention"
            else:
                kind = "sliding_attention" if window else "full_attention"
            sparse = (
                self.experts is not None
                and index >= dense_first
                and index not in dense_only
                and (index + 1) % stride == 0
            )
            sliding = kind == "sliding_attention"
            kinds.append(
                _Layer(
                    linear=kind == "linear_attention",
                    window=window if sliding else None,
                    full=not sliding,
                    sparse=sparse,
                )
            )
        return kinds

    def _mixer(self, layer: _Layer, count: int) -> list[Operator]:
        if layer.linear:
            return self._linear_attention(count)
        if "kv_lora_rank" in self._config:
            return self._latent_attention(count)
        return self._attention(layer, count)

    def _attention(self, layer: _Layer, count: int) -> list[Operator]:
        config, hidden = self._config, self.hidden
        head_dim, kv_heads, shares = self.head_dim, self.kv_heads, False
        if self.gemma4 and layer.full:
            head_dim = config.integer("global_head_dim", default=head_dim)
            kv_heads = config.integer("num_global_key_value_heads", default=kv_heads)
            shares = config.flag("attention_k_eq_v")
        biased = config.flag("attention_bias", "bias")
        queries = (
            self.heads * head_dim * (2 if config.flag("attn_output_gate", default=self.family == "qwen3_next") else 1)
        )
        keys = kv_heads * head_dim
        outputs = queries + keys * (1 if shares else 2)
        where = "sliding" if layer.window else "full"
        format = self._quantization.of("model.layers.0.self_attn.o_proj")
        found: list[Operator] = [
            MatMul(
                name="qkv_proj", count=count, outputs=outputs, inputs=hidden, split=Split.OUTPUT, format=format,
                bias=biased or self.family in QKV_BIAS,
            )
        ]  # fmt: skip
        if self.family in HEAD_NORMS:
            found.append(_norm("head_norms", 2 * count, self.heads * head_dim, weights=head_dim))
        if self.family == "minimax_m2" and config.flag("use_qk_norm", default=True):
            found.append(_norm("query_norm", count, self.heads * head_dim))
            found.append(_norm("key_norm", count, keys))
        found.append(Pointwise(name="rotary", count=count, width=self.heads * head_dim + keys, splits=True))
        found.append(
            Attention(
                name=f"{where}_attention", count=count, heads=self.heads, kv_heads=kv_heads, head_dim=head_dim,
                value_dim=head_dim, window=layer.window, sinks=self.family == "gpt_oss",
            )
        )  # fmt: skip
        found.append(
            MatMul(
                name="o_proj", count=count, outputs=hidden, inputs=self.heads * head_dim, split=Split.INPUT,
                format=format, bias=biased and self.family not in QKV_BIAS,
            )
        )  # fmt: skip
        found.append(AllReduce(name="attention_all_reduce", count=count, width=hidden))
        return found

    def _latent_attention(self, count: int) -> list[Operator]:
        config, hidden, heads = self._config, self.hidden, self.heads
        latent = config.integer("kv_lora_rank")
        rope, nope = config.integer("qk_rope_head_dim"), config.integer("qk_nope_head_dim")
        value = config.integer("v_head_dim")
        query_rank = config.optional("q_lora_rank")
        selected = config.optional("index_topk")
        format = self._quantization.of("model.layers.0.self_attn.o_proj")
        down = latent + rope + (query_rank or 0)
        queries = heads * (nope + rope)
        found: list[Operator] = [
            MatMul(name="qkv_a_proj", count=count, outputs=down, inputs=hidden, format=format),
            _norm("latent_norm", count, latent),
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
            found.append(_norm("query_norm", count, query_rank))
        if selected:
            found += self._indexer(count, query_rank or hidden)
        found += [
            LatentAttention(
                name="latent_attention", count=count, heads=heads, latent_dim=latent, rope_dim=rope, nope_dim=nope,
                value_dim=value, selected=selected,
            ),
            MatMul(
                name="o_proj", count=count, outputs=hidden, inputs=heads * value, split=Split.INPUT, format=format
            ),
            AllReduce(name="attention_all_reduce", count=count, width=hidden),
        ]  # fmt: skip
        return found

    def _indexer(self, count: int, query_rank: int) -> list[Operator]:
        """The learned selection of sparse latent attention (DeepSeek-V3.2)."""
        heads, width = self._config.integer("index_n_heads"), self._config.integer("index_head_dim")
        return [
            MatMul(name="indexer_q", count=count, outputs=heads * width, inputs=query_rank),
            MatMul(name="indexer_k", count=count, outputs=width, inputs=self.hidden),
            MatMul(name="indexer_weights", count=count, outputs=heads, inputs=self.hidden),
            _norm("indexer_norm", count, width, weights=2 * width),
        ]

    def _linear_attention(self, count: int) -> list[Operator]:
        config, hidden = self._config, self.hidden
        mixer = LinearAttention(
            name="gated_delta_rule", count=count,
            key_heads=config.integer("linear_num_key_heads"), value_heads=config.integer("linear_num_value_heads"),
            key_dim=config.integer("linear_key_head_dim"), value_dim=config.integer("linear_value_head_dim"),
            kernel=config.integer("linear_conv_kernel_dim", default=4),
        )  # fmt: skip
        values = mixer.value_heads * mixer.value_dim
        format = self._quantization.of("model.layers.0.linear_attn.out_proj")
        return [
            MatMul(
                name="in_proj_qkvz", count=count, outputs=mixer.convolved + values, inputs=hidden,
                split=Split.OUTPUT, format=format,
            ),
            MatMul(name="in_proj_ba", count=count, outputs=2 * mixer.value_heads, inputs=hidden, split=Split.OUTPUT),
            mixer,
            _norm("gated_norm", count, values, weights=mixer.value_dim),
            MatMul(
                name="out_proj", count=count, outputs=hidden, inputs=values, split=Split.INPUT, format=format
            ),
            AllReduce(name="attention_all_reduce", count=count, width=hidden),
        ]  # fmt: skip

    def _feed_forward(self, layer: _Layer, count: int) -> list[Operator]:
        if not layer.sparse:
            return self._dense(count, self.inner, "mlp")
        found = self._dense(count, self.inner, "mlp") if self.gemma4 else []
        return found + self._experts(count)

    def _dense(self, count: int, inner: int, name: str, reduced: bool = True) -> list[Operator]:
        hidden, biased = self.hidden, self._config.flag("mlp_bias")
        format = self._quantization.of(f"model.layers.0.{name}.down_proj")
        found: list[Operator] = [
            MatMul(
                name=f"{name}.gate_up_proj", count=count, outputs=2 * inner, inputs=hidden, split=Split.OUTPUT,
                format=format, bias=biased,
            ),
            Pointwise(name=f"{name}.activation", count=count, width=inner, reads=2.0, splits=True),
            MatMul(
                name=f"{name}.down_proj", count=count, outputs=hidden, inputs=inner, split=Split.INPUT,
                format=format, bias=biased,
            ),
        ]  # fmt: skip
        if reduced:
            found.append(AllReduce(name=f"{name}_all_reduce", count=count, width=hidden))
        return found

    def _experts(self, count: int) -> list[Operator]:
        config, hidden = self._config, self.hidden
        assert self.experts is not None
        inner = config.integer("moe_intermediate_size", default=self.inner)
        biased = self.family == "gpt_oss"
        found: list[Operator] = [MatMul(name="router", count=count, outputs=self.experts, inputs=hidden, bias=biased)]
        if self.gemma4:
            found.append(_norm("router_scale", count, hidden, weights=hidden + self.experts))
            found.append(_norm("expert_norms", 3 * count, hidden))
        found.append(
            Experts(
                name="experts", count=count, experts=self.experts, chosen=self.chosen, hidden=hidden, inner=inner,
                bias=biased, format=self._quantization.of("model.layers.0.mlp.experts.0"),
            )
        )  # fmt: skip
        shared = config.optional("shared_expert_intermediate_size", "shared_intermediate_size")
        if shared is None:
            shared = config.integer("n_shared_experts", "num_shared_experts", default=0) * inner or None
        elif self.family in ("qwen2_moe", "qwen3_next", "qwen3_5_moe_text"):
            found.append(MatMul(name="shared_expert_gate", count=count, outputs=1, inputs=hidden))
        if shared is not None:
            found += self._dense(count, shared, "mlp.shared_experts", reduced=False)
        found.append(AllReduce(name="experts_all_reduce", count=count, width=hidden, after_experts=True))
        return found


def _norm(name: str, count: int, width: int, weights: int | None = None) -> Pointwise:
    return Pointwise(
        name=name, count=count, width=width, weights=width if weights is None else weights, normalizes=True
    )


def cache_format(config: Fields) -> NumberFormat:
    """How keys and values are cached if nothing is set: 16 bits, unless the checkpoint says otherwise."""
    stated = config.fields("quantization_config")
    scheme = stated.fields("kv_cache_scheme") if stated is not None else None
    return NumberFormat.FP8 if scheme is not None and scheme.integer("num_bits", default=16) == 8 else NumberFormat.BF16
