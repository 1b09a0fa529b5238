"""Decoders: from the keys of a text configuration to operators.

One reader serves all families, since they differ in which keys they carry rather than in kind; the
few facts that no key tells (a bias that one family always has, norms that another doubles) stand in
`families.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from profilers.huggingface import attention, feed_forward, state_space
from profilers.huggingface.dimensions import Dimensions
from profilers.huggingface.families import Mixer
from profilers.huggingface.fields import Fields
from profilers.huggingface.layers import FeedForward, Layer, layers_of
from profilers.huggingface.quantization import Quantization
from tuner.operators import Embedding, MatMul, Operator, Pointwise
from tuner.step import Rows, Split

_OTHER_MIXERS: Final[Mapping[Mixer, Callable[[Dimensions, int], list[Operator]]]] = {
    Mixer.DELTA: state_space.delta_rule,
    Mixer.LIGHTNING: state_space.lightning,
    Mixer.MAMBA: state_space.mamba,
    Mixer.MAMBA2: state_space.mamba2,
    Mixer.CONVOLUTION: state_space.short_convolution,
    Mixer.CROSS: attention.cross_attention,
}
"""All but attention of a sequence to itself."""


class Decoder:
    """A causal language model.

    Args:
        config: the text configuration, what it leaves out filled in.
        quantization: how its weights are stored.
        tied: whether the output layer shares the embedding.
    """

    def __init__(self, config: Fields, quantization: Quantization, tied: bool) -> None:
        self._config = config
        self._tied = tied
        self._dimensions = Dimensions(config, quantization)
        self._layers = layers_of(self._dimensions)
        self.family = self._dimensions.family
        self.hidden = self._dimensions.hidden
        self.layers = self._dimensions.layers

    @property
    def max_context(self) -> int | None:
        """Tokens of the longest sequence."""
        return self._config.optional("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What had to be supposed."""
        mixers = {mixer for layer in self._layers for mixer in layer.mixers}
        supposed = tuple(dict.fromkeys(text for mixer, text in state_space.SUPPOSED.items() if mixer in mixers))
        if self._dimensions.known:
            return supposed
        return (
            f"model_type {self.family!r} is not known: read as a pre-norm decoder with the keys it shares with others",
            *supposed,
        )

    def operators(self) -> tuple[Operator, ...]:
        """All operators, those of like layers together."""
        dimensions, hidden = self._dimensions, self.hidden
        kinds: dict[Layer, int] = {}
        for layer in self._layers:
            kinds[layer] = kinds.get(layer, 0) + 1
        found = self._embeddings()
        for layer, count in kinds.items():
            for mixer in layer.mixers:
                found += self._mixer(mixer, layer, count)
            found += self._feed_forward(layer, count)
        found += self._layer_inputs()
        norms = 1 if dimensions.has("joint") or self._is_joint_falcon() else dimensions.facts.norms
        halves = 1 if dimensions.facts.norms == 1 else 2
        found.append(dimensions.norm("layer_norms", self.layers * norms, hidden))
        found.append(Pointwise(name="residual_adds", count=halves * self.layers, width=hidden, reads=2.0))
        if dimensions.has("final_norm"):
            found.append(dimensions.norm("final_norm", 1, hidden))
        return (*found, *self._output())

    def _embeddings(self) -> list[Operator]:
        dimensions, hidden = self._dimensions, self.hidden
        width = self._embedded
        extra = 8 if self.family == "mllama_text_model" else 0  # tokens of images, without outputs
        found: list[Operator] = [
            Embedding(name="embed_tokens", count=1, entries=dimensions.vocabulary + extra, width=width)
        ]
        if width != hidden:
            found.append(MatMul(name="embed_project", count=1, outputs=hidden, inputs=width))
        if dimensions.facts.positions is not None:
            longest = self._config.integer("max_position_embeddings", "n_positions")
            entries = longest + dimensions.facts.positions
            found.append(Embedding(name="embed_positions", count=1, entries=entries, width=hidden))
        if dimensions.facts.embedding_norm:
            found.append(dimensions.norm("embedding_norm", 1, hidden))
        return found

    def _layer_inputs(self) -> list[Operator]:
        """What Gemma 4 adds to each layer: a second embedding of every token, a part of it for each layer."""
        config, hidden = self._config, self.hidden
        width = config.optional("hidden_size_per_layer_input")
        if width is None:
            return []
        dimensions, entries = self._dimensions, config.integer("vocab_size_per_layer_input")
        together = self.layers * width
        return [
            Embedding(name="embed_tokens_per_layer", count=1, entries=entries, width=together),
            MatMul(name="per_layer_model_projection", count=1, outputs=together, inputs=hidden),
            dimensions.norm("per_layer_projection_norm", 1, together, width),
            MatMul(name="per_layer_input_gate", count=self.layers, outputs=width, inputs=hidden),
            MatMul(name="per_layer_projection", count=self.layers, outputs=hidden, inputs=width),
            dimensions.norm("per_layer_norm", self.layers, hidden),
        ]

    def _output(self) -> list[Operator]:
        dimensions, hidden, width = self._dimensions, self.hidden, self._embedded
        found: list[Operator] = []
        if width != hidden:
            found.append(MatMul(name="output_project", count=1, outputs=width, inputs=hidden, rows=Rows.SEQUENCE))
        biased = dimensions.has("head_bias")
        found.append(
            MatMul(
                name="lm_head", count=1, outputs=dimensions.vocabulary, inputs=width, rows=Rows.SEQUENCE,
                split=Split.OUTPUT, tied=self._tied, bias=biased,
            )
        )  # fmt: skip
        if biased and self._tied:
            found.append(
                Pointwise(
                    name="lm_head_bias", count=1, width=dimensions.vocabulary, weights=dimensions.vocabulary,
                    rows=Rows.SEQUENCE, splits=True,
                )
            )  # fmt: skip
        return found

    @property
    def _embedded(self) -> int:
        """Width of an embedded token, which OPT-350m makes less than that of its layers."""
        return self._config.integer("word_embed_proj_dim", default=self.hidden)

    def _is_joint_falcon(self) -> bool:
        if self.family != "falcon" or not self._config.flag("parallel_attn"):
            return False
        norms = self._config.integer(
            "num_ln_in_parallel_attn", default=2 if self._config.flag("new_decoder_architecture") else 1
        )
        return norms < 2

    def _mixer(self, mixer: Mixer, layer: Layer, count: int) -> list[Operator]:
        dimensions = self._dimensions
        if mixer in _OTHER_MIXERS:
            return _OTHER_MIXERS[mixer](dimensions, count)
        if "kv_lora_rank" in self._config:
            return attention.latent_attention(dimensions, count)
        return attention.grouped_attention(dimensions, layer, count)

    def _feed_forward(self, layer: Layer, count: int) -> list[Operator]:
        dimensions = self._dimensions
        if layer.follows is FeedForward.NONE:
            return []
        if layer.follows is FeedForward.DENSE:
            return feed_forward.dense(dimensions, count, feed_forward.dense_inner(dimensions, layer))
        inner = feed_forward.dense_inner(dimensions, layer)
        beside = feed_forward.dense(dimensions, count, inner) if self.family == "gemma4_text" else []
        return beside + feed_forward.routed(dimensions, count)
