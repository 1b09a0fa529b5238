"""What all layers of a decoder share: its sizes, its family's departures, how its weights are stored."""

from __future__ import annotations

from profilers.huggingface.families import FAMILIES, Family, holds
from profilers.huggingface.fields import Fields
from profilers.huggingface.quantization import Quantization
from tuner.errors import ModelError
from tuner.operators import Pointwise

_UNKNOWN = Family(qkv_bias="attention_bias", out_bias="attention_bias")


class Dimensions:
    """Sizes of a decoder.

    Args:
        config: the text configuration, what it leaves out filled in.
        quantization: how its weights are stored.

    Raises:
        ModelError: a size is missing, or is none.
    """

    def __init__(self, config: Fields, quantization: Quantization) -> None:
        self.config = config
        self.quantization = quantization
        self.family = config.text("model_type", default="unknown")
        self.known = self.family in FAMILIES
        self.facts = FAMILIES.get(self.family, _UNKNOWN)
        self.hidden = config.integer("hidden_size", "n_embd", "d_model", "n_embed")
        self.layers = self._layers()
        self.vocabulary = config.integer("vocab_size")
        self.heads = 0
        self.kv_heads = 0
        self.head_dim = 0
        if self.family not in ("mamba", "mamba2", "falcon_mamba"):
            self.heads = config.integer("num_attention_heads", "n_head", "n_heads", "num_heads")
            self.kv_heads = self._kv_heads()
            self.head_dim = config.integer("head_dim", "attention_head_dim", default=self.hidden // self.heads)
        self.inner = self._inner()
        experts = config.optional("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
        self.experts = experts if config.flag("enable_moe_block", default=True) else None
        self.chosen = config.integer(
            "num_experts_per_tok",
            "experts_per_token",
            "top_k_experts",
            "moe_k",
            "moe_topk",
            default=2 if experts else 0,
        )
        if self.family == "jamba" and experts == 1:
            self.experts = None
        if self.experts is not None and self.chosen > self.experts:
            raise ModelError(
                f"{config.source}: {self.chosen} of {self.experts} experts serve a token. "
                "Choose no more than there are."
            )

    def has(self, fact: str) -> bool:
        """Whether a switch of the family is on."""
        return holds(getattr(self.facts, fact), self.config)

    @property
    def values_per_channel(self) -> int:
        """Learned values of a norm, per channel."""
        return self.facts.norm_values if self.has("norm_weights") else 0

    def norm(self, name: str, count: int, width: int, values: int | None = None) -> Pointwise:
        """`count` norms in the family's kind, of `values` learned values each."""
        weights = width * self.values_per_channel if values is None else values
        return Pointwise(name=name, count=count, width=width, weights=weights, normalizes=True)

    def _layers(self) -> int:
        config = self.config
        if self.family == "nemotron_h":
            listed = len(config.text("hybrid_override_pattern")) or len(config.texts("layers_block_type"))
            if listed:
                return listed
        return config.integer("num_hidden_layers", "n_layer", "n_layers", "num_layers")

    def _kv_heads(self) -> int:
        config = self.config
        if self.family == "falcon" and config.flag("new_decoder_architecture"):
            return config.integer("num_kv_heads", default=self.heads)
        if self.family in ("falcon", "gpt_bigcode") and config.flag("multi_query"):
            return 1
        if self.family in ("falcon", "gpt_bigcode", "mpt"):
            return self.heads
        return config.integer("num_key_value_heads", default=self.heads)

    def _inner(self) -> int:
        config = self.config
        names = ("intermediate_size", "n_inner", "ffn_hidden_size", "ffn_dim")
        inner = config.integer(*names, default=4 * self.hidden)
        if self.family == "lfm2" and config.flag("block_auto_adjust_ff_dim"):
            multiple = config.optional("block_multiple_of") or 256
            inner = int(config.number("block_ffn_dim_multiplier", default=1.0) * int(2 * inner / 3))
            inner = multiple * -(-inner // multiple)
        return inner
