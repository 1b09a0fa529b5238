"""Models of an encoder and a decoder that attends to it: T5 and BART."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from profilers.huggingface.fields import Fields
from tuner.operators import AllReduce, Attention, Embedding, MatMul, Operator, Pointwise
from tuner.step import Rows, Split

ENCODER_DECODERS: Final = frozenset({"bart", "mbart", "mt5", "t5", "umt5"})

SUPPOSED: Final = (
    "encoder-decoder: parameters are exact, but every step is timed as if its tokens passed both the encoder and the "
    "decoder, and both had the same length"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stack:
    """An encoder or a decoder.

    Attributes:
        crosses: whether it attends to the other one.
        values: learned values of a norm, per channel.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    head_dim: int
    inner: int
    gated: bool
    biased: bool
    crosses: bool
    values: int

    def operators(self) -> list[Operator]:
        """Of all layers."""
        found = self._attention("self", causal=self.crosses)
        if self.crosses:
            found += self._attention("cross", causal=False)
        return [
            *found,
            MatMul(
                name=f"{self.name}.up_proj", count=self.layers, outputs=(2 if self.gated else 1) * self.inner,
                inputs=self.hidden, bias=self.biased, split=Split.OUTPUT,
            ),
            Pointwise(
                name=f"{self.name}.activation", count=self.layers, width=self.inner, reads=2.0 if self.gated else 1.0,
                splits=True,
            ),
            MatMul(
                name=f"{self.name}.down_proj", count=self.layers, outputs=self.hidden, inputs=self.inner,
                bias=self.biased, split=Split.INPUT,
            ),
            AllReduce(name=f"{self.name}.mlp_all_reduce", count=self.layers, width=self.hidden),
            self.norm("layer_norms", self.layers * (3 if self.crosses else 2)),
        ]  # fmt: skip

    def _attention(self, kind: str, causal: bool) -> list[Operator]:
        width = self.heads * self.head_dim
        return [
            MatMul(
                name=f"{self.name}.{kind}_qkv", count=self.layers, outputs=3 * width, inputs=self.hidden,
                bias=self.biased, split=Split.OUTPUT,
            ),
            Attention(
                name=f"{self.name}.{kind}_attention", count=self.layers, heads=self.heads, kv_heads=self.heads,
                head_dim=self.head_dim, value_dim=self.head_dim, causal=causal, keeps_cache=self.crosses,
            ),
            MatMul(
                name=f"{self.name}.{kind}_o_proj", count=self.layers, outputs=self.hidden, inputs=width,
                bias=self.biased, split=Split.INPUT,
            ),
            AllReduce(name=f"{self.name}.{kind}_all_reduce", count=self.layers, width=self.hidden),
        ]  # fmt: skip

    def norm(self, name: str, count: int) -> Pointwise:
        """`count` norms of the width between layers."""
        return Pointwise(
            name=f"{self.name}.{name}", count=count, width=self.hidden, weights=self.values * self.hidden,
            normalizes=True,
        )  # fmt: skip


def encoder_decoder(config: Fields) -> tuple[tuple[Operator, ...], int]:
    """All operators, and how many layers there are."""
    family, hidden = config.text("model_type"), config.integer("d_model")
    vocabulary = config.integer("vocab_size")
    stacks = _bart(config, hidden) if family in ("bart", "mbart") else _t5(config, hidden)
    found: list[Operator] = [Embedding(name="shared", count=1, entries=vocabulary, width=hidden)]
    for stack in stacks:
        found += _surroundings(config, family, stack)
        found += stack.operators()
    found.append(
        MatMul(
            name="lm_head", count=1, outputs=vocabulary, inputs=hidden, rows=Rows.SEQUENCE, split=Split.OUTPUT,
            tied=config.flag("tie_word_embeddings", default=True),
        )
    )  # fmt: skip
    return tuple(found), sum(stack.layers for stack in stacks)


def _surroundings(config: Fields, family: str, stack: _Stack) -> list[Operator]:
    """Positions of a stack, and norms before and after its layers."""
    if family in ("bart", "mbart"):
        entries = config.integer("max_position_embeddings") + 2
        norms = 1 if family == "bart" else 2
        positions = Embedding(name=f"{stack.name}.positions", count=1, entries=entries, width=stack.hidden)
        return [positions, stack.norm("outer_norms", norms)]
    buckets = config.integer("relative_attention_num_buckets", default=32)
    biases = stack.layers if family == "umt5" else 1
    return [
        Embedding(
            name=f"{stack.name}.relative_positions", count=biases, entries=buckets, width=stack.heads,
            rows=Rows.SEQUENCE,
        ),
        stack.norm("final_norm", 1),
    ]  # fmt: skip


def _bart(config: Fields, hidden: int) -> tuple[_Stack, ...]:
    stacks = []
    for name in ("encoder", "decoder"):
        heads = config.integer(f"{name}_attention_heads")
        stacks.append(
            _Stack(
                name=name, layers=config.integer(f"{name}_layers"), hidden=hidden, heads=heads,
                head_dim=hidden // heads, inner=config.integer(f"{name}_ffn_dim"), gated=False, biased=True,
                crosses=name == "decoder", values=2,
            )
        )  # fmt: skip
    return tuple(stacks)


def _t5(config: Fields, hidden: int) -> tuple[_Stack, ...]:
    layers = config.integer("num_layers")
    counts = {"encoder": layers, "decoder": config.optional("num_decoder_layers") or layers}
    return tuple(
        _Stack(
            name=name, layers=count, hidden=hidden, heads=config.integer("num_heads"), head_dim=config.integer("d_kv"),
            inner=config.integer("d_ff"), gated=config.text("feed_forward_proj").startswith("gated"), biased=False,
            crosses=name == "decoder", values=1,
        )
        for name, count in counts.items()
    )  # fmt: skip
